"""A checkpoint through labelled samples on the node's own path, scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.checkpoint import Checkpoint, load
from bev_perception.predictor import Predictor
from bev_perception.shapes import Index
from bev_perception.views import ViewSet
from bev_training.data.sample import SampleSource
from bev_training.evaluation.baselines import Baselines
from bev_training.evaluation.running import Scored, run_samples
from bev_training.metrics import PooledScores, Scores

LOST = 'cameras lost'
_FACTS = ('weather', 'location', LOST)  # by which samples are scored apart

__all__ = ['Evaluation', 'Scored', 'check_labels', 'evaluate', 'evenly_spaced']


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What came out.

    Attributes:
        checkpoint: the weights.
        scores: of all samples.
        by_fact: by fact ('weather', ..., 'cameras lost') and value ('rain', ...; '' where a sample
            lacks it) the scores of its samples; only facts that some sample has.
        baselines: by name, see `baselines`; none where nobody asked.
        baselines_how: what they learned from.
        indices: the samples, numbers in the source.
        scenes: of each sample.
        cells: (sample, class, 3) cells of each sample: hit, false, missed ('visible', at 0.5,
            known cells).
        device: that the network ran on.
        precision: of the network.
        seconds: that it took.
    """

    checkpoint: Checkpoint
    scores: Scores
    by_fact: Mapping[str, Mapping[str, Scores]]
    baselines: Mapping[str, Scores]
    baselines_how: str
    indices: tuple[int, ...]
    scenes: tuple[str, ...]
    cells: Index
    device: str
    precision: str
    seconds: float


def evaluate(
    checkpoint: Path | str | Checkpoint,
    source: SampleSource,
    *,
    limit: int = 0,
    classes: Sequence[str] | None = None,
    device: str = 'auto',
    precision: str = 'float32',
    baselines: bool = False,
    change: Callable[[ViewSet, str], ViewSet] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    show: Callable[[Scored], None] = lambda scored: None,
) -> Evaluation:
    """Score a checkpoint on every sample of a source: batch 1, no augmentation, none left out.

    Args:
        checkpoint: file, or what was loaded from it.
        source: labelled samples; copies of it are read on threads.
        limit: so many samples, evenly spaced; 0 takes all.
        classes: some of the checkpoint's, the only ones that are scored; None takes all.
        device: see `Predictor`.
        precision: see `Predictor`.
        baselines: also score what needs no network.
        change: what to do to each view set before it is prepared, given it and the sample's key;
            called on several threads.
        progress: called with the numbers of samples that are done, and of all.
        show: called with every sample, in order.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the labels lack a class, or are of another grid; or see `Predictor`.
        BevError: a sample cannot be read, or the network gives no numbers for it.
    """
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    config = loaded.model.config
    names = config.classes if classes is None else tuple(classes)
    rows = [config.classes.index(name) for name in names]
    check_labels(loaded, source.classes, source.grid, names)
    indices = tuple(evenly_spaced(len(source), limit or len(source)))
    if not indices:
        raise BagError('there are no labelled samples to evaluate on')
    scenes = tuple(source.scenes[i] for i in indices)
    predictor = Predictor(loaded.model, device=device, precision=precision)
    every, cells = PooledScores(names, config.grid), []
    groups: dict[str, dict[str, PooledScores]] = {name: {} for name in _FACTS}
    simple = Baselines(names, config.grid, scenes) if baselines else None
    began = time.monotonic()
    running = run_samples(
        predictor, source, indices, classes=names, change=change, ground=baselines
    )
    with closing(running) as samples:
        for done, scored in enumerate(samples, 1):
            before = every.counts()
            said = scored.probabilities
            try:
                every.update(said.classes[rows], scored.labels, said.valid)
            except BevError as error:
                raise BevError(f'{loaded.path}, sample {scored.key}: {error}') from error
            own = every.counts() - before
            lost = {LOST: str(len(scored.view_set.missing))}
            for name, by_value in groups.items():
                value = {**scored.facts, **lost}.get(name, '')
                if value not in by_value:
                    by_value[value] = PooledScores(names, config.grid)
                by_value[value].add_counts(own)
            if simple is not None and scored.colors is not None:
                simple.add(scored.labels, said.valid, scored.colors)
            so_far = every.result()
            cells.append([so_far.cells(name) for name in names])
            show(scored)
            progress(done, len(indices))
    totals = np.array(cells, np.int64)
    return Evaluation(
        checkpoint=loaded,
        scores=every.result(),
        by_fact={
            name: {value: pooled.result() for value, pooled in sorted(by_value.items())}
            for name, by_value in groups.items()
            if set(by_value) - {'', '0'}  # some sample has it, or lacks a camera
        },
        baselines={} if simple is None else simple.result(),
        baselines_how='' if simple is None else simple.how,
        indices=indices,
        scenes=scenes,
        cells=totals - np.concatenate([np.zeros_like(totals[:1]), totals[:-1]]),
        device=str(predictor.device),
        precision=precision,
        seconds=time.monotonic() - began,
    )


def check_labels(
    loaded: Checkpoint,
    labelled: Sequence[str],
    grid: BevGrid,
    classes: Sequence[str] | None = None,
) -> None:
    """See that labels can score a checkpoint.

    Args:
        loaded: the checkpoint.
        labelled: classes of the labels.
        grid: of the labels.
        classes: of the checkpoint that are to be scored; None takes all.

    Raises:
        ConfigError: they lack a class, or are of another grid.
    """
    config = loaded.model.config
    wanted = config.classes if classes is None else classes
    lacking = [name for name in wanted if name not in labelled]
    if lacking:
        raise ConfigError(
            f'{loaded.path} tells {lacking[0]!r}, which the labels do not have; '
            f'they have {", ".join(labelled)}'
        )
    if _plane(grid) != _plane(config.grid):
        raise ConfigError(
            f'{loaded.path} is for the grid {_said(config.grid)}, the labels are for '
            f'{_said(grid)}; make labels for its grid, or take another checkpoint'
        )


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return up to `wanted` of 0..count-1, evenly spaced, each in the middle of its part."""
    wanted = min(wanted, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def _plane(grid: BevGrid) -> tuple[object, ...]:
    """Return what labels know of a grid: heights are the network's own."""
    return grid.x_range_m, grid.y_range_m, grid.cell_m


def _said(grid: BevGrid) -> str:
    (x0, x1), (y0, y1) = grid.x_range_m, grid.y_range_m
    return f'x {x0:g}..{x1:g} m, y {y0:g}..{y1:g} m, cells of {grid.cell_m:g} m'
