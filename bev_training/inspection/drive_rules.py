"""What is wrong with a converted drive, from its measurements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bev_training.inspection.calibration_checks import check_intrinsics, check_mounting
from bev_training.inspection.drive_measurements import DriveMeasured
from bev_training.inspection.findings import Finding, in_order

Found = tuple[str, str, str]  # rule, where, text

_FASTEST_MPS = 60.0
_GRADE, _RISE_M = 0.3, 1.0
_HIT_SHARE = 0.01
_NO_LIDAR_SHARE = 0.1
_MISSING_SHARE = 0.1


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
        yield 'DRV013', '', f'{len(m.places)} frames without odom_T_ego'
        return
    seconds, steps = m.steps
    ok = m.linked & (seconds > 0) & np.isfinite(steps).all(axis=-1)
    speeds = np.where(ok, np.linalg.norm(steps, axis=-1) / np.where(seconds > 0, seconds, 1), 0)
    if (speeds > _FASTEST_MPS).any():
        at = int(speeds.argmax())
        yield (
            'DRV011',
            f'frame {at + 1}',
            f'{int((speeds > _FASTEST_MPS).sum())} steps over {_FASTEST_MPS:.0f} m/s, the '
            f'fastest {speeds[at]:.0f} m/s',
        )
    rises, flat = np.abs(steps[:, 2]), np.linalg.norm(steps[:, :2], axis=-1)
    steep = ok & (rises > _RISE_M) & (rises > _GRADE * flat)
    if steep.any():
        at = int(np.argmax(np.where(steep, rises, 0)))
        yield (
            'DRV012',
            f'frame {at + 1}',
            f'{int(steep.sum())} steps over {_GRADE:.0%} grade, the highest {rises[at]:.1f} m '
            f'over {flat[at]:.1f} m',
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
            yield 'DRV020', camera, f'no lidar point in any of {images} images'
    if m.points and m.points_seen < _HIT_SHARE * m.points:
        share = m.points_seen / m.points
        yield 'DRV021', '', f'{share:.2%} of {m.points} points are in an image'


def _frames(m: DriveMeasured) -> Iterator[Found]:
    frames = len(m.stamps_ns)
    if not frames:
        yield 'DRV034', '', 'the drive has no frame'
        return
    empty = sum(1 for count in m.sweeps if not count)
    if m.has_lidar and empty > _NO_LIDAR_SHARE * frames:
        yield 'DRV022', '', f'{empty} of {frames} frames have no sweep'
    seconds, _ = m.steps
    ends = np.flatnonzero(~m.linked)
    if len(ends):
        longest = int(ends[np.argmax(seconds[ends])])
        yield (
            'DRV030',
            f'frame {longest + 1}',
            f'{len(ends)} gaps between {len(ends) + 1} sequences, the longest '
            f'{seconds[longest]:.1f} s',
        )
    for camera in m.cameras:
        lacking = frames - m.images.get(camera, 0)
        if lacking > _MISSING_SHARE * frames:
            yield 'DRV032', camera, f'{lacking} of {frames} frames lack it'
