"""Frames for tests of the drive data set: random poses, small images, several sequences, epochs
and lidars; a function of its arguments only. Also comparisons of everything that is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from bev_perception.geometry import rigid
from bev_training.data.drive_writer import DriveWriter
from bev_training.data.frame import (
    Calibration,
    CameraCalibration,
    EncodedImage,
    Frame,
    FrameView,
    LidarCalibration,
    LidarSweep,
)
from bev_training.data.summary import DriveSummary
from test.factories import STAMP_NS, make_camera, make_image

CAMERAS = ('front_left', 'front', 'front_right')
FIELDS = {'lidar_top': ('x', 'y', 'z', 'intensity'), 'lidar_rear': ('x', 'y', 'z')}
SIZE_PX = (64, 48)
FRAMES_PER_EPOCH = 5
FACTS = {'source': {'name': 'a', 'sha256': 'ab' * 32}, 'settings': {'every': '2m', 'x': None}}


@cache
def picture(seed: int, suffix: str = 'jpg') -> bytes:
    """Bytes of an image of SIZE_PX."""
    bgr = make_image(SIZE_PX, seed)[..., ::-1]
    return cv2.imencode(f'.{suffix}', bgr)[1].tobytes()


def random_pose(rng: np.random.Generator) -> np.ndarray:
    return rigid.from_quat_xyzw(rng.normal(size=4), rng.normal(size=3) * 100)


def make_calibration(epoch: int = 0, *, cameras: Sequence[str] = CAMERAS) -> Calibration:
    rng = np.random.default_rng(1000 + epoch)
    models = [
        {'model': 'plumb_bob', 'D': tuple(rng.normal(size=5) * 1e-3)},
        {'model': 'equidistant', 'D': tuple(rng.normal(size=4) * 1e-3)},
        {'rect_T_cam': random_pose(rng)},
    ]
    return Calibration(
        epoch=epoch,
        from_stamp_ns=STAMP_NS + epoch * FRAMES_PER_EPOCH * 100_000_000,
        cameras={
            name: CameraCalibration(
                frame_id=f'{name}_optical',
                camera=make_camera(SIZE_PX, fov_deg=70 + rng.uniform(), **models[i % 3]),
                base_T_cam=None if i % 3 == 2 else random_pose(rng),
            )
            for i, name in enumerate(cameras)
        },
        lidars={
            name: LidarCalibration(
                frame_id=f'{name}_frame',
                base_T_lidar=random_pose(rng) if name == 'lidar_top' else None,
                fields=fields,
            )
            for name, fields in FIELDS.items()
        },
    )


def make_frame(
    number: int, *, cameras: Sequence[str] = CAMERAS, data: bytes | None = None, points: int = 30
) -> Frame:
    """The frame of that number: some lack cameras, odometry or lidar; gaps end sequences."""
    rng = np.random.default_rng(number)
    stamp_ns = STAMP_NS + number * 100_000_000 + int(rng.integers(1000))
    missing = (cameras[number % len(cameras)],) if number % 4 == 3 else ()
    odometry = number % 6 != 5
    views = []
    for i, name in enumerate(cameras):
        if name in missing:
            continue
        suffix = 'png' if (number + i) % 5 == 0 else 'jpg'
        views.append(
            FrameView(
                camera=name,
                stamp_ns=stamp_ns + i * 5_000_001,
                image=EncodedImage(
                    data=picture((number + i) % 7, suffix) if data is None else data,
                    suffix=suffix,
                    size_px=SIZE_PX,
                    format=f'rgb8; {suffix} compressed bgr8',
                ),
                ego_T_cam=random_pose(rng),
                odom_T_base=random_pose(rng) if odometry else None,
            )
        )
    lidars = [name for name in FIELDS if number % 3 or name == 'lidar_top'] * (number % 7 != 6)
    sweeps = [
        LidarSweep(
            lidar=name,
            stamp_ns=stamp_ns - (2 - turn) * 50_000_000 + at,
            points=rng.normal(size=(int(rng.integers(points)), len(FIELDS[name]))).astype('f4'),
            ego_T_lidar=random_pose(rng),
        )
        for turn in range(2)
        for at, name in enumerate(lidars)
    ]
    return Frame(
        stamp_ns=stamp_ns,
        epoch=number // FRAMES_PER_EPOCH,
        sequence=number // 8,
        odom_T_ego=random_pose(rng) if odometry else None,
        base_T_ego=random_pose(rng),
        views=tuple(views),
        missing=missing,
        sweeps=tuple(sweeps),
        spread_s=float(rng.uniform()),
    )


def frames_and_calibrations(count: int, **values) -> Iterator[Frame | Calibration]:
    """As a conversion gives them."""
    for number in range(count):
        if number % FRAMES_PER_EPOCH == 0:
            yield make_calibration(number // FRAMES_PER_EPOCH)
        yield make_frame(number, **values)


def write_drive(
    folder: Path, count: int = 20, *, shard_bytes: int = 30_000, **values
) -> DriveSummary:
    with DriveWriter(folder, cameras=CAMERAS, shard_bytes=shard_bytes) as writer:
        for item in frames_and_calibrations(count, **values):
            if isinstance(item, Calibration):
                writer.add_calibration(item)
            else:
                writer.add(item)
        return writer.finish(FACTS, {'sets': 50, 'images_damaged': 1})


def contents(folder: Path) -> dict[str, bytes]:
    """All files, also hidden ones, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def values_of(item: object) -> object:
    """All values of a frame or calibration, exactly: arrays by type, shape and bytes."""
    if isinstance(item, np.ndarray):
        return str(item.dtype), item.shape, item.tobytes()
    if isinstance(item, dict):
        return [(key, values_of(value)) for key, value in item.items()]
    if isinstance(item, (list, tuple)):
        return [values_of(value) for value in item]
    if hasattr(item, '__dataclass_fields__'):
        return [(name, values_of(getattr(item, name))) for name in item.__dataclass_fields__]
    return type(item).__name__, repr(item)
