"""How much of its score a checkpoint keeps on corrupted images and with fewer cameras.

Mean corruption error (mCE) and mean resilience rate (mRR) as of Xie et al., "RoboBEV: towards
robust bird's eye view perception under corruptions", 2023, section 3. The score is IoU at 0.5,
'visible', in all known cells, those that no camera sees included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bev_perception.errors import ConfigError
from bev_perception.views import ViewSet
from bev_training.evaluation.calibration import plain_number
from bev_training.evaluation.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    check_corruptions,
    corrupt,
    lose_cameras,
)
from bev_training.metrics import Scores

Change = Callable[[ViewSet, str], ViewSet]  # (images, the sample's name) -> images
Progress = Callable[[int, int], None]  # (samples done, of)


class Score(Protocol):
    """Scores a checkpoint on a set whose images were changed."""

    def __call__(self, change: Change, progress: Progress) -> Scores:
        """Return the scores; `progress` is told of each sample."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Robustness:
    """Scores of one checkpoint on one set, changed in every way.

    Attributes:
        seed: of the changes.
        clean: scores of the images as they are.
        corrupted: by corruption and severity; all of the same severities.
        lost: by number of cameras that are missing, from 0 (the clean scores).
    """

    seed: int
    clean: Scores
    corrupted: Mapping[str, Mapping[int, Scores]]
    lost: Mapping[int, Scores]

    def as_json(self) -> dict[str, Any]:
        """Return plain values.

        {'seed': of the changes,
         'clean': see `Scores.as_json`,
         'corrupted': {CORRUPTION: {'1': as 'clean', ...}},
         'lost': {'0': as 'clean', '1': ...},
         'mrr': see `Ratios.as_json`}
        """
        return {
            'seed': self.seed,
            'clean': self.clean.as_json(),
            'corrupted': {
                name: {str(severity): scores.as_json() for severity, scores in of.items()}
                for name, of in self.corrupted.items()
            },
            'lost': {str(count): scores.as_json() for count, scores in self.lost.items()},
            'mrr': mrr(self).as_json(),
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Ratios:
    """A ratio by corruption and class, and its means; NaN where it has no value.

    Attributes:
        by_corruption: corruption -> class -> ratio over its severities.
        by_class: class -> mean over the corruptions that have a value.
        mean: over the classes that have a value.
    """

    by_corruption: Mapping[str, Mapping[str, float]]
    by_class: Mapping[str, float]
    mean: float

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain values, None for NaN."""
        return {
            'mean': plain_number(self.mean),
            'by_class': {name: plain_number(value) for name, value in self.by_class.items()},
            'by_corruption': {
                corruption: {name: plain_number(value) for name, value in by_class.items()}
                for corruption, by_class in self.by_corruption.items()
            },
        }


def run_robustness(
    score: Score,
    *,
    cameras: int,
    clean: Scores | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = tuple(SEVERITIES),
    lost: Sequence[int] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Robustness:
    """Score a checkpoint on clean, on corrupted and on missing images.

    Args:
        score: asked once for each way; every time of the same samples.
        cameras: of the rig.
        clean: scores of the images as they are, where they are known already; None asks for them.
        corruptions: names; None takes all that the rig can have (one camera cannot crash and
            leave another).
        severities: 1 easy, 2 mid, 3 hard.
        lost: numbers of missing cameras; None takes 1 to all but one.
        seed: of the changes.
        progress: called with (what is scored, samples done, of).

    Raises:
        ConfigError: a corruption, severity or number of cameras is not known or cannot be; it is
            raised before anything is scored. Or see `score`.
    """
    if corruptions is None:
        corruptions = [name for name in CORRUPTIONS if cameras > 1 or name != 'camera_crash']
    check_corruptions(corruptions, severities)
    if cameras < 2 and 'camera_crash' in corruptions:
        raise ConfigError(f'camera_crash needs two cameras or more, the rig has {cameras}')
    lost = range(1, cameras) if lost is None else lost
    for count in lost:
        if not 0 <= count < cameras:
            raise ConfigError(
                f'{count} lost cameras of a rig of {cameras}; it must be 0 to {cameras - 1}'
            )
    if seed < 0:
        raise ConfigError(f'seed is {seed}; it must be 0 or more')

    def run(what: str, change: Change) -> Scores:
        return score(change, lambda done, total: progress(what, done, total))

    if clean is None:
        clean = run('clean', lambda view_set, key: view_set)
    corrupted = {
        name: {
            severity: run(f'{name} {severity}', _corrupting(name, severity, seed))
            for severity in sorted(set(severities))
        }
        for name in dict.fromkeys(corruptions)
    }
    by_count = {0: clean}
    for count in sorted(set(lost) - {0}):
        said = f'{count} of {cameras} cameras lost'
        by_count[count] = run(said, _losing(count, seed))
    return Robustness(seed=seed, clean=clean, corrupted=corrupted, lost=by_count)


def mrr(of: Robustness) -> Ratios:
    """Return the resilience rate: mean score over a corruption's severities / clean score.

    1 where nothing is lost; there is none (NaN) of a class that the truth lacks or whose clean
    score is 0.
    """
    clean = {name: of.clean.iou(name) for name in of.clean.classes}
    return _ratios(
        {
            corruption: {
                name: _ratio(_mean([s.iou(name) for s in by_severity.values()]), clean[name])
                for name in of.clean.classes
            }
            for corruption, by_severity in of.corrupted.items()
        },
        of.clean.classes,
    )


def mce(of: Robustness, baseline: Robustness) -> Ratios:
    """Return the corruption error: sum over severities of 1 - score, over the baseline's sum.

    Below 1 where `of` is the better one; there is none (NaN) of a class that the truth lacks or
    in which the baseline makes no error.

    Raises:
        ConfigError: the baseline is of other classes, samples, corruptions, severities or seed.
    """
    for what, own, other in (
        ('classes', of.clean.classes, baseline.clean.classes),
        ('number of samples', of.clean.samples, baseline.clean.samples),
        ('corruptions and severities', _names(of), _names(baseline)),
        ('seed', of.seed, baseline.seed),
    ):
        if own != other:
            raise ConfigError(
                f'corruption errors need the same {what} of both: {own}, the baseline {other}'
            )
    return _ratios(
        {
            corruption: {
                name: _ratio(
                    _mean([1 - s.iou(name) for s in by_severity.values()]),
                    _mean([1 - s.iou(name) for s in baseline.corrupted[corruption].values()]),
                )
                for name in of.clean.classes
            }
            for corruption, by_severity in of.corrupted.items()
        },
        of.clean.classes,
    )


def _corrupting(name: str, severity: int, seed: int) -> Change:
    return lambda view_set, key: corrupt(view_set, name, severity, key=key, seed=seed)


def _losing(count: int, seed: int) -> Change:
    return lambda view_set, key: lose_cameras(view_set, count, key=key, seed=seed)


def _ratios(by_corruption: dict[str, dict[str, float]], classes: Sequence[str]) -> Ratios:
    by_class = {
        name: _mean_of_known([by[name] for by in by_corruption.values()]) for name in classes
    }
    return Ratios(
        by_corruption=by_corruption,
        by_class=by_class,
        mean=_mean_of_known([*by_class.values()]),
    )


def _names(of: Robustness) -> dict[str, tuple[int, ...]]:
    return {name: tuple(by_severity) for name, by_severity in sorted(of.corrupted.items())}


def _ratio(value: float, of: float) -> float:
    return value / of if of else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _mean_of_known(values: Sequence[float]) -> float:
    return _mean([value for value in values if not math.isnan(value)])
