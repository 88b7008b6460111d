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
class Batch:
    """What a training step gets.

    Attributes:
        keys: names of the samples, for messages.
        inputs: images and cameras; where samples have fewer cameras than others, the rest is
            zeros and not `live`.
        targets: truth.
        before: the instants before, oldest first, of samples for a temporal network; a sample that
            has fewer begins with some that know nothing: no camera is `live`, the pose is NaN.
    """

    keys: tuple[str, ...]
    inputs: BevInputs
    targets: Targets
    before: tuple[BevInputs, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            keys=self.keys,
            inputs=_moved(self.inputs, device),
            targets=_moved(self.targets, device),
            before=tuple(_moved(inputs, device) for inputs in self.before),
        )

    def pin_memory(self) -> Batch:
        """Return the batch in memory that a GPU copies fast (the data loader asks for it)."""
        return Batch(
            keys=self.keys,
            inputs=_pinned(self.inputs),
            targets=_pinned(self.targets),
            before=tuple(_pinned(inputs) for inputs in self.before),
        )


def _moved(tensors: T, device: torch.device) -> T:
    return _each(tensors, lambda tensor: tensor.to(device, non_blocking=True))


def _pinned(tensors: T) -> T:
    return _each(tensors, lambda tensor: tensor.pin_memory())


def _each(tensors: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a dataclass of tensors with all of them changed; those that are not there stay so."""
    values = {k: v if v is None else change(v) for k, v in vars(tensors).items()}
    return type(tensors)(**values)
