"""Real recordings through the conversion: six surround cameras with lidar; one camera of ROS 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_training import messages
from bev_training.data.bag_inputs import BagSource
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.data.settings import ConvertConfig, KeyFrames
from test.data.small_bag import Entry, write_entries

CAMERAS = tuple(f'CAMERA_{n:02d}' for n in (1, 5, 6, 7, 8, 9))
SIZE_PX = (1936, 1216)


def pose_of(value: dict[str, Any]) -> np.ndarray:
    q, t = value['rotation'], value['translation']
    return rigid.from_quat_xyzw([q['qx'], q['qy'], q['qz'], q['qw']], [t['x'], t['y'], t['z']])


class Scene:
    """A scene of DDAD: three instants, six cameras of 1936x1216, a lidar, a pose per image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scene = json.loads(next(folder.glob('scene_*.json')).read_text())
        calibration = json.loads(next((folder / 'calibration').glob('*.json')).read_text())
        names = calibration['names']
        self.mounts = dict(zip(names, map(pose_of, calibration['extrinsics']), strict=True))
        self.K = {
            name: np.array([[k['fx'], k['skew'], k['cx']], [0, k['fy'], k['cy']], [0, 0, 1]])
            for name, k in zip(names, calibration['intrinsics'], strict=True)
        }
        # (name, stamp) -> file, world_T_sensor; the files' names are stamps in 0.1 us
        self.data: dict[tuple[str, int], tuple[Path, np.ndarray]] = {}
        for item in scene['data']:
            (datum,) = item['datum'].values()
            file = folder / datum['filename']
            key = item['id']['name'], int(file.stem) * 100
            self.data[key] = file, pose_of(datum['pose'])

    def entries(self) -> list[Entry]:
        first = min(stamp for _, stamp in self.data) - 10**8
        static = {('base_link', f'{name}_frame'): pose for name, pose in self.mounts.items()}
        data = messages.transforms(first, static)
        out = [Entry(first, '/tf_static', messages.TF, data, latched=True)]
        poses = {}
        for (name, stamp), (file, world_T_sensor) in self.data.items():
            poses[stamp] = world_T_sensor @ rigid.inverse(self.mounts[name])
            if name == 'LIDAR':
                out.append(Entry(stamp, '/points', messages.POINT_CLOUD, self._cloud(file, stamp)))
                continue
            camera = Camera(K=self.K[name], size_px=SIZE_PX)
            info = messages.camera_info(f'{name}_frame', stamp, camera)
            out.append(Entry(stamp, f'/{name}/camera_info', messages.CAMERA_INFO, info))
            image = messages.compressed_image(f'{name}_frame', stamp, file.read_bytes())
            out.append(Entry(stamp, f'/{name}/image/compressed', messages.COMPRESSED, image))
        for stamp, pose in poses.items():
            tf = messages.transforms(stamp, {('odom', 'base_link'): pose})
            out.append(Entry(stamp, '/tf', messages.TF, tf))
        return sorted(out, key=lambda entry: entry.time_ns)

    def _cloud(self, file: Path, stamp: int) -> bytes:
        stored = np.load(file)['data']
        points = np.zeros(len(stored), [(n, '<f4') for n in ('x', 'y', 'z', 'intensity')])
        for i, name in enumerate(points.dtype.names):
            points[name] = stored[:, i]
        return messages.point_cloud('LIDAR_frame', stamp, points)


def test_a_real_surround_rig(shared_data, tmp_path):
    scene = Scene(shared_data / 'ddad_dgp_test_scene' / 'scene_02')
    bag = write_entries(tmp_path / 'bag', scene.entries())
    config = ConvertConfig(every=KeyFrames(), cameras=CAMERAS)
    done = convert_bag(BagSource(name='bag', path=bag), tmp_path / 'out', config)
    assert (done.frames, done.images, done.sweeps) == (3, 18, 3), done
    drive = Drive(tmp_path / 'out')
    for i in range(3):
        frame = drive.frame(i)
        assert [view.camera for view in frame.views] == list(CAMERAS)
        for view, decoded in zip(frame.views, drive.view_set(i).views, strict=True):
            file, world_T_cam = scene.data[view.camera, view.stamp_ns]
            assert view.image.data == file.read_bytes()
            # DDAD's poses of one instant differ by so much between the cameras.
            np.testing.assert_allclose(frame.odom_T_ego @ view.ego_T_cam, world_T_cam, atol=0.02)
            bgr = cv2.imread(str(file)).astype(int)
            assert np.abs(decoded.image[..., ::-1].astype(int) - bgr).mean() < 1
        (sweep,) = frame.sweeps
        file, world_T_lidar = scene.data['LIDAR', sweep.stamp_ns]
        np.testing.assert_allclose(frame.odom_T_ego @ sweep.ego_T_lidar, world_T_lidar, atol=1e-6)
        stored = np.load(file)['data'].astype(np.float32)
        np.testing.assert_array_equal(sweep.points, stored)
        # Each camera looks where its part of the lidar's points is.
        for view in drive.view_set(i).views:
            ego = rigid.transform_points(sweep.ego_T_lidar, sweep.points[:, :3].astype(float))
            cam = rigid.transform_points(rigid.inverse(view.ego_T_cam), ego)
            assert view.camera.project(cam)[1].sum() > 500


@pytest.mark.parametrize('name', ['aruco_images.bag', 'ros2_mcap', 'ros2_sqlite3'])
def test_one_camera_without_transforms(shared_data, tmp_path, name):
    bag = BagSource(name='bag', path=shared_data / 'bag_raspicam_ros1' / name)
    with pytest.raises(BagError, match="no path from odom_frame 'odom' to base_frame 'base_link'"):
        convert_bag(bag, tmp_path / 'out', ConvertConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_vehicle_without_cameras(shared_data, tmp_path):
    for name in ('bag_vehicle_odom_gnss_imu', 'bag_vehicle_odom_gnss_imu_mcap'):
        with pytest.raises(BagError, match='no image topic'):
            convert_bag(
                BagSource(name='bag', path=shared_data / name), tmp_path / 'out', ConvertConfig()
            )
    assert list(tmp_path.iterdir()) == []
