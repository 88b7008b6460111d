"""Writes the rosbag2 of a synthetic drive, in the order in which a recorder would receive it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.geometry import rigid
from bev_perception.shapes import AnyArray
from bev_training import messages
from bev_training.synthetic.rig import TF_HZ, Rig
from bev_training.synthetic.settings import DriveConfig
from bev_training.synthetic.slices import SLICE_S, Slice, joined, slice_count
from bev_training.synthetic.world import World

_POSE_MARGIN_S = 0.1  # poses before the first and after the last image
_VELOCITY_S = 1e-3

_Entry = tuple[int, str, bytes]  # bag time in ns, topic, serialised message


def write(
    path: Path,
    config: DriveConfig,
    world: World,
    slices: Iterable[Slice],
    progress: Callable[[int], None] | None = None,
) -> tuple[int, dict[str, AnyArray]]:
    """Write the bag.

    Args:
        path: folder that does not exist.
        config: the drive.
        world: of the drive.
        slices: of the drive, in order.
        progress: called with the number of frames just written.

    Returns:
        The number of messages, and the truth of all slices by name.
    """
    rig = config.rig_or_default()
    truth: list[dict[str, AnyArray]] = []
    written = 0
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(
                topic, kind, typestore=messages.TYPESTORE, offered_qos_profiles=[profile]
            )
            for topic, kind, profile in _topics(config, rig)
        }
        stamp = config.stamp_ns(0) - messages.STATIC_LEAD_NS
        writer.write(connections['/tf_static'], stamp, _static(world, rig, stamp))
        waiting: list[_Entry] = []
        for part in slices:
            waiting += _sensors(config, rig, part)
            waiting += _poses(config, world, rig, part.number)
            waiting.sort(key=lambda entry: entry[0])  # stable: CameraInfo stays before its image
            # What arrives after the slice's end comes between the messages of the next one.
            due = _due(waiting, config, part.number)
            for time_ns, topic, data in waiting[:due]:
                writer.write(connections[topic], time_ns, data)
            written += due
            del waiting[:due]
            truth.append(part.truth)
            if progress:
                progress(len(part.truth.get('stamps_ns', ())))
    return written + 1, joined(truth)


def _due(waiting: list[_Entry], config: DriveConfig, number: int) -> int:
    """Return how many of the entries, sorted by time, come before all of later slices."""
    if number == slice_count(config) - 1:
        return len(waiting)
    end_ns = config.stamp_ns((number + 1) * SLICE_S)
    return bisect.bisect_left(waiting, end_ns, key=lambda entry: entry[0])


def _topics(config: DriveConfig, rig: Rig) -> list[tuple[str, str, Qos]]:
    lidars = ['/lidar/points'] if rig.lidar else []
    return messages.rig_topics((c.name for c in rig.cameras), lidars, raw=config.raw)


def _static(world: World, rig: Rig, stamp_ns: int) -> bytes:
    poses = {('map', 'odom'): world.map_T_odom}
    for camera in rig.cameras:
        poses['base_link', camera.frame_id] = camera.base_T_cam
    if rig.lidar:
        poses['base_link', rig.lidar.frame_id] = rig.lidar.base_T_lidar
    return messages.transforms(stamp_ns, poses)


def _sensors(config: DriveConfig, rig: Rig, part: Slice) -> list[_Entry]:
    """Return the messages of cameras and lidar."""
    by_name = {camera.name: camera for camera in rig.cameras}
    entries: list[_Entry] = []
    for time_s, name, image in part.images:
        stamp, camera = config.stamp_ns(time_s), by_name[name]
        info = messages.camera_info(camera.frame_id, stamp, camera.camera)
        entries.append((stamp + messages.CAMERA_DELAY_NS, f'/camera/{name}/camera_info', info))
        data: Any = image
        encode = messages.raw_image if config.raw else messages.compressed_image
        message = encode(camera.frame_id, stamp, data)
        entries.append(
            (stamp + messages.CAMERA_DELAY_NS, messages.image_topic(name, raw=config.raw), message)
        )
    for time_s, points in part.sweeps:
        stamp = config.stamp_ns(time_s)
        assert rig.lidar is not None  # there are no sweeps without one
        cloud = messages.point_cloud(rig.lidar.frame_id, stamp, points)
        entries.append((stamp + messages.LIDAR_DELAY_NS, '/lidar/points', cloud))
    return entries


def _poses(config: DriveConfig, world: World, rig: Rig, number: int) -> list[_Entry]:
    """Return /tf and /odom of a slice; the first and the last one reach beyond the images."""
    per_slice, margin = SLICE_S * TF_HZ, math.ceil(_POSE_MARGIN_S * TF_HZ)
    first, last = number * per_slice, (number + 1) * per_slice
    if number == 0:
        first -= margin
    if number == slice_count(config) - 1:
        # A rig may expose its last camera after the end of the drive.
        end_s = config.seconds + max(camera.offset_s for camera in rig.cameras)
        last = math.ceil(end_s * TF_HZ) + margin + 1
    entries: list[_Entry] = []
    for step in range(first, last):
        time_s = step / TF_HZ
        stamp = config.stamp_ns(time_s)
        pose = world.odom_T_base(time_s)
        moved = rigid.inverse(pose) @ world.odom_T_base(time_s + _VELOCITY_S)
        tf = messages.transforms(stamp, {('odom', 'base_link'): pose})
        entries.append((stamp + messages.POSE_DELAY_NS, '/tf', tf))
        odometry = messages.odometry(stamp, pose, moved, _VELOCITY_S)
        entries.append((stamp + messages.POSE_DELAY_NS, '/odom', odometry))
    return entries
