"""What a recording becomes: frames with encoded images, lidar sweeps, poses and calibrations.

`convert` makes them, the writers (drive data set, nuScenes' format) store them, `drives` gives
them back. Poses are (4, 4) float64, `dst_T_src`, metres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bev_perception.geometry.camera import Camera
from bev_perception.shapes import Rigid


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedImage:
    """A picture as it is stored.

    Attributes:
        data: a JPEG or PNG; as read from a recording a view of the message, not a copy.
        suffix: 'jpg' or 'png'.
        size_px: (width, height).
        format: `format` of the CompressedImage that it came in; tells a Bayer mosaic.
    """

    data: bytes | memoryview
    suffix: str
    size_px: tuple[int, int]
    format: str


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameView:
    """One camera's image in a frame.

    Attributes:
        camera: its name in the rig.
        stamp_ns: exposure.
        image: the picture.
        ego_T_cam: as in `views.CameraView`: optical frame at exposure, in the frame's ego frame.
        odom_T_base: the vehicle's body at exposure; None without odometry.
    """

    camera: str
    stamp_ns: int
    image: EncodedImage
    ego_T_cam: Rigid
    odom_T_base: Rigid | None


@dataclass(frozen=True, eq=False, kw_only=True)
class LidarSweep:
    """One sweep of a lidar.

    Attributes:
        lidar: its name.
        stamp_ns: of the sweep.
        points: (n, c) float32 in the sensor's frame; columns as `LidarCalibration.fields` says,
            x, y, z first. Points without a return are left out.
        ego_T_lidar: the sensor at the sweep's stamp, in the ego frame of the frame that holds it:
            `transform_points(ego_T_lidar, xyz)` puts the sweeps of a frame into one cloud.
    """

    lidar: str
    stamp_ns: int
    points: npt.NDArray[np.float32]
    ego_T_lidar: Rigid


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """The images of one instant and what belongs to them.

    Attributes:
        stamp_ns: the instant; strictly increasing within a sequence.
        epoch: number of the calibration that holds.
        sequence: grows where neighbours are no neighbours in time: after a gap, when the clock or
            the odometry jumps.
        odom_T_ego: gravity-aligned ego frame in odom; None without odometry.
        base_T_ego: the same frame seen from the vehicle's body (its tilt).
        views: cameras that have an image, in the rig's order.
        missing: names of cameras that have none, in the rig's order.
        sweeps: by time; of each lidar those since the previous frame, the last one the nearest to
            the instant.
        spread_s: newest minus oldest exposure, after offsets.
    """

    stamp_ns: int
    epoch: int
    sequence: int
    odom_T_ego: Rigid | None
    base_T_ego: Rigid
    views: tuple[FrameView, ...]
    missing: tuple[str, ...] = ()
    sweeps: tuple[LidarSweep, ...] = ()
    spread_s: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraCalibration:
    """A camera in one epoch.

    Attributes:
        frame_id: its optical frame.
        camera: as CameraInfo describes it (an image may be a scaled version, `fit_camera`).
        base_T_cam: where it is mounted; None if it moves against the vehicle's body.
    """

    frame_id: str
    camera: Camera
    base_T_cam: Rigid | None


@dataclass(frozen=True, eq=False, kw_only=True)
class LidarCalibration:
    """A lidar in one epoch.

    Attributes:
        frame_id: its frame.
        base_T_lidar: where it is mounted; None if it moves against the vehicle's body.
        fields: names of the columns of its sweeps.
    """

    frame_id: str
    base_T_lidar: Rigid | None
    fields: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """What holds during one epoch of a drive.

    Attributes:
        epoch: 0, 1, ...
        from_stamp_ns: instant of the first frame with it.
        cameras: by name, all of the rig in its order.
        lidars: by name.
    """

    epoch: int
    from_stamp_ns: int
    cameras: Mapping[str, CameraCalibration]
    lidars: Mapping[str, LidarCalibration] = field(default_factory=dict)
