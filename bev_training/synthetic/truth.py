"""Class grids of the world: which cells are road, sidewalk, lane divider or vehicle.

A cell belongs to a class if its centre lies inside one of the class's polygons, or near enough to
one of its lines. What the sensors cannot see counts too.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, Rigid
from bev_training.outlines import Outlines, box_bottoms, outlines
from bev_training.synthetic.categories import OBJECTS, VEHICLES
from bev_training.synthetic.town.town import Town
from bev_training.synthetic.world import Boxes, World

CLASSES = (
    'drivable_area', 'walkway', 'ped_crossing', 'carpark_area', 'road_divider', 'lane_divider',
    'road_boundary', 'vehicle', 'pedestrian',
)  # fmt: skip


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
    boxes = world.boxes(time_s)
    vehicle = np.isin(boxes.category, [OBJECTS.index(name) for name in VEHICLES])
    pedestrian = boxes.category == OBJECTS.index('pedestrian')
    labelled = vehicle | pedestrian
    layer = np.where(vehicle, CLASSES.index('vehicle'), CLASSES.index('pedestrian'))
    every = _outlined(world.town).with_rings(footprints(boxes)[labelled], layer[labelled])
    return every.rasterised(map_T_ego, grid).astype(np.uint8)


def ego_pose(world: World, time_s: float) -> Rigid:
    """Return map_T_ego of the gravity-aligned ego frame."""
    map_T_base = world.map_T_base(time_s)
    return np.asarray(map_T_base @ rigid.level(map_T_base))


def footprints(boxes: Boxes) -> Array:
    """Return (B, 4, 2): the boxes' bottoms seen from above, map, counter-clockwise."""
    return box_bottoms(boxes.map_T_box, boxes.size_m)


@lru_cache(maxsize=4)
def _outlined(town: Town) -> Outlines:
    return outlines(
        CLASSES,
        areas={
            'drivable_area': town.drivable_area.geoms,
            'walkway': town.walkway.geoms,
            'ped_crossing': town.crossings,
            'carpark_area': town.carparks,
        },
        lines={
            'road_divider': town.road_dividers,
            'lane_divider': town.lane_dividers,
            'road_boundary': town.road_boundaries,
        },
    )
