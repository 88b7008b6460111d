"""A drive's world: who moves where, that nobody meets anybody, and that seeds decide all of it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely import Polygon

from bev_perception.errors import ConfigError
from bev_perception.geometry import rigid
from bev_training.synthetic.categories import OBJECTS, VEHICLES
from bev_training.synthetic.conditions import WEATHERS, draw_conditions
from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.objects.motion import drive_along, resampled
from bev_training.synthetic.objects.scenery import rectangle
from bev_training.synthetic.world import World

SECONDS = 6.0


@pytest.fixture(scope='module')
def world() -> World:
    return make_world(seed=4, seconds=SECONDS)


def footprints(world: World, time_s: float, categories: tuple[str, ...]) -> dict[int, Polygon]:
    poses = world.poses(time_s)
    outlines = {}
    for i in np.flatnonzero(world.present(time_s)).tolist():
        actor = world.actors[i]
        if actor.category in categories:
            x, y = poses[i, :2, 3]
            yaw = np.arctan2(poses[i, 1, 0], poses[i, 0, 0])
            outlines[i] = rectangle(x, y, yaw, *actor.mesh.size_m[:2])
    return outlines


def test_there_is_something_to_see(world: World) -> None:
    kinds = {actor.category for actor in world.actors}
    assert {'car', 'pedestrian', 'building', 'vegetation', 'pole'} <= kinds
    moving = [a for a in world.actors if a.motion and a.category in VEHICLES]
    assert len(moving) >= 5
    assert sum(a.parked for a in world.actors) >= 10


@pytest.mark.parametrize('seed', [4, 5])
def test_nobody_meets_anybody(seed: int) -> None:
    world = make_world(seed=seed, seconds=SECONDS)
    for time_s in np.arange(0, SECONDS + 0.1, 0.2):
        bodies = footprints(world, float(time_s), (*VEHICLES, 'pedestrian'))
        x, y, yaw = world.ego.at(time_s)
        ego = rectangle(x + 1.4 * np.cos(yaw), y + 1.4 * np.sin(yaw), yaw, 4.6, 1.9)
        outlines = [ego, *bodies.values()]
        moving = {n + 1 for n, i in enumerate(bodies) if world.actors[i].motion} | {0}
        tree = shapely.STRtree(outlines)
        for n in moving:
            met = set(tree.query(outlines[n], predicate='intersects').tolist()) - {n}
            kinds = [None, *(world.actors[i].category for i in bodies)]
            # a trailer and its tractor are one vehicle that bends between them
            if kinds[n] == 'trailer':
                met -= {n - 1}
            if kinds[n] == 'truck' and kinds[min(n + 1, len(kinds) - 1)] == 'trailer':
                met -= {n + 1}
            assert not met, (time_s, n, met)


def test_vehicles_drive_on_the_road_and_forwards(world: World) -> None:
    road = world.town.drivable_area.buffer(0.3)
    shapely.prepare(road)
    for i in world.movers:
        actor = world.actors[i]
        if actor.category not in VEHICLES or not world.present(1.2)[i]:
            continue
        before, after = world.poses(1.0)[i], world.poses(1.2)[i]
        assert shapely.contains_xy(road, *after[:2, 3])
        moved = after[:3, 3] - before[:3, 3]
        if np.linalg.norm(moved) > 0.2:
            ahead = moved @ after[:3, 0] / np.linalg.norm(moved)
            assert ahead > 0.97


def test_the_vehicle_stays_in_its_lane(world: World) -> None:
    lines = shapely.MultiLineString([lane.line for lane in world.town.lanes])
    for time_s in np.linspace(0, SECONDS, 25):
        pose = world.map_T_base(float(time_s))
        assert lines.distance(shapely.Point(pose[:2, 3])) < 0.1
        assert abs(pose[2, 3] - world.town.terrain.height_m(pose[:2, 3])) < 1e-9


def test_odom_starts_level_at_the_first_position(world: World) -> None:
    first = world.odom_T_base(0.0)
    np.testing.assert_allclose(first[:3, 3], 0, atol=1e-9)
    np.testing.assert_allclose(world.map_T_odom[:3, 2], (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(first[1, 0], 0, atol=1e-9)  # heading along odom's x
    np.testing.assert_allclose(
        world.map_T_odom @ world.odom_T_base(2.0), world.map_T_base(2.0), atol=1e-9
    )


def test_things_stand_on_the_ground(world: World) -> None:
    poses = world.poses(2.0)
    height = world.town.terrain.height_m(poses[:, :2, 3])
    for i in np.flatnonzero(world.present(2.0)):
        actor = world.actors[i]
        off = poses[i, 2, 3] - height[i]
        if actor.category == 'building':
            assert -1.5 < off < 0  # down to the lowest corner
        else:  # a lamp's foot is beside the middle of its box
            assert abs(off) < (0.2 if actor.category == 'pole' else 1e-9)
        np.testing.assert_allclose(poses[i, :3, :3] @ poses[i, :3, :3].T, np.eye(3), atol=1e-9)


def test_boxes_hold_the_meshes(world: World) -> None:
    boxes = world.boxes(1.0)
    poses = world.poses(1.0)
    assert [OBJECTS[c] for c in boxes.category] == [world.actors[i].category for i in boxes.actor]
    for n, i in enumerate(boxes.actor):
        local = rigid.transform_points(
            rigid.inverse(boxes.map_T_box[n]), world.actors[i].mesh.placed(poses[i])
        )
        assert (np.abs(local) <= boxes.size_m[n] / 2 + 1e-3).all()


def test_velocities_are_those_of_the_poses(world: World) -> None:
    before, now, after = (world.boxes(t) for t in (1.9, 2.0, 2.1))
    np.testing.assert_array_equal(before.actor, after.actor)
    moved = (after.map_T_box[:, :3, 3] - before.map_T_box[:, :3, 3]) / 0.2
    np.testing.assert_allclose(now.velocity_mps, moved, atol=0.3)
    assert np.abs(now.velocity_mps[now.parked]).max() == 0


def test_seeds_decide() -> None:
    def key(world: World) -> bytes:
        meshes = b''.join(a.mesh.vertices.tobytes() for a in world.actors[::17])
        return world.poses(1.3).tobytes() + meshes + repr(world.conditions).encode()

    first = make_world(seed=6, seconds=2.0)
    assert key(make_world(seed=6, seconds=2.0)) == key(first)
    other = make_world(seed=7, seconds=2.0)
    assert key(other) != key(first)
    same_town = make_world(seed=7, seconds=2.0, town_seed=6)
    assert same_town.town.drivable_area.equals(first.town.drivable_area)
    assert not other.town.drivable_area.equals(first.town.drivable_area)
    assert key(same_town) != key(first)


def test_weather_says_nothing_of_the_map() -> None:
    """Whoever draws the weather and whoever draws the map must not share random numbers."""
    pitch: dict[str, list[float]] = {}
    for seed in range(24):
        world = make_world(seed=seed, seconds=0.1)
        pitch.setdefault(world.conditions.weather, []).append(world.town.size_m[0])
    clear, others = pitch['clear'], [p for k, v in pitch.items() if k != 'clear' for p in v]
    assert min(clear) < max(others) and min(others) < max(clear)  # the ranges overlap


def test_long_drives_stay_lively() -> None:
    """Movers come and go far away from the vehicle, and walkers turn round at their path's end."""
    world = make_world(seed=4, seconds=40.0)
    vehicles = [i for i in world.movers if world.actors[i].category in VEHICLES]
    near = []
    for time_s in np.arange(0.0, 40.1, 4.0):
        away = world.poses(time_s)[vehicles, :2, 3] - world.map_T_base(time_s)[:2, 3]
        near.append(int((np.linalg.norm(away, axis=1) < 100).sum()))
    assert min(near) >= 2, near
    for i in world.movers:
        motion = world.actors[i].motion
        assert motion is not None
        for edge in (motion.from_s, motion.to_s):
            if 0 < edge < 40.0:
                away = motion.at(edge)[:2] - world.ego.at(edge)[:2]
                assert np.linalg.norm(away) > 100
    walkers = [i for i in world.movers if world.actors[i].category == 'pedestrian']
    moved = [np.linalg.norm(world.boxes(39.0).velocity_mps, axis=1)]
    speed = dict(zip(world.boxes(39.0).actor.tolist(), moved[0].tolist(), strict=True))
    assert np.mean([speed[i] > 0.3 for i in walkers if i in speed]) > 0.9


def test_queues_wait_behind_the_stop_line(world: World) -> None:
    stop = shapely.union_all([line.buffer(0.02) for line in world.town.stop_lines])
    crossing = shapely.union_all(list(world.town.crossings))
    waiting = [
        i
        for i, a in enumerate(world.actors)
        if a.category in VEHICLES and not a.parked and a.motion is None
    ]
    assert len(waiting) >= 3
    outlines = footprints(world, 0.0, VEHICLES)
    for i in waiting:
        assert not outlines[i].intersects(crossing)
        assert not outlines[i].intersects(stop)


def test_a_standing_vehicle() -> None:
    world = make_world(seed=4, seconds=2.0, speed_mps=0.0)
    np.testing.assert_array_equal(world.ego.at(0.0), world.ego.at(2.0))


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'seed': -1}, 'seed is -1'),
        ({'seed': 1.5}, 'seed is 1.5'),
        ({'town_seed': 2**32}, 'town_seed is'),
        ({'seconds': 0}, 'seconds is 0'),
        ({'seconds': float('nan')}, 'seconds is nan'),
        ({'speed_mps': 26}, 'speed_mps is 26'),
        ({'weather': 'snow'}, "weather is 'snow'; known are any, clear"),
    ],
)
def test_values_out_of_range(arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_world(**arguments)


@pytest.mark.parametrize('weather', WEATHERS)
def test_every_weather_can_be_asked_for(weather: str) -> None:
    drawn = draw_conditions(np.random.default_rng(0), weather)
    assert drawn.weather == weather
    np.testing.assert_allclose(np.linalg.norm(drawn.sun_direction), 1)
    assert drawn != draw_conditions(np.random.default_rng(1), weather)


# Motion


def test_a_straight_way_is_driven_at_the_wanted_speed() -> None:
    motion = drive_along([(0, 0), (100, 0)], 8.0, 5.0, start_m=20.0)
    np.testing.assert_allclose(motion.at([-1, 0, 2.5, 5])[:, 0], [12, 20, 40, 60], atol=1e-6)


def test_curves_are_driven_slowly_and_speed_changes_gently() -> None:
    angle = np.linspace(0, np.pi / 2, 40)
    corner = np.stack([60 + 8 * np.sin(angle), 8 - 8 * np.cos(angle)], -1)
    line = np.concatenate([[(0, 0)], corner, [(68, 90)]])
    motion = drive_along(line, 12.0, 8.0, start_m=15.0)
    times = np.arange(0, 8, 0.05)
    speed = np.linalg.norm(np.diff(motion.at(times)[:, :2], axis=0), axis=1) / 0.05
    assert speed.max() <= 12.01
    assert speed.min() < np.sqrt(2.0 * 8) * 1.15  # 2 m/s^2 sideways on 8 m radius
    assert np.abs(np.diff(speed)).max() / 0.05 < 4.0


def test_a_line_that_ends_too_early_is_refused() -> None:
    with pytest.raises(ValueError, match='too short'):
        drive_along([(0, 0), (30, 0)], 8.0, 5.0, start_m=10.0)


def test_resampling_keeps_the_line() -> None:
    path, yaw = resampled([(0, 0), (3, 4), (3, 4), (3, 10)])
    np.testing.assert_allclose(np.linalg.norm(np.diff(path, axis=0), axis=1).max(), 0.25)
    np.testing.assert_allclose(path[0], 0)
    np.testing.assert_allclose(yaw[-1], np.pi / 2)
