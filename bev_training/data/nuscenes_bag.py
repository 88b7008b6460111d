"""The recording of one scene in nuScenes' format, see `nuscenes_import`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.errors import BagError, BevError, CalibrationError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.images import check_image
from bev_perception.shapes import AnyArray, Rigid
from bev_training import messages
from bev_training.data.nuscenes_reader import EgoPose, Measured, Mounted, SceneContent
from bev_training.nuscenes_tables import LIDAR_CHANNEL, POINT_FIELDS, sensor_name

_PNG_FORMAT = 'rgb8; png compressed bgr8'
# What a header holds, and the moments before and after it that a recording needs.
_TIMES_US = 1_000_000, (2**31 - 2) * 1_000_000
_VELOCITY_NS = 100_000_000  # poses are a few milliseconds apart; their noise shows in less
_POINT = np.dtype([*((n, '<f4') for n in POINT_FIELDS[:4]), (POINT_FIELDS[4], '<u2')])
_Write = Callable[[str, int, bytes], None]  # topic, bag time in ns, message


def write_scene_bag(
    path: Path,
    dataroot: Path,
    scene: SceneContent,
    notes: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """Write messages in the order in which a recorder would have received them.

    Args:
        path: of the recording; it does not exist.
        dataroot: folder of the data set.
        scene: what to write; it is not empty.
        notes: go into the recording's metadata as `custom_data`.
        progress: called with the number of files just written.

    Raises:
        BagError: a file or a calibration is damaged, or the scene cannot be a recording.
        OSError: something cannot be read or written.
    """
    check_scene(scene)
    sensors = _first(scene)
    cameras = {c: sensor_name(c) for c, s in sorted(sensors.items()) if s.modality == 'camera'}
    lidars = {c: _lidar_topic(c) for c, s in sorted(sensors.items()) if s.modality == 'lidar'}
    stamps, path_of_base = _path(scene)
    # (bag time, order, what): messages are made when their turn comes
    events: list[tuple[int, int, Measured | int]] = [
        (stamp + messages.POSE_DELAY_NS, 0, i) for i, stamp in enumerate(stamps)
    ]
    for each in scene.measured:
        camera = each.sensor.modality == 'camera'
        delay_ns = messages.CAMERA_DELAY_NS if camera else messages.LIDAR_DELAY_NS
        events.append((each.time_us * 1000 + delay_ns, 1, each))
    events.sort(key=lambda event: event[:2])
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, text in notes.items():
            writer.set_custom_data(name, text)
        topics = {
            topic: writer.add_connection(
                topic, kind, typestore=messages.TYPESTORE, offered_qos_profiles=[profile]
            )
            for topic, kind, profile in messages.rig_topics(
                cameras.values(), lidars.values(), raw=False
            )
        }

        def write(topic: str, bag_ns: int, data: bytes) -> None:
            writer.write(topics[topic], bag_ns, data)

        start_ns = min(events[0][0], stamps[0]) - messages.STATIC_LEAD_NS
        mounts = {('base_link', _frame(s)): s.base_T_sensor for s in sensors.values()}
        write('/tf_static', start_ns, messages.transforms(start_ns, _statics(mounts)))
        for bag_ns, _, what in events:
            if isinstance(what, int):
                _write_pose(write, bag_ns, stamps, path_of_base, what)
                continue
            edge, sensor = ('base_link', _frame(what.sensor)), what.sensor
            if not np.array_equal(mounts[edge], sensor.base_T_sensor):  # it was mounted anew
                mounts[edge] = sensor.base_T_sensor
                # Whoever comes late gets the last message only, so it holds everything.
                write('/tf_static', bag_ns, messages.transforms(bag_ns, _statics(mounts)))
            if sensor.modality == 'camera':
                _write_image(write, bag_ns, dataroot, what)
            else:
                cloud = _cloud(dataroot / what.file)
                data = messages.point_cloud(_frame(sensor), what.time_us * 1000, cloud)
                write(lidars[sensor.channel], bag_ns, data)
            progress(1)


def check_scene(scene: SceneContent) -> None:
    """Make sure that times fit in a message's header, and that sensors have topics of their own.

    Raises:
        BagError: they do not.
    """
    for each in scene.measured:
        for time_us in (each.time_us, each.pose.time_us):
            if not _TIMES_US[0] <= time_us <= _TIMES_US[1]:
                raise BagError(
                    f'timestamp {time_us} of {each.file} or its ego_pose is no time in '
                    'microseconds since 1970'
                )
    taken: dict[str, str] = {}
    for channel, sensor in sorted(_first(scene).items()):
        frame = _frame(sensor)
        if taken.setdefault(frame, channel) != channel:
            raise BagError(f'channels {taken[frame]!r} and {channel!r} would have the same topic')


def _first(scene: SceneContent) -> dict[str, Mounted]:
    """Return the first mounting of every channel."""
    sensors: dict[str, Mounted] = {}
    for each in scene.measured:
        sensors.setdefault(each.sensor.channel, each.sensor)
    return sensors


def _statics(mounts: dict[tuple[str, str], Rigid]) -> dict[tuple[str, str], Rigid]:
    return {('map', 'odom'): np.eye(4), **mounts}


def _path(scene: SceneContent) -> tuple[list[int], list[Rigid]]:
    """Return stamps (ns) and odom_T_base, by time, from the first to the last measurement."""
    by_time: dict[int, EgoPose] = {}
    for each in scene.measured:
        by_time.setdefault(each.pose.time_us, each.pose)
    first, last = min(by_time), max(by_time)
    for each in scene.measured:  # where measurements share a pose, it may end before they do
        if not first <= each.time_us <= last:
            by_time.setdefault(each.time_us, each.pose)
    times = sorted(by_time)
    return [time_us * 1000 for time_us in times], [by_time[t].odom_T_base() for t in times]


def _write_pose(
    write: _Write, bag_ns: int, stamps: list[int], path: list[Rigid], number: int
) -> None:
    """Write /tf and /odom; the velocity is the mean over what follows, 0.1 s or more."""
    stamp = stamps[number]
    write('/tf', bag_ns, messages.transforms(stamp, {('odom', 'base_link'): path[number]}))
    begin = min(number, max(bisect_right(stamps, stamps[-1] - _VELOCITY_NS) - 1, 0))
    end = min(bisect_left(stamps, stamps[begin] + _VELOCITY_NS), len(stamps) - 1)
    moved = rigid.inverse(path[begin]) @ path[end]
    seconds = max((stamps[end] - stamps[begin]) / 1e9, 1e-6)
    write('/odom', bag_ns, messages.odometry(stamp, path[number], moved, seconds))


def _write_image(write: _Write, bag_ns: int, dataroot: Path, image: Measured) -> None:
    """Write CameraInfo and image; the file's bytes stay as they are."""
    stamp, frame = image.time_us * 1000, _frame(image.sensor)
    name = sensor_name(image.sensor.channel)
    path = dataroot / image.file
    data = path.read_bytes()
    format = image.format or (_PNG_FORMAT if data[:4] == b'\x89PNG' else messages.JPEG_FORMAT)
    of_file = _size_px(path, data, format)
    size_px = image.size_px if min(image.size_px) > 0 else of_file
    try:
        camera = Camera(
            K=np.array(image.sensor.K, np.float64),
            size_px=size_px,
            model=image.sensor.model,  # type: ignore[arg-type]  # checked by Camera
            D=image.sensor.D,
        )
    except (CalibrationError, ValueError) as error:
        raise BagError(f'{path}: calibrated_sensor of {image.sensor.channel}: {error}') from error
    write(f'/camera/{name}/camera_info', bag_ns, messages.camera_info(frame, stamp, camera))
    message = messages.compressed_image(frame, stamp, data, format)
    write(messages.image_topic(name, raw=False), bag_ns, message)


def _size_px(path: Path, data: bytes, format: str) -> tuple[int, int]:
    """Return an image's (width, height), from its header."""
    header = SimpleNamespace(frame_id=path.name)
    message: Any = SimpleNamespace(header=header, format=format, data=data)
    try:
        return check_image(message)
    except BevError as error:
        raise BagError(f'{path}: {error}') from error


def _cloud(path: Path) -> AnyArray:
    """Return the points of a .pcd.bin file: float32 columns POINT_FIELDS."""
    data = path.read_bytes()
    if len(data) % (4 * len(POINT_FIELDS)):
        raise BagError(
            f'{path} has {len(data)} bytes; points are {len(POINT_FIELDS)} float32 numbers each'
        )
    columns = np.frombuffer(data, '<f4').reshape(-1, len(POINT_FIELDS)).T
    cloud = np.zeros(columns.shape[1], _POINT)
    for name, column in zip(POINT_FIELDS, columns, strict=True):
        cloud[name] = column if name != 'ring' else np.nan_to_num(column).clip(0, 65535)
    return cloud


def _lidar_topic(channel: str) -> str:
    return '/lidar/points' if channel == LIDAR_CHANNEL else f'/lidar/{sensor_name(channel)}/points'


def _frame(sensor: Mounted) -> str:
    """Return the name of a sensor's frame."""
    if sensor.modality == 'camera':
        return messages.optical_frame(sensor_name(sensor.channel))
    return 'lidar' if sensor.channel == LIDAR_CHANNEL else f'lidar_{sensor_name(sensor.channel)}'
