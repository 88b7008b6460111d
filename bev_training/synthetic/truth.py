"""Class grids of the world: which cells are road, sidewalk, lane divider or vehicle.

A cell belongs to a class if its centre lies inside one of the class's polygons, or near enough to
one of its lines. What the sensors cannot see counts too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, Index, Mask, Rigid
from bev_training.synthetic.categories import OBJECTS, VEHICLES
from bev_training.synthetic.rasterise import filled, near_lines
from bev_training.synthetic.town.town import Town
from bev_training.synthetic.world import Boxes, World

CLASSES = (
    'drivable_area', 'walkway', 'ped_crossing', 'carpark_area', 'road_divider', 'lane_divider',
    'road_boundary', 'vehicle', 'pedestrian',
)  # fmt: skip
_AREAS = ('drivable_area', 'walkway', 'ped_crossing', 'carpark_area')
_LINES = ('road_divider', 'lane_divider', 'road_boundary')
_PIECE_M = 1.0  # lines are cut into pieces of at most this length


def line_half_width_m(grid: BevGrid) -> float:
    """Return how far from a line a cell's centre may lie: paint is thinner than cells."""
    return max(0.3, 0.6 * grid.cell_m)


def class_grids(
    world: World, grid: BevGrid, time_s: float, *, ego_T_grid: Rigid | None = None
) -> AnyArray:
    """Return (C, Y, X) uint8 0/1 in the order of CLASSES.

    Args:
        world: what is there.
        grid: in the gravity-aligned ego frame: the origin of base, x its heading in the
            horizontal plane, z up.
        time_s: when.
        ego_T_grid: moves the grid, such as a turn about z for augmentation.
    """
    map_T_ego = ego_pose(world, time_s)
    if ego_T_grid is not None:
        map_T_ego = map_T_ego @ ego_T_grid
    turn, shift = map_T_ego[:2, :2], map_T_ego[:2, 3]
    town = _outlined(world.town)
    boxes = world.boxes(time_s)
    corners = footprints(boxes)
    vehicle = np.isin(boxes.category, [OBJECTS.index(name) for name in VEHICLES])
    pedestrian = boxes.category == OBJECTS.index('pedestrian')
    edges, layer = [town.edges], [town.edge_layer]
    for name, which in (('vehicle', vehicle), ('pedestrian', pedestrian)):
        sides = np.stack([corners[which], np.roll(corners[which], -1, axis=1)], axis=2)
        edges.append(sides.reshape(-1, 2, 2))
        layer.append(np.full(len(edges[-1]), CLASSES.index(name)))

    def in_ego(segments: Array) -> Array:  # one large product: many small ones are slow
        points: Array = (segments.reshape(-1, 2) - shift) @ turn
        return points.reshape(-1, 2, 2)

    every_edge = in_ego(np.concatenate(edges))
    inside = filled(every_edge, np.concatenate(layer), len(CLASSES), grid)
    inside |= near_lines(
        in_ego(town.pieces),
        town.piece_ends,
        town.piece_layer,
        len(CLASSES),
        line_half_width_m(grid),
        grid,
    )
    return inside.astype(np.uint8)


def ego_pose(world: World, time_s: float) -> Rigid:
    """Return map_T_ego of the gravity-aligned ego frame."""
    map_T_base = world.map_T_base(time_s)
    return np.asarray(map_T_base @ rigid.level(map_T_base))


def footprints(boxes: Boxes) -> Array:
    """Return (B, 4, 2): the boxes' bottoms seen from above, map, counter-clockwise."""
    signs = np.array([(1, -1, -1), (1, 1, -1), (-1, 1, -1), (-1, -1, -1)]) / 2
    corners = signs * boxes.size_m[:, None, :]
    return rigid.transform_points(boxes.map_T_box, corners)[..., :2]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Outlined:
    """A town's areas and lines as flat arrays in the map.

    Attributes:
        edges: (E, 2, 2) of areas; outlines counter-clockwise, holes clockwise.
        edge_layer: (E,) positions in CLASSES.
        pieces: (P, 2, 2) of lines.
        piece_ends: (P, 2) whether the line ends there.
        piece_layer: (P,) positions in CLASSES.
    """

    edges: Array
    edge_layer: Index
    pieces: Array
    piece_ends: Mask
    piece_layer: Index


@lru_cache(maxsize=4)
def _outlined(town: Town) -> _Outlined:
    areas: dict[str, list[Any]] = {
        'drivable_area': list(town.drivable_area.geoms),
        'walkway': list(town.walkway.geoms),
        'ped_crossing': list(town.crossings),
        'carpark_area': list(town.carparks),
    }
    lines = {
        'road_divider': town.road_dividers,
        'lane_divider': town.lane_dividers,
        'road_boundary': town.road_boundaries,
    }
    edges, edge_layer = [np.zeros((0, 2, 2))], [np.zeros(0, np.int64)]
    for name in _AREAS:
        for polygon in areas[name]:
            oriented = shapely.orient_polygons(polygon)
            for ring in (oriented.exterior, *oriented.interiors):
                points = np.asarray(ring.coords)[:, :2]
                edges.append(np.stack([points[:-1], points[1:]], 1))
                edge_layer.append(np.full(len(points) - 1, CLASSES.index(name)))
    pieces, ends, piece_layer = [np.zeros((0, 2, 2))], [np.zeros((0, 2), bool)], [np.zeros(0, int)]
    for name in _LINES:
        for line in lines[name]:
            cut = _cut(np.asarray(line, float))
            if len(cut) < 2:
                continue
            pieces.append(np.stack([cut[:-1], cut[1:]], 1))
            end = np.zeros((len(cut) - 1, 2), bool)
            if np.linalg.norm(cut[0] - cut[-1]) > 1e-6:
                end[0, 0] = end[-1, 1] = True
            ends.append(end)
            piece_layer.append(np.full(len(end), CLASSES.index(name)))
    return _Outlined(
        edges=np.concatenate(edges),
        edge_layer=np.concatenate(edge_layer),
        pieces=np.concatenate(pieces),
        piece_ends=np.concatenate(ends),
        piece_layer=np.concatenate(piece_layer),
    )


def _cut(line: Array) -> Array:
    """Return a line (M, 2) with additional points, so that no piece is longer than _PIECE_M."""
    gaps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    line, gaps = line[np.concatenate([[True], gaps > 1e-9])], gaps[gaps > 1e-9]
    parts = np.maximum(np.ceil(gaps / _PIECE_M - 1e-9), 1).astype(int)
    piece = np.repeat(np.arange(len(gaps)), parts)
    start = np.cumsum(parts) - parts
    share = (np.arange(len(piece)) - start[piece]) / parts[piece]
    points = line[:-1][piece] + share[:, None] * np.diff(line, axis=0)[piece]
    return np.concatenate([points, line[-1:]])
