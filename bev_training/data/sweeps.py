"""Lidar points as a source gives them → sweeps in a sample's ego frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bev_perception.geometry import rigid
from bev_perception.shapes import AnyArray, Mask, Rigid
from bev_training.data.sample import Sweep


def make_sweep(
    lidar: str,
    xyz_lidar: AnyArray,
    intensity: npt.NDArray[np.float32] | None,
    *,
    ego_T_lidar: Rigid,
    age_s: float,
) -> Sweep:
    """Return a sweep in an ego frame, without the points that are not finite.

    Args:
        lidar: its name.
        xyz_lidar: (n, 3) in the sensor's frame.
        intensity: (n,); None where the sensor gives none.
        ego_T_lidar: (4, 4) the sensor at the sweep's stamp.
        age_s: see `Sweep`.
    """
    with np.errstate(over='ignore', invalid='ignore'):  # what is not finite goes
        exact = rigid.transform_points(ego_T_lidar, xyz_lidar.astype(np.float64))
        points = exact.astype(np.float32)
    if intensity is None:
        intensity = np.full(len(points), np.nan, np.float32)
    sweep = Sweep(
        lidar=lidar,
        points_m=points,
        intensity=np.where(np.isfinite(intensity), intensity, np.float32(np.nan)),
        origin_m=np.asarray(ego_T_lidar[:3, 3], np.float64).copy(),
        age_s=age_s,
        dropped=0,
    )
    finite: Mask = np.asarray(np.isfinite(points).all(1))
    return replace(some_points(sweep, finite), dropped=int((~finite).sum()))


def some_points(sweep: Sweep, kept: Mask) -> Sweep:
    """Return a sweep with some of its points (n,)."""
    if kept.all():
        return sweep
    return replace(sweep, points_m=sweep.points_m[kept], intensity=sweep.intensity[kept])


def without_vehicle(sweep: Sweep, own_m: float) -> Sweep:
    """Return a sweep without the points that the sensor got from its own vehicle: those nearer
    than `own_m` along x and along y.
    """
    near = np.abs(sweep.points_m[:, :2] - sweep.origin_m[:2]) < own_m
    return some_points(sweep, np.asarray(~near.all(1)))
