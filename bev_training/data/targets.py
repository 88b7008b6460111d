"""Where objects have their middles, as grids: what the centre and offset heads learn.

As in Harley et al., "Simple-BEV", 2023, section 3, after Cheng et al., "Panoptic-DeepLab", 2020:
a peak per object, and for each of its cells the way to the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import Array, Mask
from bev_training.data.sample import HIDDEN_UP_TO, GroundBoxes

RADIUS_CELLS = 3.0  # where a peak has fallen to 1/e
_CLASS = 'vehicle'


@dataclass(frozen=True, eq=False, kw_only=True)
class CenterTargets:
    """Middles of objects in a grid.

    Attributes:
        center: (1, y, x) in 0..1: exp(-(d / RADIUS_CELLS)^2) with the distance d in cells to the
            cell that holds the nearest object's middle.
        offset: (2, y, x) from a cell's centre to the exact middle of the object that covers it,
            in cells along x and y; 0 elsewhere.
        in_object: (1, y, x) cells with an offset.
    """

    center: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    in_object: Mask


def center_targets(
    boxes: GroundBoxes, grid: BevGrid, visibility: Literal['visible', 'all']
) -> CenterTargets:
    """Make the targets of the vehicles in a sample.

    A box covers the cells whose centre lies in its footprint, and the one that holds its middle;
    where footprints overlap, a cell belongs to the nearest middle.

    Args:
        boxes: all objects of the sample.
        grid: of the targets.
        visibility: 'visible' leaves out objects seen to `HIDDEN_UP_TO` or less.
    """
    _, rows, columns = grid.shape
    nearest = np.full((rows, columns), np.inf)  # squared distance of peaks, cells
    within = np.full((rows, columns), np.inf)  # squared distance of middles, cells
    offset = np.zeros((2, rows, columns), np.float32)
    for i, name in enumerate(boxes.names):
        if name != _CLASS or (visibility == 'visible' and boxes.visibility[i] <= HIDDEN_UP_TO):
            continue
        # In cells, integers at centres.
        at_x = (boxes.center_m[i, 0] - grid.x_range_m[0]) / grid.cell_m - 0.5
        at_y = (boxes.center_m[i, 1] - grid.y_range_m[0]) / grid.cell_m - 0.5
        peak_x, peak_y = np.floor(at_x + 0.5), np.floor(at_y + 0.5)
        # Beyond four radii a peak is below 1e-6.
        reach = max(4 * RADIUS_CELLS, np.hypot(*boxes.size_m[i, :2]) / 2 / grid.cell_m + 1)
        window = _window(peak_x, peak_y, reach, rows, columns)
        y, x = np.mgrid[window].astype(np.float64)
        if not x.size:
            continue
        np.minimum(nearest[window], (x - peak_x) ** 2 + (y - peak_y) ** 2, out=nearest[window])
        to_x, to_y = at_x - x, at_y - y
        covered = _covered(to_x, to_y, boxes.size_m[i, :2] / grid.cell_m, boxes.yaw_rad[i])
        covered |= (x == peak_x) & (y == peak_y)
        squared = to_x**2 + to_y**2
        wins = covered & (squared < within[window])
        within[window][wins] = squared[wins]
        offset[(0, *window)][wins] = to_x[wins]
        offset[(1, *window)][wins] = to_y[wins]
    return CenterTargets(
        center=np.exp(-nearest / RADIUS_CELLS**2).astype(np.float32)[None],
        offset=offset,
        in_object=np.isfinite(within)[None],
    )


def _window(x: float, y: float, reach: float, rows: int, columns: int) -> tuple[slice, slice]:
    """Return the (rows, columns) of the grid within `reach` of a cell."""
    low = np.floor([y - reach, x - reach])
    high = np.ceil([y + reach, x + reach]) + 1
    y0, x0 = np.clip(low, 0, (rows, columns)).astype(int).tolist()
    y1, x1 = np.clip(high, 0, (rows, columns)).astype(int).tolist()
    return slice(y0, y1), slice(x0, x1)


def _covered(to_x: Array, to_y: Array, size: Array, yaw_rad: float) -> Mask:
    """Whether vectors from cells to a middle stay within a rectangle (length, width), turned."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    along, across = to_x * c + to_y * s, to_y * c - to_x * s
    edge = size / 2 + 1e-9  # a border belongs to the box
    return np.asarray((np.abs(along) <= edge[0]) & (np.abs(across) <= edge[1]))
