"""The lift as a sparse matrix, voxels x feature pixels: no camera has a volume of its own.

A table serves one set of cameras at run time (kept while the calibration stays), or a whole batch
in training (made for every step, since augmentation moves every camera). Gradients go through the
transposed table to the features; cameras get none. `lift` is the slow reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.lift import project_xyz, voxel_centers

_CORNERS = 4  # entries of a voxel for every camera that sees it


@dataclass(frozen=True, eq=False, kw_only=True)
class LiftTable:
    """`lift` of b view sets as a sparse matrix.

    Attributes:
        pixels: (k,) int32 feature pixels, indices into (b · n · hf · wf).
        weights: (k,) float32 bilinear weights divided by the number of cameras.
        offsets: (b · y · x · z,) int32 where each voxel's entries start; z fastest.
        valid: (b, z, y, x) bool, whether a live camera sees the voxel's centre.
    """

    pixels: Tensor
    weights: Tensor
    offsets: Tensor
    valid: Tensor


def build_table(
    K: Tensor,
    ego_T_cam: Tensor,
    live: Tensor,
    *,
    grid: BevGrid,
    size_px: tuple[int, int],
    feature_px: tuple[int, int],
) -> LiftTable:
    """Make the table of one view set.

    Args:
        K: (n, 3, 3), `ego_T_cam`: (n, 4, 4), `live`: (n,).
        ego_T_cam: see K.
        live: see K.
        grid: the volume.
        size_px: (width, height) of the images.
        feature_px: (width, height) of the feature maps.
    """
    n, (zs, ys, xs) = len(K), grid.shape
    centers = voxel_centers(grid, K.device).reshape(zs, ys, xs, 3)
    x, y, z = centers[:1, :1, :, 0], centers[:1, :, :1, 1], centers[:, :1, :1, 2]
    u, v = centers.new_empty(2, n, zs, ys, xs)
    seen = torch.empty(n, zs, ys, xs, dtype=torch.bool, device=K.device)
    for i in range(n):  # one camera's temporaries stay in the processor's cache
        u[i], v[i], seen[i] = project_xyz(x, y, z, K[i], ego_T_cam[i], size_px)
    seen &= live[:, None, None, None]
    count = seen.sum(0, dtype=torch.int32)
    iy, ix, iz, cam = seen.permute(2, 3, 1, 0).contiguous().nonzero().int().unbind(1)
    voxel = (iz * ys + iy) * xs + ix
    at = cam * (zs * ys * xs) + voxel
    width, height = feature_px
    left, x_share = _split((u.reshape(-1)[at] + 0.5) * (width / size_px[0]) - 0.5)
    upper, y_share = _split((v.reshape(-1)[at] + 0.5) * (height / size_px[1]) - 0.5)
    part = 1 / count.reshape(-1)[voxel]
    above, below = (1 - y_share) * part, y_share * part
    # Clamping after weighing continues the map past its border, as `sample` does.
    left, right = left.clamp(min=0), (left + 1).clamp(max=width - 1)
    upper, lower = (
        (cam * height + row.clamp(0, height - 1)) * width for row in (upper, upper + 1)
    )
    pixels = torch.stack([upper + left, upper + right, lower + left, lower + right], 1)
    weights = torch.stack(
        [above * (1 - x_share), above * x_share, below * (1 - x_share), below * x_share], 1
    )
    entries = _CORNERS * count.permute(1, 2, 0).reshape(-1)
    return LiftTable(
        pixels=pixels.reshape(-1),
        weights=weights.reshape(-1),
        offsets=entries.cumsum(0, dtype=torch.int32) - entries,
        valid=(count > 0)[None],
    )


def _split(at: Tensor) -> tuple[Tensor, Tensor]:
    """Return the whole part (int32) and the rest."""
    low = at.floor()
    return low.int(), at - low


def build_batch_table(
    K: Tensor,
    ego_T_cam: Tensor,
    live: Tensor,
    *,
    grid: BevGrid,
    size_px: tuple[int, int],
    feature_px: tuple[int, int],
) -> LiftTable:
    """Make the table of b view sets at once.

    Args:
        K: (b, n, 3, 3), `ego_T_cam`: (b, n, 4, 4), `live`: (b, n).
        ego_T_cam: see K.
        live: see K.
        grid: the volume.
        size_px: (width, height) of the images.
        feature_px: (width, height) of the feature maps.
    """
    sets = zip(K, ego_T_cam, live, strict=True)
    tables = [build_table(*s, grid=grid, size_px=size_px, feature_px=feature_px) for s in sets]
    return join_tables(tables, pixels_per_set=K.shape[1] * feature_px[0] * feature_px[1])


def join_tables(tables: Sequence[LiftTable], *, pixels_per_set: int) -> LiftTable:
    """Return one table of all view sets, given the tables of each."""
    if len(tables) == 1:
        return tables[0]
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + len(table.pixels))
    return LiftTable(
        pixels=torch.cat([t.pixels + i * pixels_per_set for i, t in enumerate(tables)]),
        weights=torch.cat([t.weights for t in tables]),
        offsets=torch.cat([t.offsets + s for t, s in zip(tables, starts, strict=False)]),
        valid=torch.cat([t.valid for t in tables]),
    )


def lift_with_table(features: Tensor, table: LiftTable) -> Tensor:
    """Apply a table; differentiable with respect to the features.

    Args:
        features: (b, n, c, hf, wf) of the view sets that the table was made for.
        table: from `build_table` or `build_batch_table`.

    Returns:
        (b, c, z, y, x) of the features' type, laid out in memory as (b, y, x, z, c).
    """
    b, z, y, x = table.valid.shape
    c = features.shape[2]
    rows = features.permute(0, 1, 3, 4, 2).reshape(-1, c)
    out: Tensor = _Gather.apply(rows, table)
    return out.reshape(b, y, x, z, c).permute(0, 4, 3, 1, 2)


class _Gather(torch.autograd.Function):
    """Voxels = table @ pixels; the gradient of the pixels is the transposed table @ voxels'."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: LiftTable) -> Tensor:
        ctx.table, ctx.pixels = table, len(rows)
        return _sum_rows(rows, table.pixels, table.weights, table.offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        voxels, weights, offsets = _transposed(ctx.table, ctx.pixels)
        return _sum_rows(gradients[0].contiguous(), voxels, weights, offsets), None


def _sum_rows(rows: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Return the weighted sums of rows that start at `offsets`; sums are taken in float32."""
    return F.embedding_bag(
        indices, rows, offsets, mode='sum', per_sample_weights=weights.to(rows.dtype)
    )


def _transposed(table: LiftTable, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return voxels, weights and offsets of every pixel's entries."""
    ends = torch.cat([table.offsets[1:], table.offsets.new_tensor([len(table.pixels)])])
    voxels = torch.arange(len(ends), dtype=torch.int32, device=ends.device)
    voxels = voxels.repeat_interleave(ends - table.offsets, output_size=len(table.pixels))
    keys = table.pixels
    if pixels <= 2**16:  # a processor sorts 16-bit numbers by counting them
        keys = (keys - 2**15).short()
    keys, order = keys.sort(stable=True)
    first = torch.arange(pixels, dtype=torch.int32, device=ends.device)
    if pixels <= 2**16:
        first = (first - 2**15).short()
    offsets = torch.searchsorted(keys, first, out_int32=True)
    return voxels[order], table.weights[order], offsets
