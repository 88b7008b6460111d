"""Probability and coverage → cells of `nav_msgs/OccupancyGrid`.

-1 where no live camera sees the cell, else 0..100 = round(100 p). 99 never occurs: nav2's static
layer reads it as "inscribed obstacle"; it becomes 98.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import Cells, Mask, Rigid

UNKNOWN = -1
_INSCRIBED = 99


def to_cells(probability: npt.NDArray[np.float32], valid: Mask) -> Cells:
    """Return int8 cells.

    Args:
        probability: (..., y, x) in 0..1; values that are not finite become unknown.
        valid: (y, x) whether a live camera sees the cell.
    """
    percent = np.rint(np.nan_to_num(probability, nan=-1.0, posinf=-1.0, neginf=-1.0) * 100)
    cells = np.clip(percent, -1, 100).astype(np.int8)
    cells[cells == _INSCRIBED] = _INSCRIBED - 1
    cells[..., ~valid] = UNKNOWN
    return cells


def combine(cells: Cells, channels: Sequence[int]) -> Cells:
    """Return the largest value of some classes per cell; unknown stays unknown.

    Args:
        cells: (class, y, x).
        channels: positions of the classes; none of them gives free cells where one is known.
    """
    if not channels:
        return np.where(cells[0] < 0, cells[0], np.zeros_like(cells[0]))
    combined: Cells = cells[list(channels)].max(axis=0)
    return combined


def grid_origin(grid: BevGrid, base_T_ego: Rigid) -> Rigid:
    """Return `base_T_origin` (4, 4), the pose of the lower corner of cell (0, 0): `info.origin` of
    the message, whose frame is the vehicle's body.

    The grid lies in the gravity-aligned ego frame, on its ground plane; seen from the body it is
    tilted by the vehicle's roll and pitch, which is the origin's orientation.
    """
    ego_T_origin = np.eye(4)
    ego_T_origin[:2, 3] = grid.x_range_m[0], grid.y_range_m[0]
    base_T_origin: Rigid = base_T_ego @ ego_T_origin
    return base_T_origin
