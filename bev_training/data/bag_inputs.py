"""The recordings that a user names: files, folders, and folders that hold some somewhere below."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.data.bag_files import (
    METADATA,
    PACKED,
    STORAGES,
    is_bag_metadata,
    natural,
    one_line,
    recording_files,
    storage_suffix,
)
from bev_training.data.bag_reader import Recording
from bev_training.data.paths import is_local, to_path

_BLOCKS, _BLOCK_BYTES = 16, 64 << 10  # of the fingerprint
_SPLIT = re.compile(r'(.+)_[0-9]+')  # a recorder numbers the files of one recording
_UNFINISHED = '.active'  # ends the name of a ROS 1 bag that its recorder did not close


@dataclass(frozen=True, kw_only=True)
class BagSource:
    """One recording.

    Attributes:
        name: of its output folder: A-Z, a-z, 0-9, '.', '_', '-'; unique among the inputs.
        path: rosbag2 folder or file; the folder also where `files` is not empty.
        files: storage files in their order, where not the whole folder is the recording.
    """

    name: str
    path: Path
    files: tuple[Path, ...] = ()

    def open(self) -> Recording:
        """Return the recording, to be opened by `with`."""
        return Recording(self.path, self.files)


def find_bags(paths: Sequence[Path | str]) -> list[BagSource]:
    """Return the recordings at or below some paths, in the natural order of their names.

    A folder with a rosbag2 metadata.yaml is one recording. In any other folder every .bag file is
    one, and so is every .mcap or .db3 file, except that files whose names differ only in a number
    at the end (`x_0.mcap`, `x_1.mcap`) are one together. Folders below are searched too, hidden
    ones are not.

    A recording is called like its folder or file. Where names are equal, that of the folder above
    comes before them, then a number behind: so a name can change when other inputs are added (an
    output knows a recording by its fingerprint). A recording that is still being written is left
    out, unless nothing else is in a folder that was named.

    Raises:
        BagError: a path does not exist, is no recording, or holds none.
    """
    found: dict[tuple[str, ...], BagSource] = {}
    for path in (to_path(p) for p in paths):
        try:
            sources = list(_below(path, frozenset()))
        except BagError:
            raise
        except Exception as error:  # an object store has errors of its own
            raise BagError(f'{path}: {one_line(error)}') from error
        if not sources:
            raise BagError(f'{path} holds no recording (rosbag2 folder, .mcap, .db3 or .bag file)')
        for source in sources:
            files = source.files or (source.path,)
            found.setdefault(tuple(_identity(f) for f in files), source)
    named = _unique(list(found.values()))
    return sorted(named, key=lambda source: natural(source.name))


def fingerprint(source: BagSource) -> dict[str, Any]:
    """Return what tells one recording from another, without reading all of it.

    Returns:
        'files': name and size_bytes of each; 'fingerprint': SHA-256 over names, sizes and 16
        evenly spaced blocks of 64 KiB of each file; elsewhere a change goes unseen.

    Raises:
        BagError: a file is missing.
        OSError: a file cannot be read.
    """
    files = list(source.files or recording_files(source.path))
    if source.path.is_dir() and (source.path / METADATA).exists():
        files.insert(0, source.path / METADATA)
    digest = hashlib.sha256()
    listed = []
    for file in files:
        size = int(file.stat().st_size)
        listed.append({'name': file.name, 'size_bytes': size})
        digest.update(f'{file.name}\0{size}\0'.encode('utf-8', 'surrogateescape'))
        last = max(size - _BLOCK_BYTES, 0)
        with file.open('rb') as opened:
            for at in sorted({last * i // (_BLOCKS - 1) for i in range(_BLOCKS)}):
                opened.seek(at)
                digest.update(opened.read(_BLOCK_BYTES))
    return {'files': listed, 'fingerprint': digest.hexdigest()}


def _below(path: Path, above: frozenset[str]) -> Iterator[BagSource]:
    """Yield the recordings at a path; `above` are the folders that led to it."""
    if not path.is_dir():
        recording_files(path)  # says what is wrong with it
        yield BagSource(name=_stem(path), path=path)
        return
    items = sorted((i for i in path.iterdir() if i.name[:1] != '.'), key=lambda i: natural(i.name))
    if any(item.name == METADATA for item in items) and is_bag_metadata(path / METADATA):
        yield BagSource(name=_absolute(path).name, path=path)
        return
    here = above | {_identity(path)}
    folders = [item for item in items if item.is_dir()]
    groups = _groups([item for item in items if item not in folders and storage_suffix(item)])
    # A folder made for one recording, whose recorder died, has a better name than its files.
    alone = len(groups) == 1 and not folders
    for group in groups:
        match = _SPLIT.fullmatch(_stem(group[0])) if storage_suffix(group[0]) in STORAGES else None
        name = match[1] if match and len(group) > 1 else _stem(group[0])
        if match and alone:
            name = _absolute(path).name
        if len(group) == 1:
            yield BagSource(name=name, path=group[0])
        else:
            yield BagSource(name=name, path=path, files=group)
    for folder in folders:
        if _identity(folder) not in here:  # a link may lead back
            yield from _below(folder, here)
    unfinished = [item for item in items if item.name.endswith(_UNFINISHED)]
    if unfinished and not groups and not folders and not above:  # others are not to suffer
        raise BagError(
            f'{unfinished[0]} was not closed by its recorder; '
            f'`rosbag reindex {unfinished[0]}`, then name it .bag'
        )


def _groups(files: list[Path]) -> list[tuple[Path, ...]]:
    """Put the files of split recordings together; files come in natural order."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        suffix, stem = storage_suffix(file), _stem(file)
        match = _SPLIT.fullmatch(stem) if suffix in STORAGES else None
        key = (f'{match[1]}_', suffix) if match else (f'{stem}/', suffix)
        groups.setdefault(key, []).append(file)
    return [tuple(group) for group in groups.values()]


def _stem(path: Path) -> str:
    return path.name.removesuffix(PACKED).removesuffix(storage_suffix(path))


def _identity(path: Path) -> str:
    return str(path.resolve()) if is_local(path) else str(path)


def _absolute(path: Path) -> Path:
    """Return a path that has a name and a parent, also for '.' and '..'."""
    return path.resolve() if is_local(path) and path.name in ('', '..') else path.absolute()


def _safe(name: str) -> str:
    """Return a name for files and folders; not one like `x.json`, which names our own files."""
    name = re.sub(r'[^A-Za-z0-9._-]+', '_', name).lstrip('.-') or 'recording'
    return re.sub(r'\.json$', '_json', name)


def _unique(sources: list[BagSource]) -> list[BagSource]:
    """Give every recording a name of its own, also where upper and lower case are the same."""
    sources = [replace(s, name=_safe(s.name or 'recording')) for s in sources]
    for rename in (_with_parent, _with_number):
        sources = _renamed(sources, rename)
    return sources


def _renamed(
    sources: list[BagSource], rename: Callable[[BagSource, set[str]], str]
) -> list[BagSource]:
    many = Counter(s.name.casefold() for s in sources)
    taken = {name for name, count in many.items() if count == 1}
    out = []
    for source in sources:
        if many[source.name.casefold()] > 1:
            source = replace(source, name=rename(source, taken))
            taken.add(source.name.casefold())
        out.append(source)
    return out


def _with_parent(source: BagSource, taken: set[str]) -> str:
    folder = source.path if source.files else _absolute(source.path).parent
    folder = _absolute(folder)
    if _safe(folder.name) == source.name:  # it has its name from there
        folder = folder.parent
    return _safe(f'{folder.name}_{source.name}')


def _with_number(source: BagSource, taken: set[str]) -> str:
    name, number = source.name, 1
    while name.casefold() in taken:
        number += 1
        name = f'{source.name}_{number}'
    return name
