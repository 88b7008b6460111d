"""Files of a growing data set in nuScenes' format, one recording after the other.

    OUT/samples, OUT/sweeps            images and lidar sweeps, a folder per channel
    OUT/scenes/NAME/<table>.jsonl      the tables of one recording, a record per line
    OUT/scenes/NAME.json               what it is; written last: without it, it is unfinished

`nuscenes_merge` makes the tables that nuScenes' tools read from those of all recordings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bev_perception.errors import BagError
from bev_training.data.paths import PART, is_local, write_whole
from bev_training.nuscenes_tables import TABLES, Record, line

_ATTEMPTS = 5


class RecordFiles:
    """The tables of one recording, written as they come, so that memory stays bounded.

    Attributes:
        counts: records by table.
        size_bytes: of the files.
    """

    def __init__(self, out: Path, name: str) -> None:
        """Start empty.

        Args:
            out: the data set.
            name: of the recording.
        """
        self.counts: Counter[str] = Counter()
        self.size_bytes = 0
        self._target = tables_folder(out, name)
        # An object store cannot append: files are made here and carried there at the end.
        self._own = None if is_local(out) else tempfile.TemporaryDirectory(prefix='nuscenes-')
        self._folder = self._target if self._own is None else Path(self._own.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {}
        self._pending: dict[tuple[str, str], list[Record]] = {}  # the newest, those beside it

    def add(self, table: str, record: Record) -> None:
        """Write a record.

        Raises:
            OSError: it cannot be written.
        """
        if table not in self._files:
            self._files[table] = (self._folder / f'{table}.jsonl').open('wb')
        data = (line(record) + '\n').encode()
        with named(self._target / f'{table}.jsonl'):
            self._files[table].write(data)
        self.counts[table] += 1
        self.size_bytes += len(data)

    def chain(self, table: str, record: Record, key: str = '') -> None:
        """Link a record with the one before it; it is written when the next one is known.

        Args:
            table: its table.
            record: `prev` and `next` are filled in.
            key: of the chain, where a table has several.

        Raises:
            OSError: it cannot be written.
        """
        record['prev'] = record['next'] = ''
        before = self._pending.get((table, key), [])
        for each in before:
            each['next'], record['prev'] = record['token'], before[0]['token']
            self.add(table, each)
        self._pending[table, key] = [record]

    def beside(self, table: str, record: Record, key: str = '') -> None:
        """Give a record the links of the newest one of its chain, which stays as it is: from the
        record, ways lead back and forth into the chain, but none of them leads to the record.

        Args:
            table: its table.
            record: `prev` and `next` are filled in.
            key: of the chain.

        Raises:
            OSError: it cannot be written.
        """
        before = self._pending.get((table, key))
        if before is None:  # the chain has ended
            self.chain(table, record, key)
            return
        record['prev'], record['next'] = before[0]['prev'], ''
        before.append(record)

    def end_chains(self) -> None:
        """Write what has no next.

        Raises:
            OSError: it cannot be written.
        """
        for (table, _), pending in self._pending.items():
            for record in pending:
                self.add(table, record)
        self._pending.clear()

    def finish(self) -> None:
        """Bring all files to where they belong.

        Raises:
            OSError: they cannot be written.
        """
        self.end_chains()
        for table, file in self._files.items():
            with named(self._target / f'{table}.jsonl'):
                file.close()
        if self._own is not None:
            for table in self._files:
                source = self._folder / f'{table}.jsonl'
                with source.open('rb') as read, (self._target / source.name).open('wb') as write:
                    shutil.copyfileobj(read, write)
        self.close()

    def close(self) -> None:
        """Let go of all files, whatever is in them."""
        for file in self._files.values():
            try:
                file.close()
            except OSError:  # what could not be written before cannot be written now either
                continue
        if self._own is not None:
            self._own.cleanup()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give errors of files that are open, as when the disk is full, the name of the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def tables_folder(out: Path, name: str) -> Path:
    """Return where the tables of a recording lie."""
    return out / 'scenes' / name


def manifest_path(out: Path, name: str) -> Path:
    """Return the file that tells that a recording is finished."""
    return out / 'scenes' / f'{name}.json'


def read_scene(out: Path, name: str) -> dict[str, Any] | None:
    """Return the manifest of a recording in a data set; None if it is not there or unfinished.

    Raises:
        BagError: it cannot be read.
    """
    path = manifest_path(out, name)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BagError(f'{path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise BagError(f'{path} is no manifest of a recording')
    return content


def write_scene(out: Path, name: str, manifest: dict[str, Any]) -> None:
    """Tell that a recording is finished.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(manifest, indent=1, allow_nan=False)
    write_whole(manifest_path(out, name), (text + '\n').encode())


def data_file(name: str, channel: str, time_us: int, suffix: str, *, is_key: bool) -> str:
    """Return the name of a measurement's file in the data set."""
    folder = 'samples' if is_key else 'sweeps'
    return f'{folder}/{channel}/{name}__{channel}__{time_us}.{suffix}'


def write_data(path: Path, data: bytes | memoryview) -> None:
    """Write one of very many files, whole or not at all; nothing waits for the disk.

    Raises:
        OSError: it cannot be written.
    """
    if not is_local(path):
        path.write_bytes(data)
        return
    part = path.with_name(f'.{path.name}{PART}')
    for attempt in range(_ATTEMPTS):
        try:
            with named(path):
                part.write_bytes(data)
            break
        except FileNotFoundError:  # no folder yet, or another process removed it, then empty
            if attempt == _ATTEMPTS - 1:
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)


def remove_unfinished(out: Path, name: str) -> None:
    """Remove what a run that was killed has left of a recording; one that is finished stays.

    Raises:
        BagError: its manifest cannot be read.
        OSError: something cannot be removed.
    """
    # Locally the folder of tables is made first and removed last; in an object store, tables come
    # last, so that nothing but the list of all files tells.
    if read_scene(out, name) is None and not (
        is_local(out) and not tables_folder(out, name).exists()
    ):
        remove_recording(out, name)


def remove_recording(out: Path, name: str) -> None:
    """Remove everything of a recording, and folders that are empty then.

    Raises:
        OSError: it cannot be removed.
    """
    manifest = manifest_path(out, name)
    for path in (manifest, manifest.with_name(f'.{manifest.name}{PART}')):
        path.unlink(missing_ok=True)
    for folder in (out / 'samples', out / 'sweeps'):
        for channel in _folders(folder):
            ours = _file_names(channel.name)
            for path in list(channel.iterdir()):
                match = ours.fullmatch(path.name)
                if match is not None and match['name'] == name:
                    path.unlink()
            _remove_empty(channel)
        _remove_empty(folder)
    tables = tables_folder(out, name)  # last: it tells that there is something to remove
    for table in TABLES:
        (tables / f'{table}.jsonl').unlink(missing_ok=True)
    _remove_empty(tables)
    _remove_empty(tables.parent)


def lost_files(out: Path, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return in words, by name, which recordings have not the files that their manifests count:
    after a power cut, what was written last may be missing although the manifest is there.

    All files of a local data set are listed once. An object store has what it said it took.

    Args:
        out: the data set.
        manifests: of recordings in it, by name.

    Raises:
        OSError: a folder cannot be read.
    """
    if not is_local(out):
        return {}
    found = {name: [0, 0] for name in manifests}  # files and bytes
    for folder in (out / 'samples', out / 'sweeps'):
        for channel in _folders(folder):
            ours = _file_names(channel.name)
            with os.scandir(channel) as entries:
                for entry in entries:
                    match = ours.fullmatch(entry.name)
                    if match is not None and match['name'] in found:
                        _count(found[match['name']], entry.stat().st_size)
    lost = {}
    for name, manifest in manifests.items():
        for table in TABLES:
            path = tables_folder(out, name) / f'{table}.jsonl'
            if path.is_file():
                _count(found[name], path.stat().st_size)
        number, size_bytes = found[name]
        wanted = manifest.get('files')
        if {'number': number, 'size_bytes': size_bytes} != wanted:
            said = dict(wanted) if isinstance(wanted, dict) else {}
            lost[name] = (
                f'{out}: {name} has {number} files of {size_bytes} bytes, its manifest says '
                f'{said.get("number")} of {said.get("size_bytes")} bytes'
            )
    return lost


def _count(into: list[int], size_bytes: int) -> None:
    into[0] += 1
    into[1] += size_bytes


def _file_names(channel: str) -> re.Pattern[str]:
    """Return what matches the files of a channel, also unfinished; `name` is the recording."""
    return re.compile(
        rf'\.?(?P<name>.+)__{re.escape(channel)}__\d+\.'
        rf'(jpg|png|pcd\.bin)({re.escape(PART)})?'
    )


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def _remove_empty(folder: Path) -> None:
    """Remove a local folder if nothing is in it; an object store has no folders."""
    if not is_local(folder):
        return
    try:
        folder.rmdir()
    except OSError:  # something is in it, or there is none
        return
