"""Paths of bags and data sets: local, or in an object store through fsspec (s3://, gs://, ...).

A local path is a `pathlib.Path`; any other is a `upath.UPath`, which has the same methods. Files
are written here so that they appear whole or not at all: locally by a rename, in an object store
because an upload counts only when it is complete.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bev_perception.errors import BagError, BevError

PART = '.part'  # ends the name of a local file that is being written


def default_cache() -> Path:
    """Return the folder for what is computed once."""
    return Path('~/.cache/bev_perception').expanduser()


def to_path(text: str | Path) -> Path:
    """Return the path that a user named; `s3://bucket/x` and the like become a UPath.

    Raises:
        BagError: the scheme is unknown, or its package is not installed.
    """
    if not isinstance(text, str):
        return text
    scheme, separator, rest = text.partition('://')
    if not separator:
        return Path(text)
    if scheme in ('file', 'local'):
        return Path(rest)
    from upath import UPath

    try:
        path: Any = UPath(text)
        path.exists()  # the file system is only made here
    except (ImportError, ValueError) as error:
        raise BagError(f'{text}: {error}') from error
    return path


def is_local(path: Path) -> bool:
    """Whether a path is on this machine."""
    return isinstance(path, Path)


@contextmanager
def remote(path: Path, done: str = 'read') -> Iterator[None]:
    """Turn what the client of an object store raises into one line: these have errors of their
    own, which are no `OSError`. Those that are, and errors of local files, pass.

    Args:
        path: what is read or written in the block.
        done: what cannot be done then: 'read' or 'written'.

    Raises:
        BagError: the store refused, or could not be reached.
    """
    try:
        yield
    except (BevError, OSError):
        raise
    except Exception as error:
        if is_local(path):
            raise
        reason = ' '.join(str(error).split())
        raise BagError(f'{path} cannot be {done}: {type(error).__name__}: {reason}') from error


def inside(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; nothing where it does not exist.

    Of a store that does not answer, `exists` may say no: it must not look like an empty folder.

    Raises:
        OSError: it cannot be read.
        BagError: the store refused.
    """
    there: Any = folder
    try:
        if is_local(folder):
            return sorted(folder.iterdir())
        top = there.path.rstrip('/')
        with remote(folder):
            found = there.fs.ls(top, detail=False)
    except FileNotFoundError:
        return []
    # A store may list the folder itself, and a file as if it were in itself.
    names = {path.rstrip('/').removeprefix(f'{top}/') for path in found} - {top, ''}
    return [folder / name for name in sorted(names)]


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file to write; it appears at `path` when the block ends without an error.

    Folders above it are made.

    Args:
        path: the file.
        durable: wait until a local file is on the disk (fsync), so that it outlives a power cut.
            Where that would cost most of the time, leave it and compare sizes before use.

    Raises:
        OSError: it cannot be written.
    """
    if is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'.{path.name}{PART}')
        try:
            with part.open('wb') as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return
    remote = path.open('wb')
    try:
        yield remote
        remote.close()
    except BaseException:
        _discard(remote, path)
        raise


def _discard(remote: Any, path: Path) -> None:
    """End an upload so that nothing of it appears."""
    if hasattr(remote, 'forced'):  # fsspec's AbstractBufferedFile: it would upload once collected
        remote.discard()
        remote.closed = True
    else:  # written in place, as in memory or over SFTP
        remote.close()
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring a local folder's list of files to the disk; elsewhere nothing is to be done.

    Raises:
        OSError: it cannot be done.
    """
    if not is_local(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as file:
        file.write(data)
