"""A data set in nuScenes' format, compiled once into one small file that every process maps.

Opening it takes milliseconds and no devkit; what is not looked at is not read.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bev_perception.errors import BagError
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import AnyArray, Array, Index, Rigid
from bev_training.data.file_writer import writing
from bev_training.data.label_classes import OBJECTS
from bev_training.data.locks import drive_lock
from bev_training.data.nuscenes_compile import (
    FORMAT,
    HEADER,
    SCHEMA,
    camera_of,
    compile_tables,
)
from bev_training.data.nuscenes_reader import tables_of
from bev_training.data.paths import default_cache, whole_file
from bev_training.data.sample import GroundBoxes
from bev_training.nuscenes_tables import TABLES

Progress = Callable[[str, int, int], None]
_KEY = b'bev_key'
_PATIENCE_S = 7200.0  # another process compiles the same


@dataclass(frozen=True, eq=False, kw_only=True)
class IndexedImage:
    """A camera's key frame of a sample.

    Attributes:
        camera: name.
        file: below the data set's folder.
        stamp_ns: exposure.
        model: the camera.
        format: of a `CompressedImage`, '' where the tables do not know one.
        ego_T_cam: (4, 4) optical frame at its exposure, in the gravity-aligned ego frame at the
            sample's instant.
    """

    camera: str
    file: str
    stamp_ns: int
    model: Camera
    format: str
    ego_T_cam: Rigid


@dataclass(frozen=True, eq=False, kw_only=True)
class IndexedSweep:
    """A sweep of LIDAR_TOP.

    Attributes:
        file: below the data set's folder.
        stamp_ns: of the sweep.
        ego_T_lidar: (4, 4) the sensor then, in the gravity-aligned ego frame at the instant of
            the sample that it belongs to.
    """

    file: str
    stamp_ns: int
    ego_T_lidar: Rigid


def open_index(
    dataroot: Path,
    *,
    version: str = '',
    cache: Path | None = None,
    progress: Progress | None = None,
) -> NuscenesIndex:
    """Open the index of a data set; compile it first if there is none of exactly these tables.

    Args:
        dataroot: folder of the data set.
        version: name of its folder of tables; '' takes the only one.
        cache: folder that keeps the index; None takes `default_cache`.
        progress: called with what is done, the steps done and their number.

    Raises:
        BagError: a table is missing or damaged, or the cache cannot be written.
        ConfigError: the devkit is not installed.
    """
    folder = tables_of(dataroot, version or None)
    key = _key(folder)
    cache = (cache or default_cache()) / 'nuscenes'
    name = f'{folder.name}-{_digest(str(folder.resolve()))}'
    path = cache / f'{name}.arrow'
    index = _existing(path, key)
    if index is None:
        with drive_lock(cache, name, _PATIENCE_S):
            index = _existing(path, key)  # another process may have been faster
            if index is None:
                report = progress or (lambda what, done, total: None)
                table = compile_tables(folder, lambda *n: report('nuScenes tables', *n))
                _write(path, table, key)
                del table
                gc.collect()  # the devkit refers to itself, so its gigabytes would stay
    return index or NuscenesIndex(path, key)


class NuscenesIndex:
    """Samples by number, sorted by scene's name and time. Can be pickled, and used after a fork.

    Attributes:
        path: the file.
        key: of the tables that it was made from.
        cameras: names, in the rig's order.
        scenes: names, sorted.
        splits: names of scenes by split; those of the devkit that have scenes here, and `own`.
        own_splits: splits that the set brings in its splits.json.
        stamps_ns: (N,) instants: the stamps of LIDAR_TOP's key frames.
        scene_number: (N,) positions in `scenes`.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Map the file.

        Raises:
            BagError: it is damaged, or made from other tables.
        """
        self.path, self.key = path, key
        try:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            metadata = file.schema.metadata or {}
            stated = metadata.get(_KEY, b'').decode()
            if stated != key or not file.schema.equals(SCHEMA):
                raise BagError(f'{path} was made from other tables; open the data set again')
            self._rows = file.get_batch(0) if file.num_record_batches else _no_rows()
            header = json.loads(metadata[HEADER])
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise BagError(f'{path} is damaged ({error}); remove it') from error
        self.cameras = tuple(header['cameras'])
        self.splits: dict[str, list[str]] = header['splits']
        self.own_splits: list[str] = header['own_splits']
        self._scenes: list[dict[str, str]] = header['scenes']
        self.scenes = tuple(scene['name'] for scene in self._scenes)
        self._calibrations = header['calibrations']
        self.stamps_ns: Index = self._column('stamp_ns')
        self.scene_number: Index = self._column('scene')
        self._images = self._rows.column('cameras')
        self._image_of: Index = self._images.offsets.to_numpy()
        self._sweeps = self._rows.column('sweeps')
        self._sweep_of: Index = self._sweeps.offsets.to_numpy()
        self._boxes = self._rows.column('boxes')
        self._box_of: Index = self._boxes.offsets.to_numpy()

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return NuscenesIndex, (self.path, self.key)

    def token(self, i: int) -> str:
        """Return the token of a sample."""
        return str(self._rows.column('token')[i].as_py())

    def scene(self, i: int) -> dict[str, str]:
        """Return name, location, description and log of a sample's scene."""
        return self._scenes[int(self.scene_number[i])]

    def base_T_ego(self, i: int) -> Rigid:
        """Return (4, 4) the gravity-aligned ego frame in the body frame, at the instant."""
        return self._pose('base_T_ego', i)

    def odom_T_ego(self, i: int) -> Rigid:
        """Return (4, 4) the gravity-aligned ego frame in the data set's map, at the instant."""
        return self._pose('odom_T_ego', i)

    def lidar(self, i: int) -> tuple[str, Rigid]:
        """Return LIDAR_TOP's file, below the data set's folder, and ego_T_lidar (4, 4)."""
        return str(self._rows.column('lidar_file')[i].as_py()), self._pose('ego_T_lidar', i)

    def sweeps(self, i: int) -> list[IndexedSweep]:
        """Return LIDAR_TOP's sweeps of a sample: its key frame, then those since the key frame
        before, the newest first.
        """
        file, ego_T_lidar = self.lidar(i)
        stamp_ns = int(self.stamps_ns[i])
        found = [IndexedSweep(file=file, stamp_ns=stamp_ns, ego_T_lidar=ego_T_lidar)]
        entries = self._sweeps.values
        poses = entries.field('ego_T_lidar').values.to_numpy().reshape(-1, 4, 4)
        stamps, files = entries.field('stamp_ns').to_numpy(), entries.field('file')
        return found + [
            IndexedSweep(
                file=str(files[at].as_py()),
                stamp_ns=int(stamps[at]),
                ego_T_lidar=poses[at].copy(),
            )
            for at in range(self._sweep_of[i], self._sweep_of[i + 1])
        ]

    def images(self, i: int) -> list[IndexedImage]:
        """Return the key frames of a sample's cameras, in the rig's order."""
        entries = self._images.values
        poses = entries.field('ego_T_cam').values.to_numpy().reshape(-1, 4, 4)
        stamps = entries.field('stamp_ns').to_numpy()
        cameras = entries.field('camera').to_numpy()
        lenses = entries.field('calibration').to_numpy()
        files = entries.field('file')
        return [
            IndexedImage(
                camera=self.cameras[cameras[at]],
                file=str(files[at].as_py()),
                stamp_ns=int(stamps[at]),
                model=self._models[lenses[at]],
                format=self._calibrations[lenses[at]]['format'],
                ego_T_cam=poses[at].copy(),
            )
            for at in range(self._image_of[i], self._image_of[i + 1])
        ]

    def files(self, rows: Index) -> list[str]:
        """Return the files of some samples, below the data set's folder: lidar key frames, then
        images.
        """
        spans = [np.arange(self._image_of[i], self._image_of[i + 1]) for i in rows.tolist()]
        of_rows = np.concatenate(spans) if spans else np.zeros(0, np.int32)
        sweeps = self._rows.column('lidar_file').take(pa.array(rows))
        images = self._images.values.field('file').take(pa.array(of_rows))
        return [*sweeps.to_pylist(), *images.to_pylist()]

    @property
    def has_boxes(self) -> bool:
        """Whether any sample has an object; those of v1.0-test have none."""
        return len(self._box_of) > 0 and bool(self._box_of[-1])

    def boxes(self, i: int) -> GroundBoxes:
        """Return the objects of a sample, ego frame."""
        return GroundBoxes(
            names=tuple(OBJECTS[kind] for kind in self._of_boxes('object', i).tolist()),
            center_m=self._of_boxes('center_m', i, 3).astype(np.float64),
            size_m=self._of_boxes('size_m', i, 3).astype(np.float64),
            yaw_rad=self._of_boxes('yaw_rad', i).astype(np.float64),
            visibility=self._of_boxes('visibility', i).copy(),
            lidar_points=self._of_boxes('lidar_points', i).astype(np.int64),
        )

    def footprints(self, i: int) -> Array:
        """Return (B, 4, 2) the bottoms of the objects seen from above, ego frame, metres."""
        return self._of_boxes('footprint_m', i, 8).astype(np.float64).reshape(-1, 4, 2)

    @cached_property
    def _models(self) -> list[Camera]:
        return [camera_of(calibration) for calibration in self._calibrations]

    def _column(self, name: str) -> AnyArray:
        return self._rows.column(name).to_numpy()  # type: ignore[no-any-return]

    def _pose(self, name: str, i: int) -> Rigid:
        values = self._rows.column(name).values.to_numpy()[16 * i : 16 * i + 16]
        return np.array(values, np.float64).reshape(4, 4)

    def _of_boxes(self, name: str, i: int, columns: int = 0) -> AnyArray:
        """Return a field of a sample's boxes, (B,) or (B, columns)."""
        field = self._boxes.values.field(name)
        first, last = self._box_of[i], self._box_of[i + 1]
        if not columns:
            return field.to_numpy()[first:last]  # type: ignore[no-any-return]
        return field.values.to_numpy().reshape(-1, columns)[first:last]  # type: ignore[no-any-return]


def _existing(path: Path, key: str) -> NuscenesIndex | None:
    """Return the index at a path, None where it is not there or not usable: it is made again."""
    try:
        return NuscenesIndex(path, key)
    except BagError:
        return None


def _write(path: Path, table: pa.Table, key: str) -> None:
    table = table.replace_schema_metadata({**table.schema.metadata, _KEY: key.encode()})
    with (
        writing(path),
        whole_file(path) as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        for batch in table.to_batches():
            writer.write_batch(batch)


def _key(folder: Path) -> str:
    """Return what tells tables apart without reading them."""
    stamps = []
    for name in (*TABLES, 'splits'):
        path = folder / f'{name}.json'
        try:
            stat = path.stat()
        except FileNotFoundError:
            if name in TABLES:
                raise BagError(f'{path} is missing') from None
            continue
        except OSError as error:
            raise BagError(f'{path} cannot be read: {error.strerror or error}') from error
        stamps.append([name, stat.st_size, stat.st_mtime_ns])
    return _digest(json.dumps([FORMAT, str(folder.resolve()), stamps]))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _no_rows() -> Any:
    return pa.RecordBatch.from_pylist([], SCHEMA)
