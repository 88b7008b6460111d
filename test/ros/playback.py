"""Bags to play, our executables as processes, and a listener that keeps the bytes it hears."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from bev_perception.ros.bag_topics import message_type, recorded_qos

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
START_NS = 1_700_000_000_000_000_000
TYPES = get_typestore(Stores.ROS2_JAZZY)
RELIABLE = QoSProfile(depth=100)
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
IMAGE, STATIC, NOTE = '/camera/front/image_raw/compressed', '/tf_static', '/note'
KINDS = {
    IMAGE: 'sensor_msgs/msg/CompressedImage',
    STATIC: 'tf2_msgs/msg/TFMessage',
    NOTE: 'std_msgs/msg/String',
}
PROFILES = {IMAGE: BEST_EFFORT, STATIC: LATCHED, NOTE: RELIABLE}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One message of a bag; `after_s` counts from the bag's start."""

    topic: str
    after_s: float
    data: bytes


def drive(images: int = 20, image_bytes: int = 150_001, seconds: float = 1.0) -> list[Sent]:
    """Two static transforms, then images and notes at a steady pace."""
    rng = np.random.default_rng(5)
    messages = [
        Sent(topic=STATIC, after_s=0.001 * i, data=static_bytes(frame))
        for i, frame in enumerate(('camera', 'lidar'))
    ]
    for i in range(images):
        after_s = 0.01 + seconds * i / images
        payload = rng.integers(0, 256, image_bytes + i, dtype=np.uint8)
        messages.append(Sent(topic=IMAGE, after_s=after_s, data=image_message(payload)))
        messages.append(Sent(topic=NOTE, after_s=after_s + 1e-4, data=note_bytes(f'note {i}')))
    return messages


def image_message(payload: np.ndarray) -> bytes:
    """A CompressedImage with any payload."""
    stamp = TYPES.types['builtin_interfaces/msg/Time'](sec=1, nanosec=2)
    header = TYPES.types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')
    message = TYPES.types[KINDS[IMAGE]](header=header, format='jpeg', data=payload)
    return bytes(TYPES.serialize_cdr(message, KINDS[IMAGE]))


def note_bytes(text: str) -> bytes:
    """A String."""
    return bytes(TYPES.serialize_cdr(TYPES.types[KINDS[NOTE]](data=text), KINDS[NOTE]))


def static_bytes(child: str) -> bytes:
    """A TFMessage with one transform."""
    make = TYPES.types
    stamp = make['builtin_interfaces/msg/Time'](sec=1, nanosec=0)
    transform = make['geometry_msgs/msg/TransformStamped'](
        header=make['std_msgs/msg/Header'](stamp=stamp, frame_id='base_link'),
        child_frame_id=child,
        transform=make['geometry_msgs/msg/Transform'](
            translation=make['geometry_msgs/msg/Vector3'](x=1.0, y=2.0, z=3.0),
            rotation=make['geometry_msgs/msg/Quaternion'](x=0.0, y=0.0, z=0.0, w=1.0),
        ),
    )
    return bytes(TYPES.serialize_cdr(make[KINDS[STATIC]](transforms=[transform]), KINDS[STATIC]))


def write_bag(
    path: Path,
    messages: list[Sent],
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    kinds: dict[str, str] | None = None,
    with_qos: bool = True,
) -> Path:
    """Write a bag with every topic of KINDS (or of `kinds`), also those without a message."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, kind in (kinds or KINDS).items():
            qos: list[Qos] = [recorded_qos(PROFILES[topic])] if with_qos else []
            connections[topic] = writer.add_connection(
                topic, kind, typestore=TYPES, offered_qos_profiles=qos
            )
        for m in messages:
            writer.write(connections[m.topic], START_NS + round(m.after_s * 1e9), m.data)
    return path


def read_bag(path: Path) -> dict[str, list[bytes]]:
    """The bytes of every topic, in order."""
    found: dict[str, list[bytes]] = {}
    with Reader(path) as reader:
        for connection, _, data in reader.messages():
            found.setdefault(connection.topic, []).append(bytes(data))
    return found


def by_topic(messages: list[Sent]) -> dict[str, list[bytes]]:
    """The bytes of every topic, in order."""
    return {t: [m.data for m in messages if m.topic == t] for t in {m.topic for m in messages}}


def unpadded(heard: list[bytes], sent: list[bytes]) -> list[bytes]:
    """What was heard, without the up to three zero bytes that DDS appends to fill a word.

    It does so to messages that travel in one piece, not to those that are sent in fragments.
    """
    sizes = [len(data) for data in sent] + [len(data) for data in heard[len(sent) :]]
    tails = {data[size:] for data, size in zip(heard, sizes, strict=False)}
    assert tails <= {b'', b'\0', b'\0\0', b'\0\0\0'}, tails
    return [data[:size] for data, size in zip(heard, sizes, strict=False)]


class Listener:
    """Subscribes raw and keeps what it hears, in order."""

    def __init__(self, kinds: dict[str, str], **profiles: QoSProfile) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.changed = threading.Condition()
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('listener', context=self.context)
        for topic, kind in kinds.items():
            asked = profiles.get(topic, BEST_EFFORT)
            # Deep enough that a busy listener loses nothing, whatever depth publishers use.
            profile = QoSProfile(
                depth=100, reliability=asked.reliability, durability=asked.durability
            )
            self.node.create_subscription(
                message_type(kind), topic, self._keep(topic), profile, raw=True
            )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _keep(self, topic: str) -> Callable[[bytes], None]:
        def keep(data: bytes) -> None:
            with self.changed:
                self.heard.append((topic, data))
                self.changed.notify_all()

        return keep

    def heard_as(self, sent: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
        """What was heard on the topics of `sent`, without padding."""
        return {topic: unpadded(self.of(topic), datas) for topic, datas in sent.items()}

    def of(self, topic: str) -> list[bytes]:
        """What was heard on one topic."""
        with self.changed:
            return [data for heard, data in self.heard if heard == topic]

    def wait(self, what: Callable[[], Any]) -> Any:
        """Return `what()` once it is true."""
        deadline_s = time.monotonic() + TIMEOUT_S
        with self.changed:
            while not (result := what()):
                assert time.monotonic() < deadline_s, f'timed out; heard {len(self.heard)}'
                self.changed.wait(0.05)
        return result

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Program:
    """A process of ours, in a session of its own, with its output in files."""

    def __init__(self, log: Path, *command: object, **popen: Any) -> None:
        self._out, self._err = log.with_suffix('.out'), log.with_suffix('.err')
        with self._out.open('wb') as out, self._err.open('wb') as err:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=out,
                stderr=err,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', 'PYTHONPATH': str(ROOT)},
                **popen,
            )

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text(errors='replace')

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text(errors='replace')

    def wait_for(self, text: str) -> None:
        """Wait until it has printed something."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while text not in self.out + self.err:
            assert self.process.poll() is None, f'ended early\n{self.out}{self.err}'
            assert time.monotonic() < deadline_s, f'no {text!r} in\n{self.out}{self.err}'
            time.sleep(0.02)

    def end(self, *numbers: signal.Signals) -> int:
        """Send signals, if any, and return the exit code."""
        for number in numbers:
            self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def player(log: Path, *arguments: object) -> Program:
    """Start bag_player."""
    return Program(log, '-m', 'bev_perception.ros.bag_player', *arguments)


def recorder(log: Path, *arguments: object) -> Program:
    """Start bag_recorder."""
    return Program(log, '-m', 'bev_perception.ros.bag_recorder', *arguments)
