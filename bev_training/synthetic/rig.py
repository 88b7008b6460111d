"""The sensors of the synthetic vehicle: six cameras around, one lidar on the roof.

The geometry resembles nuScenes' vehicle (https://www.nuscenes.org/nuscenes#data-collection): base
at the rear axle on the ground, five cameras of 65 degrees, a wide one at the back, exposures one
after the other around the vehicle. Frames are REP-103: base x forward, y left, z up; cameras
optical; yaw turns left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import Array, Rigid

CAMERA_HZ = 12
LIDAR_HZ = 10
TF_HZ = 50
FULL_SIZE_PX = (1600, 900)


@dataclass(frozen=True, eq=False, kw_only=True)
class RigCamera:
    """A camera on the vehicle.

    Attributes:
        name: as in topics and frames.
        camera: its intrinsics.
        base_T_cam: pose of the optical frame.
        offset_s: when it exposes, after the start of its frame.
    """

    name: str
    camera: Camera
    base_T_cam: Rigid
    offset_s: float

    @property
    def frame_id(self) -> str:
        """Name of the optical frame."""
        return f'camera_{self.name}_optical_frame'


@dataclass(frozen=True, eq=False, kw_only=True)
class Lidar:
    """A spinning lidar whose sweep is taken in one instant.

    Attributes:
        base_T_lidar: its pose.
        elevations_rad: (R,) of its beams, ring 0 lowest.
        azimuths: number of steps of a turn, counter-clockwise from straight ahead.
        range_m: (nearest, farthest) return.
    """

    base_T_lidar: Rigid
    elevations_rad: Array
    azimuths: int = 1080
    range_m: tuple[float, float] = (1.0, 100.0)
    frame_id: str = 'lidar'


@dataclass(frozen=True, eq=False, kw_only=True)
class Rig:
    """All sensors of a vehicle."""

    cameras: tuple[RigCamera, ...]
    lidar: Lidar


# yaw_deg, pitch_deg (positive looks down), x, y, z in base, fx, offset_s
_CAMERAS = {
    'front_left': (55.0, 0.4, 1.52, 0.49, 1.51, 1266.0, 0.0),
    'front': (0.0, 0.6, 1.70, 0.02, 1.51, 1266.0, 0.0076),
    'front_right': (-55.0, 0.5, 1.55, -0.49, 1.50, 1266.0, 0.0155),
    'back_left': (110.0, 0.3, 1.03, 0.48, 1.58, 1266.0, 0.0426),
    'back': (180.0, 0.8, 0.03, 0.0, 1.57, 809.0, 0.0327),
    'back_right': (-110.0, 0.4, 1.02, -0.48, 1.56, 1266.0, 0.0230),
}


def nuscenes_rig(size_px: tuple[int, int] = FULL_SIZE_PX) -> Rig:
    """Return the rig with images of (width, height); the field of view stays.

    Raises:
        ConfigError: the size is too small, too large or not 16:9.
    """
    width, height = size_px
    if not (64 <= width <= 3840 and 36 <= height <= 2160):
        raise ConfigError(f'size is {width}x{height}; it must lie between 64x36 and 3840x2160')
    if abs(width * 9 - height * 16) > 16:
        raise ConfigError(f'size is {width}x{height}; it must be 16:9, such as 800x450')
    cameras = []
    for name, (yaw, pitch, x, y, z, fx, offset) in _CAMERAS.items():
        K = np.array([[fx, 0, 799.5], [0, fx, 449.5 + 32.0], [0, 0, 1]])
        camera = Camera(K=K, size_px=FULL_SIZE_PX).resized(size_px)
        pose = _looking(np.radians(yaw), np.radians(pitch), (x, y, z))
        cameras.append(RigCamera(name=name, camera=camera, base_T_cam=pose, offset_s=offset))
    base_T_lidar = np.eye(4)
    base_T_lidar[:3, 3] = 0.94, 0.0, 1.84
    elevations = np.radians(np.linspace(-30.67, 10.67, 32))
    return Rig(
        cameras=tuple(cameras), lidar=Lidar(base_T_lidar=base_T_lidar, elevations_rad=elevations)
    )


def _looking(yaw: float, pitch: float, position_m: tuple[float, float, float]) -> Rigid:
    """Return the pose of an optical frame that looks along yaw, pitched down, horizon level."""
    c, s = np.cos(yaw), np.sin(yaw)
    ahead = np.array([c * np.cos(pitch), s * np.cos(pitch), -np.sin(pitch)])
    right = np.array([s, -c, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    pose[:3, 3] = position_m
    return pose
