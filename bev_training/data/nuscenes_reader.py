"""Reads the tables of a data set in nuScenes' format: which sensor measured what, when, where.

nuScenes' own devkit holds all tables in memory; these files are read a record at a time, and only
what scenes, sensors and poses need is kept.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bev_perception.errors import BagError, CalibrationError
from bev_perception.shapes import Rigid
from bev_training.nuscenes_tables import Record, pose_of

_TABLES = ('calibrated_sensor', 'ego_pose', 'sample', 'sample_data', 'scene', 'sensor')
_CHUNK = 1 << 20  # characters
_LONGEST = 1 << 24  # of a record
_BETWEEN = re.compile(r'[\s,]*')
_SHOWN = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Mounted:
    """A sensor in its place.

    Attributes:
        channel: of it.
        modality: 'camera', 'lidar' or 'radar'.
        base_T_sensor: pose in the vehicle's frame.
        K: camera_intrinsic; empty where it is no camera.
        model: lens model, 'pinhole' where the table does not know one.
        D: its coefficients.
    """

    channel: str
    modality: str
    base_T_sensor: Rigid
    K: list[list[float]]
    model: str
    D: tuple[float, ...]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Measured:
    """One image or sweep.

    Attributes:
        time_us: of it.
        file: below the data set's folder.
        sensor: that took it.
        pose: token of the vehicle's pose.
        size_px: (width, height), zeros where unknown.
        format: of an image, '' where unknown.
    """

    time_us: int
    file: str
    sensor: Mounted
    pose: str
    size_px: tuple[int, int]
    format: str


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class EgoPose:
    """Where the vehicle was.

    Attributes:
        time_us: when.
        rows: upper three rows of odom_T_base; bytes, as there are millions of them.
    """

    time_us: int
    rows: bytes

    def pose(self) -> Rigid:
        """Return odom_T_base."""
        pose = np.eye(4)
        pose[:3] = np.frombuffer(self.rows).reshape(3, 4)
        return pose


@dataclass(eq=False, kw_only=True)
class SceneContent:
    """What belongs to one scene.

    Attributes:
        name: of the scene.
        measured: images and sweeps, by time and channel.
        left_out: how many records of other sensors, or that are not valid, by channel.
    """

    name: str
    measured: list[Measured] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def tables_of(dataroot: Path, version: str | None = None) -> Path:
    """Return the folder of tables of a data set.

    Args:
        dataroot: folder of the data set.
        version: name of the folder in it; None takes the only one.

    Raises:
        BagError: there is none, more than one, or not this one.
    """
    try:
        if not dataroot.is_dir():
            raise BagError(f'{dataroot} is no folder')
        found = sorted(p.name for p in dataroot.iterdir() if (p / 'sample_data.json').is_file())
    except OSError as error:
        raise BagError(f'{dataroot} cannot be read: {error.strerror or error}') from error
    if not found:
        raise BagError(f'{dataroot} holds no tables like v1.0-mini/sample_data.json')
    if version is None and len(found) > 1:
        raise BagError(f'{dataroot} has the versions {", ".join(found)}; name one')
    if version is not None and version not in found:
        raise BagError(f'{dataroot} has no version {version!r}, only {", ".join(found)}')
    folder = dataroot / (version or found[0])
    for table in _TABLES:
        if not (folder / f'{table}.json').is_file():
            raise BagError(f'{folder / table}.json is missing')
    return folder


def scene_names(folder: Path) -> list[str]:
    """Return the scenes of the tables in a folder, in their order.

    Raises:
        BagError: the table cannot be read.
    """
    with _reading(folder, 'scene'):
        return [str(record['name']) for record in records(folder / 'scene.json')]


def read_scenes(
    folder: Path, names: Sequence[str]
) -> tuple[list[SceneContent], dict[str, EgoPose]]:
    """Return the cameras' images and lidars' sweeps of scenes, and the poses that they name.

    Args:
        folder: of the tables.
        names: of the scenes.

    Raises:
        BagError: a scene is unknown, or a table cannot be read.
    """
    known = scene_names(folder)
    for name in names:
        if name not in known:
            raise BagError(f'{folder} has no scene {name!r}; it has {_some(known)}')
    wanted = {name: SceneContent(name=name) for name in names}
    with _reading(folder, 'scene'):
        scenes = {
            r['token']: wanted[r['name']]
            for r in records(folder / 'scene.json')
            if r['name'] in wanted
        }
    with _reading(folder, 'sample'):
        samples = {
            r['token']: scenes[r['scene_token']]
            for r in records(folder / 'sample.json')
            if r['scene_token'] in scenes
        }
    sensors = _sensors(folder)
    poses: dict[str, EgoPose | None] = {}
    with _reading(folder, 'sample_data'):
        for record in records(folder / 'sample_data.json'):
            scene = samples.get(record['sample_token'])
            if scene is not None:
                _take(scene, record, sensors, poses)
    with _reading(folder, 'ego_pose'):
        for r in records(folder / 'ego_pose.json'):
            if r['token'] in poses:
                rows = pose_of(r)[:3].tobytes()
                poses[r['token']] = EgoPose(time_us=int(r['timestamp']), rows=rows)
    missing = [token for token, pose in poses.items() if pose is None]
    if missing:
        raise BagError(f'{folder}/ego_pose.json lacks {missing[0]}, which sample_data names')
    for scene in wanted.values():
        scene.measured.sort(key=lambda m: (m.time_us, m.sensor.channel, m.file))
    return list(wanted.values()), {t: pose for t, pose in poses.items() if pose is not None}


def _take(
    scene: SceneContent,
    record: Record,
    sensors: dict[str, Mounted],
    poses: dict[str, EgoPose | None],
) -> None:
    """Add a record of sample_data to its scene."""
    sensor = sensors[record['calibrated_sensor_token']]
    if sensor.modality not in ('camera', 'lidar') or record.get('is_valid') is False:
        scene.left_out[sensor.channel] += 1
        return
    measured = Measured(
        time_us=int(record['timestamp']),
        file=str(record['filename']),
        sensor=sensor,
        pose=record['ego_pose_token'],
        size_px=(int(record.get('width') or 0), int(record.get('height') or 0)),
        format=str(record.get('format') or ''),
    )
    poses[measured.pose] = None
    scene.measured.append(measured)


def _sensors(folder: Path) -> dict[str, Mounted]:
    """Return the calibrated sensors by token."""
    with _reading(folder, 'sensor'):
        kinds = {
            r['token']: (str(r['channel']), str(r['modality']))
            for r in records(folder / 'sensor.json')
        }
    sensors = {}
    with _reading(folder, 'calibrated_sensor'):
        for r in records(folder / 'calibrated_sensor.json'):
            channel, modality = kinds[r['sensor_token']]
            D = tuple(float(d) for d in r.get('camera_distortion') or ())
            sensors[r['token']] = Mounted(
                channel=channel,
                modality=modality,
                base_T_sensor=pose_of(r),
                K=r['camera_intrinsic'],
                model=str(r.get('distortion_model') or _model_of(D)),
                D=D if r.get('distortion_model') or any(D) else (),
            )
    return sensors


def _model_of(D: tuple[float, ...]) -> str:
    """Return the lens model of T4's tables, which only hold OpenCV's coefficients."""
    if not any(D):
        return 'pinhole'
    return 'rational_polynomial' if len(D) == 8 else 'plumb_bob'


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a table: a JSON list of objects.

    Raises:
        BagError: it is none.
        OSError: it cannot be read.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding='utf-8') as file:
        text = file.read(_CHUNK).lstrip()
        if not text.startswith('['):
            raise BagError(f'{path} holds no JSON list')
        at, count = 1, 0
        while True:
            at = _end_of(_BETWEEN, text, at)
            if text[at : at + 1] == ']':
                return
            try:
                record, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                more = file.read(_CHUNK)
                if not more or len(text) - at > _LONGEST:
                    raise BagError(f'{path}: record {count} is damaged: {error.msg}') from None
                text, at = text[at:] + more, 0
                continue
            if not isinstance(record, dict):
                raise BagError(f'{path}: record {count} is no object')
            count += 1
            yield record


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


@contextmanager
def _reading(folder: Path, table: str) -> Iterator[None]:
    """Turn what a damaged table raises into one line."""
    path = folder / f'{table}.json'
    try:
        yield
    except KeyError as error:
        raise BagError(f'{path}: a record lacks {error}, or names what is in no table') from error
    except (ValueError, TypeError, AttributeError, CalibrationError) as error:
        raise BagError(f'{path}: a record is damaged: {error}') from error
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error


def _some(names: Iterable[str]) -> str:
    """Return the first of some names."""
    each = list(names)
    more = f' and {len(each) - _SHOWN} more' if len(each) > _SHOWN else ''
    return ', '.join(each[:_SHOWN]) + more
