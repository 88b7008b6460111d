"""Files that are written one after the other and hashed: on the way, or, where they are large, on
a thread when they are complete. (A thread that writes was slower: twice the memory traffic.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from bev_perception.errors import BagError
from bev_training.data.paths import is_local, remote, whole_file

Chunk: TypeAlias = bytes | memoryview  # of bytes
_PIECE_BYTES = 8_000_000


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file that is complete.

    Attributes:
        name: in the drive's folder, with '/'.
        size_bytes: its size.
        sha256: of its bytes, hexadecimal.
    """

    name: str
    size_bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while something is written into one line.

    Raises:
        BagError: it could not be written.
    """
    try:
        with remote(path, 'written'):
            yield
    except OSError as error:
        raise BagError(f'{path} cannot be written: {error.strerror or error}') from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a local file, hexadecimal; large pieces, so that other threads run.

    Raises:
        OSError: it cannot be read.
    """
    digest, buffer = hashlib.sha256(), bytearray(_PIECE_BYTES)
    view = memoryview(buffer)
    with path.open('rb', buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


class FileWriter:
    """Writes files, each whole or not at all."""

    def __init__(self, folder: Path, *, hash_later: bool = False) -> None:
        """Start with no file open.

        Args:
            folder: that names are in.
            hash_later: hash local files when they are complete, on a thread, while the caller
                goes on; then `close` has to be called.
        """
        self._files: list[tuple[str, int, str | Future[str]]] = []
        self._folder = folder
        self._pool = ThreadPoolExecutor(1) if hash_later and is_local(folder) else None
        self._name = ''
        self._context: AbstractContextManager[BinaryIO] | None = None

    def begin(self, name: str, *, durable: bool = False) -> None:
        """Open the next file.

        Args:
            name: in the folder.
            durable: see `paths.whole_file`.

        Raises:
            BagError: it cannot be written.
        """
        self._name, self._size, self._hash = name, 0, hashlib.sha256()
        with writing(self._folder / name):
            context = whole_file(self._folder / name, durable=durable)
            self._file = context.__enter__()
            self._context = context

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Append to the file.

        Raises:
            BagError: it cannot be written.
        """
        with writing(self._folder / self._name):
            for chunk in chunks:
                self._file.write(chunk)
                if self._pool is None:  # the chunk is still in the processor's cache
                    self._hash.update(chunk)
                self._size += len(chunk)

    def end(self) -> None:
        """Let the file appear.

        Raises:
            BagError: it cannot be written.
        """
        context, self._context = self._context, None
        if context is not None:
            with writing(self._folder / self._name):
                context.__exit__(None, None, None)
            if self._pool is None:
                digest: str | Future[str] = self._hash.hexdigest()
            else:
                digest = self._pool.submit(sha256_of, self._folder / self._name)
            self._files.append((self._name, self._size, digest))

    @property
    def files(self) -> list[WrittenFile]:
        """Those that are complete, in order; waits for their hashes.

        Raises:
            BagError: a file cannot be read back.
        """
        with writing(self._folder):
            return [
                WrittenFile(
                    name=name,
                    size_bytes=size,
                    sha256=digest if isinstance(digest, str) else digest.result(),
                )
                for name, size, digest in self._files
            ]

    def close(self) -> None:
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def abort(self) -> None:
        """Drop the file that is open; nothing of it stays."""
        context, self._context = self._context, None
        if context is not None:
            error = BagError(f'{self._folder / self._name} is not finished')
            try:
                with writing(self._folder / self._name):
                    context.__exit__(BagError, error, None)
            except BagError:  # what could not be written before cannot be flushed now either
                return
