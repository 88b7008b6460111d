"""Rigid transforms as (..., 4, 4) float64 matrices named `dst_T_src`; quaternions are xyzw.

`dst_T_src` maps coordinates in `src` to `dst`, so composition reads left to right:
`odom_T_cam = odom_T_ego @ ego_T_cam`. This is also tf2's order: a `TransformStamped` is
`parent_T_child` and `lookup_transform(target, source)` returns `target_T_source`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bev_perception.errors import CalibrationError
from bev_perception.shapes import Array, Points3, Rigid


def from_quat_xyzw(quat_xyzw: npt.ArrayLike, translation_m: npt.ArrayLike) -> Rigid:
    """Build `dst_T_src` from a rotation (quaternion x, y, z, w) and the origin of src in dst.

    Args:
        quat_xyzw: (..., 4), any norm above zero; it is normalised.
        translation_m: (..., 3) metres.

    Raises:
        CalibrationError: a quaternion is zero or not finite.
    """
    q = np.asarray(quat_xyzw, np.float64)
    t = np.asarray(translation_m, np.float64)
    if q.shape == (4,) and t.shape == (3,):
        return _one_pose(q, t)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    if not (np.isfinite(norm).all() and (norm > 1e-9).all() and np.isfinite(t).all()):
        raise CalibrationError(f'not a rigid transform: quaternion {q}, translation {t}')
    x, y, z, w = np.moveaxis(q / norm, -1, 0)
    dst_T_src = np.zeros((*np.broadcast_shapes(q.shape[:-1], t.shape[:-1]), 4, 4))
    dst_T_src[..., :3, :3] = np.moveaxis(_rotation(x, y, z, w), (0, 1), (-2, -1))
    dst_T_src[..., :3, 3] = t
    dst_T_src[..., 3, 3] = 1
    return dst_T_src


def _one_pose(q: Array, t: Array) -> Rigid:
    """Do what `from_quat_xyzw` does for one pose, several times as fast: recordings hold many."""
    x, y, z, w = q.tolist()
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if not (1e-9 < norm < math.inf and all(map(math.isfinite, t.tolist()))):
        raise CalibrationError(f'not a rigid transform: quaternion {q}, translation {t}')
    dst_T_src = np.eye(4)
    dst_T_src[:3, :3] = _rotation(x / norm, y / norm, z / norm, w / norm)
    dst_T_src[:3, 3] = t
    return dst_T_src


def _rotation(x: Any, y: Any, z: Any, w: Any) -> Array:
    """Return the rotation (3, 3, ...) of unit quaternions given as four numbers or arrays."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def to_quat_xyzw(dst_T_src: Rigid) -> Array:
    """Return the rotation as a unit quaternion (..., 4) in x, y, z, w order, with w >= 0."""
    R = np.asarray(dst_T_src, np.float64)[..., :3, :3]
    m00, m11, m22 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    # outer = 4 q q^T, so each of its rows is a multiple of q. Shepperd: take the row with the
    # largest divisor (its diagonal element), which stays exact near 180 degrees.
    outer = np.empty((*R.shape[:-2], 4, 4))
    outer[..., 0, 0] = 1 + m00 - m11 - m22
    outer[..., 1, 1] = 1 - m00 + m11 - m22
    outer[..., 2, 2] = 1 - m00 - m11 + m22
    outer[..., 3, 3] = 1 + m00 + m11 + m22
    outer[..., 0, 1] = outer[..., 1, 0] = R[..., 0, 1] + R[..., 1, 0]
    outer[..., 0, 2] = outer[..., 2, 0] = R[..., 0, 2] + R[..., 2, 0]
    outer[..., 1, 2] = outer[..., 2, 1] = R[..., 1, 2] + R[..., 2, 1]
    outer[..., 0, 3] = outer[..., 3, 0] = R[..., 2, 1] - R[..., 1, 2]
    outer[..., 1, 3] = outer[..., 3, 1] = R[..., 0, 2] - R[..., 2, 0]
    outer[..., 2, 3] = outer[..., 3, 2] = R[..., 1, 0] - R[..., 0, 1]
    best = outer.diagonal(0, -2, -1).argmax(axis=-1)
    rows = outer.reshape(-1, 4, 4)
    q = rows[np.arange(len(rows)), best.ravel()].reshape(outer.shape[:-1])
    sign = np.where(q[..., 3:] < 0, -1.0, 1.0)
    unit: Array = q * (sign / np.sqrt((q * q).sum(axis=-1, keepdims=True)))
    return unit


def _one_quat_xyzw(R: Array) -> tuple[float, float, float, float]:
    """Do what `to_quat_xyzw` does for one rotation (3, 3), several times as fast."""
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = R.tolist()
    rows = (
        (1 + m00 - m11 - m22, m01 + m10, m02 + m20, m21 - m12),
        (m01 + m10, 1 - m00 + m11 - m22, m12 + m21, m02 - m20),
        (m02 + m20, m12 + m21, 1 - m00 - m11 + m22, m10 - m01),
        (m21 - m12, m02 - m20, m10 - m01, 1 + m00 + m11 + m22),
    )
    x, y, z, w = rows[max(range(4), key=lambda i: rows[i][i])]
    scale = (-1.0 if w < 0 else 1.0) / math.sqrt(x * x + y * y + z * z + w * w)
    return x * scale, y * scale, z * scale, w * scale


def inverse(dst_T_src: Rigid) -> Rigid:
    """Return `src_T_dst`, exactly for rotations (the transpose, no general inverse)."""
    R_t = np.swapaxes(dst_T_src[..., :3, :3], -1, -2)
    src_T_dst = np.zeros_like(dst_T_src)
    src_T_dst[..., :3, :3] = R_t
    src_T_dst[..., :3, 3] = -(R_t @ dst_T_src[..., :3, 3:])[..., 0]
    src_T_dst[..., 3, 3] = 1
    return src_T_dst


def transform_points(dst_T_src: Rigid, points_src: Points3) -> Points3:
    """Map points (..., p, 3) from src to dst; leading axes broadcast."""
    R_t = np.swapaxes(dst_T_src[..., :3, :3], -1, -2)
    return points_src @ R_t + dst_T_src[..., None, :3, 3]


def interpolate(dst_T_src0: Rigid, dst_T_src1: Rigid, alpha: float) -> Rigid:
    """Return the pose between two poses of a moving src: straight line and shortest arc (slerp).

    Args:
        dst_T_src0: (4, 4) pose at alpha = 0.
        dst_T_src1: (4, 4) pose at alpha = 1.
        alpha: 0..1.
    """
    R0 = dst_T_src0[:3, :3]
    x, y, z, w = _one_quat_xyzw(R0.T @ dst_T_src1[:3, :3])  # w >= 0, so this is the shortest arc
    sin_half = math.sqrt(x * x + y * y + z * z)
    half = alpha * math.atan2(sin_half, w)
    scale = math.sin(half) / sin_half if sin_half > 1e-12 else alpha
    dst_T_src = np.eye(4)
    dst_T_src[:3, :3] = R0 @ _rotation(scale * x, scale * y, scale * z, math.cos(half))
    t0, t1 = dst_T_src0[:3, 3], dst_T_src1[:3, 3]
    dst_T_src[:3, 3] = t0 + alpha * (t1 - t0)
    return dst_T_src


def level(odom_T_base: Rigid) -> Rigid:
    """Return `base_T_ego`: the gravity-aligned ego frame seen from the body frame.

    The ego frame shares base's origin; its z is odom's z (up against gravity), its x is base's x
    laid into the horizontal plane. The result is a pure rotation, identity on level ground.

    Args:
        odom_T_base: (4, 4) pose of the body in a frame whose z points up.

    Raises:
        CalibrationError: base's x axis is vertical, so no heading exists.
    """
    forward = odom_T_base[:2, 0]
    norm = float(np.linalg.norm(forward))
    if norm < 1e-3:
        raise CalibrationError('the body frame points straight up or down; it has no heading')
    c, s = forward / norm
    odom_R_ego = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    base_T_ego = np.eye(4)
    base_T_ego[:3, :3] = odom_T_base[:3, :3].T @ odom_R_ego
    return base_T_ego
