"""Files that are written one after the other, and hashed on the way while their bytes are still
in the processor's cache: a thread of its own for it was slower (twice the memory traffic).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from bev_perception.errors import BagError
from bev_training.data.paths import remote, whole_file

Chunk: TypeAlias = bytes | memoryview  # of bytes


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


class FileWriter:
    """Writes files, each whole or not at all.

    Attributes:
        files: those that are complete, in order.
    """

    def __init__(self, folder: Path) -> None:
        """Start with no file open."""
        self.files: list[WrittenFile] = []
        self._folder = folder
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
            self.files.append(
                WrittenFile(name=self._name, size_bytes=self._size, sha256=self._hash.hexdigest())
            )

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
