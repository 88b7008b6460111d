"""A synchronised set of messages → ViewSet: calibration at the stamp, poses, decoded images.

The node, the bag converter and the replayer all make their view sets here. It is in two steps, so
that a live caller can wait for a late transform before it spends time on decoding:
`locate` (needs the transform tree) and `decode` (does not).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from bev_perception.errors import BevError, CalibrationError, TransformUnavailable
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.messages import read_image
from bev_perception.shapes import Rigid
from bev_perception.transforms import TransformTree
from bev_perception.views import CameraView, ViewSet, fit_camera

_KEPT_CHANGES = 64  # of one camera; more only where two calibrations fight over one topic


class CameraHistory:
    """One camera's CameraInfo over time, reduced to its changes.

    An image takes the calibration in force at its stamp: the newest change that is not younger,
    or the first one ever where all are. So a lost or late CameraInfo costs no image.
    """

    def __init__(self, name: str) -> None:
        """Start empty."""
        self.name = name
        # Replaced whole, never changed: lookups come from other threads.
        self._changes: tuple[tuple[int, Camera], ...] = ()
        self.epoch = 0

    def push(self, stamp_ns: int, camera: Camera) -> bool:
        """Take in one CameraInfo; return whether the calibration changed."""
        changes = self._changes
        at = bisect.bisect_right(changes, stamp_ns, key=itemgetter(0))
        if changes and changes[max(at - 1, 0)][1] == camera:
            return False
        same_stamp = at > 0 and changes[at - 1][0] == stamp_ns  # corrected: the newer one counts
        before = changes[: at - 1] if same_stamp else changes[:at]
        self._changes = (*before, (stamp_ns, camera), *changes[at:])[-_KEPT_CHANGES:]
        self.epoch += 1
        return True

    def at(self, stamp_ns: int) -> Camera:
        """Return the calibration in force at a stamp.

        Raises:
            CalibrationError: no CameraInfo has arrived yet.
        """
        changes = self._changes
        if not changes:
            raise CalibrationError(f'{self.name}: no CameraInfo has arrived yet')
        return changes[max(bisect.bisect_right(changes, stamp_ns, key=itemgetter(0)) - 1, 0)][1]


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Names of the vehicle's frames.

    Attributes:
        base: the body frame; its origin is the grid's.
        odom: a frame that stands still, z up (REP-105 `odom`, never `map`, which jumps); it gives
            gravity and the vehicle's motion between exposures. '' takes the body frame as level
            and the exposures as simultaneous.
    """

    base: str = 'base_link'
    odom: str = 'odom'


@dataclass(frozen=True, eq=False, kw_only=True)
class RigPoses:
    """Where the cameras of one set were.

    Attributes:
        stamp_ns: the set's instant.
        base_T_ego: (4, 4) gravity-aligned ego frame in the body frame.
        ego_T_cam: (4, 4) by camera name, optical frame at its exposure.
        odom_T_base: (4, 4) the body at the set's instant; None without odometry.
        odom_T_ego: (4, 4) the gravity-aligned ego frame at the set's instant, likewise.
        odom_T_base_at: (4, 4) by camera name, the body at its exposure; empty without odometry.
    """

    stamp_ns: int
    base_T_ego: Rigid
    ego_T_cam: Mapping[str, Rigid]
    odom_T_base: Rigid | None = None
    odom_T_ego: Rigid | None = None
    odom_T_base_at: Mapping[str, Rigid] = field(default_factory=dict)


def locate(
    stamp_ns: int, exposures: Mapping[str, tuple[str, int]], tree: TransformTree, frames: Frames
) -> tuple[RigPoses, dict[str, TransformUnavailable]]:
    """Look up where every camera of a set was.

    Args:
        stamp_ns: the set's instant.
        exposures: optical frame id and stamp by camera name.
        tree: transforms.
        frames: the vehicle's frames.

    Returns:
        The poses, and by camera name why one has none; nothing is guessed.

    Raises:
        TransformUnavailable: the vehicle's own pose is missing.
    """
    base_T_ego = base_T_odom = np.eye(4)
    odom_T_base = odom_T_ego = None
    if frames.odom:
        odom_T_base = tree.lookup(frames.odom, frames.base, stamp_ns)
        base_T_ego = rigid.level(odom_T_base)
        odom_T_ego = odom_T_base @ base_T_ego
        base_T_odom = rigid.inverse(odom_T_base)
    ego_T_base = rigid.inverse(base_T_ego)
    ego_T_cam, odom_T_base_at, problems = {}, {}, {}
    for name, (frame, exposed_ns) in exposures.items():
        motion = np.eye(4)  # the body at exposure, seen from the body at the set's instant
        try:
            if frames.odom:
                exposed = tree.lookup(frames.odom, frames.base, exposed_ns)
                motion = base_T_odom @ exposed
            ego_T_cam[name] = ego_T_base @ motion @ tree.lookup(frames.base, frame, exposed_ns)
            if frames.odom:
                odom_T_base_at[name] = exposed
        except TransformUnavailable as error:
            problems[name] = error
    poses = RigPoses(
        stamp_ns=stamp_ns,
        base_T_ego=base_T_ego,
        ego_T_cam=ego_T_cam,
        odom_T_base=odom_T_base,
        odom_T_ego=odom_T_ego,
        odom_T_base_at=odom_T_base_at,
    )
    return poses, problems


def decode(
    images: Mapping[str, tuple[int, Any]],
    poses: RigPoses,
    cameras: Mapping[str, CameraHistory],
    *,
    at_least_px: tuple[int, int] | None = None,
    executor: Executor | None = None,
) -> tuple[ViewSet, dict[str, BevError]]:
    """Decode a set's images and join them with their cameras and poses.

    Args:
        images: stamp and message (Image or CompressedImage) by camera name.
        poses: from `locate`; a camera without a pose is left out.
        cameras: calibrations of all cameras of the rig, in the rig's order.
        at_least_px: (width, height) that a JPEG may be shrunk to while decoding.
        executor: threads to decode on (JPEG decoders release the interpreter's lock).

    Returns:
        The view set, and what was wrong with the images that it lacks, by camera name.
    """

    def view(name: str) -> CameraView | BevError:
        stamp_ns, message = images[name]
        try:
            image = read_image(message, at_least_px)
            return CameraView(
                name=name,
                image=image,
                camera=fit_camera(cameras[name].at(stamp_ns), image, name),
                ego_T_cam=poses.ego_T_cam[name],
                stamp_ns=stamp_ns,
            )
        except BevError as error:
            return error

    names = [name for name in cameras if name in images and name in poses.ego_T_cam]
    results = dict(zip(names, (executor.map if executor else map)(view, names), strict=True))
    views = tuple(v for v in results.values() if isinstance(v, CameraView))
    seen = {v.name for v in views}
    view_set = ViewSet(
        stamp_ns=poses.stamp_ns,
        views=views,
        missing=tuple(name for name in cameras if name not in seen),
        base_T_ego=poses.base_T_ego,
        odom_T_ego=poses.odom_T_ego,
    )
    return view_set, {name: v for name, v in results.items() if isinstance(v, BevError)}
