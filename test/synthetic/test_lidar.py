"""Sweeps: points lie on surfaces, with the noise and the losses that the sensor is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bev_perception.geometry import rigid
from bev_training.synthetic.categories import SEMANTIC_ID
from bev_training.synthetic.conditions import draw_conditions
from bev_training.synthetic.lidar import POINT_DTYPE, ray_directions, sweep
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import Lidar, nuscenes_rig
from bev_training.synthetic.world import World
from test.synthetic.small_world import box_mesh, small_world, some_actors, standing

TIME_S = 1.0


@pytest.fixture(scope='module')
def world() -> World:
    return small_world(some_actors())


@pytest.fixture(scope='module')
def scene(world: World) -> Scene:
    return Scene(world)


@pytest.fixture(scope='module')
def lidar() -> Lidar:
    lidar = nuscenes_rig().lidar
    assert lidar
    return lidar


@pytest.fixture(scope='module')
def ideal(lidar: Lidar) -> Lidar:
    return replace(lidar, noise_m=0.0, dropout=0.0)


def take(scene: Scene, lidar: Lidar, *seed: int, **more: object) -> np.ndarray:
    pose = scene.world.map_T_base(TIME_S)
    return sweep(scene.at(TIME_S), lidar, pose, seed=seed or (0,), **more)  # type: ignore[arg-type]


def xyz(points: np.ndarray) -> np.ndarray:
    return np.stack([points[k] for k in 'xyz'], -1).astype(float)


def test_points_lie_on_the_first_surface(world: World, scene: Scene, ideal: Lidar) -> None:
    points = take(scene, ideal)
    assert points.dtype == POINT_DTYPE
    assert len(points) > 15_000
    map_T_lidar = world.map_T_base(TIME_S) @ ideal.base_T_lidar
    at, start = rigid.transform_points(map_T_lidar, xyz(points)), map_T_lidar[:3, 3]
    gap = np.abs(at[:, 2] - world.town.terrain.height_m(at[:, :2]))
    on_ground = gap < 0.02  # the ground is rendered as triangles of 2 m
    for actor, pose in zip(world.actors, world.poses(TIME_S), strict=True):
        half = np.array(actor.mesh.size_m) / 2
        middle = pose @ np.array([0, 0, half[2], 1])
        local = (at - middle[:3]) @ pose[:3, :3]
        eye = (start - middle[:3]) @ pose[:3, :3]
        outside = (np.abs(local) - half).max(1)
        assert outside.min() > -0.01, 'a point inside a solid'
        gap = np.minimum(gap, np.where(outside < 0.01, np.abs(outside), np.inf))
        with np.errstate(divide='ignore'):
            cuts = (np.array([-half, half])[:, None] - eye) / (local - eye)  # (2, N, 3) of the way
        enter, leave = cuts.min(0).max(1), cuts.max(0).min(1)
        through = (enter < leave) & (leave > 0)
        length = np.linalg.norm(local - eye, axis=1)
        assert ((1 - enter[through]) * length[through]).max() < 0.02, 'a point behind a solid'
    assert gap.max() < 0.02
    assert 500 < (~on_ground).sum() < len(points) - 500


def test_rays_keep_their_direction(scene: Scene, ideal: Lidar) -> None:
    points = take(scene, ideal)
    flat = xyz(points)
    elevation = np.arcsin(flat[:, 2] / np.linalg.norm(flat, axis=1))
    assert np.allclose(elevation, ideal.elevations_rad[points['ring']], atol=1e-5)
    azimuth = np.arctan2(flat[:, 1], flat[:, 0]) / (2 * np.pi) * ideal.azimuths
    assert np.abs(azimuth - np.rint(azimuth)).max() < 1e-3
    assert (np.diff(points['ring'].astype(int)) >= 0).all()
    assert ray_directions(ideal).shape == (32, 1080, 3)


def test_nothing_beyond_the_range(scene: Scene, lidar: Lidar) -> None:
    short = replace(lidar, range_m=(6.0, 20.0), noise_m=0.5)
    distance = np.linalg.norm(xyz(take(scene, short)), axis=1)
    assert distance.min() > 6 - 1e-3 and distance.max() < 20 + 1e-3
    assert len(distance) > 1000


def test_noise_is_along_the_ray(scene: Scene, ideal: Lidar) -> None:
    noisy = replace(ideal, noise_m=0.05)
    exact, found = take(scene, ideal), take(scene, noisy, 3)
    assert len(exact) - len(found) < 50  # near the range's ends
    near = {}
    for points in (exact, found):
        flat = xyz(points)
        distance = np.linalg.norm(flat, axis=1)
        step = np.rint(np.arctan2(flat[:, 1], flat[:, 0]) / (2 * np.pi) * 1080).astype(int) % 1080
        near[len(near)] = dict(
            zip((points['ring'] * 1080 + step).tolist(), distance.tolist(), strict=True)
        )
    error = np.array([near[1][k] - near[0][k] for k in near[0].keys() & near[1].keys()])
    assert len(error) > 15_000
    assert abs(error.mean()) < 0.002
    assert error.std() == pytest.approx(0.05, rel=0.03)


def test_far_and_grazing_echoes_are_lost_first(scene: Scene, lidar: Lidar, ideal: Lidar) -> None:
    every = np.linalg.norm(xyz(take(scene, ideal)), axis=1)
    found = np.linalg.norm(xyz(take(scene, lidar)), axis=1)
    kept = [np.sum(found // 10 == ten) / np.sum(every // 10 == ten) for ten in (0, 4, 7)]
    assert kept[0] > 0.93
    assert kept[0] > kept[1] + 0.05
    assert kept[1] > kept[2] + 0.05
    none = take(scene, replace(lidar, dropout=1.0))
    assert len(none) == 0


def test_dark_and_glassy_surfaces_return_less(lidar: Lidar) -> None:
    counts, bright = {}, {}
    for material in ('wall', 'glass'):
        wall = standing('building', box_mesh(1, 40, 20, material), (110.0, 100.0), 0.6)
        found = take(Scene(small_world((wall,))), lidar)
        on = (found['z'] > 1) & (found['x'] > 10) & (found['x'] < 60)
        counts[material], bright[material] = on.sum(), found['intensity'][on].mean()
    assert counts['wall'] > 300
    assert counts['glass'] < counts['wall'] * 0.9
    assert bright['glass'] < bright['wall'] / 4


def test_rain_swallows_far_echoes(scene: Scene, lidar: Lidar) -> None:
    rain = draw_conditions(np.random.default_rng(0), 'rain')
    dry, wet = take(scene, lidar), take(scene, lidar, conditions=rain)
    for low, high in ((0, 15), (30, 60)):
        counts = [
            ((d := np.linalg.norm(xyz(p), axis=1)) > low).sum() - (d > high).sum()
            for p in (dry, wet)
        ]
        assert counts[1] <= counts[0]
    assert counts[1] < counts[0] * 0.7


def test_paint_is_bright(world: World, scene: Scene, lidar: Lidar) -> None:
    def semantics(xy: np.ndarray) -> np.ndarray:
        crossed = (np.abs(xy - (72.0, 100.0)) < (2.0, 7.0)).all(1)
        return np.where(crossed, SEMANTIC_ID['crosswalk'], SEMANTIC_ID['road'])

    points = take(scene, lidar, ground_semantics=semantics)
    pose = world.map_T_base(TIME_S) @ lidar.base_T_lidar
    at = rigid.transform_points(pose, xyz(points))
    ground = np.abs(at[:, 2] - world.town.terrain.height_m(at[:, :2])) < 0.1
    painted = ground & (semantics(at[:, :2]) == SEMANTIC_ID['crosswalk'])
    beside = ground & ~painted & (np.abs(at[:, 0] - 72.0) < 4) & (np.abs(at[:, 1] - 100) < 7)
    assert painted.sum() > 100 and beside.sum() > 100
    assert points['intensity'][painted].mean() > 3 * points['intensity'][beside].mean()
    assert points['intensity'].min() >= 0 and points['intensity'].max() <= 255


def test_seeds_decide(scene: Scene, lidar: Lidar) -> None:
    one, again, other = (
        take(scene, lidar, 1, 2),
        take(scene, lidar, 1, 2),
        take(scene, lidar, 1, 3),
    )
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()
