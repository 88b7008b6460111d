"""Serialised ROS messages, written through rosbags: no ROS needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_typestore

from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.geometry.grid import BevGrid
from bev_perception.occupancy import grid_origin
from bev_perception.shapes import AnyArray, Cells, ImageRgb, Rigid

TYPESTORE = get_typestore(Stores.ROS2_KILTED)
JPEG_FORMAT = 'rgb8; jpeg compressed bgr8'  # as compressed_image_transport names a colour JPEG
IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
ODOMETRY = 'nav_msgs/msg/Odometry'
OCCUPANCY_GRID = 'nav_msgs/msg/OccupancyGrid'
TF = 'tf2_msgs/msg/TFMessage'
# From a stamp to the bag: what drivers need for exposure, transfer and encoding.
CAMERA_DELAY_NS, LIDAR_DELAY_NS, POSE_DELAY_NS = 30_000_000, 40_000_000, 1_000_000
STATIC_LEAD_NS = 200_000_000  # /tf_static comes so long before the first image
_POINT_TYPES = {'<f4': 7, '<u2': 4}  # PointField.FLOAT32, UINT16


def image_topic(camera: str, *, raw: bool) -> str:
    """Return the topic of a camera's images."""
    return f'/camera/{camera}/image_raw' + ('' if raw else '/compressed')


def optical_frame(camera: str) -> str:
    """Return the name of a camera's frame."""
    return f'camera_{camera}_optical_frame'


def rig_topics(
    cameras: Iterable[str], lidar_topics: Iterable[str], *, raw: bool
) -> list[tuple[str, str, Qos]]:
    """Return name, type and profile of the topics of a vehicle's recording."""
    sensor = qos(reliable=False)
    topics = [
        ('/tf_static', TF, qos(reliable=True, latched=True, depth=1)),
        ('/tf', TF, qos(reliable=True, depth=100)),
        ('/odom', ODOMETRY, qos(reliable=True, depth=10)),
        *((topic, POINT_CLOUD, sensor) for topic in lidar_topics),
    ]
    for camera in cameras:
        topics.append((f'/camera/{camera}/camera_info', CAMERA_INFO, sensor))
        topics.append((image_topic(camera, raw=raw), IMAGE if raw else COMPRESSED, sensor))
    return topics


def qos(*, reliable: bool, latched: bool = False, depth: int = 5) -> Qos:
    """Return the profile with which a driver offers a topic."""
    forever = QosTime(9223372036, 854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


def _make(type_name: str, /, **fields: Any) -> Any:
    return TYPESTORE.types[type_name](**fields)


def _header(frame_id: str, stamp_ns: int) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = _make('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
    return _make('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def _bytes(message: Any, name: str) -> bytes:
    return bytes(TYPESTORE.serialize_cdr(message, name))


def compressed_image(
    frame_id: str, stamp_ns: int, image: bytes, format: str = JPEG_FORMAT
) -> bytes:
    """Return a sensor_msgs/CompressedImage."""
    data = np.frombuffer(image, np.uint8)
    header = _header(frame_id, stamp_ns)
    return _bytes(_make(COMPRESSED, header=header, format=format, data=data), COMPRESSED)


def raw_image(frame_id: str, stamp_ns: int, image: ImageRgb) -> bytes:
    """Return a sensor_msgs/Image of encoding rgb8."""
    height, width = image.shape[:2]
    message = _make(
        IMAGE,
        header=_header(frame_id, stamp_ns),
        height=height,
        width=width,
        encoding='rgb8',
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(image).reshape(-1),
    )
    return _bytes(message, IMAGE)


def camera_info(frame_id: str, stamp_ns: int, camera: Camera) -> bytes:
    """Return a sensor_msgs/CameraInfo of a raw image, with the camera's lens model.

    A pinhole is a plumb_bob lens without coefficients. P is K: what a rectified image would have.
    """
    model = 'plumb_bob' if camera.model == 'pinhole' else camera.model
    roi = _make(
        'sensor_msgs/msg/RegionOfInterest',
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
    )  # fmt: skip
    message = _make(
        CAMERA_INFO,
        header=_header(frame_id, stamp_ns),
        height=camera.size_px[1],
        width=camera.size_px[0],
        distortion_model=model,
        d=np.array(camera.D, np.float64),
        k=np.array(camera.K).reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.concatenate([camera.K, np.zeros((3, 1))], 1).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )
    return _bytes(message, CAMERA_INFO)


def _vector(xyz: Any, name: str = 'geometry_msgs/msg/Vector3') -> Any:
    x, y, z = (float(v) for v in xyz)
    return _make(name, x=x, y=y, z=z)


def _quaternion(pose: Rigid) -> Any:
    x, y, z, w = (float(v) for v in rigid.to_quat_xyzw(pose))
    return _make('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)


def _pose(pose: Rigid) -> Any:
    return _make(
        'geometry_msgs/msg/Pose',
        position=_vector(pose[:3, 3], 'geometry_msgs/msg/Point'),
        orientation=_quaternion(pose),
    )


def transforms(stamp_ns: int, poses: Mapping[tuple[str, str], Rigid]) -> bytes:
    """Return a tf2_msgs/TFMessage with `parent_T_child` for every (parent, child)."""
    message = _make(
        TF,
        transforms=[
            _make(
                'geometry_msgs/msg/TransformStamped',
                header=_header(parent, stamp_ns),
                child_frame_id=child,
                transform=_make(
                    'geometry_msgs/msg/Transform',
                    translation=_vector(pose[:3, 3]),
                    rotation=_quaternion(pose),
                ),
            )
            for (parent, child), pose in poses.items()
        ],
    )
    return _bytes(message, TF)


def odometry(stamp_ns: int, odom_T_base: Rigid, base_T_later: Rigid, seconds: float) -> bytes:
    """Return a nav_msgs/Odometry of base_link in odom.

    Args:
        stamp_ns: time of the pose.
        odom_T_base: the pose.
        base_T_later: how base moves within `seconds`; gives the velocity.
        seconds: a short time.
    """
    turn = base_T_later[:3, :3]
    spin = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    pose = _pose(odom_T_base)
    twist = _make(
        'geometry_msgs/msg/Twist',
        linear=_vector(base_T_later[:3, 3] / seconds),
        angular=_vector(spin / (2 * seconds)),
    )
    none = np.zeros(36)
    message = _make(
        ODOMETRY,
        header=_header('odom', stamp_ns),
        child_frame_id='base_link',
        pose=_make('geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=none),
        twist=_make('geometry_msgs/msg/TwistWithCovariance', twist=twist, covariance=none),
    )
    return _bytes(message, ODOMETRY)


def point_cloud(frame_id: str, stamp_ns: int, points: AnyArray) -> bytes:
    """Return a sensor_msgs/PointCloud2 of a structured array (N,)."""
    fields = [
        _make(
            'sensor_msgs/msg/PointField',
            name=name,
            offset=offset,
            datatype=_POINT_TYPES[kind.str],
            count=1,
        )
        for name, (kind, offset) in ((n, v[:2]) for n, v in (points.dtype.fields or {}).items())
    ]
    message = _make(
        POINT_CLOUD,
        header=_header(frame_id, stamp_ns),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=points.dtype.itemsize,
        row_step=points.nbytes,
        data=np.frombuffer(points.tobytes(), np.uint8),
        is_dense=True,
    )
    return _bytes(message, POINT_CLOUD)


def occupancy_grid(
    frame_id: str, stamp_ns: int, cells: Cells, grid: BevGrid, base_T_ego: Rigid
) -> bytes:
    """Return a nav_msgs/OccupancyGrid as the node publishes it.

    Args:
        frame_id: the vehicle's body frame.
        stamp_ns: of the images.
        cells: (y, x), -1 or 0..100.
        grid: where the cells are.
        base_T_ego: the gravity-aligned ego frame in the body frame.
    """
    header = _header(frame_id, stamp_ns)
    rows, columns = cells.shape
    info = _make(
        'nav_msgs/msg/MapMetaData',
        map_load_time=header.stamp,
        resolution=float(grid.cell_m),
        width=columns,
        height=rows,
        origin=_pose(grid_origin(grid, base_T_ego)),
    )
    message = _make(OCCUPANCY_GRID, header=header, info=info, data=cells.reshape(-1))
    return _bytes(message, OCCUPANCY_GRID)
