"""A checkpoint through labelled samples on the node's own path, scored."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.checkpoint import Checkpoint, load
from bev_perception.model.tensors import BevInputs
from bev_perception.predictor import Predictor, Probabilities
from bev_perception.preprocess import decode_size_px, prepare
from bev_perception.views import ViewSet
from bev_training.data.sample import LabelGrids, SampleSource
from bev_training.metrics import PooledScores, Scores

_MOST_THREADS = 4  # that read and decode while the network runs
_FACTS = ('weather', 'location')  # by which samples are scored apart
_Read = tuple[ViewSet, BevInputs, LabelGrids, Mapping[str, str]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scored:
    """One sample that was scored.

    Attributes:
        index: its number in the source.
        key: its name.
        view_set: its images, as the network saw them before they were prepared.
        probabilities: what the network says.
        labels: the truth.
        facts: what else is known of it.
    """

    index: int
    key: str
    view_set: ViewSet
    probabilities: Probabilities
    labels: LabelGrids
    facts: Mapping[str, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What came out.

    Attributes:
        checkpoint: the weights.
        scores: of all samples.
        by_fact: by fact ('weather', ...) and value ('rain', ...; '' where a sample lacks it) the
            scores of its samples; only facts that some sample has.
        indices: the samples, numbers in the source.
        device: that the network ran on.
        precision: of the network.
        seconds: that it took.
    """

    checkpoint: Checkpoint
    scores: Scores
    by_fact: Mapping[str, Mapping[str, Scores]]
    indices: tuple[int, ...]
    device: str
    precision: str
    seconds: float


def evaluate(
    checkpoint: Path | str | Checkpoint,
    source: SampleSource,
    *,
    limit: int = 0,
    device: str = 'auto',
    precision: str = 'float32',
    progress: Callable[[int, int], None] = lambda done, total: None,
    show: Callable[[Scored], None] = lambda scored: None,
) -> Evaluation:
    """Score a checkpoint on every sample of a source: batch 1, no augmentation, none left out.

    Args:
        checkpoint: file, or what was loaded from it.
        source: labelled samples; copies of it are read on threads.
        limit: so many samples, evenly spaced; 0 takes all.
        device: see `Predictor`.
        precision: see `Predictor`.
        progress: called with the numbers of samples that are done, and of all.
        show: called with every sample, in order.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the labels lack a class, or are of another grid; or see `Predictor`.
        BevError: a sample cannot be read, or the network gives no numbers for it.
    """
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    config = loaded.model.config
    check_labels(loaded, source.classes, source.grid)
    indices = tuple(evenly_spaced(len(source), limit or len(source)))
    if not indices:
        raise BagError('there are no labelled samples to evaluate on')
    predictor = Predictor(loaded.model, device=device, precision=precision)
    every = PooledScores(config.classes, config.grid)
    groups: dict[str, dict[str, PooledScores]] = {name: {} for name in _FACTS}
    began = time.monotonic()
    with closing(_scored(predictor, source, indices)) as samples:
        for done, scored in enumerate(samples, 1):
            before = every.counts()
            said = scored.probabilities
            try:
                every.update(said.classes, scored.labels, said.valid)
            except BevError as error:
                raise BevError(f'{loaded.path}, sample {scored.key}: {error}') from error
            own = every.counts() - before
            for name, by_value in groups.items():
                value = scored.facts.get(name, '')
                if value not in by_value:
                    by_value[value] = PooledScores(config.classes, config.grid)
                by_value[value].add_counts(own)
            show(scored)
            progress(done, len(indices))
    return Evaluation(
        checkpoint=loaded,
        scores=every.result(),
        by_fact={
            name: {value: pooled.result() for value, pooled in sorted(by_value.items())}
            for name, by_value in groups.items()
            if any(by_value)
        },
        indices=indices,
        device=str(predictor.device),
        precision=precision,
        seconds=time.monotonic() - began,
    )


def check_labels(loaded: Checkpoint, classes: Sequence[str], grid: BevGrid) -> None:
    """See that labels can score a checkpoint.

    Raises:
        ConfigError: they lack a class, or are of another grid.
    """
    config = loaded.model.config
    lacking = [name for name in config.classes if name not in classes]
    if lacking:
        raise ConfigError(
            f'{loaded.path} tells {lacking[0]!r}, which the labels do not have; '
            f'they have {", ".join(classes)}'
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


def _scored(
    predictor: Predictor, source: SampleSource, indices: Sequence[int]
) -> Generator[Scored, None, None]:
    """Yield the samples in order; the next ones are read meanwhile."""
    config, at_least_px = predictor.config, decode_size_px(predictor.config)
    # A source may keep files open, and is not for several threads: each one has a copy.
    packed, own = pickle.dumps(source), threading.local()

    def unpack() -> None:
        own.source = pickle.loads(packed)

    def read(i: int) -> _Read:
        view_set = own.source.view_set(i, at_least_px=at_least_px)
        labels = own.source.labels(i).of(config.classes)
        return view_set, prepare(view_set, config), labels, own.source.facts(i)

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, 'read', initializer=unpack) as pool:
        waiting: deque[tuple[int, Future[_Read]]] = deque()
        todo = iter(indices)
        try:
            while True:
                while len(waiting) <= threads and (i := next(todo, None)) is not None:
                    waiting.append((i, pool.submit(read, i)))
                if not waiting:
                    return
                i, future = waiting.popleft()
                key = source.keys[i]
                try:
                    view_set, inputs, labels, facts = future.result()
                except (BevError, OSError) as error:
                    raise BevError(f'sample {key}: {error}') from error
                yield Scored(
                    index=i,
                    key=key,
                    view_set=view_set,
                    probabilities=predictor.predict(inputs),
                    labels=labels,
                    facts=facts,
                )
        finally:
            for _, future in waiting:
                future.cancel()


def _plane(grid: BevGrid) -> tuple[object, ...]:
    """Return what labels know of a grid: heights are the network's own."""
    return grid.x_range_m, grid.y_range_m, grid.cell_m


def _said(grid: BevGrid) -> str:
    (x0, x1), (y0, y1) = grid.x_range_m, grid.y_range_m
    return f'x {x0:g}..{x1:g} m, y {y0:g}..{y1:g} m, cells of {grid.cell_m:g} m'
