"""What has moved is kept from the sample's own sweep only; what stands still stays."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from bev_training.data.accumulate import (
    BEHIND_M,
    BEHIND_SHARE,
    BESIDE_DEG,
    COLUMN_DEG,
    chosen_points,
    seen_through,
)
from bev_training.data.sample import Sweep
from bev_training.data.sweeps import make_sweep
from bev_training.fit.pretrain_settings import LidarConfig

WALL = ((18.0, -12.0, 0.0), (19.0, 12.0, 4.0))
CAR = ((8.0, -1.0, 0.0), (12.0, 1.0, 1.6))
CONFIG = LidarConfig(sweeps=2)


def scan(
    boxes, *, at=(0.0, 0.0, 1.8), ground=True, age_s=0.0, lidar='lidar', turn_deg=0.0
) -> Sweep:
    """What a lidar of 32 rings sees of the ground at z = 0 and of boxes; out to 60 m."""
    azimuth = np.radians(np.arange(0, 360, 0.4) + turn_deg)
    elevation = np.radians(np.linspace(-30.67, 10.67, 32))
    azimuth, elevation = (a.ravel() for a in np.meshgrid(azimuth, elevation))
    d = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ],
        1,
    )
    at = np.array(at)
    with np.errstate(divide='ignore', invalid='ignore'):
        range_m = np.where(d[:, 2] < 0, -at[2] / d[:, 2], np.inf) if ground else np.inf
        for low, high in boxes:
            a, b = (np.array(low) - at) / d, (np.array(high) - at) / d
            enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
            hit = (enter > 0) & (enter <= leave)
            range_m = np.minimum(range_m, np.where(hit, enter, np.inf))
    range_m = np.broadcast_to(range_m, len(d))
    seen = range_m < 60
    ego_T_lidar = np.eye(4)
    ego_T_lidar[:3, 3] = at
    points = d[seen] * range_m[seen, None]
    return make_sweep(lidar, points, None, ego_T_lidar=ego_T_lidar, age_s=age_s)


def on_car(sweep):
    low, high = np.array(CAR)
    return ((sweep.points_m > low - 0.01) & (sweep.points_m < high + 0.01)).all(1)


def slowly(points, sweep):
    """`seen_through`, as its description says it, ray by ray."""
    rays = defaultdict(list)
    for x, y, z in sweep.points_m.astype(np.float64) - sweep.origin_m:
        column = math.floor(math.degrees(math.atan2(y, x)) / COLUMN_DEG) % 360
        elevation = math.degrees(math.atan2(z, math.hypot(x, y)))
        rays[column].append((elevation, math.hypot(x, y, z)))
    gone = []
    for x, y, z in points.astype(np.float64) - sweep.origin_m:
        own = math.floor(math.degrees(math.atan2(y, x)) / COLUMN_DEG) % 360
        elevation = math.degrees(math.atan2(z, math.hypot(x, y)))
        least = math.hypot(x, y, z) * (1 + BEHIND_SHARE) + BEHIND_M
        beside = {}
        for step in (-1, 0, 1):
            column = rays[(own + step) % 360]
            above = min((r for r in column if r[0] >= elevation), default=None)
            below = max((r for r in column if r[0] < elevation), default=None)
            beside[step] = [
                ray for ray in (above, below) if ray and abs(ray[0] - elevation) <= BESIDE_DEG
            ]
        seen = len(beside[0]) == 2 and all(ray[1] > least for ray in beside[0])
        gone.append(seen and all(ray[1] > least for each in beside.values() for ray in each))
    return np.array(gone)


@pytest.mark.parametrize('seed', [0, 1])
def test_it_finds_what_a_slow_search_finds(seed):
    rng = np.random.default_rng(seed)
    own = scan([WALL])
    few = rng.random(len(own.points_m)) < 0.6
    own = make_sweep(
        'lidar', own.points_m[few] - own.origin_m, None,
        ego_T_lidar=np.block([[np.eye(3), own.origin_m[:, None]], [np.zeros(3), 1]]), age_s=0.0,
    )  # fmt: skip
    older = scan([WALL, CAR], at=(-2, 0.3, 1.8))
    points = np.concatenate(
        [
            older.points_m[rng.random(len(older.points_m)) < 0.02],
            older.points_m[on_car(older)],
            rng.uniform(-15, 15, (200, 3)),
        ]
    )
    found = seen_through(points, own)
    assert np.array_equal(found, slowly(points, own))
    assert 10 < found.sum() < len(found) - 10


def test_a_car_that_is_gone_leaves_nothing_but_its_feet():
    own, older = scan([WALL]), scan([WALL, CAR], at=(-3, 0.2, 1.8), age_s=0.5)
    now, then = chosen_points([own, older], CONFIG)
    assert on_car(older).sum() > 100
    left = then.points_m[on_car(then)]
    assert len(left) < 0.2 * on_car(older).sum() and left[:, 2].max(initial=0) < 0.6
    assert len(now.points_m) == (np.abs(own.points_m[:, :2]) >= 2.2).any(1).sum()


def test_a_car_that_has_come_stays_as_the_own_sweep_sees_it():
    own, older = scan([WALL, CAR]), scan([WALL], at=(-3, 0.2, 1.8), age_s=0.5)
    now, then = chosen_points([own, older], CONFIG)
    assert on_car(now).sum() == on_car(own).sum() > 300
    wall = older.points_m[:, 0] > 17.9  # behind the car, where nobody sees it now
    assert (then.points_m[:, 0] > 17.9).sum() == wall.sum()


@pytest.mark.parametrize('turn_deg', [0, 0.2])
def test_what_stands_still_stays(turn_deg):
    older = scan([WALL, CAR], at=(-6, 1.0, 1.8), age_s=1.0, turn_deg=turn_deg)
    _, then = chosen_points([scan([WALL, CAR]), older], LidarConfig(sweeps=2, own_m=0))
    assert len(then.points_m) > 0.999 * len(older.points_m)


def test_what_the_own_sweep_knows_nothing_of_stays():
    older = scan([CAR], at=(-3, 0.2, 1.8))
    car = older.points_m[on_car(older)]
    assert not seen_through(car, scan([], ground=False)).any()  # no echo at all
    assert seen_through(car, scan([WALL])).mean() > 0.8
    screen = ((5.0, -9.0, 0.0), (5.2, 9.0, 4.0))
    assert not seen_through(car, scan([screen, WALL])).any()  # hidden
    high = np.array([[10.0, 0.0, 4.5]])
    assert not seen_through(high, scan([])).any()  # before the sky
    assert seen_through(np.empty((0, 3)), scan([])).shape == (0,)


def test_each_lidar_keeps_its_own_sweep_and_all_own_sweeps_look():
    front = scan([WALL], lidar='front')
    rear = scan([], at=(0, 0, 1.8), ground=False, lidar='rear')
    older = scan([WALL, CAR], at=(-3, 0, 1.8), lidar='rear', age_s=0.5)
    chosen = chosen_points([front, rear, older], CONFIG)
    assert [s.lidar for s in chosen] == ['front', 'rear', 'rear']
    assert on_car(chosen[2]).sum() < 0.2 * on_car(older).sum()


def test_points_on_the_vehicle_are_left_out_around_their_own_sensor():
    points = np.array([[1.0, 0, 0], [2.1, -2.1, 1], [2.3, 0, 0], [0, -2.3, 0], [-9, 9, 0]])
    ego_T_lidar = np.eye(4)
    ego_T_lidar[:3, 3] = 50, 20, 2
    values = np.arange(5, dtype=np.float32)
    sweep = make_sweep('lidar', points, values, ego_T_lidar=ego_T_lidar, age_s=0.0)
    (kept,) = chosen_points([sweep], LidarConfig())
    assert kept.intensity.tolist() == [2, 3, 4]
    assert np.allclose(kept.points_m - sweep.origin_m, points[2:])
    (every,) = chosen_points([sweep], LidarConfig(own_m=0))
    assert len(every.points_m) == 5
    assert chosen_points([], LidarConfig()) == ()
