"""Data without labels as samples: frames, lidar sweeps and fingerprints."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_training.data.drive_samples import DriveSamples, open_drives
from bev_training.data.drive_writer import DriveWriter
from bev_training.data.drives import Drive
from bev_training.data.frame import LidarCalibration
from bev_training.data.image_fingerprint import image_fingerprint
from bev_training.data.label_store import labels_of
from bev_training.data.paths import to_path
from bev_training.data.sample import read_sample
from bev_training.data.sources import open_source
from bev_training.nuscenes_tables import pose_record
from test.data.drive_frames import (
    CAMERAS,
    FACTS,
    contents,
    make_calibration,
    make_frame,
    write_drive,
)
from test.factories import make_camera

from .small_labels import GRID, write

COUNT = 12
LIDARS = ('lidar_top', 'lidar_rear')


@pytest.fixture(scope='module')
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drives: labelled in part, with damaged labels, without."""
    folder = tmp_path_factory.mktemp('frames')
    for name, count in (('a', COUNT), ('b', 3), ('c', 2)):
        write_drive(folder / name, count)
    write(labels_of(folder / 'a'), COUNT, every=2)
    labels_of(folder / 'b').mkdir()
    (labels_of(folder / 'b') / 'labels.json').write_text('{')
    return folder


@pytest.fixture
def source(frames: Path) -> DriveSamples:
    return open_drives(frames, (), GRID)


# --- drives --------------------------------------------------------------------------------------


def test_all_frames_take_part_and_labels_are_not_looked_at(frames: Path) -> None:
    source = open_source(frames, grid=GRID)
    numbers = [('a', i) for i in range(COUNT)] + [('b', 0), ('b', 1), ('b', 2), ('c', 0), ('c', 1)]
    assert list(source.keys) == [f'{name}/{i:06d}' for name, i in numbers]
    assert list(source.scenes) == [name for name, _ in numbers]
    assert (source.classes, source.notes, source.facts(0)) == ((), (), {})
    assert (source.cameras, source.lidars) == (CAMERAS, LIDARS)
    sample = read_sample(source, 13, sweeps=1)
    assert sample.key == 'b/000001' and len(sample.view_set.views) == 3
    labels, size = sample.labels, GRID.shape[1:]
    assert labels.classes == () and labels.positive.shape == labels.hidden.shape == (0, *size)
    assert labels.known.shape == size and not labels.known.any()
    assert sample.boxes.names == () and sample.boxes.center_m.shape == (0, 3)
    assert np.array_equal(sample.ego_T_read, np.eye(4)) and len(sample.sweeps) == 2
    again = pickle.loads(pickle.dumps(source))
    assert list(again.keys) == list(source.keys) and again.labels(3).classes == ()


def test_drives_in_an_object_store_can_be_read_without_labels(frames: Path) -> None:
    folder = to_path(f'memory://{uuid4().hex}')
    for name, data in contents(frames / 'a').items():
        (folder / 'a' / name).write_bytes(data)
    there, here = open_source(str(folder), grid=GRID), open_source(frames / 'a', grid=GRID)
    assert list(there.keys) == list(here.keys)
    assert there.fingerprint(4) == here.fingerprint(4)
    for one, other in zip(there.sweeps(4, 3), here.sweeps(4, 3), strict=True):
        assert np.array_equal(one.points_m, other.points_m)


@pytest.mark.parametrize('count', [1, 2, 5])
def test_sweeps_are_those_before_in_the_sample_s_frame(
    frames: Path, source: DriveSamples, count: int
) -> None:
    drive, older = Drive(frames / 'a'), 0
    for i in range(COUNT):
        now = drive.frame(i)
        wanted = []
        for lidar in LIDARS:
            if lidar not in {sweep.lidar for sweep in now.sweeps}:
                continue  # what it saw before says nothing of now
            newest_first, at = [], i
            while at >= 0 and len(newest_first) < count:
                then = drive.frame(at) if at < i else now
                here = then is now or not (now.odom_T_ego is None or then.odom_T_ego is None)
                if not here or then.sequence != now.sequence:
                    break
                newest_first += [(then, s) for s in reversed(then.sweeps) if s.lidar == lidar]
                at -= 1
            wanted.append(newest_first[:count])
        found = source.sweeps(i, count)
        assert len(found) == sum(len(each) for each in wanted)
        expected = [each[0] for each in wanted] + sorted(
            (pair for each in wanted for pair in each[1:]), key=lambda pair: -pair[1].stamp_ns
        )
        older += len(expected) - len(wanted)
        for sweep, (then, raw) in zip(found, expected, strict=True):
            assert sweep.lidar == raw.lidar and len(sweep.points_m) == len(raw.points)
            assert sweep.age_s == pytest.approx((now.stamp_ns - raw.stamp_ns) / 1e9, abs=1e-9)
            to_common = np.eye(4) if then is now else now.odom_T_ego
            from_common = np.eye(4) if then is now else then.odom_T_ego
            assert sweep.points_m.dtype == sweep.intensity.dtype == np.float32
            for mine, its in (
                (sweep.points_m.astype(float), raw.points[:, :3].astype(float)),
                (sweep.origin_m[None], np.zeros((1, 3))),
            ):
                there = rigid.transform_points(from_common @ raw.ego_T_lidar, its)
                assert np.allclose(rigid.transform_points(to_common, mine), there, atol=1e-3)
            if raw.lidar == 'lidar_top':
                assert np.array_equal(sweep.intensity, raw.points[:, 3])
            else:
                assert np.isnan(sweep.intensity).all()
    assert (older > 10) == (count > 1)


def test_a_frame_without_sweeps_gives_none(source: DriveSamples) -> None:
    assert source.keys[6] == 'a/000006' and source.sweeps(6, 3) == ()


def test_points_that_are_no_numbers_are_dropped_and_counted(tmp_path: Path) -> None:
    frame = make_frame(1)
    torn = np.array([[1, 2, 3, 4], [np.nan, 0, 0, 5], [0, np.inf, 0, 6], [7, 8, 9, np.nan]], 'f4')
    top = replace(frame.sweeps[-2], points=torn)
    assert top.lidar == 'lidar_top'
    with DriveWriter(tmp_path / 'd', cameras=CAMERAS, shard_bytes=10_000) as writer:
        writer.add_calibration(make_calibration(0))
        writer.add(replace(frame, sweeps=(top,)))
        writer.finish(FACTS, {})
    (sweep,) = open_drives(tmp_path / 'd', (), GRID).sweeps(0)
    assert sweep.dropped == 2 and np.isfinite(sweep.points_m).all()
    assert sweep.intensity[0] == 4 and np.isnan(sweep.intensity[1])


def test_a_damaged_cloud_gets_one_line(frames: Path, tmp_path: Path) -> None:
    shutil.copytree(frames / 'c', tmp_path / 'c')
    drive = Drive(tmp_path / 'c')
    row = drive.row(1)
    with (tmp_path / 'c' / row['shard']).open('r+b') as file:
        file.seek(row['clouds'][0]['offset'])
        file.write(b'no cloud')
    source = open_drives(tmp_path, (), GRID)
    with pytest.raises(BagError, match=r'frame 000001 has a damaged cloud: [^\n]+$'):
        source.sweeps(1)


def test_drives_without_a_lidar_say_so(tmp_path: Path) -> None:
    with DriveWriter(tmp_path / 'd', cameras=CAMERAS, shard_bytes=10_000) as writer:
        writer.add_calibration(replace(make_calibration(0), lidars={}))
        writer.add(replace(make_frame(1), sweeps=()))
        writer.finish(FACTS, {})
    source = open_drives(tmp_path, (), GRID)
    assert source.lidars == () and source.sweeps(0, 2) == ()
    assert source.has_points.tolist() == [False]


def test_it_is_known_which_frames_have_points_without_reading_them(source, monkeypatch) -> None:
    points = [sum(len(s.points_m) + s.dropped for s in source.sweeps(i)) for i in range(COUNT + 5)]
    assert 0 < np.count_nonzero(points) < COUNT + 5
    monkeypatch.setattr(Drive, 'frame', None)
    assert source.has_points.tolist() == [count > 0 for count in points]


def test_lidars_of_drives_are_joined_in_the_order_of_the_largest_rig(tmp_path: Path) -> None:
    fields = ('x', 'y', 'z')
    for name, lidars in (('a', ('rear',)), ('b', ('top', 'rear'))):
        each = LidarCalibration(frame_id='l', base_T_lidar=np.eye(4), fields=fields)
        calibration = replace(make_calibration(0), lidars=dict.fromkeys(lidars, each))
        sweep = replace(make_frame(1).sweeps[0], points=np.ones((2, 3), 'f4'))
        with DriveWriter(tmp_path / name, cameras=CAMERAS, shard_bytes=10_000) as writer:
            writer.add_calibration(calibration)
            sweeps = tuple(replace(sweep, lidar=lidar) for lidar in lidars)
            writer.add(replace(make_frame(1), sweeps=sweeps))
            writer.finish(FACTS, {})
    assert open_drives(tmp_path, (), GRID).lidars == ('top', 'rear')


# --- fingerprints --------------------------------------------------------------------------------


def test_fingerprints_are_the_same_wherever_the_data_lie(
    frames: Path, source: DriveSamples, tmp_path: Path
) -> None:
    prints = [source.fingerprint(i) for i in range(COUNT)]
    assert len(set(prints)) == COUNT
    assert all(len(each) == 32 and not set(each) - set('0123456789abcdef') for each in prints)
    shutil.copytree(frames / 'a', tmp_path / 'other' / 'name')
    there = open_drives(tmp_path / 'other', (), GRID)
    assert [there.fingerprint(i) for i in range(COUNT)] == prints
    # The calibration of another lens, with the same images.
    path = tmp_path / 'other' / 'name' / 'calibration.json'
    value = json.loads(path.read_text())
    value['epochs'][0]['cameras']['front']['K'][0][0] += 0.5
    path.write_text(json.dumps(value))
    again = open_drives(tmp_path / 'other', (), GRID)
    frames_of_first_epoch = 5
    assert [again.fingerprint(i) == prints[i] for i in (0, 4)] == [False, False]
    assert again.fingerprint(frames_of_first_epoch) == prints[frames_of_first_epoch]


def test_a_fingerprint_follows_everything_that_decides_what_is_seen_where() -> None:
    camera, pose = make_camera(), np.eye(4)
    moved = pose.copy()
    moved[0, 3] = 1e-6
    view = ('front', b'image', 'jpeg', camera, pose)
    others = [
        ('back', *view[1:]),
        ('front', b'imagf', *view[2:]),
        ('front', b'image', 'bayer_rggb8; jpeg', camera, pose),
        ('front', b'image', 'jpeg', make_camera(fov_deg=71), pose),
        ('front', b'image', 'jpeg', make_camera((64, 36)), pose),
        ('front', b'image', 'jpeg', make_camera(model='plumb_bob', D=(0.1, 0, 0, 0, 0)), pose),
        ('front', b'image', 'jpeg', make_camera(rect_T_cam=moved), pose),
        ('front', b'image', 'jpeg', camera, moved),
    ]
    prints = [image_fingerprint([each]) for each in (view, *others)]
    prints += [image_fingerprint([]), image_fingerprint([view, view])]
    assert len(set(prints)) == len(prints)
    assert image_fingerprint([('front', memoryview(b'image'), *view[2:])]) == prints[0]


# --- nuScenes' format ----------------------------------------------------------------------------


def test_nuscenes_without_classes_computes_no_labels(nuscenes_set: Path, tmp_path: Path) -> None:
    source = open_source(nuscenes_set, grid=GRID, split='val', cache=tmp_path)
    assert source.classes == () and len(source) == 2 and source.lidars == ('LIDAR_TOP',)
    (made,) = (path for path in tmp_path.rglob('*') if path.is_file() and path.suffix != '.lock')
    assert made.suffix == '.arrow'  # the index, no labels
    assert source.has_points.tolist() == [True, True]
    sample = read_sample(source, 1, points=True, sweeps=1)
    assert sample.labels.positive.shape == (0, *GRID.shape[1:]) and sample.boxes.names == ()
    assert not sample.labels.known.any()
    (sweep,) = sample.sweeps
    assert np.array_equal(sweep.points_m, sample.points_m) and sweep.age_s == 0
    assert np.isfinite(sweep.intensity).all() and sweep.lidar == 'LIDAR_TOP'
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint(1) == source.fingerprint(1) != source.fingerprint(0)


def with_a_sweep_between(root: Path) -> dict:
    """Put a sweep between the two key frames of a scene; return what it is."""
    folder = root / 'v1.0-mini'
    tables = {
        name: json.loads((folder / f'{name}.json').read_text())
        for name in ('sample_data', 'ego_pose')
    }
    of_lidar = sorted(
        (r for r in tables['sample_data'] if 'LIDAR_TOP' in r['filename']),
        key=lambda record: record['timestamp'],
    )
    last = of_lidar[-1]
    first = next(r for r in of_lidar if r['token'] == last['prev'])
    time_us = (first['timestamp'] + last['timestamp']) // 2
    pose = np.eye(4)
    pose[:3, 3] = 700, 900, 1
    tables['ego_pose'].append({'token': 'p', 'timestamp': time_us, **pose_record(pose)})
    file = 'sweeps/LIDAR_TOP/between.pcd.bin'
    between = {
        **last, 'token': 'between', 'ego_pose_token': 'p', 'timestamp': time_us,
        'is_key_frame': False, 'filename': file, 'prev': first['token'], 'next': last['token'],
    }  # fmt: skip
    first['next'] = last['prev'] = 'between'
    tables['sample_data'].append(between)
    for name, records in tables.items():
        (folder / f'{name}.json').write_text(json.dumps(records))
    points = np.array([[3, 4, 5, 60, 0], [np.nan, 1, 1, 1, 1]], '<f4')
    (root / file).parent.mkdir(parents=True)
    (root / file).write_bytes(points.tobytes())
    return {'pose': pose, 'time_us': time_us, 'file': root / file, 'record': between}


def test_nuscenes_sweeps_follow_the_chain_back(nuscenes_copy: Path, tmp_path: Path) -> None:
    nuscenes = pytest.importorskip('nuscenes')
    between = with_a_sweep_between(nuscenes_copy)
    source = open_source(nuscenes_copy, grid=GRID, split='all', cache=tmp_path / 'cache')
    assert source.scenes[2] == source.scenes[3] != source.scenes[1]
    assert [len(source.sweeps(3, count)) for count in (1, 2, 3, 9)] == [1, 2, 3, 3]
    assert [len(source.sweeps(i, 9)) for i in (0, 2)] == [1, 1]  # another scene lies before
    own, sweep, key_frame = source.sweeps(3, 3)
    assert own.age_s == 0 < sweep.age_s < key_frame.age_s
    now, then = source.whereabouts(3), source.whereabouts(2)
    assert key_frame.age_s == pytest.approx((now.stamp_ns - then.stamp_ns) / 1e9)
    assert sweep.age_s == pytest.approx(now.stamp_ns / 1e9 - between['time_us'] / 1e6, abs=1e-5)
    # In the map, all is where the tables say.
    (before,) = source.sweeps(2)
    there = rigid.transform_points(then.odom_T_ego, before.points_m.astype(float))
    back = rigid.transform_points(now.odom_T_ego, key_frame.points_m.astype(float))
    assert np.allclose(back, there, atol=1e-3)
    nusc = nuscenes.NuScenes('v1.0-mini', str(nuscenes_copy), verbose=False)
    sensor = nusc.get('calibrated_sensor', between['record']['calibrated_sensor_token'])
    w, x, y, z = sensor['rotation']
    odom_T_lidar = between['pose'] @ rigid.from_quat_xyzw([x, y, z, w], sensor['translation'])
    assert sweep.dropped == 1 and sweep.intensity.tolist() == [60]
    at = rigid.transform_points(now.odom_T_ego, sweep.points_m.astype(float))
    assert np.allclose(
        at, rigid.transform_points(odom_T_lidar, np.array([[3.0, 4, 5]])), atol=1e-3
    )
    origin = rigid.transform_points(now.odom_T_ego, sweep.origin_m[None])[0]
    assert np.allclose(origin, odom_T_lidar[:3, 3], atol=1e-6)


@pytest.mark.parametrize('damage', ['missing', 'cut off'])
def test_a_sweep_that_cannot_be_read_gets_one_line(
    nuscenes_copy: Path, tmp_path: Path, damage: str
) -> None:
    file = with_a_sweep_between(nuscenes_copy)['file']
    if damage == 'missing':
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-3])
    source = open_source(nuscenes_copy, grid=GRID, split='all', cache=tmp_path / 'cache')
    assert len(source.sweeps(3, 1)) == 1
    said = {'missing': 'between.pcd.bin is missing', 'cut off': 'has 37 bytes'}[damage]
    with pytest.raises(BagError, match=said) as raised:
        source.sweeps(3, 2)
    assert '\n' not in str(raised.value)


def test_a_chain_that_leads_nowhere_ends(nuscenes_copy: Path, tmp_path: Path) -> None:
    with_a_sweep_between(nuscenes_copy)
    path = nuscenes_copy / 'v1.0-mini' / 'sample_data.json'
    records = json.loads(path.read_text())
    next(r for r in records if r['token'] == 'between')['prev'] = 'between'
    path.write_text(json.dumps(records))
    source = open_source(nuscenes_copy, grid=GRID, split='all', cache=tmp_path / 'cache')
    assert len(source.sweeps(3, 9)) == 3  # through the key frame before, once
