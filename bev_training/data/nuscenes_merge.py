"""Makes the tables of a data set in nuScenes' format from those of its recordings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_perception.errors import BagError
from bev_training.data.nuscenes_files import read_scene, tables_folder
from bev_training.data.paths import whole_file, write_whole
from bev_training.nuscenes_tables import TABLES, Record, line, token_of

VERSION = 'v1.0-trainval'  # a name that the devkit and most readers know
_MAP = 'maps/none.png'
_NOTE = '.made-from.json'  # beside the tables
_FORMAT = 1  # changes when the same recordings become other tables


def finished_scenes(out: Path) -> list[str]:
    """Return the names of the recordings that a data set holds whole, sorted."""
    folder = out / 'scenes'
    if not folder.is_dir():
        return []
    return sorted(
        path.name.removesuffix('.json')
        for path in folder.iterdir()
        # a recording may be called x.json, then its folder of tables is too
        if path.name.endswith('.json') and not path.name.startswith('.') and path.is_file()
    )


def merge_tables(out: Path, version: str = VERSION) -> int:
    """Write OUT/version/*.json, all 13 tables, from the finished recordings in OUT.

    They are left as they are where these recordings made them. The same recordings give the same
    bytes. Open it with nuScenes' devkit:
    `NuScenes(version='v1.0-trainval', dataroot=OUT)`. There are no annotations and no map: the
    tables of annotations are empty, and one map without content belongs to all logs.

    Args:
        out: the data set.
        version: name of the folder.

    Returns:
        How many recordings it holds. Without one, nothing is written.

    Raises:
        BagError: the tables of a recording are missing or damaged, two of them have a scene of
            the same name, or a file cannot be written.
    """
    manifests = {name: read_scene(out, name) or {} for name in finished_scenes(out)}
    if not manifests:
        return 0
    counts = {name: _counts(out, name, manifest) for name, manifest in manifests.items()}
    note = out / version / _NOTE
    source = hashlib.sha256(json.dumps([_FORMAT, manifests]).encode()).hexdigest()
    files = (*(f'{version}/{table}.json' for table in TABLES), _MAP)
    try:
        if _noted(note) == {'source': source, 'size_bytes': _sizes(out, files)}:
            return len(manifests)
        note.unlink(missing_ok=True)
        logs: list[str] = []
        scenes: set[str] = set()
        for table in TABLES:
            with whole_file(out / version / f'{table}.json') as file:
                first = True
                for record in _records(out, table, counts, logs, scenes):
                    file.write(b'[\n' if first else b',\n')
                    file.write(record)
                    first = False
                file.write(b'[]\n' if first else b'\n]\n')
        blank = cv2.imencode('.png', np.zeros((1, 1), np.uint8))[1]
        write_whole(out / _MAP, blank.tobytes())
        content = {'source': source, 'size_bytes': _sizes(out, files)}
        write_whole(note, (json.dumps(content) + '\n').encode())
    except OSError as error:
        where = error.filename or out / version
        raise BagError(f'{where} cannot be written: {error.strerror or error}') from error
    return len(manifests)


def _noted(path: Path) -> Any:
    """Return what is known about the tables that are there; None where nothing is."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _sizes(out: Path, files: Sequence[str]) -> dict[str, int]:
    """Return the sizes of those files that are there."""
    return {name: (out / name).stat().st_size for name in files if (out / name).is_file()}


def _counts(out: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, int]:
    counts = manifest.get('tables')
    if not isinstance(counts, dict):
        raise BagError(f'{out}: scenes/{name}.json is no manifest of a recording')
    return counts


def _records(
    out: Path, table: str, counts: dict[str, dict[str, int]], logs: list[str], scenes: set[str]
) -> Iterator[bytes]:
    """Yield the records of all recordings as JSON; `log` comes before `map`."""
    if table == 'map':
        record: Record = {
            'category': 'semantic_prior',
            'token': token_of('map'),
            'filename': _MAP,
            'log_tokens': logs,
        }
        yield line(record).encode()
        return
    sensors: set[bytes] = set()
    for name, count in counts.items():
        path = tables_folder(out, name) / f'{table}.jsonl'
        for text in _lines(path, count.get(table, 0)):
            if table == 'log':
                logs.append(json.loads(text)['token'])
            if table == 'scene':
                _unique(json.loads(text)['name'], scenes, out)
            if table == 'sensor':  # recordings share them
                if text in sensors:
                    continue
                sensors.add(text)
            yield text


def _lines(path: Path, count: int) -> Iterator[bytes]:
    """Yield the lines of a file, which has so many."""
    if not count:
        return
    found = 0
    try:
        with path.open('rb') as file:
            for text in file:
                if not text.endswith(b'\n'):
                    break
                found += 1
                yield text[:-1]
    except FileNotFoundError:
        raise BagError(f'{path} is missing') from None
    if found != count:
        raise BagError(f'{path} has {found} records; its manifest says {count}')


def _unique(name: str, scenes: set[str], out: Path) -> None:
    if name in scenes:
        raise BagError(f'{out}: two scenes are called {name!r}; rename one of the recordings')
    scenes.add(name)
