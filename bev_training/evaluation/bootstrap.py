"""How much of a difference of two checkpoints may be chance: a paired bootstrap.

Both are scored on the same samples. These are drawn anew, with replacement, and IoU is pooled over
what was drawn for both alike; the spread of the differences is that of another drive of the same
kind (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import AnyArray, Array, Index

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0
# With fewer scenes, the interval of whole scenes is too narrow and jumps.
LEAST_SCENES = 8
_AT_ONCE = 200  # resamples, for the sake of memory


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one class: the first checkpoint's IoU less the second's; NaN where there is no truth.

    Attributes:
        first: IoU.
        second: IoU.
        difference: of the two.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def units_of(scenes: Sequence[str]) -> tuple[Index, str]:
    """Return the unit that each sample belongs to, and what units are: 'scenes' or 'samples'.

    Samples of a scene show much the same: as soon as there are enough scenes, whole ones are
    drawn.
    """
    names, of_sample = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
    if len(names) >= LEAST_SCENES:
        return of_sample.astype(np.int64), 'scenes'
    return np.arange(len(scenes), dtype=np.int64), 'samples'


def paired_bootstrap(
    first: Index,
    second: Index,
    units: Index,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> tuple[Difference, ...]:
    """Return the difference of pooled IoU of each class, with its interval.

    Args:
        first: (sample, class, 3) cells: hit, false, missed.
        second: the same of the other checkpoint, of the same samples.
        units: (sample,) which samples are drawn together.
        resamples: how often.
        level: share of the resamples within the interval.
        seed: of the draws.

    Raises:
        ConfigError: the two are not of the same samples, or there are none.
    """
    if first.shape != second.shape or len(units) != len(first) or not len(first):
        raise ConfigError(
            f'counts of {first.shape}, {second.shape} and units of {len(units)} samples cannot be '
            'compared'
        )
    of_unit = np.zeros((2, int(units.max()) + 1, *first.shape[1:]), np.int64)
    for i, counts in enumerate((first, second)):
        np.add.at(of_unit[i], units, counts)
    pooled = _iou(of_unit.sum(1))  # (2, class)
    drawn = np.concatenate(list(_drawn(of_unit, resamples, seed)))
    with np.errstate(invalid='ignore'):
        tail = 100 * (1 - level) / 2
        ends = np.stack([_percentiles(column, tail) for column in drawn.T])
    return tuple(
        Difference(
            first=float(a), second=float(b), difference=float(a - b), low=float(lo), high=float(hi)
        )
        for (a, b), (lo, hi) in zip(pooled.T, ends, strict=True)
    )


def _drawn(of_unit: Index, resamples: int, seed: int) -> list[Array]:
    """Return differences, (resample, class) in parts."""
    rng = np.random.default_rng(seed)
    count = of_unit.shape[1]
    flat = of_unit.reshape(2, count, -1).astype(np.float64)  # whole numbers, below 2^53
    parts = []
    for start in range(0, resamples, _AT_ONCE):
        rows = min(_AT_ONCE, resamples - start)
        # How often each unit is drawn.
        times = rng.multinomial(count, np.full(count, 1 / count), rows).astype(np.float64)
        sums = (times @ flat).reshape(2, rows, *of_unit.shape[2:])
        iou = _iou(sums)
        parts.append(iou[0] - iou[1])
    return parts


def _iou(counts: AnyArray) -> Array:
    """Return (...) IoU of (..., 3) hit, false, missed; NaN without truth."""
    hit, false, missed = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid='ignore'):
        return np.where(hit + missed > 0, hit / (hit + false + missed), np.nan)


def _percentiles(values: Array, tail: float) -> Array:
    """Return the two ends, of the resamples in which the class is there."""
    there = values[~np.isnan(values)]
    return np.percentile(there, [tail, 100 - tail]) if len(there) else np.full(2, np.nan)
