"""Writes a drive as a recording for the viewer rerun (https://rerun.io), which shows it in 3D.

Needs the package `rerun-sdk`, which is optional.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rerun as rr

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.messages import (
    frame_id,
    points_xyz,
    read_camera,
    read_points,
    stamp_ns,
)
from bev_perception.shapes import Rigid
from bev_training.data.bag_reader import read_messages
from bev_training.synthetic.categories import OBJECTS
from bev_training.synthetic.preview_colors import box_color, color_height
from bev_training.synthetic.preview_data import transforms_of
from bev_training.synthetic.stored_truth import Truth, load_truth

_TIMELINE = 'stamp'
_PLANE_M = 1.5  # where the viewer shows an image, in front of its camera


def write_rerun(drive: Path, out: Path) -> None:
    """Write images with their cameras, lidar points and boxes, in the frame `map`, over time.

    Args:
        drive: what `write_drive` wrote.
        out: the recording, FILE.rrd.

    Raises:
        BevError: the drive cannot be read, or the recording cannot be written.
    """
    truth = load_truth(drive)
    tree = transforms_of(drive)
    recording = rr.RecordingStream(f'bev {drive.name}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        recording.save(out)
    except (OSError, RuntimeError) as error:
        raise BagError(f'{out} cannot be written: {error}') from error
    recording.log('map', rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    _log_boxes(recording, truth)
    frames = {c.frame_id: c.name for c in truth.config.rig_or_default().cameras}
    for topic, _, message in read_messages(drive / 'bag'):
        if topic in ('/tf', '/tf_static', '/odom'):
            continue
        stamp, frame = stamp_ns(message.header), frame_id(message.header)
        recording.set_time(_TIMELINE, timestamp=np.datetime64(stamp, 'ns'))
        pose = tree.lookup('map', frame, stamp)
        if topic == '/lidar/points':
            _log_points(recording, message, pose)
            continue
        entity = f'map/{frames[frame]}'
        if topic.endswith('/camera_info'):
            camera = read_camera(message, name=topic, rectified=False)
            recording.log(entity, rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
            if camera.model != 'equidistant':  # the viewer knows pinholes only
                recording.log(entity, rr.Pinhole(
                    image_from_camera=camera.K, resolution=camera.size_px,
                    camera_xyz=rr.ViewCoordinates.RDF, image_plane_distance=_PLANE_M,
                ))  # fmt: skip
        else:
            _log_image(recording, f'{entity}/image', message)
    recording.flush()
    recording.disconnect()


def _log_image(recording: Any, entity: str, message: Any) -> None:
    if hasattr(message, 'encoding'):
        pixels = np.asarray(message.data).reshape(message.height, message.width, 3)
        recording.log(entity, rr.Image(pixels))
    else:
        contents = np.asarray(message.data).tobytes()
        recording.log(entity, rr.EncodedImage(contents=contents, media_type='image/jpeg'))


def _log_points(recording: Any, message: Any, map_T_lidar: Rigid) -> None:
    """Log points in the map, coloured by their height over the wheels."""
    in_lidar = points_xyz(read_points(message)).astype(float)
    points = rigid.transform_points(map_T_lidar, in_lidar)
    low = np.percentile(points[:, 2], 5) if len(points) else 0.0
    colors = color_height(points[:, 2] - low)
    recording.log('map/lidar', rr.Points3D(points, colors=colors, radii=0.04))


def _log_boxes(recording: Any, truth: Truth) -> None:
    for frame, stamp in enumerate(truth.stamps_ns.tolist()):
        boxes = truth.boxes(frame)
        recording.set_time(_TIMELINE, timestamp=np.datetime64(stamp, 'ns'))
        recording.log('map/boxes', rr.Boxes3D(
            sizes=boxes.size_m,
            centers=boxes.map_T_box[:, :3, 3],
            quaternions=rigid.to_quat_xyzw(boxes.map_T_box),
            colors=[box_color(int(c)) for c in boxes.category],
            labels=[OBJECTS[int(c)] for c in boxes.category],
            show_labels=False,
        ))  # fmt: skip
