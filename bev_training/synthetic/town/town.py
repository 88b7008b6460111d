"""The town's map: what other modules know of it. Made by `make_town`.

Everything is in the frame `map`: x east, y north, metres, all coordinates positive; the third
coordinate of anything on the ground is `terrain.height_m`. Polygons are shapely's; outlines are
counter-clockwise. Traffic drives on the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from shapely import MultiPolygon, Polygon

from bev_perception.shapes import Array
from bev_training.synthetic.town.terrain import Terrain

Turn = Literal['straight', 'left', 'right']
Line = Literal['none', 'dashed', 'solid', 'double']  # what is painted along a lane's side
Color = tuple[float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Road:
    """A piece of road between two intersections.

    Attributes:
        line: (N, 2) its centre line from node `ends[0]` to node `ends[1]`, at most 1 m between
            points, cut where the intersections begin.
        ends: numbers of the nodes.
        lanes_each_way: 1 or 2.
        parking: (left, right) of the line: a parking lane beside the lanes.
        half_width_m: (left, right): from the centre line to the kerb.
    """

    line: Array
    ends: tuple[int, int]
    lanes_each_way: int
    parking: tuple[bool, bool]
    half_width_m: tuple[float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lane:
    """A lane of a road, or a way across an intersection.

    Attributes:
        line: (N, 2) its centre in the direction of travel, at most 0.5 m between points. It begins
            exactly where a predecessor's ends.
        width_m: its width.
        road: number of the road; -1 inside an intersection.
        node: number of the node inside of which it lies; -1 on a road.
        successors: numbers of the lanes that continue it.
        turn: for ways across intersections.
        sides: (left, right) what is painted along it.
    """

    line: Array
    width_m: float
    road: int
    node: int
    successors: tuple[int, ...]
    turn: Turn = 'straight'
    sides: tuple[Line, Line] = ('none', 'none')


@dataclass(frozen=True, eq=False, kw_only=True)
class Marking:
    """Paint on the ground: a convex quadrilateral (4, 2), and its colour in 0..1.

    `kind` is 'crosswalk' for a crosswalk's bars, 'line' for everything else.
    """

    polygon: Array
    color: Color
    kind: Literal['line', 'crosswalk']


@dataclass(frozen=True, eq=False, kw_only=True)
class Town:
    """A town. Numbers are positions in the tuples.

    Attributes:
        seed: that made it.
        size_m: (x, y): the map's extent; roads end at least 100 m inside it.
        terrain: height of the ground.
        nodes: (N, 2) middle of every intersection.
        roads: between them.
        lanes: on roads and across intersections.
        drivable_area: carriageways, intersections, parking lanes and car parks.
        walkway: sidewalks, without what is drivable.
        intersections: their areas, in the order of `nodes`.
        road_areas: the areas of `roads`, without intersections and car parks.
        crossings: crosswalks' areas.
        carparks: areas of car parks off the road.
        stop_lines: areas, 0.4 to 0.6 m long, across the lanes that must stop.
        road_dividers: lines (M, 2) between directions.
        lane_dividers: lines (M, 2) between lanes of one direction, and between lanes and
            parking lanes; gaps between dashes are bridged.
        markings: the paint.
        bays: (P, 4) parking places: x, y of the middle, yaw of a parked car's heading, length.
        land: where buildings may stand: neither drivable nor walkway, inside the blocks.
        footpaths: lines (M, 2) along which pedestrians walk: sidewalks and crosswalks' middles.
    """

    seed: int
    size_m: tuple[float, float]
    terrain: Terrain
    nodes: Array
    roads: tuple[Road, ...]
    lanes: tuple[Lane, ...]
    drivable_area: MultiPolygon
    walkway: MultiPolygon
    intersections: tuple[Polygon, ...]
    road_areas: tuple[Polygon, ...]
    crossings: tuple[Polygon, ...]
    carparks: tuple[Polygon, ...]
    stop_lines: tuple[Polygon, ...]
    road_dividers: tuple[Array, ...]
    lane_dividers: tuple[Array, ...]
    markings: tuple[Marking, ...]
    bays: Array
    land: MultiPolygon
    footpaths: tuple[Array, ...]

    @property
    def road_boundaries(self) -> tuple[Array, ...]:
        """The edges of the drivable area: closed lines (M, 2)."""
        rings = [r for p in self.drivable_area.geoms for r in (p.exterior, *p.interiors)]
        return tuple(np.asarray(ring.coords)[:, :2] for ring in rings)
