"""The seam: checks of CameraView and `fit_camera`; real images, lidar and boxes hang together."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass

import cv2
import numpy as np
import pytest

from bev_perception.errors import CalibrationError, MessageError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.transforms import StampedTransform, TransformTree
from bev_perception.views import CameraView, ViewSet, fit_camera

K = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])
CAMERA = Camera(K=K, size_px=(640, 480))


def image_of(height, width, channels=3, dtype=np.uint8):
    return np.zeros((height, width, channels), dtype)


def view_of(image, camera=CAMERA):
    return CameraView(name='front', image=image, camera=camera, ego_T_cam=np.eye(4), stamp_ns=5)


# --- CameraView ---------------------------------------------------------------------------------


def test_view_takes_an_image_of_its_camera_s_size():
    image = image_of(480, 640)
    assert view_of(image).image is image  # no copy


@pytest.mark.parametrize('image', [image_of(640, 480), image_of(479, 640), image_of(480, 641)])
def test_view_refuses_a_camera_of_another_size(image):
    with pytest.raises(CalibrationError, match=r'front: camera is of size \(640, 480\), image of'):
        view_of(image)


@pytest.mark.parametrize(
    'image',
    [
        image_of(480, 640, dtype=np.float32),
        image_of(480, 640, dtype=np.int8),
        image_of(480, 640, channels=4),
        image_of(480, 640, channels=1),
        image_of(480, 640)[..., 0],
    ],
)
def test_view_refuses_what_is_not_uint8_rgb(image):
    with pytest.raises(MessageError, match=r'front: image is \(480, 640.*\(h, w, 3\) uint8'):
        view_of(image)


def test_views_and_sets_cannot_be_changed():
    views = ViewSet(stamp_ns=5, views=(view_of(image_of(480, 640)),))
    assert views.missing == ()
    np.testing.assert_array_equal(views.base_T_ego, np.eye(4))
    with pytest.raises(FrozenInstanceError):
        views.stamp_ns = 6
    with pytest.raises(FrozenInstanceError):
        views.views[0].name = 'back'
    with pytest.raises(TypeError, match='positional'):
        ViewSet(5, ())


# --- fit_camera ---------------------------------------------------------------------------------


def test_camera_of_the_right_size_stays_itself():
    assert fit_camera(CAMERA, image_of(480, 640), 'front') is CAMERA


def test_camera_follows_an_image_of_half_the_size():
    # cx (319.5 + 0.5) / 2 - 0.5 = 159.5: the centre of 320 columns again.
    fitted = fit_camera(CAMERA, image_of(240, 320), 'front')
    assert fitted.size_px == (320, 240)
    np.testing.assert_allclose(fitted.K, [[250, 0, 159.5], [0, 250, 119.5], [0, 0, 1]])


def test_decoders_may_round_the_size():
    # JPEG decoders round up: 641 x 481 at 1/8 is 81 x 61. 81/641 / (61/481) is 0.4 % from 1.
    camera = Camera(K=K, size_px=(641, 481))
    assert fit_camera(camera, image_of(61, 81), 'front').size_px == (81, 61)


@pytest.mark.parametrize(
    ('height', 'width', 'percent'),
    [(480, 480, '25.0%'), (360, 640, '33.3%'), (480, 620, '3.1%'), (640, 480, '43.8%')],
)
def test_image_of_another_aspect_is_refused(height, width, percent):
    with pytest.raises(CalibrationError) as caught:
        fit_camera(CAMERA, image_of(height, width), 'front')
    message = str(caught.value)
    assert message.startswith(f'front: image is {width}x{height} but CameraInfo describes 640x480')
    assert percent in message


# --- real images, lidar and boxes (nuScenes) ----------------------------------------------------


@dataclass
class Sample:
    """One real instant: six views in the levelled ego frame, lidar and boxes in the global one."""

    tree: TransformTree
    views: ViewSet
    global_T_ego: np.ndarray
    points_global: np.ndarray
    boxes: list[dict]


def pose_of(row):
    w, x, y, z = row['rotation']
    return rigid.from_quat_xyzw((x, y, z, w), row['translation'])


def read_sample(root, tables, sample) -> Sample:
    tree = TransformTree()
    records = [row for row in tables['sample_data'] if row['sample_token'] == sample['token']]
    records.sort(key=lambda row: row['timestamp'])
    for row in records:
        for parent, child, table in (
            ('global', 'ego', 'ego_pose'),
            ('ego', row['filename'].split('/')[1], 'calibrated_sensor'),
        ):
            pose = pose_of(tables[table][row[f'{table}_token']])
            transform = StampedTransform(
                parent=parent, child=child, stamp_ns=row['timestamp'] * 1000, parent_T_child=pose
            )
            tree.push(transform, static=parent == 'ego')
    (lidar,) = (row for row in records if 'LIDAR_TOP' in row['filename'])
    stamp_ns = lidar['timestamp'] * 1000
    points = np.fromfile(root / lidar['filename'], np.float32).reshape(-1, 5)[:, :3]
    global_T_base = tree.lookup('global', 'ego', stamp_ns)
    base_T_ego = rigid.level(global_T_base)
    global_T_ego = global_T_base @ base_T_ego
    views = []
    for row in records:
        if row is lidar:
            continue
        name, at = row['filename'].split('/')[1], row['timestamp'] * 1000
        intrinsics = tables['calibrated_sensor'][row['calibrated_sensor_token']]
        view = CameraView(
            name=name,
            image=cv2.imread(str(root / row['filename']))[..., ::-1],
            camera=Camera(K=intrinsics['camera_intrinsic'], size_px=(1600, 900)),
            ego_T_cam=rigid.inverse(global_T_ego) @ tree.lookup('global', name, at),
            stamp_ns=at,
        )
        views.append(view)
    global_T_lidar = tree.lookup('global', 'LIDAR_TOP', stamp_ns)
    return Sample(
        tree=tree,
        views=ViewSet(stamp_ns=stamp_ns, views=tuple(views), base_T_ego=base_T_ego),
        global_T_ego=global_T_ego,
        points_global=rigid.transform_points(global_T_lidar, points.astype(np.float64)),
        boxes=[row for row in tables['annotation'] if row['sample_token'] == sample['token']],
    )


@pytest.fixture(scope='module')
def samples(shared_data):
    root = shared_data / 'nuscenes_devkit_root'
    if not root.is_dir():
        pytest.skip(f'no real nuScenes samples: {root} does not exist')

    def table(name):
        return json.loads((root / 'v1.0-mini' / f'{name}.json').read_text())

    tables = {
        'sample_data': table('sample_data'),
        'annotation': table('sample_annotation'),
        'ego_pose': {row['token']: row for row in table('ego_pose')},
        'calibrated_sensor': {row['token']: row for row in table('calibrated_sensor')},
    }
    return [read_sample(root, tables, sample) for sample in table('sample')]


def points_cam(sample: Sample, view: CameraView, points_global) -> np.ndarray:
    points_ego = rigid.transform_points(rigid.inverse(sample.global_T_ego), points_global)
    return rigid.transform_points(rigid.inverse(view.ego_T_cam), points_ego)


def inside_box(row, points_global) -> np.ndarray:
    width, length, height = row['size']
    points_box = rigid.transform_points(rigid.inverse(pose_of(row)), points_global)
    return (np.abs(points_box) <= np.array([length, width, height]) / 2).all(axis=-1)


def test_real_lidar_lands_in_the_images(samples):
    for sample in samples:
        assert len(sample.views.views) == 6
        seen_by = np.stack(
            [
                view.camera.project(points_cam(sample, view, sample.points_global))[1]
                for view in sample.views.views
            ]
        )
        assert (seen_by.mean(axis=1) > 0.08).all()
        assert seen_by.any(axis=0).mean() > 0.55
        # Neighbours overlap by a few degrees, nothing is seen three times.
        assert (seen_by.sum(axis=0) > 1).mean() < 0.1
        assert seen_by.sum(axis=0).max() <= 2


def test_real_boxes_hold_as_many_lidar_points_as_their_table_says(samples):
    checked = 0
    for sample in samples:
        for row in sample.boxes:
            if row['num_lidar_pts'] > 20:
                inside = inside_box(row, sample.points_global)
                assert inside.sum() == row['num_lidar_pts'], row['token']
                checked += 1
    assert checked == 14


def test_real_lidar_points_of_a_box_are_seen_inside_its_outline(samples):
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    checked = 0
    for sample in samples:
        for row in sample.boxes:
            points = sample.points_global[inside_box(row, sample.points_global)]
            width, length, height = row['size']
            box = rigid.transform_points(pose_of(row), corners * (length, width, height))
            for view in sample.views.views:
                uv, seen = view.camera.project(points_cam(sample, view, points))
                corners_cam = points_cam(sample, view, box)
                if len(points) < 5 or not seen.all() or (corners_cam[:, 2] < 1).any():
                    continue
                # Without Camera: K times the corner, by hand.
                outline = corners_cam @ view.camera.K.T
                hull = cv2.convexHull((outline[:, :2] / outline[:, 2:]).astype(np.float32))
                for pixel in uv:
                    assert cv2.pointPolygonTest(hull, tuple(map(float, pixel)), True) > -0.01
                checked += 1
    assert checked >= 10


def test_real_ego_poses_interpolate_to_the_one_left_out(samples):
    for sample in samples:
        edge = [view.stamp_ns for view in sample.views.views]
        thinned = TransformTree()
        for stamp_ns in sorted(edge)[::2]:
            known = sample.tree.lookup('global', 'ego', stamp_ns)
            transform = StampedTransform(
                parent='global', child='ego', stamp_ns=stamp_ns, parent_T_child=known
            )
            thinned.push(transform, static=False)
        for stamp_ns in sorted(edge)[1:-1:2]:
            difference = rigid.inverse(sample.tree.lookup('global', 'ego', stamp_ns))
            difference = difference @ thinned.lookup('global', 'ego', stamp_ns)
            assert np.linalg.norm(difference[:3, 3]) < 0.005
            assert np.trace(difference[:3, :3]) > 3 - 1e-5


def test_real_road_is_flat_in_the_levelled_ego_frame(samples):
    for sample in samples:
        points = rigid.transform_points(rigid.inverse(sample.global_T_ego), sample.points_global)
        distance = np.hypot(points[:, 0], points[:, 1])
        road = (distance > 4) & (distance < 12) & (np.abs(points[:, 1]) < 3) & (points[:, 2] < 0.5)
        assert road.sum() > 300
        assert abs(np.median(points[road, 2])) < 0.05
