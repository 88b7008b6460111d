"""Corruptions of one image by weather: fog and snow; see `image_corruptions`."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.shapes import ImageRgb
from bev_training.evaluation.image_corruptions import blur_along, image_scale

# By severity, easy to hard.
_FOG = ((2.0, 2.0), (2.5, 1.5), (3.0, 1.4))  # amplitude, decay of its detail
_SNOW = (  # mean, spread and size in px of the noise, threshold, radius and sigma in px, blend
    (0.1, 0.3, 3, 0.5, 10, 4.0, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4.0, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8.0, 0.7),
)
# Halvings of the fog's map, which is 2048 px of the reference wide. Two more would be pixels of
# the reference, and change it by less than half a grey level.
_LEVELS = 9
_MAP_PX = 2048


def fog(image: ImageRgb, severity: int, rng: np.random.Generator) -> ImageRgb:
    """Mix an image with a fractal cloud that hides the more, the denser it is."""
    amplitude, decay = _FOG[severity - 1]
    cloud = plasma(_LEVELS, decay, rng)
    h, w = image.shape[:2]
    part = np.array((h, w)) * len(cloud) / (_MAP_PX * image_scale(image))
    rows, columns = np.maximum(part.round().astype(int), 1)
    haze = cv2.resize(cloud[:rows, :columns], (w, h), interpolation=cv2.INTER_LINEAR)
    highest = float(image.max()) / 255
    kept = highest / (highest + amplitude)
    haze *= 255 * kept * amplitude
    haze += 0.5
    out = image * np.float32(kept)
    out += haze[..., None]
    return np.minimum(out, 255, out=out).astype(np.uint8)


def snow(image: ImageRgb, severity: int, rng: np.random.Generator) -> ImageRgb:
    """Pale an image and let streaks of snow fall over it, from above and from below."""
    mean, spread, size, threshold, radius, sigma, blend = _SNOW[severity - 1]
    h, w = image.shape[:2]
    scale = image_scale(image)
    # Flakes are made at the reference's size: where noise passes a threshold, a mean over pixels
    # must come behind it and not before.
    full = (max(round(w / scale), 1), max(round(h / scale), 1))
    angle_deg = rng.uniform(-135.0, -45.0)
    noise = rng.standard_normal((-(-full[1] // size), -(-full[0] // size)), dtype=np.float32)
    flakes = cv2.resize(spread * noise + mean, full, interpolation=cv2.INTER_LINEAR)
    flakes = cv2.threshold(flakes, threshold, 0, cv2.THRESH_TOZERO)[1]
    np.minimum(flakes, 1, out=flakes)
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    flakes = blur_along(
        cv2.resize(flakes, (w, h), interpolation=shrink), radius, sigma, angle_deg
    ).clip(0, 1)
    fallen = 255 * (flakes + flakes[::-1, ::-1]) + 0.5
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * np.float32(1.5) + np.float32(127.5)
    out = np.maximum(image, grey[..., None])
    out *= np.float32(1 - blend)
    out += image * np.float32(blend)
    out += fallen[..., None]
    return np.minimum(out, 255, out=out).astype(np.uint8)


def plasma(levels: int, decay: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a fractal landscape on a torus, (2^levels, 2^levels) in 0..1 (diamond-square).

    What a level draws does not depend on the number of levels behind it.

    Args:
        levels: halvings of the cells.
        decay: a level's noise is 1 / decay² of the one before.
        rng: the only source of chance.
    """
    corners, amplitude = np.zeros((1, 1), np.float32), np.float32(1)
    for _ in range(levels):
        noise = partial(_noise, rng, corners.shape, amplitude)
        across = corners + np.roll(corners, -1, 1)
        down = corners + np.roll(corners, -1, 0)
        center = (across + np.roll(across, -1, 0)) / 4 + noise()
        finer = np.empty((2 * len(corners), 2 * len(corners)), np.float32)
        finer[::2, ::2] = corners
        finer[1::2, 1::2] = center
        finer[::2, 1::2] = (across + center + np.roll(center, 1, 0)) / 4 + noise()
        finer[1::2, ::2] = (down + center + np.roll(center, 1, 1)) / 4 + noise()
        corners, amplitude = finer, amplitude / np.float32(decay**2)
    corners -= corners.min()
    return corners / corners.max()


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], amplitude: np.float32
) -> npt.NDArray[np.float32]:
    return amplitude * (2 * rng.random(shape, dtype=np.float32) - 1)
