"""Rigs: the default one, the examples in config/rigs, and what happens to files with mistakes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bev_perception.errors import ConfigError
from bev_perception.geometry import rigid
from bev_training.synthetic.frames import exposure_times_s, frame_count
from bev_training.synthetic.rig import Rig, looking, nuscenes_rig
from bev_training.synthetic.rig_yaml import load_rig, rig_as_dict, rig_from_dict

RIGS = Path(__file__).parents[2] / 'config' / 'rigs'
EXAMPLES = ('nuscenes', 'four_fisheyes', 'truck')


def plain() -> dict[str, Any]:
    """A small rig that is right."""
    return {
        'name': 'small',
        'camera_hz': 10,
        'vehicle': {'size_m': [4.0, 1.8, 1.6], 'rear_overhang_m': 0.9},
        'cameras': {
            'front': {
                'position_m': [1.5, 0, 1.4],
                'yaw_deg': 10,
                'pitch_deg': 3,
                'size_px': [640, 480],
                'fx': 500,
            },
            'back': {
                'position_m': [-0.5, 0, 1.2],
                'quaternion_xyzw': [-0.5, -0.5, 0.5, 0.5],
                'size_px': [640, 400],
                'horizontal_fov_deg': 120,
                'distortion_model': 'equidistant',
            },
        },
        'lidar': {'position_m': [0.5, 0, 1.9], 'beams': 8, 'elevation_deg': [-20, 5]},
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small rig with one field set; `...` removes it."""
    rig = copy.deepcopy(plain())
    *parents, last = path.split('.')
    at = rig
    for name in parents:
        at = at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return rig


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / 'rig.yaml'
    path.write_text(text)
    return path


def same(one: Rig, other: Rig) -> bool:
    exact = one.cameras and all(
        (a.base_T_cam == b.base_T_cam).all() and a.camera == b.camera and a.offset_s == b.offset_s
        for a, b in zip(one.cameras, other.cameras, strict=True)
    )
    if one.lidar and other.lidar:
        exact &= (one.lidar.base_T_lidar == other.lidar.base_T_lidar).all()
        exact &= (one.lidar.elevations_rad == other.lidar.elevations_rad).all()
    return bool(exact) and rig_as_dict(one) == rig_as_dict(other)


# Good rigs


def test_the_file_of_the_default_rig_is_the_default_rig() -> None:
    assert same(load_rig(RIGS / 'nuscenes.yaml'), nuscenes_rig())
    assert same(load_rig(RIGS / 'nuscenes.yaml', (400, 300)), nuscenes_rig((400, 300)))


@pytest.mark.parametrize('name', EXAMPLES)
def test_examples_survive_the_way_through_json(name: str) -> None:
    rig = load_rig(RIGS / f'{name}.yaml')
    assert rig.name == name
    described = json.loads(json.dumps(rig_as_dict(rig)))
    again = rig_from_dict(described, 'drive.json')
    assert same(rig, again)
    assert (again.vehicle, again.camera_hz) == (rig.vehicle, rig.camera_hz)
    as_yaml = yaml.safe_load(yaml.safe_dump(described, sort_keys=False))
    assert same(rig, rig_from_dict(as_yaml, 'yaml'))


@pytest.mark.parametrize('name', EXAMPLES)
def test_every_pixel_of_the_examples_has_a_ray(name: str) -> None:
    for each in load_rig(RIGS / f'{name}.yaml').cameras:
        width, height = each.camera.size_px
        u, v = np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9))
        uv = np.stack([u, v], -1)
        back, seen = each.camera.project(each.camera.unproject(uv))
        assert seen.all()
        assert np.abs(back - uv).max() < 1e-4
        R = each.base_T_cam[:3, :3]
        assert np.abs(R @ R.T - np.eye(3)).max() < 1e-12


def test_a_rig_of_another_size_sees_the_same() -> None:
    whole, small = nuscenes_rig(), nuscenes_rig((321, 90))
    for one, other in zip(whole.cameras, small.cameras, strict=True):
        corners = np.array([(-0.5, -0.5), (1599.5, 899.5)])
        scaled = (corners + 0.5) * (321 / 1600, 90 / 900) - 0.5
        assert np.allclose(one.camera.unproject(corners), other.camera.unproject(scaled))
    for size in ((31, 18), (32, 17), (3841, 900), (1600, 2161)):
        with pytest.raises(ConfigError, match=f'{size[0]}x{size[1]}; it must lie between 32x18'):
            nuscenes_rig(size)
    assert nuscenes_rig((32, 18)).cameras[0].camera.size_px == (32, 18)
    assert nuscenes_rig((3840, 2160)).cameras[0].camera.size_px == (3840, 2160)


def test_angles() -> None:
    """Columns of base_R_cam: the camera's right, down and ahead."""
    right, _, ahead = looking(np.pi / 2, 0.0, (0, 0, 0))[:3, :3].T
    assert np.allclose(ahead, (0, 1, 0)) and np.allclose(right, (1, 0, 0))
    assert looking(0.3, 0.2, (0, 0, 0))[2, 2] == pytest.approx(-np.sin(0.2))
    rolled = looking(0.3, 0.2, (1, 2, 3), 0.1)
    assert rolled[2, 0] < 0  # its right side goes down
    assert np.allclose(rolled[:3, 2], looking(0.3, 0.2, (1, 2, 3))[:3, 2])
    assert np.linalg.det(rolled[:3, :3]) == pytest.approx(1)
    assert np.allclose(rolled[:3, 3], (1, 2, 3))


def test_three_ways_to_say_where_a_camera_looks() -> None:
    pose = looking(np.radians(10), np.radians(3), (1.5, 0, 1.4))
    rig = plain()
    assert np.allclose(rig_from_dict(rig, 'x').cameras[0].base_T_cam, pose)
    front = rig['cameras']['front']
    del front['yaw_deg'], front['pitch_deg']
    front['rotation'] = pose[:3, :3].tolist()
    assert (rig_from_dict(rig, 'x').cameras[0].base_T_cam == pose).all()
    front['rotation'] = np.round(pose[:3, :3], 4).tolist()
    near = rig_from_dict(rig, 'x').cameras[0].base_T_cam
    assert np.allclose(near, pose, atol=1e-4)
    assert np.abs(near[:3, :3] @ near[:3, :3].T - np.eye(3)).max() < 1e-12  # made orthonormal
    del front['rotation']
    front['quaternion_xyzw'] = (3 * rigid.to_quat_xyzw(pose)).tolist()
    assert np.allclose(rig_from_dict(rig, 'x').cameras[0].base_T_cam, pose)


def test_ways_to_give_intrinsics() -> None:
    rig = plain()
    small = rig_from_dict(rig, 'x')
    assert small.cameras[0].camera.K.tolist() == [[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]
    fisheye = small.cameras[1].camera
    assert fisheye.K[0, 0] == pytest.approx(320 / np.radians(60))
    front = rig['cameras']['front']
    front.update(fy=510, cx=300, cy=200.5)
    K = rig_from_dict(rig, 'x').cameras[0].camera.K
    assert K.tolist() == [[500, 0, 300], [0, 510, 200.5], [0, 0, 1]]
    for name in ('fx', 'fy', 'cx', 'cy'):
        del front[name]
    front.update(
        horizontal_fov_deg=80, distortion_model='plumb_bob', D=[-0.15, 0.02, 0.0, 0.0, 0.0]
    )
    camera = rig_from_dict(rig, 'x').cameras[0].camera
    ray = camera.unproject(np.array([-0.5, 239.5]))
    assert np.degrees(np.arctan2(-ray[0], ray[2])) == pytest.approx(40)
    front['distortion_model'], front['D'] = 'none', []
    assert rig_from_dict(rig, 'x').cameras[0].camera.model == 'pinhole'


def test_the_lidar_of_a_file() -> None:
    rig = plain()
    lidar = rig_from_dict(rig, 'x').lidar
    assert lidar
    assert np.allclose(lidar.elevations_rad, np.radians(np.linspace(-20, 5, 8)))
    assert np.allclose(lidar.base_T_lidar[:3, :3], np.eye(3))
    rig['lidar'] = {
        'position_m': [0.5, 0, 1.9],
        'yaw_deg': 90,
        'pitch_deg': 10,
        'elevations_deg': [-3, 4],
        'azimuths': 100,
        'hz': 5,
    }
    lidar = rig_from_dict(rig, 'x').lidar
    assert lidar
    ahead = lidar.base_T_lidar[:3, 0]
    assert np.allclose(ahead, (0, np.cos(np.radians(10)), -np.sin(np.radians(10))))
    assert (lidar.azimuths, lidar.hz, lidar.range_m) == (100, 5, (1.0, 100.0))
    del rig['lidar']
    assert rig_from_dict(rig, 'x').lidar is None


def test_exposures_are_whole_microseconds() -> None:
    rig = nuscenes_rig()
    for frame in (0, 1, 7, 100):
        times = exposure_times_s(rig, frame, seed=3, jitter_s=0.003)
        exact = exposure_times_s(rig, frame)
        for each in rig.cameras:
            assert times[each.name] * 1e6 == pytest.approx(round(times[each.name] * 1e6), abs=1e-5)
            assert exact[each.name] == pytest.approx(frame / 12 + each.offset_s, abs=5.1e-7)
            assert abs(times[each.name] - exact[each.name]) < 0.003001
        assert times != exact
    assert exposure_times_s(rig, 2, seed=3, jitter_s=0.003) == exposure_times_s(
        rig, 2, seed=3, jitter_s=0.003
    )
    assert (frame_count(2.0), frame_count(0.01), frame_count(1.0, 10)) == (24, 1, 10)


# Files with mistakes

FRONT, LIDAR = 'cameras.front', 'lidar'
IDENTITY = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
MISTAKES: list[tuple[str, Any, str, str]] = [
    # field, value, field that the message must name, words of the message
    ('wheels', 4, 'wheels', 'no known field; known are name, camera_hz'),
    ('name', ..., 'name', 'is missing'),
    ('name', 'My Rig', 'name', 'a-z'),
    ('name', 3, 'name', 'a-z'),
    ('camera_hz', 0, 'camera_hz', 'whole number in [1, 100]'),
    ('camera_hz', 12.5, 'camera_hz', 'whole number'),
    ('camera_hz', True, 'camera_hz', 'whole number'),
    ('cameras', ..., 'cameras', 'is missing'),
    ('cameras', {}, 'cameras', 'mapping from names'),
    ('cameras', [1], 'cameras', 'mapping from names'),
    ('cameras.Front', {}, 'cameras', 'a-z'),
    ('cameras.1st', {}, 'cameras', 'a-z'),
    ('cameras.front', None, FRONT, 'mapping'),
    ('vehicle', 7, 'vehicle', 'mapping'),
    ('vehicle.size_m', [4, 2], 'vehicle.size_m', 'list of 3 numbers'),
    ('vehicle.size_m', [400, 2, 2], 'vehicle.size_m', 'length'),
    ('vehicle.rear_overhang_m', 9, 'vehicle.rear_overhang_m', '[0, 4]'),
    (f'{FRONT}.colour', 'red', f'{FRONT}.colour', 'known are position_m'),
    (f'{FRONT}.position_m', ..., f'{FRONT}.position_m', 'is missing'),
    (f'{FRONT}.position_m', [1, 2], f'{FRONT}.position_m', 'list of 3 numbers'),
    (f'{FRONT}.position_m', [1, 'a', 2], f'{FRONT}.position_m', 'list of 3 numbers'),
    (f'{FRONT}.position_m', [1, float('nan'), 1], f'{FRONT}.position_m', 'list of 3 numbers'),
    (f'{FRONT}.position_m', [8, 0, 1], f'{FRONT}.position_m', 'x in [-1.90, 4.10]'),
    (f'{FRONT}.position_m', [1, -4, 1], f'{FRONT}.position_m', 'y in [-1.90, 1.90]'),
    (f'{FRONT}.position_m', [1, 0, -0.1], f'{FRONT}.position_m', 'z in [0.00, 2.60]'),
    (f'{FRONT}.position_m', [1, 0, 14], f'{FRONT}.position_m', 'z in'),
    (f'{FRONT}.yaw_deg', ..., FRONT, 'must have yaw_deg'),
    (f'{FRONT}.yaw_deg', 'left', f'{FRONT}.yaw_deg', 'a number in [-360, 360]'),
    (f'{FRONT}.pitch_deg', float('inf'), f'{FRONT}.pitch_deg', 'a number'),
    (f'{FRONT}.roll_deg', 1000, f'{FRONT}.roll_deg', '[-360, 360]'),
    (f'{FRONT}.rotation', IDENTITY, FRONT, 'has yaw_deg, pitch_deg, rotation'),
    ('cameras.back.rotation', IDENTITY, 'cameras.back', 'has rotation, quaternion_xyzw'),
    ('cameras.back.quaternion_xyzw', [0, 0, 0, 0], 'cameras.back.quaternion_xyzw', 'not zero'),
    ('cameras.back.quaternion_xyzw', [0, 0, 1], 'cameras.back.quaternion_xyzw', '4 numbers'),
    (f'{FRONT}.size_px', ..., f'{FRONT}.size_px', 'is missing'),
    (f'{FRONT}.size_px', [640.5, 480], f'{FRONT}.size_px', 'whole'),
    (f'{FRONT}.size_px', [10, 10], f'{FRONT}.size_px', 'between 32x18 and 3840x2160'),
    (f'{FRONT}.size_px', 640, f'{FRONT}.size_px', 'list of 2 numbers'),
    (f'{FRONT}.fx', ..., FRONT, 'exactly one'),
    (f'{FRONT}.fx', -500, f'{FRONT}.fx', 'a number in'),
    (f'{FRONT}.fx', '500', f'{FRONT}.fx', 'a number in'),
    (f'{FRONT}.cx', float('nan'), f'{FRONT}.cx', 'a number'),
    (f'{FRONT}.K', IDENTITY, FRONT, 'has fx and K'),
    (f'{FRONT}.horizontal_fov_deg', 60, FRONT, 'exactly one'),
    ('cameras.back.horizontal_fov_deg', 400, 'cameras.back.horizontal_fov_deg', '[1, 358]'),
    ('cameras.back.fy', 400, 'cameras.back.fy', 'together with horizontal_fov_deg'),
    ('cameras.back.D', [1, 2], 'cameras.back.D', 'list of 4 numbers'),
    ('cameras.back.D', [-0.9, 0, 0, 0], 'cameras.back.horizontal_fov_deg', 'folds'),
    (f'{FRONT}.D', [0.1], f'{FRONT}.D', 'list of 0 numbers for distortion_model pinhole'),
    (f'{FRONT}.distortion_model', 'omni', f'{FRONT}.distortion_model', 'one of none, pinhole'),
    (f'{FRONT}.distortion_model', [1], f'{FRONT}.distortion_model', 'one of none, pinhole'),
    (f'{FRONT}.offset_s', 0.1, f'{FRONT}.offset_s', 'in [0, 0.1000)'),
    (f'{FRONT}.offset_s', -0.01, f'{FRONT}.offset_s', 'in [0, 0.1000)'),
    (LIDAR, None, LIDAR, 'mapping'),
    (f'{LIDAR}.spin', 1, f'{LIDAR}.spin', 'known are'),
    (f'{LIDAR}.position_m', [0, 0, 9], f'{LIDAR}.position_m', 'z in'),
    (f'{LIDAR}.elevations_deg', [1], LIDAR, 'either elevations_deg'),
    (f'{LIDAR}.beams', ..., LIDAR, 'either elevations_deg'),
    (f'{LIDAR}.beams', 1000, f'{LIDAR}.beams', '[1, 256]'),
    (f'{LIDAR}.elevation_deg', [5, -5], f'{LIDAR}.elevation_deg', 'lowest, highest'),
    (f'{LIDAR}.azimuths', 0, f'{LIDAR}.azimuths', 'whole number in'),
    (f'{LIDAR}.range_m', [5, 1], f'{LIDAR}.range_m', 'nearest, farthest'),
    (f'{LIDAR}.hz', 0, f'{LIDAR}.hz', 'whole number in'),
    (f'{LIDAR}.noise_m', -1, f'{LIDAR}.noise_m', '[0, 1]'),
    (f'{LIDAR}.dropout', 1.5, f'{LIDAR}.dropout', '[0, 1]'),
]


@pytest.mark.parametrize(
    ('path', 'value', 'named', 'words'), MISTAKES, ids=[f'{m[0]}={m[1]}' for m in MISTAKES]
)
def test_a_mistake_is_named(path: str, value: Any, named: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rig_from_dict(changed(path, value), 'my.yaml')
    message = str(caught.value)
    assert message.startswith(f'my.yaml: {named}')
    assert words in message
    assert '\n' not in message


@pytest.mark.parametrize(
    ('rotation', 'words'),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, -1]], 'determinant'),
        ([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]], 'orthonormal'),
        ([[1, 0, 0], [0, 1, 0]], '3x3'),
        ([[1, 0, 0], [0, 1, 0], [0, 0]], '3x3'),
        ([1, 0, 0, 0, 1, 0, 0, 0, 1], '3x3'),
    ],
)
def test_no_rotation(rotation: Any, words: str) -> None:
    rig = changed('cameras.back.quaternion_xyzw', ...)
    rig['cameras']['back']['rotation'] = rotation
    with pytest.raises(ConfigError, match=r'^my\.yaml: cameras\.back\.rotation: ') as caught:
        rig_from_dict(rig, 'my.yaml')
    assert words in str(caught.value)


def test_a_matrix_that_is_no_camera() -> None:
    rig = changed('cameras.front.fx', ...)
    rig['cameras']['front']['K'] = [[500, 0, 300], [3, 500, 200], [0, 0, 1]]
    with pytest.raises(ConfigError, match=r'^my\.yaml: cameras\.front\.K: .*no camera matrix'):
        rig_from_dict(rig, 'my.yaml')


@pytest.mark.parametrize('described', [None, [], 'rig', 3])
def test_no_mapping_at_all(described: Any) -> None:
    with pytest.raises(ConfigError, match=r'^my\.yaml: is '):
        rig_from_dict(described, 'my.yaml')


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'absent\.yaml: cannot be read'):
        load_rig(tmp_path / 'absent.yaml')
    for text, words in (
        ('name: [1\ncameras: {', 'line'),
        ('name: a\nname: b\n', "line 2: 'name' is given twice"),
        ('name: a\ncameras:\n  front: {}\n  front: {}\n', "line 4: 'front' is given twice"),
        ('name: !!python/object:os.system x\n', 'line 1'),
        ('', 'is None'),
    ):
        path = write(tmp_path, text)
        with pytest.raises(ConfigError, match=words) as caught:
            load_rig(path)
        assert str(caught.value).startswith(str(path))
        assert '\n' not in str(caught.value)
    path.write_bytes(b'\xff\xfe\x00name')
    with pytest.raises(ConfigError, match='cannot be read'):
        load_rig(path)


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed('cameras.front.offset_s', 0.25)).replace('0.25', '1e-3')
    assert 'offset_s: 1e-3' in text
    offsets = {c.name: c.offset_s for c in load_rig(write(tmp_path, text)).cameras}
    assert offsets == {'front': 0.001, 'back': 0.0}
    with pytest.raises(ConfigError, match='5x5; it must lie between'):
        load_rig(tmp_path / 'rig.yaml', (5, 5))
