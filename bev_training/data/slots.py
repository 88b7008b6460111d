"""Every camera of a data set has its slot along axis n, so that samples can be stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bev_perception.errors import BevError


def slots_of(names: Sequence[str], cameras: Sequence[str]) -> Tensor:
    """Return the slots (n,) of some cameras.

    Args:
        names: of these cameras.
        cameras: all of the source.

    Raises:
        BevError: a name is none of the source.
    """
    unknown = sorted(set(names) - set(cameras))
    if unknown:
        raise BevError(f'camera {unknown[0]!r} is none of the data set: {", ".join(cameras)}')
    return torch.tensor([list(cameras).index(name) for name in names])


def slotted(values: Tensor, slots: Tensor, count: int, empty: Tensor | float) -> Tensor:
    """Return values (n, ...) at their slots (count, ...), `empty` in the others."""
    if torch.equal(slots, torch.arange(count)):
        return values
    out = values.new_empty(count, *values.shape[1:])
    out[:] = torch.as_tensor(empty, dtype=values.dtype)
    out[slots] = values
    return out
