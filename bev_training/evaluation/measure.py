"""All that is measured of a checkpoint in one go: scores, baselines, comparison, robustness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception.model.checkpoint import Checkpoint
from bev_training.data.sample import SampleSource
from bev_training.evaluation.comparison import Comparison, common_classes, compare
from bev_training.evaluation.corruption_error import MeasuredRobustness, measured
from bev_training.evaluation.corruptions import SEVERITIES
from bev_training.evaluation.evaluate import Evaluation, evaluate, evenly_spaced
from bev_training.evaluation.pictures import SamplePictures
from bev_training.evaluation.robustness import Robustness, run_robustness


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """What came out.

    Attributes:
        evaluation: of the checkpoint, with baselines.
        comparison: with a second one; None without.
        robustness: None where nobody asked.
        pictures: of samples, PNG.
    """

    evaluation: Evaluation
    comparison: Comparison | None
    robustness: MeasuredRobustness | None
    pictures: tuple[Path, ...]


def measure(
    loaded: Checkpoint,
    source: SampleSource,
    *,
    other: Checkpoint | None = None,
    limit: int = 0,
    device: str = 'auto',
    precision: str = 'float32',
    corruptions: Sequence[str] | None = (),
    severities: Sequence[int] = tuple(SEVERITIES),
    lost_cameras: bool = False,
    seed: int = 0,
    pictures: int = 0,
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Measured:
    """Score a checkpoint in every way that is asked for, always on the same samples.

    Args:
        loaded: the checkpoint.
        source: labelled samples.
        other: a second checkpoint; what both tell is compared.
        limit: so many samples, evenly spaced; 0 takes all.
        device: see `Predictor`.
        precision: see `Predictor`.
        corruptions: names, see `corruptions`; None takes all that the rig can have.
        severities: of the corruptions.
        lost_cameras: also score with 1, 2, ... cameras less.
        seed: of corruptions and lost cameras.
        pictures: so many samples are drawn, evenly spaced.
        folder: gets the pictures.
        progress: called with (what, samples done, of).

    Raises:
        BevError: see `evaluate`, `run_robustness` and `SamplePictures`.
    """
    run: dict[str, Any] = {'limit': limit, 'device': device, 'precision': precision}
    count = min(len(source), limit or len(source))
    indices = evenly_spaced(len(source), count)
    drawn = [indices[i] for i in evenly_spaced(count, pictures)]
    sheets = SamplePictures(folder, drawn, loaded.model.config.grid)
    first = evaluate(
        loaded,
        source,
        baselines=True,
        progress=lambda done, total: progress('evaluate', done, total),
        show=sheets.show,
        **run,
    )
    sheets.finish()
    classes, comparison, second = loaded.model.config.classes, None, None
    common = classes
    if other is not None:
        name = other.path.name
        common = common_classes(classes, other.model.config.classes, str(other.path))
        second = evaluate(
            other,
            source,
            classes=common,
            progress=lambda done, total: progress(f'evaluate {name}', done, total),
            **run,
        )
        comparison = compare(first, second)

    def robustness_of(of: Evaluation, who: str, fewer: bool) -> Robustness:
        return run_robustness(
            lambda change, told: (
                evaluate(
                    of.checkpoint, source, classes=classes, change=change, progress=told, **run
                ).scores
            ),
            clean=of.scores,
            cameras=len(source.cameras),
            corruptions=corruptions,
            severities=severities,
            lost=None if fewer else (),
            seed=seed,
            progress=lambda what, done, total: progress(f'{who}{what}', done, total),
        )

    robustness = None
    disturbed = corruptions is None or bool(corruptions)
    if disturbed or lost_cameras:
        # Of the second checkpoint only what corruption errors are relative to.
        beside = second if disturbed and common == classes else None
        robustness = measured(
            robustness_of(first, '', lost_cameras),
            other=None if beside is None else robustness_of(beside, f'{name} ', False),
            other_name='' if other is None else str(other.path),
            beside=first.baselines,
        )
    return Measured(
        evaluation=first,
        comparison=comparison,
        robustness=robustness,
        pictures=tuple(sheets.paths),
    )
