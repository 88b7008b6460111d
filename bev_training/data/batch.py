"""Samples as tensors: what a training step gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from bev_perception.model.tensors import BevInputs

T = TypeVar('T')


@dataclass(frozen=True, eq=False, kw_only=True)
class Targets:
    """Truth of a batch; see `sample.LabelGrids` for the meaning of the masks.

    Attributes:
        positive: (b, class, y, x) bool.
        hidden: (b, class, y, x) bool.
        known: (b, y, x) bool.
        center: (b, 1, y, x) float32 in 0..1, a Gaussian around every object's middle; None where
            nobody asked.
        offset: (b, 2, y, x) float32, from a cell's centre to the middle of the object in it, in
            cells along x and y; None where nobody asked.
        in_object: (b, 1, y, x) bool, cells with an offset; None where nobody asked.
    """

    positive: Tensor
    hidden: Tensor
    known: Tensor
    center: Tensor | None = None
    offset: Tensor | None = None
    in_object: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class LidarTargets:
    """What lidar points say of a batch.

    Attributes:
        occupied: (b, z, y, x) bool, voxels of the model's grid with a point in them.
        known: (b,) bool, False where no point lies in the grid: a sweep that failed says nothing.
        dropped: (b,) int64, points that were left out because they were not finite.
        queries_m: (b, q, 3) float32 ego frame; None unless queries are asked for, as the rest.
        query_occupied: (b, q) int8: 1 inside something, 0 in free space, -1 no query.
        query_intensity: (b, q) float32, NaN where nothing is known.
    """

    occupied: Tensor
    known: Tensor
    dropped: Tensor
    queries_m: Tensor | None = None
    query_occupied: Tensor | None = None
    query_intensity: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TeacherViews:
    """What a teacher sees of a batch: clean images, whatever the network's were turned into.

    Attributes:
        K: (b, n, 3, 3) float32 of the teacher's images, pixel centres at integers.
        ego_T_cam: (b, n, 4, 4) float32, in the (moved) ego frame of the sample.
        live: (b, n) bool, cameras that the network sees, too.
        features: (b, n, c, h, w) float16 maps over the whole images; None before they are made.
        images: (m, n, 3, height, width) uint8 RGB of the samples without features; None where
            there are none.
        rows: (m,) int64, which samples of the batch those are; likewise.
    """

    K: Tensor
    ego_T_cam: Tensor
    live: Tensor
    features: Tensor | None = None
    images: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """What a training step gets.

    Attributes:
        keys: names of the samples, for messages.
        inputs: images and cameras; where samples have fewer cameras than others, the rest is
            zeros and not `live`.
        targets: truth.
        before: the instants before, oldest first, of samples for a temporal network; a sample that
            has fewer begins with some that know nothing: no camera is `live`, the pose is NaN.
        lidar: what lidar points say; None unless an objective asks for it.
        teacher: what a teacher sees; likewise.
    """

    keys: tuple[str, ...]
    inputs: BevInputs
    targets: Targets
    before: tuple[BevInputs, ...] = ()
    lidar: LidarTargets | None = None
    teacher: TeacherViews | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            keys=self.keys,
            inputs=moved(self.inputs, device),
            targets=moved(self.targets, device),
            before=tuple(moved(inputs, device) for inputs in self.before),
            lidar=moved(self.lidar, device),
            teacher=moved(self.teacher, device),
        )

    def pin_memory(self) -> Batch:
        """Return the batch in memory that a GPU copies fast (the data loader asks for it)."""
        return Batch(
            keys=self.keys,
            inputs=_pinned(self.inputs),
            targets=_pinned(self.targets),
            before=tuple(_pinned(inputs) for inputs in self.before),
            lidar=_pinned(self.lidar),
            teacher=_pinned(self.teacher),
        )


def moved(tensors: T, device: torch.device) -> T:
    """Return a dataclass of tensors, or None, on a device."""
    return _each(tensors, lambda tensor: tensor.to(device, non_blocking=True))


def _pinned(tensors: T) -> T:
    return _each(tensors, lambda tensor: tensor.pin_memory())


def _each(tensors: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a dataclass of tensors with all of them changed; those that are not there stay so."""
    if tensors is None:
        return tensors
    values = {k: v if v is None else change(v) for k, v in vars(tensors).items()}
    return type(tensors)(**values)
