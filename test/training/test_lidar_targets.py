"""Lidar points become voxels and queries: small cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bev_perception.geometry.grid import BevGrid
from bev_training.data.lidar_targets import draw_queries, lidar_targets, voxelise
from bev_training.data.sample import Sweep
from bev_training.data.sweeps import make_sweep
from bev_training.fit.pretrain_settings import ImgAlsoConfig

TWO = BevGrid(x_range_m=(0, 2), y_range_m=(0, 2), z_range_m=(0, 2), cell_m=1, z_cells=2)
WIDE = BevGrid(x_range_m=(-20, 20), y_range_m=(-20, 20), z_range_m=(-1, 3), cell_m=1, z_cells=4)


def sweep_of(points, *, origin=(0.0, 0.0, 0.0), lidar='lidar', intensity=None) -> Sweep:
    ego_T_lidar = np.eye(4)
    ego_T_lidar[:3, 3] = origin
    points = np.array(points, np.float64).reshape(-1, 3)
    intensity = np.arange(len(points), dtype=np.float32) if intensity is None else intensity
    return make_sweep(lidar, points - origin, intensity, ego_T_lidar=ego_T_lidar, age_s=0.0)


def queries_of(*sweeps, grid=WIDE, seed=0, **values):
    config = ImgAlsoConfig(**{'queries': 9, 'decimate_m': 0, **values})
    return draw_queries(sweeps, grid, config, np.random.default_rng(seed))


def random_points(count, seed=0, low=-15.0, high=15.0):
    return np.random.default_rng(seed).uniform(low, high, (count, 3)) * [1, 1, 0.1]


# --- voxels --------------------------------------------------------------------------------------


def test_a_voxel_is_occupied_if_a_point_lies_in_it():
    points = [
        [0.5, 0.5, 0.5],  # voxel x 0, y 0, z 0, twice
        [0.1, 0.9, 0.2],
        [1.5, 0.5, 1.5],  # x 1, y 0, z 1
        [0.0, 1.0, 1.0],  # lower borders belong to a voxel: x 0, y 1, z 1
        [2.0, 0.5, 0.5],  # upper ones do not
        [0.5, 0.5, -0.1],
    ]
    occupied, known = voxelise([sweep_of(points)], TWO)
    expected = np.array([[[1, 0], [0, 0]], [[0, 1], [1, 0]]], bool)  # z, y, x
    assert known and np.array_equal(occupied, expected)


def test_voxels_of_several_sweeps_are_joined():
    one, other = sweep_of([[0.5, 0.5, 0.5]]), sweep_of([[1.5, 1.5, 1.5]], lidar='rear')
    occupied, _ = voxelise([one, other], TWO)
    assert np.argwhere(occupied).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_sample_without_a_point_in_the_grid_is_not_known():
    for sweeps in ([], [sweep_of([])], [sweep_of([[5, 5, 5]])]):
        targets = lidar_targets(sweeps, TWO)
        assert set(targets) == {'occupied', 'known', 'dropped'}
        assert not targets['occupied'].any() and targets['occupied'].shape == (2, 2, 2)
        assert targets['known'].dtype == torch.bool and not targets['known']
    assert lidar_targets([sweep_of([[0.5, 0.5, 0.5]])], TWO)['known']


def test_points_that_are_not_finite_are_dropped_and_counted():
    points = np.array([[0.5, 0.5, 0.5], [np.nan, 0, 0], [0, np.inf, 0], [1e39, 0, 0], [1, 1, 1]])
    sweep = sweep_of(points)
    assert len(sweep.points_m) == len(sweep.intensity) == 2 and sweep.dropped == 3
    assert sweep.intensity.tolist() == [0, 4]
    targets = lidar_targets([sweep, sweep], TWO)
    assert targets['dropped'] == 6 and targets['dropped'].dtype == torch.int64
    assert targets['occupied'].sum() == 2


# --- queries -------------------------------------------------------------------------------------


def test_a_third_lies_behind_before_and_on_the_way_to_points():
    origin, p = np.array([1.0, 0.0, 2.0]), np.array([4.0, 4.0, 2.0])  # 5 m away
    sweep = sweep_of([p], origin=origin, intensity=np.array([7.0], np.float32))
    found = queries_of(sweep, queries=2000, near_m=0.5)
    assert found.at_m.shape == (2000, 3) and found.at_m.dtype == np.float32
    away = found.at_m - origin
    range_m = np.linalg.norm(away, axis=1)
    assert np.allclose(away, range_m[:, None] * [0.6, 0.8, 0], atol=1e-5)  # all on the ray
    behind, before, free = np.split(range_m, [668, 1334])  # 2000 - 2 * 666, 666, 666
    assert found.occupied.dtype == np.int8 and found.occupied.tolist() == [1] * 668 + [0] * 1332
    assert behind.min() >= 5 and behind.max() <= 5.5 + 1e-5 and behind.std() > 0.13
    assert before.min() >= 4.5 - 1e-5 and before.max() <= 5 and before.std() > 0.13
    assert free.min() < 0.1 and 4.9 < free.max() <= 5 and abs(free.mean() - 2.5) < 0.2
    assert (found.intensity[:1334] == 7).all() and np.isnan(found.intensity[1334:]).all()


def test_every_ray_begins_at_its_own_sensor():
    one = sweep_of([[10, 0, 0]], origin=(0, 0, 1))
    other = sweep_of([[10, 10, 0]], origin=(10, 5, 2), lidar='rear')
    found = queries_of(one, other, queries=300)
    for sweep, near in ((one, found.at_m[:, 1] < 0.01), (other, found.at_m[:, 0] > 9.99)):
        away = found.at_m[near & (found.at_m[:, 2] > 0.3)] - sweep.origin_m
        d = sweep.points_m[0] - sweep.origin_m
        assert len(away) > 20
        assert np.allclose(np.cross(away, d / np.linalg.norm(d)), 0, atol=1e-4)


def test_no_query_before_a_point_lies_past_its_sensor():
    found = queries_of(sweep_of([[0.01, 0, 0]]), queries=300, near_m=0.1)
    assert (found.at_m[100:200, 0] >= 0).all()


def test_points_beside_the_grid_are_not_asked_about_and_points_above_it_are():
    points = [[5, 5, 9], [25, 0, 0], [0, -25, 0]]
    found = queries_of(sweep_of(points), queries=90)
    assert set(found.intensity[:60].tolist()) == {0.0}  # the first point's
    assert (found.occupied >= 0).all()


def test_each_point_is_drawn_once_for_a_kind_where_they_are_enough():
    found = queries_of(sweep_of(random_points(40)), queries=90)
    assert (
        len(set(found.intensity[:30].tolist())) == len(set(found.intensity[30:60].tolist())) == 30
    )


def test_one_point_per_cube_is_kept():
    near = [[5.01, 5.01, 0.01], [5.04, 5.07, 0.09], [5.11, 5.01, 0.01]]  # two share a cube
    found = queries_of(sweep_of(near), queries=300, decimate_m=0.1)
    assert set(found.intensity[:200].tolist()) == {0.0, 2.0}
    every = queries_of(sweep_of(near), queries=300)
    assert set(every.intensity[:200].tolist()) == {0.0, 1.0, 2.0}


def test_cubes_are_those_of_a_slow_search():
    points = random_points(4000, low=-4, high=4)
    found = queries_of(sweep_of(points), queries=12_000, decimate_m=0.5)
    first = {}
    for number, point in enumerate(sweep_of(points).points_m.astype(np.float64)):
        first.setdefault(tuple(np.floor(point / 0.5).astype(int)), number)
    assert len(first) < 1000
    assert set(found.intensity[:8000].astype(int).tolist()) == set(first.values())


def test_an_empty_sweep_asks_nothing():
    for sweeps in ([], [sweep_of([])], [sweep_of([[99, 0, 0]])]):
        found = queries_of(*sweeps)
        assert found.at_m.shape == (9, 3) and np.isfinite(found.at_m).all()
        assert (found.occupied == -1).all() and np.isnan(found.intensity).all()


def test_a_sensor_without_intensity_gives_none():
    sweep = sweep_of(random_points(10))
    silent = replace(sweep, intensity=np.full(10, np.nan, np.float32))
    assert np.isnan(queries_of(silent).intensity).all()
    given = make_sweep('lidar', random_points(3), None, ego_T_lidar=np.eye(4), age_s=0.0)
    assert np.isnan(given.intensity).all() and given.intensity.shape == (3,)


def test_the_same_draw_gives_the_same_targets_and_another_draw_others():
    sweeps, config = [sweep_of(random_points(500))], ImgAlsoConfig(queries=64)

    def made(seed):
        rng = np.random.default_rng(seed)
        return lidar_targets(sweeps, WIDE, img_also=config, rng=rng)

    one, same, other = made(1), made(1), made(2)
    assert set(one) == {
        *('occupied', 'known', 'dropped', 'queries_m', 'query_occupied', 'query_intensity')
    }
    assert all(torch.equal(one[k].nan_to_num(), same[k].nan_to_num()) for k in one)
    assert torch.equal(one['occupied'], other['occupied'])
    assert not torch.equal(one['queries_m'], other['queries_m'])
    assert one['query_occupied'].tolist() == [1] * 22 + [0] * 42
