"""Bags through rosbags: rosbag2 (mcap, sqlite3) and ROS 1, no ROS installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore

from bev_perception.errors import BagError


def read_messages(
    path: Path, topics: Sequence[str] | None = None
) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, bag time in ns, message) in the order of the recording.

    Args:
        path: bag folder or file.
        topics: names to read; None reads all.

    Raises:
        BagError: the bag cannot be read, or lacks one of the topics.
    """
    if not path.exists():
        raise BagError(f'{path} does not exist')
    try:
        # Bags of Humble and before carry no type definitions of their own.
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            known = {c.topic for c in reader.connections}
            absent = sorted(set(topics or ()) - known)
            if absent:
                raise BagError(f'{path} has no topic {absent[0]}; it has {sorted(known)}')
            wanted = [c for c in reader.connections if topics is None or c.topic in topics]
            for connection, time_ns, data in reader.messages(wanted):
                yield connection.topic, time_ns, reader.deserialize(data, connection.msgtype)
    except (AnyReaderError, OSError) as error:
        raise BagError(f'{path}: {error}') from error
