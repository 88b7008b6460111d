"""The sensors of the synthetic vehicle: cameras around it, and maybe a lidar on its roof.

`nuscenes_rig` resembles nuScenes' vehicle (https://www.nuscenes.org/nuscenes#data-collection):
base at the rear axle on the ground, five cameras of 65 degrees, a wide one at the back, exposures
one after the other around the vehicle. `rig_yaml` reads any other rig. Frames are REP-103: base x
forward, y left, z up; cameras optical; yaw turns left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import Array, Rigid

CAMERA_HZ = 12
LIDAR_HZ = 20
TF_HZ = 50
FULL_SIZE_PX = (1600, 900)
SIZE_LIMITS_PX = ((32, 3840), (18, 2160))  # of width, of height


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
    offset_s: float = 0.0

    @property
    def frame_id(self) -> str:
        """Name of the optical frame."""
        return f'camera_{self.name}_optical_frame'


@dataclass(frozen=True, eq=False, kw_only=True)
class Lidar:
    """A spinning lidar whose sweep is taken in one instant.

    Attributes:
        base_T_lidar: its pose.
        elevations_rad: (R,) of its beams; the position is the ring's number.
        azimuths: number of steps of a turn, counter-clockwise from straight ahead.
        range_m: (nearest, farthest) return.
        hz: sweeps per second.
        noise_m: standard deviation of a range.
        dropout: probability that a near, bright surface met head-on returns nothing.
        frame_id: of its points.
    """

    base_T_lidar: Rigid
    elevations_rad: Array
    azimuths: int = 1080
    range_m: tuple[float, float] = (1.0, 100.0)
    hz: int = LIDAR_HZ
    noise_m: float = 0.02
    dropout: float = 0.03
    frame_id: str = 'lidar'


@dataclass(frozen=True, kw_only=True)
class Vehicle:
    """The box that the sensors are mounted on.

    Attributes:
        size_m: length, width, height.
        rear_overhang_m: from the rear axle, where base is, back to the bumper.
    """

    size_m: tuple[float, float, float] = (4.6, 1.9, 1.8)
    rear_overhang_m: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Rig:
    """All sensors of a vehicle.

    Attributes:
        name: of the rig.
        cameras: in fixed order, with different names.
        lidar: if there is one.
        camera_hz: how often every camera exposes.
        vehicle: what carries them.
    """

    name: str
    cameras: tuple[RigCamera, ...]
    lidar: Lidar | None = None
    camera_hz: int = CAMERA_HZ
    vehicle: Vehicle = field(default_factory=Vehicle)


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

    A size that is not 16:9 squeezes the images; K follows.

    Raises:
        ConfigError: the size is too small or too large.
    """
    check_size_px(size_px)
    cameras = []
    for name, (yaw, pitch, x, y, z, fx, offset) in _CAMERAS.items():
        K = np.array([[fx, 0, 799.5], [0, fx, 449.5 + 32.0], [0, 0, 1]])
        camera = Camera(K=K, size_px=FULL_SIZE_PX).resized(size_px)
        pose = looking(np.radians(yaw), np.radians(pitch), (x, y, z))
        cameras.append(RigCamera(name=name, camera=camera, base_T_cam=pose, offset_s=offset))
    base_T_lidar = np.eye(4)
    base_T_lidar[:3, 3] = 0.94, 0.0, 1.84
    elevations = np.radians(np.linspace(-30.67, 10.67, 32))
    return Rig(
        name='nuscenes',
        cameras=tuple(cameras),
        lidar=Lidar(base_T_lidar=base_T_lidar, elevations_rad=elevations),
        vehicle=Vehicle(size_m=(4.08, 1.73, 1.56), rear_overhang_m=0.65),
    )


def check_size_px(size_px: tuple[int, int], source: str = 'size') -> None:
    """Check an image's (width, height).

    Args:
        size_px: the size.
        source: what an error message calls it.

    Raises:
        ConfigError: it is too small or too large.
    """
    (low_w, high_w), (low_h, high_h) = SIZE_LIMITS_PX
    width, height = size_px
    if not (low_w <= width <= high_w and low_h <= height <= high_h):
        raise ConfigError(
            f'{source} is {width}x{height}; '
            f'it must lie between {low_w}x{low_h} and {high_w}x{high_h}'
        )


def looking(
    yaw: float, pitch: float, position_m: tuple[float, float, float], roll: float = 0.0
) -> Rigid:
    """Return base_T_cam of a camera's optical frame.

    Args:
        yaw: where it looks, radians, 0 = ahead, positive turns left.
        pitch: radians, positive looks down.
        position_m: in base.
        roll: radians about the optical axis, positive lowers the camera's right side.
    """
    c, s = np.cos(yaw), np.sin(yaw)
    ahead = np.array([c * np.cos(pitch), s * np.cos(pitch), -np.sin(pitch)])
    level_right = np.array([s, -c, 0.0])
    level_down = np.cross(ahead, level_right)
    right = np.cos(roll) * level_right + np.sin(roll) * level_down
    down = np.cos(roll) * level_down - np.sin(roll) * level_right
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, down, ahead], axis=1)
    pose[:3, 3] = position_m
    return pose
