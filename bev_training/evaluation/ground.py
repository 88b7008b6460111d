"""The images projected onto the ground: what colour each cell of the grid has.

Inverse perspective mapping: the plane z = 0 of the gravity-aligned ego frame, where a vehicle
stands, is taken for the road. What stands on it is smeared outwards; that is what a network has to
do better than.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.geometry import rigid
from bev_perception.model.config import ModelConfig
from bev_perception.model.tensors import BevInputs
from bev_perception.shapes import Array, Index

_CHROMA = (-20, -10, -4, 4, 10, 20)  # between the steps of Lab's a and b; streets are grey
_LIGHTNESS_STEPS = 8
COLORS = _LIGHTNESS_STEPS * (len(_CHROMA) + 1) ** 2
_NEAREST_M = 0.1  # along a camera's axis


class GroundColors:
    """Looks up the colour of every cell; keeps the table of the last cameras while they stay.

    For one thread.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Start.

        Args:
            config: of the network whose inputs are looked at: grid, image size, normalisation.
        """
        x, y = np.moveaxis(config.grid.cell_centers(), -1, 0).reshape(2, -1)
        self._ground = np.stack([x, y, np.ones_like(x)])
        self._mean = 255 * np.array(config.mean, np.float32)
        self._std = 255 * np.array(config.std, np.float32)
        self._table: tuple[bytes, Index] | None = None

    def __call__(self, inputs: BevInputs) -> npt.NDArray[np.int16]:
        """Return (cells,) the colour of each cell in y, x order, one of `COLORS`; -1 where no
        camera sees the ground.

        Args:
            inputs: of one instant.
        """
        images = inputs.images[0].numpy()
        n, channels, height, width = images.shape
        K = inputs.K[0].numpy().astype(np.float64)
        ego_T_cam = inputs.ego_T_cam[0].numpy().astype(np.float64)
        key = K.tobytes() + ego_T_cam.tobytes()
        if self._table is None or self._table[0] != key:
            self._table = key, ground_pixels(K, ego_T_cam, self._ground, (width, height))
        pixels = self._table[1]
        found = np.flatnonzero(pixels >= 0)
        colors = np.full(pixels.shape, -1, np.int16)
        camera, pixel = np.divmod(pixels[found], height * width)
        planes = images.reshape(n * channels, height * width)
        rgb = np.stack([planes[camera * channels + c, pixel] for c in range(channels)], -1)
        colors[found] = quantised(((rgb * self._std + self._mean) / 255).astype(np.float32))
        return colors


def ground_pixels(K: Array, ego_T_cam: Array, ground: Array, size_px: tuple[int, int]) -> Index:
    """Return the pixel nearest to each point of the ground, of the camera that has it nearest to
    the middle of its image.

    Args:
        K: (n, 3, 3) of images of `size_px`.
        ego_T_cam: (n, 4, 4).
        ground: (3, cells) x, y and 1.
        size_px: (width, height).

    Returns:
        (cells,) (camera * height + v) * width + u; -1 where no camera has the point.
    """
    width, height = size_px
    flat = ground.astype(np.float32)  # a pixel's hundredth is enough
    best = np.full(ground.shape[1], np.inf, np.float32)
    found = np.full(ground.shape[1], -1, np.int64)
    for i in range(len(K)):
        cam_T_ego = rigid.inverse(ego_T_cam[i])
        image_H_ground = K[i] @ cam_T_ego[:3, [0, 1, 3]]
        u, v, depth = image_H_ground.astype(np.float32) @ flat
        ahead = np.flatnonzero(depth > _NEAREST_M)
        # Beyond the image by far is all the same; and an int32 must hold it.
        at = np.stack([u[ahead], v[ahead]]) / depth[ahead]
        u, v = np.rint(at.clip(-1e6, 1e6)).astype(np.int64)
        aside = np.abs(u - (width - 1) / 2).astype(np.float32)
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (aside < best[ahead])
        here = ahead[inside]
        best[here] = aside[inside]
        found[here] = (i * height + v[inside]) * width + u[inside]
    return found


def quantised(rgb: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Return colours as whole numbers: 8 steps of CIE L*a*b*'s lightness, 7 of each of a and b.

    Args:
        rgb: (n, 3) in 0..1, as sRGB.
    """
    if not len(rgb):
        return np.empty(0, np.int16)
    pixels = np.rint(255 * rgb.clip(0, 1)).astype(np.uint8)
    lightness, a, b = cv2.cvtColor(pixels[None], cv2.COLOR_RGB2Lab)[0].astype(np.int16).T
    edges = np.array(_CHROMA) + 128
    step = lightness * _LIGHTNESS_STEPS // 256
    for chroma in (a, b):
        step = step * (len(edges) + 1) + np.searchsorted(edges, chroma, side='right')
    return step.astype(np.int16)
