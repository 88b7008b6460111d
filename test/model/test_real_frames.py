"""Real nuScenes frames through prepare and the lifting table; skipped where there are none.

The lidar is the witness: its points, moved to a camera by the recorded poses, must land where that
camera sees them, and edges of depth must lie on edges of the image.
"""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.config import ModelConfig
from bev_perception.model.lift_table import build_table
from bev_perception.preprocess import prepare, to_pinhole
from bev_perception.views import CameraView, ViewSet

SIZE_PX = (400, 224)


def pose_of(row):
    """nuScenes writes quaternions as wxyz."""
    w, x, y, z = row['rotation']
    return rigid.from_quat_xyzw((x, y, z, w), row['translation'])


@pytest.fixture(scope='module')
def samples(shared_data):
    """One (ViewSet, lidar points (n, 3) in the ego frame) per sample."""
    root = shared_data / 'nuscenes_devkit_root'
    if not root.is_dir():
        pytest.skip(f'no real frames: {root} does not exist')
    tables = {
        name: {
            row['token']: row for row in json.loads((root / f'v1.0-mini/{name}.json').read_text())
        }
        for name in ('sample', 'sample_data', 'calibrated_sensor', 'ego_pose', 'sensor')
    }
    return [_sample(root, tables, token) for token in tables['sample']]


def _sample(root, tables, token):
    rows = {}
    for row in tables['sample_data'].values():
        if row['sample_token'] == token and row['is_key_frame']:
            mount = tables['calibrated_sensor'][row['calibrated_sensor_token']]
            channel = tables['sensor'][mount['sensor_token']]['channel']
            rows[channel] = (row, mount, pose_of(tables['ego_pose'][row['ego_pose_token']]))
    row, mount, world_T_base = rows.pop('LIDAR_TOP')
    base_T_ego = rigid.level(world_T_base)
    ego_T_world = rigid.inverse(world_T_base @ base_T_ego)
    points = np.fromfile(root / row['filename'], np.float32).reshape(-1, 5)[:, :3].astype(float)
    ego_T_lidar = ego_T_world @ world_T_base @ pose_of(mount)
    points = rigid.transform_points(ego_T_lidar, points[np.linalg.norm(points, axis=1) > 3])
    views = []
    for channel, (image_row, camera_mount, world_T_base_cam) in sorted(rows.items()):
        if not channel.startswith('CAM'):
            continue
        image = cv2.imread(str(root / image_row['filename']))[..., ::-1]
        views.append(
            CameraView(
                name=channel,
                image=np.ascontiguousarray(image),
                camera=Camera(
                    K=np.array(camera_mount['camera_intrinsic']), size_px=image.shape[1::-1]
                ),
                ego_T_cam=ego_T_world @ world_T_base_cam @ pose_of(camera_mount),
                stamp_ns=image_row['timestamp'] * 1000,
            )
        )
    stamp_ns = row['timestamp'] * 1000
    return ViewSet(stamp_ns=stamp_ns, views=tuple(views), base_T_ego=base_T_ego), points


def test_lidar_lands_where_the_cameras_look(samples):
    """Prepared cameras see the same lidar points as the originals, but for those cropped away."""
    for view_set, points in samples:
        assert len(view_set.views) == 6
        for view in view_set.views:
            _, camera, ego_T_cam = to_pinhole(view, SIZE_PX)
            uv, seen = view.camera.project(
                rigid.transform_points(rigid.inverse(view.ego_T_cam), points)
            )
            got, still = camera.project(rigid.transform_points(rigid.inverse(ego_T_cam), points))
            # 1600 x 900 becomes 400 x 225, of which the top row goes.
            expected = (uv + 0.5) / 4 - 0.5 - (0, 1)
            np.testing.assert_allclose(got[still], expected[still], atol=1e-6)
            np.testing.assert_array_equal(still, seen & (expected[:, 1] >= -0.5))
            assert 1000 < still.sum() < len(points) / 2


def test_depth_edges_lie_on_image_edges(samples):
    """Where the lidar jumps in depth, the prepared images have stronger edges than elsewhere; with
    the camera turned by 3 degrees (17 px) they do not.
    """
    gain = {0.0: [], 3.0: []}
    for view_set, points in samples:
        for view in view_set.views:
            image, camera, ego_T_cam = to_pinhole(view, SIZE_PX)
            edges = cv2.GaussianBlur(cv2.Canny(image, 80, 200).astype(float), (0, 0), 1.0)
            for yaw_deg, values in gain.items():
                turn = np.eye(4)
                turn[:3, :3] = cv2.Rodrigues(np.array([0, np.radians(yaw_deg), 0]))[0]
                points_cam = rigid.transform_points(rigid.inverse(ego_T_cam @ turn), points)
                at = depth_jumps(camera, points_cam)
                values.append(edges[at[:, 1], at[:, 0]].mean() / edges.mean())
    right, turned = (np.mean(values) for values in gain.values())
    print(f'\nimage edges at depth jumps, relative to the mean: {right:.2f}; turned: {turned:.2f}')
    assert right > 1.1 * turned


def depth_jumps(camera, points_cam):
    """Pixels of near points that have a point 3 m farther within a few columns of them."""
    uv, seen = camera.project(points_cam)
    uv, depth = uv[seen].round().astype(int), points_cam[seen, 2]
    width, height = camera.size_px
    far = np.full((height, width), -np.inf)
    uv = uv.clip(0, (width - 1, height - 1))
    np.maximum.at(far, (uv[:, 1], uv[:, 0]), depth)
    wide = cv2.dilate(np.where(np.isfinite(far), far, 0), np.ones((1, 7)))
    return uv[(wide[uv[:, 1], uv[:, 0]] > depth + 3) & (depth < 25)]


def test_coverage_is_that_of_the_six_frusta(samples):
    """A cell is covered where any camera's original image contains one of its voxel centres."""
    config = ModelConfig(grid=BevGrid(z_cells=4))
    for view_set, _ in samples:
        inputs = prepare(view_set, config)
        table = build_table(
            inputs.K[0],
            inputs.ego_T_cam[0],
            inputs.live[0],
            grid=config.grid,
            size_px=config.image_size_px,
            feature_px=(50, 28),
        )
        covered = table.valid[0].any(0).numpy()
        expected, surely = frusta(view_set, config.grid)
        np.testing.assert_array_equal(covered[surely], expected[surely])
        assert surely.mean() > 0.99 and 0.95 < covered.mean() < 1
        centre = covered[100 - 2 : 100 + 2, 100 - 1 : 100 + 1]
        print(f'\ncovered: {covered.mean():.1%} of the cells')
        assert not centre.all()  # the vehicle's own place


def frusta(view_set, grid):
    """Whether any camera sees a voxel of each cell, by plane tests; and where that is sure."""
    Z, Y, X = grid.shape
    z, y, x = np.indices((Z, Y, X))
    points = np.stack([-50 + (x + 0.5) / 2, -50 + (y + 0.5) / 2, -1 + (z + 0.5) * 1.0], -1)
    seen, near = np.zeros((Z, Y, X), bool), np.zeros((Z, Y, X), bool)
    for view in view_set.views:
        R, t = view.ego_T_cam[:3, :3], view.ego_T_cam[:3, 3]
        p = (points - t) @ R
        fx, fy, cx, cy = view.camera.K[[0, 1, 0, 1], [0, 1, 2, 2]]
        # Signed distances to the planes through the image's four borders (the top row is cropped:
        # 4 of 900 rows), in pixels times depth, and to the near plane.
        sides = np.stack(
            [
                fx * p[..., 0] + (cx + 0.5) * p[..., 2],
                -fx * p[..., 0] + (1599.5 - cx) * p[..., 2],
                fy * p[..., 1] + (cy + 0.5 - 4) * p[..., 2],
                -fy * p[..., 1] + (899.5 - cy) * p[..., 2],
            ]
        )
        inside = (sides >= 0).all(0) & (p[..., 2] > 0.1)
        seen |= inside
        near |= (np.abs(sides).min(0) < 0.01 * np.abs(p[..., 2])) | (
            np.abs(p[..., 2] - 0.1) < 1e-3
        )
    return seen.any(0), ~near.any(0)
