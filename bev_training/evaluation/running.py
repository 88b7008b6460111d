"""Samples of a source through a network, in order, on the node's own path."""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BevError
from bev_perception.memory import Recollection
from bev_perception.model.tensors import BevInputs
from bev_perception.predictor import Predictor, Probabilities
from bev_perception.preprocess import decode_size_px, prepare
from bev_perception.views import ViewSet
from bev_training.data.sample import LabelGrids, SampleSource
from bev_training.data.sequences import check_motion, instants_before, instants_wanted
from bev_training.evaluation.ground import GroundColors

_MOST_THREADS = 4  # that read and decode while the network runs


@dataclass(frozen=True, eq=False, kw_only=True)
class Scored:
    """One sample that went through the network.

    Attributes:
        index: its number in the source.
        key: its name.
        view_set: its images, as the network saw them before they were prepared.
        probabilities: what the network says.
        labels: the truth, of the network's classes that the source knows.
        facts: what else is known of it.
        colors: (cells,) of the ground, see `GroundColors`; None where nobody asks.
    """

    index: int
    key: str
    view_set: ViewSet
    probabilities: Probabilities
    labels: LabelGrids
    facts: Mapping[str, str]
    colors: npt.NDArray[np.int16] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class _Read:
    view_set: ViewSet
    inputs: BevInputs
    labels: LabelGrids
    facts: Mapping[str, str]
    colors: npt.NDArray[np.int16] | None


def run_samples(
    predictor: Predictor,
    source: SampleSource,
    indices: Sequence[int],
    *,
    classes: Sequence[str],
    change: Callable[[ViewSet, str], ViewSet] | None = None,
    ground: bool = False,
) -> Generator[Scored, None, None]:
    """Yield samples in order; the next ones are read meanwhile, on threads.

    A temporal network has its memory of the samples before, as the node would: where some were
    left out, as many of a sample's predecessors in its scene run first as it was trained with.

    Args:
        predictor: the network.
        source: labelled samples; each thread reads a copy of it.
        indices: rising numbers in the source.
        classes: of the labels that are yielded.
        change: what to do to each view set, given it and the sample's key; runs on the threads.
        ground: also look up the colours of the ground.

    Raises:
        ConfigError: the network is temporal, and the vehicle's motion is not known.
        BevError: a sample cannot be read.
    """
    model = predictor.config
    check_motion(source, model)
    before = instants_wanted(model)
    order = with_predecessors(source, indices, before)
    wanted, remembered = frozenset(indices), Recollection()
    for i, read in _in_order(_reader(predictor, source, classes, change, ground), order, source):
        if model.attention.temporal:
            now = source.whereabouts(i)
            now = replace(now, epoch=(source.scenes[i], now.epoch))
            said = remembered.predict(predictor, read.inputs, now)
        else:
            said = predictor.predict(read.inputs)
        if i in wanted:
            yield Scored(
                index=i,
                key=source.keys[i],
                view_set=read.view_set,
                probabilities=said,
                labels=read.labels,
                facts=read.facts,
                colors=read.colors,
            )


def with_predecessors(source: SampleSource, indices: Sequence[int], before: int) -> list[int]:
    """Return the samples to run, rising: those wanted, and up to `before` of the ones in front of
    each, see `sequences.instants_before`.
    """
    found = set(indices)
    for i in indices:
        found.update(instants_before(source, i, before))
    return sorted(found)


def _reader(
    predictor: Predictor,
    source: SampleSource,
    classes: Sequence[str],
    change: Callable[[ViewSet, str], ViewSet] | None,
    ground: bool,
) -> Callable[[int], _Read]:
    """Return what reads a sample; each thread that calls it has a copy of the source."""
    config, at_least_px = predictor.config, decode_size_px(predictor.config)
    # A source may keep files open, and is not for several threads.
    packed, own = pickle.dumps(source), threading.local()

    def read(i: int) -> _Read:
        if not hasattr(own, 'source'):
            own.source = pickle.loads(packed)
            own.colors = GroundColors(config) if ground else None
        view_set = own.source.view_set(i, at_least_px=at_least_px)
        if change is not None:
            view_set = change(view_set, source.keys[i])
        inputs = prepare(view_set, config)
        return _Read(
            view_set=view_set,
            inputs=inputs,
            labels=own.source.labels(i).of(classes),
            facts=own.source.facts(i),
            colors=own.colors(inputs) if ground else None,
        )

    return read


def _in_order(
    read: Callable[[int], _Read], order: Sequence[int], source: SampleSource
) -> Generator[tuple[int, _Read], None, None]:
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, 'read') as pool:
        waiting: deque[tuple[int, Future[_Read]]] = deque()
        todo = iter(order)
        try:
            while True:
                while len(waiting) <= threads and (i := next(todo, None)) is not None:
                    waiting.append((i, pool.submit(read, i)))
                if not waiting:
                    return
                i, future = waiting.popleft()
                try:
                    found = future.result()
                except (BevError, OSError) as error:
                    raise BevError(f'sample {source.keys[i]}: {error}') from error
                yield i, found
        finally:
            for _, future in waiting:
                future.cancel()
