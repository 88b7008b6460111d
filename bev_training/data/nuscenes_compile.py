"""Tables of a data set in nuScenes' format, through its devkit, as a table with a row per sample.

The devkit holds every table in memory and needs half a minute and many gigabytes for all of
nuScenes, so it is asked once; `nuscenes_index` keeps the answer. The format:
https://www.nuscenes.org/nuscenes#data-format.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bev_perception.errors import BagError, CalibrationError, ConfigError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import AnyArray, Rigid
from bev_training.data.camera_topics import RIG_ORDER
from bev_training.data.label_classes import OBJECTS
from bev_training.nuscenes_tables import LIDAR_CHANNEL, Record, pose_of, sensor_name
from bev_training.outlines import box_bottoms

FORMAT = 2  # changes when the same tables become another index
# What counts as which object, by the beginning of the category's name; as in simple_bev, bicycles
# and motorcycles are vehicles.
CATEGORIES = {'vehicle.': 'vehicle', 'human.pedestrian.': 'pedestrian'}
_LEVEL = re.compile(r'v(\d+)-(\d+)')
_POSE = pa.list_(pa.float64(), 16)  # dst_T_src, row by row
_CAMERA = pa.struct(
    [
        ('camera', pa.int16()),  # position in header['cameras']
        ('calibration', pa.int32()),  # position in header['calibrations']
        ('file', pa.string()),
        ('stamp_ns', pa.int64()),
        ('ego_T_cam', _POSE),
    ]
)
_SWEEP = pa.struct(
    [
        ('file', pa.string()),
        ('stamp_ns', pa.int64()),
        ('ego_T_lidar', _POSE),
    ]
)
_BOX = pa.struct(
    [
        ('object', pa.int8()),  # position in label_classes.OBJECTS
        ('center_m', pa.list_(pa.float32(), 3)),
        ('size_m', pa.list_(pa.float32(), 3)),  # length, width, height
        ('yaw_rad', pa.float32()),
        ('footprint_m', pa.list_(pa.float32(), 8)),  # 4 corners of the bottom, counter-clockwise
        ('visibility', pa.float64()),
        ('lidar_points', pa.int32()),
    ]
)
SCHEMA = pa.schema(
    [
        ('token', pa.string()),
        ('scene', pa.int32()),  # position in header['scenes']
        ('stamp_ns', pa.int64()),
        ('base_T_ego', _POSE),
        ('odom_T_ego', _POSE),
        ('lidar_file', pa.string()),
        ('ego_T_lidar', _POSE),
        ('sweeps', pa.list_(_SWEEP)),  # since the key frame before, the newest first
        ('cameras', pa.list_(_CAMERA)),
        ('boxes', pa.list_(_BOX)),
    ]
)
HEADER = b'bev_nuscenes'  # key of the header (JSON) in the table's metadata


def compile_tables(folder: Path, progress: Callable[[int, int], None]) -> pa.Table:
    """Return the samples, by scene's name and time; poses are in the gravity-aligned ego frame at
    the stamp of LIDAR_TOP's key frame.

    Args:
        folder: of the tables.
        progress: called with the scenes done and their number.

    Raises:
        BagError: a table is missing or damaged, or a sample has no LIDAR_TOP.
        ConfigError: the devkit is not installed.
    """
    nusc = _devkit(folder)
    with _reading(folder):
        compiler = _Compiler(nusc, folder)
        scenes = sorted(nusc.scene, key=lambda scene: str(scene['name']))
        samples = defaultdict(list)
        for sample in nusc.sample:
            samples[sample['scene_token']].append(sample)
        batches, about = [], []
        for number, scene in enumerate(scenes):
            log = nusc.get('log', scene['log_token'])
            about.append(
                {
                    'name': str(scene['name']),
                    'location': str(log['location']),
                    'description': str(scene['description']),
                    'log': str(log['logfile']),
                }
            )
            in_time = sorted(samples[scene['token']], key=lambda sample: sample['timestamp'])
            rows = [compiler.row(sample, number) for sample in in_time]
            batches.append(pa.RecordBatch.from_pylist(rows, SCHEMA))
            progress(number + 1, len(scenes))
        splits, own = _splits(folder, [scene['name'] for scene in about])
    header = {
        'cameras': compiler.cameras,
        'calibrations': compiler.calibrations,
        'scenes': about,
        'splits': splits,
        'own_splits': own,
    }
    table = pa.Table.from_batches(batches, SCHEMA).combine_chunks()
    return table.replace_schema_metadata({HEADER: json.dumps(header).encode()})


class _Compiler:
    """Makes the rows of samples."""

    def __init__(self, nusc: Any, folder: Path) -> None:
        self._nusc, self._folder = nusc, folder
        channels = _camera_channels(nusc, folder)
        self.cameras = [sensor_name(channel) for channel in channels]
        self._number = {channel: number for number, channel in enumerate(channels)}
        self.calibrations: list[dict[str, Any]] = []
        self._known: dict[str, int] = {}  # JSON of a calibration -> its number
        self._mounts: dict[str, Rigid] = {}  # token of a calibrated_sensor -> base_T_sensor
        self._visibility = {r['token']: _share_of(r) for r in nusc.visibility}

    def row(self, sample: Record, scene: int) -> Record:
        """Return a sample's row."""
        get, data = self._nusc.get, sample['data']
        if LIDAR_CHANNEL not in data:
            raise BagError(
                f'{self._folder}: sample {sample["token"]} has no key frame of {LIDAR_CHANNEL}, '
                f'whose stamp is its instant; it has {", ".join(sorted(data)) or "nothing"}'
            )
        lidar = get('sample_data', data[LIDAR_CHANNEL])
        odom_T_base = pose_of(get('ego_pose', lidar['ego_pose_token']))
        base_T_ego = rigid.level(odom_T_base)
        odom_T_ego = odom_T_base @ base_T_ego
        ego_T_odom = rigid.inverse(odom_T_ego)
        cameras = [
            self._camera(channel, get('sample_data', data[channel]), ego_T_odom)
            for channel in self._number
            if channel in data
        ]
        return {
            'token': sample['token'],
            'scene': scene,
            'stamp_ns': int(lidar['timestamp']) * 1000,
            'base_T_ego': _numbers(base_T_ego),
            'odom_T_ego': _numbers(odom_T_ego),
            'lidar_file': lidar['filename'],
            'ego_T_lidar': _numbers(rigid.inverse(base_T_ego) @ self._mount(lidar)),
            'sweeps': list(self._sweeps(lidar, ego_T_odom)),
            'cameras': [camera for camera in cameras if camera is not None],
            'boxes': self._boxes(sample, ego_T_odom),
        }

    def _sweeps(self, key_frame: Record, ego_T_odom: Rigid) -> Iterator[Record]:
        """Yield the sweeps between a lidar's key frame and the one before it, backwards."""
        record = key_frame
        while record.get('prev'):
            later, record = record, self._nusc.get('sample_data', record['prev'])
            # A chain that does not lead back in time would not end.
            if record['is_key_frame'] or record['timestamp'] >= later['timestamp']:
                return
            odom_T_base = pose_of(self._nusc.get('ego_pose', record['ego_pose_token']))
            yield {
                'file': record['filename'],
                'stamp_ns': int(record['timestamp']) * 1000,
                'ego_T_lidar': _numbers(ego_T_odom @ odom_T_base @ self._mount(record)),
            }

    def _camera(self, channel: str, record: Record, ego_T_odom: Rigid) -> Record | None:
        """Return an image's entry, None where the record says that it is no good."""
        if record.get('is_valid') is False:  # of the T4 format
            return None
        odom_T_base = pose_of(self._nusc.get('ego_pose', record['ego_pose_token']))
        return {
            'camera': self._number[channel],
            'calibration': self._calibration(channel, record),
            'file': record['filename'],
            'stamp_ns': int(record['timestamp']) * 1000,
            # the vehicle moves between exposure and sweep: through the map, not past it
            'ego_T_cam': _numbers(ego_T_odom @ odom_T_base @ self._mount(record)),
        }

    def _mount(self, record: Record) -> Rigid:
        token = record['calibrated_sensor_token']
        if token not in self._mounts:
            self._mounts[token] = pose_of(self._nusc.get('calibrated_sensor', token))
        return self._mounts[token]

    def _calibration(self, channel: str, record: Record) -> int:
        """Return the number of an image's lens and size; few of them differ."""
        sensor = self._nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
        model, D = lens_of(sensor)
        calibration = {
            'K': sensor['camera_intrinsic'],
            'size_px': [int(record.get('width') or 0), int(record.get('height') or 0)],
            'model': model,
            'D': D,
            'format': str(record.get('format') or ''),  # as `bev convert` writes; see export
        }
        key = json.dumps(calibration)
        if key not in self._known:
            try:
                camera_of(calibration)
            except (CalibrationError, ValueError) as error:
                raise BagError(
                    f'{self._folder}: {channel} of sample_data {record["token"]}: {error}'
                ) from error
            self._known[key] = len(self.calibrations)
            self.calibrations.append(calibration)
        return self._known[key]

    def _boxes(self, sample: Record, ego_T_odom: Rigid) -> list[Record]:
        """Return the objects of a sample, those of CATEGORIES."""
        rows = []
        for token in sample['anns']:
            record = self._nusc.get('sample_annotation', token)
            kind = _object_of(record['category_name'])
            if kind is None:
                continue
            ego_T_box = ego_T_odom @ pose_of(record)
            width, length, height = (float(edge) for edge in record['size'])
            size_m = np.array([length, width, height])
            rows.append(
                {
                    'object': OBJECTS.index(kind),
                    'center_m': ego_T_box[:3, 3].tolist(),
                    'size_m': size_m.tolist(),
                    'yaw_rad': float(np.arctan2(ego_T_box[1, 0], ego_T_box[0, 0])),
                    'footprint_m': box_bottoms(ego_T_box, size_m).ravel().tolist(),
                    'visibility': self._visibility.get(record['visibility_token'], 1.0),
                    'lidar_points': int(record['num_lidar_pts']),
                }
            )
        return rows


def lens_of(sensor: Record) -> tuple[str, list[float]]:
    """Return model and coefficients of a calibrated_sensor: nuScenes' images have no distortion,
    but sets that `bev convert` writes may, and name the lens as T4's tables do.
    """
    D = [float(d) for d in sensor.get('camera_distortion') or ()]
    if not any(D) and not sensor.get('distortion_model'):
        return 'pinhole', []
    stated = 'rational_polynomial' if len(D) == 8 else 'plumb_bob'
    return str(sensor.get('distortion_model') or stated), D


def camera_of(calibration: Record) -> Camera:
    """Return the camera of a calibration of the header.

    Raises:
        CalibrationError: it is none.
    """
    return Camera(
        K=np.array(calibration['K'], np.float64),
        size_px=tuple(calibration['size_px']),
        model=calibration['model'],
        D=tuple(calibration['D']),
    )


def _object_of(category: str) -> str | None:
    return next((kind for start, kind in CATEGORIES.items() if category.startswith(start)), None)


def _share_of(record: Record) -> float:
    """Return the middle of a level of visibility; 1 where a table knows no shares, as T4's."""
    match = _LEVEL.fullmatch(str(record.get('level', '')))
    return (int(match[1]) + int(match[2])) / 200 if match else 1.0


def _camera_channels(nusc: Any, folder: Path) -> list[str]:
    """Return the cameras that any sample has, in the rig's order."""
    cameras = {r['channel'] for r in nusc.sensor if r['modality'] == 'camera'}
    used = {channel for sample in nusc.sample for channel in sample['data']} & cameras
    if not used:
        raise BagError(f'{folder}: no sample has a key frame of a camera')
    names: dict[str, str] = {}
    for channel in sorted(used):
        other = names.setdefault(sensor_name(channel), channel)
        if other != channel:
            raise BagError(f'{folder}: {other} and {channel} would be the same camera')
    order = {name: number for number, name in enumerate(RIG_ORDER)}
    return [names[name] for name in sorted(names, key=lambda n: (order.get(n, len(order)), n))]


def _splits(folder: Path, scenes: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the splits that have scenes here, and the names of those that the set brings."""
    from nuscenes.utils.splits import create_splits_scenes

    present = set(scenes)
    splits = {
        name: [scene for scene in each if scene in present]
        for name, each in create_splits_scenes().items()
    }
    path = folder / 'splits.json'
    own = json.loads(path.read_text()) if path.is_file() else {}
    if not isinstance(own, dict) or not all(isinstance(each, list) for each in own.values()):
        raise BagError(f'{path} is no table of splits, each a list of scenes')
    for name, each in own.items():
        unknown = [scene for scene in each if scene not in present]
        if unknown:
            raise BagError(f'{path}: split {name!r} names {unknown[0]!r}, which is no scene here')
    found = {name: each for name, each in (splits | own).items() if each}
    return found, [name for name in own if name in found]


def _devkit(folder: Path) -> Any:
    """Return the tables, opened by the devkit."""
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as error:
        raise ConfigError(
            f'nuScenes-format data needs its devkit ({error}); make env-train installs it'
        ) from error
    with _reading(folder):
        return NuScenes(folder.name, str(folder.parent), verbose=False)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn what the devkit raises of damaged tables into one line."""
    try:
        yield
    except OSError as error:
        raise BagError(f'{error.filename or folder}: {error.strerror or error}') from error
    except KeyError as error:
        raise BagError(
            f'{folder}: a record lacks {error}, or names what is in no table'
        ) from error
    except json.JSONDecodeError as error:
        raise BagError(f'{folder}: a table is no JSON: {error}') from error
    except AssertionError as error:  # such as a picture of a map that is not there
        raise BagError(f'{folder}: {_said(error)}') from error
    except (AttributeError, IndexError, TypeError, ValueError, CalibrationError) as error:
        raise BagError(f'{folder}: the tables are damaged: {_said(error)}') from error


def _said(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


def _numbers(pose: Rigid) -> AnyArray:
    return pose.ravel()
