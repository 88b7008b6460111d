"""Frames in nuScenes' format: nuScenes' own devkit reads them."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from upath import UPath

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_training.data.bag_inputs import BagSource
from bev_training.data.frame import (
    Calibration,
    CameraCalibration,
    EncodedImage,
    Frame,
    FrameView,
    LidarCalibration,
    LidarSweep,
)
from bev_training.data.jobs import convert_bags
from bev_training.data.nuscenes_export import (
    NuscenesWriter,
    merge_tables,
    read_scene,
    read_summary,
)
from bev_training.data.nuscenes_files import (
    RecordFiles,
    lost_files,
    remove_recording,
    remove_unfinished,
)
from bev_training.data.nuscenes_merge import VERSION, finished_scenes
from bev_training.data.settings import ConvertConfig, KeyFrames
from bev_training.nuscenes_tables import TABLES, camera_channel, lidar_channel, pose_of
from test.data.nuscenes_set import files_of_at_most
from test.data.small_bag import write_bag
from test.factories import STAMP_NS, look, make_camera, make_image
from test.synthetic.nuscenes_data import chain, hashes

SIZE_PX = (64, 48)
CAMERAS = ('front_left', 'CAM_FRONT', 'back')
CHANNELS = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_BACK')
LENS = {'model': 'plumb_bob', 'D': (-0.2, 0.05, 0.001, -0.002, 0.01)}
FIELDS = ('x', 'y', 'z', 'intensity', 'time_s')
STEP_NS = 500_000_000


def pose(yaw_deg: float, at: tuple[float, float, float]) -> np.ndarray:
    out = look(yaw_deg, 2.0) @ rigid.inverse(look())
    out[:3, 3] = at
    return out


BASE_T_LIDAR = pose(-90.0, (1.0, 0.1, 1.9))
RECT_T_CAM = pose(3.0, (0.01, 0.0, 0.0))


def odom_T_base(stamp_ns: int) -> np.ndarray:
    time_s = (stamp_ns - STAMP_NS) / 1e9
    return pose(10.0 * time_s, (600.0 + 8.0 * time_s, 1600.0, 0.5 * time_s))


def jpeg(seed: int, size_px: tuple[int, int] = SIZE_PX) -> bytes:
    return cv2.imencode('.jpg', make_image(size_px, seed=seed))[1].tobytes()


def calibration(epoch: int = 0, *, shift_m: float = 0.0, moving: bool = False) -> Calibration:
    cameras = {
        'front_left': make_camera(SIZE_PX, **LENS),
        'CAM_FRONT': make_camera(SIZE_PX, rect_T_cam=RECT_T_CAM),
        'back': make_camera((128, 96)),  # images are half as large
    }
    return Calibration(
        epoch=epoch,
        from_stamp_ns=STAMP_NS,
        cameras={
            name: CameraCalibration(
                frame_id=name,
                camera=camera,
                base_T_cam=None if moving else look(60.0 * i, 1.0, (1.0 + shift_m, 0.1 * i, 1.5)),
            )
            for i, (name, camera) in enumerate(cameras.items())
        },
        lidars={
            'lidar': LidarCalibration(
                frame_id='top', base_T_lidar=None if moving else BASE_T_LIDAR, fields=FIELDS
            )
        },
    )


def sweep(stamp_ns: int, seed: int, odom_T_ego: np.ndarray) -> LidarSweep:
    points = np.random.default_rng(seed).normal(size=(20, 5)).astype(np.float32)
    points[3, 3] = np.nan
    ego_T_lidar = rigid.inverse(odom_T_ego) @ odom_T_base(stamp_ns) @ BASE_T_LIDAR
    return LidarSweep(lidar='lidar', stamp_ns=stamp_ns, points=points, ego_T_lidar=ego_T_lidar)


def frame(number: int, *, calib: Calibration | None = None, **values: Any) -> Frame:
    """A frame half a second after the one before, with three sweeps; cameras fire one by one."""
    stamp = STAMP_NS + number * STEP_NS
    base_T_ego = rigid.level(odom_T_base(stamp))
    odom_T_ego = odom_T_base(stamp) @ base_T_ego
    views = []
    mounts = calibration().cameras if calib is None else calib.cameras
    for i, name in enumerate(CAMERAS):
        at = stamp + 5_000_000 * i
        base_T_cam = mounts[name].base_T_cam
        if base_T_cam is None:
            base_T_cam = look(60.0 * i + number)
        image = EncodedImage(
            data=jpeg(10 * number + i), suffix='jpg', size_px=SIZE_PX, format='jpeg'
        )
        views.append(
            FrameView(
                camera=name,
                stamp_ns=at,
                image=image,
                ego_T_cam=rigid.inverse(odom_T_ego) @ odom_T_base(at) @ base_T_cam,
                odom_T_base=odom_T_base(at),
            )
        )
    sweeps = [
        sweep(stamp + offset, 100 * number + i, odom_T_ego)
        for i, offset in enumerate((-100_000_000, -50_000_000, 1_234_000))
    ]
    fields = {
        'stamp_ns': stamp, 'epoch': 0, 'sequence': 0, 'odom_T_ego': odom_T_ego,
        'base_T_ego': base_T_ego, 'views': tuple(views), 'sweeps': tuple(sweeps),
    }  # fmt: skip
    return Frame(**{**fields, **values})


def write(out: Path, name: str = 'drive', frames: int = 3) -> None:
    with NuscenesWriter(out, name, cameras=CAMERAS) as writer:
        writer.add_calibration(calibration())
        for number in range(frames):
            writer.add(frame(number))
        writer.finish({'source': {'name': name}}, {'sets': frames})


def tables(out: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((out / VERSION / f'{name}.json').read_text())


def devkit(out: Path) -> Any:
    nuscenes = pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')
    return nuscenes.NuScenes(VERSION, str(out), verbose=False)


@pytest.fixture(scope='module')
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('nuscenes') / 'out'
    write(out, 'b')
    with NuscenesWriter(out, 'a', cameras=CAMERAS) as writer:
        first, second = calibration(), calibration(1, shift_m=0.25)
        writer.add_calibration(first)
        writer.add(frame(10))
        whole = frame(11)
        writer.add(replace(whole, views=whole.views[1:], missing=CAMERAS[:1], sweeps=()))
        writer.add_calibration(second)
        writer.add(frame(112, calib=second, epoch=1, sequence=1))
        writer.add(frame(113, calib=second, epoch=1, sequence=1))
        writer.finish({}, {})
    assert merge_tables(out) == 2
    return out


def test_devkit_walks_scenes_samples_and_data(out):
    nusc = devkit(out)
    nusc.list_scenes()
    assert [scene['name'] for scene in nusc.scene] == ['a', 'a+2', 'b']
    for scene, count in zip(nusc.scene, (2, 2, 3), strict=True):
        samples = chain(nusc, 'sample', scene['first_sample_token'])
        assert len(samples) == scene['nbr_samples'] == count
        assert samples[-1]['token'] == scene['last_sample_token']
        assert {sample['scene_token'] for sample in samples} == {scene['token']}
        images = chain(nusc, 'sample_data', samples[0]['data']['CAM_FRONT'])
        assert [image['sample_token'] for image in images] == [s['token'] for s in samples]
        sweep = nusc.get('sample_data', samples[0]['data']['LIDAR_TOP'])
        while sweep['prev']:
            sweep = nusc.get('sample_data', sweep['prev'])
        keys = [r['is_key_frame'] for r in chain(nusc, 'sample_data', sweep['token'])]
        assert keys[:3] == [False, False, True]
        assert sum(keys) == sum('LIDAR_TOP' in sample['data'] for sample in samples)
    assert [len(sample['data']) for sample in nusc.sample] == [4, 2, 4, 4, 4, 4, 4]
    sweeps = [r for r in nusc.sample_data if not r['is_key_frame']]
    assert len(sweeps) == 12
    assert {Path(r['filename']).parts[0] for r in sweeps} == {'sweeps'}


@pytest.mark.parametrize('number', [0, 2])
def test_devkit_gives_images_poses_and_points(out, number):
    nusc = devkit(out)
    from nuscenes.utils.data_classes import LidarPointCloud

    scene = next(scene for scene in nusc.scene if scene['name'] == 'b')
    sample = chain(nusc, 'sample', scene['first_sample_token'])[number]
    given, calib = frame(number), calibration()
    assert sample['timestamp'] * 1000 == given.stamp_ns
    for view, channel in zip(given.views, CHANNELS, strict=True):
        record = nusc.get('sample_data', sample['data'][channel])
        path, boxes, K = nusc.get_sample_data(record['token'])
        mounted = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
        body = nusc.get('ego_pose', record['ego_pose_token'])
        camera = calib.cameras[view.camera].camera.resized(SIZE_PX)
        assert Path(path).read_bytes() == view.image.data
        assert (record['width'], record['height'], boxes) == (*SIZE_PX, [])
        assert record['timestamp'] * 1000 == body['timestamp'] * 1000 == view.stamp_ns
        np.testing.assert_array_equal(K, camera.K)
        assert mounted['camera_distortion'] == list(camera.D)
        assert mounted['distortion_model'] == camera.model
        np.testing.assert_allclose(pose_of(body), view.odom_T_base, atol=1e-9)
        # a point of the image plane lies on the same ray, through the format and through ours
        lens = Camera(K=K, size_px=SIZE_PX, model=camera.model, D=camera.D)
        there = given.odom_T_ego @ view.ego_T_cam
        point = rigid.transform_points(there, np.array([[0.3, -0.2, 8.0]]))
        back = rigid.inverse(pose_of(body) @ pose_of(mounted))
        ours, seen = camera.project(np.array([[0.3, -0.2, 8.0]]))
        theirs, _ = lens.project(rigid.transform_points(back, point))
        assert seen.all()
        np.testing.assert_allclose(theirs, ours, atol=1e-6)
    record = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
    points = LidarPointCloud.from_file(nusc.get_sample_data_path(record['token'])).points.T
    newest = given.sweeps[-1]
    np.testing.assert_array_equal(points, np.nan_to_num(newest.points[:, :4]))
    assert record['timestamp'] * 1000 == newest.stamp_ns
    mounted = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
    np.testing.assert_allclose(pose_of(mounted), BASE_T_LIDAR, atol=1e-9)
    body = nusc.get('ego_pose', record['ego_pose_token'])
    np.testing.assert_allclose(pose_of(body), odom_T_base(newest.stamp_ns), atol=1e-9)


def test_points_of_several_sweeps_come_together(out):
    nusc = devkit(out)
    from nuscenes.utils.data_classes import LidarPointCloud

    sample = nusc.sample[-1]
    cloud, times = LidarPointCloud.from_file_multisweep(
        nusc, sample, 'LIDAR_TOP', 'LIDAR_TOP', nsweeps=3, min_distance=0.0
    )
    assert cloud.points.shape == (4, 60)
    np.testing.assert_allclose(np.unique(times), [0, 0.051234, 0.101234], atol=1e-6)


def test_epochs_have_their_own_calibration(out):
    mounts = [r for r in tables(out, 'calibrated_sensor') if r['camera_intrinsic']]
    assert len(mounts) == 3 + 6  # b has one epoch, a has two
    assert len({tuple(r['translation']) for r in mounts}) == 6


def test_every_table_is_there_and_manifest_tells_what_is_in_the_recording(out):
    for name in TABLES:
        assert isinstance(tables(out, name), list)
    assert len(tables(out, 'sensor')) == 4
    manifest, summary = read_scene(out, 'b'), read_summary(out, 'b')
    assert manifest['source'] == {'name': 'b'}
    assert manifest['channels'] == dict(
        zip((*CHANNELS, 'LIDAR_TOP'), (*CAMERAS, 'lidar'), strict=True)
    )
    assert (summary.frames, summary.images, summary.sweeps) == (3, 9, 9)
    assert summary.seconds == 1.0
    assert summary.metres == pytest.approx(8.0, rel=0.01)
    assert summary.counts == {'sets': 3}
    files = [p for p in out.rglob('*') if p.is_file() and p.name.startswith('b__')]
    jsonl = (out / 'scenes' / 'b').iterdir()
    assert summary.size_bytes == sum(p.stat().st_size for p in (*files, *jsonl))
    assert read_scene(out, 'c') is None
    assert read_summary(out, 'c') is None


def test_same_recordings_in_any_order_give_the_same_bytes(tmp_path):
    for out, names in ((tmp_path / '1', 'ab'), (tmp_path / '2', 'ba')):
        for name in names:
            write(out, name)
            merge_tables(out)
    assert hashes(tmp_path / '1') == hashes(tmp_path / '2')
    before = hashes(tmp_path / '1')
    merge_tables(tmp_path / '1')
    assert hashes(tmp_path / '1') == before


def test_two_frames_may_share_their_nearest_sweep(tmp_path):
    """Frames come more often than sweeps; the last one begins a scene with the same sweep."""
    first = frame(0)
    shared = [replace(frame(n), sweeps=first.sweeps[-1:]) for n in (1, 2)]
    fourth = frame(3)
    last = replace(frame(4), sweeps=fourth.sweeps[-1:], sequence=1)
    with NuscenesWriter(tmp_path, 'drive', cameras=CAMERAS) as writer:
        writer.add_calibration(calibration())
        for each in (first, *shared, fourth, last):
            writer.add(each)
        assert writer.finish({}, {}).sweeps == 6
    merge_tables(tmp_path)
    nusc = devkit(tmp_path)
    from nuscenes.utils.data_classes import LidarPointCloud

    keys = [nusc.get('sample_data', s['data']['LIDAR_TOP']) for s in nusc.sample]
    assert len({key['token'] for key in keys}) == 5
    assert len({key['filename'] for key in keys}) == 2
    for record in nusc.sample_data:
        for link, sign in (('prev', -1), ('next', 1)):
            if record[link]:
                other = nusc.get('sample_data', record[link])
                assert (other['timestamp'] - record['timestamp']) * sign > 0
                assert other['channel'] == record['channel']
    lidars = [r for r in nusc.sample_data if r['channel'] == 'LIDAR_TOP']
    start = next(r for r in lidars if not r['prev'] and r['next'])
    in_chain = chain(nusc, 'sample_data', start['token'])
    assert [r['timestamp'] * 1000 for r in in_chain] == [
        *(s.stamp_ns for s in first.sweeps), *(s.stamp_ns for s in fourth.sweeps),
    ]  # fmt: skip
    for key in keys[:3]:
        assert key['prev'] == in_chain[1]['token']
        assert key['next'] == in_chain[3]['token']
    assert (keys[4]['prev'], keys[4]['next']) == ('', '')
    wanted = (3, 0.1), (3, 0.1), (3, 0.1), (6, 1.6), (1, 0.0)
    for sample, (sweeps, lag) in zip(nusc.sample, wanted, strict=True):
        cloud, times = LidarPointCloud.from_file_multisweep(
            nusc, sample, 'LIDAR_TOP', 'LIDAR_TOP', nsweeps=10, min_distance=0.0
        )
        assert cloud.points.shape == (4, 20 * sweeps)
        assert len(np.unique(times)) == sweeps
        assert times.max() == pytest.approx(lag, abs=0.01)


def test_a_camera_that_moves_in_spite_of_its_calibration_is_where_it_was(tmp_path):
    """An epoch changes, or a mount begins to move, between an exposure and its calibration."""
    calib, given = calibration(), frame(0)
    turned = replace(given.views[1], ego_T_cam=given.views[1].ego_T_cam @ pose(5.0, (0.1, 0, 0)))
    given = replace(given, views=(given.views[0], turned, given.views[2]))
    far = np.eye(4)
    far[:3, 3] = 691_000.0, 5_335_000.0, 520.0  # UTM: rounding of poses makes no new mounting
    moved = replace(
        given,
        odom_T_ego=far @ given.odom_T_ego,
        views=tuple(replace(v, odom_T_base=far @ v.odom_T_base) for v in given.views),
    )
    with NuscenesWriter(tmp_path, 'drive', cameras=CAMERAS) as writer:
        writer.add_calibration(calib)
        writer.add(moved)
        views = tuple(replace(v, stamp_ns=v.stamp_ns + STEP_NS) for v in moved.views)
        later = moved.stamp_ns + STEP_NS
        writer.add(replace(moved, stamp_ns=later, views=views, sweeps=()))
        writer.finish({}, {})
    merge_tables(tmp_path)
    mounts = {r['token']: r for r in tables(tmp_path, 'calibrated_sensor')}
    assert len(mounts) == 3 + 1 + 1  # of the camera that moved every time, and the lidar
    bodies = {r['token']: r for r in tables(tmp_path, 'ego_pose')}
    sensors = {r['token']: r['channel'] for r in tables(tmp_path, 'sensor')}
    found = 0
    for record in tables(tmp_path, 'sample_data'):
        mount = mounts[record['calibrated_sensor_token']]
        if sensors[mount['sensor_token']] == 'CAM_FRONT':
            there = pose_of(bodies[record['ego_pose_token']]) @ pose_of(mount)
            wanted = moved.odom_T_ego @ turned.ego_T_cam @ rigid.inverse(RECT_T_CAM)
            np.testing.assert_allclose(there, wanted, atol=1e-6)
            found += 1
    assert found == 2


def test_sensors_that_move_against_the_body_are_where_they_were(tmp_path):
    calib = calibration(moving=True)
    given = [frame(n, calib=calib) for n in range(2)]
    with NuscenesWriter(tmp_path, 'drive', cameras=CAMERAS) as writer:
        writer.add_calibration(calib)
        for each in given:
            writer.add(each)
        writer.finish({}, {})
    merge_tables(tmp_path)
    mounts = {r['token']: r for r in tables(tmp_path, 'calibrated_sensor')}
    bodies = {r['token']: r for r in tables(tmp_path, 'ego_pose')}
    data = tables(tmp_path, 'sample_data')
    sensors = {r['token']: r['channel'] for r in tables(tmp_path, 'sensor')}
    for each in given:
        wanted = {
            (CHANNELS[i], v.stamp_ns): v.ego_T_cam
            @ rigid.inverse(calib.cameras[v.camera].camera.rect_T_cam)
            for i, v in enumerate(each.views)
        }
        wanted |= {('LIDAR_TOP', s.stamp_ns): s.ego_T_lidar for s in each.sweeps}
        found = 0
        for r in data:
            mount = mounts[r['calibrated_sensor_token']]
            key = sensors[mount['sensor_token']], r['timestamp'] * 1000
            if key in wanted:
                there = pose_of(bodies[r['ego_pose_token']]) @ pose_of(mount)
                np.testing.assert_allclose(there, each.odom_T_ego @ wanted[key], atol=1e-9)
                found += 1
        assert found == 6


# --- what goes wrong -----------------------------------------------------------------------------


def refused(
    out: Path, frames: list[Frame], match: str, cameras: tuple[str, ...] = CAMERAS
) -> None:
    """Nothing of a recording stays that is refused."""
    write(out, 'other')
    (out / 'samples' / 'CAM_FRONT' / 'notes.txt').write_text('not ours')
    before = hashes(out)
    with (
        pytest.raises(BagError, match=match) as caught,
        NuscenesWriter(out, 'drive', cameras=cameras) as writer,
    ):
        writer.add_calibration(calibration())
        for each in frames:
            writer.add(each)
        writer.finish({}, {})
    assert '\n' not in str(caught.value)
    assert hashes(out) == before
    assert not (out / 'scenes' / 'drive').exists()


def test_no_odometry_is_refused(tmp_path):
    refused(tmp_path, [replace(frame(0), odom_T_ego=None)], 'needs the vehicle pose')


def test_no_frame_is_refused(tmp_path):
    refused(tmp_path, [], 'no frame')


def test_one_microsecond_for_two_images_is_refused(tmp_path):
    first, second = frame(0), frame(1)
    view = replace(second.views[1], stamp_ns=first.views[1].stamp_ns + 400)
    views = (second.views[0], view, second.views[2])
    refused(tmp_path, [first, replace(second, views=views)], 'CAM_FRONT measures twice at 17')


def test_a_time_that_comes_again_after_a_jump_of_the_clock_is_refused(tmp_path):
    # back by two frames, and then over what was written before
    again = [frame(0), frame(1), frame(2), replace(frame(0), sequence=1)]
    refused(tmp_path, again, 'measures twice')


def test_two_cameras_of_one_channel_are_refused(tmp_path):
    with pytest.raises(BagError, match="'front' and 'CAM_FRONT' are both CAM_FRONT"):
        NuscenesWriter(tmp_path, 'drive', cameras=('front', 'CAM_FRONT'))


def test_a_recording_that_is_there_is_not_written_again(tmp_path):
    write(tmp_path)
    before = hashes(tmp_path)
    with pytest.raises(BagError, match='holds drive already'):
        write(tmp_path)
    assert hashes(tmp_path) == before


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self: RecordFiles) -> None:
        raise OSError(28, 'No space left on device', str(tmp_path / 'x'))

    monkeypatch.setattr(RecordFiles, 'finish', full)
    with pytest.raises(BagError, match='x cannot be written: No space left on device'):
        write(tmp_path / 'out')
    assert not any(path.is_file() for path in tmp_path.rglob('*'))


@pytest.mark.parametrize('limit', [400, 3_000, 9_000, 20_000])
def test_a_disk_that_takes_no_more_is_one_line_about_the_output(tmp_path, limit):
    """Limits stop images, tables while they are written, and tables when they are closed."""
    out = tmp_path / 'out'
    with (
        pytest.raises(BagError, match=r'out/\S+ cannot be written: File too large$'),
        files_of_at_most(limit),
    ):
        write(out, frames=15)
    assert not any(path.is_file() for path in tmp_path.rglob('*'))


def test_twice_changes_nothing(tmp_path):
    source = BagSource(name='a', path=write_bag(tmp_path / 'bags' / 'a', seconds=0.5))
    config = ConvertConfig(every=KeyFrames(), min_cameras=3)
    out = tmp_path / 'out'

    def run() -> dict[str, tuple[int, int]]:
        convert_bags([source], out, config, format='nuscenes', workers=1)
        return {
            str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in out.rglob('*')
        }

    first = run()
    assert len(first) > 30
    assert run() == first
    made = hashes(out)
    # what is not whole is made anew
    for name in (f'{VERSION}/sample.json', f'{VERSION}/.made-from.json', 'maps/none.png'):
        (out / name).write_bytes(b'')
        run()
        assert hashes(out) == made
        (out / name).unlink()
        run()
        assert hashes(out) == made


def test_files_that_a_power_cut_took_are_noticed(tmp_path):
    for name in ('a', 'a__CAM_BACK'):
        write(tmp_path, name)
    manifests = {name: read_scene(tmp_path, name) for name in finished_scenes(tmp_path)}
    before = hashes(tmp_path)
    assert lost_files(tmp_path, manifests) == {}
    image = next((tmp_path / 'samples' / 'CAM_BACK').glob('a__CAM_BACK__17*'))
    for path in (image, tmp_path / 'scenes' / 'a' / 'log.jsonl'):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        (text,) = lost_files(tmp_path, manifests).values()
        assert re.search(r': a has 25 files of \d+ bytes, its manifest says 25 of \d+ bytes', text)
        path.unlink()
        (text,) = lost_files(tmp_path, manifests).values()
        assert ': a has 24 files of ' in text
        path.write_bytes(whole)
    assert lost_files(tmp_path, manifests) == {}
    image.unlink()
    remove_recording(tmp_path, 'a')
    write(tmp_path, 'a')
    assert hashes(tmp_path) == before


def test_recordings_may_be_called_like_files(tmp_path):
    write(tmp_path, 'cam.json', frames=1)
    assert finished_scenes(tmp_path) == ['cam.json']
    assert merge_tables(tmp_path) == 1
    assert read_summary(tmp_path, 'cam.json').frames == 1


def test_what_is_left_in_an_object_store_is_removed(tmp_path):
    """There, nothing but the files themselves tells that a recording was begun."""
    out = UPath('memory://nuscenes-left')
    write(out, 'b')
    left = out / 'samples' / 'CAM_FRONT' / 'a__CAM_FRONT__1.jpg'
    left.write_bytes(b'1')
    remove_unfinished(out, 'b')
    assert read_scene(out, 'b') is not None
    assert left.exists()
    remove_unfinished(out, 'a')
    assert not left.exists()
    assert read_summary(out, 'b').frames == 3


def test_errors_of_an_object_store_are_one_line(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*args: Any, **rest: Any) -> None:
        raise RuntimeError('ExpiredToken')  # clients have errors of their own

    out = UPath('memory://nuscenes-refused')
    writer = NuscenesWriter(out, 'drive', cameras=CAMERAS).__enter__()
    writer.add_calibration(calibration())
    monkeypatch.setattr(MemoryFileSystem, '_open', refuse)
    with pytest.raises(BagError, match=r'nuscenes-refused cannot be written: .*ExpiredToken'):
        writer.add(frame(0))


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / 'scenes').write_text('a file')
    with pytest.raises(BagError, match='scenes'):
        write(tmp_path)


def test_what_a_killed_run_left_is_removed(tmp_path):
    """Another process dies after its second frame, in the middle of a file."""
    out, whole = tmp_path / 'out', tmp_path / 'whole'
    for path in (out, whole):
        write(path, 'drive__CAM_BACK')  # begins like the other one
        (path / 'samples' / 'CAM_BACK' / 'drive__CAM_BACK__photo.jpg').write_bytes(b'not ours')
    given = [frame(0), frame(7)]
    process = os.fork()
    if process == 0:
        try:
            writer = NuscenesWriter(out, 'drive', cameras=CAMERAS).__enter__()
            writer.add_calibration(calibration())
            for each in given:
                writer.add(each)
            part = out / 'samples' / 'CAM_BACK' / '.drive__CAM_BACK__12.jpg.part'
            part.write_bytes(b'half')
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    left = [path.name for path in (out / 'samples' / 'CAM_BACK').iterdir()]
    assert sum(name.lstrip('.').startswith('drive__CAM_BACK__1') for name in left) == 3
    assert merge_tables(out) == 1
    for path in (out, whole):
        write(path)
        assert merge_tables(path) == 2
    assert hashes(out) == hashes(whole)


def test_merging_refuses_what_is_not_whole(tmp_path):
    assert merge_tables(tmp_path) == 0
    assert not any(tmp_path.iterdir())
    write(tmp_path)
    table = tmp_path / 'scenes' / 'drive' / 'sample_data.jsonl'
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(''.join(lines[:-1]))
    with pytest.raises(BagError, match=r'sample_data\.jsonl has 17 records; .* says 18'):
        merge_tables(tmp_path)
    table.unlink()
    with pytest.raises(BagError, match=r'sample_data\.jsonl is missing'):
        merge_tables(tmp_path)
    (tmp_path / 'scenes' / 'drive.json').write_text('{')
    with pytest.raises(BagError, match=r'drive\.json cannot be read'):
        merge_tables(tmp_path)


def test_two_scenes_of_one_name_are_refused(tmp_path):
    with NuscenesWriter(tmp_path, 'a', cameras=CAMERAS) as writer:
        writer.add_calibration(calibration())
        writer.add(frame(0))
        writer.add(frame(1, sequence=1))
        writer.finish({}, {})
    write(tmp_path, 'a+2')
    with pytest.raises(BagError, match=r"two scenes are called 'a\+2'"):
        merge_tables(tmp_path)


def test_an_object_store_takes_the_same_bytes(tmp_path):
    remote = UPath('memory://nuscenes-export')
    write(remote)
    assert merge_tables(remote) == 1
    write(tmp_path)
    merge_tables(tmp_path)
    stored = {
        str(path)[len(str(remote)) :].lstrip('/'): path.read_bytes()
        for path in remote.rglob('*')
        if path.is_file()
    }
    local = {
        path.relative_to(tmp_path).as_posix(): path.read_bytes()
        for path in tmp_path.rglob('*')
        if path.is_file()
    }
    assert stored == local


@pytest.mark.parametrize(
    ('name', 'channel'),
    [('front_left', 'CAM_FRONT_LEFT'), ('cam_front', 'CAM_FRONT'), ('a/b-c', 'CAM_A_B_C')],
)
def test_channels_of_cameras(name, channel):
    assert camera_channel(name) == channel


@pytest.mark.parametrize(
    ('name', 'channel'),
    [('lidar', 'LIDAR_TOP'), ('lidar_top', 'LIDAR_TOP'), ('left', 'LIDAR_LEFT')],
)
def test_channels_of_lidars(name, channel):
    assert lidar_channel(name) == channel


def test_memory_does_not_grow_with_the_recording(tmp_path):
    """Records go to the disk: only the newest of every chain are held."""
    with NuscenesWriter(tmp_path, 'drive', cameras=CAMERAS) as writer:
        writer.add_calibration(calibration())
        for number in range(5):
            writer.add(frame(number))
            assert len(writer._tables._pending) == 5  # the sample and four channels
        writer.finish({}, {})
    assert os.path.getsize(tmp_path / 'scenes' / 'drive' / 'sample_data.jsonl') > 5000
