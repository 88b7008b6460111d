"""The plane of the instant before, brought into the present ego frame.

Both ego frames are gravity-aligned, so the motion between them is a turn about z and a shift in
the plane (Li et al., "BEVFormer", 2022, section 3.4), about the vehicle, wherever it is in the
grid. Poses are in `odom`, which is smooth; `map` jumps when the vehicle finds itself anew.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.tensors import BevMemory

_STEPS = 2**20  # of a cell: rounding errors of poses must not make a place lie beside a cell's


def align(memory: BevMemory, odom_T_ego: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """Sample the remembered plane bilinearly at the centres of the present cells.

    Args:
        memory: of the instant before; its plane has `grid`'s cells.
        odom_T_ego: (b, 4, 4) float64 present poses, NaN where unknown. Reflected ego frames are
            fine when both are.
        grid: the plane, in the ego frame of its instant.

    Returns:
        (b, c, y, x) of the remembered type, zero where it is not known, and (b, y, x) bool whether
        it is: the centre lies between remembered cells that were known, and both poses are finite.

    Raises:
        ConfigError: the memory is of other cells or of another batch.
    """
    b, c, y, x = memory.features.shape
    if (y, x) != grid.shape[1:] or len(odom_T_ego) != b:
        raise ConfigError(
            f'memory.features is of {b} planes of {y} x {x} cells; there are {len(odom_T_ego)} '
            f'poses, and the grid has {grid.shape[1]} x {grid.shape[2]} cells'
        )
    known, rows, shares = _corners(memory, odom_T_ego, grid)
    plane = memory.features.permute(0, 2, 3, 1).reshape(-1, c)
    dtype = torch.promote_types(plane.dtype, torch.float32)
    warped = F.embedding_bag(
        rows, plane.to(dtype), mode='sum', per_sample_weights=shares.to(dtype)
    ).to(plane.dtype)
    # What is not known may hold anything.
    warped = torch.where(known.reshape(-1, 1), warped, 0)
    return warped.reshape(b, y, x, c).permute(0, 3, 1, 2), known


def _corners(
    memory: BevMemory, odom_T_ego: Tensor, grid: BevGrid
) -> tuple[Tensor, Tensor, Tensor]:
    """Return known (b, y, x), and rows of the remembered planes with weights, (b · y · x, 4)."""
    b, ys, xs = memory.valid.shape
    before_T_now = _inverse(memory.odom_T_ego) @ odom_T_ego
    # Of the grid's own steps along an axis only sums and products follow: exact where motion is.
    low = odom_T_ego.new_tensor([grid.x_range_m[0], grid.y_range_m[0]]) / grid.cell_m + 0.5
    columns = torch.arange(xs, dtype=low.dtype, device=low.device) + low[0]
    lines = torch.arange(ys, dtype=low.dtype, device=low.device) + low[1]
    turn = before_T_now[:, :2, :2, None, None]
    shift = before_T_now[:, :2, 3, None, None] / grid.cell_m - low[:, None, None]
    at = turn[:, :, 0] * columns + turn[:, :, 1] * lines[:, None] + shift  # (b, 2, y, x)
    at = (at * _STEPS).round() / _STEPS
    known = at.isfinite().all(1)
    at = at.nan_to_num(-2, -2, -2).clamp(-2, max(ys, xs) + 1)
    first = at.floor()
    part = at - first
    item = torch.arange(b, device=low.device)[:, None, None] * (ys * xs)
    remembered = memory.valid.reshape(-1)
    rows, shares = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            column, line = first[:, 0].long() + dx, first[:, 1].long() + dy
            share = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            inside = (column >= 0) & (column < xs) & (line >= 0) & (line < ys)
            row = item + line.clamp(0, ys - 1) * xs + column.clamp(0, xs - 1)
            known &= (share == 0) | (inside & remembered[row])
            # A corner without weight may lie outside, or hold what is not a number.
            rows.append(torch.where(share > 0, row, -1))
            shares.append(share)
    picked = torch.stack(rows, -1).reshape(-1, 4)
    rows_or_any = torch.where(picked < 0, picked.amax(-1, keepdim=True), picked)
    return known, rows_or_any, torch.stack(shares, -1).reshape(-1, 4)


def _inverse(dst_T_src: Tensor) -> Tensor:
    """Return the inverse of rigid transforms (b, 4, 4), of reflected ones too."""
    R_T = dst_T_src[:, :3, :3].mT
    inverse = dst_T_src.clone()
    inverse[:, :3, :3] = R_T
    inverse[:, :3, 3:] = -R_T @ dst_T_src[:, :3, 3:]
    return inverse
