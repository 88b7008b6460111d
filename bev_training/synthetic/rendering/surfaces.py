"""Plaster, tiles and leaves: noise on what stands on the ground."""

from __future__ import annotations

import numpy as np

from bev_perception.shapes import AnyArray
from bev_training.synthetic.categories import MATERIAL_ID
from bev_training.synthetic.rendering.texture import sample, tile

_TEXEL_M = 0.06
# strength of grain (a hand), lumps (half a metre) and clouds (some metres)
_STRENGTH = {
    'wall': (0.05, 0.07, 0.10),
    'roof': (0.16, 0.12, 0.10),
    'foliage': (0.55, 0.40, 0.15),
}


class Surfaces:
    """Noise fixed to walls, roofs and trees."""

    def __init__(self, seed: int) -> None:
        self._texture = tile(np.random.default_rng([seed, 75]))
        self._strength = np.zeros((len(MATERIAL_ID), 3), np.float32)
        for name, values in _STRENGTH.items():
            self._strength[MATERIAL_ID[name]] = values

    def weather(
        self, albedo: AnyArray, point: AnyArray, normal: AnyArray, material: AnyArray,
        pixel_m: AnyArray,
    ) -> None:  # fmt: skip
        """Change albedo (N, 3) in place.

        Args:
            albedo: of points on triangles.
            point: (N, 3) in the map.
            normal: (N, 3) unit.
            material: (N,) positions in `categories.MATERIALS`.
            pixel_m: (N,) what a pixel covers; finer noise vanishes.
        """
        at = np.flatnonzero(self._strength[material, 0] > 0)
        (x, y, z), (nx, ny, _) = point[at].T, normal[at].T
        along = (nx * y - ny * x) + np.float32(0.37) * (x + y)  # along walls, any way on roofs
        scale = np.float32(1 / _TEXEL_M)
        noise = sample(self._texture, along * scale, z * scale, wrap=True).astype(np.float32)
        grain, lumps, clouds = self._strength[material[at]].T
        change = clouds * (noise[:, 2] - 128)
        for strength, channel, size in ((grain, 0, 3 * _TEXEL_M), (lumps, 1, 16 * _TEXEL_M)):
            kept = np.minimum(1, np.float32(size / 2) / (pixel_m[at] + 0.001))
            change += strength * kept * (noise[:, channel] - 128)
        albedo[at] *= np.maximum(1 + change * np.float32(1 / 128), 0.2)[:, None]
