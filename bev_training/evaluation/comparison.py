"""Two checkpoints on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bev_perception.errors import ConfigError
from bev_training.evaluation.bootstrap import (
    LEAST_SCENES,
    LEVEL,
    RESAMPLES,
    SEED,
    Difference,
    paired_bootstrap,
    units_of,
)
from bev_training.evaluation.calibration import plain_number
from bev_training.evaluation.evaluate import Evaluation
from bev_training.metrics import Scores


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """How much better the first of two checkpoints is.

    Attributes:
        other: path of the second one.
        trained_on: what that was trained on.
        by_class: differences of pooled IoU ('visible', at 0.5, known cells) of the classes that
            both tell.
        drawn: what the intervals come from: 'scenes' or 'samples'.
        count: number of these.
        beside: scores of what needs no network.
    """

    other: str
    trained_on: str
    by_class: Mapping[str, Difference]
    drawn: str
    count: int
    beside: Mapping[str, Scores] = field(default_factory=dict)

    def how(self) -> str:
        """Return how the intervals were found."""
        what = 'whole scenes' if self.drawn == 'scenes' else 'single samples'
        said = (
            f'{LEVEL:.0%} intervals from {RESAMPLES} resamples of {what} '
            f'({self.count} of them), seed {SEED}; clear: zero is outside of the interval'
        )
        if self.drawn == 'samples':
            said += (
                f'. With fewer than {LEAST_SCENES} scenes single samples are drawn; those of a '
                'scene are alike, so these intervals are too narrow'
            )
        return said

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return (head, rows) of a table; its last columns are IoU of what needs no network."""
        head = ['class', 'this', 'other', 'difference', 'from', 'to', 'clear', *self.beside]
        rows = []
        for name, of in self.by_class.items():
            if math.isnan(of.difference):
                rows.append([name, *['-'] * (len(head) - 1)])
                continue
            rows.append([name, *(f'{v:.3f}' for v in (of.first, of.second))])
            rows[-1] += [f'{v:+.3f}' for v in (of.difference, of.low, of.high)]
            rows[-1] += ['yes' if of.clear else 'no']
            rows[-1] += [f'{scores.iou(name):.3f}' for scores in self.beside.values()]
        return head, rows

    def as_json(self) -> dict[str, Any]:
        """Return plain values; None stands for a class that the truth does not have.

        {'other', 'trained_on', 'drawn': 'scenes' or 'samples', 'count': of these, 'resamples',
         'level': of the intervals, 'seed',
         'classes': {CLASS: {'iou', 'other_iou', 'difference', 'low', 'high', 'clear'}}}
        """
        return {
            'other': self.other,
            'trained_on': self.trained_on,
            'drawn': self.drawn,
            'count': self.count,
            'resamples': RESAMPLES,
            'level': LEVEL,
            'seed': SEED,
            'classes': {
                name: {
                    'iou': plain_number(of.first),
                    'other_iou': plain_number(of.second),
                    'difference': plain_number(of.difference),
                    'low': plain_number(of.low),
                    'high': plain_number(of.high),
                    'clear': of.clear,
                }
                for name, of in self.by_class.items()
            },
        }


def common_classes(first: tuple[str, ...], second: tuple[str, ...], other: str) -> tuple[str, ...]:
    """Return the classes that both checkpoints tell.

    Raises:
        ConfigError: there is none.
    """
    common = tuple(name for name in first if name in second)
    if not common:
        raise ConfigError(
            f'--against {other}: it tells {", ".join(second)}, none of {", ".join(first)}'
        )
    return common


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Return the differences of two evaluations of the same samples.

    Raises:
        ConfigError: they are of other samples, or the second one has a class that the first lacks.
    """
    if first.indices != second.indices or first.scenes != second.scenes:
        raise ConfigError('evaluations of different samples cannot be compared')
    classes = second.scores.classes
    lacking = [name for name in classes if name not in first.scores.classes]
    if lacking:
        raise ConfigError(f'the first evaluation has no {lacking[0]!r}, so it is not compared')
    rows = [first.scores.classes.index(name) for name in classes]
    units, drawn = units_of(first.scenes)
    found = paired_bootstrap(first.cells[:, rows], second.cells, units)
    return Comparison(
        other=str(second.checkpoint.path),
        trained_on=second.checkpoint.trained_on,
        by_class=dict(zip(classes, found, strict=True)),
        drawn=drawn,
        count=int(units.max()) + 1,
        beside=first.baselines,
    )
