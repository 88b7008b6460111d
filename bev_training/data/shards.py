"""Tar shards in WebDataset's layout: the members of a frame share the part of their name before
the first dot (`000123.front.jpg`, `000123.lidar_top.npy`, `000123.json`) and lie side by side.

Plain ustar without times and owners, so that equal frames give equal bytes, and so that the bytes
of a member can be read by offset, without the tar.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BagError
from bev_training.data.file_writer import Chunk, FileWriter
from bev_training.data.paths import is_local, remote

BLOCK = tarfile.BLOCKSIZE  # members begin at multiples of it
FOLDER = 'shards'
_NAME = re.compile(r'[A-Za-z0-9_-]{1,64}')


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of a frame.

    Attributes:
        name: in the tar.
        chunks: its bytes, in pieces that are not copied.
    """

    name: str
    chunks: tuple[Chunk, ...]

    @property
    def size_bytes(self) -> int:
        """Size of its data."""
        return sum(len(chunk) for chunk in self.chunks)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where a member's data lies in its shard."""

    member: str
    offset: int
    size_bytes: int


def check_names(names: Iterable[str], what: str) -> None:
    """Refuse names that cannot be part of a member's name.

    A dot would end the key or the name, and webdataset compares in lower case.

    Raises:
        BagError: a name is unsafe, or two are the same.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise BagError(
                f'{what} name {name!r} cannot name a file of a frame; use at most 64 of the '
                "letters a-z and A-Z, digits, '_' and '-'"
            )
        if name.lower() in seen:
            raise BagError(
                f'{what} names {seen[name.lower()]!r} and {name!r} differ at most in capitals; '
                'rename one'
            )
        seen[name.lower()] = name


def key_of(frame: int) -> str:
    """Return what the names of a frame's members begin with."""
    return f'{frame:06d}'


def shard_name(number: int) -> str:
    """Return a shard's name in the drive's folder."""
    return f'{FOLDER}/{number:06d}.tar'


def npy_chunks(parts: Sequence[npt.NDArray[np.float32]], columns: int) -> tuple[Chunk, ...]:
    """Return the pieces of an .npy file that holds arrays (n, columns) float32, concatenated."""
    rows = sum(len(part) for part in parts)
    head = BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {'descr': '<f4', 'fortran_order': False, 'shape': (rows, columns)}
    )
    flat = (np.ascontiguousarray(part, '<f4').reshape(-1).view(np.uint8) for part in parts)
    return (head.getvalue(), *(part.data for part in flat))


def read_npy(data: bytes) -> npt.NDArray[np.float32]:
    """Read what `npy_chunks` made: (n, c), not writable.

    Raises:
        ValueError: it is something else.
    """
    file = BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError('it is no .npy file of version 1.0')
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 2 or fortran or dtype != np.dtype('<f4'):
        raise ValueError(f'it holds {dtype} of shape {shape}; it must be (n, c) float32')
    at = file.tell()
    if len(data) - at != 4 * shape[0] * shape[1]:
        raise ValueError(f'it has {len(data) - at} bytes for shape {shape} of float32')
    points: npt.NDArray[np.float32] = np.frombuffer(data, '<f4', offset=at).reshape(shape)
    return points


def member_header(name: str, size_bytes: int) -> bytes:
    """Return the block before a member's data."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


class ShardWriter:
    """Puts frames into shards of bounded size.

    Attributes:
        shards: of each shard its name and the number of frames.
    """

    def __init__(self, files: FileWriter, shard_bytes: int) -> None:
        """Start before the first shard.

        Args:
            files: writes them.
            shard_bytes: a shard ends with the frame that reaches this size.
        """
        self.shards: list[dict[str, Any]] = []
        self._files, self._shard_bytes = files, shard_bytes
        self._at = 0
        self._open = False

    def add(self, members: Sequence[Member]) -> tuple[str, list[Placed]]:
        """Append a frame; return its shard's name, and where its members lie.

        Raises:
            BagError: something could not be written.
        """
        if not self._open:
            name = shard_name(len(self.shards))
            self._files.begin(name)
            self.shards.append({'name': name, 'frames': 0})
            self._at, self._open = 0, True
        chunks: list[Chunk] = []
        placed = []
        for member in members:
            size = member.size_bytes
            placed.append(Placed(member=member.name, offset=self._at + BLOCK, size_bytes=size))
            chunks += (member_header(member.name, size), *member.chunks, bytes(-size % BLOCK))
            self._at += BLOCK + size + -size % BLOCK
        self._files.write(chunks)
        shard = self.shards[-1]
        shard['frames'] += 1
        if self._at >= self._shard_bytes:
            self.end()
        return shard['name'], placed

    def end(self) -> None:
        """Complete the shard that is open, if any.

        Raises:
            BagError: something could not be written.
        """
        if self._open:
            # Two empty blocks end a tar; it is then filled up to whole records.
            self._files.write([bytes(2 * BLOCK + -(self._at + 2 * BLOCK) % tarfile.RECORDSIZE)])
            self._files.end()
            self._open = False


def read_spans(path: Path, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Read (offset, size) of a shard; from an object store in one request.

    Raises:
        BagError: the shard is missing, cannot be read, or ends before.
    """
    if not spans:
        return []
    try:
        if is_local(path):
            # Opened anew each time: that costs microseconds, and nothing has to be kept in
            # mind about threads, forks and the number of open files.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                parts = [os.pread(descriptor, size, offset) for offset, size in spans]
            finally:
                os.close(descriptor)
        else:
            there: Any = path  # a UPath
            start = min(offset for offset, _ in spans)
            end = max(offset + size for offset, size in spans)
            with remote(path):
                data = there.fs.cat_file(there.path, start=start, end=end)
            parts = [data[offset - start : offset - start + size] for offset, size in spans]
    except FileNotFoundError as error:
        raise BagError(f'{path} is missing; convert the recording again') from error
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error
    for part, (offset, size) in zip(parts, spans, strict=True):
        if len(part) != size:
            raise BagError(
                f'{path} ends before byte {offset + size} that the index names; '
                'convert the recording again'
            )
    return parts
