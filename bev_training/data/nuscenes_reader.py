"""Reads the tables of a data set in nuScenes' format: which sensor measured what, when, where.

nuScenes' own devkit holds all tables in memory; these files are read a record at a time, and only
what scenes, sensors and poses need is kept, in columns.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bev_perception.errors import BagError, CalibrationError
from bev_perception.shapes import Rigid
from bev_training.data.nuscenes_columns import Distinct, FileNames, Poses, new_column, short
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
class EgoPose:
    """Where the vehicle was.

    Attributes:
        time_us: when.
        values: translation x, y, z and rotation w, x, y, z.
    """

    time_us: int
    values: tuple[float, ...]

    def odom_T_base(self) -> Rigid:
        """Return the pose in the data set's map."""
        return pose_of({'translation': self.values[:3], 'rotation': self.values[3:]})


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Measured:
    """One image or sweep.

    Attributes:
        time_us: of it.
        file: below the data set's folder.
        sensor: that took it.
        pose: of the vehicle; the same object where records share it.
        size_px: (width, height), zeros where unknown.
        format: of an image, '' where unknown.
    """

    time_us: int
    file: str
    sensor: Mounted
    pose: EgoPose
    size_px: tuple[int, int]
    format: str


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


@dataclass(eq=False, kw_only=True)
class _Columns:
    """Records of sample_data of one scene."""

    times_us: array[int] = field(default_factory=lambda: new_column('q'))
    files: array[int] = field(default_factory=lambda: new_column('I'))
    details: array[int] = field(default_factory=lambda: new_column('I'))
    tokens: bytearray = field(default_factory=bytearray)  # of poses
    left_out: Counter[str] = field(default_factory=Counter)


class Scenes:
    """What the cameras and lidars of scenes measured, and from where.

    Of each record some 100 bytes are held; `content` makes objects, of one scene at a time.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Read the tables.

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
        self._columns = {name: _Columns() for name in names}
        self._files = FileNames()
        self._details: Distinct[tuple[Mounted, tuple[int, int], str]] = Distinct()
        with _reading(folder, 'scene'):
            scenes = {
                r['token']: self._columns[r['name']]
                for r in records(folder / 'scene.json')
                if r['name'] in self._columns
            }
        with _reading(folder, 'sample'):
            samples = {
                r['token']: scenes[r['scene_token']]
                for r in records(folder / 'sample.json')
                if r['scene_token'] in scenes
            }
        sensors = _sensors(folder)
        with _reading(folder, 'sample_data'):
            for record in records(folder / 'sample_data.json'):
                columns = samples.get(record['sample_token'])
                if columns is not None:
                    self._take(columns, record, sensors)
        self._poses = Poses([columns.tokens for columns in self._columns.values()])
        for columns in self._columns.values():
            columns.tokens = bytearray()
        self._numbers = dict(zip(self._columns, self._poses.numbers, strict=True))
        with _reading(folder, 'ego_pose'):
            lacking = self._poses.fill(records(folder / 'ego_pose.json'))
        if lacking:
            raise BagError(f'{folder}/ego_pose.json lacks {lacking} poses that sample_data names')

    def content(self, name: str) -> SceneContent:
        """Return what belongs to a scene."""
        columns, numbers = self._columns[name], self._numbers[name].tolist()
        poses = {
            number: EgoPose(
                time_us=int(self._poses.times_us[number]),
                values=tuple(self._poses.values[number].tolist()),
            )
            for number in numbers
        }
        measured = []
        for time_us, file, detail, number in zip(
            columns.times_us, columns.files, columns.details, numbers, strict=True
        ):
            sensor, size_px, format = self._details[detail]
            measured.append(
                Measured(
                    time_us=time_us,
                    file=self._files.name(file, time_us),
                    sensor=sensor,
                    pose=poses[number],
                    size_px=size_px,
                    format=format,
                )
            )
        measured.sort(key=lambda m: (m.time_us, m.sensor.channel, m.file))
        return SceneContent(name=name, measured=measured, left_out=Counter(columns.left_out))

    def _take(self, columns: _Columns, record: Record, sensors: dict[str, Mounted]) -> None:
        """Add a record of sample_data to its scene."""
        sensor = sensors[record['calibrated_sensor_token']]
        if sensor.modality not in ('camera', 'lidar') or record.get('is_valid') is False:
            columns.left_out[sensor.channel] += 1
            return
        time_us = int(record['timestamp'])
        size_px = (int(record.get('width') or 0), int(record.get('height') or 0))
        detail = self._details.number((sensor, size_px, str(record.get('format') or '')))
        columns.tokens += short(record['ego_pose_token'])
        columns.times_us.append(time_us)
        columns.files.append(self._files.number(str(record['filename']), time_us))
        columns.details.append(detail)


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
        raise BagError(f'{dataroot} has the versions {", ".join(found)}; name one as version')
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
    except (ArithmeticError, ValueError, TypeError, AttributeError, CalibrationError) as error:
        raise BagError(f'{path}: a record is damaged: {error}') from error
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error


def _some(names: Iterable[str]) -> str:
    """Return the first of some names."""
    each = list(names)
    more = f' and {len(each) - _SHOWN} more' if len(each) > _SHOWN else ''
    return ', '.join(each[:_SHOWN]) + more
