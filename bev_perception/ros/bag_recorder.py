"""Records topics into a rosbag2 bag: the bytes as they were sent, stamped with their arrival."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from bev_perception.errors import BagError
from bev_perception.ros.bag_options import topic_pattern
from bev_perception.ros.bag_topics import (
    accepted_profile,
    message_type,
    recorded_qos,
    typestore_of,
)
from bev_perception.ros.process import run_node

_LOOK_PERIOD_S = 0.1
_DEPTH = 100  # messages that may wait for the disk, per topic
_STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What to record and where; the command line's `--help` describes each field."""

    out: Path
    topics: tuple[str, ...]
    storage: str = 'mcap'


class BagRecorder(Node):
    """Subscribes to every matching topic as it appears and writes what arrives until closed.

    Bag time is the time at which the middleware received a message, system clock, in ns.

    Raises:
        BagError: The output exists or cannot be made; later, when it cannot be written.
    """

    def __init__(self, options: RecordOptions) -> None:
        self._options = options
        self._writer = Writer(
            _fresh(options.out), version=9, storage_plugin=_STORAGES[options.storage]
        )
        super().__init__('bag_recorder')
        try:
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f'{options.out}: cannot be made: {error}') from error
        self._topics: set[str] = set()  # those recorded and those given up
        self._counts: Counter[str] = Counter()
        self.create_timer(_LOOK_PERIOD_S, self._look)
        self.get_logger().info(f'waiting for {" ".join(options.topics)}')
        self._look()

    def close(self) -> None:
        """Finish the bag and print what it holds."""
        try:
            self._writer.close()
        except OSError as error:
            raise BagError(f'{self._options.out}: cannot be finished: {error}') from error
        counts = sorted(self._counts.items())
        print(f'recorded {self._counts.total()} messages into {self._options.out}')
        print(''.join(f'  {topic}  {count}\n' for topic, count in counts), end='', flush=True)
        for pattern in self._options.topics:
            if not any(re.fullmatch(pattern, topic) for topic in self._topics):
                self.get_logger().warning(f'{pattern}: no such topic was published')

    def _look(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            wanted = any(re.fullmatch(pattern, topic) for pattern in self._options.topics)
            if wanted and topic not in self._topics:
                self._record(topic, types)

    def _record(self, topic: str, types: list[str]) -> None:
        """Subscribe to a topic, once somebody publishes it."""
        offers = self.get_publishers_info_by_topic(topic)
        if not offers:
            return
        self._topics.add(topic)
        kind = message_type(types[0])
        typestore = typestore_of(types[0], str(offers[0].topic_type_hash))
        if len(types) > 1 or kind is None or typestore is None:
            why = 'is not installed' if kind is None else 'has no definition here'
            why = f'several types: {", ".join(types)}' if len(types) > 1 else f'{types[0]} {why}'
            self.get_logger().warning(f'not recorded: {topic} ({why})')
            return
        profiles = [offer.qos_profile for offer in offers]
        connection = self._writer.add_connection(
            topic,
            types[0],
            typestore=typestore,
            offered_qos_profiles=[recorded_qos(profile) for profile in profiles],
        )
        self._counts[topic] = 0

        def on_message(data: bytes, info: dict[str, Any]) -> None:
            self._write(connection, info['received_timestamp'] or time.time_ns(), data)

        profile = accepted_profile(profiles, _DEPTH)
        self.create_subscription(kind, topic, on_message, profile, raw=True)
        self.get_logger().info(f'recording {topic}')

    def _write(self, connection: Connection, received_ns: int, data: bytes) -> None:
        try:
            self._writer.write(connection, received_ns, data)
        except OSError as error:
            raise BagError(f'{self._options.out}: cannot be written: {error}') from error
        self._counts[connection.topic] += 1


def _fresh(out: Path) -> Path:
    if out.exists():
        raise BagError(f'{out}: exists already')
    return out


def _parse(arguments: Sequence[str]) -> RecordOptions:
    parser = argparse.ArgumentParser(
        prog='bag_recorder',
        description='Record topics into a rosbag2 bag until SIGINT or SIGTERM. '
        'Topics may appear later; their types and QoS come from the ROS graph.',
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='folder to make; must not exist')
    parser.add_argument(
        'topics',
        type=topic_pattern,
        nargs='+',
        metavar='TOPIC',
        help="names or regular expressions, such as /tf_static or '/bev_node/.*'",
    )
    parser.add_argument('--storage', choices=sorted(_STORAGES), default='mcap')
    options = vars(parser.parse_args(arguments))
    return RecordOptions(**{**options, 'topics': tuple(options['topics'])})


def main(args: Sequence[str] | None = None) -> int:
    """Record; `args` is the command line after the program's name. Returns the exit status."""
    command = [sys.argv[0], *(sys.argv[1:] if args is None else args)]
    options = _parse(remove_ros_args(command)[1:])
    return run_node(lambda: BagRecorder(options), command)


if __name__ == '__main__':
    sys.exit(main())
