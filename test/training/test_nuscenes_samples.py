"""Labelled samples in nuScenes' format, held against the town's own truth and real frames."""

from __future__ import annotations

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import Mask
from bev_training.data import nuscenes_labels
from bev_training.data.label_classes import AREAS, CLASSES, OBJECTS
from bev_training.data.nuscenes_index import open_index
from bev_training.data.nuscenes_labels import cached_labels, sample_grids
from bev_training.data.nuscenes_samples import NuscenesSamples, open_nuscenes
from bev_training.data.sample import LabelGrids, SampleSource, read_sample
from bev_training.data.sequences import instants_before
from bev_training.data.truth_labels import crossings_of
from bev_training.nuscenes_tables import camera_channel, pose_of
from bev_training.outlines import outlines
from bev_training.synthetic import truth
from bev_training.synthetic.categories import OBJECTS as CATEGORIES
from bev_training.synthetic.categories import VEHICLES
from bev_training.synthetic.nuscenes_format.config import plan_scenes
from bev_training.synthetic.world import World
from test.synthetic.nuscenes_data import TINY, world_of

nuscenes = pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')
GRID = BevGrid()
EGO_T_HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope='module')
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def source(nuscenes_set: Path, cache: Path) -> NuscenesSamples:
    """The validation scene of the town, every class."""
    return open_nuscenes(nuscenes_set, classes=CLASSES, grid=GRID, split='val', cache=cache)


@pytest.fixture
def exact_devkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The devkit moves float32 points to the map, hundreds of metres away, and back: that rounds
    by up to 0.06 mm, or 0.03 px of what is near. With float64 points it does the same exactly.
    """
    from nuscenes.utils.data_classes import LidarPointCloud

    from_file = LidarPointCloud.from_file

    def exact(name: str) -> Any:
        return LidarPointCloud(from_file(name).points.astype(np.float64))

    monkeypatch.setattr(LidarPointCloud, 'from_file', exact)


@pytest.fixture(scope='module')
def world() -> World:
    return world_of(TINY, plan_scenes(TINY)[1])


@pytest.fixture(scope='module')
def times_s(source: NuscenesSamples) -> list[float]:
    start_us = plan_scenes(TINY)[1].start_us
    return [
        (int(source.index.stamps_ns[row]) // 1000 - start_us) / 1e6 for row in source.rows.tolist()
    ]


@pytest.fixture(scope='module')
def real(shared_data: Path, cache: Path) -> NuscenesSamples:
    """Two real samples; there is no map expansion for them."""
    root = shared_data / 'nuscenes_devkit_root'
    if not root.is_dir():
        pytest.skip(f'no real frames: {root} does not exist')
    return open_nuscenes(root, classes=OBJECTS, grid=GRID, split='all', cache=cache)


def beside_edges(mask: Mask) -> Mask:
    """Return the cells that have a neighbour of the other kind."""
    cells, kernel = mask.astype(np.uint8), np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(cells, kernel) != cv2.erode(cells, kernel))


def agree(got: Mask, wanted: Mask) -> None:
    """Outlines of the format keep 5 mm: a cell may differ whose centre lies on an edge."""
    assert wanted.sum() > 50
    differs = got != wanted
    assert differs.mean() < 0.0005
    assert not (differs & ~beside_edges(wanted)).any()


def test_it_is_a_sample_source(source: NuscenesSamples) -> None:
    each: SampleSource = source
    assert (each.classes, each.grid) == (CLASSES, GRID)
    assert len(each) == len(each.keys) == len(set(each.keys)) == len(each.scenes) == 2
    assert set(each.scenes) == {'scene-0103'}
    assert all(key.startswith('scene-0103/') for key in each.keys)
    assert each.facts(0)['location'] == 'singapore-hollandvillage'
    assert 'clear' in each.facts(1)['description'] and each.facts(1)['weather'] == 'clear'
    sample = read_sample(each, 1, points=True)
    assert sample.key == each.keys[1]
    assert len(sample.view_set.views) == 6
    assert len(sample.points_m) > 5000
    with pytest.raises(IndexError):
        each.view_set(2)
    with pytest.raises(IndexError):
        each.labels(2)


def test_the_vehicle_s_place_is_that_of_the_tables(
    source: NuscenesSamples, world: World, times_s: list[float]
) -> None:
    for i, time_s in enumerate(times_s):
        view_set, found = source.view_set(i), source.whereabouts(i)
        assert found.stamp_ns == view_set.stamp_ns == int(source.index.stamps_ns[source.rows[i]])
        np.testing.assert_array_equal(found.odom_T_ego, view_set.odom_T_ego)
        map_T_base = world.map_T_base(time_s)
        np.testing.assert_allclose(
            found.odom_T_ego, map_T_base @ rigid.level(map_T_base), atol=1e-6
        )
    assert instants_before(source, 1, 2) == [0]


def test_areas_and_dividers_are_those_of_the_town(
    source: NuscenesSamples, world: World, times_s: list[float]
) -> None:
    for i, time_s in enumerate(times_s):
        wanted = truth.class_grids(world, GRID, time_s) > 0
        labels = source.labels(i)
        assert labels.known.all()
        for name in (*AREAS, 'road_divider', 'lane_divider'):
            n = CLASSES.index(name)
            agree(labels.positive[n], wanted[truth.CLASSES.index(name)])
            assert not labels.hidden[n].any()
        both = [wanted[truth.CLASSES.index(f'{kind}_divider')] for kind in ('road', 'lane')]
        agree(labels.positive[CLASSES.index('divider')], both[0] | both[1])


def test_road_boundary_is_the_rim_of_roads_without_car_parks(
    source: NuscenesSamples, world: World, times_s: list[float]
) -> None:
    """The town's rim runs around car parks too, which are in no road_segment and no lane."""
    car_parks = shapely.union_all(world.town.carparks)
    for i, time_s in enumerate(times_s):
        map_T_ego = truth.ego_pose(world, time_s)
        centers = GRID.cell_centers() @ map_T_ego[:2, :2].T + map_T_ego[:2, 3]
        away = shapely.distance(shapely.points(centers), car_parks) > 0.5
        assert 0.3 < away.mean() < 0.97
        wanted = truth.class_grids(world, GRID, time_s)[truth.CLASSES.index('road_boundary')] > 0
        got = source.labels(i).positive[CLASSES.index('road_boundary')]
        agree(got & away, wanted & away)
        assert (got != wanted)[~away].sum() > 20


def test_crossing_lines_are_those_of_the_town(
    source: NuscenesSamples, world: World, times_s: list[float]
) -> None:
    crossings = crossings_of(world)
    for i, time_s in enumerate(times_s):
        wanted = crossings.rasterised(truth.ego_pose(world, time_s), GRID)[0]
        agree(source.labels(i).positive[CLASSES.index('ped_crossing_line')], wanted)


def test_objects_are_exactly_the_annotated_ones_of_the_town(
    source: NuscenesSamples, world: World, times_s: list[float]
) -> None:
    for i, time_s in enumerate(times_s):
        boxes, labels = world.boxes(time_s), source.labels(i)
        map_T_ego = truth.ego_pose(world, time_s)
        centers = rigid.transform_points(map_T_ego, source.boxes(i).center_m)
        gap = np.linalg.norm(boxes.map_T_box[:, None, :3, 3] - centers[None], axis=-1)
        assert gap.min(0).max() < 1e-4
        annotated, corners = gap.min(1) < 1e-4, truth.footprints(boxes)
        whole = truth.class_grids(world, GRID, time_s) > 0
        for name, kinds in (('vehicle', VEHICLES), ('pedestrian', ('pedestrian',))):
            of_class = np.isin(boxes.category, [CATEGORIES.index(kind) for kind in kinds])
            ours = outlines((name,)).with_rings(
                corners[annotated & of_class], np.zeros((annotated & of_class).sum(), np.int64)
            )
            got = labels.positive[CLASSES.index(name)]
            np.testing.assert_array_equal(got, ours.rasterised(map_T_ego, GRID)[0])
            # what neither a camera nor the lidar has met is not annotated
            assert not (got & ~whole[truth.CLASSES.index(name)]).any()
        assert labels.positive[CLASSES.index('vehicle')].sum() > 200


def test_cells_of_hardly_visible_objects_only_are_hidden(source: NuscenesSamples) -> None:
    found = 0
    for i in range(len(source)):
        labels, boxes = source.labels(i), source.boxes(i)
        footprints = source.index.footprints(int(source.rows[i]))
        for name in OBJECTS:
            of_class = np.array([n == name for n in boxes.names])
            seen = of_class & (boxes.visibility > 0.4)
            visible = covered(footprints[seen])
            every = covered(footprints[of_class])
            n = CLASSES.index(name)
            np.testing.assert_array_equal(labels.positive[n], every)
            np.testing.assert_array_equal(labels.hidden[n], every & ~visible)
            found += labels.hidden[n].sum()
    assert found > 20
    assert {0.2, 0.9} <= set(np.round(source.boxes(0).visibility, 6))


def covered(footprints: np.ndarray) -> Mask:
    """Return the cells whose centres lie in one of the quadrilaterals, by another library."""
    area = shapely.union_all(shapely.polygons(footprints))
    centers = GRID.cell_centers()
    return np.asarray(shapely.contains_xy(area, centers[..., 0], centers[..., 1]))


def test_images_and_points_of_a_sample_fit_each_other(
    source: NuscenesSamples, nuscenes_set: Path, exact_devkit: None
) -> None:
    nusc = nuscenes.NuScenes('v1.0-mini', str(nuscenes_set), verbose=False)
    assert projections_agree(source, nusc, least=50) > 0.1


def test_images_shrink_while_decoding_and_cameras_follow(real: NuscenesSamples) -> None:
    whole, half = real.view_set(0), real.view_set(0, at_least_px=(800, 448))
    assert whole.stamp_ns == half.stamp_ns == int(real.index.stamps_ns[0])
    for large, small in zip(whole.views, half.views, strict=True):
        assert (large.camera.size_px, small.camera.size_px) == ((1600, 900), (800, 450))
        assert small.image.shape == (450, 800, 3)
        assert small.camera == large.camera.resized((800, 450))
        np.testing.assert_array_equal(small.ego_T_cam, large.ego_T_cam)


def test_devkit_projects_real_lidar_as_our_view_sets_do(
    real: NuscenesSamples, shared_data: Path, exact_devkit: None
) -> None:
    root = shared_data / 'nuscenes_devkit_root'
    nusc = nuscenes.NuScenes('v1.0-mini', str(root), verbose=False)
    assert projections_agree(real, nusc, least=1000) > 1


def projections_agree(source: NuscenesSamples, nusc: Any, least: int) -> float:
    """Compare with `map_pointcloud_to_image`; return by how many pixels the lidar would be off if
    the vehicle's motion between exposure and sweep were left out.
    """
    off = 0.0
    for i in range(len(source)):
        data = nusc.get('sample', source.keys[i].split('/')[1])['data']
        view_set, points = source.view_set(i), source.points(i).astype(np.float64)
        assert len(view_set.views) == 6
        for view in view_set.views:
            got, _, _ = nusc.explorer.map_pointcloud_to_image(
                data['LIDAR_TOP'], data[camera_channel(view.name)]
            )
            points_cam = rigid.transform_points(rigid.inverse(view.ego_T_cam), points)
            uv, _ = view.camera.project(points_cam)
            size_px = np.array(view.camera.size_px)
            # what the devkit keeps
            kept = (points_cam[:, 2] > 1) & (uv > 1).all(1) & (uv < size_px - 1).all(1)
            kept &= np.isfinite(uv).all(1)
            assert got.shape[1] == kept.sum() > least
            assert np.abs(got[:2].T - uv[kept]).max() < 0.01
            record = nusc.get('sample_data', data[camera_channel(view.name)])
            sensor = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
            still = rigid.inverse(view_set.base_T_ego) @ pose_of(sensor)
            without, _ = view.camera.project(
                rigid.transform_points(rigid.inverse(still), points[kept])
            )
            off = max(off, float(np.median(np.linalg.norm(without - uv[kept], axis=1))))
    return off


def test_real_boxes_hold_their_lidar_points(real: NuscenesSamples) -> None:
    exact = total = 0
    for i in range(len(real)):
        boxes, points = real.boxes(i), real.points(i).astype(np.float64)
        for n in range(len(boxes.names)):
            c, s = np.cos(boxes.yaw_rad[n]), np.sin(boxes.yaw_rad[n])
            from_center = points - boxes.center_m[n]
            in_box = from_center @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            inside = (np.abs(in_box) <= boxes.size_m[n] / 2).all(1).sum()
            if boxes.lidar_points[n] > 20:
                total += 1
                exact += inside == boxes.lidar_points[n]
    assert exact == total >= 10


def test_real_grids_lie_on_the_drivable_masks(real: NuscenesSamples, shared_data: Path) -> None:
    """There is a picture of the drivable area, 0.1 m a pixel: vehicles stand on it, and would not
    if the grid were turned around.
    """
    root = shared_data / 'nuscenes_devkit_root'
    nusc = nuscenes.NuScenes('v1.0-mini', str(root), verbose=False)
    right, turned = [], []
    for i in range(len(real)):
        sample = nusc.get('sample', real.keys[i].split('/')[1])
        log = nusc.get('log', nusc.get('scene', sample['scene_token'])['log_token'])
        mask = nusc.get('map', log['map_token'])['mask']
        odom_T_ego = real.index.odom_T_ego(int(real.rows[i]))
        drivable, around = (
            on_mask(mask, pose) for pose in (odom_T_ego, odom_T_ego @ EGO_T_HALF_TURN)
        )
        centers = GRID.cell_centers()
        below = (np.abs(centers[..., 0] - 1.4) < 2) & (np.abs(centers[..., 1]) < 0.9)
        assert drivable[below].all()  # the ego vehicle
        vehicle = real.labels(i).positive[real.classes.index('vehicle')]
        right.append(drivable[vehicle].mean())
        turned.append(around[vehicle].mean())
        assert vehicle.sum() > 50
        assert 0.05 < drivable.mean() < 0.8
    assert min(right) > 0.8
    assert np.mean(right) > np.mean(turned) + 0.2


def on_mask(mask: Any, odom_T_ego: np.ndarray) -> Mask:
    centers = GRID.cell_centers() @ odom_T_ego[:2, :2].T + odom_T_ego[:2, 3]
    on = mask.is_on_mask(centers[..., 0].ravel(), centers[..., 1].ravel())
    return np.asarray(on).reshape(GRID.shape[1:])


def test_second_opening_rasterises_nothing(
    source: NuscenesSamples,
    nuscenes_set: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError('rasterised again')

    monkeypatch.setattr(nuscenes_labels, 'sample_grids', refuse)
    monkeypatch.setattr(nuscenes_labels, 'read_map', refuse)
    some = ('vehicle', 'drivable_area')
    other_heights = replace(GRID, z_range_m=(-2.0, 4.0), z_cells=6)
    again = open_nuscenes(
        nuscenes_set, classes=some, grid=other_heights, split='synthetic_val', cache=cache
    )
    copy = pickle.loads(pickle.dumps(again))
    assert copy.keys == source.keys
    for i in range(2):
        got, whole = copy.labels(i), source.labels(i)
        assert got.classes == some
        for n, name in enumerate(some):
            np.testing.assert_array_equal(got.positive[n], whole.positive[CLASSES.index(name)])
        one, other = copy.view_set(i), source.view_set(i)
        assert [v.name for v in one.views] == list(source.cameras)
        for a, b in zip(one.views, other.views, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
    with pytest.raises(RuntimeError, match='rasterised again'):  # other cells
        open_nuscenes(
            nuscenes_set, classes=some, grid=BevGrid(cell_m=1.0), split='val', cache=cache
        )
    assert not list(cache.glob('nuscenes/.*'))


def test_forked_process_reads_the_same(source: NuscenesSamples) -> None:
    with multiprocessing.get_context('fork').Pool(1) as pool:
        got = pool.apply(summed, (source, 1))
    assert got == summed(source, 1)


def summed(source: NuscenesSamples, i: int) -> list[float]:
    sample = read_sample(source, i, points=True)
    image = sample.view_set.views[0].image
    parts = (image, sample.labels.positive, sample.boxes.center_m, sample.points_m)
    return [float(part.sum()) for part in parts]


def test_several_processes_give_the_same_grids(
    source: NuscenesSamples, nuscenes_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nuscenes_labels, '_MANY', 3)
    monkeypatch.setattr(nuscenes_labels, '_AHEAD', 1)
    index, steps = open_index(nuscenes_set, cache=tmp_path), []

    def progress(what: str, done: int, total: int) -> None:
        steps.append((what, done, total))

    rows = np.arange(len(index))
    store = cached_labels(
        index,
        rows,
        dataroot=nuscenes_set,
        classes=CLASSES,
        grid=GRID,
        workers=2,
        progress=progress,
    )
    assert steps == [('maps', 1, 2), ('maps', 2, 2), *[('labels', n, 4) for n in (1, 2, 3, 4)]]
    for i in range(2):
        got, wanted = store.grids(2 + i, CLASSES, GRID), source.labels(i)
        np.testing.assert_array_equal(got.positive, wanted.positive)
        np.testing.assert_array_equal(got.hidden, wanted.hidden)


def test_a_scene_of_unknown_weather_has_none(real: NuscenesSamples) -> None:
    assert 'description' in real.facts(0) and 'weather' not in real.facts(0)


def test_sample_without_a_map_has_objects_only(source: NuscenesSamples) -> None:
    got = sample_grids(source.index, int(source.rows[0]), {}, CLASSES, GRID)
    assert isinstance(got, LabelGrids)
    objects = [CLASSES.index(name) for name in OBJECTS]
    np.testing.assert_array_equal(got.positive[objects], source.labels(0).positive[objects])
    assert not np.delete(got.positive, objects, axis=0).any()
