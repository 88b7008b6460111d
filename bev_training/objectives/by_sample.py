"""Means of what a batch's samples have different numbers of."""

from __future__ import annotations

from torch import Tensor


def means_by_sample(values: Tensor, samples: Tensor, b: int) -> Tensor:
    """Return the mean of every sample's values, (b,); 0 where a sample has none.

    Args:
        values: (k,) of the whole batch.
        samples: (k,) int64, the sample that each belongs to.
        b: number of samples.
    """
    total = values.new_zeros(b).index_add(0, samples, values)
    return total / samples.bincount(minlength=b).clamp(min=1)
