"""A small `SampleSource` made of nothing but numbers: images, labels and boxes fit each other."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.memory import Whereabouts
from bev_perception.views import ViewSet
from bev_training.data.sample import HIDDEN_UP_TO, GroundBoxes, LabelGrids, Sweep, no_labels
from bev_training.data.sweeps import make_sweep
from test.factories import STAMP_NS, YAWS_DEG, make_config, make_rig, make_view_set

CLASSES = ('drivable_area', 'vehicle')


@dataclass(frozen=True, kw_only=True)
class FakeSource:
    """`count` samples in scenes of four, on a road along x with two to four cars.

    Attributes:
        count: samples.
        missing: sample number -> names of the cameras that it lacks.
        broken: samples that raise BagError.
        buggy: samples that raise what no reader should.
        deadly: samples that kill the process that reads them.
        late_s: sample number -> seconds by which it and those after it come later.
        odometry: whether the vehicle's poses are known: 2 m and 0.05 rad from one sample, half a
            second, to the next.
        blind: samples whose lidar sees nothing.
        dead: samples whose lidar has sent nothing, and which are known for that.
        torn: samples with a point that is not finite.
        lidars: names; there is at most one.
    """

    count: int = 12
    classes: tuple[str, ...] = CLASSES
    grid: BevGrid = field(default_factory=lambda: make_config().grid)
    cameras: tuple[str, ...] = tuple(YAWS_DEG)
    size_px: tuple[int, int] = (64, 32)
    missing: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    broken: tuple[int, ...] = ()
    buggy: tuple[int, ...] = ()
    deadly: tuple[int, ...] = ()
    late_s: Mapping[int, float] = field(default_factory=dict)
    odometry: bool = True
    blind: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    torn: tuple[int, ...] = ()
    lidars: tuple[str, ...] = ('lidar',)

    @property
    def keys(self) -> Sequence[str]:
        return [f'{scene}/{i:06d}' for i, scene in enumerate(self.scenes)]

    @property
    def scenes(self) -> Sequence[str]:
        return [f'scene-{i // 4:04d}' for i in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def view_set(self, i: int, *, at_least_px: tuple[int, int] | None = None) -> ViewSet:
        if i in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if i in self.broken:
            raise BagError(f'shard of frame {i} is damaged')
        if i in self.buggy:
            raise IndexError('list index\nout of range')
        view_set = make_view_set(
            make_rig(self.cameras, self.size_px), missing=self.missing.get(i, ())
        )
        for view in view_set.views:
            np.add(view.image, np.uint8(7 * i % 40), out=view.image)
        at = self.whereabouts(i)
        return replace(view_set, stamp_ns=at.stamp_ns, odom_T_ego=at.odom_T_ego)

    def whereabouts(self, i: int) -> Whereabouts:
        seconds = 0.5 * i + sum(late for first, late in self.late_s.items() if first <= i)
        yaw = 0.05 * i
        pose = rigid.from_quat_xyzw([0, 0, np.sin(yaw / 2), np.cos(yaw / 2)], [2.0 * i, -3.0, 1.0])
        return Whereabouts(
            stamp_ns=STAMP_NS + round(seconds * 1e9),
            odom_T_ego=pose if self.odometry else None,
        )

    def labels(self, i: int) -> LabelGrids:
        """The road is known everywhere, cars cover the cells whose centre lies under them."""
        if not self.classes:
            return no_labels(self.grid)
        boxes, centers = self.boxes(i), self.grid.cell_centers()
        shape = (len(self.classes), *centers.shape[:2])
        positive, hidden = np.zeros(shape, bool), np.zeros(shape, bool)
        if 'drivable_area' in self.classes:
            positive[self.classes.index('drivable_area')] = np.abs(centers[..., 1] - 1) < 4
        if 'vehicle' in self.classes:
            seen, unseen = np.zeros(shape[1:], bool), np.zeros(shape[1:], bool)
            for n in range(len(boxes.names)):
                inside = under_box(boxes, n, centers)
                (seen if boxes.visibility[n] > HIDDEN_UP_TO else unseen)[inside] = True
            positive[self.classes.index('vehicle')] = seen | unseen
            hidden[self.classes.index('vehicle')] = unseen & ~seen
        return LabelGrids(
            classes=self.classes,
            positive=positive,
            hidden=hidden,
            known=np.ones(shape[1:], bool),
        )

    def boxes(self, i: int) -> GroundBoxes:
        rng = np.random.default_rng([7, i])
        n = 2 + i % 3
        low, high = np.array([self.grid.x_range_m, self.grid.y_range_m]).T
        xy = rng.uniform(low + 2, high - 2, (n, 2))
        return GroundBoxes(
            names=('vehicle',) * n,
            center_m=np.concatenate([xy, np.full((n, 1), 0.8)], 1),
            size_m=np.tile([4.0, 2.0, 1.6], (n, 1)),
            yaw_rad=rng.uniform(-np.pi, np.pi, n),
            visibility=np.where(np.arange(n) == 1, 0.2, 0.9),
            lidar_points=np.full(n, -1),
        )

    def points(self, i: int) -> np.ndarray:
        """Ten points in each box."""
        boxes, rng = self.boxes(i), np.random.default_rng([8, i])
        points = []
        for center, size, yaw in zip(boxes.center_m, boxes.size_m, boxes.yaw_rad, strict=True):
            x, y, z = (rng.uniform(-0.45, 0.45, (10, 3)) * size).T
            c, s = np.cos(yaw), np.sin(yaw)
            points.append(center + np.stack([c * x - s * y, s * x + c * y, z], 1))
        return np.concatenate(points).astype(np.float32)

    def sweeps(self, i: int, count: int = 1) -> tuple[Sweep, ...]:
        """The points of a sample and of those before it in its scene."""
        numbers = [
            n for n in range(i, i - count, -1) if n >= 0 and self.scenes[n] == self.scenes[i]
        ]
        return tuple(self._sweep(n, i) for n in (numbers if self.odometry else [i]) if self.lidars)

    def _sweep(self, number: int, seen_from: int) -> Sweep:
        points = self.points(number).astype(np.float64)
        if number in (*self.blind, *self.dead):
            points = points[:0]
        if number in self.torn:
            points[0, 1] = np.nan
        then, now = self.whereabouts(number), self.whereabouts(seen_from)
        now_T_then = np.eye(4)
        if number != seen_from:
            now_T_then = rigid.inverse(now.odom_T_ego) @ then.odom_T_ego
        at = np.array([0.5, 0.0, 1.8])
        ego_T_lidar = np.eye(4)
        ego_T_lidar[:3, 3] = at
        return make_sweep(
            self.lidars[0],
            points - at,
            np.linspace(0, 1, len(points), dtype=np.float32),
            ego_T_lidar=now_T_then @ ego_T_lidar,
            age_s=(now.stamp_ns - then.stamp_ns) / 1e9,
        )

    def fingerprint(self, i: int) -> str:
        """Of what decides how the images of a sample look."""
        what = (7 * i % 40, self.cameras, self.size_px, self.missing.get(i, ()))
        return hashlib.blake2b(repr(what).encode(), digest_size=16).hexdigest()

    @property
    def has_points(self) -> np.ndarray:
        return np.array([bool(self.lidars) and i not in self.dead for i in range(self.count)])

    notes: tuple[str, ...] = ()

    def facts(self, i: int) -> Mapping[str, str]:
        return {'weather': ('clear', 'rain')[i % 2]}


def under_box(boxes: GroundBoxes, n: int, xy: np.ndarray) -> np.ndarray:
    """Whether points (..., 2) of the ground lie under a box."""
    dx, dy = np.moveaxis(xy - boxes.center_m[n, :2], -1, 0)
    c, s = np.cos(boxes.yaw_rad[n]), np.sin(boxes.yaw_rad[n])
    length, width = boxes.size_m[n, :2]
    return (np.abs(dx * c + dy * s) <= length / 2) & (np.abs(dy * c - dx * s) <= width / 2)


def make_fake_source(count: int = 12, **values) -> FakeSource:
    """A source that fits `make_fake_config()`."""
    return FakeSource(count=count, **values)


def make_fake_model(**values):
    """The network's config for a fake source."""
    return make_config(**{'classes': CLASSES, **values})
