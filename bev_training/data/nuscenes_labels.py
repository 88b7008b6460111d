"""Class grids of samples in nuScenes' format: rasterised once, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import Index, Mask
from bev_training.data.label_classes import CLASSES, OBJECTS
from bev_training.data.label_store import LabelStore, write_labels
from bev_training.data.locks import drive_lock
from bev_training.data.nuscenes_index import NuscenesIndex, Progress
from bev_training.data.nuscenes_maps import MAP_CLASSES, NearbyMap, map_file, read_map
from bev_training.data.sample import HIDDEN_UP_TO, LabelGrids
from bev_training.outlines import outlines
from bev_training.processes import processes

FORMAT = 1  # changes when the same boxes and maps become other grids
_MANY = 400  # samples; fewer are done before a second process has started
_MOST = 16  # processes
_AHEAD = 8  # samples that each process is given in advance
_PATIENCE_S = 7200.0  # another process rasterises the same


def cached_labels(
    index: NuscenesIndex,
    rows: Index,
    *,
    dataroot: Path,
    classes: Sequence[str],
    grid: BevGrid,
    progress: Progress | None = None,
    workers: int | None = None,
) -> LabelStore:
    """Return the grids of some samples; those that are in no cache yet are rasterised first.

    All of `label_classes.CLASSES` are, or only the objects where no other is asked for.

    Args:
        index: of the data set; the grids lie beside it.
        rows: (N,) numbers of the samples in the index.
        dataroot: folder of the data set.
        classes: that are needed.
        grid: of the labels; heights do not matter.
        progress: called with what is done, the samples done and their number.
        workers: processes for many samples; None takes one per core, up to 16.

    Raises:
        BagError: a map is missing or damaged, or the cache cannot be written.
        ConfigError: a map is needed and the devkit is not installed.
    """
    needs_map = any(name in MAP_CLASSES for name in classes)
    whole = CLASSES if needs_map else tuple(name for name in CLASSES if name in OBJECTS)
    locations = sorted({index.scene(int(i))['location'] for i in rows}) if needs_map else []
    maps = {location: map_file(dataroot, location) for location in locations}
    folder = _folder(index, rows, whole, grid, maps)
    store = _existing(folder)
    if store is not None:
        return store
    with drive_lock(folder.parent, folder.name, _PATIENCE_S):
        store = _existing(folder)  # another process may have been faster
        if store is not None:
            return store
        report = progress or (lambda what, done, total: None)
        outlined: dict[str, NearbyMap] = {}
        for location in maps:
            outlined[location] = NearbyMap(read_map(dataroot, location, whole), grid)
            report('maps', len(outlined), len(maps))
        source = f'nuScenes format, {dataroot.resolve()}'
        made = _rasterised(index, rows, outlined, whole, grid, workers or _cores())
        with closing(made):  # whatever happens, its processes end here
            frames = ((each, None) for each in _counted(made, len(rows), report))
            write_labels(folder, whole, grid, frames, source=source, replace=True)
    return LabelStore(folder)


def sample_grids(
    index: NuscenesIndex,
    i: int,
    maps: Mapping[str, NearbyMap],
    classes: Sequence[str],
    grid: BevGrid,
) -> LabelGrids:
    """Rasterise a sample's labels, in the gravity-aligned ego frame at its instant.

    Args:
        index: of the data set.
        i: number of the sample in it.
        maps: by location, for this grid, with `classes` as layers; without a location's, its map
            classes are empty.
        classes: along axis C.
        grid: the cells.
    """
    positive = np.zeros((len(classes), *grid.shape[1:]), bool)
    seen = positive.copy()
    outlined = maps.get(index.scene(i)['location'])
    if outlined is not None:
        positive |= outlined.rasterised(index.odom_T_ego(i))
        seen |= positive
    boxes, footprints = index.boxes(i), index.footprints(i)
    wanted = np.array([name in classes for name in boxes.names], bool)
    layer = np.array([classes.index(n) if n in classes else -1 for n in boxes.names], np.int64)
    for mask, kept in ((positive, wanted), (seen, wanted & (boxes.visibility > HIDDEN_UP_TO))):
        objects = outlines(classes).with_rings(footprints[kept], layer[kept])
        mask |= objects.rasterised(np.eye(4), grid)
    hidden: Mask = positive & ~seen
    return LabelGrids(
        classes=tuple(classes),
        positive=positive,
        hidden=hidden,
        known=np.ones(grid.shape[1:], bool),
    )


def _rasterised(
    index: NuscenesIndex,
    rows: Index,
    maps: dict[str, NearbyMap],
    classes: tuple[str, ...],
    grid: BevGrid,
    workers: int,
) -> Generator[LabelGrids, None, None]:
    """Yield the grids of samples in order, from this process or from several."""
    if workers < 2 or len(rows) < _MANY:
        for i in rows.tolist():
            yield sample_grids(index, i, maps, classes, grid)
        return
    with processes(workers, _start, index, maps, classes, grid) as submit:
        waiting = deque(submit(_one, i) for i in rows[: workers * _AHEAD].tolist())
        for i in rows[workers * _AHEAD :].tolist():
            yield waiting.popleft().result()
            waiting.append(submit(_one, i))
        while waiting:
            yield waiting.popleft().result()


def _cores() -> int:
    return min(_MOST, os.cpu_count() or 1)


_job: tuple[NuscenesIndex, dict[str, NearbyMap], tuple[str, ...], BevGrid]  # of this process


def _start(*job: object) -> None:
    global _job
    _job = job  # type: ignore[assignment]


def _one(i: int) -> LabelGrids:
    index, maps, classes, grid = _job
    return sample_grids(index, i, maps, classes, grid)


def _counted(grids: Iterator[LabelGrids], total: int, report: Progress) -> Iterator[LabelGrids]:
    for number, each in enumerate(grids):
        yield each
        report('labels', number + 1, total)


def _existing(folder: Path) -> LabelStore | None:
    """Return the labels in a folder, None where there are none that can be used."""
    try:
        return LabelStore(folder)
    except BagError:
        return None


def _folder(
    index: NuscenesIndex,
    rows: Index,
    classes: Sequence[str],
    grid: BevGrid,
    maps: Mapping[str, Path],
) -> Path:
    """Return where the labels of exactly these samples, classes, cells and maps lie."""
    stats = {location: path.stat() for location, path in maps.items()}
    key = json.dumps(
        [
            FORMAT,
            index.key,
            hashlib.sha256(np.asarray(rows, '<i8').tobytes()).hexdigest(),
            list(classes),
            [grid.x_range_m, grid.y_range_m, grid.cell_m],
            {location: [stat.st_size, stat.st_mtime_ns] for location, stat in stats.items()},
        ]
    )
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return index.path.with_name(f'{index.path.stem}-labels-{digest}')
