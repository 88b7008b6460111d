"""Message readers on real recordings, read with rosbags; skipped where there are none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from bev_perception import messages
from bev_perception.geometry import rigid


def read(path, msgtype, limit=None):
    """Return the first messages of a type."""
    # Recordings of older releases carry no definitions.
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as bag:
        connections = [c for c in bag.connections if c.msgtype == msgtype]
        found = []
        for connection, _, raw in bag.messages(connections):
            found.append(bag.deserialize(raw, connection.msgtype))
            if len(found) == limit:
                break
    assert found
    return found


@pytest.fixture(params=['aruco_images.bag', 'ros2_mcap', 'ros2_sqlite3'])
def raspicam(request, shared_data):
    """One recording in three storages: ROS 1, MCAP and sqlite3."""
    return shared_data / 'bag_raspicam_ros1' / request.param


@pytest.fixture(params=['watercan.bag', 'ros2_mcap'])
def humanoid(request, shared_data):
    """A humanoid robot's transforms and a segmented point cloud: ROS 1 and MCAP."""
    return shared_data / 'bag_hrp2_pcl_tf_ros1' / request.param


def test_camera(raspicam):
    infos = read(raspicam, 'sensor_msgs/msg/CameraInfo')
    cameras = {messages.read_camera(m, name='raspicam', rectified=False) for m in infos}
    assert len(infos) == 15 and len(cameras) == 1
    camera = cameras.pop()
    assert camera.size_px == (1280, 960) and camera.model == 'plumb_bob'
    np.testing.assert_allclose(camera.K[0], [1014.34310, 0, 637.246371], rtol=1e-6)
    points = np.array([[0.3, -0.2, 2.0], [-0.5, 0.4, 1.5], [0.0, 0.0, 1.0]])
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.K, np.array(camera.D))[0]
    np.testing.assert_allclose(camera.project(points)[0], expected[:, 0], atol=1e-9)


def test_rectified_camera(raspicam):
    """OpenCV's rectification map says which raw pixel every rectified pixel shows."""
    info = read(raspicam, 'sensor_msgs/msg/CameraInfo', 1)[0]
    raw = messages.read_camera(info, name='raspicam', rectified=False)
    rectified = messages.read_camera(info, name='raspicam', rectified=True)
    assert rectified.model == 'pinhole' and not np.allclose(rectified.K, raw.K)
    raw_u, raw_v = cv2.initUndistortRectifyMap(
        raw.K, np.array(raw.D), np.eye(3), rectified.K, rectified.size_px, cv2.CV_32FC1
    )
    pixels = np.array([[200, 150], [640, 480], [1100, 800], [30, 900]])
    rays = rectified.unproject(pixels.astype(float))
    expected = np.stack([raw_u[pixels[:, 1], pixels[:, 0]], raw_v[pixels[:, 1], pixels[:, 0]]], -1)
    np.testing.assert_allclose(raw.project(rays)[0], expected, atol=1e-3)


def test_jpeg(raspicam):
    message = read(raspicam, 'sensor_msgs/msg/CompressedImage', 1)[0]
    image = messages.read_image(message)
    expected = cv2.imdecode(np.array(message.data), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(image, expected)
    assert image.shape == (960, 1280, 3)
    half = messages.read_image(message, (480, 352))
    assert half.shape == (480, 640, 3)
    blocks = image.reshape(480, 2, 640, 2, 3).mean((1, 3))
    assert np.abs(half - blocks).mean() < 2
    assert messages.stamp_ns(message.header) == 1491682360_314066469


def test_transforms(humanoid):
    found = [
        t for m in read(humanoid, 'tf2_msgs/msg/TFMessage') for t in messages.read_transforms(m)
    ]
    assert len({(t.parent, t.child) for t in found}) >= 80
    poses = np.stack([t.parent_T_child for t in found])
    unit = poses @ rigid.inverse(poses)
    np.testing.assert_allclose(unit, np.broadcast_to(np.eye(4), unit.shape), atol=1e-9)
    assert not any(t.parent.startswith('/') or t.child.startswith('/') for t in found)


def test_points(humanoid):
    message = read(humanoid, 'sensor_msgs/msg/PointCloud2', 1)[0]
    fields = messages.read_points(message)
    assert list(fields) == ['x', 'y', 'z', 'rgb'] and message.point_step == 32
    assert messages.frame_id(message.header) == 'ground'  # recorded as '/ground'
    xyz = messages.points_xyz(fields, finite_only=True)
    assert xyz.shape == (13966, 3)
    words = np.frombuffer(bytes(message.data), '<f4').reshape(-1, 8)
    np.testing.assert_array_equal(messages.points_xyz(fields), words[:, :3])
    assert (np.ptp(xyz, axis=0) < 3).all()  # one object and its surroundings, metres
    packed = fields['rgb'].view(np.uint32)
    assert (packed >> 24 <= 0xFF).all() and len(np.unique(packed)) > 100


@pytest.mark.parametrize('bag', ['bag_vehicle_odom_gnss_imu', 'bag_vehicle_odom_gnss_imu_mcap'])
def test_odometry(bag, shared_data):
    poses = [messages.read_pose(m) for m in read(shared_data / bag, 'nav_msgs/msg/Odometry')]
    assert len(poses) == 1263
    assert {(p.parent, p.child) for p in poses} == {('map', 'oxts_link')}
    stamps = [p.stamp_ns for p in poses]
    assert stamps == sorted(stamps) and 39 < (stamps[-1] - stamps[0]) / 1e9 < 40
    positions = np.stack([p.parent_T_child[:3, 3] for p in poses])
    assert np.ptp(positions, axis=0).max() < 0.5  # parked
