"""One pass over a converted drive: everything that its rules and its report are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bev_perception.errors import BagError, CalibrationError
from bev_perception.geometry import rigid
from bev_perception.messages import read_image
from bev_perception.shapes import Array, Mask, Pixels
from bev_perception.views import fit_size
from bev_training.data.drives import Drive
from bev_training.data.frame import Calibration, Frame, FrameView

_PROJECTED_FRAMES = 200  # evenly over the drive
_PROJECTED_POINTS = 20_000  # of a sweep


@dataclass(frozen=True, eq=False, kw_only=True)
class DriveMeasured:
    """What was seen in a drive.

    Attributes:
        path: its folder.
        quick: only names, sizes and the index were looked at.
        manifest: as stored.
        cameras: names in the rig's order.
        calibrations: by epoch.
        problems: what `Drive.check` says: (code, text).
        images: number by camera.
        sweeps: number of sweeps of every frame.
        stamps_ns: of the frames.
        sequences: of the frames.
        places: (n, 3) positions of the vehicle, NaN without pose.
        spreads_s: of the frames.
        projected: images by camera into which points were projected.
        hit: of those, with a point inside.
        points: that were projected.
        points_seen: of those, inside of an image.
        size_bytes: of all files.
    """

    path: Path
    quick: bool
    manifest: Mapping[str, Any]
    cameras: tuple[str, ...]
    calibrations: tuple[Calibration, ...]
    problems: tuple[tuple[str, str], ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    sweeps: tuple[int, ...] = ()
    stamps_ns: tuple[int, ...] = ()
    sequences: tuple[int, ...] = ()
    places: Array = field(default_factory=lambda: np.zeros((0, 3)))
    spreads_s: Array = field(default_factory=lambda: np.zeros(0))
    projected: Mapping[str, int] = field(default_factory=dict)
    hit: Mapping[str, int] = field(default_factory=dict)
    points: int = 0
    points_seen: int = 0
    size_bytes: int = 0

    @property
    def seconds(self) -> float:
        """From the first to the last frame."""
        return (self.stamps_ns[-1] - self.stamps_ns[0]) / 1e9 if self.stamps_ns else 0.0

    @property
    def has_lidar(self) -> bool:
        """Whether the rig has one."""
        return any(calibration.lidars for calibration in self.calibrations)

    @property
    def linked(self) -> Mask:
        """Which frames belong to the sequence of the one before them, (n - 1,) bool."""
        numbers = np.array(self.sequences)
        return np.asarray(numbers[1:] == numbers[:-1])

    @property
    def steps(self) -> tuple[Array, Array]:
        """Seconds and metres (n - 1, 3) from every frame to the next."""
        stamps = np.array(self.stamps_ns, np.int64)
        return np.diff(stamps) / 1e9, np.diff(self.places, axis=0)


def measure_drive(
    folder: Path, *, quick: bool = False, progress: Callable[[float], None] = lambda share: None
) -> DriveMeasured:
    """Read a drive once.

    Args:
        folder: of the drive.
        quick: no hashes, no images, no sweeps.
        progress: called with the share that is done, 0..1.

    Raises:
        BagError: it is no drive, unfinished, or of another version.
    """
    drive = Drive(folder)
    if quick:
        problems = list(_wrong_sizes(drive))
    else:
        problems = list(drive.check(decode=True, progress=progress))
    meter = _Meter(drive)
    every = max(1, len(drive) // _PROJECTED_FRAMES)
    try:
        for number in range(len(drive)):
            meter.take(number, sweeps=not quick and number % every == 0)
    except BagError as error:
        problems.append(('index_damaged', str(error)))
    return DriveMeasured(
        path=folder,
        quick=quick,
        manifest=drive.manifest,
        cameras=drive.cameras,
        calibrations=drive.calibrations,
        problems=tuple(problems),
        size_bytes=sum(int(file['size_bytes']) for file in drive.manifest['files']),
        **meter.finish(),
    )


def _wrong_sizes(drive: Drive) -> Iterator[tuple[str, str]]:
    """Yield what `Drive.check` says about files, as far as sizes tell it."""
    for file in drive.manifest['files']:
        path = drive.folder / file['name']
        if not path.is_file():
            yield 'file_missing', f'{path} is missing'
        elif path.stat().st_size != file['size_bytes']:
            stated = file['size_bytes']
            yield 'file_size', f'{path} has {path.stat().st_size} bytes, not {stated}'


class _Meter:
    """The running measurements of one drive."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._images: Counter[str] = Counter()
        self._projected: Counter[str] = Counter()
        self._hit: Counter[str] = Counter()
        self._rows: list[tuple[int, int, int, float]] = []
        self._places: list[Array] = []
        self._points = self._seen = 0

    def take(self, number: int, *, sweeps: bool) -> None:
        """Look at one frame, and into the newest sweep of each of its lidars.

        Raises:
            BagError: the index is damaged.
        """
        frame = self._drive.frame(number, images=False, sweeps=False)
        self._rows.append((frame.stamp_ns, frame.sequence, len(frame.sweeps), frame.spread_s))
        pose = frame.odom_T_ego
        self._places.append(np.full(3, np.nan) if pose is None else pose[:3, 3])
        self._images.update(view.camera for view in frame.views)
        if sweeps and frame.sweeps:
            try:
                self._project(self._drive.frame(number, images=False))
            except BagError:
                return  # `Drive.check` told so

    def _project(self, frame: Frame) -> None:
        seen_by_any = np.zeros(0, bool)
        for view in frame.views:
            try:
                _, seen, _ = lidar_in_image(frame, view, self._drive.calibrations)
            except CalibrationError:
                continue  # `Drive.check` told so
            self._projected[view.camera] += 1
            self._hit[view.camera] += bool(seen.any())
            seen_by_any = seen | seen_by_any if len(seen_by_any) else seen
        self._points += len(seen_by_any)
        self._seen += int(seen_by_any.sum())

    def finish(self) -> dict[str, Any]:
        """Return the fields of `DriveMeasured` that come from frames."""
        rows = self._rows
        return {
            'images': {name: self._images[name] for name in self._drive.cameras},
            'stamps_ns': tuple(row[0] for row in rows),
            'sequences': tuple(row[1] for row in rows),
            'sweeps': tuple(row[2] for row in rows),
            'spreads_s': np.array([row[3] for row in rows]),
            'places': np.array(self._places).reshape(-1, 3),
            'projected': dict(self._projected),
            'hit': dict(self._hit),
            'points': self._points,
            'points_seen': self._seen,
        }


def decode(view: FrameView, at_least_px: tuple[int, int] | None = None) -> Any:
    """Decode a stored image; see `messages.read_image`.

    Raises:
        MessageError: it is damaged.
    """
    data = np.frombuffer(view.image.data, np.uint8)
    return read_image(SimpleNamespace(format=view.image.format, data=data), at_least_px)


def lidar_in_image(
    frame: Frame, view: FrameView, calibrations: tuple[Calibration, ...]
) -> tuple[Pixels, Mask, Array]:
    """Project the newest sweep of every lidar into an image, at most 20,000 points of each.

    Returns:
        (n, 2) pixels of the stored image, (n,) whether a point is inside, (n,) its distance along
        the optical axis, metres.

    Raises:
        CalibrationError: the image does not fit its camera.
    """
    newest = {sweep.lidar: sweep for sweep in frame.sweeps}.values()  # they are oldest first
    points_ego = [np.zeros((0, 3))]
    for sweep in newest:
        every = max(1, len(sweep.points) // _PROJECTED_POINTS)
        xyz = sweep.points[::every, :3].astype(np.float64)
        points_ego.append(rigid.transform_points(sweep.ego_T_lidar, xyz))
    points_cam = rigid.transform_points(rigid.inverse(view.ego_T_cam), np.concatenate(points_ego))
    known = calibrations[frame.epoch].cameras[view.camera].camera
    camera = fit_size(known, view.image.size_px, view.camera)
    uv, seen = camera.project(points_cam)
    return uv, seen, points_cam[:, 2]
