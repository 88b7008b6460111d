"""`manifest.json` and `calibration.json` of a drive: for people to read, exact for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bev_perception.errors import BagError, BevError
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import Rigid
from bev_training.data.frame import Calibration, CameraCalibration, LidarCalibration
from bev_training.data.paths import is_local, remote
from bev_training.data.settings import FORMAT
from bev_training.data.summary import DriveSummary

MANIFEST, CALIBRATION = 'manifest.json', 'calibration.json'
_KIND = 'bev drive'  # tells our manifest from others
_TOTALS = ('frames', 'images', 'sweeps', 'epochs', 'seconds', 'metres')


def json_bytes(value: Any) -> bytes:
    """Return JSON with a line per entry, but matrices, and what is in lists, on one line.

    Numbers are written so that they read back as they are.
    """
    return (_readable(value, '') + '\n').encode()


def _readable(value: Any, indent: str) -> str:
    inner = indent + ' '
    if isinstance(value, Mapping) and value:
        lines = [f'{json.dumps(str(k))}: {_readable(v, inner)}' for k, v in value.items()]
        return '{\n' + ',\n'.join(inner + line for line in lines) + f'\n{indent}}}'
    if isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
        lines = [inner + (json.dumps(v) if _is_flat(v) else _readable(v, inner)) for v in value]
        return '[\n' + ',\n'.join(lines) + f'\n{indent}]'
    return json.dumps(value, allow_nan=False)


def _is_flat(value: Any) -> bool:
    return not any(isinstance(v, (Mapping, list, tuple)) for v in value.values())


def calibration_bytes(calibrations: Sequence[Calibration]) -> bytes:
    """Return calibration.json."""
    return json_bytes({'version': FORMAT, 'epochs': [_epoch(c) for c in calibrations]})


def read_calibrations(path: Path) -> tuple[Calibration, ...]:
    """Read calibration.json.

    Raises:
        BagError: it is missing or damaged.
    """
    value = _read_json(path)
    if value is None:
        raise BagError(f'{path} is missing; convert the recording again')
    try:
        return tuple(_read_epoch(epoch) for epoch in value['epochs'])
    except (BevError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BagError(
            f'{path} is damaged ({type(error).__name__}: {error}); convert the recording again'
        ) from error


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read manifest.json; None where there is none.

    Raises:
        BagError: it is damaged, or of something else or another version.
    """
    path = folder / MANIFEST
    if is_local(path) and not path.is_file():
        return None
    manifest = _read_json(path)  # a store that fails to answer must not look like an empty one
    if manifest is None:
        return None
    if manifest.get('format') != _KIND:
        raise BagError(f'{path} is not of a converted drive')
    if manifest.get('version') != FORMAT:
        raise BagError(
            f'{path} is version {manifest.get("version")}, this program reads {FORMAT}; '
            'convert the recording again'
        )
    try:
        _check(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise BagError(
            f'{path} is damaged ({type(error).__name__}: {error}); convert the recording again'
        ) from error
    return manifest


def make_manifest(
    *,
    cameras: Sequence[str],
    lidars: Sequence[str],
    facts: Mapping[str, Any],
    counts: Mapping[str, int],
    totals: Mapping[str, Any],
    stamps_ns: tuple[int, int],
    shards: Sequence[Mapping[str, Any]],
    files: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the values of manifest.json."""
    return {
        'format': _KIND,
        'version': FORMAT,
        'cameras': list(cameras),
        'lidars': list(lidars),
        'from_stamp_ns': stamps_ns[0],
        'to_stamp_ns': stamps_ns[1],
        'totals': {name: totals[name] for name in _TOTALS},
        'counts': dict(counts),
        'facts': dict(facts),
        'shards': [dict(shard) for shard in shards],
        'files': [dict(file) for file in files],
    }


def summary_of(folder: Path, manifest: Mapping[str, Any]) -> DriveSummary:
    """Return a finished drive in numbers."""
    size = len(json_bytes(manifest)) + sum(f['size_bytes'] for f in manifest['files'])
    return DriveSummary(
        name=folder.name,
        path=str(folder),
        size_bytes=size,
        counts=manifest['counts'],
        **manifest['totals'],
    )


def _check(manifest: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where what the program relies on is not there."""
    kinds: dict[str, type | tuple[type, ...]] = {
        'cameras': list,
        'lidars': list,
        'from_stamp_ns': int,
        'to_stamp_ns': int,
        'totals': dict,
        'counts': dict,
        'facts': dict,
        'shards': list,
        'files': list,
    }
    for name, kind in kinds.items():
        if not isinstance(manifest[name], kind):
            raise TypeError(f'{name} is {manifest[name]!r}')
    for name in _TOTALS:
        if not isinstance(manifest['totals'][name], (int, float)):
            raise TypeError(f'{name} is {manifest["totals"][name]!r}')
    if set(manifest['totals']) != set(_TOTALS):
        raise ValueError(f'totals are {sorted(manifest["totals"])}')
    for file in manifest['files']:
        if not (isinstance(file['name'], str) and isinstance(file['sha256'], str)):
            raise TypeError(f'a file is {file!r}')
        if not isinstance(file['size_bytes'], int):
            raise TypeError(f'size_bytes of {file["name"]} is {file["size_bytes"]!r}')


def _read_json(path: Path) -> dict[str, Any] | None:
    def refuse(text: str) -> NoReturn:
        raise ValueError(f'{text} is no number')

    try:
        with remote(path):
            data = path.read_bytes()
        value = json.loads(data, parse_constant=refuse)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise BagError(f'{path} is damaged ({error}); convert the recording again') from error
    if not isinstance(value, dict):
        raise BagError(f'{path} is damaged (it holds no object); convert the recording again')
    return value


def _epoch(calibration: Calibration) -> dict[str, Any]:
    return {
        'epoch': calibration.epoch,
        'from_stamp_ns': calibration.from_stamp_ns,
        'cameras': {
            name: {
                'frame_id': each.frame_id,
                'size_px': list(each.camera.size_px),
                'model': each.camera.model,
                'K': each.camera.K.tolist(),
                'D': list(each.camera.D),
                'rect_T_cam': each.camera.rect_T_cam.tolist(),
                'base_T_cam': _rows(each.base_T_cam),
            }
            for name, each in calibration.cameras.items()
        },
        'lidars': {
            name: {
                'frame_id': each.frame_id,
                'base_T_lidar': _rows(each.base_T_lidar),
                'fields': list(each.fields),
            }
            for name, each in calibration.lidars.items()
        },
    }


def _read_epoch(epoch: Mapping[str, Any]) -> Calibration:
    return Calibration(
        epoch=int(epoch['epoch']),
        from_stamp_ns=int(epoch['from_stamp_ns']),
        cameras={
            name: CameraCalibration(
                frame_id=str(each['frame_id']),
                camera=Camera(
                    K=np.array(each['K'], np.float64),
                    size_px=(each['size_px'][0], each['size_px'][1]),
                    model=each['model'],
                    D=tuple(each['D']),
                    rect_T_cam=np.array(each['rect_T_cam'], np.float64),
                ),
                base_T_cam=_pose(each['base_T_cam']),
            )
            for name, each in epoch['cameras'].items()
        },
        lidars={
            name: LidarCalibration(
                frame_id=str(each['frame_id']),
                base_T_lidar=_pose(each['base_T_lidar']),
                fields=tuple(str(field) for field in each['fields']),
            )
            for name, each in epoch['lidars'].items()
        },
    )


def _rows(pose: Rigid | None) -> list[list[float]] | None:
    return None if pose is None else np.asarray(pose, np.float64).tolist()


def _pose(rows: Any) -> Rigid | None:
    if rows is None:
        return None
    pose = np.array(rows, np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ValueError(f'a pose is {rows}; it must be finite 4x4')
    return pose
