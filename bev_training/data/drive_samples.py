"""Labelled drives as samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.memory import Whereabouts
from bev_perception.views import ViewSet
from bev_training.data.drives import Drive, find_drives
from bev_training.data.frame import LidarSweep
from bev_training.data.label_store import LabelStore, labels_of, not_local
from bev_training.data.paths import is_local, to_path
from bev_training.data.sample import GroundBoxes, LabelGrids
from bev_training.data.shards import key_of

_OPEN = 64  # drives at once: opening one takes a millisecond, and it holds a quarter of a MB


class DriveSamples:
    """The labelled frames of converted drives; see `SampleSource`.

    Only numbers are kept of every sample, and a few drives are open at a time. Can be pickled, and
    used after a fork; several threads need a copy each (pickled and back).

    Attributes:
        classes: of the labels, in this order.
        grid: of the labels.
        cameras: of all drives.
        unlabelled: how many drives have no labels, and are left out.
    """

    def __init__(self, path: Path | str, classes: Sequence[str], grid: BevGrid) -> None:
        """Look at all drives of a folder; see `open_drives`."""
        self.classes, self.grid = tuple(classes), grid
        self.unlabelled = 0
        self._folders: list[Path] = []
        rigs: dict[tuple[str, ...], None] = {}
        frames: list[npt.NDArray[np.int32]] = []
        path = to_path(path)
        if not is_local(path):
            raise not_local(path)
        for folder in find_drives(path):
            if not labels_of(folder).exists():
                self.unlabelled += 1
                continue
            drive, store = _opened(folder)
            store.check(classes, grid)
            rigs[drive.cameras] = None
            frames.append(np.flatnonzero(store.labelled).astype(np.int32))
            self._folders.append(folder)
        if not self._folders:
            raise BagError(
                f'{path} has no labels; `bev label` writes those of synthetic drives, '
                'docs/training.md tells how to write your own'
            )
        largest_first = sorted(rigs, key=len, reverse=True)  # it knows the order of the others
        self.cameras = tuple(dict.fromkeys(name for rig in largest_first for name in rig))
        self._frame = np.concatenate(frames)
        self._drive = np.repeat(np.arange(len(frames), dtype=np.int32), [len(f) for f in frames])
        if not len(self._frame):
            raise BagError(f'{path} has labels, but not of a single frame')
        self._open: OrderedDict[int, tuple[Drive, LabelStore]] = OrderedDict()

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
        return self._drive_of(i)[1].grids(int(self._frame[i]), self.classes, self.grid)

    def boxes(self, i: int) -> GroundBoxes:
        """Return the objects of a sample.

        Raises:
            BevError: a file is missing or damaged.
        """
        return self._drive_of(i)[1].boxes(int(self._frame[i]))

    def points(self, i: int) -> npt.NDArray[np.float32]:
        """Return the points of all sweeps of a sample, (n, 3), ego frame, motion undone.

        Raises:
            BevError: something of it is missing or damaged.
        """
        frame = self._drive_of(i)[0].frame(int(self._frame[i]), images=False)
        clouds = [_in_ego(sweep) for sweep in frame.sweeps]
        return np.concatenate([np.empty((0, 3), np.float32), *clouds])

    @property
    def notes(self) -> tuple[str, ...]:
        """How many drives are left out."""
        if not self.unlabelled:
            return ()
        what = 'drive has' if self.unlabelled == 1 else 'drives have'
        return (f'{self.unlabelled} {what} no labels, left out',)

    def facts(self, i: int) -> Mapping[str, str]:
        """Return what the labels say of a sample's drive, such as its weather."""
        return dict(self._drive_of(i)[1].facts)

    def _name(self, i: int) -> str:
        return self._folders[self._drive[i]].name

    def _drive_of(self, i: int) -> tuple[Drive, LabelStore]:
        number = int(self._drive[i])
        found = self._open.pop(number, None) or _opened(self._folders[number])
        self._open[number] = found  # the last one used is the last
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return found


def open_drives(path: Path | str, classes: Sequence[str], grid: BevGrid) -> DriveSamples:
    """Open the labelled drives of a folder.

    Args:
        path: a converted drive, or a folder of them; drives without labels are left out.
        classes: which labels are wanted, in this order.
        grid: of the labels, or a part of theirs.

    Raises:
        BagError: there are no drives, no labels, or something is damaged.
        ConfigError: labels have no such class, or are of another grid.
    """
    return DriveSamples(path, classes, grid)


def _opened(folder: Path) -> tuple[Drive, LabelStore]:
    drive, labels = Drive(folder), LabelStore(labels_of(folder))
    labels.check_length(len(drive))
    return drive, labels


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
