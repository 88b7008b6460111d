"""What single cameras and lidars send: sizes, codecs, damage, points."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from bev_perception.errors import CalibrationError, MessageError
from bev_perception.geometry.camera import Camera
from bev_perception.images import check_image
from bev_perception.messages import (
    camera_info_key,
    points_xyz,
    read_camera,
    read_image,
    read_points,
)

_DECODED_EVERY = 100  # images: decoding all would take longer than reading
_POINTS_EVERY = 10  # sweeps


class CameraMeter:
    """Images and CameraInfo of one camera.

    Attributes:
        sizes: number of images by (width, height).
        formats: number of images by codec or encoding.
        damaged: images that cannot be read.
        problem: why, of the first one.
        video: packets without a picture, see `VideoDecoder.counts`; {} for single images.
        info_unusable: CameraInfo that cannot be used.
        info_problem: why, of the first one.
        camera: the first calibration.
        changes: how often it became another one.
    """

    def __init__(self, name: str, *, kind: str, rectified: bool) -> None:
        self.name, self._kind, self._rectified = name, kind, rectified
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.formats: Counter[str] = Counter()
        self.damaged = 0
        self.problem = ''
        self.video: dict[str, int] = {}
        self.info_unusable = 0
        self.info_problem = ''
        self.camera: Camera | None = None
        self._newest: Camera | None = None
        self.changes = 0
        self._key: object = None
        self._refused = False
        self._images = 0

    def take_image(self, message: Any) -> None:
        """Look at an image; every 100th is decoded, small."""
        self.formats[format_of(message)] += 1
        self._images += 1
        if self._kind == 'video':
            return
        try:
            size_px = check_image(message)
            if self._images % _DECODED_EVERY == 1:
                read_image(message, (max(size_px[0] // 8, 1), max(size_px[1] // 8, 1)))
        except MessageError as error:
            self.take_damage(str(error))
            return
        self.sizes[size_px] += 1

    def take_size(self, size_px: tuple[int, int]) -> None:
        """Count a picture that came out of a video."""
        if self._kind == 'video':
            self.sizes[size_px] += 1

    def take_damage(self, problem: str) -> None:
        """Count an image that cannot be read."""
        self.damaged += 1
        self.problem = self.problem or problem

    def take_info(self, message: Any) -> None:
        """Look at a CameraInfo."""
        key = camera_info_key(message)
        if key == self._key:  # the same as the last one, as nearly always
            self.info_unusable += self._refused
            return
        self._key, self._refused = key, False
        try:
            camera = read_camera(message, name=self.name, rectified=self._rectified)
        except CalibrationError as error:
            self._refused = True
            self.info_unusable += 1
            self.info_problem = self.info_problem or str(error)
            return
        self.camera = self.camera or camera
        self.changes += self._newest is not None and camera != self._newest
        self._newest = camera


class LidarMeter:
    """Sweeps of one lidar.

    Attributes:
        sweeps: number of them.
        empty: without a finite point, among those that were looked into or of size 0.
        damaged: that cannot be read.
        problem: why, of the first one.
        fields: names in the first message.
        other_fields: sweeps with other ones.
        points: most points of one sweep.
    """

    def __init__(self) -> None:
        self.sweeps = self.empty = self.damaged = self.points = self.other_fields = 0
        self.problem = ''
        self.fields: tuple[str, ...] = ()
        self._finite = self._all = 0

    def take(self, message: Any) -> None:
        """Look at a PointCloud2; into the points of every 10th."""
        self.sweeps += 1
        fields = tuple(str(field.name) for field in message.fields)
        self.fields = self.fields or fields
        self.other_fields += fields != self.fields
        size = int(message.width) * int(message.height)
        self.points = max(self.points, size)
        if not size:
            self.empty += 1
        elif self.sweeps % _POINTS_EVERY == 1:
            self._look_into(message)

    def _look_into(self, message: Any) -> None:
        try:
            xyz = points_xyz(read_points(message))
        except MessageError as error:
            self.damaged += 1
            self.problem = self.problem or str(error)
            return
        finite = int(np.isfinite(xyz).all(axis=-1).sum())
        self._finite += finite
        self._all += len(xyz)
        self.empty += not finite

    @property
    def finite_share(self) -> float | None:
        """Share of points with a position; None before the first sweep."""
        return self._finite / self._all if self._all else None


def format_of(message: Any) -> str:
    """Return codec or encoding of an image message."""
    if hasattr(message, 'encoding') and not hasattr(message, 'pts'):
        return str(message.encoding)
    data = bytes(message.data[:4])
    if data.startswith(b'\xff\xd8'):
        return 'jpeg'
    if data == b'\x89PNG':
        return 'png'
    return str(getattr(message, 'format', '') or getattr(message, 'encoding', '')) or 'unknown'
