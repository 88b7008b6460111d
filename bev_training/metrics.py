"""Scores of grids against truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class PooledIou:
    """Intersection over union per class, pooled over all frames (not a mean of frames)."""

    def __init__(self, classes: int) -> None:
        """Start empty."""
        self._intersection = np.zeros(classes)
        self._union = np.zeros(classes)

    def update(
        self,
        predicted: npt.NDArray[np.bool_],
        truth: npt.NDArray[np.bool_],
        valid: npt.NDArray[np.bool_],
    ) -> None:
        """Add one frame: (class, y, x) predicted and truth, (y, x) cells that count."""
        self._intersection += (predicted & truth & valid).sum((1, 2))
        self._union += ((predicted | truth) & valid).sum((1, 2))

    def compute(self) -> npt.NDArray[np.float64]:
        """Return IoU per class; NaN where neither truth nor prediction has the class."""
        with np.errstate(invalid='ignore', divide='ignore'):
            iou: npt.NDArray[np.float64] = self._intersection / self._union
        return iou
