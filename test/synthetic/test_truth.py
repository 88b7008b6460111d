"""Class grids and visibility, compared with the plain definition of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely import LineString, Polygon

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_training.data.label_classes import line_half_width_m
from bev_training.synthetic.categories import VEHICLES
from bev_training.synthetic.frames import boxes_near, exposure_times_s, render_frame, render_frames
from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.objects.motion import drive_along
from bev_training.synthetic.objects.style import draw_style
from bev_training.synthetic.objects.vehicles import vehicle
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import nuscenes_rig
from bev_training.synthetic.truth import CLASSES, class_grids
from bev_training.synthetic.visibility import visibility
from bev_training.synthetic.world import Actor, World
from test.synthetic.small_world import box_mesh, moving, small_world, some_actors, standing

GRIDS = {
    'default': BevGrid(),
    'coarse': BevGrid(x_range_m=(-20.0, 30.0), y_range_m=(-15.0, 15.0), cell_m=1.0),
    'ahead': BevGrid(x_range_m=(2.0, 12.0), y_range_m=(-9.0, 3.0), cell_m=0.1),
}


def check_against_shapely(world: World, grid: BevGrid, time_s: float) -> dict[str, float]:
    """Compare all cells with the definition; return which share of them each class covers."""
    grids = class_grids(world, grid, time_s)
    assert grids.dtype == np.uint8 and grids.shape == (len(CLASSES), *grid.shape[1:])
    pose = world.map_T_base(time_s)
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    c, s = np.cos(yaw), np.sin(yaw)
    centers = grid.cell_centers().reshape(-1, 2) @ np.array([[c, s], [-s, c]]) + pose[:2, 3]
    town, near = world.town, shapely.MultiPoint(centers).envelope.buffer(5)
    poses = world.poses(time_s)
    areas: dict[str, list] = {
        'drivable_area': [town.drivable_area],
        'walkway': [town.walkway],
        'ped_crossing': list(town.crossings),
        'carpark_area': list(town.carparks),
        'vehicle': [],
        'pedestrian': [],
    }
    for i, actor in enumerate(world.actors):
        kind = 'vehicle' if actor.category in VEHICLES else actor.category
        if kind in ('vehicle', 'pedestrian'):
            length, width, _ = actor.mesh.size_m
            corners = [
                (a * length / 2, b * width / 2, 0) for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))
            ]
            areas[kind].append(Polygon(rigid.transform_points(poses[i], np.array(corners))[:, :2]))
    lines = {
        'road_divider': town.road_dividers,
        'lane_divider': town.lane_dividers,
        'road_boundary': town.road_boundaries,
    }
    half, points = line_half_width_m(grid), shapely.points(centers)
    for layer, name in zip(grids, CLASSES, strict=True):
        clear = np.ones(len(centers), bool)  # of rounding, and of lines' ends
        expected = np.zeros(len(centers), bool)
        for area in areas.get(name, ()):
            if area.intersects(near):
                shapely.prepare(area)
                expected |= shapely.contains_xy(area, *centers.T)
                clear &= shapely.distance(area.boundary, points) > 1e-6
        for line in lines.get(name, ()):
            shape = LineString(line)
            if shape.intersects(near):
                distance = shapely.distance(shape, points)
                expected |= distance <= half
                clear &= np.abs(distance - half) > 1e-6
                if not shape.is_ring:
                    clear &= shapely.distance(shape.boundary, points) > half + 1e-6
        assert clear.mean() > 0.95
        assert (layer.reshape(-1)[clear] == expected[clear]).all(), name
    return dict(zip(CLASSES, grids.mean((1, 2)).tolist(), strict=True))


@pytest.mark.parametrize('grid', GRIDS.values(), ids=GRIDS)
def test_grids_equal_their_definition(grid: BevGrid) -> None:
    share = check_against_shapely(small_world(some_actors()), grid, 1.2)
    assert 0.05 < share['drivable_area'] < 1
    if grid == BevGrid():
        assert all(0 < part < 1 for part in share.values())


def test_grids_near_a_hole() -> None:
    """The vehicle stands before the roundabout, whose island is no road."""
    world = small_world(some_actors()[:1])
    moved = replace(world.ego, path=world.ego.path + (95.0, 0.0))
    share = check_against_shapely(replace(world, ego=moved), BevGrid(), 0.5)
    assert share['drivable_area'] > 0.1
    assert share['vehicle'] == 0


@pytest.mark.slow
@pytest.mark.parametrize('seed', [2, 11])
def test_grids_of_a_real_town(seed: int) -> None:
    world = make_world(seed=seed, seconds=3.0)
    for time_s in (0.0, 2.3):
        share = check_against_shapely(world, BevGrid(), time_s)
        for name in ('drivable_area', 'walkway', 'road_boundary'):
            assert 0 < share[name] < 1


def test_open_lines_end_square() -> None:
    """road_divider ends at x = 158: a centre just beyond the end does not belong to it."""
    world = small_world(some_actors()[:1])
    town = replace(world.town, road_dividers=(np.array([[65.0, 100.0], [70.0, 100.0]]),))
    grid = BevGrid(x_range_m=(0.0, 16.0), y_range_m=(-4.0, 10.0), cell_m=0.1)
    world = replace(world, town=town)
    marked = class_grids(world, grid, 0.0)[CLASSES.index('road_divider')] > 0
    pose = world.map_T_base(0.0)
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    c, s = np.cos(yaw), np.sin(yaw)
    centers = grid.cell_centers()[marked] @ np.array([[c, s], [-s, c]]) + pose[:2, 3]
    assert marked.any()
    assert centers[:, 0].min() > 65 - 1e-9 and centers[:, 0].max() < 70 + 1e-9
    assert centers[:, 0].min() < 65.1 and centers[:, 0].max() > 69.9
    assert marked.sum() * 0.01 == pytest.approx(5 * 0.6, rel=0.05)


def test_grids_are_level_while_the_vehicle_sways() -> None:
    world = small_world(some_actors())
    calm = replace(world, sway=world.sway * (0, 1, 1))
    pitch = world.map_T_base(1.0)[2, 0] - calm.map_T_base(1.0)[2, 0]
    assert abs(pitch) > 5e-3  # it does sway
    changed = class_grids(world, BevGrid(), 1.0) != class_grids(calm, BevGrid(), 1.0)
    # Swaying on a slope turns the heading by a hair, so a few borders of cells may flip.
    assert changed.mean() < 1e-4


# Visibility

RIG = nuscenes_rig((320, 180))
TIMES = dict.fromkeys((c.name for c in RIG.cameras), 0.5)


def seen(target: Actor, *others: Actor) -> float:
    world = small_world((target, *others))
    boxes = boxes_near(world, 0.5)
    assert boxes.actor[0] == 0
    return float(visibility(Scene(world), RIG, TIMES, boxes, 0.5)[0])


def before(ahead_m: float, left_m: float = 0.0) -> tuple[np.ndarray, float]:
    """A place before the vehicle at 0.5 s, and the vehicle's yaw."""
    x, y, yaw = small_world().ego.at(0.5)
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([x + c * ahead_m - s * left_m, y + s * ahead_m + c * left_m]), float(yaw)


def test_a_free_object_is_seen() -> None:
    assert seen(standing('car', box_mesh(4, 1.8, 1.5), *before(15, 3))) > 0.95


def test_parts_of_an_object_do_not_hide_each_other() -> None:
    """Real meshes have surfaces inside and behind others; a barrier's sides face other cameras."""
    rng = np.random.default_rng(0)
    style = draw_style(rng)
    for category in ('car', 'bicycle', 'truck'):
        mesh = vehicle(category, rng, style)
        assert seen(standing(category, mesh, *before(25, 8))) > 0.95, category
    assert seen(standing('barrier', box_mesh(2, 0.4, 0.8), *before(12))) > 0.95


def test_an_object_behind_a_wall_is_not_seen() -> None:
    wall = standing('building', box_mesh(1, 30, 8, 'wall'), *before(10))
    assert seen(standing('car', box_mesh(4, 1.8, 1.5), *before(20)), wall) == 0


def test_an_object_half_behind_a_wall_is_half_seen() -> None:
    wall = standing('building', box_mesh(0.5, 10, 8, 'wall'), *before(12, 5.0))
    part = seen(standing('truck', box_mesh(3, 2.4, 2.4), *before(20)), wall)
    assert 0.3 < part < 0.7


def test_an_object_half_outside_of_the_only_image_is_half_seen() -> None:
    front = replace(RIG, cameras=tuple(c for c in RIG.cameras if c.name == 'front'))
    edge = 10 * np.tan(np.radians(64.6 / 2))  # 10 m ahead of the camera
    target = standing('truck', box_mesh(0.1, 3, 1.5), *before(11.75, edge))
    world = small_world((target,))
    part = visibility(Scene(world), front, {'front': 0.5}, boxes_near(world, 0.5), 0.5)
    assert 0.3 < part[0] < 0.7


def test_a_far_object_is_not_seen() -> None:
    assert seen(standing('car', box_mesh(4, 1.8, 1.5), *before(75))) > 0.3
    assert seen(standing('car', box_mesh(4, 1.8, 1.5), *before(85))) == 0


def test_moving_objects_are_looked_for_where_they_are_at_the_exposure() -> None:
    """It drives out from behind a wall between two exposures."""
    wall = standing('building', box_mesh(0.5, 9, 8, 'wall'), *before(12))
    (x, y), yaw = before(20)
    across = np.array([-np.sin(yaw), np.cos(yaw)])
    way = np.stack([(x, y) - 30 * across, (x, y) + 60 * across])
    car = moving('car', box_mesh(4, 1.8, 1.5), drive_along(way, 9.0, 4.0, 26.0))
    # small_world's vehicle stands, so that only the car moves
    world = small_world((car, wall), speed_mps=0.0)
    scene, boxes = Scene(world), boxes_near(world, 0.5)
    hidden, free = (
        visibility(scene, RIG, dict.fromkeys(TIMES, time_s), boxes, 0.5)[0]
        for time_s in (0.5, 2.0)
    )
    assert hidden == 0 and free > 0.9
    assert (visibility(Scene(world), RIG, TIMES, boxes, 0.5) == hidden).all()


# Frames


def test_frames_in_memory() -> None:
    world = small_world(some_actors())
    renderer, times = Renderer(Scene(world)), exposure_times_s(RIG, 6)
    frame = render_frame(renderer, RIG, times)
    assert tuple(frame.images) == tuple(c.name for c in RIG.cameras)
    for name, time_s in times.items():
        assert frame.images[name].shape == (180, 320, 3)
        assert frame.semantics[name].shape == frame.depth_m[name].shape == (180, 320)
        assert np.array_equal(frame.map_T_base[name], world.map_T_base(time_s))
    assert frame.truth_time_s == times['front']
    assert np.array_equal(frame.map_T_base_truth, world.map_T_base(times['front']))
    assert np.array_equal(frame.grids, class_grids(world, BevGrid(), times['front']))
    assert len(frame.boxes.actor) == len(frame.visibility) == 5
    parallel = render_frame(renderer, RIG, times, threads=2)
    for name in times:
        assert np.array_equal(frame.images[name], parallel.images[name])
        assert np.array_equal(frame.depth_m[name], parallel.depth_m[name])
    assert np.array_equal(frame.visibility, parallel.visibility)
    bare = render_frame(renderer, RIG, times, truth=False, noise_seed=(1,))
    assert len(bare.boxes.actor) == len(bare.visibility) == len(bare.grids) == 0
    assert (bare.images['front'] != frame.images['front']).any()  # other noise
    assert np.array_equal(bare.depth_m['front'], frame.depth_m['front'])


def test_all_frames_of_a_drive_of_one_camera() -> None:
    rig = replace(RIG, cameras=RIG.cameras[:1], camera_hz=2)
    frames = list(render_frames(replace(small_world(some_actors()), seconds=1.5), rig))
    assert [f.truth_time_s for f in frames] == [0.0, 0.5, 1.0]  # there is no front camera
