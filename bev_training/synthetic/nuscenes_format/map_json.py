"""A town as nuScenes' map expansion, version 1.3, the way its devkit reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from shapely import LineString, MultiPolygon, Point, Polygon

from bev_perception.shapes import Array
from bev_training.nuscenes_tables import Record
from bev_training.synthetic.nuscenes_format.arcs import arc_chain
from bev_training.synthetic.nuscenes_format.geometry_layers import (
    GeometryLayers,
    beside,
    distinct,
    parts,
    slim_line,
    spare,
    with_corners,
)
from bev_training.synthetic.town.town import Lane, Town

Sides = tuple[Array, Array]  # left and right edge, (N, 2) each, along the way

VERSION = '1.3'
SEGMENT_TYPES = {
    'none': 'NIL',
    'dashed': 'DOUBLE_DASHED_WHITE',  # nuScenes' only dashed one
    'solid': 'SINGLE_SOLID_WHITE',
    'double': 'DOUBLE_SOLID_WHITE',
}
_CROSSING_NEAR_M = 4.0  # a stop line this near to a crosswalk is there for it


def map_expansion(town: Town, *, seed: int, name: str) -> dict[str, Any]:
    """Return the content of `maps/expansion/<name>.json`.

    Args:
        town: the map.
        seed: of the data set; only tokens depend on it.
        name: of the map; only tokens depend on it.
    """
    geometry = GeometryLayers(seed, name)
    sides = [lane_sides(town, number) for number in range(len(town.lanes))]
    areas = _areas(town, geometry, sides)
    lanes = _lanes(town, geometry, sides)
    dividers = _dividers(town, geometry)
    return {
        'version': VERSION,
        'canvas_edge': [float(edge) for edge in town.size_m],
        **geometry.layers(),
        **areas,
        **lanes,
        **dividers,
        'traffic_light': [],
    }


def lane_token(geometry: GeometryLayers, town: Town, number: int) -> str:
    """Return the token of a lane, which is a connector if it lies in an intersection."""
    return geometry.token('lane' if town.lanes[number].road >= 0 else 'lane_connector', number)


def _areas(town: Town, geometry: GeometryLayers, sides: list[Sides]) -> dict[str, list[Record]]:
    """Return the layers that are areas, but for lanes."""
    sides = [*sides, *(_block_sides(town, number, way) for number, way in _ways(town))]
    corners = np.array([line[end] for pair in sides for line in pair for end in (0, -1)])
    token = geometry.token
    drivable = token('drivable_area', 0)
    segments = [
        {
            'token': token('road_segment', number),
            # lanes share their ends' nodes with what they lead to
            'polygon_token': geometry.polygon(with_corners(spare(area), corners)),
            'is_intersection': crossing,
            'drivable_area_token': drivable,
        }
        for number, (area, crossing) in enumerate(
            [(a, False) for a in town.road_areas] + [(a, True) for a in town.intersections]
        )
    ]
    at = shapely.STRtree([*town.road_areas, *town.intersections])

    def segment(area: Polygon) -> str:
        return str(segments[int(at.nearest(area.centroid))]['token'])

    crossings = [
        {
            'token': token('ped_crossing', number),
            'polygon_token': geometry.polygon(spare(area)),
            'road_segment_token': segment(area),
        }
        for number, area in enumerate(town.crossings)
    ]
    blocks, edges = _road_blocks(town, geometry, [str(s['token']) for s in segments])
    block_at = shapely.STRtree(edges) if edges else None

    def block(area: Polygon) -> str:
        near = None if block_at is None else block_at.nearest(area.centroid)
        return '' if near is None else str(blocks[int(near)]['token'])

    return {
        'drivable_area': [
            {
                'token': drivable,
                'polygon_tokens': [geometry.polygon(p) for p in parts(town.drivable_area)],
            }
        ],
        'road_segment': segments,
        'road_block': blocks,
        'ped_crossing': crossings,
        'walkway': [
            {'token': token('walkway', number), 'polygon_token': geometry.polygon(area)}
            for number, area in enumerate(parts(town.walkway))
        ],
        'stop_line': [
            {
                'token': token('stop_line', number),
                'polygon_token': geometry.polygon(spare(area)),
                'stop_line_type': 'PED_CROSSING' if near else 'STOP_SIGN',
                'ped_crossing_tokens': [crossings[i]['token'] for i in near],
                'traffic_light_tokens': [],
                'road_block_token': block(area),
            }
            for number, area in enumerate(town.stop_lines)
            for near in [_nearest(area, town.crossings)]
        ],
        'carpark_area': [
            {
                'token': token('carpark_area', number),
                'polygon_token': geometry.polygon(spare(area)),
                'orientation': _orientation(area),
                'road_block_token': block(area),
            }
            for number, area in enumerate(town.carparks)
        ],
    }


def _road_blocks(
    town: Town, geometry: GeometryLayers, segments: list[str]
) -> tuple[list[Record], list[Polygon]]:
    """Return one block per road and direction, and their areas: what is right of the centre."""
    blocks, areas = [], []
    for number, way in _ways(town):
        middle, kerb = _block_sides(town, number, way)
        area = Polygon(np.concatenate([kerb, middle[::-1]]))
        if not area.is_valid:  # a bend tighter than half the road
            area = max(shapely.get_parts(area.buffer(0)), key=lambda part: part.area)
        areas.append(area)
        blocks.append(
            {
                'token': geometry.token('road_block', number, way),
                'polygon_token': geometry.polygon(area),
                'from_edge_line_token': geometry.line([middle[0], kerb[0]]),
                'to_edge_line_token': geometry.line([middle[-1], kerb[-1]]),
                'road_segment_token': segments[number],
            }
        )
    return blocks, areas


def _ways(town: Town) -> list[tuple[int, int]]:
    """Return (number of the road, 0 along it or 1 against it)."""
    return [(number, way) for number in range(len(town.roads)) for way in (0, 1)]


def _block_sides(town: Town, number: int, way: int) -> Sides:
    """Return the left and right edge of one direction of a road: centre line and kerb."""
    road = town.roads[number]
    line = distinct(road.line)[:: -1 if way else 1]
    return slim_line(line), slim_line(beside(line, -road.half_width_m[1 - way]))


def _lanes(town: Town, geometry: GeometryLayers, sides: list[Sides]) -> dict[str, Any]:
    """Return the layers lane and lane_connector, their centre lines and how they follow."""
    tokens = [lane_token(geometry, town, number) for number in range(len(town.lanes))]
    incoming: list[list[str]] = [[] for _ in tokens]
    for number, lane in enumerate(town.lanes):
        for successor in lane.successors:
            incoming[successor].append(tokens[number])
    lanes, connectors = [], []
    for number, lane in enumerate(town.lanes):
        left, right = sides[number]
        record: Record = {
            'token': tokens[number],
            'polygon_token': geometry.polygon(_lane_area(lane, left, right)),
        }
        if lane.road < 0:
            connectors.append(record)
            continue
        record |= {
            'lane_type': 'CAR',
            'from_edge_line_token': geometry.line([left[0], right[0]]),
            'to_edge_line_token': geometry.line([left[-1], right[-1]]),
        }
        for name, line, kind in zip(('left', 'right'), (left, right), lane.sides, strict=True):
            record[f'{name}_lane_divider_segments'] = _segments(geometry, line, kind)
        lanes.append(record)
    return {
        'lane': lanes,
        'lane_connector': connectors,
        'arcline_path_3': {
            token: arc_chain(distinct(lane.line))
            for token, lane in zip(tokens, town.lanes, strict=True)
        },
        'connectivity': {
            token: {'incoming': before, 'outgoing': [tokens[i] for i in lane.successors]}
            for token, before, lane in zip(tokens, incoming, town.lanes, strict=True)
        },
    }


def lane_sides(town: Town, number: int) -> Sides:
    """Return the left and right edge (N, 2) of a lane.

    A connector's ends take width and direction of the lanes that it joins, so that they share
    their edges.
    """
    lane = town.lanes[number]
    left, right = _edges(lane)
    if lane.road < 0:
        for at, joined in ((0, _before(town, number)), (-1, _after(lane))):
            if joined is None:
                continue
            other = town.lanes[joined]
            edge = -1 if at == 0 else 0
            left[at], right[at] = (line[edge] for line in _edges(other))
    return slim_line(left), slim_line(right)


def _edges(lane: Lane) -> Sides:
    line = distinct(lane.line)
    return beside(line, lane.width_m / 2), beside(line, -lane.width_m / 2)


def _after(lane: Lane) -> int | None:
    return lane.successors[0] if lane.successors else None


def _before(town: Town, number: int) -> int | None:
    return next((i for i, lane in enumerate(town.lanes) if number in lane.successors), None)


def _lane_area(lane: Lane, left: Array, right: Array) -> Polygon:
    area = Polygon(np.concatenate([right, left[::-1]]))
    if area.is_valid:
        return area
    # a curve tighter than half the lane's width: its inner edge crosses itself
    band = LineString(lane.line).buffer(lane.width_m / 2, cap_style='flat')
    return max(band.geoms, key=lambda p: p.area) if isinstance(band, MultiPolygon) else band


def _dividers(town: Town, geometry: GeometryLayers) -> dict[str, list[Record]]:
    """Return the layers road_divider and lane_divider."""
    token = geometry.token
    at = shapely.STRtree(town.road_areas)
    painted = [
        (LineString(side), kind)
        for lane, (left, right) in ((lane, _edges(lane)) for lane in town.lanes if lane.road >= 0)
        for side, kind in zip((left, right), lane.sides, strict=True)
    ]
    sides = shapely.STRtree([side for side, _ in painted])
    roads, lanes = [], []
    for number, line in enumerate(town.road_dividers):
        on = int(at.nearest(Point(line[len(line) // 2])))
        roads.append(
            {
                'token': token('road_divider', number),
                'line_token': geometry.line(slim_line(line)),
                'road_segment_token': token('road_segment', on),
            }
        )
    for number, line in enumerate(town.lane_dividers):
        slim = slim_line(line)
        kind = painted[int(sides.nearest(Point(line[len(line) // 2])))][1]
        lanes.append(
            {
                'token': token('lane_divider', number),
                'line_token': geometry.line(slim),
                'lane_divider_segments': _segments(geometry, slim, kind),
            }
        )
    return {'road_divider': roads, 'lane_divider': lanes}


def _segments(geometry: GeometryLayers, line: Array, kind: str) -> list[Record]:
    """Return the nodes of a divider, each with the paint from it to the next one."""
    return [
        {'node_token': node, 'segment_type': SEGMENT_TYPES[kind]} for node in geometry.nodes(line)
    ]


def _nearest(area: Polygon, crossings: tuple[Polygon, ...]) -> list[int]:
    """Return the number of the crosswalk that a stop line is there for, if any."""
    gaps = [area.distance(crossing) for crossing in crossings]
    best = int(np.argmin(gaps)) if gaps else -1
    return [best] if gaps and gaps[best] <= _CROSSING_NEAR_M else []


def _orientation(area: Polygon) -> float:
    """Return the heading of an area's longer side, radians in 0..pi."""
    box = np.asarray(area.minimum_rotated_rectangle.exterior.coords)
    sides = np.diff(box[:3], axis=0)
    x, y = sides[np.linalg.norm(sides, axis=1).argmax()]
    return float(np.arctan2(y, x) % np.pi)
