"""A sum over many rows whose intermediate values would not fit: gradients with the sum, in parts.

What lies between the rows and the sum exists for one part of the rows at a time, forward and
backward, and is computed once. Recomputing it in the backward pass (checkpointing) would take as
little memory, but half as long again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_in_parts(
    function: Callable[..., Tensor],
    rows: Tensor,
    fixed: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    at_once: int,
) -> Tensor:
    """Return the sum over all parts of function(rows, *fixed, *weights).

    Differentiable once, with respect to the rows and the weights.

    Args:
        function: returns a scalar, which must be a sum over its rows.
        rows: (n, ...), split along the first axis.
        fixed: (n, ...) each, split alike; without gradient.
        weights: not split.
        at_once: rows of a part.
    """
    total: Tensor = _SumInParts.apply(function, at_once, len(fixed), rows, *fixed, *weights)
    return total


class _SumInParts(torch.autograd.Function):
    """Keeps the gradients of the sum, which the backward pass only scales."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        at_once: int,
        number_fixed: int,
        rows: Tensor,
        *others: Tensor,
    ) -> Tensor:
        fixed, weights = others[:number_fixed], others[number_fixed:]
        ctx.number_fixed = number_fixed
        weights = tuple(weight.detach().requires_grad_() for weight in weights)
        sums = [torch.zeros_like(weight) for weight in weights]
        of_rows, total = torch.empty_like(rows), torch.zeros((), device=rows.device)
        split = (tensor.split(at_once) for tensor in (of_rows, rows, *fixed))
        for of_some, some_rows, *some_fixed in zip(*split, strict=True):
            some_rows = some_rows.detach().requires_grad_()
            with torch.enable_grad():
                part = function(some_rows, *some_fixed, *weights)
            gradient, *of_weights = torch.autograd.grad(part, (some_rows, *weights))
            total += part.detach()
            of_some.copy_(gradient)
            for one, more in zip(sums, of_weights, strict=True):
                one += more
        ctx.save_for_backward(of_rows, *sums)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, *of_weights = (gradients[0] * gradient for gradient in ctx.saved_tensors)
        return None, None, None, of_rows, *[None] * ctx.number_fixed, *of_weights
