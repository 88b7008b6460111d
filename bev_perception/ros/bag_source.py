"""Reading of recordings for the player: what a bag holds, and its messages ahead of their time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import rosbags.rosbag1
import rosbags.rosbag2
from rosbags.convert.converter import is_same_wireformat
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, ConnectionExtRosbag1
from rosbags.typesys.store import Typestore

from bev_perception.errors import BagError
from bev_perception.ros.bag_topics import typestore_of


@dataclass(frozen=True, kw_only=True)
class BagContents:
    """What a bag holds. Times in ns; `end_ns` is past the last message."""

    connections: tuple[Connection, ...]
    start_ns: int
    end_ns: int
    ros1_types: Typestore | None = None  # definitions of a ROS 1 bag


def open_bag(bag: Path) -> rosbags.rosbag1.Reader | rosbags.rosbag2.Reader:
    """A reader of the recording, not opened yet. Open and use it on one thread."""
    return (rosbags.rosbag1 if bag.suffix == '.bag' else rosbags.rosbag2).Reader(bag)


def inspect_bag(bag: Path) -> BagContents:
    """Raises: BagError where the bag cannot be opened or holds no message."""
    try:
        with open_bag(bag) as reader:
            connections = tuple(reader.connections)
            start_ns, end_ns, messages = reader.start_time, reader.end_time, reader.message_count
        types = None
        if any(isinstance(c.ext, ConnectionExtRosbag1) for c in connections):
            with AnyReader([bag]) as any_reader:
                types = any_reader.typestore
    except Exception as error:  # a broken file fails in as many ways as it has bytes
        raise BagError(f'{bag}: cannot be read: {one_line(error)}') from error
    if not messages:
        raise BagError(f'{bag}: holds no messages')
    return BagContents(connections=connections, start_ns=start_ns, end_ns=end_ns, ros1_types=types)


def converter(
    connections: Sequence[Connection], name: str, type_hash: str, ros1_types: Typestore | None
) -> Callable[[bytes], bytes] | None:
    """Turns the recorded bytes of one topic into those of the installed type.

    Args:
        connections: The topic's connections.
        name: Installed type, 'package/msg/Name'.
        type_hash: The installed type's hash, 'RIHS01_...'.
        ros1_types: Definitions of a ROS 1 bag; None for ROS 2 bags, whose bytes stay as they are.

    Returns:
        None where the recorded definition is another than the installed one.
    """
    if ros1_types is None:
        known = {c.digest for c in connections if c.digest.startswith('RIHS01_')}
        return None if known - {type_hash} else bytes
    ros2_types = typestore_of(name, type_hash)
    if ros2_types is None or not all(
        is_same_wireformat(ros1_types, ros2_types, c.msgtype, name) for c in connections
    ):
        return None
    return lambda data: bytes(ros2_types.ros1_to_cdr(data, name))


class ReadAhead:
    """Runs an iterator of (id, time, data) on a thread, at most `limit_bytes` of data ahead."""

    def __init__(self, source: Iterator[tuple[int, int, bytes]], limit_bytes: int) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[int, int, bytes]] = deque()
        self._held_bytes = 0
        self._error: Exception | None = None
        self._ended = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._fill, name='read-ahead', daemon=True)
        self._thread.start()

    def messages(self, stop: threading.Event) -> Iterator[tuple[int, int, bytes]]:
        """What was read, in order, until the end or until `stop` is set.

        Raises:
            BagError: The bag could not be read to its end.
        """
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended, timeout=0.1)
                if self._waiting:
                    message = self._waiting.popleft()
                    self._held_bytes -= len(message[2])
                    self._changed.notify_all()
                elif self._ended:
                    break
                else:
                    continue
            yield message
        if self._error is not None:
            raise BagError(f'reading the bag stopped: {one_line(self._error)}')

    def close(self) -> None:
        """Stop reading."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def _fill(self) -> None:
        try:
            for message in self._source:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._held_bytes < self._limit_bytes or self._closed
                    )
                    if self._closed:
                        return
                    self._waiting.append(message)
                    self._held_bytes += len(message[2])
                    self._changed.notify_all()
        except Exception as error:  # raised again where the messages are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def one_line(error: Exception) -> str:
    """An error of any library as one line; its type's name where it has no text."""
    return ' '.join(str(error).split()) or type(error).__name__
