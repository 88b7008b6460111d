"""Rigs as YAML files that people write; config/rigs/ holds examples that say what fields mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import CalibrationError, ConfigError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import D_LENGTHS, Camera, LensModel
from bev_perception.shapes import Array, Rigid
from bev_training.synthetic.rig import (
    CAMERA_HZ,
    Lidar,
    Rig,
    RigCamera,
    Vehicle,
    check_size_px,
    looking,
)
from bev_training.yaml_fields import Value, read_yaml

MAX_CAMERAS = 32
OUTSIDE_M = 1.0  # a sensor may stand this far from the vehicle's box
_ANGLES = ('yaw_deg', 'pitch_deg', 'roll_deg')
_POSE = ('position_m', *_ANGLES, 'rotation', 'quaternion_xyzw')
_INTRINSICS = ('size_px', 'fx', 'fy', 'cx', 'cy', 'K', 'horizontal_fov_deg')
_CAMERA = (*_POSE, *_INTRINSICS, 'distortion_model', 'D', 'offset_s')
_BEAMS = ('elevations_deg', 'elevations_rad', 'beams', 'elevation_deg')
_LIDAR = (*_POSE, *_BEAMS, 'azimuths', 'range_m', 'hz', 'noise_m', 'dropout', 'frame_id')
_MODELS: dict[str, LensModel] = {
    'none': 'pinhole',
    'pinhole': 'pinhole',
    'plumb_bob': 'plumb_bob',
    'rational_polynomial': 'rational_polynomial',
    'equidistant': 'equidistant',
}


def load_rig(path: Path, size_px: tuple[int, int] | None = None) -> Rig:
    """Read a rig.

    Args:
        path: a YAML file; see config/rigs/.
        size_px: (width, height) to which all images are resized; None keeps each camera's own.

    Raises:
        ConfigError: the file cannot be read, or a value cannot be used.
    """
    rig = rig_from_dict(read_yaml(Path(path)), str(path))
    if size_px is None:
        return rig
    check_size_px(size_px)
    cameras = tuple(replace(c, camera=c.camera.resized(size_px)) for c in rig.cameras)
    return replace(rig, cameras=cameras)


def rig_as_dict(rig: Rig) -> dict[str, Any]:
    """Return a rig in the YAML's form, as plain values; `rig_from_dict` gives exactly it again."""
    described: dict[str, Any] = {
        'name': rig.name,
        'camera_hz': rig.camera_hz,
        'vehicle': {
            'size_m': list(rig.vehicle.size_m),
            'rear_overhang_m': rig.vehicle.rear_overhang_m,
        },
        'cameras': {
            c.name: {
                'position_m': c.base_T_cam[:3, 3].tolist(),
                'rotation': c.base_T_cam[:3, :3].tolist(),
                'size_px': list(c.camera.size_px),
                'K': c.camera.K.tolist(),
                'distortion_model': c.camera.model,
                'D': list(c.camera.D),
                'offset_s': c.offset_s,
            }
            for c in rig.cameras
        },
    }
    if rig.lidar:
        described['lidar'] = {
            'position_m': rig.lidar.base_T_lidar[:3, 3].tolist(),
            'rotation': rig.lidar.base_T_lidar[:3, :3].tolist(),
            'elevations_rad': np.asarray(rig.lidar.elevations_rad).tolist(),
            'azimuths': rig.lidar.azimuths,
            'range_m': list(rig.lidar.range_m),
            'hz': rig.lidar.hz,
            'noise_m': rig.lidar.noise_m,
            'dropout': rig.lidar.dropout,
            'frame_id': rig.lidar.frame_id,
        }
    return described


def rig_from_dict(described: Any, source: str) -> Rig:
    """Return the rig that plain values describe.

    Args:
        described: as a YAML file holds it.
        source: what error messages call it.

    Raises:
        ConfigError: a value cannot be used; the message names the field and what is allowed.
    """
    top = Value(value=described, source=source).fields(
        ('name', 'camera_hz', 'vehicle', 'cameras', 'lidar'), ('name', 'cameras')
    )
    hz = top['camera_hz'].whole(1, 100) if 'camera_hz' in top else CAMERA_HZ
    vehicle = _vehicle(top['vehicle']) if 'vehicle' in top else Vehicle()
    cameras = top['cameras'].items('a mapping from names to cameras')
    if len(cameras) > MAX_CAMERAS:
        raise ConfigError(
            f'{top["cameras"].where}: has {len(cameras)} cameras; at most {MAX_CAMERAS} may be'
        )
    return Rig(
        name=top['name'].name(),
        camera_hz=hz,
        vehicle=vehicle,
        cameras=tuple(_camera(name, value, vehicle, hz) for name, value in cameras.items()),
        lidar=_lidar(top['lidar'], vehicle) if 'lidar' in top else None,
    )


def _vehicle(value: Value) -> Vehicle:
    given = value.fields(('size_m', 'rear_overhang_m'), ('size_m',))
    length, width, height = given['size_m'].numbers(3)
    if not (0.5 <= length <= 30 and 0.3 <= width <= 5 and 0.2 <= height <= 6):
        raise given['size_m'].error('[length, width, height] within [0.5, 0.3, 0.2] .. [30, 5, 6]')
    overhang = 0.22 * length  # of a passenger car
    if 'rear_overhang_m' in given:
        overhang = given['rear_overhang_m'].number(0, length)
    return Vehicle(size_m=(length, width, height), rear_overhang_m=overhang)


def _camera(name: str, value: Value, vehicle: Vehicle, camera_hz: int) -> RigCamera:
    Value(value=name, source=value.source, path=value.path).name()
    given = value.fields(_CAMERA, ('position_m', 'size_px'))
    offset_s = 0.0
    if 'offset_s' in given:
        offset_s = given['offset_s'].number()
        if not 0 <= offset_s < 1 / camera_hz:
            raise given['offset_s'].error(f'in [0, {1 / camera_hz:.4f}), a cycle of the cameras')
    pose = _pose(value, given, vehicle, optical=True)
    return RigCamera(
        name=name, camera=_intrinsics(value, given), base_T_cam=pose, offset_s=offset_s
    )


def _intrinsics(value: Value, given: dict[str, Value]) -> Camera:
    size = given['size_px'].numbers(2)
    if not all(side.is_integer() for side in size):
        raise given['size_px'].error('two whole numbers, width and height')
    size_px = int(size[0]), int(size[1])
    check_size_px(size_px, given['size_px'].where)
    model, D = _lens(given)
    ways = [name for name in ('fx', 'K', 'horizontal_fov_deg') if name in given]
    if len(ways) != 1:
        found = ' and '.join(ways) or 'none'
        raise ConfigError(
            f'{value.where}: has {found} of fx, K and horizontal_fov_deg; it must have exactly one'
        )
    extra = {'fx': (), 'K': ('fy', 'cx', 'cy'), 'horizontal_fov_deg': ('fy',)}[ways[0]]
    for name in extra:
        if name in given:
            raise ConfigError(f'{given[name].where}: cannot be given together with {ways[0]}')
    if ways[0] == 'K':
        K = given['K'].matrix3()
    else:
        K = np.eye(3)
        if ways[0] == 'fx':
            K[0, 0] = given['fx'].number(1, 1e6)
            K[1, 1] = given['fy'].number(1, 1e6) if 'fy' in given else K[0, 0]
        else:
            K[0, 0] = K[1, 1] = size_px[0] / 2 / _edge(given['horizontal_fov_deg'], model, D)
        for row, name in enumerate(('cx', 'cy')):
            K[row, 2] = given[name].number() if name in given else (size_px[row] - 1) / 2
    try:
        return Camera(K=K, size_px=size_px, model=model, D=D)
    except CalibrationError as error:
        raise ConfigError(f'{given[ways[0]].where}: {error}') from error


def _lens(given: dict[str, Value]) -> tuple[LensModel, tuple[float, ...]]:
    name = given['distortion_model'].value if 'distortion_model' in given else 'pinhole'
    if not isinstance(name, str) or name not in _MODELS:
        raise given['distortion_model'].error(f'one of {", ".join(_MODELS)}')
    model = _MODELS[name]
    lengths = D_LENGTHS[model]
    if 'D' not in given or given['D'].value == []:
        return model, (0.0,) * lengths[-1]
    D = given['D'].numbers()
    if len(D) not in lengths:
        wanted = ' or '.join(map(str, lengths))
        raise given['D'].error(f'a list of {wanted} numbers for distortion_model {name}')
    return model, D


def _edge(fov_deg: Value, model: LensModel, D: tuple[float, ...]) -> float:
    """Return where a lens of focal length 1 images a ray at half the field of view."""
    half = np.radians(fov_deg.number(1, 358 if model == 'equidistant' else 170)) / 2
    plain = np.array([[1.0, 0, 50], [0, 1, 50], [0, 0, 1]])
    ray = np.array([np.sin(half), 0, np.cos(half)])
    uv, valid = Camera(K=plain, size_px=(100, 100), model=model, D=D).project(ray)
    if not valid or uv[0] <= 50:
        raise fov_deg.error('an angle that this lens images (D folds the image before it)')
    return float(uv[0] - 50)


def _lidar(value: Value, vehicle: Vehicle) -> Lidar:
    given = value.fields(_LIDAR, ('position_m',))
    plain = Lidar(base_T_lidar=np.eye(4), elevations_rad=np.zeros(1))
    near, far = plain.range_m
    if 'range_m' in given:
        near, far = given['range_m'].numbers(2)
        if not 0 <= near < far <= 300:
            raise given['range_m'].error('[nearest, farthest] within [0, 300]')
    frame_id = given['frame_id'].name() if 'frame_id' in given else plain.frame_id
    return Lidar(
        base_T_lidar=_pose(value, given, vehicle, optical=False),
        elevations_rad=_elevations(value, given),
        azimuths=given['azimuths'].whole(8, 7200) if 'azimuths' in given else plain.azimuths,
        range_m=(near, far),
        hz=given['hz'].whole(1, 50) if 'hz' in given else plain.hz,
        noise_m=given['noise_m'].number(0, 1) if 'noise_m' in given else plain.noise_m,
        dropout=given['dropout'].number(0, 1) if 'dropout' in given else plain.dropout,
        frame_id=frame_id,
    )


def _elevations(value: Value, given: dict[str, Value]) -> Array:
    ways = {name for name in _BEAMS if name in given}
    if ways not in ({'elevations_deg'}, {'elevations_rad'}, {'beams', 'elevation_deg'}):
        found = ', '.join(sorted(ways)) or 'none'
        raise ConfigError(
            f'{value.where}: has {found}; it must have either elevations_deg, or beams and '
            'elevation_deg, or elevations_rad'
        )
    if 'beams' in ways:
        low, high = given['elevation_deg'].numbers(2)
        beams = given['beams'].whole(1, 256)
        if not -90 <= low <= high <= 90:
            raise given['elevation_deg'].error('[lowest, highest] within [-90, 90]')
        return np.asarray(np.radians(np.linspace(low, high, beams)))
    field = given[ways.pop()]
    angles = np.array(field.numbers())
    angles = angles if field.path[-1].endswith('_rad') else np.radians(angles)
    if len(angles) > 256 or np.abs(angles).max() > np.pi / 2:
        raise field.error('at most 256 angles between straight down and straight up')
    return angles


def _pose(value: Value, given: dict[str, Value], vehicle: Vehicle, *, optical: bool) -> Rigid:
    """Return base_T_sensor; `optical`: z looks ahead, not x."""
    x, y, z = given['position_m'].numbers(3)
    length, width, height = vehicle.size_m
    low = (-vehicle.rear_overhang_m - OUTSIDE_M, -width / 2 - OUTSIDE_M, 0.0)
    high = (length - vehicle.rear_overhang_m + OUTSIDE_M, -low[1], height + OUTSIDE_M)
    for axis, at, least, most in zip('xyz', (x, y, z), low, high, strict=True):
        if not least <= at <= most:
            raise given['position_m'].error(
                f'on the vehicle: {axis} in [{least:.2f}, {most:.2f}] for a vehicle of '
                f'{length:g} x {width:g} x {height:g} m (see vehicle.size_m)'
            )
    angles = [name for name in _ANGLES if name in given]
    ways: list[str] = [name for name in ('rotation', 'quaternion_xyzw') if name in given]
    if len(ways) + bool(angles) > 1 or (optical and not ways and 'yaw_deg' not in given):
        raise ConfigError(
            f'{value.where}: has {", ".join(angles + ways) or "no orientation"}; it must have '
            'yaw_deg (and pitch_deg, roll_deg), or rotation, or quaternion_xyzw'
        )
    if not ways:
        yaw, pitch, roll = (
            np.radians(given[name].number(-360, 360)) if name in given else 0.0 for name in _ANGLES
        )
        pose = looking(yaw, pitch, (x, y, z), roll)
        if not optical:
            right, down, ahead = pose[:3, :3].T
            pose[:3, :3] = np.stack([ahead, -right, -down], axis=1)
        return pose
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    if ways[0] == 'rotation':
        pose[:3, :3] = _rotation(given['rotation'])
        return pose
    quat = given['quaternion_xyzw']
    try:
        return rigid.from_quat_xyzw(quat.numbers(4), (x, y, z))
    except CalibrationError as error:
        raise quat.error('a quaternion [x, y, z, w] that is not zero') from error


def _rotation(value: Value) -> Array:
    R = value.matrix3()
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise value.error('a rotation: orthonormal within 0.001, determinant +1')
    if np.abs(R @ R.T - np.eye(3)).max() < 1e-12:
        return R  # exactly what was written
    u, _, vt = np.linalg.svd(R)
    return np.asarray(u @ vt)
