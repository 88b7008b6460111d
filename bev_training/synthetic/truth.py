"""Class grids of the world: which cells are road, lane divider or vehicle.

A cell belongs to a class if its centre lies inside one of the class's polygons. What the sensors
cannot see counts too.
"""

from __future__ import annotations

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, Mask, Rigid
from bev_training.synthetic.world import World

CLASSES = ('drivable_area', 'lane_divider', 'vehicle')


def divider_half_width_m(grid: BevGrid) -> float:
    """Return how far from a divider a cell's centre may lie: paint is thinner than cells."""
    return max(0.3, 0.6 * grid.cell_m)


def class_grids(world: World, grid: BevGrid, odom_T_base: Rigid, time_s: float) -> AnyArray:
    """Return (C, Y, X) uint8 0/1 in the order of CLASSES.

    Cells are in the gravity-aligned ego frame: the origin of base, x its heading in the
    horizontal plane, z up.
    """
    polygons = class_polygons(world, grid, odom_T_base, time_s)
    return np.stack([rasterise(polygons[name], grid) for name in CLASSES]).astype(np.uint8)


def class_polygons(
    world: World, grid: BevGrid, odom_T_base: Rigid, time_s: float
) -> dict[str, list[Array]]:
    """Return the polygons (M, 2) of every class, metres, gravity-aligned ego frame."""
    ego_T_odom = rigid.inverse(odom_T_base @ rigid.level(odom_T_base))
    turn, shift = ego_T_odom[:2, :2], ego_T_odom[:2, 3]
    half = divider_half_width_m(grid)
    in_odom = {
        'drivable_area': list(world.roads),
        'lane_divider': [band(line, half) for line in world.dividers],
        'vehicle': [footprint(box) for box in world.vehicles(time_s)],
    }
    return {name: [p @ turn.T + shift for p in shapes] for name, shapes in in_odom.items()}


def footprint(box: Array) -> Array:
    """Return the rectangle (4, 2) below a box x, y, z, length, width, height, yaw."""
    x, y, _, length, width, _, yaw = box
    c, s = np.cos(yaw), np.sin(yaw)
    corners = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)]) * (length / 2, width / 2)
    return corners @ np.array([[c, s], [-s, c]]) + (x, y)


def band(line: Array, half_width_m: float) -> Array:
    """Return the polygon of a line (M, 2) drawn this wide, with mitred corners and flat ends."""
    along = np.diff(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    normals = np.stack([-along[:, 1], along[:, 0]], -1)
    before = np.concatenate([normals[:1], normals])
    after = np.concatenate([normals, normals[-1:]])
    side = half_width_m * (before + after) / (1 + (before * after).sum(1))[:, None]
    return np.concatenate([line - side, (line + side)[::-1]])


def rasterise(polygons: list[Array], grid: BevGrid) -> Mask:
    """Return (Y, X): whether a cell's centre lies inside any of the polygons (M, 2).

    Each row of cells is cut with the polygon's edges; between an odd and an even cut it is inside.
    """
    _, rows, columns = grid.shape
    inside = np.zeros((rows, columns), bool)
    low = np.array([grid.x_range_m[0], grid.y_range_m[0]])
    for polygon in polygons:
        cells = (polygon - low) / grid.cell_m - 0.5  # centres are integers
        if (cells.max(0) < 0).any() or (cells.min(0) > (columns, rows)).any():
            continue
        (x0, y0), (x1, y1) = cells.T, np.roll(cells, -1, axis=0).T
        first = np.clip(np.ceil(np.minimum(y0, y1)), 0, rows).astype(int)
        last = np.clip(np.ceil(np.maximum(y0, y1)), 0, rows).astype(int)  # upper end not included
        edge = np.repeat(np.arange(len(cells)), last - first)
        start = np.concatenate([[0], np.cumsum(last - first)[:-1]])
        row = np.arange(len(edge)) - start[edge] + first[edge]
        cut = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        column = np.clip(np.ceil(cut), 0, columns).astype(int)
        cuts = np.zeros((rows, columns + 1), int)
        np.add.at(cuts, (row, column), 1)
        inside |= (cuts.cumsum(1)[:, :columns] & 1).astype(bool)
    return inside
