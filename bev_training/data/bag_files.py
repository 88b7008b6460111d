"""The files of a recording: which they are, how each is opened, and what to say where one fails.

Every storage file stands for itself: its own index gives topics and counts, and compression shows
in its name or its bytes. So a folder whose recorder died before it wrote metadata.yaml, or wrote
half of it, reads like any other.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import rosbags.rosbag1
import rosbags.rosbag2
import yaml
from rosbags.interfaces import Connection

from bev_perception.errors import BagError
from bev_training.data.paths import is_local

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STORAGES = ('.mcap', '.db3')  # of ROS 2
ROS1 = '.bag'
METADATA = 'metadata.yaml'
# libyaml where PyYAML was built with it: ten times as fast.
_Loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
PACKED = '.zstd'  # ends the name of a storage file that is compressed as a whole
_MCAP_FOOTER_BYTES = 37
_COPY_BYTES = 8 << 20
_REASON_LENGTH = 200
_DAMAGED_ERRNO = (errno.EINVAL, errno.EOVERFLOW)  # of a seek to where a flipped bit points
_SAVE = {
    '.mcap': '`mcap recover {} -o NEW.mcap` saves what is whole',
    '.db3': '`sqlite3 {} .recover | sqlite3 NEW.db3` saves what is whole',
    ROS1: '`rosbag reindex {}` saves what is whole',
}


def natural(text: str) -> tuple[Any, ...]:
    """Return a sort key: numbers in a name count as numbers (`x_2` before `x_10`)."""
    parts = re.split(r'([0-9]+)', text)
    return (*(int(p) if i % 2 else p for i, p in enumerate(parts)), text)


def one_line(error: BaseException) -> str:
    """Return an error's text in one line of bounded length that can be printed."""
    text = ' '.join(str(error).split()) or type(error).__name__
    if not text.isprintable():  # a piece of the damaged file
        text = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _REASON_LENGTH else f'{text[:_REASON_LENGTH]}...'


def storage_suffix(path: Path) -> str:
    """Return '.mcap', '.db3' or '.bag' for a file of this kind, also if packed; '' for others."""
    name = path.name.removesuffix(PACKED)
    suffix = PurePosixPath(name).suffix
    known = suffix in STORAGES or (suffix == ROS1 and name == path.name)
    return suffix if known else ''


def recording_files(path: Path) -> tuple[Path, ...]:
    """Return the storage files of a recording, in its order.

    Args:
        path: a storage file, or a folder that is one recording.

    Raises:
        BagError: there is none, or a file that metadata.yaml names is missing.
        OSError: the folder cannot be read.
    """
    if not path.is_dir():
        if not path.exists():
            raise BagError(f'{path} does not exist')
        if not storage_suffix(path):
            raise BagError(f'{path} is no recording; it must end in .mcap, .db3 or .bag')
        return (path,)
    named = _named_files(path)
    if named:
        return named
    inside = (item for item in path.iterdir() if storage_suffix(item) in STORAGES)
    found = sorted(inside, key=lambda item: natural(item.name.removesuffix(PACKED)))
    files = tuple(f for f in found if not f.name.startswith('.'))
    if not files:
        raise BagError(f'{path} holds no .mcap or .db3 file and no metadata.yaml that names one')
    if len({storage_suffix(f) for f in files}) > 1:
        raise BagError(f'{path} holds .mcap and .db3 files without metadata.yaml; name the files')
    return files


def is_bag_metadata(path: Path) -> bool:
    """Whether a file is the metadata of a rosbag2 recording, and can be read as such."""
    return bool(_information(path))


def _information(path: Path) -> dict[str, Any]:
    """Return what metadata.yaml says; nothing where it is absent or damaged."""
    try:
        read = yaml.load(path.read_text(encoding='utf-8'), _Loader)
    except (FileNotFoundError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    information = read.get('rosbag2_bagfile_information') if isinstance(read, dict) else None
    return information if isinstance(information, dict) else {}


def _named_files(folder: Path) -> tuple[Path, ...]:
    names = _information(folder / METADATA).get('relative_file_paths')
    if not isinstance(names, list):
        return ()
    files = []
    for name in names:
        file = folder / PurePosixPath(str(name)).name
        if not file.exists():
            packed = folder / f'{file.name}{PACKED}'  # older recorders name the last one without
            if not packed.exists():
                raise BagError(
                    f'{folder}: {METADATA} names {file.name}, which is not there; '
                    f'`ros2 bag reindex {folder}` makes {METADATA} anew'
                )
            file = packed
        if not storage_suffix(file):
            raise BagError(f'{file}: this storage is not known; .mcap and .db3 are, also .zstd')
        files.append(file)
    return tuple(files)


def storage_error(path: Path, error: Exception, *, opened: Path | None = None) -> BagError:
    """Return what to tell of a storage file that fails.

    Args:
        path: as the user knows it.
        error: of any kind: damaged files raise whatever their bytes lead to.
        opened: the unpacked copy that was read instead.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno not in _DAMAGED_ERRNO:
        if cause.errno == errno.ENOSPC:
            where = tempfile.gettempdir()
            return BagError(f'{path}: no space left in {where} for a copy; TMPDIR names another')
        return BagError(f'{path}: {cause.strerror or one_line(cause)}')
    reason = one_line(error)
    if isinstance(error, MemoryError | OverflowError):
        reason = f'a length in it is absurd ({reason})'
    elif isinstance(error, KeyError):
        reason = f'{reason} is missing in it'
    elif isinstance(error, AssertionError):
        reason = 'its index contradicts itself'
    if opened is not None:
        reason = reason.replace(str(opened), str(path))
    save = _SAVE.get(storage_suffix(path), '').format(path)
    return BagError(f'{path} cannot be read: {reason.rstrip(".")}; if it is damaged, {save}')


class StorageFile:
    """One open file of a recording.

    Attributes:
        path: as the user knows it.
        ros1: whether messages are serialised as in ROS 1.
        connections: topics with type, definition and count.
        start_ns: bag time of the first message.
        end_ns: bag time of the last one, plus 1.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Open a file; `stack` closes it and removes its copy.

        A file that is packed, or whose storage needs random access but lies in an object store,
        is copied to a temporary folder first.

        Raises:
            BagError: it cannot be read.
        """
        self.path = self._opened = path
        self.ros1 = storage_suffix(path) == ROS1
        try:
            self._opened = self._copied(stack)
            _refuse_unwritten(self._opened)
            with self._opened.open('rb') as file:  # the system's own word on what cannot be read
                file.read(1)
            self._reader: Any = _reader(self._opened)
            self._reader.open()
            stack.callback(self._reader.close)
            self.connections: list[Connection] = list(self._reader.connections)
            times = self._reader if self.ros1 else self._reader.metadata
            self.start_ns, self.end_ns = int(times.start_time), int(times.end_time)
            _check(self.connections)
            if storage_suffix(self._opened) == '.mcap':
                _refuse_lost_end(self._reader)
        except BagError:
            raise
        except Exception as error:
            raise storage_error(self.path, error, opened=self._opened) from error

    def messages(
        self, connections: Collection[Connection], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, bag time and bytes, in the order of time.

        Raises:
            BagError: the file is damaged.
        """
        if not connections:
            return
        try:
            for item in self._reader.messages(connections, start_ns, stop_ns):
                if not isinstance(item[1], int):
                    raise ValueError(f'a message has the time {item[1]!r}')
                yield item
        except Exception as error:
            raise storage_error(self.path, error, opened=self._opened) from error

    def _copied(self, stack: ExitStack) -> Path:
        packed = self.path.name.endswith(PACKED)
        in_place = is_local(self.path) or storage_suffix(self.path) == '.mcap'
        if in_place and not packed:
            return self.path
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='bev-'))
        copy = Path(folder, self.path.name.removesuffix(PACKED))
        with self.path.open('rb') as raw, copy.open('wb') as out:
            if packed:
                with zstd.open(raw, 'rb') as unpacked:
                    shutil.copyfileobj(unpacked, out, _COPY_BYTES)
            else:
                shutil.copyfileobj(raw, out, _COPY_BYTES)
        return copy


def _reader(path: Path) -> Any:
    suffix = storage_suffix(path)
    if suffix == ROS1:
        return rosbags.rosbag1.Reader(path)
    if suffix == '.db3':  # becomes a part of a URI
        path = Path(quote(os.fsencode(path.absolute())))
    return rosbags.rosbag2.Reader.STORAGE_PLUGINS[suffix](path)


def _check(connections: Collection[Connection]) -> None:
    """Refuse an index that holds what is no topic.

    Raises:
        ValueError: names it.
    """
    for connection in connections:
        names = connection.topic, connection.msgtype
        if not all(isinstance(n, str) and n and n.isprintable() for n in names):
            raise ValueError(f'a topic has the name and type {names}')
        if not isinstance(connection.msgcount, int) or connection.msgcount < 0:
            raise ValueError(f'{connection.topic} has {connection.msgcount!r} messages')


def _refuse_lost_end(reader: Any) -> None:
    """Refuse an mcap file without an index whose records lead past the end of a chunk or of the
    file: the reader stops there without a word, and what follows would be lost.

    Raises:
        ValueError: it is such a one.
    """
    file, at = reader.bio, reader.bio.tell()
    scanned = reader.data_end == file.seek(-_MCAP_FOOTER_BYTES, os.SEEK_END)
    if scanned and at != reader.data_end:
        raise ValueError(f'it has no index, and a record before byte {at} is damaged')


def _refuse_unwritten(path: Path) -> None:
    """Refuse a database whose last messages lie beside it, where the reader does not look.

    Raises:
        BagError: it is such a one.
    """
    if storage_suffix(path) != '.db3':
        return
    log = path.with_name(f'{path.name}-wal')
    if log.exists() and log.stat().st_size:
        raise BagError(
            f'{log} holds messages that are not in the database yet; '
            f'`sqlite3 {path} "PRAGMA wal_checkpoint(TRUNCATE)"` moves them there'
        )
