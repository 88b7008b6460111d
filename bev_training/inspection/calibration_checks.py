"""Whether intrinsics and extrinsics can be those of cameras on a vehicle."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from bev_perception.geometry.camera import Camera
from bev_perception.shapes import Rigid

FOCAL, CENTRE, VIEW, MOUNT, TWINS, AXIS = 'focal', 'centre', 'view', 'mount', 'twins', 'axis'
_FOCAL_RATIO = 1.2
_VIEW_DEG = (10.0, 200.0)
_FAR_M, _DEEP_M = 15.0, -1.0  # from a bus's rear axle to its front are 10 m
_UP_DEG, _DOWN_DEG = 65.0, 85.0  # cameras for parking look steeply down, none looks up
_SAME = 1e-6


def view_deg(camera: Camera) -> float:
    """Return the horizontal field of view in degrees, through the middle row.

    The angles from the optical axis to the left and to the right edge are added, so that lenses
    beyond 180 degrees are told.
    """
    width, height = camera.size_px
    middle = (height - 1) / 2
    left, right = camera.unproject(np.array([(-0.5, middle), (width - 0.5, middle)]))
    return float(np.degrees(sum(np.arccos(np.clip(ray[2], -1, 1)) for ray in (left, right))))


def check_intrinsics(camera: Camera) -> list[tuple[str, str]]:
    """Return what is implausible about a camera: (which check, one line)."""
    problems = []
    (width, height), K = camera.size_px, camera.K
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if not 1 / _FOCAL_RATIO <= fx / fy <= _FOCAL_RATIO:
        problems.append((FOCAL, f'fx {fx:.1f} and fy {fy:.1f} differ by {abs(fx / fy - 1):.0%}'))
    if not (width / 4 <= cx <= 3 * width / 4 and height / 4 <= cy <= 3 * height / 4):
        problems.append(
            (CENTRE, f'principal point ({cx:.1f}, {cy:.1f}) in an image of {width}x{height}')
        )
    view = view_deg(camera)
    if not _VIEW_DEG[0] <= view <= _VIEW_DEG[1]:
        problems.append((VIEW, f'horizontal field of view is {view:.1f} degrees (fx {fx:.1f} px)'))
    return problems


def check_mounting(base_T_cam: Mapping[str, Rigid]) -> list[tuple[str, str, str]]:
    """Return what is implausible about the places of cameras: (which check, camera, one line)."""
    problems = []
    for name, pose in base_T_cam.items():
        x, y, z = pose[:3, 3]
        far = float(np.linalg.norm(pose[:3, 3]))
        if far > _FAR_M or z < _DEEP_M:
            problems.append(
                (MOUNT, name, f'at ({x:.2f}, {y:.2f}, {z:.2f}) m of base, {far:.1f} m from it')
            )
        rise_deg = float(np.degrees(np.arcsin(np.clip(pose[2, 2], -1, 1))))
        if rise_deg > _UP_DEG or rise_deg < -_DOWN_DEG:
            way = 'up' if rise_deg > 0 else 'down'
            problems.append(
                (AXIS, name, f'its optical axis (z) points {abs(rise_deg):.0f}° {way}')
            )
    for (one, a), (other, b) in combinations(base_T_cam.items(), 2):
        if np.abs(a - b).max() < _SAME:
            problems.append((TWINS, other, f'has the same extrinsics as {one}'))
    return problems
