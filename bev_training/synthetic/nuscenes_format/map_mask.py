"""The picture of a town that nuScenes keeps beside its map: where one can drive."""

from __future__ import annotations

import cv2
import numpy as np
from shapely import MultiPolygon

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.nuscenes_format.geometry_layers import parts

PIXELS_PER_M = 10  # the devkit assumes it
_SHIFT = 4  # OpenCV takes coordinates in 1/16 pixel


def drivable_mask(area: MultiPolygon, size_m: tuple[float, float]) -> AnyArray:
    """Return (h, w) uint8, 255 where one can drive.

    The middle of pixel (row, column) is at x = column / 10 and y = (h - row) / 10 metres: this is
    how the devkit's MapMask looks points up.

    Args:
        area: in the map's frame.
        size_m: (x, y) of the map.
    """
    width, height = (int(np.ceil(size * PIXELS_PER_M)) for size in size_m)
    mask = np.zeros((height, width), np.uint8)

    def pixels(ring: Array) -> AnyArray:
        points = np.asarray(ring)[:, :2] * PIXELS_PER_M
        points[:, 1] = height - points[:, 1]
        return np.round(points * 2**_SHIFT).astype(np.int32)

    for polygon in parts(area):
        rings = [pixels(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
        cv2.fillPoly(mask, rings, 255, shift=_SHIFT)  # even-odd: inner rings are holes
    return mask
