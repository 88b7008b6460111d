"""Tiny recordings in every storage that rosbags writes: a rig that drives along, as a vehicle's
recorder would have seen it. Content depends on nothing but the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import rosbags.rosbag1
import rosbags.rosbag2
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from bev_perception.geometry import rigid
from bev_training import messages
from test.factories import STAMP_NS, look, make_camera, make_image, make_rig

CAMERAS = ('front_left', 'front', 'front_right')
SIZE_PX = (64, 48)
CAMERA_DELAY_NS, LIDAR_DELAY_NS, POSE_DELAY_NS = 30_000_000, 40_000_000, 1_000_000


@dataclass(frozen=True)
class Entry:
    """A message to record: bag time, topic, type, CDR bytes, latched or not."""

    time_ns: int
    topic: str
    type: str
    data: bytes
    latched: bool = False


@dataclass(frozen=True, kw_only=True)
class SmallDrive:
    """What is recorded."""

    cameras: Sequence[str] = CAMERAS
    seconds: float = 1.0
    hz: float = 10.0
    raw: bool = False
    lidar: bool = True
    tf: bool = True  # odom -> base_link; the static transforms always
    odometry: bool = True
    speed_mps: float = 10.0
    turn_radps: float = 0.2
    start_ns: int = STAMP_NS
    size_px: tuple[int, int] = SIZE_PX
    points: int = 50
    drop: Sequence[tuple[str, int]] = field(default_factory=tuple)  # (camera, number of image)

    def odom_T_base(self, time_s: float) -> np.ndarray:
        """Pose of the vehicle: a circle, with a little pitch."""
        yaw = self.turn_radps * time_s
        pose = np.eye(4)
        pose[:3, :3] = look(np.degrees(yaw), 1.0)[:3, :3] @ look()[:3, :3].T
        pose[0, 3] = self.speed_mps * time_s
        pose[1, 3] = self.speed_mps * time_s * yaw / 2
        return pose

    def exposure_ns(self, camera: str, number: int) -> int:
        """Stamp of an image: cameras fire one after the other."""
        offset_s = 0.005 * list(self.cameras).index(camera)
        return self.start_ns + round((number / self.hz + offset_s) * 1e9)

    def image(self, camera: str, number: int) -> np.ndarray:
        """An RGB image; every one is another."""
        seed = 1000 * list(self.cameras).index(camera) + number
        return make_image(self.size_px, seed=seed)

    def jpeg(self, camera: str, number: int) -> bytes:
        """The bytes that a compressed topic carries."""
        bgr = cv2.cvtColor(self.image(camera, number), cv2.COLOR_RGB2BGR)
        return cv2.imencode('.jpg', bgr)[1].tobytes()

    def sweep(self, number: int) -> np.ndarray:
        """Points of the lidar, structured."""
        rng = np.random.default_rng(number)
        kinds = [(n, '<f4') for n in ('x', 'y', 'z', 'intensity')] + [('ring', '<u2')]
        points = np.zeros(self.points, kinds)
        for name in ('x', 'y', 'z'):
            points[name] = rng.uniform(-20, 20, self.points)
        points['intensity'] = rng.uniform(0, 255, self.points)
        points['ring'] = np.arange(self.points) % 16
        return points

    def rig(self) -> dict:
        """Camera and base_T_cam by name."""
        known = make_rig(size_px=self.size_px)
        camera = make_camera(self.size_px)
        return {n: known.get(n, (camera, look(40.0 * i))) for i, n in enumerate(self.cameras)}

    def entries(self) -> list[Entry]:
        """All messages in the order of the recording."""
        out = [*self._poses()]
        rig = self.rig()
        for number in range(round(self.seconds * self.hz)):
            for name in self.cameras:
                if (name, number) in self.drop:
                    continue
                stamp, frame = self.exposure_ns(name, number), f'{name}_optical'
                at = stamp + CAMERA_DELAY_NS
                info = messages.camera_info(frame, stamp, rig[name][0])
                out.append(Entry(at, f'/camera/{name}/camera_info', messages.CAMERA_INFO, info))
                topic = messages.image_topic(name, raw=self.raw)
                if self.raw:
                    data = messages.raw_image(frame, stamp, self.image(name, number))
                    out.append(Entry(at, topic, messages.IMAGE, data))
                else:
                    data = messages.compressed_image(frame, stamp, self.jpeg(name, number))
                    out.append(Entry(at, topic, messages.COMPRESSED, data))
        for number in range(round(self.seconds * 20) if self.lidar else 0):
            stamp = self.start_ns + round(number / 20 * 1e9)
            cloud = messages.point_cloud('lidar_top', stamp, self.sweep(number))
            at = stamp + LIDAR_DELAY_NS
            out.append(Entry(at, '/lidar/points', messages.POINT_CLOUD, cloud))
        return sorted(out, key=lambda entry: entry.time_ns)

    def _poses(self) -> list[Entry]:
        at = self.start_ns - 200_000_000
        static = {('base_link', f'{n}_optical'): pose for n, (_, pose) in self.rig().items()}
        lidar = np.eye(4)
        lidar[2, 3] = 1.8
        static['base_link', 'lidar_top'] = lidar
        data = messages.transforms(at, static)
        out = [Entry(at, '/tf_static', messages.TF, data, latched=True)]
        for step in range(-5, round(self.seconds * 50) + 10):
            stamp = self.start_ns + step * 20_000_000
            pose = self.odom_T_base(step / 50)
            if self.tf:
                data = messages.transforms(stamp, {('odom', 'base_link'): pose})
                out.append(Entry(stamp + POSE_DELAY_NS, '/tf', messages.TF, data))
            if self.odometry:
                later = rigid.inverse(pose) @ self.odom_T_base(step / 50 + 1e-3)
                data = messages.odometry(stamp, pose, later, 1e-3)
                out.append(Entry(stamp + POSE_DELAY_NS, '/odom', messages.ODOMETRY, data))
        return out


def write_entries(
    path: Path,
    entries: Sequence[Entry],
    *,
    storage: str = 'mcap',
    compression: str = 'none',
) -> Path:
    """Write messages to a bag.

    Args:
        path: folder (rosbag2) or file ending in .bag (ROS 1).
        entries: what to write.
        storage: 'mcap' or 'sqlite3'.
        compression: 'none', 'file' or 'message' (zstd); with mcap also 'storage' (chunks).
    """
    if path.suffix == '.bag':
        return _write_ros1(path, entries)
    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    writer = rosbags.rosbag2.Writer(path, version=9, storage_plugin=plugin)
    if compression != 'none':
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, object] = {}
        for entry in entries:
            if entry.topic not in connections:
                profile = messages.qos(reliable=True, latched=entry.latched)
                connections[entry.topic] = writer.add_connection(
                    entry.topic,
                    entry.type,
                    typestore=messages.TYPESTORE,
                    offered_qos_profiles=[profile],
                )
            writer.write(connections[entry.topic], entry.time_ns, entry.data)
    return path


def _write_ros1(path: Path, entries: Sequence[Entry]) -> Path:
    types = get_typestore(Stores.ROS1_NOETIC)
    types.register({messages.TF: messages.TYPESTORE.fielddefs[messages.TF]})  # the store lacks it
    with rosbags.rosbag1.Writer(path) as writer:
        connections: dict[str, object] = {}
        for entry in entries:
            if entry.topic not in connections:
                connections[entry.topic] = writer.add_connection(
                    entry.topic, entry.type, typestore=types, latching=int(entry.latched)
                )
            data = messages.TYPESTORE.cdr_to_ros1(entry.data, entry.type)
            writer.write(connections[entry.topic], entry.time_ns, bytes(data))
    return path


def write_bag(path: Path, *, storage: str = 'mcap', compression: str = 'none', **values) -> Path:
    """Write a `SmallDrive(**values)`."""
    entries = SmallDrive(**values).entries()
    return write_entries(path, entries, storage=storage, compression=compression)


def changed(entry: Entry, **values) -> Entry:
    """A copy of an entry with other values."""
    return replace(entry, **values)
