"""Bags through rosbags: rosbag2 (mcap, sqlite3) and ROS 1, no ROS installed."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection

from bev_perception.errors import BagError, MessageError
from bev_training.data.bag_files import StorageFile, one_line, recording_files, storage_error
from bev_training.data.bag_types import MessageTypes

_Reader = Callable[[bytes], Any]
_NEW_NAMES = {'tf/msg/tfMessage': 'tf2_msgs/msg/TFMessage'}  # the same type; ROS 1 mixes both


@dataclass(frozen=True, kw_only=True)
class TopicInfo:
    """A topic of a recording.

    Attributes:
        name: of the topic.
        type: as 'sensor_msgs/msg/Image', also in ROS 1; that of most messages if it has several.
        messages: how many of it are recorded.
    """

    name: str
    type: str
    messages: int


class Recording:
    """A recording, open within a `with` block.

    Storage is read as it goes: memory does not grow with the recording's length. Files that are
    compressed as a whole are unpacked to a temporary folder while it is open (TMPDIR names it),
    and so are .db3 and .bag files of an object store.

    Attributes:
        path: a rosbag2 folder (with or without metadata.yaml) or a .mcap, .db3 or .bag file.
        topics: by name.
        start_ns: bag time of the first message; 0 if there is none.
        end_ns: bag time of the last message, plus 1.
        message_count: of all topics.
        unreadable: messages by topic that were skipped because they cannot be deserialised or are
            not where the index says; the most that any pass over the topic met.
        first_problem: by topic, why, in one line.
    """

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        """Name a recording.

        Args:
            path: its folder or file.
            files: its storage files in their order; found where none are given.
        """
        self.path = path
        self._given = tuple(files)
        self.topics: dict[str, TopicInfo] = {}
        self.start_ns = self.end_ns = self.message_count = 0
        self.unreadable: Counter[str] = Counter()
        self.first_problem: dict[str, str] = {}
        self._storages: list[StorageFile] = []
        self._stack = ExitStack()

    def __enter__(self) -> Recording:
        """Open it.

        Raises:
            BagError: it does not exist or cannot be read.
        """
        with ExitStack() as stack:
            try:
                files = self._given or recording_files(self.path)
            except BagError:
                raise
            except Exception as error:  # an object store has errors of its own
                raise storage_error(self.path, error) from error
            self._storages = [StorageFile(file, stack) for file in files]
            self._types = MessageTypes(ros1=self._storages[0].ros1)
            self._summarise()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it and remove temporary copies."""
        self._storages = []
        self._stack.close()

    def _summarise(self) -> None:
        counts: dict[str, Counter[str]] = {}
        for storage in self._storages:
            for connection in storage.connections:
                types = counts.setdefault(connection.topic, Counter())
                types[_type(connection)] += connection.msgcount
        self.topics = {
            name: TopicInfo(
                name=name,
                type=min(types, key=lambda t: (-types[t], t)),
                messages=types.total(),
            )
            for name, types in sorted(counts.items())
        }
        self.message_count = sum(topic.messages for topic in self.topics.values())
        filled = [s for s in self._storages if any(c.msgcount for c in s.connections)]
        self.start_ns = min((s.start_ns for s in filled), default=0)
        self.end_ns = max((s.end_ns for s in filled), default=0)

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Generator[tuple[str, int, Any], None, None]:
        """Return an iterator over (topic, bag time in ns, message), in the order of bag time.

        Messages that cannot be deserialised are skipped and counted in `unreadable`. It may be
        left at any message; only as much is read as is taken. One iterator at a time.

        Args:
            topics: names to read.
            start_ns: leaves out what was recorded before.
            stop_ns: leaves out what was recorded then or later.

        Raises:
            BagError: a topic is not in the recording (at once), or a file is damaged (when the
                iterator comes to it).
        """
        absent = sorted(set(topics) - set(self.topics))
        if absent:
            raise BagError(f'{self.path} has no topic {absent[0]}; it has {list(self.topics)}')
        return self._messages(frozenset(topics), start_ns, stop_ns)

    def _messages(
        self, topics: frozenset[str], start_ns: int | None, stop_ns: int | None
    ) -> Generator[tuple[str, int, Any], None, None]:
        skipped: Counter[str] = Counter()
        expected: Counter[str] = Counter()
        streams = []
        for storage in self._storages:
            readers: dict[int, tuple[Connection, _Reader]] = {}
            for connection in storage.connections:
                if connection.topic not in topics:
                    continue
                try:
                    readers[connection.id] = connection, self._reader(connection)
                    expected[connection.topic] += connection.msgcount
                except MessageError as error:
                    if connection.msgcount:
                        self._skip(skipped, connection.topic, str(error), connection.msgcount)
            streams.append(_stream(storage, readers, start_ns, stop_ns))
        for at_ns, topic, read, data in heapq.merge(*streams, key=itemgetter(0)):
            if read is None:
                continue
            expected[topic] -= 1
            try:
                message = read(data)
            except MemoryError:
                raise
            except Exception as error:  # rosbags raises what the bytes lead it to
                self._skip(skipped, topic, one_line(error))
                continue
            yield topic, at_ns, message
        if start_ns is None and stop_ns is None:
            for topic, missing in expected.items():
                if missing > 0:
                    all_of_it = self.topics[topic].messages
                    problem = f'{missing} of {all_of_it} messages are not where the index says'
                    self._skip(skipped, topic, problem, missing)

    def _reader(self, connection: Connection) -> _Reader:
        expected = self.topics[connection.topic].type
        if _type(connection) != expected:
            raise MessageError(f'some messages are {_type(connection)}, most are {expected}')
        return self._types.reader(connection)

    def _skip(self, skipped: Counter[str], topic: str, problem: str, count: int = 1) -> None:
        skipped[topic] += count
        self.unreadable[topic] = max(self.unreadable[topic], skipped[topic])
        self.first_problem.setdefault(topic, problem)

    def first(self, topic: str) -> tuple[int, Any] | None:
        """Return bag time and message of the first readable message of a topic, None if none is.

        Raises:
            BagError: as `messages`.
        """
        for _, at_ns, message in self.messages([topic]):
            return at_ns, message
        return None

    def is_readable(self, topic: str) -> bool:
        """Whether the type of a topic is known."""
        try:
            for storage in self._storages:
                for connection in storage.connections:
                    if connection.topic == topic:
                        self._reader(connection)
        except MessageError:
            return False
        return True


def _type(connection: Connection) -> str:
    return _NEW_NAMES.get(connection.msgtype, connection.msgtype)


def _stream(
    storage: StorageFile,
    readers: dict[int, tuple[Connection, _Reader]],
    start_ns: int | None,
    stop_ns: int | None,
) -> Iterator[tuple[int, str, _Reader | None, bytes]]:
    """Yield a file's messages, before them its time alone: so a merge of many files touches each
    only when its time has come.
    """
    if not readers:
        return
    yield storage.start_ns, '', None, b''
    connections = [connection for connection, _ in readers.values()]
    for connection, at_ns, data in storage.messages(connections, start_ns, stop_ns):
        yield at_ns, connection.topic, readers[connection.id][1], data


def read_messages(
    path: Path, topics: Sequence[str] | None = None
) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, bag time in ns, message) in the order of the recording.

    Args:
        path: bag folder or file.
        topics: names to read; None reads all whose type is known.

    Raises:
        BagError: the bag cannot be read, or lacks one of the topics, or a message of them is
            damaged.
    """
    with Recording(path) as recording:
        if topics is None:
            topics = [name for name in recording.topics if recording.is_readable(name)]
        for item in recording.messages(topics):
            _refuse_skipped(recording)
            yield item
        _refuse_skipped(recording)


def _refuse_skipped(recording: Recording) -> None:
    for topic, problem in recording.first_problem.items():
        raise BagError(f'{recording.path}: {topic}: {problem}')
