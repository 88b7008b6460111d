"""The town's map: what everything else in a drive relies on."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import shapely
from shapely import Geometry, LineString, MultiPoint, Polygon

from bev_perception.shapes import Array
from bev_training.synthetic.town.make import make_town
from bev_training.synthetic.town.town import Lane, Marking, Road, Town

SEEDS = (0, 1, 7)
TOUCH_M = 0.01  # unions of areas snap to a grid much finer than this
HALF_CAR_M = 1.0


@cache
def town_of(seed: int) -> Town:
    return make_town(seed)


@pytest.fixture(params=SEEDS)
def town(request: pytest.FixtureRequest) -> Town:
    return town_of(request.param)


def flat(value: object) -> list[Array]:
    """All numbers of a value, as arrays."""
    if isinstance(value, Geometry):
        return [shapely.get_coordinates(value)]
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple):
        return [array for item in value for array in flat(item)]
    if isinstance(value, Road | Lane | Marking):
        return [array for f in fields(value) for array in flat(getattr(value, f.name))]
    return [np.array([str(value)])]


def numbers(town: Town) -> list[Array]:
    parts = [f.name for f in fields(town) if f.name not in ('seed', 'terrain')]
    return [town.terrain.waves, *(a for name in parts for a in flat(getattr(town, name)))]


def overlap_m2(first: Geometry, second: Geometry) -> float:
    return float(first.intersection(second).area)


def heading_gap_deg(first: Array, second: Array) -> float:
    """Between the end of one line and the start of another."""
    ahead, onward = first[-1] - first[-2], second[1] - second[0]
    yaws = [np.arctan2(v[1], v[0]) for v in (ahead, onward)]
    return float(np.rad2deg(abs((yaws[1] - yaws[0] + np.pi) % (2 * np.pi) - np.pi)))


def test_the_same_seed_gives_the_same_town_and_another_one_another() -> None:
    first, again, other = numbers(town_of(1)), numbers(make_town(1)), numbers(make_town(2))
    assert len(first) == len(again)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(town_of(1).nodes, make_town(2).nodes)
    assert [a.shape for a in first] != [a.shape for a in other]


@pytest.mark.parametrize('blocks', [(1, 1), (2, 1), (3, 4)])
def test_small_towns_have_that_many_nodes(blocks: tuple[int, int]) -> None:
    town = make_town(3, blocks=blocks)
    assert len(town.nodes) == len(town.intersections) == (blocks[0] + 1) * (blocks[1] + 1)
    assert all(lane.successors for lane in town.lanes)


def test_no_slope_exceeds_four_percent(town: Town) -> None:
    xy = np.random.default_rng(0).uniform((0, 0), town.size_m, (20_000, 2))
    grade = np.linalg.norm(town.terrain.slope(xy), axis=1).max()
    assert 0.002 < grade <= 0.04
    east = (town.terrain.height_m(xy + (0.01, 0)) - town.terrain.height_m(xy)) / 0.01
    np.testing.assert_allclose(east, town.terrain.slope(xy)[:, 0], atol=1e-4)


def test_everything_is_well_inside_the_map(town: Town) -> None:
    low, high = np.array([0.0, 0.0]), np.array(town.size_m)
    for xy in numbers(town)[1:]:
        if xy.ndim == 2 and xy.shape[1] == 2:
            assert (xy > low).all() and (xy < high).all()
    left, bottom, right, top = town.drivable_area.bounds
    assert min(left, bottom, high[0] - right, high[1] - top) >= 100


def test_there_are_no_dead_ends_and_all_nodes_are_joined(town: Town) -> None:
    ends = np.array([road.ends for road in town.roads])
    assert np.bincount(ends.ravel(), minlength=len(town.nodes)).min() >= 2
    reached = {0}
    for _ in town.nodes:
        reached |= {n for pair in ends.tolist() if reached & set(pair) for n in pair}
    assert reached == set(range(len(town.nodes)))


def test_roads_are_smooth_and_have_room_between_intersections(town: Town) -> None:
    for road in town.roads:
        steps = np.diff(road.line, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        assert lengths.max() <= 1.0
        assert lengths.sum() > 20
        yaw = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        radius = lengths[:-1] / np.maximum(np.abs(np.diff(yaw)), 1e-9)
        assert radius.min() > 33


def test_lanes_join_in_position_and_heading(town: Town) -> None:
    for lane in town.lanes:
        assert lane.successors
        steps = np.diff(lane.line, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        assert 0.2 < lengths.min() and lengths.max() <= 0.5
        yaw = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        assert np.rad2deg(np.abs(np.diff(yaw))).max() < 10
        for number in lane.successors:
            follower = town.lanes[number]
            np.testing.assert_array_equal(follower.line[0], lane.line[-1])
            assert heading_gap_deg(lane.line, follower.line) < 5
            assert (lane.road < 0) != (follower.road < 0)


def test_every_lane_is_reached_from_another_and_says_where_it_lies(town: Town) -> None:
    assert {n for lane in town.lanes for n in lane.successors} == set(range(len(town.lanes)))
    for lane in town.lanes:
        assert (lane.road < 0) == (lane.node >= 0)
        area = town.road_areas[lane.road] if lane.road >= 0 else town.intersections[lane.node]
        assert area.buffer(TOUCH_M).covers(LineString(lane.line))


def test_turns_are_what_they_are_called(town: Town) -> None:
    for lane in town.lanes:
        if lane.road < 0:
            ends = np.array([lane.line[1] - lane.line[0], lane.line[-1] - lane.line[-2]])
            yaw = np.arctan2(ends[:, 1], ends[:, 0])
            turn = np.rad2deg((yaw[1] - yaw[0] + np.pi) % (2 * np.pi) - np.pi)
            low, high = {'left': (45, 140), 'right': (-140, -45), 'straight': (-45, 45)}[lane.turn]
            assert low < turn < high


def test_traffic_keeps_to_the_right(town: Town) -> None:
    for lane in town.lanes:
        if lane.road >= 0:
            road = LineString(town.roads[lane.road].line)
            middle = lane.line[len(lane.line) // 2]
            at = road.project(shapely.Point(middle))
            ahead = lane.line[len(lane.line) // 2 + 1] - middle
            to_centre = np.array(road.interpolate(at).coords[0]) - middle
            assert ahead[0] * to_centre[1] - ahead[1] * to_centre[0] > 0


def test_a_car_on_any_lane_stays_on_drivable_area(town: Town) -> None:
    narrowed = town.drivable_area.buffer(-HALF_CAR_M)
    shapely.prepare(narrowed)
    outside = [i for i, x in enumerate(town.lanes) if not narrowed.covers(LineString(x.line))]
    assert outside == []


def test_polygons_are_valid_counter_clockwise_and_not_slivers(town: Town) -> None:
    areas = town.road_areas + town.intersections + town.crossings
    areas += town.carparks + town.stop_lines
    areas += tuple(town.drivable_area.geoms) + tuple(town.walkway.geoms) + tuple(town.land.geoms)
    for area in areas:
        assert isinstance(area, Polygon)
        assert area.is_valid and area.exterior.is_ccw
        assert area.area > 1.0
    assert town.drivable_area.is_valid and town.walkway.is_valid and town.land.is_valid
    assert len(town.drivable_area.geoms) == 1
    holes = [Polygon(ring).area for p in town.drivable_area.geoms for ring in p.interiors]
    assert min(holes) > 500


def test_walkway_drivable_area_and_land_share_nothing(town: Town) -> None:
    assert overlap_m2(town.walkway, town.drivable_area) < 1e-3
    assert overlap_m2(town.land, town.drivable_area) < 1e-3
    assert overlap_m2(town.land, town.walkway) < 1e-3
    assert all(overlap_m2(town.land, area) < 1e-3 for area in town.carparks)


def test_parts_of_the_drivable_area_fill_it_without_sharing(town: Town) -> None:
    parts = [*town.road_areas, *town.intersections, *town.carparks]
    total = sum(p.area for p in parts)
    assert town.drivable_area.area == pytest.approx(total, abs=1.0)
    assert shapely.union_all(parts).area == pytest.approx(total, abs=1.0)


def test_crossings_and_stop_lines_lie_on_roads(town: Town) -> None:
    roads = shapely.union_all(town.road_areas).buffer(TOUCH_M)
    assert town.crossings and town.stop_lines
    assert all(roads.covers(area) for area in (*town.crossings, *town.stop_lines))
    crossings = shapely.union_all(town.crossings)
    assert all(overlap_m2(area, crossings) == 0 for area in town.stop_lines)


def test_stop_lines_lie_across_lanes_shortly_before_they_end(town: Town) -> None:
    arriving = MultiPoint([x.line[-1] for x in town.lanes if x.road >= 0])
    leaving = MultiPoint([x.line[0] for x in town.lanes if x.road >= 0])
    for area in town.stop_lines:
        assert area.distance(arriving) < min(7.0, area.distance(leaving))


def test_dividers_lie_inside_roads_and_bends(town: Town) -> None:
    roads = shapely.union_all([*town.road_areas, *town.intersections]).buffer(TOUCH_M)
    assert town.lane_dividers
    for line in (*town.road_dividers, *town.lane_dividers):
        assert len(line) > 1 and roads.covers(LineString(line))


def test_cars_in_bays_are_on_drivable_area_and_away_from_lanes(town: Town) -> None:
    x, y, yaw, length = town.bays.T
    ahead = np.stack([np.cos(yaw), np.sin(yaw)], -1) * (length[:, None] / 2 - 0.3)
    side = np.stack([-np.sin(yaw), np.cos(yaw)], -1) * 0.9
    middle = np.stack([x, y], -1)
    corners = np.stack([middle + a * ahead + b * side for a, b in SIGNS], 1)
    cars = shapely.polygons(corners)
    assert len(cars) > 50
    assert town.drivable_area.buffer(0.05).covers(shapely.union_all(cars))
    lanes = shapely.union_all([LineString(lane.line) for lane in town.lanes])
    assert shapely.distance(cars, lanes).min() > 1.2
    crossings = shapely.union_all([*town.crossings, *town.intersections])
    assert shapely.distance(cars[length > 6], crossings).min() >= 6
    tree = shapely.STRtree(cars)
    assert all(a == b for a, b in tree.query(cars, predicate='intersects').T)


SIGNS = ((1, 1), (-1, 1), (-1, -1), (1, -1))


def test_roadside_bays_head_with_the_traffic_beside_them(town: Town) -> None:
    points = np.concatenate([x.line[:-1] for x in town.lanes if x.road >= 0])
    ahead = np.concatenate([np.diff(x.line, axis=0) for x in town.lanes if x.road >= 0])
    for x, y, yaw, _ in town.bays[town.bays[:, 3] > 6]:
        nearest = ahead[np.argmin(np.hypot(points[:, 0] - x, points[:, 1] - y))]
        assert nearest @ (np.cos(yaw), np.sin(yaw)) > 0.99 * np.linalg.norm(nearest)


def test_carparks_are_joined_to_a_road(town: Town) -> None:
    roads = shapely.union_all([*town.road_areas, *town.intersections])
    assert town.carparks
    for area in town.carparks:
        assert 5 < area.buffer(0.02).intersection(roads.boundary).length < 8


def test_markings_are_convex_counter_clockwise_and_on_drivable_area(town: Town) -> None:
    quads = np.stack([marking.polygon for marking in town.markings])
    edges = np.roll(quads, -1, axis=1) - quads
    after = np.roll(edges, -1, axis=1)
    assert (edges[..., 0] * after[..., 1] - edges[..., 1] * after[..., 0] > 0).all()
    area = town.drivable_area.buffer(TOUCH_M)
    shapely.prepare(area)
    assert area.covers(shapely.polygons(quads)).all()
    colors = np.array([marking.color for marking in town.markings])
    assert (colors > 0).all() and (colors < 1).all()
    bars = quads[[marking.kind == 'crosswalk' for marking in town.markings]]
    assert (
        shapely.union_all(town.crossings)
        .buffer(0.1)
        .covers(shapely.union_all(shapely.polygons(bars)))
    )


def test_footpaths_are_on_sidewalks_and_crosswalks(town: Town) -> None:
    ways = shapely.union_all([town.walkway, town.drivable_area.intersection(carpark_ways(town))])
    ways = shapely.union_all([ways, *town.crossings]).buffer(0.05)
    shapely.prepare(ways)
    lines = [LineString(path) for path in town.footpaths]
    assert min(line.length for line in lines) >= 5
    assert all(ways.covers(line) for line in lines)
    assert len(lines) == 2 * len(town.roads) + len(town.crossings)


def carpark_ways(town: Town) -> Geometry:
    """Where footpaths cross the driveways of car parks."""
    return shapely.union_all(town.carparks).buffer(0.1)


def test_sidewalks_go_on_around_the_corner(town: Town) -> None:
    sides = town.footpaths[: 2 * len(town.roads)]
    starts = np.stack([path[0] for path in sides])
    for path in sides:
        assert np.linalg.norm(starts - path[-1], axis=1).min() < 1e-6
