"""The index of a data set in nuScenes' format: the devkit is asked once, and agrees."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bev_perception.errors import BagError, ConfigError
from bev_perception.geometry import rigid
from bev_training.data import nuscenes_index
from bev_training.data.nuscenes_index import NuscenesIndex, open_index
from bev_training.data.nuscenes_samples import weather_of
from bev_training.data.nuscenes_splits import scenes_of
from bev_training.nuscenes_tables import camera_channel, pose_of
from bev_training.outlines import box_bottoms

nuscenes = pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')
VERSION = 'v1.0-mini'


@pytest.fixture(scope='module')
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def index(nuscenes_set: Path, cache: Path) -> NuscenesIndex:
    return open_index(nuscenes_set, cache=cache)


@pytest.fixture(scope='module')
def nusc(nuscenes_set: Path) -> Any:
    return nuscenes.NuScenes(VERSION, str(nuscenes_set), verbose=False)


@pytest.fixture
def no_devkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening tables with the devkit fails the test."""
    import nuscenes.nuscenes

    def refuse(*args: object, **settings: object) -> None:
        raise RuntimeError('the devkit was asked')

    monkeypatch.setattr(nuscenes.nuscenes, 'NuScenes', refuse)


def changed(root: Path, table: str, change: Any) -> None:
    path = root / VERSION / f'{table}.json'
    records = json.loads(path.read_text())
    path.write_text(json.dumps(change(records)))


def test_samples_are_sorted_by_scene_and_time(index: NuscenesIndex, nusc: Any) -> None:
    assert len(index) == len(nusc.sample) == 4
    assert index.scenes == ('scene-0061', 'scene-0103')
    assert index.scene_number.tolist() == [0, 0, 1, 1]
    assert (np.diff(index.stamps_ns)[[0, 2]] > 0).all()
    assert {index.token(i) for i in range(4)} == {sample['token'] for sample in nusc.sample}
    order = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')
    assert index.cameras == order
    for i in range(4):
        sample = nusc.get('sample', index.token(i))
        scene = nusc.get('scene', sample['scene_token'])
        log = nusc.get('log', scene['log_token'])
        facts = index.scene(i)
        assert facts['name'] == scene['name']
        assert facts['location'] == log['location']
        assert facts['description'] == scene['description']
        assert index.stamps_ns[i] == sample['timestamp'] * 1000


def test_poses_go_through_the_map_and_end_in_the_level_frame(
    index: NuscenesIndex, nusc: Any
) -> None:
    moved = []
    for i in range(len(index)):
        data = nusc.get('sample', index.token(i))['data']
        lidar = nusc.get('sample_data', data['LIDAR_TOP'])
        odom_T_base = pose_of(nusc.get('ego_pose', lidar['ego_pose_token']))
        odom_T_ego = odom_T_base @ rigid.level(odom_T_base)
        np.testing.assert_allclose(index.odom_T_ego(i), odom_T_ego, atol=1e-12)
        np.testing.assert_allclose(index.odom_T_ego(i)[2, :3], (0, 0, 1), atol=1e-12)
        np.testing.assert_allclose(
            odom_T_base @ index.base_T_ego(i), index.odom_T_ego(i), atol=1e-12
        )
        file, ego_T_lidar = index.lidar(i)
        assert file == lidar['filename']
        mount = pose_of(nusc.get('calibrated_sensor', lidar['calibrated_sensor_token']))
        np.testing.assert_allclose(odom_T_ego @ ego_T_lidar, odom_T_base @ mount, atol=1e-9)
        images = index.images(i)
        assert [image.camera for image in images] == list(index.cameras)
        for image in images:
            record = nusc.get('sample_data', data[camera_channel(image.camera)])
            sensor = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
            assert image.file == record['filename']
            assert image.stamp_ns == record['timestamp'] * 1000
            assert image.model.size_px == (record['width'], record['height'])
            np.testing.assert_array_equal(image.model.K, sensor['camera_intrinsic'])
            exposed = pose_of(nusc.get('ego_pose', record['ego_pose_token']))
            odom_T_cam = exposed @ pose_of(sensor)
            np.testing.assert_allclose(odom_T_ego @ image.ego_T_cam, odom_T_cam, atol=1e-9)
            still = rigid.inverse(index.base_T_ego(i)) @ pose_of(sensor)
            moved.append(np.linalg.norm((image.ego_T_cam - still)[:3, 3]))
    assert max(moved) > 0.1  # m: the vehicle drives on between exposure and sweep


def test_boxes_are_those_of_the_devkit(index: NuscenesIndex, nusc: Any) -> None:
    total = 0
    for i in range(len(index)):
        sample = nusc.get('sample', index.token(i))
        records = [nusc.get('sample_annotation', token) for token in sample['anns']]
        kinds = {'vehicle': 'vehicle', 'human': 'pedestrian'}
        records = [r for r in records if r['category_name'].split('.')[0] in kinds]
        boxes = index.boxes(i)
        assert len(boxes.names) == len(records) == len(index.footprints(i))
        ego_T_odom = rigid.inverse(index.odom_T_ego(i))
        for n, record in enumerate(records):
            assert boxes.names[n] == kinds[record['category_name'].split('.')[0]]
            width, length, height = record['size']
            assert boxes.size_m[n] == pytest.approx([length, width, height], rel=1e-6)
            assert boxes.lidar_points[n] == record['num_lidar_pts']
            middle = {'1': 0.2, '2': 0.5, '3': 0.7, '4': 0.9}[record['visibility_token']]
            assert boxes.visibility[n] == pytest.approx(middle)
            box = nusc.get_box(record['token'])
            center = rigid.transform_points(ego_T_odom, box.center[None])[0]
            np.testing.assert_allclose(boxes.center_m[n], center, atol=1e-4)
            ahead = ego_T_odom[:3, :3] @ box.rotation_matrix[:, 0]
            heading = (np.cos(boxes.yaw_rad[n]), np.sin(boxes.yaw_rad[n]))
            np.testing.assert_allclose(heading, ahead[:2] / np.hypot(*ahead[:2]), atol=1e-6)
            bottom = rigid.transform_points(ego_T_odom, box.bottom_corners().T)[:, :2]
            away = np.linalg.norm(index.footprints(i)[n][:, None] - bottom[None], axis=-1)
            assert away.min(0).max() < 1e-4 > away.min(1).max()
            total += 1
    assert total > 60
    assert index.has_boxes


def test_bottom_of_a_box_on_a_slope_by_hand() -> None:
    ego_T_box = np.eye(4)
    ego_T_box[:3, :3] = [[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]  # nose down
    got = box_bottoms(ego_T_box, np.array([4.0, 2.0, 1.0]))
    np.testing.assert_allclose(got, [(1.3, -1), (1.3, 1), (-1.9, 1), (-1.9, -1)])


def test_second_opening_asks_no_devkit(
    nuscenes_set: Path, cache: Path, index: NuscenesIndex, no_devkit: None
) -> None:
    again = open_index(nuscenes_set, cache=cache)
    assert (again.path, again.key) == (index.path, index.key)
    copy = pickle.loads(pickle.dumps(again))
    for i in range(len(index)):
        np.testing.assert_array_equal(copy.boxes(i).center_m, index.boxes(i).center_m)
        for one, other in zip(copy.images(i), index.images(i), strict=True):
            assert (one.file, one.model) == (other.file, other.model)
            np.testing.assert_array_equal(one.ego_T_cam, other.ego_T_cam)


def test_new_process_opens_it_without_importing_the_devkit(
    nuscenes_set: Path, cache: Path, index: NuscenesIndex
) -> None:
    program = f"""
import sys
from pathlib import Path
from bev_training.data.nuscenes_index import open_index
index = open_index(Path({str(nuscenes_set)!r}), cache=Path({str(cache)!r}))
print(len(index), 'nuscenes' in sys.modules)
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.stdout.split() == [str(len(index)), 'False'], done.stderr


def test_changed_table_is_compiled_again(nuscenes_copy: Path, tmp_path: Path) -> None:
    cache, steps = tmp_path / 'cache', []

    def progress(what: str, done: int, total: int) -> None:
        steps.append((what, done, total))

    before = open_index(nuscenes_copy, cache=cache, progress=progress)
    assert steps == [('nuScenes tables', 1, 2), ('nuScenes tables', 2, 2)]
    assert open_index(nuscenes_copy, cache=cache, progress=progress).key == before.key
    assert len(steps) == 2

    def none_of_the_last(records: list[Any]) -> list[Any]:
        return [r for r in records if r['sample_token'] != before.token(3)]

    changed(nuscenes_copy, 'sample_annotation', none_of_the_last)
    after = open_index(nuscenes_copy, cache=cache, progress=progress)
    assert len(steps) == 4
    assert after.path == before.path  # what is out of date takes no room
    assert len(before.boxes(3).names) > 5 > len(after.boxes(3).names) == 0
    assert before.boxes(2).names == after.boxes(2).names
    with pytest.raises(BagError, match='made from other tables; open the data set again'):
        pickle.loads(pickle.dumps(before))
    assert [path.name for path in after.path.parent.iterdir()] == [after.path.name]


def test_only_one_of_two_openers_compiles(
    nuscenes_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, compile_tables = [], nuscenes_index.compile_tables

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return compile_tables(*arguments)

    monkeypatch.setattr(nuscenes_index, 'compile_tables', counted)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(open_index, nuscenes_copy, cache=tmp_path) for _ in range(2)]
        one, other = (each.result() for each in both)
    assert len(asked) == 1
    assert one.key == other.key


def test_damaged_index_is_compiled_again(nuscenes_copy: Path, tmp_path: Path) -> None:
    path = open_index(nuscenes_copy, cache=tmp_path).path
    path.write_bytes(path.read_bytes()[:500])
    assert len(open_index(nuscenes_copy, cache=tmp_path)) == 4


def test_missing_table_is_named(nuscenes_copy: Path, tmp_path: Path) -> None:
    (nuscenes_copy / VERSION / 'visibility.json').unlink()
    with pytest.raises(BagError, match=r'v1\.0-mini/visibility\.json is missing'):
        open_index(nuscenes_copy, cache=tmp_path)
    assert not list(tmp_path.glob('nuscenes/*'))


def test_damaged_tables_are_one_line(nuscenes_copy: Path, tmp_path: Path) -> None:
    path = nuscenes_copy / VERSION / 'ego_pose.json'
    whole = path.read_text()
    path.write_text(whole[:-100])
    with pytest.raises(BagError, match='a table is no JSON') as caught:
        open_index(nuscenes_copy, cache=tmp_path)
    assert '\n' not in str(caught.value)
    path.write_text(json.dumps(json.loads(whole)[1:]))
    with pytest.raises(BagError, match='names what is in no table'):
        open_index(nuscenes_copy, cache=tmp_path)


def test_splits_that_are_none_are_one_line(nuscenes_copy: Path, tmp_path: Path) -> None:
    path = nuscenes_copy / VERSION / 'splits.json'
    for content in ('["scene-0061"]', '{"night_train": "scene-0061"}'):
        path.write_text(content)
        with pytest.raises(BagError, match='no table of splits, each a list of scenes'):
            open_index(nuscenes_copy, cache=tmp_path)
    path.write_text('{"night_train": ["scene-0001"]}')
    with pytest.raises(BagError, match="'night_train' names 'scene-0001', which is no scene here"):
        open_index(nuscenes_copy, cache=tmp_path)


def test_tables_of_other_things_are_one_line(nuscenes_copy: Path, tmp_path: Path) -> None:
    changed(nuscenes_copy, 'category', lambda records: [r | {'name': 7} for r in records])
    with pytest.raises(BagError, match=r'v1\.0-mini: the tables are damaged: .*int') as caught:
        open_index(nuscenes_copy, cache=tmp_path)
    assert '\n' not in str(caught.value)


def test_sample_without_lidar_is_named(nuscenes_copy: Path, tmp_path: Path) -> None:
    token = json.loads((nuscenes_copy / VERSION / 'sample.json').read_text())[1]['token']

    def no_lidar(records: list[Any]) -> list[Any]:
        return [
            r
            for r in records
            if not (r['sample_token'] == token and '/LIDAR_TOP/' in r['filename'])
        ]

    changed(nuscenes_copy, 'sample_data', no_lidar)
    with pytest.raises(BagError, match=f'sample {token} has no key frame of LIDAR_TOP'):
        open_index(nuscenes_copy, cache=tmp_path)


def test_uncalibrated_camera_is_named(nuscenes_copy: Path, tmp_path: Path) -> None:
    def no_size(records: list[Any]) -> list[Any]:
        return [r | {'width': 0} if '/CAM_BACK/' in r['filename'] else r for r in records]

    changed(nuscenes_copy, 'sample_data', no_size)
    with pytest.raises(BagError, match=r'CAM_BACK of sample_data \w+: image size is \(0, 36\)'):
        open_index(nuscenes_copy, cache=tmp_path)


def test_cache_that_cannot_be_written_is_named(nuscenes_set: Path, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='file/nuscenes cannot be written: Not a directory'):
        open_index(nuscenes_set, cache=tmp_path / 'file')


def test_splits(index: NuscenesIndex, tmp_path: Path) -> None:
    train, val = ['scene-0061'], ['scene-0103']
    for split, scenes in {
        '': train,
        'train': train,
        'val': val,
        'mini_train': train,
        'mini_val': val,
        'synthetic_train': train,
        'synthetic_val': val,
        'all': train + val,
    }.items():
        assert scenes_of(index, split, VERSION) == scenes, split
    listed = tmp_path / 'scenes.txt'
    listed.write_text('# those that I like\nscene-0103\n\n')
    assert scenes_of(index, str(listed), VERSION) == val
    with pytest.raises(ConfigError, match=r"no scene of split 'test'; its splits \(scenes\): "):
        scenes_of(index, 'test', VERSION)
    listed.write_text('scene-0103\nscene-0001\n')
    with pytest.raises(ConfigError, match="names 'scene-0001', which the data set does not have"):
        scenes_of(index, str(listed), VERSION)
    listed.write_text('\n')
    with pytest.raises(ConfigError, match='names no scene'):
        scenes_of(index, str(listed), VERSION)


class _Splits:
    """What `scenes_of` needs of an index."""

    scenes = ('scene-0001', 'scene-0002', 'scene-0003')

    def __init__(self, own: dict[str, list[str]], devkit: dict[str, list[str]]) -> None:
        self.splits, self.own_splits = devkit | own, list(own)


def test_default_splits_of_real_versions() -> None:
    devkit = {'train': ['scene-0001'], 'val': ['scene-0003'], 'mini_train': ['scene-0002']}
    whole: Any = _Splits({}, devkit)
    assert scenes_of(whole, '', 'v1.0-trainval') == ['scene-0001']
    assert scenes_of(whole, 'val', 'v1.0-trainval') == ['scene-0003']
    assert scenes_of(whole, '', 'v1.0-mini') == ['scene-0002']
    assert scenes_of(whole, 'train', 'v1.0-mini') == ['scene-0002']
    own: Any = _Splits({'night_train': ['scene-0002']}, devkit)
    assert scenes_of(own, '', 'v1.0-trainval') == ['scene-0002']
    assert scenes_of(own, 'train', 'v1.0-trainval') == ['scene-0001']
    assert scenes_of(own, 'night_train', 'v1.0-trainval') == ['scene-0002']
    neither: Any = _Splits({}, {})
    assert scenes_of(neither, '', 'v1.0-yard') == list(_Splits.scenes)
    with pytest.raises(ConfigError, match="no scene of split 'val'"):
        scenes_of(neither, 'val', 'v1.0-yard')


@pytest.mark.parametrize(
    ('description', 'weather'),
    [
        ('Rain, intersection, parked cars', 'rain'),
        ('Night, big street, bus stop, high speed, construction vehicle', 'night'),
        ('Night, after rain, many peds, PMD, jaywalker, scooter', 'night rain'),
        ('Rainy day, raining heavily', 'rain'),
        ('Parked truck, construction, intersection, turn left, following a van', ''),
        ('Train station, drain, knight, clear view', ''),
        ('synthetic, haze, town 2, synthetic_val', 'haze'),
        ('', ''),
    ],
)
def test_weather_is_what_the_description_tells(description: str, weather: str) -> None:
    assert weather_of(description) == weather
