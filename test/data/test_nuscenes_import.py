"""Data sets in nuScenes' format as recordings, and there and back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tracemalloc
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bev_perception import messages as core
from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.shapes import Rigid
from bev_perception.transforms import TransformTree
from bev_training.data import nuscenes_reader
from bev_training.data.bag_inputs import BagSource
from bev_training.data.bag_reader import read_messages
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.data.nuscenes_columns import FileNames
from bev_training.data.nuscenes_import import write_bags
from bev_training.data.nuscenes_merge import VERSION, merge_tables
from bev_training.data.nuscenes_reader import Scenes, records, scene_names, tables_of
from bev_training.data.settings import ConvertConfig, KeyFrames
from bev_training.nuscenes_tables import LIDAR_CHANNEL, camera_channel, pose_record, sensor_name
from bev_training.synthetic.nuscenes_format import write_nuscenes
from test.data.nuscenes_set import files_of_at_most, write_set
from test.data.small_bag import CAMERAS, SmallDrive, write_bag
from test.factories import STAMP_NS, make_image
from test.synthetic.nuscenes_data import CONFIG, hashes, small_rig

ALL = ConvertConfig(every=KeyFrames(), min_cameras=1)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with sweeps."""
    return write_set(tmp_path_factory.mktemp('nuscenes'))


@pytest.fixture(scope='module')
def bags(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_bags(dataset, tmp_path_factory.mktemp('bags') / 'out')


def copied(dataset: Path, folder: Path) -> Path:
    return Path(shutil.copytree(dataset, folder / 'copy'))


def edit(dataset: Path, table: str, change: Any) -> None:
    """Let a function change the records of a table, or replace the table's text."""
    path = dataset / 'v1.0-mini' / f'{table}.json'
    if isinstance(change, str):
        path.write_text(change)
        return
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def by_channel(
    dataset: Path, name: str
) -> tuple[dict[str, list[nuscenes_reader.Measured]], dict[nuscenes_reader.EgoPose, Rigid]]:
    scene = Scenes(tables_of(dataset), [name]).content(name)
    found = defaultdict(list)
    for each in scene.measured:
        found[each.sensor.channel].append(each)
    return dict(found), {each.pose: each.pose.odom_T_base() for each in scene.measured}


def test_a_scene_becomes_a_recording_like_our_own(dataset, bags):
    names = scene_names(tables_of(dataset))
    assert [bag.name for bag in bags] == names
    for bag in bags:
        assert {path.name for path in bag.iterdir()} == {f'{bag.name}.mcap', 'metadata.yaml'}
    found, poses = by_channel(dataset, names[0])
    seen: dict[str, list[Any]] = defaultdict(list)
    times = []
    for topic, bag_ns, message in read_messages(bags[0]):
        seen[topic].append((bag_ns, message))
        times.append(bag_ns)
    assert times == sorted(times)
    cameras = [channel for channel in found if channel != LIDAR_CHANNEL]
    assert len(cameras) == 6
    for channel in cameras:
        name = sensor_name(channel)
        images = seen[f'/camera/{name}/image_raw/compressed']
        infos = seen[f'/camera/{name}/camera_info']
        assert len(images) == len(infos) == len(found[channel])
        for each, (at, image), (info_at, info) in zip(found[channel], images, infos, strict=True):
            assert core.stamp_ns(image.header) == core.stamp_ns(info.header)
            assert core.stamp_ns(image.header) == each.time_us * 1000 == at - 30_000_000
            assert info_at == at
            assert image.header.frame_id == f'camera_{name}_optical_frame'
            assert bytes(image.data) == (dataset / each.file).read_bytes()
            assert info.k.reshape(3, 3).tolist() == each.sensor.K
            assert (info.width, info.height) == (64, 36)
    for each, (at, cloud) in zip(found[LIDAR_CHANNEL], seen['/lidar/points'], strict=True):
        assert core.stamp_ns(cloud.header) == each.time_us * 1000 == at - 40_000_000
        points = core.read_points(cloud)
        wanted = np.fromfile(dataset / each.file, '<f4').reshape(-1, 5)
        given = np.stack([points[n] for n in ('x', 'y', 'z', 'intensity', 'ring')], -1)
        np.testing.assert_array_equal(given.astype(np.float32), wanted)
    stamps = {each.time_us * 1000 for shots in found.values() for each in shots}
    assert sorted(stamps) == [core.stamp_ns(m.transforms[0].header) for _, m in seen['/tf']]
    assert sorted(stamps) == [core.stamp_ns(m.header) for _, m in seen['/odom']]
    assert len(seen['/tf_static']) == 1
    assert len(poses) == sum(len(shots) for shots in found.values())


def test_every_sensor_is_where_the_tables_say_at_every_exposure(dataset, bags):
    found, poses = by_channel(dataset, bags[1].name)
    tree = TransformTree(history_s=1e6)
    for topic, _, message in read_messages(bags[1], ['/tf', '/tf_static']):
        for transform in core.read_transforms(message):
            tree.push(transform, static=topic == '/tf_static')
    for shots in found.values():
        for each in shots:
            camera = each.sensor.modality == 'camera'
            frame = f'camera_{sensor_name(each.sensor.channel)}_optical_frame'
            there = tree.lookup('map', frame if camera else 'lidar', each.time_us * 1000)
            wanted = poses[each.pose] @ each.sensor.base_T_sensor
            np.testing.assert_allclose(there, wanted, atol=1e-9)


def test_odometry_tells_the_velocity(bags):
    odometry = [message for _, _, message in read_messages(bags[0], ['/odom'])]
    first, last = odometry[0], odometry[-1]
    seconds = (core.stamp_ns(last.header) - core.stamp_ns(first.header)) / 1e9
    way = core.read_pose(last).parent_T_child[:3, 3] - core.read_pose(first).parent_T_child[:3, 3]
    speeds = [message.twist.twist.linear.x for message in odometry]
    assert np.mean(speeds) == pytest.approx(np.linalg.norm(way) / seconds, rel=0.03)
    assert np.ptp(speeds) < 1.0


def test_frames_of_the_recording_are_those_of_the_data_set(dataset, bags, tmp_path):
    check_frames(dataset, bags[0], tmp_path)


@pytest.mark.slow
def test_rendered_scenes_keep_their_frames(tmp_path):
    config = replace(CONFIG, seconds=0.6, rig=small_rig((64, 36)))
    write_nuscenes(tmp_path / 'set', config, workers=1)
    for bag in write_bags(tmp_path / 'set', tmp_path / 'bags'):
        check_frames(tmp_path / 'set', bag, tmp_path / bag.name)


def check_frames(dataset: Path, bag: Path, tmp_path: Path) -> None:
    """Frames of a recording have the images, lenses, times and poses of the data set."""
    summary = convert_bag(BagSource(name='drive', path=bag), tmp_path / 'drive', ALL)
    drive = Drive(tmp_path / 'drive')
    found, poses = by_channel(dataset, bag.name)
    cameras = [channel for channel in found if channel != LIDAR_CHANNEL]
    wanted = {(s.sensor.channel, s.time_us * 1000): s for shots in found.values() for s in shots}
    calibration = drive.calibrations[0]
    assert len(drive.calibrations) == 1
    assert summary.images == sum(len(found[channel]) for channel in cameras)
    images = sweeps = 0
    for i in range(len(drive)):
        frame = drive.frame(i)
        for view in frame.views:
            each = wanted[camera_channel(view.camera), view.stamp_ns]
            assert view.image.data == (dataset / each.file).read_bytes()
            np.testing.assert_allclose(view.odom_T_base, poses[each.pose], atol=1e-6)
            mounted = calibration.cameras[view.camera]
            np.testing.assert_array_equal(mounted.camera.K, each.sensor.K)
            np.testing.assert_allclose(mounted.base_T_cam, each.sensor.base_T_sensor, atol=1e-6)
            there = frame.odom_T_ego @ view.ego_T_cam
            truth = poses[each.pose] @ each.sensor.base_T_sensor
            np.testing.assert_allclose(there, truth, atol=1e-6)
            images += 1
        for sweep in frame.sweeps:
            each = wanted[LIDAR_CHANNEL, sweep.stamp_ns]
            truth = poses[each.pose] @ each.sensor.base_T_sensor
            np.testing.assert_allclose(frame.odom_T_ego @ sweep.ego_T_lidar, truth, atol=1e-6)
            points = np.fromfile(dataset / each.file, '<f4').reshape(-1, 5)
            np.testing.assert_array_equal(sweep.points[:, :5], points)
            sweeps += 1
    assert images == summary.images
    assert sweeps > 0


def test_there_and_back_again_the_tables_agree(dataset, bags, tmp_path):
    """Data set → recording → data set → recording: images, stamps, poses and lenses stay."""
    out, again = tmp_path / 'out', tmp_path / 'again'
    for bag in bags:
        convert_bag(BagSource(name=bag.name, path=bag), out, ALL, format='nuscenes')
    merge_tables(out)
    second = write_bags(out, again)
    assert [bag.name for bag in second] == [bag.name for bag in bags]
    for name in (bag.name for bag in bags):
        before, poses = by_channel(dataset, name)
        after, after_poses = by_channel(out, name)
        assert before.keys() == after.keys()
        for channel, shots in after.items():
            given = {each.time_us: each for each in before[channel]}
            if channel != LIDAR_CHANNEL:
                assert [each.time_us for each in shots] == list(given)
            assert shots
            for each in shots:
                original = given[each.time_us]
                assert (out / each.file).read_bytes() == (dataset / original.file).read_bytes()
                assert each.sensor.K == original.sensor.K
                mount, body = each.sensor.base_T_sensor, after_poses[each.pose]
                np.testing.assert_allclose(mount, original.sensor.base_T_sensor, atol=1e-6)
                np.testing.assert_allclose(body, poses[original.pose], atol=1e-6)


def test_a_recording_there_and_back_keeps_images_and_stamps(tmp_path):
    """Recording → data set → recording, with a lens, PNGs and stamps between microseconds."""
    values = {'raw': True, 'start_ns': STAMP_NS + 123, 'seconds': 0.5}
    bag, drive = write_bag(tmp_path / 'bag', **values), SmallDrive(**values)
    config = replace(ALL, lidars={'lidar': '/lidar/points'})
    convert_bag(BagSource(name='x', path=bag), tmp_path / 'set', config, format='nuscenes')
    merge_tables(tmp_path / 'set')
    (back,) = write_bags(tmp_path / 'set', tmp_path / 'back')
    count = 0
    for topic, _, message in read_messages(back):
        if '/image_raw/' in topic:
            name = topic.split('/')[2]
            number = round((core.stamp_ns(message.header) - drive.start_ns) / 1e8 - 0.04)
            assert abs(core.stamp_ns(message.header) - drive.exposure_ns(name, number)) <= 500
            np.testing.assert_array_equal(core.read_image(message), drive.image(name, number))
            count += 1
        elif topic.endswith('/camera_info'):
            camera = core.read_camera(message, name='x', rectified=False)
            assert camera == drive.rig()[topic.split('/')[2]][0]
    assert count == 5 * len(CAMERAS)


def test_a_lens_survives(dataset, tmp_path):
    folder = copied(dataset, tmp_path)

    def distort(content):
        for record in content:
            if record['camera_intrinsic']:
                record['camera_distortion'] = [-0.1, 0.02, 0.0, 0.0, 0.0]

    edit(folder, 'calibrated_sensor', distort)
    name = scene_names(tables_of(folder))[0]
    (bag,) = write_bags(folder, tmp_path / 'out', scenes=[name])
    message = next(m for _, _, m in read_messages(bag, ['/camera/front/camera_info']))
    camera = core.read_camera(message, name='front', rectified=False)
    assert (camera.model, camera.D) == ('plumb_bob', (-0.1, 0.02, 0.0, 0.0, 0.0))


def test_running_twice_keeps_what_is_there(dataset, bags, tmp_path):
    done = []
    first = write_bags(dataset, tmp_path / 'out', total=done.append, progress=done.append)
    assert done[0] == sum(done[1:]) == sum(len(s) for n in first for s in files(dataset, n.name))
    before, times = hashes(tmp_path / 'out'), [p.stat().st_mtime_ns for p in first]
    assert before == hashes(bags[0].parent)  # the same bytes as elsewhere
    shutil.rmtree(first[1])
    (tmp_path / 'out' / f'.{first[1].name}.unfinished' / first[1].name).mkdir(
        parents=True
    )  # was killed
    assert write_bags(dataset, tmp_path / 'out') == first
    assert first[0].stat().st_mtime_ns == times[0]
    assert hashes(tmp_path / 'out') == before
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == sorted(p.name for p in first)


def files(dataset: Path, name: str) -> list[list[nuscenes_reader.Measured]]:
    return list(by_channel(dataset, name)[0].values())


def test_missing_files_radar_and_invalid_records_are_left_out_with_a_word(dataset, tmp_path):
    folder = copied(dataset, tmp_path)
    name = scene_names(tables_of(folder))[0]
    front = by_channel(folder, name)[0]['CAM_FRONT']
    (folder / front[2].file).unlink()
    lidar = by_channel(folder, name)[0][LIDAR_CHANNEL]

    def changed(content):
        for record in content:
            if record['filename'] == lidar[1].file:
                record['is_valid'] = False
            if record['filename'] == front[0].file:
                record['width'] = record['height'] = 0  # the file's header knows

    edit(folder, 'sample_data', changed)
    edit(
        folder,
        'sensor',
        lambda content: [
            {**r, 'modality': 'radar', 'channel': 'RADAR_BACK'}
            if r['channel'] == 'CAM_BACK'
            else r
            for r in content
        ],
    )
    said: list[str] = []
    (bag,) = write_bags(folder, tmp_path / 'out', scenes=[name], say=said.append)
    backs = len(by_channel(dataset, name)[0]['CAM_BACK'])
    assert said == [
        f'{name}: 1 files are missing, the first is {front[2].file}',
        f'{name}: left out (radar, or not valid): LIDAR_TOP 1, RADAR_BACK {backs}',
    ]
    counts = defaultdict(int)
    for topic, _, message in read_messages(bag):
        counts[topic] += 1
        if topic.endswith('camera_info'):
            assert (message.width, message.height) == (64, 36)
    assert counts['/camera/front/image_raw/compressed'] == len(front) - 1
    assert counts['/lidar/points'] == len(lidar) - 1
    assert '/camera/back/image_raw/compressed' not in counts


def test_a_sensor_that_is_mounted_anew_and_other_lidars(dataset, tmp_path):
    folder = copied(dataset, tmp_path)
    name = scene_names(tables_of(folder))[0]
    found = by_channel(folder, name)[0]
    late = {each.file for each in found['CAM_FRONT'][3:]}
    moved = np.eye(4)
    moved[:3, 3] = 1.0, 2.0, 3.0

    def mount(content):
        tokens = {r['token']: r for r in content}
        data = json.loads((folder / 'v1.0-mini' / 'sample_data.json').read_text())
        old = next(r['calibrated_sensor_token'] for r in data if r['filename'] in late)
        return [*content, {**tokens[old], 'token': 'new', **pose_record(moved)}]

    edit(folder, 'calibrated_sensor', mount)
    edit(
        folder,
        'sample_data',
        lambda content: [
            {**r, 'calibrated_sensor_token': 'new'} if r['filename'] in late else r
            for r in content
        ],
    )
    edit(
        folder,
        'sensor',
        lambda content: [
            {**r, 'channel': 'LIDAR_ROOF'} if r['channel'] == LIDAR_CHANNEL else r for r in content
        ],
    )
    (bag,) = write_bags(folder, tmp_path / 'out', scenes=[name])
    seen = list(read_messages(bag))
    statics = [message for topic, _, message in seen if topic == '/tf_static']
    assert len(statics) == 2
    poses = [
        {t.child: t.parent_T_child for t in core.read_transforms(message)} for message in statics
    ]
    assert poses[0].keys() == poses[1].keys()
    assert 'lidar_roof' in poses[0]
    frame = 'camera_front_optical_frame'
    np.testing.assert_allclose(poses[1].pop(frame), moved, atol=1e-9)
    assert not np.allclose(poses[0].pop(frame), moved)
    order = [topic for topic, _, _ in seen if topic in ('/tf_static', '/camera/front/camera_info')]
    assert order[:5] == ['/tf_static', *['/camera/front/camera_info'] * 3, '/tf_static']
    assert sum(topic == '/lidar/roof/points' for topic, _, _ in seen) == len(found[LIDAR_CHANNEL])


def test_measurements_that_share_a_pose_are_covered(dataset, tmp_path):
    """Some converters know one pose per sample: transforms still reach the last exposure."""
    folder = copied(dataset, tmp_path)
    name = scene_names(tables_of(folder))[0]
    shared = f'{name}-{LIDAR_CHANNEL}-{by_channel(folder, name)[0][LIDAR_CHANNEL][0].time_us}'
    edit(
        folder,
        'sample_data',
        lambda content: [{**r, 'ego_pose_token': shared} for r in content],
    )
    (bag,) = write_bags(folder, tmp_path / 'out', scenes=[name])
    stamps = [core.stamp_ns(m.transforms[0].header) for _, _, m in read_messages(bag, ['/tf'])]
    images = [core.stamp_ns(m.header) for t, _, m in read_messages(bag) if '/image_raw/' in t]
    assert stamps[0] <= min(images)
    assert max(images) <= stamps[-1]


# --- the real thing ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def real(shared_data: Path) -> Path:
    path = shared_data / 'nuscenes_devkit_root'
    if not path.is_dir():
        pytest.skip(f'{path} does not exist')
    return path


def test_real_scenes_become_one_set_each(real, tmp_path):
    said: list[str] = []
    bags = write_bags(real, tmp_path / 'bags', say=said.append)
    assert len(bags) == 2
    assert not said
    for bag in bags:
        found, poses = by_channel(real, bag.name)
        folder = tmp_path / 'drives' / bag.name
        summary = convert_bag(BagSource(name=bag.name, path=bag), folder, ALL)
        assert (summary.frames, summary.images, summary.sweeps) == (1, 6, 1)
        frame = Drive(folder).frame(0)
        assert not frame.missing
        assert len(frame.views) == 6
        for view in frame.views:
            (each,) = found[camera_channel(view.camera)]
            assert view.stamp_ns == each.time_us * 1000
            assert view.image.data == (real / each.file).read_bytes()
            truth = poses[each.pose] @ each.sensor.base_T_sensor
            np.testing.assert_allclose(frame.odom_T_ego @ view.ego_T_cam, truth, atol=1e-6)
        (sweep,) = frame.sweeps
        points = np.fromfile(real / found[LIDAR_CHANNEL][0].file, '<f4').reshape(-1, 5)
        np.testing.assert_array_equal(sweep.points[:, :5], points)
        assert frame.spread_s < 0.065
        out = tmp_path / 'again'
        convert_bag(BagSource(name=bag.name, path=bag), out, ALL, format='nuscenes')
    merge_tables(out)
    nuscenes = pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')
    nusc = nuscenes.NuScenes(VERSION, str(out), verbose=False)
    before = nuscenes.NuScenes('v1.0-mini', str(real), verbose=False)
    assert len(nusc.sample) == 2
    for scene in nusc.scene:
        old = next(s for s in before.scene if s['name'] == scene['name'])
        new_sample = nusc.get('sample', scene['first_sample_token'])
        old_sample = before.get('sample', old['first_sample_token'])
        assert new_sample['data'].keys() == old_sample['data'].keys()
        for channel, token in new_sample['data'].items():
            new = nusc.get('sample_data', token)
            was = before.get('sample_data', old_sample['data'][channel])
            assert new['timestamp'] == was['timestamp']
            assert (out / new['filename']).read_bytes() == (real / was['filename']).read_bytes()


# --- one scene of several ------------------------------------------------------------------------


def marks(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of all that is in a folder."""
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in folder.rglob('*')
    }


def test_a_damaged_file_fails_its_scene_alone(dataset, bags, tmp_path):
    folder, out = copied(dataset, tmp_path), tmp_path / 'out'
    first, second = scene_names(tables_of(folder))
    sweep = folder / by_channel(folder, first)[0][LIDAR_CHANNEL][1].file
    sweep.write_bytes(b'1234567')
    refused(folder, out, rf'^{first}: .*{sweep.name} has 7 bytes')
    assert [path.name for path in out.iterdir()] == [second]
    assert hashes(out / second) == hashes(bags[1])
    before = marks(out)
    refused(folder, out, rf'^{first}: .*{sweep.name} has 7 bytes')
    assert marks(out) == before
    image = folder / by_channel(folder, second)[0]['CAM_BACK'][0].file
    image.write_bytes(b'')
    shutil.rmtree(out)
    refused(folder, out, rf'^2 of 2 scenes failed: {first}: .*; {second}: .*{image.name}')
    assert not out.exists()


def test_scenes_whose_times_or_topics_do_not_fit_fail(dataset, tmp_path):
    first, second = scene_names(tables_of(dataset))

    def scaled(content):
        for record in content:
            if record['token'].startswith(first):
                record['timestamp'] *= 1000

    def negative(content):
        for record in content:
            record['timestamp'] -= 10**18

    def renamed(content):
        next(r for r in content if r['channel'] == 'CAM_BACK')['channel'] = 'FRONT'

    cases = [
        ({'sample_data': scaled, 'ego_pose': scaled}, f'^{first}: timestamp 153240292', [second]),
        ({'ego_pose': scaled}, f'^{first}: timestamp 15324.* of .* or its ego_pose', [second]),
        ({'sample_data': negative}, '^2 of 2 scenes failed: .*: timestamp -998', []),
        ({'sensor': renamed}, "channels 'CAM_FRONT' and 'FRONT' would have the same topic", []),
    ]  # fmt: skip
    for number, (edits, match, whole) in enumerate(cases):
        folder, out = copied(dataset, tmp_path / str(number)), tmp_path / str(number) / 'out'
        for table, change in edits.items():
            edit(folder, table, change)
        refused(folder, out, match)
        assert [p.name for p in out.glob('*')] == whole
    edit(folder, 'sensor', lambda c: c[0].update(channel='CAM FRONT.2'))
    edit(folder, 'sample_data', lambda c: c[0].update(timestamp=10**30))
    refused(folder, out, r'sample_data\.json: a record is damaged')


def test_channels_become_names_of_topics():
    assert sensor_name('CAM_FRONT_LEFT') == 'front_left'
    assert sensor_name('CAM FRONT.2') == 'front_2'
    assert sensor_name('CAM_0') == 'cam_0'  # no topic may be called /camera/0/image_raw
    assert camera_channel(sensor_name('CAM_0')) == 'CAM_0'


def test_a_recording_of_other_files_or_records_is_not_taken_for_this_one(dataset, tmp_path):
    folder, out = copied(dataset, tmp_path), tmp_path / 'out'
    first, second = scene_names(tables_of(folder))
    write_bags(folder, out)
    before = marks(out)
    images = [each.file for each in by_channel(folder, second)[0]['CAM_BACK']]

    def moved(content):
        content[0]['translation'][0] += 1.0  # of the first scene

    edit(folder, 'ego_pose', moved)
    refused(folder, out, rf'^{first}: .*{first} was made from another data set')
    data = (folder / images[2]).read_bytes()
    (folder / images[2]).unlink()  # now there are fewer files
    refused(folder, out, rf'^2 of 2 scenes failed: .*{second} was made from another data set')
    (folder / images[2]).write_bytes(data + b' ')
    refused(folder, out, r'^2 of 2 scenes failed')
    assert marks(out) == before
    foreign = write_bag(tmp_path / 'foreign' / first)
    refused(
        dataset,
        foreign.parent,
        rf'{first} exists and is no recording of a nuScenes',
        scenes=[first],
    )


@pytest.mark.parametrize('size', [0, 7, 5000])
def test_a_recording_that_was_cut_short_is_made_anew(dataset, bags, tmp_path, size):
    out = tmp_path / 'out'
    shutil.copytree(bags[0].parent, out)
    with (out / bags[0].name / f'{bags[0].name}.mcap').open('r+b') as file:
        file.truncate(size)
    kept = marks(out / bags[1].name)
    write_bags(dataset, out)
    assert hashes(out) == hashes(bags[0].parent)
    assert marks(out / bags[1].name) == kept


def test_what_a_killed_run_left_vanishes(dataset, bags, tmp_path):
    """It dies in one scene; the next run wants another one."""
    out = tmp_path / 'out'
    process = os.fork()
    if process == 0:
        try:
            write_bags(dataset, out, progress=lambda files: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert any(path.suffix == '.mcap' for path in out.rglob('*'))
    write_bags(dataset, out, scenes=[bags[1].name])
    assert [path.name for path in out.iterdir()] == [bags[1].name]


def test_a_full_disk_is_one_line_about_the_output(dataset, tmp_path):
    out = tmp_path / 'out'
    with files_of_at_most(30_000):
        refused(dataset, out, f'^2 of 2 scenes failed: .*{out}/scene-0001: File too large')
    assert not out.exists()


def test_recordings_are_on_the_disk_before_they_appear(dataset, tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f'/proc/self/fd/{descriptor}').replace('.scene-0001.', ''))
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', noted)
    (bag,) = write_bags(dataset, tmp_path / 'out', scenes=[scene_names(tables_of(dataset))[0]])
    work = tmp_path / 'out' / 'unfinished' / bag.name
    files = [str(work / f'{bag.name}.mcap'), str(work / 'metadata.yaml')]
    assert sorted(synced[:2]) == sorted(files)
    assert synced[2:] == [str(work), str(tmp_path / 'out')]


def test_millions_of_records_fit_in_memory(tmp_path):
    """nuScenes' trainval has 2.6 million: 260 bytes each are 700 MB."""
    records, per_scene = 20_000, 1000
    folder = tmp_path / 'v1.0-mini'
    folder.mkdir()
    tables = {
        'sensor': [{'token': 's', 'channel': 'CAM_FRONT', 'modality': 'camera'}],
        'calibrated_sensor': [
            {'token': 'c', 'sensor_token': 's', **pose_record(np.eye(4)), 'camera_intrinsic': []}
        ],
        'scene': [{'token': f's{i}', 'name': f'scene-{i}'} for i in range(20)],
        'sample': [{'token': f'a{i}', 'scene_token': f's{i}'} for i in range(20)],
        'sample_data': [
            {
                'token': f'{i:032x}',
                'sample_token': f'a{i // per_scene}',
                'ego_pose_token': f'{i:032x}',
                'calibrated_sensor_token': 'c',
                'timestamp': 10**15 + i,
                'filename': f'sweeps/CAM_FRONT/n015-2018-07-24__CAM_FRONT__{10**15 + i}.jpg',
            }
            for i in range(records)
        ],
        'ego_pose': [
            {'token': f'{i:032x}', 'timestamp': 10**15 + i, **pose_record(np.eye(4))}
            for i in reversed(range(records))
        ],
    }
    for name, content in tables.items():
        (folder / f'{name}.json').write_text(json.dumps(content))
    names = [scene['name'] for scene in tables['scene']]
    Scenes(folder, names[:1])  # imports and caches
    nuscenes_reader._CHUNK, chunk = 1 << 14, nuscenes_reader._CHUNK
    tracemalloc.start()
    try:
        scenes = Scenes(folder, names)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        nuscenes_reader._CHUNK = chunk
    assert peak / records < 200
    for number, name in enumerate(names):
        measured = scenes.content(name).measured
        assert len(measured) == per_scene
        assert measured[7].pose.time_us == measured[7].time_us == 10**15 + 1000 * number + 7
        assert measured[7].file.endswith(f'__CAM_FRONT__{measured[7].time_us}.jpg')


def test_names_of_files_come_back_whatever_they_are():
    names = FileNames()
    given = [
        ('a/1/1.jpg', 1),
        ('a/12.jpg', 5),
        ('a/2.jpg', 2),
        ('a/3.jpg', 3),
        ('', 9),
        ('a/12.jpg', 12),
    ]
    numbers = [names.number(file, time_us) for file, time_us in given]
    assert [names.name(n, time_us) for n, (_, time_us) in zip(numbers, given, strict=True)] == [
        file for file, _ in given
    ]
    assert numbers[2] == numbers[3]


# --- bad input -----------------------------------------------------------------------------------


def refused(dataset: Path, out: Path, match: str, **values: Any) -> None:
    with pytest.raises(BagError, match=match) as caught:
        write_bags(dataset, out, **values)
    assert '\n' not in str(caught.value)
    assert not out.exists() or not any(p.name.startswith('.') for p in out.iterdir())


def test_what_is_not_there_is_named(dataset, tmp_path):
    out = tmp_path / 'out'
    names = ', '.join(scene_names(tables_of(dataset)))
    refused(tmp_path / 'nothing', out, 'nothing is no folder')
    refused(dataset / 'samples', out, 'samples holds no tables like')
    refused(dataset, out, "no version 'v1.0-trainval', only v1.0-mini", version='v1.0-trainval')
    refused(dataset, out, f"no scene 'scene-1'; it has {names}", scenes=['scene-1'])
    folder = copied(dataset, tmp_path)
    shutil.copytree(folder / 'v1.0-mini', folder / 'v1.0-test')
    refused(folder, out, 'the versions v1.0-mini, v1.0-test; name one')
    (folder / 'v1.0-mini' / 'ego_pose.json').unlink()
    refused(folder, out, r'ego_pose\.json is missing', version='v1.0-mini')
    assert not out.exists()


@pytest.mark.parametrize(
    ('table', 'change', 'match'),
    [
        ('scene', '{}', r'scene\.json holds no JSON list'),
        ('scene', '[{"name": "x"', r'scene\.json: record 0 is damaged'),
        ('sample', '[3]', r'sample\.json: record 0 is no object'),
        ('sample_data', lambda c: c[5].pop('timestamp'), r"sample_data\.json: .*'timestamp'"),
        ('sample_data', lambda c: c[5].update(timestamp='x'), r'sample_data\.json: .* damaged'),
        ('ego_pose', lambda c: c[:-3], r'ego_pose\.json lacks 3 poses'),
        ('ego_pose', lambda c: c[0].update(rotation=[0, 0, 0, 0]), r'ego_pose\.json: .*rotation'),
        ('ego_pose', lambda c: c[0].update(translation=[1, 2]), r'ego_pose\.json: .*translation'),
        ('calibrated_sensor', lambda c: c[1].update(camera_intrinsic=[]), r'calibrated_sensor of'),
        ('sensor', lambda c: c[:2], r'calibrated_sensor\.json: .* names what is in no table'),
    ],
)
def test_damaged_tables_are_one_line(dataset, tmp_path, table, change, match):
    folder = copied(dataset, tmp_path)

    def without_result(content: list[Any]) -> Any:
        result = change(content)
        return result if isinstance(result, list) else None

    edit(folder, table, change if isinstance(change, str) else without_result)
    refused(folder, tmp_path / 'out', match)


def test_damaged_files_are_named_and_leave_nothing(dataset, tmp_path):
    folder = copied(dataset, tmp_path)
    name = scene_names(tables_of(folder))[0]
    found = by_channel(folder, name)[0]
    sweep = folder / found[LIDAR_CHANNEL][1].file
    whole = sweep.read_bytes()
    sweep.write_bytes(whole[:-3])
    refused(folder, tmp_path / 'out', rf'{sweep.name} has \d+ bytes', scenes=[name])
    sweep.write_bytes(whole)
    image = folder / found['CAM_FRONT'][0].file
    image.write_bytes(b'no image')
    edit(folder, 'sample_data', lambda c: [{**r, 'width': 0} for r in c])
    refused(folder, tmp_path / 'out', image.name, scenes=[name])
    assert not (tmp_path / 'out').exists() or not any((tmp_path / 'out').iterdir())
    for shots in found.values():
        for each in shots:
            (folder / each.file).unlink()
    refused(folder, tmp_path / 'out', f'has no file of scene {name!r}', scenes=[name])
    assert [p.name for p in write_bags(folder, tmp_path / 'out')] != [name]


def test_a_folder_that_is_no_recording_stays(dataset, tmp_path):
    name = scene_names(tables_of(dataset))[0]
    (tmp_path / name).mkdir()
    (tmp_path / name / 'mine.txt').write_text('x')
    refused(dataset, tmp_path, 'exists and is no recording', scenes=[name])
    assert (tmp_path / name / 'mine.txt').read_text() == 'x'


def test_tables_are_read_in_pieces(tmp_path, monkeypatch):
    content = [{'token': str(i), 'text': 'é]},[{"' * i} for i in range(50)]
    path = tmp_path / 'x.json'
    monkeypatch.setattr(nuscenes_reader, '_CHUNK', 7)
    for text in (json.dumps(content), json.dumps(content, indent=2), '\n ' + json.dumps(content)):
        path.write_text(text)
        assert list(records(path)) == content
    path.write_text('[]')
    assert list(records(path)) == []


def test_png_and_gray_images_pass_through(dataset, tmp_path):
    folder = copied(dataset, tmp_path)
    name = scene_names(tables_of(folder))[0]
    image = by_channel(folder, name)[0]['CAM_FRONT'][0]
    data = cv2.imencode('.png', make_image((64, 36)))[1].tobytes()
    (folder / image.file).write_bytes(data)
    (bag,) = write_bags(folder, tmp_path / 'out', scenes=[name])
    messages = read_messages(bag, ['/camera/front/image_raw/compressed'])
    message = next(m for _, _, m in messages)
    assert bytes(message.data) == data
    assert 'png' in message.format
    rgb = cv2.cvtColor(make_image((64, 36)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(core.read_image(message), rgb)


def test_poses_are_rigid(bags):
    for _, _, message in read_messages(bags[0], ['/tf']):
        pose = core.read_transforms(message)[0].parent_T_child
        np.testing.assert_allclose(pose @ rigid.inverse(pose), np.eye(4), atol=1e-9)
