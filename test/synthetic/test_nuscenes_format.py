"""Data sets in nuScenes' format: nuScenes' own devkit is the judge."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_training.synthetic.nuscenes_format import NuscenesSummary, write_nuscenes
from bev_training.synthetic.nuscenes_format.config import TRAIN, VAL, ScenePlan, plan_scenes
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.truth import CLASSES, class_grids, ego_pose
from bev_training.synthetic.world import World
from test.synthetic.nuscenes_data import (
    CONFIG,
    SIZE_PX,
    camera_of,
    chain,
    depth_at,
    hashes,
    judged_submission,
    seen_by,
    small_rig,
    time_of,
    world_of,
)

nuscenes = pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')


@pytest.fixture(scope='module')
def counted() -> list[int]:
    return []


@pytest.fixture(scope='module')
def summary(tmp_path_factory: pytest.TempPathFactory, counted: list[int]) -> NuscenesSummary:
    out = tmp_path_factory.mktemp('nuscenes') / 'data'
    return write_nuscenes(out, CONFIG, workers=1, progress=counted.append)


@pytest.fixture(scope='module')
def nusc(summary: NuscenesSummary) -> Any:
    return nuscenes.NuScenes('v1.0-mini', str(summary.path), verbose=False)


@pytest.fixture(scope='module')
def plan() -> ScenePlan:
    return plan_scenes(CONFIG)[1]


@pytest.fixture(scope='module')
def world(plan: ScenePlan) -> World:
    return world_of(CONFIG, plan)


@pytest.fixture(scope='module')
def renderer(world: World) -> Renderer:
    return Renderer(Scene(world))


@pytest.fixture(scope='module')
def sample(nusc: Any, plan: ScenePlan) -> dict[str, Any]:
    """Return the second sample of the validation scene."""
    scene = next(scene for scene in nusc.scene if scene['name'] == plan.name)
    return dict(nusc.get('sample', nusc.get('sample', scene['first_sample_token'])['next']))


def test_summary_counts_what_the_tables_hold(
    nusc: Any, summary: NuscenesSummary, counted: list[int]
) -> None:
    assert summary.version == 'v1.0-mini'
    assert (summary.scenes, len(nusc.scene), len(nusc.log), len(nusc.map)) == (2, 2, 2, 2)
    assert summary.samples == len(nusc.sample) == sum(counted) == 6
    images = [record for record in nusc.sample_data if record['sensor_modality'] == 'camera']
    assert summary.images == len(images) == 2 * 9 * 6
    assert summary.sweeps == len(nusc.sample_data) - len(images) == 2 * 15
    assert summary.annotations == len(nusc.sample_annotation) > 40
    files = [path for path in summary.path.rglob('*') if path.is_file()]
    assert summary.size_bytes == sum(path.stat().st_size for path in files)


def test_every_token_resolves(nusc: Any) -> None:
    tokens = [record['token'] for name in nusc.table_names for record in getattr(nusc, name)]
    shared = {record['token'] for record in nusc.ego_pose}  # each is named as its measurement
    assert len(set(tokens)) == len(tokens) - len(shared)
    assert all(len(token) == 32 or token in '1234' for token in tokens)
    for name in nusc.table_names:
        for record in getattr(nusc, name):
            for field, value in record.items():
                table = field.removesuffix('_token')
                if field.endswith('_token') and table in nusc.table_names:
                    nusc.get(table, value)
    for record in nusc.sample_annotation:
        for token in record['attribute_tokens']:
            nusc.get('attribute', token)
    for record in nusc.sample_data:
        assert (Path(nusc.dataroot) / record['filename']).stat().st_size > 100
        folder = 'samples' if record['is_key_frame'] else 'sweeps'
        assert record['filename'].startswith(f'{folder}/{record["channel"]}/')


def test_chains_hold_everything_in_order(nusc: Any) -> None:
    for scene in nusc.scene:
        samples = chain(nusc, 'sample', scene['first_sample_token'])
        assert samples[-1]['token'] == scene['last_sample_token']
        assert len(samples) == scene['nbr_samples'] == 3
        assert all(sample['scene_token'] == scene['token'] for sample in samples)
        gaps = {b['timestamp'] - a['timestamp'] for a, b in pairwise(samples)}
        assert gaps == {500_000}
        for channel, count in [('LIDAR_TOP', 15), ('CAM_FRONT', 9), ('CAM_BACK_LEFT', 9)]:
            first = nusc.get('sample_data', samples[0]['data'][channel])
            while first['prev']:
                first = nusc.get('sample_data', first['prev'])
            frames = chain(nusc, 'sample_data', first['token'])
            assert len(frames) == count
            assert all(a['timestamp'] < b['timestamp'] for a, b in pairwise(frames))
            keys = [frame['token'] for frame in frames if frame['is_key_frame']]
            assert keys == [sample['data'][channel] for sample in samples]
            order = [sample['token'] for sample in samples]
            owners = [order.index(frame['sample_token']) for frame in frames]
            assert owners == sorted(owners)
    for instance in nusc.instance:
        seen = chain(nusc, 'sample_annotation', instance['first_annotation_token'])
        assert len(seen) == instance['nbr_annotations']
        assert seen[-1]['token'] == instance['last_annotation_token']
        assert {record['instance_token'] for record in seen} == {instance['token']}
    assert sum(i['nbr_annotations'] for i in nusc.instance) == len(nusc.sample_annotation)


def test_key_frames_are_nearest_to_the_sample(nusc: Any) -> None:
    for sample in nusc.sample:
        for channel, token in sample['data'].items():
            record = nusc.get('sample_data', token)
            away = abs(record['timestamp'] - sample['timestamp'])
            assert away <= (0 if channel == 'LIDAR_TOP' else 42_700)
            for other in ('prev', 'next'):
                if record[other]:
                    beside = nusc.get('sample_data', record[other])
                    assert abs(beside['timestamp'] - sample['timestamp']) >= away


def test_splits(nusc: Any) -> None:
    from nuscenes.utils import splits

    names = {scene['name'] for scene in nusc.scene}
    train = names & set(splits.get_scenes_of_split('mini_train', nusc))
    val = names & set(splits.get_scenes_of_split('mini_val', nusc))
    assert (len(train), len(val)) == (1, 1)
    assert splits.get_scenes_of_split(TRAIN, nusc) == sorted(train)
    assert splits.get_scenes_of_split(VAL, nusc) == sorted(val)
    towns = {s['name']: nusc.get('log', s['log_token'])['location'] for s in nusc.scene}
    assert len(set(towns.values())) == 2


def test_poses_and_calibration_are_those_of_the_world(
    nusc: Any, world: World, plan: ScenePlan, sample: dict[str, Any]
) -> None:
    from nuscenes.utils.geometry_utils import transform_matrix
    from pyquaternion import Quaternion

    rig = small_rig()
    assert rig.lidar is not None
    for channel, token in sample['data'].items():
        record = nusc.get('sample_data', token)
        pose = nusc.get('ego_pose', record['ego_pose_token'])
        assert pose['timestamp'] == record['timestamp']
        got = transform_matrix(pose['translation'], Quaternion(pose['rotation']))
        np.testing.assert_allclose(got, world.map_T_base(time_of(plan, record)), atol=1e-9)
        calibrated = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
        got = transform_matrix(calibrated['translation'], Quaternion(calibrated['rotation']))
        if channel == 'LIDAR_TOP':
            wanted = rig.lidar.base_T_lidar
            assert calibrated['camera_intrinsic'] == []
        else:
            wanted = camera_of(rig, channel).base_T_cam
            K = np.array(calibrated['camera_intrinsic'])
            np.testing.assert_array_equal(K, camera_of(rig, channel).camera.K)
        np.testing.assert_allclose(got, wanted, atol=1e-9)


def test_images_are_what_the_cameras_see(
    nusc: Any, renderer: Renderer, plan: ScenePlan, sample: dict[str, Any]
) -> None:
    for channel in ('CAM_FRONT', 'CAM_BACK_RIGHT'):
        record = nusc.get('sample_data', sample['data'][channel])
        _, _, view = seen_by(renderer, plan, record)
        image = cv2.imread(nusc.get_sample_data_path(record['token']))[..., ::-1]
        assert image.shape == (record['height'], record['width'], 3) == view.image.shape
        assert np.abs(image.astype(int) - view.image).mean() < 8  # JPEG and noise
        assert np.abs(image.astype(int) - view.image[:, ::-1]).mean() > 10


def test_devkit_projects_points_as_we_do(
    nusc: Any, world: World, plan: ScenePlan, sample: dict[str, Any]
) -> None:
    lidar_token = sample['data']['LIDAR_TOP']
    rig = small_rig()
    assert rig.lidar is not None
    map_T_lidar = world.map_T_base(time_of(plan, sample)) @ rig.lidar.base_T_lidar
    file = nusc.get_sample_data_path(lidar_token)
    points = np.fromfile(file, np.float32).reshape(-1, 5)
    assert len(points) > 5000
    assert set(np.unique(points[:, 4])) <= set(range(32))
    points_map = rigid.transform_points(map_T_lidar, points[:, :3].astype(float))
    for each in rig.cameras:
        token = sample['data'][f'CAM_{each.name.upper()}']
        got, depth, _ = nusc.explorer.map_pointcloud_to_image(lidar_token, token)
        time_s = time_of(plan, nusc.get('sample_data', token))
        cam_T_map = rigid.inverse(world.map_T_base(time_s) @ each.base_T_cam)
        points_cam = rigid.transform_points(cam_T_map, points_map)
        uv, _ = each.camera.project(points_cam)
        # what the devkit keeps
        kept = (points_cam[:, 2] > 1) & (uv > 1).all(1) & (uv < np.array(SIZE_PX) - 1).all(1)
        assert got.shape[1] == kept.sum() > 200
        assert np.abs(got[:2].T - uv[kept]).max() < 0.01
        assert np.abs(depth - points_cam[kept, 2]).max() < 0.001


def test_points_lie_on_what_the_cameras_see(
    nusc: Any, renderer: Renderer, plan: ScenePlan, sample: dict[str, Any]
) -> None:
    scale, world = 4, renderer.scene.world
    size_px = (SIZE_PX[0] * scale, SIZE_PX[1] * scale)
    differences = []
    for channel in ('CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_BACK'):
        token = sample['data'][channel]
        pixels, depth, _ = nusc.explorer.map_pointcloud_to_image(
            sample['data']['LIDAR_TOP'], token
        )
        _, _, view = seen_by(renderer, plan, nusc.get('sample_data', token), size_px)
        uv = (pixels[:2].T + 0.5) * scale - 0.5  # the same place in a larger image
        seen, what = depth_at(view, uv)
        flat = ~np.isin(what, world.movers) & (what > -2)
        differences.append(seen[flat] - depth[flat])
    difference = np.concatenate(differences)
    assert len(difference) > 500
    assert np.median(np.abs(difference)) < 0.03
    assert (np.abs(difference) < 0.15).mean() > 0.8


def test_devkit_projects_boxes_as_we_do(
    nusc: Any, renderer: Renderer, plan: ScenePlan, sample: dict[str, Any]
) -> None:
    from nuscenes.utils.geometry_utils import BoxVisibility, view_points

    world = renderer.scene.world
    ours = world.boxes(time_of(plan, sample))
    signs = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing='ij'), -1).reshape(-1, 3)
    compared = bounded = 0
    for channel in ('CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_FRONT_RIGHT', 'CAM_BACK'):
        token = sample['data'][channel]
        record = nusc.get('sample_data', token)
        _, boxes, K = nusc.get_sample_data(token, box_vis_level=BoxVisibility.ALL)
        each, map_T_cam, view = seen_by(renderer, plan, record)
        for box in boxes:
            instance = nusc.get('sample_annotation', box.token)['instance_token']
            got = view_points(box.corners(), K, normalize=True)[:2].T
            centre = map_T_cam[:3, :3] @ box.center + map_T_cam[:3, 3]
            gap = np.linalg.norm(ours.map_T_box[:, :3, 3] - centre, axis=1)
            i = int(gap.argmin())
            assert gap[i] < 1e-6, instance
            corners = rigid.transform_points(ours.map_T_box[i], signs * ours.size_m[i])
            points_cam = rigid.transform_points(rigid.inverse(map_T_cam), corners)
            wanted, _ = each.camera.project(points_cam)
            away = np.linalg.norm(got[:, None] - wanted[None], axis=-1)
            assert away.min(1).max() < 0.01  # the devkit has another order of corners
            assert away.min(0).max() < 0.01
            compared += 1
            rows, columns = np.nonzero(view.actors == ours.actor[i])
            if len(rows) and np.linalg.norm(ours.velocity_mps[i]) < 0.01:
                low, high = got.min(0) - 1, got.max(0) + 1
                assert low[0] <= columns.min() <= columns.max() <= high[0]
                assert low[1] <= rows.min() <= rows.max() <= high[1]
                bounded += 1
    assert compared >= 5
    assert bounded >= 3


def test_points_in_boxes_are_those_that_the_devkit_counts(nusc: Any) -> None:
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    total = 0
    for sample in nusc.sample[::2]:
        path, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
        points = LidarPointCloud.from_file(path).points[:3].astype(float)
        assert len(boxes) == len(sample['anns'])
        for box in boxes:
            said = nusc.get('sample_annotation', box.token)['num_lidar_pts']
            assert abs(points_in_box(box, points).sum() - said) <= 1 + 0.01 * said
            total += said
    assert total > 300


def test_annotations_say_what_the_objects_do(
    nusc: Any, world: World, plan: ScenePlan, sample: dict[str, Any]
) -> None:
    ours = world.boxes(time_of(plan, sample))
    sizes, names = [], set()
    for token in sample['anns']:
        record = nusc.get('sample_annotation', token)
        gap = np.linalg.norm(ours.map_T_box[:, :3, 3] - record['translation'], axis=1)
        i = int(gap.argmin())
        assert gap[i] < 1e-9
        length, width, height = ours.size_m[i]
        assert record['size'] == pytest.approx([width, length, height])
        assert record['num_lidar_pts'] > 0 or record['visibility_token'] in '1234'
        attributes = [nusc.get('attribute', a)['name'] for a in record['attribute_tokens']]
        names.add(record['category_name'])
        if record['category_name'] == 'vehicle.car':
            speed = np.linalg.norm(ours.velocity_mps[i])
            still = 'vehicle.parked' if ours.parked[i] else 'vehicle.stopped'
            assert attributes == ['vehicle.moving' if speed > 0.2 else still]
            sizes.append(length / width)
            got = nusc.box_velocity(token)
            if record['prev'] and record['next']:
                assert np.linalg.norm(got - ours.velocity_mps[i]) < 0.8
    assert 'vehicle.car' in names
    assert min(sizes) > 1.5
    levels = {record['visibility_token'] for record in nusc.sample_annotation}
    assert {'1', '4'} <= levels <= {'1', '2', '3', '4'}


@pytest.mark.parametrize('layer', ['drivable_area', 'walkway', 'ped_crossing'])
def test_map_masks_are_our_truth(
    layer: str, nusc: Any, world: World, plan: ScenePlan, sample: dict[str, Any]
) -> None:
    from nuscenes.map_expansion.map_api import NuScenesMap
    from pyquaternion import Quaternion

    scene = nusc.get('scene', sample['scene_token'])
    nusc_map = NuScenesMap(nusc.dataroot, nusc.get('log', scene['log_token'])['location'])
    cell_m = 0.1
    grid = BevGrid(x_range_m=(-30, 30), y_range_m=(-30, 30), cell_m=cell_m)
    time_s = time_of(plan, sample)
    wanted = class_grids(world, grid, time_s)[CLASSES.index(layer)] > 0
    record = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
    pose = nusc.get('ego_pose', record['ego_pose_token'])
    yaw_deg = float(np.degrees(Quaternion(pose['rotation']).yaw_pitch_roll[0]))
    # the devkit's pixels are points half a cell beside our cells' middles
    x, y = (ego_pose(world, time_s) @ (cell_m / 2, cell_m / 2, 0, 1))[:2]
    got = nusc_map.get_map_mask((x, y, 60.0, 60.0), yaw_deg, [layer], wanted.shape)[0] > 0
    differs = got != wanted
    assert layer == 'ped_crossing' or 0.02 < wanted.mean() < 0.98
    assert differs.mean() < 0.01
    fat = cv2.dilate(wanted.astype(np.uint8), np.ones((5, 5), np.uint8))
    thin = cv2.erode(wanted.astype(np.uint8), np.ones((5, 5), np.uint8))
    assert not (differs & (fat == thin)).any()


def test_picture_of_the_map_is_drivable_where_we_drove(nusc: Any) -> None:
    for scene in nusc.scene:
        log = nusc.get('log', scene['log_token'])
        mask = nusc.get('map', log['map_token'])['mask']
        sample = nusc.get('sample', scene['first_sample_token'])
        record = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
        x, y, _ = nusc.get('ego_pose', record['ego_pose_token'])['translation']
        assert mask.is_on_mask(x, y).all()


def test_own_annotations_are_a_perfect_detection(nusc: Any, tmp_path: Path) -> None:
    judge = judged_submission(nusc, 'mini_val', tmp_path)
    assert len(judge.sample_tokens) == 3
    near = {box.detection_name for box in judge.gt_boxes.all}
    metrics, _ = judge.evaluate()
    assert 'car' in near
    for name in near:
        assert metrics.mean_dist_aps[name] > 0.99, name
        for kind in ('trans_err', 'scale_err', 'orient_err', 'vel_err', 'attr_err'):
            error = metrics.get_label_tp(name, kind)
            assert np.isnan(error) or error < 1e-6, (name, kind)


def test_scenes_are_made_again_bit_by_bit(summary: NuscenesSummary, tmp_path: Path) -> None:
    one = replace(CONFIG, scenes=1, sweeps=False)
    alone = write_nuscenes(tmp_path / 'alone', one, workers=2)  # two threads
    assert alone.images + alone.sweeps == 3 * 7
    got, all_scenes = hashes(alone.path), hashes(summary.path)
    files = {name: value for name, value in got.items() if not name.startswith('v1.0')}
    assert len(files) == 3 * 7 + 2  # and two of the map
    assert files.items() <= all_scenes.items()
    for table in ('sample', 'sample_annotation', 'instance', 'calibrated_sensor', 'sensor'):
        records, more = (
            json.loads((folder / f'v1.0-mini/{table}.json').read_text())
            for folder in (alone.path, summary.path)
        )
        assert records == more[: len(records)] != []
    keys = json.loads((alone.path / 'v1.0-mini/sample_data.json').read_text())
    assert all(record['is_key_frame'] for record in keys)
