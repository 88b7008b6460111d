"""Corruptions of one image by its sensor: blur, few colours, too much light, too little.

Formulas: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
and perturbations", 2019; strengths: Xie et al., "RoboBEV", 2023 (nuScenes-C). Lengths are given
for images whose longer side has 1600 pixels and follow the image's size, so that a scene looks
the same however far its image was shrunk before.

Every function takes an RGB image, a severity (1 easy, 2 mid, 3 hard) and the only source of its
chance, and returns a new image. What it draws does not depend on the severity.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.shapes import AnyArray, ImageRgb

REFERENCE_PX = 1600

# By severity, easy to hard.
_BLUR_PX = ((15, 5.0), (15, 12.0), (20, 15.0))  # radius, sigma
_BITS = (4, 3, 2)
_BRIGHTER = (0.2, 0.4, 0.5)  # added to the value of hue, saturation, value
_LOW_LIGHT = ((0.4, 120.0, 0.018), (0.3, 50.0, 0.026), (0.2, 30.0, 0.038))


def motion_blur(image: ImageRgb, severity: int, rng: np.random.Generator) -> ImageRgb:
    """Smear an image along a line that is at most 45 degrees from its rows.

    Weights are half a Gaussian: the scene is where it was when the exposure began.
    """
    radius, sigma = _BLUR_PX[severity - 1]
    return blur_along(image, radius, sigma, rng.uniform(-45.0, 45.0))


def color_quant(image: ImageRgb, severity: int, rng: np.random.Generator) -> ImageRgb:
    """Keep the highest 4, 3 or 2 bits of every channel."""
    dropped = 8 - _BITS[severity - 1]
    return np.bitwise_and(image, np.uint8(0xFF >> dropped << dropped))


def brightness(image: ImageRgb, severity: int, rng: np.random.Generator) -> ImageRgb:
    """Add to the value of hue, saturation, value; hue and saturation stay.

    All three channels then grow by the same factor; black, which has no hue, becomes grey.
    """
    value = np.arange(256, dtype=np.float32)
    brighter = np.minimum(value + 255 * _BRIGHTER[severity - 1], 255)
    factor = brighter / np.maximum(value, 1)
    highest = cv2.max(cv2.max(image[..., 0], image[..., 1]), image[..., 2])
    # Half up: a truncating cast is several times faster than rounding to even.
    out = (image * cv2.LUT(highest, factor)[..., None] + 0.5).astype(np.uint8)
    out[highest == 0] = round(brighter[0])
    return out


def low_light(image: ImageRgb, severity: int, rng: np.random.Generator) -> ImageRgb:
    """Darken an image with gamma 2, and add the noise of few photons and of the amplifier.

    The noise of photons is drawn as normal, with the Poisson distribution's mean and variance.
    A pixel of a shrunk image is the mean of several, so its noise is as much weaker.
    """
    bright, photons, sigma = _LOW_LIGHT[severity - 1]
    low, high = int(image.min()), int(image.max())
    level = np.clip((np.arange(256) - low) / max(high - low, 1), 0, 1)
    mean = bright * level**2
    spread = np.sqrt(mean / photons + sigma**2) * image_scale(image)
    out = rng.standard_normal(image.shape, dtype=np.float32)
    out *= cv2.LUT(image, (255 * spread).astype(np.float32))
    out += cv2.LUT(image, (255 * mean + 0.5).astype(np.float32))
    return np.clip(out, 0, 255, out=out).astype(np.uint8)


def image_scale(image: AnyArray) -> float:
    """Return the pixels of an image (h, w, ...) per pixel that strengths are given for."""
    return max(image.shape[:2]) / REFERENCE_PX


def blur_along(image: AnyArray, radius_px: int, sigma_px: float, angle_deg: float) -> AnyArray:
    """Smear an image along a line, with 2 · radius + 1 taps of half a Gaussian.

    Args:
        image: (h, w) or (h, w, c); beyond its rim, the rim's values go on.
        radius_px: of the reference's size.
        sigma_px: of the reference's size.
        angle_deg: content moves against this direction, 0 is right and 90 is down.
    """
    kernel, anchor = _line_kernel(radius_px, sigma_px, angle_deg, image_scale(image))
    return cv2.filter2D(image, -1, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)


def _line_kernel(
    radius_px: int, sigma_px: float, angle_deg: float, scale: float
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """Return the taps, spread over the pixels that they lie between, and the anchor (x, y)."""
    step = np.arange(2 * radius_px + 1)
    weight = np.exp(-(step**2) / (2 * sigma_px**2))
    weight /= weight.sum()
    angle = math.radians(angle_deg)
    x, y = step * scale * math.cos(angle), step * scale * math.sin(angle)
    left, top = math.floor(x.min()), math.floor(y.min())
    width, height = math.floor(x.max()) - left + 2, math.floor(y.max()) - top + 2
    kernel = np.zeros((height, width))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            share = (1 - np.abs(x - column - dx)) * (1 - np.abs(y - row - dy))
            np.add.at(kernel, (row + dy - top, column + dx - left), weight * share)
    return kernel.astype(np.float32), (-left, -top)
