"""Writes samples as a recording for the viewer rerun (https://rerun.io): voxels with their colours
in 3D, beside the images and the lidar's points.

Needs the package `rerun-sdk`, which is optional.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import rerun as rr

from bev_perception.errors import BagError
from bev_perception.shapes import AnyArray
from bev_training.qualitative.color_mapping import ColorMapping
from bev_training.qualitative.sample_voxels import SampleVoxels, flat_views
from bev_training.qualitative.sheets import color_floor
from bev_training.qualitative.similarity import Chosen, similarity, similarity_colors

_TIMELINE = 'sample'
_PLANE_M = 1.5  # where the viewer shows an image, in front of its camera
_IMAGE_PX, _JPEG_QUALITY = 800, 85
_GAP = 0.96  # a box is drawn so much smaller than its voxel


def write_recording(
    path: Path,
    samples: Sequence[SampleVoxels],
    mapping: ColorMapping,
    chosen: Sequence[Chosen],
) -> None:
    """Write samples one after the other on the timeline 'sample', each in its own ego frame.

    Args:
        path: FILE.rrd.
        samples: what to show.
        mapping: colours of features.
        chosen: voxels of the first sample; the likeness to each is an entity of its own.

    Raises:
        BagError: it cannot be written.
    """
    recording = rr.RecordingStream('bev features')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recording.save(path)
    except (OSError, RuntimeError) as error:
        raise BagError(f'{path} cannot be written: {error}') from error
    recording.log('ego', rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    for number, sample in enumerate(samples):
        recording.set_time(_TIMELINE, sequence=number)
        recording.log('key', rr.TextDocument(sample.key))
        _log_images(recording, sample)
        recording.log(
            'ego/lidar', rr.Points3D(sample.points_m, colors=(150, 150, 156), radii=0.03)
        )
        _log_voxels(recording, 'ego/features', sample, mapping.colors(sample.features))
        if sample.taught is not None:
            _log_voxels(recording, 'ego/teacher', sample, mapping.colors(sample.taught))
        for voxel in chosen:
            cosine = similarity(sample.features, voxel.feature)
            colors = similarity_colors(cosine, color_floor(cosine))
            name = re.sub(r'[^a-z0-9.-]+', '_', voxel.name).strip('_')
            _log_voxels(recording, f'ego/like_the_voxel/{name}', sample, colors)
    if chosen:
        recording.set_time(_TIMELINE, sequence=0)
        recording.log('ego/chosen', rr.Points3D(
            [voxel.center_m for voxel in chosen], colors=(66, 255, 140), radii=0.25,
            labels=[voxel.name for voxel in chosen],
        ))  # fmt: skip
        recording.set_time(_TIMELINE, sequence=1)
        recording.log('ego/chosen', rr.Clear(recursive=False))
    recording.flush()
    recording.disconnect()


def _log_images(recording: rr.RecordingStream, sample: SampleVoxels) -> None:
    recording.log('ego/cameras', rr.Clear(recursive=True))
    for view in flat_views(sample.view_set, _IMAGE_PX):
        entity, pose = f'ego/cameras/{view.name}', view.ego_T_cam
        recording.log(entity, rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        recording.log(entity, rr.Pinhole(
            image_from_camera=view.camera.K, resolution=view.camera.size_px,
            camera_xyz=rr.ViewCoordinates.RDF, image_plane_distance=_PLANE_M,
        ))  # fmt: skip
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, data = cv2.imencode('.jpg', view.image[..., ::-1], quality)
        contents = rr.EncodedImage(contents=data.tobytes(), media_type='image/jpeg')
        recording.log(f'{entity}/image', contents)


def _log_voxels(
    recording: rr.RecordingStream, entity: str, sample: SampleVoxels, colors: AnyArray
) -> None:
    half_m = np.asarray(sample.size_m) / 2 * _GAP
    recording.log(entity, rr.Boxes3D(
        centers=sample.centers_m, half_sizes=np.tile(half_m, (len(colors), 1)), colors=colors,
        fill_mode='solid',
    ))  # fmt: skip
