"""sRGB, as colour pickers and images use it, and linear light, in which one can calculate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_STEPS = 4096
_KNEE = 0.75  # where the tone curve leaves the straight line


def linear(srgb: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return linear light of sRGB values, both in 0..1."""
    value = np.asarray(srgb, np.float32)
    dark = value / 12.92
    return np.where(value <= 0.04045, dark, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _encoded() -> npt.NDArray[np.float32]:
    """Return the camera's response: 0..255 for linear light 0..4, spaced by its root."""
    light = np.linspace(0, 2, _STEPS) ** 2
    room = 1 - _KNEE
    rolled = np.where(light < _KNEE, light, _KNEE + room * (1 - np.exp(-(light - _KNEE) / room)))
    srgb = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * rolled ** (1 / 2.4) - 0.055)
    return (255 * srgb).astype(np.float32)


_RESPONSE = _encoded()


def developed(light: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what a camera shows (0..255, not rounded) of linear light; highlights roll off."""
    root = np.sqrt(np.clip(light, 0, 4))
    root *= (_STEPS - 1) / 2
    return _RESPONSE[(root + np.float32(0.5)).astype(np.uint16)]
