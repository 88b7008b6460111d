"""Samples of a data set in nuScenes' format, real or of our own town.

The instant of a sample is the stamp of LIDAR_TOP's key frame; everything refers to the
gravity-aligned ego frame then, and the vehicle's motion until a camera's exposure is in that
camera's pose. What is called odom here is the data set's map: nuScenes has one pose of the vehicle
(ego_pose), localised in it, and smooth enough within a scene.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BagError, ConfigError, MessageError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.memory import Whereabouts, break_between
from bev_perception.rig import CameraHistory, RigPoses, decode
from bev_perception.shapes import AnyArray, Index, Mask
from bev_perception.views import ViewSet
from bev_training.data.image_fingerprint import image_fingerprint
from bev_training.data.label_classes import CLASSES, OBJECTS
from bev_training.data.label_store import LabelStore
from bev_training.data.nuscenes_index import NuscenesIndex, open_index
from bev_training.data.nuscenes_labels import cached_labels
from bev_training.data.nuscenes_reader import tables_of
from bev_training.data.nuscenes_splits import scenes_of
from bev_training.data.sample import GroundBoxes, LabelGrids, Sweep, no_boxes, no_labels
from bev_training.data.sweeps import make_sweep
from bev_training.nuscenes_tables import LIDAR_CHANNEL, POINT_FIELDS
from bev_training.synthetic.conditions import WEATHERS


def open_nuscenes(
    dataroot: str | Path,
    *,
    classes: Sequence[str],
    grid: BevGrid,
    split: str = '',
    version: str = '',
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> NuscenesSamples:
    """Open the samples of a split; what is computed once is in the cache afterwards.

    Args:
        dataroot: folder of the data set: `samples`, `maps` and a folder of tables.
        classes: of the labels, from `label_classes.CLASSES`. Those of the map need the map
            expansion in DATAROOT/maps/expansion. Without any, no label is computed.
        grid: of the labels.
        split: see `nuscenes_splits.scenes_of`; '' takes the training scenes.
        version: name of the folder of tables; '' takes the only one.
        cache: folder for the index and the grids; None takes ~/.cache/bev_perception.
        progress: called with what is done, the steps done and their number.

    Raises:
        BagError: a table, a map or a file is missing or damaged, or the cache cannot be written.
        ConfigError: a class or split is unknown, or the devkit is not installed.
    """
    dataroot = Path(dataroot)
    unknown = [name for name in classes if name not in CLASSES]
    if unknown:
        raise ConfigError(f'classes are {list(classes)}; known are {", ".join(CLASSES)}')
    index = open_index(dataroot, version=version, cache=cache, progress=progress)
    folder = tables_of(dataroot, version or None)
    scenes = set(scenes_of(index, split, folder.name))
    chosen = np.array([name in scenes for name in index.scenes], bool)
    rows = np.flatnonzero(chosen[index.scene_number])
    if not len(rows):
        raise BagError(f'{folder}: the scenes of split {split!r} have no samples')
    objects = [name for name in classes if name in OBJECTS]
    if objects and not index.has_boxes:
        raise BagError(f'{folder} has no annotations, so no labels of {", ".join(objects)}')
    _check_files(dataroot, index, rows)
    store = None
    if classes:
        store = cached_labels(
            index, rows, dataroot=dataroot, classes=classes, grid=grid, progress=progress
        )
    return NuscenesSamples(dataroot, index, rows, store, classes=classes, grid=grid)


class NuscenesSamples:
    """A `SampleSource` of a data set in nuScenes' format. Can be pickled, and used after a fork.

    A camera of which a sample has no image is `missing` in its view set; a file that the tables
    name and that is not there is an error.
    """

    def __init__(
        self,
        dataroot: Path,
        index: NuscenesIndex,
        rows: Index,
        store: LabelStore | None,
        *,
        classes: Sequence[str],
        grid: BevGrid,
    ) -> None:
        """Join what has been opened.

        Args:
            dataroot: folder of the data set.
            index: of it.
            rows: (N,) numbers of the samples in the index.
            store: their labels, in the same order; None without classes.
            classes: of the labels to give.
            grid: of the labels.

        Raises:
            ConfigError: the labels lack a class or cells of the grid.
            BagError: they are of another number of samples.
        """
        if store is not None:
            if len(store) != len(rows):
                raise BagError(
                    f'{store.folder} has {len(store)} frames, not {len(rows)}; remove it'
                )
            store.check(classes, grid)
        self.classes, self.grid = tuple(classes), grid
        self.cameras, self.lidars = index.cameras, (LIDAR_CHANNEL,)
        self.index, self.rows = index, rows
        self._dataroot, self._store = dataroot, store

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def keys(self) -> Sequence[str]:
        """Scene and token of each sample."""
        return tuple(
            f'{scene}/{self.index.token(row)}'
            for scene, row in zip(self.scenes, self.rows.tolist(), strict=True)
        )

    @cached_property
    def scenes(self) -> Sequence[str]:
        """Scene of each sample."""
        names = self.index.scenes
        return tuple(names[number] for number in self.index.scene_number[self.rows].tolist())

    def view_set(self, i: int, *, at_least_px: tuple[int, int] | None = None) -> ViewSet:
        """Decode the images of a sample, on the same path as the node's.

        As there, an image that cannot be decoded or does not fit its camera is `missing`.

        Args:
            i: number of the sample.
            at_least_px: (width, height) that a JPEG may be shrunk to while decoding.

        Raises:
            BagError: a file is missing or cannot be read.
            MessageError: no image is left.
        """
        row = self._row(i)
        images = self.index.images(row)
        cameras = {name: CameraHistory(name) for name in self.cameras}
        messages = {}
        for image in images:
            cameras[image.camera].push(image.stamp_ns, image.model)
            message = SimpleNamespace(
                header=SimpleNamespace(frame_id=image.camera),
                format=image.format,
                data=self._bytes(image.file),
            )
            messages[image.camera] = (image.stamp_ns, message)
        poses = RigPoses(
            stamp_ns=int(self.index.stamps_ns[row]),
            base_T_ego=self.index.base_T_ego(row),
            odom_T_ego=self.index.odom_T_ego(row),
            ego_T_cam={image.camera: image.ego_T_cam for image in images},
        )
        view_set, problems = decode(messages, poses, cameras, at_least_px=at_least_px)
        if not view_set.views:
            camera, problem = next(iter(problems.items()), ('', 'the tables have no image of it'))
            raise MessageError(f'{self._dataroot}: sample {self.keys[i]} {camera}: {problem}')
        return view_set

    def whereabouts(self, i: int) -> Whereabouts:
        """Return when and where a sample was taken; a scene has one calibration."""
        return self._whereabouts(self._row(i))

    def labels(self, i: int) -> LabelGrids:
        """Return the grids of a sample."""
        if self._store is None:
            return no_labels(self.grid)
        return self._store.grids(range(len(self))[i], self.classes, self.grid)

    def boxes(self, i: int) -> GroundBoxes:
        """Return the objects of a sample, also of those beside the grid; none without classes."""
        return no_boxes() if self._store is None else self.index.boxes(self._row(i))

    def points(self, i: int) -> npt.NDArray[np.float32]:
        """Return LIDAR_TOP's key frame, (n, 3), ego frame; nuScenes has undone its motion.

        Raises:
            BagError: the file is missing or damaged.
        """
        file, ego_T_lidar = self.index.lidar(self._row(i))
        points = self._points(file)[:, :3]
        return rigid.transform_points(ego_T_lidar, points.astype(np.float64)).astype(np.float32)

    def sweeps(self, i: int, count: int = 1) -> tuple[Sweep, ...]:
        """Return LIDAR_TOP's key frame, then the sweeps before it, key frames or not, as far as
        the scene reaches back; see `SampleSource.sweeps`.

        Raises:
            BagError: a file is missing or damaged.
        """
        row = self._row(i)
        now_ns, scene = int(self.index.stamps_ns[row]), self.index.scene_number[row]
        ego_T_odom = rigid.inverse(self.index.odom_T_ego(row))
        found: list[Sweep] = []
        while True:
            now_T_then = ego_T_odom @ self.index.odom_T_ego(row)
            for sweep in self.index.sweeps(row)[: count - len(found)]:
                points = self._points(sweep.file)
                found.append(
                    make_sweep(
                        LIDAR_CHANNEL,
                        points[:, :3],
                        points[:, POINT_FIELDS.index('intensity')],
                        ego_T_lidar=now_T_then @ sweep.ego_T_lidar,
                        age_s=(now_ns - sweep.stamp_ns) / 1e9,
                    )
                )
            row -= 1
            if len(found) == count or row < 0 or self.index.scene_number[row] != scene:
                return tuple(found)
            if break_between(self._whereabouts(row), self._whereabouts(row + 1)):
                return tuple(found)

    def fingerprint(self, i: int) -> str:
        """Return what tells a sample's images from others; see `SampleSource.fingerprint`.

        Raises:
            BagError: a file is missing or cannot be read.
        """
        return image_fingerprint(
            (image.camera, self._bytes(image.file), image.format, image.model, image.ego_T_cam)
            for image in self.index.images(self._row(i))
        )

    @property
    def has_points(self) -> Mask:
        """All samples: a key frame of LIDAR_TOP is what makes one."""
        return np.ones(len(self), bool)

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def facts(self, i: int) -> Mapping[str, str]:
        """Return name, location, description and log of a sample's scene, and its weather where
        the description tells it; see `weather_of`.
        """
        facts = dict(self.index.scene(self._row(i)))
        weather = weather_of(facts['description'])
        return facts | {'weather': weather} if weather else facts

    def _row(self, i: int) -> int:
        return int(self.rows[range(len(self))[i]])

    def _whereabouts(self, row: int) -> Whereabouts:
        return Whereabouts(
            stamp_ns=int(self.index.stamps_ns[row]), odom_T_ego=self.index.odom_T_ego(row)
        )

    def _points(self, file: str) -> AnyArray:
        """Return the points of a sweep's file, (n, 5): `POINT_FIELDS`."""
        data = self._bytes(file)
        width = 4 * len(POINT_FIELDS)
        if len(data) % width:
            raise BagError(
                f'{self._dataroot / file} has {len(data)} bytes; a point has {width}, so it is '
                'damaged or of another format'
            )
        points: AnyArray = np.frombuffer(data, '<f4').reshape(-1, len(POINT_FIELDS))
        return points

    def _bytes(self, file: str) -> bytes:
        path = self._dataroot / file
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise BagError(_missing(path)) from error
        except OSError as error:
            raise BagError(f'{path} cannot be read: {error.strerror or error}') from error


def weather_of(description: str) -> str:
    """Return 'rain', 'night', 'night rain' or what else of `WEATHERS` a scene's description tells;
    '' where it tells nothing. As usual with nuScenes, 'after rain' is rain: streets are wet.
    """
    said = description.lower()
    found = [name for name in ('night', 'rain') if re.search(rf'\b{name}(y|ing)?\b', said)]
    parts = {part.strip() for part in said.split(',')}  # the town's, as a part of their own
    return ' '.join(found) or next((name for name in WEATHERS if name in parts), '')


def _check_files(dataroot: Path, index: NuscenesIndex, rows: Index) -> None:
    """Look for the files of samples before a long run needs them: a few folders hold them all.

    Raises:
        BagError: one is missing.
    """
    listed: dict[str, set[str]] = {}
    for file in index.files(rows):
        folder, _, name = file.rpartition('/')
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(dataroot / folder))
            except OSError as error:
                raise BagError(f'{dataroot / folder}: {error.strerror or error}') from error
        if name not in listed[folder]:
            raise BagError(_missing(dataroot / file))


def _missing(path: Path) -> str:
    return f'{path} is missing; is every part of the data set unpacked?'
