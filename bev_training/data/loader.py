"""Samples → batches, in processes of their own: read, augment, prepare as the node does, stack.

Training sees one endless stream: random orders of the samples, one after the other.
Position p of it alone decides which sample comes and how it is varied, so neither the number of
processes nor an interruption changes what is learned.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bev_perception.errors import BevError, ConfigError
from bev_perception.model.config import ModelConfig
from bev_perception.preprocess import decode_size_px
from bev_perception.views import ViewSet
from bev_training.data.accumulate import chosen_points
from bev_training.data.augment import augment_decode_size_px, augment_sequence
from bev_training.data.lidar_targets import lidar_targets
from bev_training.data.sample import Sample, SampleSource, read_sample
from bev_training.data.sample_loader import Place, SampleLoader
from bev_training.data.sample_tensors import SampleTensors, sample_tensors
from bev_training.data.sequences import instants_before, instants_wanted
from bev_training.data.targets import center_targets
from bev_training.data.teacher_tensors import TeacherTensors, teacher_tensors
from bev_training.fit.settings import TrainConfig
from bev_training.teachers.cache import FeatureCache


def train_loader(
    source: SampleSource,
    indices: Sequence[int],
    *,
    config: TrainConfig,
    first_step: int,
    steps: int,
    rank: int = 0,
    world: int = 1,
    teacher_cache: FeatureCache | None = None,
) -> SampleLoader:
    """Give the batches of optimiser steps `first_step` to `steps`, `accumulate` for each.

    All ranks together take `world * batch_size` samples of the stream for every forward pass, so
    N processes see what one process with N times the batch sees.

    Args:
        source: of the samples; its classes and grid are the model's.
        indices: the samples to learn from.
        config: the run; where it needs no labels, batches have what its objectives need instead.
        first_step: where to start, for a resumed run.
        steps: where to end.
        rank: number of this process.
        world: number of processes.
        teacher_cache: features of the teacher, if they are stored.

    Raises:
        ConfigError: there are no samples, or they do not fit the model.
    """
    if not len(indices):
        labelled = '' if config.objectives.pretraining else 'labelled '
        raise ConfigError(f'there is no {labelled}sample to train on')
    _check_fit(source, config.model)
    first, last = first_step * config.accumulate, steps * config.accumulate
    size = config.batch_size

    def plan() -> Iterator[list[Place]]:
        stream = _Stream(indices, config.seed)
        for number in range(first, last):
            start = (number * world + rank) * size
            yield [(at, stream[at]) for at in range(start, start + size)]

    return SampleLoader(
        source,
        functools.partial(_train_sample, source, config, teacher_cache),
        __name__,
        plan,
        length=max(0, last - first),
        workers=config.data.workers,
        pin_memory=config.accelerator != 'cpu' and torch.cuda.is_available(),
    )


def eval_loader(
    source: SampleSource,
    indices: Sequence[int],
    *,
    model: ModelConfig,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pretraining: TrainConfig | None = None,
    teacher_cache: FeatureCache | None = None,
) -> SampleLoader:
    """Give samples as the node would see them, each once over all ranks, in order.

    A rank takes one piece of `indices`; pieces differ in length by one sample at most, and may be
    empty.

    Args:
        source: of the samples; its classes and grid are the model's.
        indices: the samples.
        model: the network.
        batch_size: samples per batch; the last may have fewer.
        workers: processes.
        rank: number of this process.
        world: number of processes.
        pretraining: a run that needs no labels: batches have what its objectives need, the same
            each time.
        teacher_cache: features of its teacher, if they are stored.

    Raises:
        ConfigError: the samples do not fit the model.
    """
    _check_fit(source, model)
    mine = indices[rank * len(indices) // world : (rank + 1) * len(indices) // world]

    def plan() -> Iterator[list[Place]]:
        for start in range(0, len(mine), batch_size):
            yield [(i, i) for i in mine[start : start + batch_size]]

    return SampleLoader(
        source,
        functools.partial(_eval_sample, source, model, pretraining, teacher_cache),
        __name__,
        plan,
        length=-(-len(mine) // batch_size),
        workers=workers,
        pin_memory=torch.cuda.is_available() and torch.cuda.is_initialized(),
    )


class _Stream:
    """The endless order of samples; one pass over them after the other, each shuffled anew."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        self._indices, self._seed = indices, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(position, len(self._indices))
        if epoch != self._epoch:
            # Not the generators of samples, which have two numbers: a third of 0 would change
            # nothing, numpy takes it for absent.
            rng = np.random.default_rng([self._seed, epoch, 1])
            self._epoch, self._order = epoch, rng.permutation(len(self._indices))
        return int(self._indices[self._order[at]])


def _train_sample(
    source: SampleSource, config: TrainConfig, cache: FeatureCache | None, place: Place
) -> SampleTensors:
    (position, i), model = place, config.model
    at_least_px = augment_decode_size_px(config.augment, model)
    sample = _read(source, i, at_least_px, config)
    # A seed of its own, so that the variations are the same for every kind of network.
    before = _read_before(source, sample, i, model, at_least_px, [config.seed, position, 2])
    rng = np.random.default_rng([config.seed, position])
    sample, before = augment_sequence(sample, before, config.augment, model, rng)
    centers = None
    if model.center_offset:
        centers = center_targets(sample.boxes, model.grid, config.data.visibility)
    return sample_tensors(
        sample,
        model,
        source.cameras,
        centers,
        before,
        lidar=_lidar(sample, config, [config.seed, position, 3]),
        teacher=_teacher(source, i, sample, config, cache),
    )


def _eval_sample(
    source: SampleSource,
    model: ModelConfig,
    config: TrainConfig | None,
    cache: FeatureCache | None,
    place: Place,
) -> SampleTensors:
    at_least_px, i = decode_size_px(model), place[1]
    sample = _read(source, i, at_least_px, config)
    before = _read_before(source, sample, i, model, at_least_px)
    return sample_tensors(
        sample,
        model,
        source.cameras,
        before=before,
        lidar=_lidar(sample, config, [config.seed, i, 4]) if config else None,
        teacher=_teacher(source, i, sample, config, cache) if config else None,
    )


def _read(
    source: SampleSource, i: int, at_least_px: tuple[int, int], config: TrainConfig | None
) -> Sample:
    """Read a sample with what a run needs of it."""
    if config is None or not config.objectives.pretraining:
        return read_sample(source, i, at_least_px=at_least_px)
    sample = read_sample(source, i, at_least_px=at_least_px, sweeps=config.lidar.sweeps)
    # Now, while the axes are the vehicle's: a turned frame would cut out another square.
    return replace(sample, sweeps=chosen_points(sample.sweeps, config.lidar))


def _lidar(sample: Sample, config: TrainConfig, seed: Sequence[int]) -> dict[str, Tensor] | None:
    """Return a sample's targets of lidar points, if a run learns from those."""
    objectives = config.objectives
    if not objectives.pretraining:
        return None
    return lidar_targets(
        sample.sweeps,
        config.model.grid,
        img_also=config.img_also if objectives.img_also else None,
        rng=np.random.default_rng(seed),
    )


def _teacher(
    source: SampleSource,
    i: int,
    sample: Sample,
    config: TrainConfig,
    cache: FeatureCache | None,
) -> TeacherTensors | None:
    """Return what a teacher sees of a sample, if a run has one."""
    if not config.has_teacher:
        return None
    return teacher_tensors(source, i, sample, config.teacher.size_px, cache)


def _read_before(
    source: SampleSource,
    sample: Sample,
    i: int,
    model: ModelConfig,
    at_least_px: tuple[int, int],
    seed: Sequence[int] | None = None,
) -> list[ViewSet]:
    """Decode the instants before a sample, as many as the network wants; with a seed, one of them
    is left out by chance.

    Raises:
        ConfigError: nothing tells where the vehicle was.
        BevError: an instant cannot be read; it is named.
    """
    before: list[ViewSet] = []
    count = instants_wanted(model)
    if not count:
        return before
    if sample.view_set.odom_T_ego is None:
        raise ConfigError(
            'it has no pose of the vehicle, which model.attention.temporal needs; convert its '
            'recording with odometry (odom_frame)'
        )
    rng = np.random.default_rng(seed) if seed else None
    for number in instants_before(source, i, count, rng):
        try:
            before.append(source.view_set(number, at_least_px=at_least_px))
        except BevError as error:
            raise BevError(f'{source.keys[number]}, which comes before it: {error}') from error
    return before


def _check_fit(source: SampleSource, model: ModelConfig) -> None:
    if source.classes != model.classes:
        raise ConfigError(f'labels are of classes {source.classes}, the model of {model.classes}')
    if source.grid != model.grid:
        raise ConfigError(f'labels are in {source.grid}, the model works in {model.grid}')
