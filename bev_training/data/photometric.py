"""Colours of a camera image: exposure, contrast, saturation, hue, noise.

All but the noise are affine in RGB, so one matrix and one pass over the pixels do them together.
"""

from __future__ import annotations

import cv2
import numpy as np

from bev_perception.shapes import Array, ImageRgb
from bev_training.fit.settings import AugmentConfig

# Luma and two axes of colour that are orthogonal to gray (YIQ, FCC 47 CFR 73.682).
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)


def vary_colors(image: ImageRgb, config: AugmentConfig, rng: np.random.Generator) -> ImageRgb:
    """Return an image (h, w, 3) in other colours, each setting drawn within its range.

    Whatever the settings, the same number of values is drawn for them (noise aside).
    """
    draws = rng.uniform(-1, 1, 4)
    brightness, contrast, saturation = 1 + draws[:3] * (
        config.brightness,
        config.contrast,
        config.saturation,
    )
    matrix = color_matrix(brightness, saturation, np.radians(draws[3] * config.hue_deg))
    if image.size and (contrast != 1 or not np.array_equal(matrix, np.eye(3))):
        # Contrast spreads the colours about the image's mean luma.
        mean = float(_LUMA @ (matrix @ cv2.mean(image)[:3]))
        affine = np.concatenate([contrast * matrix, np.full((3, 1), (1 - contrast) * mean)], 1)
        image = np.asarray(cv2.transform(image, affine), np.uint8)
    sigma = rng.uniform(0, 255 * config.noise) if config.noise else 0.0
    if sigma:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(sigma)
        image = (image + noise).round().clip(0, 255).astype(np.uint8)
    return image


def color_matrix(brightness: float, saturation: float, hue_rad: float) -> Array:
    """Return the (3, 3) matrix on RGB columns; hue turns about the gray axis, luma stays."""
    if saturation == 1 and hue_rad == 0:
        return brightness * np.eye(3)
    c, s = saturation * np.cos(hue_rad), saturation * np.sin(hue_rad)
    turned = np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])
    return np.asarray(brightness * _RGB @ turned @ _YIQ)
