"""Is a converted drive what its manifest says, and does it make sense?"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bev_perception.errors import BagError, BevError
from bev_perception.messages import read_image
from bev_perception.views import fit_camera
from bev_training.data.drive_folder import listed
from bev_training.data.drive_index import matrix
from bev_training.data.drive_manifest import MANIFEST
from bev_training.data.drives import Drive
from bev_training.data.frame import Calibration
from bev_training.data.paths import PART, remote
from bev_training.data.shards import BLOCK, read_npy, read_spans

Problem = tuple[str, str]  # code, text
_READ_BYTES = 1 << 22
_RIGID = 1e-6  # how far R R^T may be from identity


def check_drive(
    folder: Path,
    *,
    decode: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Problem]:
    """Yield what is wrong with a drive: a code and one line.

    Codes: drive_unreadable (nothing else can be told then), file_missing, file_extra, file_size,
    file_sha256, index_damaged, shard_unreadable, member_misplaced, image_unreadable, image_size,
    cloud_damaged, pose_not_rigid, stamps_order, links, epoch_unknown, live_mask, totals.

    Args:
        folder: of the drive.
        decode: whether to decode every image; else only its first bytes are looked at.
        progress: called with the share that is done, 0..1.
    """
    try:
        drive = Drive(folder)
    except BagError as error:
        yield 'drive_unreadable', str(error)
        return
    total = sum(file['size_bytes'] for file in drive.manifest['files']) or 1
    done = 0
    missing = set()
    for file in drive.manifest['files']:
        problem = _file_problem(folder, file)
        if problem is not None:
            missing |= {file['name']} if problem[0] == 'file_missing' else set()
            yield problem
        done += file['size_bytes']
        progress(done / total / 2)
    try:
        with remote(folder):
            ours, foreign = listed(folder)
        yield from _extra_files(folder, drive.manifest, {*ours, *foreign})
    except (BagError, OSError) as error:
        yield 'shard_unreadable', f'{folder}: {error}'
    try:
        yield from _check_rows(drive, missing, decode, progress)
    except BagError as error:
        yield 'index_damaged', str(error)
    progress(1.0)


def _file_problem(folder: Path, file: Mapping[str, Any]) -> Problem | None:
    path = folder / file['name']
    digest, size = hashlib.sha256(), 0
    try:
        with remote(path), path.open('rb') as stream:
            while data := stream.read(_READ_BYTES):
                digest.update(data)
                size += len(data)
    except FileNotFoundError:
        return 'file_missing', f'{path} is missing'
    except OSError as error:
        return 'shard_unreadable', f'{path} cannot be read: {error.strerror or error}'
    except BagError as error:
        return 'shard_unreadable', str(error)
    if size != file['size_bytes']:
        return 'file_size', f'{path} has {size} bytes, {MANIFEST} says {file["size_bytes"]}'
    if digest.hexdigest() != file['sha256']:
        return 'file_sha256', f'{path} has other contents than {MANIFEST} says (SHA-256)'
    return None


def _extra_files(folder: Path, manifest: Mapping[str, Any], there: set[Path]) -> Iterator[Problem]:
    named = {folder / file['name'] for file in manifest['files']} | {folder / MANIFEST}
    for path in sorted(there - named):
        kind = 'left over' if path.name.endswith(PART) else f'not named by {MANIFEST}'
        yield 'file_extra', f'{path} is {kind}'


def _check_rows(
    drive: Drive, missing: set[str], decode: bool, progress: Callable[[float], None]
) -> Iterator[Problem]:
    before: dict[str, Any] | None = None
    counted = {'frames': 0, 'images': 0, 'sweeps': 0}
    for row in drive.rows():
        where = f'{drive.folder}: frame {row["key"]}'
        yield from _row_problems(drive, row, before, where)
        if 0 <= row['epoch'] < len(drive.calibrations) and row['shard'] not in missing:
            calibration = drive.calibrations[row['epoch']]
            try:
                yield from _contents(drive.folder, row, calibration, decode, where)
            except BagError as error:
                yield 'shard_unreadable', f'{where}: {error}'
        counted['frames'] += 1
        counted['images'] += len(row['views'])
        counted['sweeps'] += len(row['sweeps'])
        before = row
        progress(0.5 + counted['frames'] / len(drive) / 2)
    if before is not None and before['next'] is not None:
        yield 'links', f'{drive.folder}: the last frame names a next one, {before["next"]}'
    for name, count in counted.items():
        if count != drive.manifest['totals'][name]:
            stated = drive.manifest['totals'][name]
            yield 'totals', f'{drive.folder} has {count} {name}, {MANIFEST} says {stated}'


def _row_problems(
    drive: Drive, row: Mapping[str, Any], before: Mapping[str, Any] | None, where: str
) -> Iterator[Problem]:
    """What can be told from the index alone."""
    linked = before is not None and before['sequence'] == row['sequence']
    if linked and before is not None and row['stamp_ns'] <= before['stamp_ns']:
        yield 'stamps_order', f'{where} at {row["stamp_ns"]} ns is not later than the one before'
    stated = row['previous'], None if before is None else before['next']
    if before is not None:
        wanted = (before['frame'], row['frame']) if linked else (None, None)
    else:
        wanted = (None, None)
    if stated != wanted:
        yield 'links', f'{where}: links with the frame before are {stated}, not {wanted}'
    if not 0 <= row['epoch'] < len(drive.calibrations):
        yield 'epoch_unknown', f'{where} is of epoch {row["epoch"]}, which has no calibration'
    seen = [view['camera'] for view in row['views']]
    if row['live'] != [name in seen for name in drive.cameras] or not {*seen} <= {*drive.cameras}:
        yield 'live_mask', f'{where}: images are of {seen}, live is {row["live"]}'
    poses = {
        'odom_T_ego': row['odom_T_ego'],
        'base_T_ego': row['base_T_ego'],
        **{f'ego_T_cam of {view["camera"]}': view['ego_T_cam'] for view in row['views']},
        **{f'odom_T_base of {view["camera"]}': view['odom_T_base'] for view in row['views']},
        **{
            f'ego_T_lidar of {s["lidar"]} at {s["stamp_ns"]}': s['ego_T_lidar']
            for s in row['sweeps']
        },
    }
    for name, values in poses.items():
        if values is not None and not _is_rigid(values):
            yield 'pose_not_rigid', f'{where}: {name} is {values}'


def _contents(
    folder: Path, row: Mapping[str, Any], calibration: Calibration, decode: bool, where: str
) -> Iterator[Problem]:
    """What the bytes of a frame's members tell."""
    members = [*row['views'], *row['clouds']]
    spans = [(each['offset'] - BLOCK, BLOCK + each['size_bytes']) for each in members]
    parts = read_spans(folder / row['shard'], spans)
    for each, part in zip(members, parts, strict=True):
        if not _is_header_of(part[:BLOCK], each):
            yield 'member_misplaced', f'{where}: {each["member"]} is not where the index says'
        elif 'camera' in each:
            yield from _image_problems(each, part[BLOCK:], calibration, decode, where)
        else:
            yield from _cloud_problems(each, part[BLOCK:], row['sweeps'], calibration, where)


def _is_header_of(block: bytes, member: Mapping[str, Any]) -> bool:
    try:
        info = tarfile.TarInfo.frombuf(block, 'ascii', 'strict')
    except (tarfile.TarError, ValueError):
        return False
    return info.name == member['member'] and info.size == member['size_bytes']


def _image_problems(
    view: Mapping[str, Any], data: bytes, calibration: Calibration, decode: bool, where: str
) -> Iterator[Problem]:
    name = view['camera']
    if not data.startswith((b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n')):
        yield 'image_unreadable', f'{where}, camera {name}: it is neither JPEG nor PNG'
        return
    known = calibration.cameras.get(name)
    if known is None or not decode:
        return
    header = SimpleNamespace(frame_id=known.frame_id)
    try:
        image = read_image(SimpleNamespace(header=header, format=view['format'], data=data))
    except BevError as error:
        yield 'image_unreadable', f'{where}, camera {name}: {error}'
        return
    height, width = image.shape[:2]
    if (width, height) != (view['width'], view['height']):
        stated = f'{view["width"]}x{view["height"]}'
        yield 'image_size', f'{where}, camera {name}: {width}x{height}, the index says {stated}'
    try:
        fit_camera(known.camera, image, name)
    except BevError as error:
        yield 'image_size', f'{where}: {error}'


def _cloud_problems(
    cloud: Mapping[str, Any],
    data: bytes,
    sweeps: list[dict[str, Any]],
    calibration: Calibration,
    where: str,
) -> Iterator[Problem]:
    name = cloud['lidar']
    try:
        points = read_npy(data)
    except ValueError as error:
        yield 'cloud_damaged', f'{where}, lidar {name}: {error}'
        return
    at = 0
    for sweep in sweeps:
        if sweep['lidar'] == name:
            if sweep['first'] != at:
                yield 'cloud_damaged', f'{where}, lidar {name}: a sweep begins at {sweep["first"]}'
            at += sweep['points']
    wanted = (at, len(calibration.lidars[name].fields) if name in calibration.lidars else -1)
    if points.shape != wanted:
        yield 'cloud_damaged', f'{where}, lidar {name}: points are {points.shape}, not {wanted}'
    elif not np.isfinite(points[:, :3]).all():
        yield 'cloud_damaged', f'{where}, lidar {name}: a position is not finite'


def _is_rigid(values: list[float]) -> bool:
    pose = matrix(values)
    if not np.isfinite(pose).all() or (pose[3] != (0, 0, 0, 1)).any():
        return False
    R = pose[:3, :3]
    return bool(np.abs(R @ R.T - np.eye(3)).max() < _RIGID and np.linalg.det(R) > 0)
