"""Noise that repeats without a seam, and its lookup at places on the ground."""

from __future__ import annotations

import cv2
import numpy as np

from bev_perception.shapes import AnyArray

TILE = 512
_ROW = 1024  # remap wants images; points are folded into rows of this length


def tile(rng: np.random.Generator) -> AnyArray:
    """Return (TILE, TILE, 4) uint8: grain, lumps, clouds (mean 128, deviation 42), and cracks."""
    grain = _band(rng, 60, 250)
    lumps = _band(rng, 12, 40)
    clouds = _band(rng, 2, 9)
    wander = _band(rng, 2, 14) + 0.12 * _band(rng, 30, 80)
    steep = np.hypot(*np.gradient(wander))
    far = np.abs(wander) / np.maximum(steep, 1e-3)  # texels from the line of zeros
    cracks = np.exp(-((far / 0.9) ** 2)) * (_band(rng, 2, 6) > 0.4)
    values = [128 + 42 * noise for noise in (grain, lumps, clouds)]
    return np.clip(np.stack([*values, 255 * cracks], -1), 0, 255).astype(np.uint8)


def _band(rng: np.random.Generator, low: float, high: float) -> AnyArray:
    """Return noise of deviation 1 with `low` to `high` waves per tile."""
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    fy, fx = np.fft.fftfreq(TILE, 1 / TILE), np.fft.rfftfreq(TILE, 1 / TILE)
    f = np.hypot(fy[:, None], fx)
    spectrum *= np.exp(-((f / high) ** 2)) * (1 - np.exp(-((f / low) ** 2))) / np.maximum(f, 1)
    noise = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray(noise / noise.std())


def sample(image: AnyArray, x: AnyArray, y: AnyArray, *, wrap: bool = False) -> AnyArray:
    """Return an image's values (N, ...) at positions in pixels, bilinear; outside it 0.

    Args:
        image: (h, w) or (h, w, C).
        x: (N,) float32 columns.
        y: (N,) float32 rows.
        wrap: the image repeats.
    """
    n = len(x)
    rows = max(-(-n // _ROW), 1)
    maps = np.zeros((2, rows * _ROW), np.float32)
    if wrap:
        np.mod(x, image.shape[1], out=maps[0, :n])
        np.mod(y, image.shape[0], out=maps[1, :n])
    else:
        maps[0, :n], maps[1, :n] = x, y
    border = cv2.BORDER_WRAP if wrap else cv2.BORDER_CONSTANT
    u, v = maps.reshape(2, rows, _ROW)
    found = cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(found.reshape(rows * _ROW, *image.shape[2:])[:n])
