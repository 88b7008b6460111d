"""What is wrong with a converted drive, from its measurements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import Mask
from bev_training.data.settings import KeyFrames
from bev_training.inspection.calibration_checks import check_intrinsics, check_mounting
from bev_training.inspection.drive_measurements import DriveMeasured
from bev_training.inspection.findings import Finding, in_order, plural

Found = tuple[str, str, str]  # rule, where, text

_FASTEST_MPS = 60.0
_GRADE, _RISE_M = 0.3, 1.0
_HIT_SHARE = 0.01
_NO_LIDAR_SHARE = 0.1
_MISSING_SHARE = 0.1
_SET_M = 3.0  # driven between two sets of images


def drive_findings(m: DriveMeasured) -> tuple[Finding, ...]:
    """Apply every rule; worst first."""
    found = [*_files(m), *_poses(m), *_calibration(m), *_lidar(m), *_frames(m)]
    return in_order(
        Finding(rule=rule, subject=str(m.path), where=where, text=text)
        for rule, where, text in found
    )


_CODES = {
    'file_extra': 'DRV003',
    'image_unreadable': 'DRV004',
    'image_size': 'DRV004',
    'cloud_damaged': 'DRV005',
    'pose_not_rigid': 'DRV010',
    'stamps_order': 'DRV033',
    'links': 'DRV033',
}


def _files(m: DriveMeasured) -> Iterator[Found]:
    """One finding per code of `Drive.check`; those of damaged files are one rule."""
    by_code: dict[str, list[str]] = {}
    for code, text in m.problems:
        by_code.setdefault(code, []).append(text.removeprefix(f'{m.path}: '))
    for code, texts in by_code.items():
        more = f'; and {len(texts) - 1} more like it' if len(texts) > 1 else ''
        yield _CODES.get(code, 'DRV002'), code, texts[0] + more
    if m.quick:
        yield 'DRV006', '', 'hashes, images and sweeps were not looked at'


def _poses(m: DriveMeasured) -> Iterator[Found]:
    if len(m.places) and np.isnan(m.places).all():
        yield 'DRV013', '', f'{plural(len(m.places), "frame")} without odom_T_ego'
        return
    seconds, steps = m.steps
    ok = m.linked & (seconds > 0) & np.isfinite(steps).all(axis=-1)
    speeds = np.where(ok, np.linalg.norm(steps, axis=-1) / np.where(seconds > 0, seconds, 1), 0)
    if (speeds > _FASTEST_MPS).any():
        at = int(speeds.argmax())
        yield (
            'DRV011',
            f'frame {at + 1}',
            f'{plural(int((speeds > _FASTEST_MPS).sum()), "step")} over {_FASTEST_MPS:.0f} m/s, '
            f'the fastest {speeds[at]:.0f} m/s',
        )
    rises, flat = np.abs(steps[:, 2]), np.linalg.norm(steps[:, :2], axis=-1)
    steep = ok & (rises > _RISE_M) & (rises > _GRADE * flat)
    if steep.any():
        at = int(np.argmax(np.where(steep, rises, 0)))
        yield (
            'DRV012',
            f'frame {at + 1}',
            f'{plural(int(steep.sum()), "step")} over {_GRADE:.0%} grade, the highest '
            f'{rises[at]:.1f} m over {flat[at]:.1f} m',
        )


def _calibration(m: DriveMeasured) -> Iterator[Found]:
    for calibration in m.calibrations:
        where = f'epoch {calibration.epoch}'
        for name, one in calibration.cameras.items():
            for _, text in check_intrinsics(one.camera):
                yield 'DRV014', f'{where}, {name}', text
        mounts = {
            name: one.base_T_cam
            for name, one in calibration.cameras.items()
            if one.base_T_cam is not None
        }
        for _, name, text in check_mounting(mounts):
            yield 'DRV014', f'{where}, {name}', text
    if len(m.calibrations) > 1:
        yield 'DRV031', '', f'{len(m.calibrations)} epochs'


def _lidar(m: DriveMeasured) -> Iterator[Found]:
    for camera, images in m.projected.items():
        if not m.hit.get(camera, 0):
            yield 'DRV020', camera, f'no lidar point in it, in {plural(images, "image")}'
    if m.points and m.points_seen < _HIT_SHARE * m.points:
        share = m.points_seen / m.points
        yield 'DRV021', '', f'{share:.2%} of {plural(m.points, "point")} are in an image'


def _frames(m: DriveMeasured) -> Iterator[Found]:
    frames = len(m.stamps_ns)
    if not frames:
        yield 'DRV034', '', 'the drive has no frame'
        return
    empty = sum(1 for count in m.sweeps if not count)
    if m.has_lidar and empty > _NO_LIDAR_SHARE * frames:
        yield 'DRV022', '', f'{empty} of {plural(frames, "frame")} without a sweep'
    seconds, _ = m.steps
    holes = np.flatnonzero(~m.linked & ~_stood(m))
    if len(holes):
        longest = int(holes[np.argmax(seconds[holes])])
        yield (
            'DRV030',
            f'frame {longest + 1}',
            f'{plural(len(holes), "gap")}, the longest {seconds[longest]:.1f} s',
        )
    for camera in m.cameras:
        lacking = frames - m.images.get(camera, 0)
        if lacking > _MISSING_SHARE * frames:
            yield 'DRV032', camera, f'it is missing in {lacking} of {plural(frames, "frame")}'


def _stood(m: DriveMeasured) -> Mask:
    """Return after which frames the vehicle stood until the next one, (n - 1,) bool.

    With frames by distance, hardly more than that lies between them, however long it took.
    """
    settings = m.manifest['facts'].get('settings', {})
    try:
        every_m = KeyFrames.parse(str(settings.get('every', 'all'))).metres
    except ConfigError:
        every_m = None
    seconds, steps = m.steps
    if every_m is None:
        return np.zeros(len(seconds), bool)
    return np.asarray((seconds > 0) & (np.linalg.norm(steps, axis=-1) < every_m + _SET_M))
