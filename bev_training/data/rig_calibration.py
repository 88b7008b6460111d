"""Calibration epochs: what a rig's calibration is, and when it becomes another."""

from __future__ import annotations

from collections.abc import Mapping

from bev_perception.errors import TransformUnavailable
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import Rigid
from bev_perception.transforms import TransformTree
from bev_training.data.beginning import Beginning
from bev_training.data.frame import Calibration, CameraCalibration, LidarCalibration


class CalibrationTracker:
    """Gives the calibration of every frame; a new epoch where a CameraInfo or a static transform
    has changed.
    """

    def __init__(self, beginning: Beginning, tree: TransformTree, base_frame: str) -> None:
        """Start before the first epoch.

        Args:
            beginning: frames of the sensors, and columns of the sweeps.
            tree: of the recording.
            base_frame: the vehicle's body.
        """
        self._beginning, self._tree, self._base = beginning, tree, base_frame
        self._frames = dict(beginning.camera_frames)
        self._seen: object = None  # what the last calibration was made from
        self._last: Calibration | None = None

    def at(
        self, stamp_ns: int, cameras: Mapping[str, Camera], frames: Mapping[str, str]
    ) -> Calibration:
        """Return the calibration of a frame.

        Args:
            stamp_ns: of the frame.
            cameras: of all cameras of the rig.
            frames: optical frames of those that have an image, as its header names it.
        """
        self._frames.update(frames)
        names = tuple(self._frames.items())
        seen = (
            self._tree.static_epoch, names, tuple(camera.key for camera in cameras.values())
        )  # fmt: skip
        if self._last is not None and seen == self._seen:
            return self._last
        made = Calibration(
            epoch=0 if self._last is None else self._last.epoch + 1,
            from_stamp_ns=stamp_ns,
            cameras={
                name: CameraCalibration(
                    frame_id=self._frames[name],
                    camera=camera,
                    base_T_cam=self._mount(self._frames[name]),
                )
                for name, camera in cameras.items()
            },
            lidars={
                name: LidarCalibration(
                    frame_id=frame,
                    base_T_lidar=self._mount(frame),
                    fields=self._beginning.lidar_fields[name],
                )
                for name, frame in self._beginning.lidar_frames.items()
            },
        )
        self._seen = seen
        if self._last is None or _values(made) != _values(self._last):
            self._last = made
        return self._last

    def _mount(self, frame: str) -> Rigid | None:
        try:
            return self._tree.lookup_static(self._base, frame)
        except TransformUnavailable:  # not yet, of a sensor that this frame lacks
            return None


def _values(calibration: Calibration) -> tuple[object, ...]:
    """Return all that makes two calibrations equal."""
    poses = [
        *(each.base_T_cam for each in calibration.cameras.values()),
        *(each.base_T_lidar for each in calibration.lidars.values()),
    ]
    return (
        *((each.camera.key, each.frame_id) for each in calibration.cameras.values()),
        *(None if pose is None else pose.tobytes() for pose in poses),
    )
