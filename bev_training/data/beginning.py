"""What is known of a recording before its first frame: calibrations, static transforms, frames.

Live, a set waits until these have arrived. In a recording they may lie behind the first images,
so they are looked up first; only as much is read as that takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bev_perception.errors import BagError, CalibrationError, MessageError
from bev_perception.geometry.camera import Camera
from bev_perception.messages import read_camera, read_pose, stamp_ns
from bev_perception.transforms import StampedTransform
from bev_training.data.bag_reader import Recording
from bev_training.data.frame_trees import transforms_of
from bev_training.data.pointcloud import sweep_fields
from bev_training.data.topics import CameraTopics, RigTopics, first_frame

_TRIED_INFOS = 3_000  # a driver may publish zeros until it has loaded its calibration
_TRIED_CLOUDS = 100
_TRIED_POSES = 1_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Beginning:
    """What is known before the first frame.

    Attributes:
        cameras: by name, stamp (0 if it has none) and camera of the first CameraInfo that is
            calibrated.
        statics: first value of every static transform of the recording; later ones apply when
            they come.
        camera_frames: optical frame by camera, of the first image.
        lidar_frames: frame by lidar, of the first sweep.
        lidar_fields: columns of the sweeps by lidar, see `sweep_fields`.
        odometry_child: frame whose pose the odometry topic gives; '' where TF gives it.
    """

    cameras: Mapping[str, tuple[int, Camera]]
    statics: tuple[StampedTransform, ...]
    camera_frames: Mapping[str, str]
    lidar_frames: Mapping[str, str]
    lidar_fields: Mapping[str, tuple[str, ...]]
    odometry_child: str = ''


def read_beginning(recording: Recording, rig: RigTopics, base_frame: str) -> Beginning:
    """Look up what holds at the beginning of a recording.

    Args:
        recording: open.
        rig: its topics.
        base_frame: of what a pose is that does not say it.

    Raises:
        BagError: a topic has no message that can be read; names it.
        CalibrationError: a camera is not calibrated; names it.
    """
    statics: dict[str, StampedTransform] = {}
    for transform in transforms_of(recording, rig.tf_static):
        statics.setdefault(transform.child, transform)
    return Beginning(
        cameras={camera.name: _first_camera(recording, camera) for camera in rig.cameras},
        statics=tuple(statics.values()),
        camera_frames={c.name: first_frame(recording, c.image) for c in rig.cameras},
        lidar_frames={name: first_frame(recording, topic) for name, topic in rig.lidars.items()},
        lidar_fields={name: _fields(recording, topic) for name, topic in rig.lidars.items()},
        odometry_child=_odometry_child(recording, rig.odometry, base_frame),
    )


def _first_camera(recording: Recording, camera: CameraTopics) -> tuple[int, Camera]:
    problem: CalibrationError | None = None
    for message in _some(recording, camera.info, _TRIED_INFOS):
        try:
            read = read_camera(message, name=camera.name, rectified=camera.rectified)
        except CalibrationError as error:
            problem = problem or error
            continue
        return stamp_ns(message.header), read
    if problem is not None:
        raise CalibrationError(f'{recording.path}: {camera.info}: {problem}')
    raise _nothing(recording, camera.info)


def _fields(recording: Recording, topic: str) -> tuple[str, ...]:
    problem: MessageError | None = None
    for message in _some(recording, topic, _TRIED_CLOUDS):
        try:
            return sweep_fields(message)
        except MessageError as error:
            problem = problem or error
    if problem is not None:
        raise BagError(f'{recording.path}: {topic}: {problem}')
    raise _nothing(recording, topic)


def _odometry_child(recording: Recording, topic: str, base_frame: str) -> str:
    for message in _some(recording, topic, _TRIED_POSES) if topic else ():
        try:
            return read_pose(message, base_frame).child
        except MessageError:
            continue  # counted when its turn comes
    return ''


def _some(recording: Recording, topic: str, limit: int) -> Iterator[Any]:
    with closing(recording.messages([topic])) as messages:
        for _, _, message in islice(messages, limit):
            yield message


def _nothing(recording: Recording, topic: str) -> BagError:
    problem = recording.first_problem.get(topic, 'it has none')
    return BagError(f'{recording.path}: no message of {topic} can be read: {problem}')
