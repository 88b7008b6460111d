"""Drives as samples, with labels or without."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.memory import Whereabouts
from bev_perception.shapes import Mask, Rigid
from bev_perception.views import ViewSet
from bev_training.data.drives import Drive, find_drives
from bev_training.data.frame import Calibration, Frame, LidarSweep
from bev_training.data.image_fingerprint import image_fingerprint
from bev_training.data.label_store import LabelStore, labels_of, not_local
from bev_training.data.paths import is_local, to_path
from bev_training.data.sample import GroundBoxes, LabelGrids, Sweep, no_boxes, no_labels
from bev_training.data.shards import key_of
from bev_training.data.sweeps import make_sweep

_OPEN = 64  # drives at once: opening one takes a millisecond, and it holds a quarter of a MB


class DriveSamples:
    """The frames of converted drives, those with labels or, without classes, all; see
    `SampleSource`.

    Only numbers are kept of every sample, and a few drives are open at a time. Can be pickled, and
    used after a fork; several threads need a copy each (pickled and back).

    Attributes:
        classes: of the labels, in this order.
        grid: of the labels.
        cameras: of all drives.
        lidars: likewise.
        unlabelled: how many drives have no labels, and are left out; 0 without classes.
    """

    def __init__(self, path: Path | str, classes: Sequence[str], grid: BevGrid) -> None:
        """Look at all drives of a folder; see `open_drives`."""
        self.classes, self.grid = tuple(classes), grid
        self.unlabelled = 0
        self._folders: list[Path] = []
        rigs: dict[tuple[str, ...], None] = {}
        lidars: dict[tuple[str, ...], None] = {}
        frames: list[npt.NDArray[np.int32]] = []
        path = to_path(path)
        if self.classes and not is_local(path):
            raise not_local(path)
        for folder in find_drives(path):
            if self.classes and not labels_of(folder).exists():
                self.unlabelled += 1
                continue
            drive, store = _opened(folder, bool(self.classes))
            if store is not None:
                store.check(classes, grid)
            labelled = np.arange(len(drive)) if store is None else np.flatnonzero(store.labelled)
            rigs[drive.cameras] = None
            lidars[drive.lidars] = None
            frames.append(labelled.astype(np.int32))
            self._folders.append(folder)
        if not self._folders:
            raise BagError(
                f'{path} has no labels; `bev label` writes those of synthetic drives, '
                'docs/training.md tells how to write your own'
            )
        self.cameras, self.lidars = _joined(rigs), _joined(lidars)
        self._frame = np.concatenate(frames)
        self._drive = np.repeat(np.arange(len(frames), dtype=np.int32), [len(f) for f in frames])
        if not len(self._frame):
            lacks = (
                'labels, but not of a single frame' if self.classes else 'drives without frames'
            )
            raise BagError(f'{path} has {lacks}')
        self._open: OrderedDict[int, tuple[Drive, LabelStore | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._frame)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), '_open': OrderedDict()}

    @property
    def keys(self) -> Sequence[str]:
        """Name of each sample: DRIVE/FRAME."""
        return _Texts(len(self), lambda i: f'{self._name(i)}/{key_of(int(self._frame[i]))}')

    @property
    def scenes(self) -> Sequence[str]:
        """Name of each sample's drive."""
        return _Texts(len(self), self._name)

    def view_set(self, i: int, *, at_least_px: tuple[int, int] | None = None) -> ViewSet:
        """Decode the images of a sample on the node's own path.

        Raises:
            BevError: something of it is missing or damaged.
        """
        return self._drive_of(i)[0].view_set(int(self._frame[i]), at_least_px=at_least_px)

    def whereabouts(self, i: int) -> Whereabouts:
        """Return when and where a sample was taken.

        Raises:
            BagError: the drive's index is damaged.
        """
        return self._drive_of(i)[0].whereabouts(int(self._frame[i]))

    def labels(self, i: int) -> LabelGrids:
        """Return the grids of a sample.

        Raises:
            BevError: a file is missing or damaged.
        """
        store = self._drive_of(i)[1]
        if store is None:
            return no_labels(self.grid)
        return store.grids(int(self._frame[i]), self.classes, self.grid)

    def boxes(self, i: int) -> GroundBoxes:
        """Return the objects of a sample.

        Raises:
            BevError: a file is missing or damaged.
        """
        store = self._drive_of(i)[1]
        return no_boxes() if store is None else store.boxes(int(self._frame[i]))

    def points(self, i: int) -> npt.NDArray[np.float32]:
        """Return the points of all sweeps of a sample, (n, 3), ego frame, motion undone.

        Raises:
            BevError: something of it is missing or damaged.
        """
        frame = self._drive_of(i)[0].frame(int(self._frame[i]), images=False)
        clouds = [_in_ego(sweep) for sweep in frame.sweeps]
        return np.concatenate([np.empty((0, 3), np.float32), *clouds])

    def sweeps(self, i: int, count: int = 1) -> tuple[Sweep, ...]:
        """Return sweeps of a sample; see `SampleSource.sweeps`.

        Raises:
            BevError: something of it, or of a frame before it, is missing or damaged.
        """
        drive = self._drive_of(i)[0]
        found: dict[str, list[Sweep]] = {}
        for now_T_then, now_ns, frame in _backwards(drive, int(self._frame[i]), count):
            if not found:
                found = {n: [] for n in drive.lidars if any(s.lidar == n for s in frame.sweeps)}
            for sweep in reversed(frame.sweeps):  # the newest first
                of_lidar = found.get(sweep.lidar)
                if of_lidar is not None and len(of_lidar) < count:
                    calibration = drive.calibrations[frame.epoch]
                    of_lidar.append(_sweep(sweep, calibration, now_T_then, now_ns))
            if all(len(of_lidar) == count for of_lidar in found.values()):
                break
        older = (sweep for of_lidar in found.values() for sweep in of_lidar[1:])
        nearest = (of_lidar[0] for of_lidar in found.values())
        return (*nearest, *sorted(older, key=lambda sweep: sweep.age_s))

    def fingerprint(self, i: int) -> str:
        """Return what tells a sample's images from others; see `SampleSource.fingerprint`.

        Raises:
            BevError: something of it is missing or damaged.
        """
        drive = self._drive_of(i)[0]
        frame = drive.frame(int(self._frame[i]), sweeps=False)
        cameras = drive.calibrations[frame.epoch].cameras
        return image_fingerprint(
            (v.camera, v.image.data, v.image.format, cameras[v.camera].camera, v.ego_T_cam)
            for v in frame.views
        )

    @cached_property
    def has_points(self) -> Mask:
        """See `SampleSource.has_points`; looked up in the drives' indices once.

        Raises:
            BagError: an index is missing or damaged.
        """
        found: Mask = np.zeros(len(self), bool)
        for number, folder in enumerate(self._folders):
            counts, rows = Drive(folder).point_counts, self._drive == number
            found[rows] = np.asarray(counts)[self._frame[rows]] > 0
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """How many drives are left out."""
        if not self.unlabelled:
            return ()
        what = 'drive has' if self.unlabelled == 1 else 'drives have'
        return (f'{self.unlabelled} {what} no labels, left out',)

    def facts(self, i: int) -> Mapping[str, str]:
        """Return what the labels say of a sample's drive, such as its weather; without classes,
        nothing.
        """
        store = self._drive_of(i)[1]
        return {} if store is None else dict(store.facts)

    def _name(self, i: int) -> str:
        return self._folders[self._drive[i]].name

    def _drive_of(self, i: int) -> tuple[Drive, LabelStore | None]:
        number = int(self._drive[i])
        found = self._open.pop(number, None) or _opened(self._folders[number], bool(self.classes))
        self._open[number] = found  # the last one used is the last
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return found


def open_drives(path: Path | str, classes: Sequence[str], grid: BevGrid) -> DriveSamples:
    """Open the drives of a folder.

    Args:
        path: a converted drive, or a folder of them; drives without labels are left out.
        classes: which labels are wanted, in this order; with none of them, all drives and frames
            are taken, and no labels are looked for.
        grid: of the labels, or a part of theirs.

    Raises:
        BagError: there are no drives, no labels, or something is damaged.
        ConfigError: labels have no such class, or are of another grid.
    """
    return DriveSamples(path, classes, grid)


def _opened(folder: Path, labelled: bool) -> tuple[Drive, LabelStore | None]:
    drive = Drive(folder)
    if not labelled:
        return drive, None
    store = LabelStore(labels_of(folder))
    store.check_length(len(drive))
    return drive, store


def _joined(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all names; the longest list knows the order of the others."""
    longest_first = sorted(lists, key=len, reverse=True)
    return tuple(dict.fromkeys(name for names in longest_first for name in names))


def _backwards(drive: Drive, number: int, count: int) -> Iterator[tuple[Rigid, int, Frame]]:
    """Yield up to `count` frames, a frame and those before it as far as odometry reaches: each
    with its ego frame in that of the first, and with the instant of the first.
    """
    now = drive.frame(number, images=False)
    yield np.eye(4), now.stamp_ns, now
    for _ in range(count - 1):
        before = drive.links(number)[0]
        if before is None or now.odom_T_ego is None:
            return
        number = before
        then = drive.frame(number, images=False)
        if then.odom_T_ego is None:
            return
        yield rigid.inverse(now.odom_T_ego) @ then.odom_T_ego, now.stamp_ns, then


def _sweep(sweep: LidarSweep, calibration: Calibration, now_T_then: Rigid, now_ns: int) -> Sweep:
    fields = calibration.lidars[sweep.lidar].fields
    known = 'intensity' in fields
    return make_sweep(
        sweep.lidar,
        sweep.points[:, :3],
        sweep.points[:, fields.index('intensity')] if known else None,
        ego_T_lidar=now_T_then @ sweep.ego_T_lidar,
        age_s=(now_ns - sweep.stamp_ns) / 1e9,
    )


def _in_ego(sweep: LidarSweep) -> npt.NDArray[np.float32]:
    points = rigid.transform_points(sweep.ego_T_lidar, sweep.points[:, :3].astype(np.float64))
    return points.astype(np.float32)


class _Texts(Sequence[str]):
    """Texts that are made when they are asked for."""

    def __init__(self, count: int, text: Callable[[int], str]) -> None:
        self._numbers, self._text = range(count), text

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return [self._text(number) for number in self._numbers[i]]
        return self._text(self._numbers[i])
