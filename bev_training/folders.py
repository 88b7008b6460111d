"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bev_perception.errors import BagError

_HIDDEN = '.unfinished-'
REPLACING = ('.part', '.old')  # end the names of hidden folders beside one that is replaced
_REMOVE_S = 2.0
_KILLED = re.compile(r'\.(.+)\.unfinished')  # what is made beside its place, to be moved there


def entries(out: Path) -> list[Path]:
    """Return what is in a folder to write to, sorted; nothing if it does not exist yet.

    Raises:
        BagError: it is no folder, a link to nothing or cannot be read.
    """
    try:
        if out.is_symlink() and not out.exists():
            raise BagError(f'{out} is a link to {os.readlink(out)}, which does not exist')
        if not out.exists():
            return []
        if not out.is_dir():
            raise BagError(f'{out} exists and is not an empty folder, but a file')
        return sorted(out.iterdir())
    except OSError as error:
        raise BagError(f'{out} cannot be read: {error.strerror}') from error


def remove_killed(out: Path) -> None:
    """Remove the folders `.NAME.unfinished` that killed runs have left, where they hold no more
    than NAME. Only for the holder of the folder's lock.

    Raises:
        OSError: one cannot be removed.
    """
    for path in entries(out):
        match = _KILLED.fullmatch(path.name)
        if not match or path.is_symlink() or not path.is_dir():
            continue
        if {inside.name for inside in path.iterdir()} <= {match[1]}:
            shutil.rmtree(path)


@contextmanager
def existing_folder(folder: Path) -> Iterator[Path]:
    """Make a folder with its parents; those that are empty at the end vanish again.

    Raises:
        OSError: it cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]  # deepest first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    finally:
        for path in new:
            try:
                path.rmdir()
            except FileNotFoundError:  # somebody else's clearing; what is above may be ours
                continue
            except OSError:  # something is in it
                break


@contextmanager
def hidden_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder in another one, which is made if need be; it vanishes at the end.

    Raises:
        OSError: it cannot be made.
    """
    with existing_folder(parent):
        work = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=parent))
        try:
            work.chmod(0o755)
            yield work
        finally:
            _remove(work)


def _remove(work: Path) -> None:
    """Remove a folder, if it is there still. Where that fails, it is tried again for a while: a
    process that was just killed may hold something in it, and on a network's disk what is open
    stays under another name.
    """
    deadline = time.monotonic() + _REMOVE_S
    while True:
        shutil.rmtree(work, ignore_errors=True)
        if not work.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.05)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a hidden folder whose contents are in `out` at the end, or nowhere.

    A folder that exists is filled, not replaced: it may be a mount point, the target of a link or
    somebody's working directory.

    Raises:
        BagError: `out` is not empty or cannot be written.
    """
    if entries(out):
        raise BagError(f'{out} exists and is not an empty folder')
    try:
        target = Path(os.path.realpath(out))
        exists = target.exists()
        with hidden_folder(target if exists else target.parent) as work:
            yield work
            if exists:
                _move(work, target)
            else:
                work.rename(target)
    except OSError as error:
        raise BagError(f'{out} cannot be written: {error.strerror or error}') from error


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside `out` that takes its place at the end, or never.

    What is in `out` is removed once the new one is in its place. What a killed run has left beside
    it is cleared away first, and what that run had moved aside comes back. Only for the holder of
    a lock: two at once would clear each other's work.

    Raises:
        BagError: something cannot be written.
    """
    out = Path(os.path.realpath(out))  # may be a link to another disk
    work, old = (out.with_name(f'.{out.name}{ending}') for ending in REPLACING)
    try:
        if work.exists():
            shutil.rmtree(work)
        _bring_back(old, out)
        with existing_folder(out.parent):
            try:
                work.mkdir()
                yield work
                if out.exists():
                    out.rename(old)
                work.rename(out)
            finally:
                _remove(work)
                _bring_back(old, out)
    except OSError as error:  # of whoever writes: so with the name of the file
        raise BagError(f'{out} cannot be written: {error}') from error


def _bring_back(old: Path, out: Path) -> None:
    """Put a folder that was moved aside back, unless something took its place."""
    if old.exists() and not out.exists():
        old.rename(out)
    elif old.exists():
        shutil.rmtree(old)


def _move(work: Path, target: Path) -> None:
    """Move what is in a folder to the folder around it, all or nothing."""
    if entries(target) != [work]:
        raise BagError(f'{target} is not empty any more')
    # Last what tells that a drive is whole.
    names = sorted((path.name for path in work.iterdir()), key=lambda n: (n == 'drive.json', n))
    try:
        for name in names:
            (work / name).rename(target / name)
    except BaseException:
        for name in names:
            if not (work / name).exists():
                (target / name).rename(work / name)
        raise
