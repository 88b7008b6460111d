"""The sky's colour in every direction."""

from __future__ import annotations

import numpy as np

from bev_perception.shapes import AnyArray
from bev_training.synthetic.conditions import Conditions
from bev_training.synthetic.rendering.texture import sample, tile

_SIDE = 768  # pixels of the picture of the half-sphere
_CLOUDS = {  # where clouds begin, and how strong they are
    'clear': (0.35, 0.75),
    'overcast': (-0.3, 0.3),
    'haze': (0.1, 0.15),
    'rain': (-0.4, 0.35),
}
_GLOW = {'clear': 1.0, 'night': 1.0, 'haze': 0.4, 'overcast': 0.0, 'rain': 0.0}  # around the sun


class Sky:
    """A picture of the sky, looked up by direction (stereographic: the horizon is its rim)."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        at = (np.arange(_SIDE) - (_SIDE - 1) / 2) / (_SIDE / 2 - 2)
        a, b = np.meshgrid(at, at)
        r2 = a * a + b * b
        z = np.maximum((1 - r2) / (1 + r2), 0)
        x, y = a * (1 + z), b * (1 + z)
        zenith, horizon = np.array(conditions.zenith), np.array(conditions.horizon)
        rise = (1 - (1 - z) ** 4)[..., None]
        color = horizon + rise * (zenith - horizon)
        threshold, strength = _CLOUDS.get(conditions.weather, (0.5, 0.0))
        if strength:
            color += (
                self._clouds(x, y, z, threshold, seed)[..., None]
                * strength
                * (np.array(conditions.sun) + conditions.sky - 0.9 * color)
            )
        sun = np.array(conditions.sun)
        toward = np.clip(np.stack([x, y, z], -1) @ conditions.sun_direction, 0, 1)[..., None]
        glow = 0.25 * toward**8 + 0.6 * toward**90 + 9 * (toward > 0.99985)
        color += sun * glow * _GLOW[conditions.weather]
        self._picture = color.astype(np.float32)

    @staticmethod
    def _clouds(x: AnyArray, y: AnyArray, z: AnyArray, threshold: float, seed: int) -> AnyArray:
        """Return cover 0..1 of a layer of clouds, thinned out at the horizon."""
        noise = tile(np.random.default_rng([seed, 72]))
        high = 1 / (z + 0.12)
        u, v = (256 + 34 * (axis * high).ravel().astype(np.float32) for axis in (x, y))
        shape = np.zeros(z.size, np.float32)
        for scale, weight in ((1, 1.0), (2.9, 0.45), (7.3, 0.2)):
            cloud = sample(noise[..., 2], u * scale, v * scale, wrap=True)
            shape += np.float32(weight) * (cloud.astype(np.float32) / 42 - 3.05)
        cover = np.clip((np.reshape(shape, z.shape) - threshold) / 1.3, 0, 1)
        return np.asarray(cover * np.clip(z * 5, 0, 1))

    def toward(self, directions: AnyArray) -> AnyArray:
        """Return the light (N, 3) from directions (N, 3); below the horizon that of the rim."""
        x, y, z = directions.T
        scale = np.float32(_SIDE / 2 - 2) / (1 + np.maximum(z, 0))
        below = z < 0
        if below.any():
            flat = np.sqrt(np.maximum(x * x + y * y, 1e-9))
            scale = np.where(below, np.float32(_SIDE / 2 - 2) / flat, scale)
        middle = np.float32((_SIDE - 1) / 2)
        return sample(self._picture, x * scale + middle, y * scale + middle)
