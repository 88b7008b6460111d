"""Features as colours: three principal components on red, green and blue.

One mapping for several scenes shows whether the same things have the same features in all of them
(Sirko-Galouchenko et al., "OccFeat", 2024, figure 5). Features are brought to unit length first:
they are learned by their cosine, so their length means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BevError
from bev_perception.shapes import AnyArray, Array

_CUT_PERCENT = 2.0  # of the features at each end have the darkest and the brightest shade
_FLAT = 1e-9  # variance below which a component says nothing


@dataclass(frozen=True, eq=False, kw_only=True)
class ColorMapping:
    """How features of c channels become colours.

    Attributes:
        mean: (c,) of unit features.
        axes: (3, c) unit, the direction of most variance first.
        low: (3,) where a shade is 0.
        high: (3,) where it is 255.
        explained: (3,) share of each direction in all variance.
    """

    mean: Array
    axes: Array
    low: Array
    high: Array
    explained: Array

    def colors(self, features: AnyArray) -> npt.NDArray[np.uint8]:
        """Return RGB (..., 3) of features (..., c)."""
        along = (unit(features) - self.mean) @ self.axes.T
        span = self.high - self.low
        share = np.where(span > 0, (along - self.low) / np.where(span > 0, span, 1), 0.5)
        return np.asarray(np.rint(np.clip(share, 0, 1) * 255), np.uint8)


def fit_mapping(features: AnyArray) -> ColorMapping:
    """Find the mapping that shows most of what differs between features.

    The same features give the same colours: each direction is turned so that its largest component
    is positive. Directions in which nothing differs stay grey.

    Args:
        features: (n, c), at least three channels.

    Raises:
        BevError: there are none, too few channels, or values that are not finite.
    """
    if features.ndim != 2 or not len(features) or features.shape[1] < 3:
        raise BevError(
            f'features are {features.shape}; colours need some voxels, of at least 3 channels'
        )
    whole = unit(features)
    if not np.isfinite(whole).all():
        raise BevError('features hold values that are not finite')
    mean = whole.mean(0)
    centred = whole - mean
    variance, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(centred))
    axes = vectors[:, ::-1][:, :3].T
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    axes = axes * np.sign(largest)
    first = np.maximum(variance[::-1][:3], 0)
    along = centred @ axes.T
    low, high = np.percentile(along, [_CUT_PERCENT, 100 - _CUT_PERCENT], axis=0)
    flat = first <= _FLAT
    total = max(float(variance.sum()), _FLAT)
    return ColorMapping(
        mean=mean,
        axes=axes,
        low=np.where(flat, 0.0, low),
        high=np.where(flat, 0.0, high),
        explained=first / total,
    )


def unit(features: AnyArray) -> AnyArray:
    """Return features (..., c) of length 1, at least float32; those of length 0 stay so."""
    wide = features.astype(np.result_type(features, np.float32), copy=False)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.asarray(wide / np.where(length > 0, length, length.dtype.type(1)))
