"""A small data set in nuScenes' format, made by hand: random pictures on a curved way."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from bev_training.nuscenes_tables import TABLES, pose_record
from bev_training.synthetic.rig import nuscenes_rig
from test.data.small_bag import SmallDrive
from test.factories import make_image

SIZE_PX = (64, 36)
SCENES = ('scene-0001', 'scene-0002')
START_US = 1_532_402_927_000_000
SECONDS, CAMERA_HZ, LIDAR_HZ = 0.75, 12, 20


def base_T_lidar() -> np.ndarray:
    """As nuScenes mounts its lidar: x to the right, y ahead."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    pose[:3, 3] = 0.94, 0.0, 1.84
    return pose


def global_T_base(time_s: float) -> np.ndarray:
    """Where the vehicle is."""
    pose = SmallDrive(speed_mps=9.0, turn_radps=0.3).odom_T_base(time_s)
    pose[:3, 3] += 600.0, 1600.0, 0.0
    return pose


def write_set(out: Path) -> Path:
    """Write the data set: six cameras with 12 images per second, a lidar with 20 sweeps."""
    tables: dict[str, list[dict]] = {name: [] for name in TABLES}
    sensors: dict[str, tuple[np.ndarray, list, float, int]] = {
        f'CAM_{c.name.upper()}': (c.base_T_cam, c.camera.K.tolist(), c.offset_s, CAMERA_HZ)
        for c in nuscenes_rig(SIZE_PX).cameras
    }
    sensors['LIDAR_TOP'] = (base_T_lidar(), [], 0.0, LIDAR_HZ)
    for channel, (pose, K, _, _) in sensors.items():
        modality = 'lidar' if channel == 'LIDAR_TOP' else 'camera'
        tables['sensor'].append(
            {'token': f's-{channel}', 'channel': channel, 'modality': modality}
        )
        mounted = {'token': f'c-{channel}', 'sensor_token': f's-{channel}', **pose_record(pose)}
        tables['calibrated_sensor'].append({**mounted, 'camera_intrinsic': K})
    seed = 0
    for order, scene in enumerate(SCENES):
        tables['scene'].append({'token': f't-{scene}', 'name': scene})
        tables['sample'] += [
            {'token': f'{scene}-{number}', 'scene_token': f't-{scene}'} for number in range(2)
        ]
        for channel, (_, _, offset_s, hz) in sensors.items():
            for number in range(round(SECONDS * hz)):
                seed += 1
                time_s = number / hz + offset_s
                time_us = START_US + order * 60_000_000 + round(time_s * 1e6)
                token = f'{scene}-{channel}-{time_us}'
                is_key = number % (hz // 2) == 0
                suffix = 'pcd.bin' if channel == 'LIDAR_TOP' else 'jpg'
                folder = 'samples' if is_key else 'sweeps'
                file = f'{folder}/{channel}/{scene}__{channel}__{time_us}.{suffix}'
                _write(out / file, seed)
                width, height = (0, 0) if channel == 'LIDAR_TOP' else SIZE_PX
                pose = global_T_base(time_s)
                tables['ego_pose'].append(
                    {'token': token, 'timestamp': time_us, **pose_record(pose)}
                )
                tables['sample_data'].append(
                    {
                        'token': token,
                        'sample_token': f'{scene}-{number * 2 // hz}',
                        'ego_pose_token': token,
                        'calibrated_sensor_token': f'c-{channel}',
                        'timestamp': time_us,
                        'fileformat': suffix[:3],
                        'is_key_frame': is_key,
                        'height': height,
                        'width': width,
                        'filename': file,
                        'prev': '',
                        'next': '',
                    }
                )
    (out / 'v1.0-mini').mkdir()
    for name, records in tables.items():
        (out / 'v1.0-mini' / f'{name}.json').write_text(json.dumps(records))
    return out


def _write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.jpg':
        path.write_bytes(cv2.imencode('.jpg', make_image(SIZE_PX, seed=seed))[1].tobytes())
        return
    points = np.random.default_rng(seed).uniform(-30, 30, (40, 5))
    points[:, 3] = np.abs(points[:, 3])
    points[:, 4] = np.arange(40) % 32
    path.write_bytes(points.astype('<f4').tobytes())


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let the system refuse to write more into a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
