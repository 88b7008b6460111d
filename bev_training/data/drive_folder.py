"""What the folder of a drive may hold, and who may write into it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.data.drive_index import INDEX
from bev_training.data.drive_manifest import CALIBRATION, MANIFEST
from bev_training.data.paths import PART, inside, is_local
from bev_training.data.shards import FOLDER
from bev_training.folders import REPLACING

LABELS = 'labels'  # a folder; outlives a drive that is converted anew, which has the same frames

_FILES = frozenset(
    name for file in (MANIFEST, CALIBRATION, INDEX) for name in (file, f'.{file}{PART}')
)
_LABELS = frozenset((LABELS, *(f'.{LABELS}{ending}' for ending in REPLACING)))
_SHARD = re.compile(rf'[0-9]{{6,}}\.tar|\.[0-9]{{6,}}\.tar{re.escape(PART)}')


def listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return what is in a drive's folder and its folder of shards: our files, everything else.

    Labels are neither.

    Raises:
        OSError: it cannot be read.
    """
    ours: list[Path] = []
    foreign: list[Path] = []
    for path in inside(folder):
        if path.name == FOLDER and path.is_dir() and not _is_link(path):
            for shard in sorted(path.iterdir()):
                whole = bool(_SHARD.fullmatch(shard.name)) and _is_plain(shard)
                (ours if whole else foreign).append(shard)
        elif not (path.name in _LABELS and path.is_dir()):
            (ours if path.name in _FILES and _is_plain(path) else foreign).append(path)
    return ours, foreign


def sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of all files of a drive by name; from an object store in one request.

    Raises:
        OSError: it cannot be read.
    """
    if is_local(folder):
        ours, _ = listed(folder)
        return {str(path.relative_to(folder)): path.stat().st_size for path in ours}
    there: Any = folder  # a UPath
    top = there.path.rstrip('/') + '/'
    found = there.fs.find(there.path, detail=True)
    return {
        name.removeprefix(top): int(info['size'])
        for name, info in found.items()
        if info.get('size') is not None
    }


def _is_plain(path: Path) -> bool:
    return path.is_file() and not _is_link(path)


def _is_link(path: Path) -> bool:
    return is_local(path) and path.is_symlink()  # stores have none, but would be asked


def is_unfinished(folder: Path) -> bool:
    """Whether a folder holds a drive that was begun and not finished.

    Raises:
        OSError: it cannot be read.
    """
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return False
    ours, _ = listed(folder)
    return bool(ours)


def prepare(folder: Path) -> None:
    """Make a folder ready for a drive: made if need be, cleared of a drive that was not finished.

    Raises:
        BagError: it holds a finished drive or something else.
        OSError: it cannot be read or written.
    """
    if folder.exists() and not folder.is_dir():
        raise BagError(f'{folder} is a file; a drive needs a folder')
    if (folder / MANIFEST).exists():
        raise BagError(f'{folder} holds a finished drive; remove it or choose another output')
    _, foreign = listed(folder)
    if foreign:
        raise BagError(
            f'{folder} holds {foreign[0].relative_to(folder)}, which is not part of a drive; '
            'move it away or choose another output'
        )
    _remove_files(folder)
    if is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)


def clear(folder: Path) -> None:
    """Remove a drive's files, finished or not, and its folder where nothing else is in it.

    Raises:
        OSError: something cannot be removed.
    """
    _remove_files(folder)
    if not is_local(folder):  # an object store has no folders
        return
    for path in (folder / FOLDER, folder):
        if path.is_dir() and not _is_link(path) and not any(path.iterdir()):
            path.rmdir()


def _remove_files(folder: Path) -> None:
    ours, _ = listed(folder)
    # The manifest first: where it is, the rest has to be.
    for path in sorted(ours, key=lambda path: path.name != MANIFEST):
        path.unlink()
