"""ROS messages as plain data: images, cameras, transforms and point clouds.

Messages are read by attribute, so the classes of rclpy and of rosbags (ROS 2 or ROS 1 recordings)
both work and ROS need not be installed. Everything returned is independent of the message.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bev_perception import images
from bev_perception.errors import CalibrationError, MessageError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import D_LENGTHS, Camera, LensModel
from bev_perception.shapes import AnyArray, Array, ImageRgb
from bev_perception.transforms import StampedTransform

# sensor_msgs/distortion_models.hpp, then what drivers and calibration tools write instead.
_LENS_MODELS: dict[str, LensModel] = {
    'plumb_bob': 'plumb_bob',
    'rational_polynomial': 'rational_polynomial',
    'equidistant': 'equidistant',
    'radtan': 'plumb_bob',
    'fisheye': 'equidistant',
    'kannala_brandt': 'equidistant',
    'kannala_brandt4': 'equidistant',
}
_NO_LENS = ('', 'none', 'pinhole')
# sensor_msgs/PointField.datatype
_POINT_DTYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}


def stamp_ns(header: Any) -> int:
    """Return a `std_msgs/Header`'s stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def frame_id(header: Any) -> str:
    """Return a `std_msgs/Header`'s frame without the leading slash of older recordings."""
    return str(header.frame_id).removeprefix('/')


def read_image(msg: Any, at_least_px: tuple[int, int] | None = None) -> ImageRgb:
    """Decode a `sensor_msgs/Image` or `sensor_msgs/CompressedImage` (JPEG, PNG).

    Args:
        msg: the message.
        at_least_px: (width, height) the caller needs. A JPEG may then come at 1/2, 1/4 or 1/8 of
            its size, still at least so large; only factors that divide width and height evenly
            are used, so that `Camera.resized` to the result's size describes it exactly.

    Returns:
        (h, w, 3) uint8 RGB, C-contiguous, not shared with the message. The high byte of 16-bit
        samples; gray images have three equal channels; yuv422 is BT.601 video range.

    Raises:
        MessageError: unknown encoding or codec, a depth image, sizes that do not fit each other,
            truncated or damaged data.
    """
    if hasattr(msg, 'encoding'):
        return images.decode_raw(msg)
    if hasattr(msg, 'format'):
        return images.decode_compressed(msg, at_least_px)
    raise MessageError(f'{type(msg).__name__} is neither an Image nor a CompressedImage')


def read_camera(msg: Any, *, name: str, rectified: bool) -> Camera:
    """Read a `sensor_msgs/CameraInfo`.

    Args:
        msg: the message; its K, P, width and height refer to the full resolution (REP-104).
        name: the camera's name, for errors.
        rectified: True for `image_rect*` topics: P is the camera, R and P's fourth column become
            `rect_T_cam`. False for raw images: K and D are the camera.

    Returns:
        The camera of the image as it is published: after `roi`, then binning. An equidistant
        lens whose coefficients are all zero stays an ideal fisheye.

    Raises:
        CalibrationError: uncalibrated, not finite, unknown lens model, or sizes that do not fit.
    """
    try:
        camera = _rectified_camera(msg) if rectified else _raw_camera(msg)
        return _windowed(camera, msg)
    except CalibrationError as error:
        raise CalibrationError(f'{name}: {error}') from None


def camera_info_key(msg: Any) -> tuple[Any, ...]:
    """Return all of a `sensor_msgs/CameraInfo` but its header: equal keys give equal cameras.

    It costs a tenth of `read_camera`, and nearly all CameraInfos repeat the one before.
    """
    roi = msg.roi
    numbers = (np.asarray(_field(msg, name), np.float64).tobytes() for name in 'dkrp')
    window = (roi.x_offset, roi.y_offset, roi.width, roi.height, msg.binning_x, msg.binning_y)
    return (msg.width, msg.height, msg.distortion_model, *window, *numbers)


def read_transforms(msg: Any) -> list[StampedTransform]:
    """Read a `tf2_msgs/TFMessage`.

    Raises:
        MessageError: an empty frame name, or a rotation that is none.
    """
    return [read_transform(item) for item in msg.transforms]


def read_transform(msg: Any) -> StampedTransform:
    """Read a `geometry_msgs/TransformStamped`.

    Raises:
        MessageError: an empty frame name, or a rotation that is none.
    """
    transform = msg.transform
    return _stamped(msg.header, msg.child_frame_id, transform.translation, transform.rotation)


def read_pose(msg: Any, child: str = '') -> StampedTransform:
    """Read the vehicle's pose: a `nav_msgs/Odometry`, or a `geometry_msgs/PoseStamped` or
    `PoseWithCovarianceStamped`, which do not say of what; header frame is the parent.

    Args:
        msg: the message.
        child: the frame that a message without a child frame describes.

    Raises:
        MessageError: an empty frame name, or a rotation that is none.
    """
    pose = msg.pose.pose if hasattr(msg.pose, 'pose') else msg.pose
    named = getattr(msg, 'child_frame_id', '') or child
    return _stamped(msg.header, named, pose.position, pose.orientation)


def read_points(msg: Any) -> dict[str, AnyArray]:
    """Read every field of a `sensor_msgs/PointCloud2`.

    Returns:
        Arrays by field name in native byte order: (n,), or (n, count) where a field has several
        values. Organised clouds are flattened row by row. Points that are not finite are kept.
        PCL's packed colours stay as stored (`rgb` viewed as uint32 is 0x00RRGGBB).

    Raises:
        MessageError: unknown datatype, or sizes that do not fit each other.
    """
    where = frame_id(msg.header) or 'point cloud without frame_id'
    height, width = int(msg.height), int(msg.width)
    point_step, row_step = int(msg.point_step), int(msg.row_step)
    data = images.byte_array(msg.data)
    if height <= 1:  # one row needs no row_step, and some writers leave it 0
        row_step = width * point_step
    needed = row_step * (height - 1) + width * point_step if height and width else 0
    if row_step < width * point_step or data.size < needed:
        raise MessageError(
            f'{where}: {data.size} bytes with row_step {row_step} cannot hold {width}x{height} '
            f'points of {point_step} bytes ({needed} bytes needed)'
        )
    order = '>' if msg.is_bigendian else '<'
    columns: dict[str, AnyArray] = {}
    for field in msg.fields:
        if not field.name:
            continue  # padding
        stored, count = _point_dtype(field, order, point_step, where)
        strides = (row_step, point_step, stored.itemsize)
        start = int(field.offset) if needed else 0
        view = np.ndarray((height, width, count), stored, data, start, strides)
        column = view.astype(stored.newbyteorder('=')).reshape(height * width, count)
        columns[str(field.name)] = column[:, 0] if count == 1 else column
    return columns


def points_xyz(
    fields: dict[str, AnyArray], *, finite_only: bool = False
) -> npt.NDArray[np.float32]:
    """Return the positions (n, 3) of `read_points`, metres in the cloud's frame.

    Args:
        fields: arrays by field name.
        finite_only: drop points with a NaN or infinite coordinate (no return), which organised
            clouds contain.

    Raises:
        MessageError: x, y or z is missing.
    """
    missing = [axis for axis in 'xyz' if axis not in fields]
    if missing:
        raise MessageError(f'point cloud lacks {missing}; its fields are {sorted(fields)}')
    xyz = np.empty((len(fields['x']), 3), np.float32)
    for i, axis in enumerate('xyz'):
        xyz[:, i] = fields[axis]
    return xyz[np.isfinite(xyz).all(axis=-1)] if finite_only else xyz


def _raw_camera(msg: Any) -> Camera:
    model, D = _lens(msg)
    K = _matrix(msg, 'k', 3)
    return Camera(K=K, size_px=(int(msg.width), int(msg.height)), model=model, D=D)


def _rectified_camera(msg: Any) -> Camera:
    P = _matrix(msg, 'p', 4)
    R = _matrix(msg, 'r', 3)
    if not P[0, 0] > 0 or not P[1, 1] > 0:
        raise CalibrationError(f'P is {P.tolist()}; camera uncalibrated for rectified images')
    if P[1, 0] or (P[2, :3] != (0, 0, 1)).any():
        raise CalibrationError(f'P is {P.tolist()}; it is no camera matrix')
    rect_T_cam = np.eye(4)
    rect_T_cam[:3, :3] = R
    rect_T_cam[:3, 3] = np.linalg.solve(P[:, :3], P[:, 3])  # P is K [I | t]
    size_px = (int(msg.width), int(msg.height))
    return Camera(K=P[:, :3], size_px=size_px, rect_T_cam=rect_T_cam)


def _matrix(msg: Any, field: str, columns: int) -> Array:
    """Read `k`, `r` or `p` (upper case in ROS 1)."""
    values = np.asarray(_field(msg, field), np.float64)
    if values.size != 3 * columns or not np.isfinite(values).all():
        raise CalibrationError(
            f'{field.upper()} is {values.tolist()}; it must be {3 * columns} finite numbers'
        )
    return values.reshape(3, columns)


def _field(msg: Any, field: str) -> Any:
    return getattr(msg, field) if hasattr(msg, field) else getattr(msg, field.upper())


def _lens(msg: Any) -> tuple[LensModel, tuple[float, ...]]:
    """Return the lens model and exactly as many coefficients as it has.

    Drivers pad D with zeros to another model's length; anything else beyond is an error.
    """
    name, D = str(msg.distortion_model), tuple(float(d) for d in _field(msg, 'd'))
    if not np.isfinite(D).all():
        raise CalibrationError(f'D is {D}; it must be finite')
    if name.lower() in _NO_LENS and not any(D):
        return 'pinhole', ()
    model = _LENS_MODELS.get(name.lower())
    if model is None:
        known = ', '.join(_LENS_MODELS)
        raise CalibrationError(
            f'distortion_model {name!r} with D {D} is unknown; known are {known}'
        )
    if not D and model != 'equidistant':
        return 'pinhole', ()
    length = max(D_LENGTHS[model])
    if not any(D[length:]):
        D = D[:length]
    return model, D


def _windowed(camera: Camera, msg: Any) -> Camera:
    """Apply `roi` (full resolution; size 0 reaches to the edge), then binning (0 means 1)."""
    full_width, full_height = camera.size_px
    left, top = int(msg.roi.x_offset), int(msg.roi.y_offset)
    width = int(msg.roi.width) or full_width - left
    height = int(msg.roi.height) or full_height - top
    if width < 1 or height < 1 or left + width > full_width or top + height > full_height:
        raise CalibrationError(
            f'roi {width}x{height} at ({left}, {top}) leaves the {full_width}x{full_height} image'
        )
    bin_x, bin_y = max(int(msg.binning_x), 1), max(int(msg.binning_y), 1)
    binned = (width // bin_x, height // bin_y)  # a remainder is cut off
    if min(binned) < 1:
        raise CalibrationError(f'binning {bin_x}x{bin_y} leaves nothing of {width}x{height}')
    return camera.cropped(left, top, binned[0] * bin_x, binned[1] * bin_y).resized(binned)


def _stamped(header: Any, child: Any, translation: Any, rotation: Any) -> StampedTransform:
    parent, child = frame_id(header), str(child).removeprefix('/')
    if not parent or not child:
        raise MessageError(f'transform {parent!r} -> {child!r} has an empty frame name')
    quat_xyzw = np.array([rotation.x, rotation.y, rotation.z, rotation.w], np.float64)
    translation_m = np.array([translation.x, translation.y, translation.z], np.float64)
    norm = math.hypot(*quat_xyzw.tolist())  # numpy's would hand the interpreter to other threads
    # Rounding leaves norms near 1, which are normalised; beyond that it is no rotation.
    if not (0.5 < norm < 2 and np.isfinite(translation_m).all()):
        raise MessageError(
            f'transform {parent!r} -> {child!r} is not rigid: quaternion {quat_xyzw.tolist()} '
            f'(norm {norm:.3g}), translation {translation_m.tolist()}'
        )
    return StampedTransform(
        parent=parent,
        child=child,
        stamp_ns=stamp_ns(header),
        parent_T_child=rigid.from_quat_xyzw(quat_xyzw, translation_m),
    )


def _point_dtype(field: Any, order: str, point_step: int, where: str) -> tuple[np.dtype[Any], int]:
    """Return a field's stored type and how many values it has."""
    code = _POINT_DTYPES.get(int(field.datatype))
    if code is None:
        raise MessageError(f'{where}: field {field.name!r} has unknown datatype {field.datatype}')
    stored = np.dtype(order + code)
    count = max(int(field.count), 1)  # old drivers leave it 0
    end = int(field.offset) + count * stored.itemsize
    if end > point_step:
        raise MessageError(
            f'{where}: field {field.name!r} ends at byte {end}, points have {point_step}'
        )
    return stored, count
