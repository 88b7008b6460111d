"""nuScenes' relational tables: tokens, links, poses, names of channels, and the files.

The format: https://www.nuscenes.org/nuscenes#data-format. Its times are microseconds, its
quaternions w, x, y, z; both end here.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.shapes import Rigid

Record = dict[str, Any]
Tables = dict[str, list[Record]]

TABLES = (
    'attribute', 'calibrated_sensor', 'category', 'ego_pose', 'instance', 'log', 'map', 'sample',
    'sample_annotation', 'sample_data', 'scene', 'sensor', 'visibility',
)  # fmt: skip
LIDAR_CHANNEL = 'LIDAR_TOP'
POINT_FIELDS = ('x', 'y', 'z', 'intensity', 'ring')  # columns of a sweep's file, float32


def token_of(*names: object) -> str:
    """Return 32 hexadecimal digits, the same for the same names, in no visible order."""
    key = '/'.join(str(name) for name in names)
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def camera_channel(camera: str) -> str:
    """Return the channel of a camera: `front_left` and `CAM_FRONT_LEFT` are CAM_FRONT_LEFT."""
    name = _channel(camera)
    return name if name.startswith('CAM_') else f'CAM_{name}'


def lidar_channel(lidar: str) -> str:
    """Return the channel of a lidar: `lidar` and `lidar_top` are LIDAR_TOP, `left` LIDAR_LEFT."""
    name = _channel(lidar)
    if name == 'LIDAR':
        return LIDAR_CHANNEL
    return name if name.startswith('LIDAR_') else f'LIDAR_{name}'


def sensor_name(channel: str) -> str:
    """Return what a channel is called here: CAM_FRONT_LEFT is `front_left`, LIDAR_TOP `top`.

    It may be a part of a topic's name, so CAM_0 stays `cam_0`.
    """
    whole = _channel(channel).lower()
    name = whole.removeprefix('cam_').removeprefix('lidar_')
    return whole if not name or name[0].isdigit() else name


def _channel(name: str) -> str:
    return re.sub(r'\W', '_', name.upper(), flags=re.ASCII)


def pose_record(dst_T_src: Rigid) -> Record:
    """Return translation and rotation as the format has them."""
    x, y, z, w = rigid.to_quat_xyzw(dst_T_src).tolist()
    return {'translation': dst_T_src[:3, 3].tolist(), 'rotation': [w, x, y, z]}


def pose_of(record: Record) -> Rigid:
    """Return the (4, 4) pose of a record that has translation and rotation.

    Raises:
        KeyError: it lacks one of them.
        ValueError: they are no pose.
    """
    rotation = np.array(record['rotation'], np.float64)
    translation = np.array(record['translation'], np.float64)
    norm = float(np.linalg.norm(rotation))
    if rotation.shape != (4,) or translation.shape != (3,) or not 0.5 < norm < 2:
        raise ValueError(f'rotation {rotation.tolist()}, translation {translation.tolist()}')
    if not np.isfinite(translation).all():
        raise ValueError(f'translation {translation.tolist()}')
    return rigid.from_quat_xyzw(np.roll(rotation, -1), translation)


def day_of(time_us: int) -> str:
    """Return the date of a time, as YYYY-MM-DD."""
    return datetime.fromtimestamp(time_us / 1e6, timezone.utc).date().isoformat()


def link(chain: list[Record]) -> None:
    """Fill `prev` and `next` of records that follow each other."""
    for before, after in pairwise(chain):
        before['next'], after['prev'] = after['token'], before['token']


def merge(into: Tables, more: Tables) -> None:
    """Append the records of some tables to others."""
    for name, records in more.items():
        into.setdefault(name, []).extend(records)


def write_tables(folder: Path, tables: Tables) -> None:
    """Write every table that the format has; those that are missing become empty."""
    for name in TABLES:
        (folder / f'{name}.json').write_text(dumped(tables.get(name, [])))


def dumped(value: object) -> str:
    """Return JSON, a record per line where the value is a list."""
    if isinstance(value, list) and value:
        return '[\n' + ',\n'.join(line(each) for each in value) + '\n]\n'
    return line(value) + '\n'


def line(value: object) -> str:
    """Return JSON in one line."""
    return json.dumps(value, allow_nan=False)
