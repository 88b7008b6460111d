"""Several sweeps as one cloud: what has moved meanwhile is kept from the sample's own sweep only.

Without labels nobody knows what moves, but the sample's own sweep knows what is gone: where its
rays go on behind an older point, nothing is there any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bev_perception.shapes import AnyArray, Index, Mask
from bev_training.data.sample import Sweep
from bev_training.data.sweeps import some_points, without_vehicle
from bev_training.fit.pretrain_settings import LidarConfig

# A point is gone where the own sweep's rays beside it, in the same column of directions, hit what
# is so much farther away; where one of them hits nearer or as far, it may still stand there.
COLUMN_DEG = 1.0
BESIDE_DEG = (
    3.0  # a ray farther above or below says nothing; lidars' rays are 0.1..2 degrees apart
)
BEHIND_M, BEHIND_SHARE = 0.5, 0.02
_COLUMNS = round(360 / COLUMN_DEG)
_APART = 1000.0  # more than any two elevations differ, degrees


def chosen_points(sweeps: Sequence[Sweep], config: LidarConfig) -> tuple[Sweep, ...]:
    """Return sweeps with the points that targets are made of: none on the vehicle itself, and of
    older sweeps none that `seen_through` finds.

    Args:
        sweeps: as `SampleSource.sweeps` gives them: the first of each lidar is the sample's own.
        config: how near points are the vehicle's own.
    """
    clean = [without_vehicle(sweep, config.own_m) for sweep in sweeps]
    own: dict[str, Sweep] = {}
    for sweep in clean:
        own.setdefault(sweep.lidar, sweep)
    nearest = list(own.values())
    older = [sweep for sweep in clean if not any(sweep is each for each in nearest)]
    if not older:
        return tuple(clean)
    # All at once, so that an own sweep is sorted once.
    points = np.concatenate([sweep.points_m for sweep in older])
    gone = np.zeros(len(points), bool)
    for sweep in nearest:
        rest = np.flatnonzero(~gone)
        gone[rest] = seen_through(points[rest], sweep)
    ends = np.cumsum([len(sweep.points_m) for sweep in older])[:-1]
    kept = (
        some_points(sweep, ~part) for sweep, part in zip(older, np.split(gone, ends), strict=True)
    )
    return (*nearest, *kept)


def seen_through(points_m: AnyArray, sweep: Sweep) -> Mask:
    """Return which points (n, 3) a sweep looks through: where they are, nothing is at its time.

    Directions from the sensor are cut into columns of `COLUMN_DEG`. A point is seen through if in
    its column, among the sweep's points, the next one above and the next one below it are there,
    within `BESIDE_DEG`, and both are farther away than the point by `BEHIND_M` and `BEHIND_SHARE`
    of its distance; and if the two columns beside it do not say otherwise. So points on the ground
    stay: of two rings the lower one is nearer. So do points of which the sweep sees nothing:
    behind what it hit, beside its rays, or before the open sky, from where no echo comes.
    """
    if not len(points_m) or not len(sweep.points_m):
        return np.zeros(len(points_m), bool)
    column, elevation, range_m = _directions(sweep.points_m, sweep.origin_m)
    order = np.lexsort((elevation, column))
    column, elevation, range_m = column[order], elevation[order], range_m[order]
    keys = column * _APART + elevation
    q_column, q_elevation, q_range = _directions(points_m, sweep.origin_m)
    least = q_range * (1 + BEHIND_SHARE) + BEHIND_M
    gone: Mask = np.ones(len(points_m), bool)
    for step in (0, -1, 1):
        # Columns first, where most points are found to stay: the rest has less to look at.
        rest = np.flatnonzero(gone)
        at_column = (q_column[rest] + step) % _COLUMNS
        above = np.searchsorted(keys, at_column * _APART + q_elevation[rest])
        free, nearer = _looks(
            above, at_column, q_elevation[rest], least[rest], (column, elevation, range_m)
        )
        gone[rest] = free if step == 0 else ~nearer
    return gone


def _directions(points_m: AnyArray, origin_m: AnyArray) -> tuple[Index, AnyArray, AnyArray]:
    """Return the column, the elevation in degrees and the distance of points from a sensor."""
    x, y, z = (points_m - origin_m).T
    flat = np.hypot(x, y)
    column = np.floor(np.degrees(np.arctan2(y, x)) / COLUMN_DEG).astype(np.int64) % _COLUMNS
    return column, np.degrees(np.arctan2(z, flat)), np.hypot(flat, z)


def _looks(
    above: Index,
    at_column: Index,
    q_elevation: AnyArray,
    least_m: AnyArray,
    rays: tuple[Index, AnyArray, AnyArray],
) -> tuple[Mask, Mask]:
    """Return where rays above and below are there and both farther than `least_m`; and where one
    is there that is not.

    Args:
        above: positions of the first rays that are not below.
        at_column: column that they have to be in.
        q_elevation: of the points, degrees.
        least_m: distance that a ray must reach.
        rays: column, elevation and distance, sorted.
    """
    column, elevation, range_m = rays
    both, nearer = np.ones(len(above), bool), np.zeros(len(above), bool)
    for at in (above, above - 1):
        clipped = at.clip(0, len(column) - 1)
        there = (at >= 0) & (at < len(column)) & (column[clipped] == at_column)
        there &= np.abs(elevation[clipped] - q_elevation) <= BESIDE_DEG
        far = range_m[clipped] > least_m
        both &= there & far
        nearer |= there & ~far
    return both, nearer
