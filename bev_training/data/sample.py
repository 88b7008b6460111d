"""A training sample: the view set of one instant, its labels, boxes and lidar points.

Whatever has instants is a `SampleSource`: converted drives, with labels or without, a data set in
nuScenes' format. Everything after it (augmentation, batches, training, scores) knows only this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bev_perception.geometry.grid import BevGrid
from bev_perception.memory import Whereabouts
from bev_perception.shapes import Array, Index, Mask, Rigid
from bev_perception.views import ViewSet

# Objects seen to at most this share count as hidden (nuScenes' visibility level 1).
HIDDEN_UP_TO = 0.4


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelGrids:
    """What is where, in a grid of the gravity-aligned ego frame.

    Attributes:
        classes: names along axis C.
        positive: (C, Y, X) bool, cells of the class, whatever can be seen of it.
        hidden: (C, Y, X) bool, a part of `positive`: cells that belong to the class only through
            objects that are hardly visible (`HIDDEN_UP_TO`). One convention counts them as
            positive ('all'), the other leaves them out ('visible').
        known: (Y, X) bool, cells for which the truth is known.
    """

    classes: tuple[str, ...]
    positive: Mask
    hidden: Mask
    known: Mask

    def of(self, classes: Sequence[str]) -> LabelGrids:
        """Return the grids of some of the classes, in their order."""
        if tuple(classes) == self.classes:
            return self
        rows = [self.classes.index(name) for name in classes]
        return LabelGrids(
            classes=tuple(classes),
            positive=self.positive[rows],
            hidden=self.hidden[rows],
            known=self.known,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundBoxes:
    """Objects as boxes that stand upright in the gravity-aligned ego frame, N of them.

    Attributes:
        names: (N,) the class of each, one of `label_classes.OBJECTS`.
        center_m: (N, 3) middle.
        size_m: (N, 3) length, width, height.
        yaw_rad: (N,) heading, 0 along x, positive to the left.
        visibility: (N,) 0..1, the share that the cameras see.
        lidar_points: (N,) number of lidar points inside, -1 where nobody counted.
    """

    names: tuple[str, ...]
    center_m: Array
    size_m: Array
    yaw_rad: Array
    visibility: Array
    lidar_points: Index


@dataclass(frozen=True, eq=False, kw_only=True)
class Sweep:
    """One sweep of a lidar, in the ego frame of the sample that it was asked for.

    Attributes:
        lidar: its name.
        points_m: (n, 3) finite, the vehicle's motion undone.
        intensity: (n,) in the sensor's own unit, NaN where it gives none.
        origin_m: (3,) float64 where the sensor was.
        age_s: how long before the sample's instant it was taken (negative: after it).
        dropped: points that are not in it, because a coordinate was not finite.
    """

    lidar: str
    points_m: npt.NDArray[np.float32]
    intensity: npt.NDArray[np.float32]
    origin_m: Array
    age_s: float
    dropped: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One instant; all of it refers to the same ego frame.

    Attributes:
        key: names it in its source, such as `drive-0003/000012`.
        view_set: images, cameras and poses.
        labels: grids; of no class and nowhere known, where a source has no labels.
        boxes: objects; likewise none.
        points_m: (n, 3) lidar points, ego frame; no rows without a lidar.
        sweeps: as `SampleSource.sweeps` gives them; none unless they were asked for.
        ego_T_read: (4, 4) the ego frame in which it was read, seen from the one that it is in:
            other than identity where augmentation moved it (`moves.ego_move`).
    """

    key: str
    view_set: ViewSet
    labels: LabelGrids
    boxes: GroundBoxes
    points_m: npt.NDArray[np.float32]
    sweeps: tuple[Sweep, ...] = ()
    ego_T_read: Rigid = field(default_factory=lambda: np.eye(4))


class SampleSource(Protocol):
    """Instants in a fixed order: by scene, then by time. Can be pickled, and
    forked; several threads need a copy each.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of its labels, as they were asked for."""

    @property
    def grid(self) -> BevGrid:
        """Grid of its labels."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of all cameras that its samples may have, in the rig's order."""

    @property
    def keys(self) -> Sequence[str]:
        """Name of each sample; unique, the same on every machine."""

    @property
    def scenes(self) -> Sequence[str]:
        """The scene or drive that each sample belongs to."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know, a line each, such as what is left out."""

    def __len__(self) -> int:
        """Number of samples."""

    def view_set(self, i: int, *, at_least_px: tuple[int, int] | None = None) -> ViewSet:
        """Decode the images of a sample, JPEGs shrunk down to `at_least_px` (width, height)."""

    def whereabouts(self, i: int) -> Whereabouts:
        """Return when and where a sample was taken, without its images. Their epochs say only of
        samples of one scene whether something changed between them.
        """

    def labels(self, i: int) -> LabelGrids:
        """Return the grids of a sample."""

    def boxes(self, i: int) -> GroundBoxes:
        """Return the objects of a sample."""

    def points(self, i: int) -> npt.NDArray[np.float32]:
        """Return the lidar points of a sample, (n, 3), ego frame, motion undone."""

    def sweeps(self, i: int, count: int = 1) -> tuple[Sweep, ...]:
        """Return sweeps: of each lidar the one nearest to the sample's instant first, then up to
        `count` - 1 of those before it, of all lidars by age. Those of other frames are brought
        here by odometry, and are left out where that is not to be had; a lidar whose sweep the
        sample lacks gives none.
        """

    def fingerprint(self, i: int) -> str:
        """Return a digest of a sample's encoded images and of their cameras: 32 hexadecimal
        digits, the same wherever the data lie, others when anything of that changes.
        """

    @property
    def lidars(self) -> tuple[str, ...]:
        """Names of all lidars that its samples may have."""

    @property
    def has_points(self) -> Mask:
        """(N,) whether a lidar's sweep belongs to a sample and has points, wherever those lie;
        no sweep is read for that.
        """

    def facts(self, i: int) -> Mapping[str, str]:
        """Return what else is known of a sample, such as its weather or its place."""


def no_labels(grid: BevGrid) -> LabelGrids:
    """Return the grids of a sample that nobody labelled: of no class, nowhere known."""
    nothing = np.zeros((0, *grid.shape[1:]), bool)
    return LabelGrids(
        classes=(), positive=nothing, hidden=nothing, known=np.zeros(grid.shape[1:], bool)
    )


def no_boxes() -> GroundBoxes:
    """Return no objects."""
    return GroundBoxes(
        names=(),
        center_m=np.empty((0, 3)),
        size_m=np.empty((0, 3)),
        yaw_rad=np.empty(0),
        visibility=np.empty(0),
        lidar_points=np.empty(0, np.int64),
    )


def read_sample(
    source: SampleSource,
    i: int,
    *,
    at_least_px: tuple[int, int] | None = None,
    points: bool = False,
    sweeps: int = 0,
) -> Sample:
    """Read all of a sample.

    Args:
        source: where it is.
        i: its number.
        at_least_px: (width, height) that a JPEG may be shrunk to while decoding.
        points: also read the lidar; training on images does not need it.
        sweeps: also read so many sweeps of each lidar.

    Raises:
        BevError: something of it is missing or damaged.
    """
    return Sample(
        key=source.keys[i],
        view_set=source.view_set(i, at_least_px=at_least_px),
        labels=source.labels(i),
        boxes=source.boxes(i),
        points_m=source.points(i) if points else np.empty((0, 3), np.float32),
        sweeps=source.sweeps(i, sweeps) if sweeps else (),
    )
