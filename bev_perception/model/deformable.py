"""Deformable attention: every query looks at a few places of a map that it chooses itself.

Zhu et al., "Deformable DETR", 2021, section 4.1: head h of a query takes the sum over its points
of weight x bilinear sample of the head's part of the map; outside the map lies zero. Here a query
is a cell of the plane, which looks at every map that `Anchors` pairs it with and takes the mean.

`attend_plain` samples every pair of a cell and a map with `grid_sample` and masks. `attend` does
the same over the pairs that exist, as a sparse product (the rows that a head of a pair looks at,
weighted): nothing of the size pairs x points x channels is ever held, and the gradient is summed
in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bev_perception.model.anchors import FAR_PX, Anchors
from bev_perception.model.lift import sample

_CORNERS = 4  # rows of a map that a bilinear sample takes
_MARGIN = 2  # zeros around a map; places outside are pulled into them
# Samples at a time. Their temporaries stay in a processor's cache; a GPU would spend its time on
# starting so many small kernels, and has the memory for large ones.
_BLOCK = 2**15
_GPU_BLOCK = 2**20


def attend(values: Tensor, offsets: Tensor, weights: Tensor, anchors: Anchors) -> Tensor:
    """Let the cells look at their maps. Differentiable with respect to the three tensors, once.

    Args:
        values: (m, h, w, heads, d) maps, the channels of every head.
        offsets: (q, heads, points, 2) (x, y) in pixels of the maps, from the anchor of the point:
            point p belongs to anchor p % z.
        weights: (q, heads, points).
        anchors: which maps a cell looks at, and where.

    Returns:
        (q, heads · d): the mean over the maps that a cell looks at, zero where there is none. In
        the wider one of the types of `values` and `offsets`.
    """
    dtype = torch.promote_types(values.dtype, offsets.dtype)
    values, offsets, weights = values.to(dtype), offsets.to(dtype), weights.to(dtype)
    if len(anchors.cells) == len(offsets) and anchors.maps_per_item == 1:  # every cell looks once
        out: Tensor = _Sample.apply(values, _at(offsets, anchors), weights, anchors.maps)
        return out
    count = anchors.count.flatten()
    at = _at(_Spread.apply(offsets, anchors.cells, count), anchors)
    out = _Sample.apply(values, at, _Spread.apply(weights, anchors.cells, count), anchors.maps)
    out = _Collect.apply(out, anchors.cells, count)
    return out / count.clamp(min=1)[:, None]


def attend_plain(values: Tensor, offsets: Tensor, weights: Tensor, anchors: Anchors) -> Tensor:
    """Do what `attend` does by sampling every cell in every map of its item, then masking."""
    dtype = torch.promote_types(values.dtype, offsets.dtype)
    values, offsets, weights = values.to(dtype), offsets.to(dtype), weights.to(dtype)
    (m, h, w, heads, d), n = values.shape, anchors.maps_per_item
    b, points = m // n, weights.shape[-1]
    cells, z = len(offsets) // b, anchors.points.shape[1]
    centers = torch.full((m, cells, z, 2), FAR_PX, dtype=dtype, device=values.device)
    centers[anchors.maps, anchors.cells % cells] = anchors.points.to(dtype)
    seen = torch.zeros(m, cells, dtype=dtype, device=values.device)
    seen[anchors.maps, anchors.cells % cells] = 1
    moves = offsets.reshape(b, 1, cells, heads, points // z, z, 2)
    at = centers.reshape(b, n, cells, 1, 1, z, 2) + moves  # (b, n, cells, heads, points/z, z, 2)
    at = at.permute(0, 1, 3, 2, 4, 5, 6).reshape(m * heads, cells * points, 2)
    maps = values.permute(0, 3, 4, 1, 2).reshape(m * heads, d, h, w)
    samples = sample(maps, at, (w, h), outside='zeros').reshape(b, n, heads, d, cells, points)
    heeded = weights.reshape(b, 1, cells, heads, points).permute(0, 1, 3, 2, 4)[:, :, :, None]
    looks = (samples * heeded).sum(-1) * seen.reshape(b, n, 1, 1, cells)
    out = looks.sum(1) / seen.reshape(b, n, 1, 1, cells).sum(1).clamp(min=1)
    return out.permute(0, 3, 1, 2).reshape(b * cells, heads * d)


def _at(offsets: Tensor, anchors: Anchors) -> Tensor:
    """Return where the points of every pair lie, (p, heads, points, 2), from their offsets."""
    p, heads, points, _ = offsets.shape
    z = anchors.points.shape[1]
    at = offsets.reshape(p, heads, points // z, z, 2) + anchors.points[:, None, None]
    return at.reshape(p, heads, points, 2)


class _Spread(torch.autograd.Function):
    """Give every pair the row of its cell; the gradient of a row is the sum over its pairs."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(cells, count)
        return rows.index_select(0, cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _sum_pairs(gradients[0], *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """Sum the rows of every cell's pairs: the reverse of `_Spread`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        return _sum_pairs(rows, cells, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


def _sum_pairs(rows: Tensor, cells: Tensor, count: Tensor) -> Tensor:
    """Return the sums of rows over the pairs of every cell; pairs are ordered by cell."""
    pairs = torch.arange(len(cells), device=cells.device)
    sums = F.embedding_bag(pairs, rows.flatten(1), count.cumsum(0) - count, mode='sum')
    return sums.reshape(len(count), *rows.shape[1:])


class _Sample(torch.autograd.Function):
    """Σ over points of weight x bilinear sample: (p, heads · d) of maps (m, h, w, heads, d)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, at: Tensor, weights: Tensor, maps: Tensor) -> Tensor:
        m, h, w, heads, d = values.shape
        padded = values.new_zeros(m, heads, h + 2 * _MARGIN, w + 2 * _MARGIN, d)
        padded[:, :, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = values.permute(0, 3, 1, 2, 4)
        ctx.save_for_backward(padded, at, weights, maps)
        rows = padded.reshape(-1, d)
        out = values.new_empty(len(at), heads, d)
        for block in _blocks(weights):
            bases, x, y = _places(at[block], maps[block], padded.shape)
            entries = _corner_rows(bases, padded.shape)
            shares = _corner_shares(x, y, weights[block])
            starts = torch.arange(0, entries.numel(), shares[0, 0].numel(), device=rows.device)
            looks = F.embedding_bag(
                entries.reshape(-1),
                rows,
                starts.int(),
                mode='sum',
                per_sample_weights=shares.reshape(-1),
            )
            out[block] = looks.reshape(-1, heads, d)
        return out.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        padded, at, weights, maps = ctx.saved_tensors
        _, heads, _, w, d = padded.shape
        # Pixels side by side lie side by side in memory: one row for two of them.
        pairs = padded.reshape(-1).as_strided((padded.numel() // d - 1, 2 * d), (d, 1))
        incoming = gradients[0].reshape(len(at), heads, d)
        to_at, to_weights = torch.empty_like(at), torch.empty_like(weights)
        bases = torch.empty(weights.shape, dtype=torch.int32, device=weights.device)
        shares = weights.new_empty(*weights.shape, _CORNERS)
        for block in _blocks(weights):
            heeded = weights[block]
            bases[block], x, y = _places(at[block], maps[block], padded.shape)
            upper = bases[block]
            seen = pairs.index_select(0, torch.stack([upper, upper + w], 2).reshape(-1))
            seen = seen.reshape(len(upper), heads, -1, d).mul_(incoming[block, :, None])
            # From upper and lower, points, left and right to four corners of points.
            along = seen.sum(-1).unflatten(-1, (2, -1, 2)).transpose(-1, -2)
            along = along.reshape(len(upper), heads, _CORNERS, -1)
            share = _corner_shares(x, y)
            torch.sum(share * along, 2, out=to_weights[block])
            a, b, c, e = along.unbind(2)
            to_at[block, ..., 0] = torch.lerp(b - a, e - c, y).mul_(heeded)
            to_at[block, ..., 1] = torch.lerp(c - a, e - b, x).mul_(heeded)
            shares[block] = share.mul_(heeded[:, :, None]).transpose(2, 3)
        to_values = _transposed(incoming, bases, shares, padded.shape)
        return to_values, to_at, to_weights, None


def _blocks(weights: Tensor) -> list[slice]:
    """Return slices of pairs that are about a block of samples each."""
    block = _BLOCK if weights.device.type == 'cpu' else _GPU_BLOCK
    step = max(block // max(weights[:1].numel(), 1), 1)
    return [slice(start, start + step) for start in range(0, len(weights), step)]


def _places(at: Tensor, maps: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Return the upper left pixel around every place, and the place's (x, y) from there.

    Args:
        at: (p, heads, points, 2) in pixels of the maps without their margins.
        maps: (p,).
        shape: (m, heads, h, w, d) of the maps with their margins.

    Returns:
        (p, heads, points) int32 rows (m · heads · h · w), and x and y from 0 to 1.
    """
    m, heads, h, w, _ = shape
    # A place beyond the margin sees what one in it does: nothing, whichever way it moves.
    x = at[..., 0].clamp(-_MARGIN, w - 2 * _MARGIN)
    y = at[..., 1].clamp(-_MARGIN, h - 2 * _MARGIN)
    left, upper = x.floor(), y.floor()
    heads_at = torch.arange(heads, dtype=torch.int32, device=at.device)
    first = ((maps.int()[:, None] * heads + heads_at) * h + _MARGIN) * w + _MARGIN
    rows = upper.int().mul_(w).add_(left.int()).add_(first[..., None])
    # What is not a number may become any row, but one of the table.
    rows.clamp_(0, m * heads * h * w - w - 2)
    return rows, x.sub_(left), y.sub_(upper)


def _corner_rows(bases: Tensor, shape: torch.Size) -> Tensor:
    """Return the rows of the four pixels: (p, heads, 4, points), upper two first, left first."""
    w = shape[3]
    return torch.stack([bases, bases + 1, bases + w, bases + (w + 1)], 2)


def _corner_shares(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the bilinear weights of the four pixels, (p, heads, 4, points), times `weights`."""
    lower = y if weights is None else y * weights
    upper = 1 - y if weights is None else weights - lower
    upper_right, lower_right = upper * x, lower * x
    return torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], 2)


def _transposed(incoming: Tensor, bases: Tensor, shares: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of the maps: every sample gives its row to its four pixels.

    Args:
        incoming: (p, heads, d).
        bases: (p, heads, points) see `_places`.
        shares: (p, heads, points, 4).
        shape: (m, heads, h, w, d) of the maps with their margins.
    """
    m, heads, h, w, d = shape
    keys, order = bases.reshape(-1).sort(stable=True)
    every = torch.arange(m * heads * h * w, dtype=torch.int32, device=keys.device)
    starts = torch.searchsorted(keys, every, out_int32=True)
    sources = order.int().div_(bases.shape[-1], rounding_mode='floor')
    parts = shares.reshape(-1, _CORNERS).index_select(0, order).T.contiguous()
    out = incoming.new_zeros(shape)
    for part, (dy, dx) in zip(parts, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        patch = F.embedding_bag(
            sources, incoming.reshape(-1, d), starts, mode='sum', per_sample_weights=part
        ).reshape(shape)
        out[:, :, dy:, dx:] += patch[:, :, : h - dy, : w - dx]
    return out[:, :, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].permute(0, 2, 3, 1, 4)
