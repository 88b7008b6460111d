"""Samples as tensors: what a training step gets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bev_perception.model.tensors import BevInputs


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
    """

    keys: tuple[str, ...]
    inputs: BevInputs
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            keys=self.keys,
            inputs=BevInputs(**_moved(self.inputs, device)),
            targets=Targets(**_moved(self.targets, device)),
        )

    def pin_memory(self) -> Batch:
        """Return the batch in memory that a GPU copies fast (the data loader asks for it)."""
        return Batch(
            keys=self.keys,
            inputs=BevInputs(**{k: v.pin_memory() for k, v in vars(self.inputs).items()}),
            targets=Targets(
                **{k: v if v is None else v.pin_memory() for k, v in vars(self.targets).items()}
            ),
        )


def _moved(tensors: object, device: torch.device) -> dict[str, Tensor | None]:
    return {
        name: value if value is None else value.to(device, non_blocking=True)
        for name, value in vars(tensors).items()
    }
