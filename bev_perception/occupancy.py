"""Probability and coverage → cells of `nav_msgs/OccupancyGrid`.

-1 where no live camera sees the cell, else 0..100 = round(100 p). 99 never occurs: nav2's static
layer reads it as "inscribed obstacle"; it becomes 98.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import Cells, Mask

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
