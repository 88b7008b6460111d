"""The BEV grid: the only place that divides metres by a cell size.

It follows `nav_msgs/OccupancyGrid`: the origin is the lower corner of cell (0, 0), x is the column
and y the row. Arrays are `[y, x]` and `[z, y, x]`, so a message's data is `cells.flatten()`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import Index, Mask, Points3


@dataclass(frozen=True, kw_only=True)
class BevGrid:
    """An axis-aligned box of voxels in the gravity-aligned ego frame.

    Attributes:
        x_range_m: (min, max) forward, metres.
        y_range_m: (min, max) left, metres.
        z_range_m: (min, max) up, metres.
        cell_m: edge of a square cell, metres.
        z_cells: number of height layers in `z_range_m`.
    """

    x_range_m: tuple[float, float] = (-50.0, 50.0)
    y_range_m: tuple[float, float] = (-50.0, 50.0)
    z_range_m: tuple[float, float] = (-1.0, 3.0)
    cell_m: float = 0.5
    z_cells: int = 4

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a range is empty or no whole number of cells.
        """
        if not (math.isfinite(self.cell_m) and self.cell_m > 0):
            raise ConfigError(f'cell_m is {self.cell_m}; it must be a positive number of metres')
        if self.z_cells < 1:
            raise ConfigError(f'z_cells is {self.z_cells}; it must be at least 1')
        for name in ('x_range_m', 'y_range_m', 'z_range_m'):
            low, high = getattr(self, name)
            object.__setattr__(self, name, (float(low), float(high)))
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(f'{name} is {(low, high)}; min must be below max')
            cells = (high - low) / self.cell_m
            if name != 'z_range_m' and (round(cells) < 1 or abs(cells - round(cells)) > 1e-6):
                raise ConfigError(
                    f'{name} {(low, high)} is {cells:g} cells of {self.cell_m} m; '
                    'it must be a whole number of cells'
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of cells along (z, y, x)."""
        x, y = (round((hi - lo) / self.cell_m) for lo, hi in (self.x_range_m, self.y_range_m))
        return self.z_cells, y, x

    @property
    def z_cell_m(self) -> float:
        """Height of a layer, metres."""
        return (self.z_range_m[1] - self.z_range_m[0]) / self.z_cells

    def xyz_to_index(self, xyz_ego: Points3) -> tuple[Index, Mask]:
        """Return the cells that hold points.

        Args:
            xyz_ego: (..., 3) metres, ego frame.

        Returns:
            (..., 3) indices in (z, y, x) order, and (...) whether the point lies in the grid
            (lower borders belong to it, upper ones do not; indices outside are not clipped, those
            of points that are not finite are -1).
        """
        low = np.array([self.x_range_m[0], self.y_range_m[0], self.z_range_m[0]])
        cell = np.array([self.cell_m, self.cell_m, self.z_cell_m])
        index = np.floor((np.asarray(xyz_ego) - low) / cell)[..., ::-1]
        valid = ((index >= 0) & (index < self.shape)).all(axis=-1)
        return np.where(np.abs(index) < 2**62, index, -1).astype(np.int64), valid

    def index_to_xyz(self, index_zyx: Index) -> Points3:
        """Return cell centres (..., 3) in metres, ego frame, of indices in (z, y, x) order."""
        low = np.array([self.x_range_m[0], self.y_range_m[0], self.z_range_m[0]])
        cell = np.array([self.cell_m, self.cell_m, self.z_cell_m])
        xyz: Points3 = low + (np.asarray(index_zyx)[..., ::-1] + 0.5) * cell
        return xyz

    def voxel_centers(self) -> Points3:
        """Return the centres of all voxels, (z, y, x, 3), metres, ego frame."""
        return self.index_to_xyz(np.moveaxis(np.indices(self.shape), 0, -1))

    def cell_centers(self) -> Points3:
        """Return the centres of all BEV cells, (y, x, 2), metres, ego frame."""
        _, y, x = self.shape
        index = np.moveaxis(np.indices((1, y, x)), 0, -1)[0]
        return self.index_to_xyz(index)[..., :2]
