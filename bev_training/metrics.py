"""Scores of grids against truth: intersection over union, pooled over a whole set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Index, Mask
from bev_training.data.sample import LabelGrids
from bev_training.evaluation.calibration import Reliability, plain_number

# (i + 1) / 20 and not 0.05 * i: 0.5 is among them exactly.
THRESHOLDS = tuple((i + 1) / 20 for i in range(19))
CONVENTIONS = ('visible', 'all')
REGIONS = ('known', 'seen')
BANDS_M = (0.0, 10.0, 20.0, 35.0, 50.0, math.inf)

# What a counted cell is to a class.
NEGATIVE, POSITIVE, HIDDEN = range(3)
# Sums of probabilities are kept as whole numbers of this, so that no order of adding changes them.
PROBABILITY_UNIT = 1e-6


class PooledScores:
    """Counts cells of a set of samples, from which `Scores` tell IoU in every way.

    One histogram over (class, band of distance, seen by a camera or not, truth, probability)
    holds both conventions of visibility, both regions and all thresholds. With the sum of the
    probabilities in each of its steps it also tells how well they are calibrated. Counts are
    whole numbers that can be added: neither the order of samples nor their split over processes
    changes a score.
    """

    def __init__(
        self,
        classes: Sequence[str],
        grid: BevGrid,
        thresholds: Sequence[float] = THRESHOLDS,
    ) -> None:
        """Start empty.

        Args:
            classes: names along axis C.
            grid: of predictions and labels.
            thresholds: rising, within 0..1.

        Raises:
            ConfigError: the thresholds are none, or do not rise within 0..1.
        """
        self.classes, self.grid = tuple(classes), grid
        self.thresholds = tuple(float(t) for t in thresholds)
        rising = all(a < b for a, b in zip(self.thresholds, self.thresholds[1:], strict=False))
        if not self.thresholds or not rising or not all(0 <= t <= 1 for t in self.thresholds):
            raise ConfigError(f'thresholds are {self.thresholds}; they must rise within 0..1')
        self.bands, self._band = bands_of(grid)
        # As probabilities are float32, so that one that equals a threshold is found equal.
        self._steps = np.array(self.thresholds, np.float32)
        self._shape = (len(self.classes), len(self.bands), 2, 3, len(self.thresholds) + 1)
        self._histogram = np.zeros(self._shape, np.int64)
        self._mass = np.zeros((len(self.classes), len(self.thresholds) + 1), np.int64)
        self._samples = 0

    def update(self, probability: npt.NDArray[np.float32], labels: LabelGrids, seen: Mask) -> None:
        """Add one sample.

        A class is predicted where its probability reaches the threshold.

        Args:
            probability: (class, y, x) in 0..1.
            labels: of the same classes, in the same order.
            seen: (y, x), cells that a live camera sees.

        Raises:
            ConfigError: labels are of other classes or another grid.
            BevError: a probability is not finite.
        """
        cells = self.grid.shape[1:]
        shape = (len(self.classes), *cells)
        if labels.classes != self.classes:
            raise ConfigError(f'labels are of {labels.classes}, not of {self.classes}')
        for name, array, wanted in (
            ('probabilities', probability, shape),
            ('labels', labels.positive, shape),
            ('seen cells', seen, cells),
        ):
            if array.shape != wanted:
                raise ConfigError(f'{name} have the shape {array.shape}, not {wanted}')
        if not np.isfinite(probability).all():
            bad = [n for n, p in zip(self.classes, probability, strict=True)
                   if not np.isfinite(p).all()]  # fmt: skip
            raise BevError(f'the probability of {bad[0]} is not a number in some cells')
        c, b, _, states, bins = self._shape
        known = np.flatnonzero(labels.known)
        said = probability.reshape(c, -1).take(known, 1).astype(np.float32, copy=False)
        # How many thresholds it reaches; so many passes cost less than a search for each cell.
        reached = np.zeros(said.shape, np.uint8 if bins <= 255 else np.int64)
        for step in self._steps:
            reached += said >= step
        positive, hidden = (
            grids.reshape(c, -1).take(known, 1) for grids in (labels.positive, labels.hidden)
        )
        state = positive.view(np.uint8) + (hidden & positive)
        place = (self._band * 2 + seen).reshape(-1)[known]
        index = (np.arange(c)[:, None] * b * 2 + place) * (states * bins)
        index += state * np.int64(bins)
        index += reached
        counted = index.reshape(-1)
        counts = np.bincount(counted, minlength=self._histogram.size)
        self._histogram += counts.reshape(self._shape)
        units = np.rint(said * np.float32(1 / PROBABILITY_UNIT)).reshape(-1)
        # Sums of whole numbers, which a float64 holds exactly.
        mass = np.bincount(counted, units, self._histogram.size)
        mass = mass.reshape(self._shape).sum(1)[:, 1]  # of all bands, where it is seen
        self._mass += (mass[:, NEGATIVE] + mass[:, POSITIVE]).astype(np.int64)
        self._samples += 1

    def counts(self) -> Index:
        """Return all counts as one flat array, which can be summed over processes."""
        parts = ([self._samples], self._histogram.reshape(-1), self._mass.reshape(-1))
        return np.concatenate(parts).astype(np.int64)

    def add_counts(self, counts: Index) -> None:
        """Add what `counts` of another one with the same settings returned.

        Raises:
            ConfigError: it had other settings.
        """
        size = self._histogram.size
        if np.shape(counts) != (1 + size + self._mass.size,):
            raise ConfigError(
                f'counts have the shape {np.shape(counts)}, not {(1 + size + self._mass.size,)}'
            )
        counts = np.asarray(counts, np.int64)
        self._samples += int(counts[0])
        self._histogram += counts[1 : 1 + size].reshape(self._shape)
        self._mass += counts[1 + size :].reshape(self._mass.shape)

    def result(self) -> Scores:
        """Return the scores of what was added so far."""
        return Scores(
            classes=self.classes,
            thresholds=self.thresholds,
            bands=self.bands,
            samples=self._samples,
            histogram=self._histogram.copy(),
            mass=self._mass.copy(),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Scores of a set.

    Two conventions: 'visible' leaves out cells that belong to a class only through hardly visible
    objects, 'all' counts them as positive. Two regions: 'known' are all cells whose truth is
    known, as papers count; 'seen' are those of them that a live camera sees, where the node
    publishes something.

    Attributes:
        classes: names.
        thresholds: rising.
        bands: (from, to) distance of a cell's centre from the vehicle, metres; those that the
            grid has.
        samples: number of them.
        histogram: (class, band, unseen or seen, negative, positive or hidden, number of
            thresholds reached) cells.
        mass: (class, number of thresholds reached) sum of the probabilities of the known cells
            that a camera sees, without hidden ones, in units of `PROBABILITY_UNIT`.
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    bands: tuple[tuple[float, float], ...]
    samples: int
    histogram: Index
    mass: Index

    def iou(
        self,
        name: str,
        convention: str = 'visible',
        threshold: float = 0.5,
        *,
        band: tuple[float, float] | None = None,
        region: str = 'known',
    ) -> float:
        """Return intersection over union of a class; NaN where the truth does not have it.

        Args:
            name: the class.
            convention: one of `CONVENTIONS`.
            threshold: one of `thresholds`.
            band: one of `bands`; None takes all of the grid.
            region: one of `REGIONS`.

        Raises:
            ConfigError: there is no such class, convention, threshold, band or region.
        """
        hit, false, missed = self.cells(name, convention, threshold, band=band, region=region)
        return hit / (hit + false + missed) if hit + missed else math.nan

    def cells(
        self,
        name: str,
        convention: str = 'visible',
        threshold: float = 0.5,
        *,
        band: tuple[float, float] | None = None,
        region: str = 'known',
    ) -> tuple[int, int, int]:
        """Return numbers of cells: hit, false, missed; arguments as of `iou`."""
        if threshold not in self.thresholds:
            raise ConfigError(f'threshold {threshold} is none of {self.thresholds}')
        hit, false, missed = self._curves(name, convention, band, region)
        at = self.thresholds.index(threshold)
        return int(hit[at]), int(false[at]), int(missed[at])

    def best(
        self, name: str, convention: str = 'visible', *, region: str = 'known'
    ) -> tuple[float, float]:
        """Return (threshold, IoU) where IoU is best, the lowest of equals; NaN, NaN where the
        truth does not have the class.
        """
        hit, false, missed = self._curves(name, convention, None, region)
        if not (hit[0] + missed[0]):
            return math.nan, math.nan
        iou = hit / (hit + false + missed)
        at = int(np.argmax(iou))
        return self.thresholds[at], float(iou[at])

    def reliability(self, name: str) -> Reliability:
        """Return how often a class is there where it is said to be so probable.

        Steps of probability lie between the thresholds; by default there are 20 of equal width.

        Raises:
            ConfigError: there is no such class.
        """
        self._check('class', name, self.classes)
        at = self.classes.index(name)
        seen = self.histogram[at].sum(0)[1]  # (truth, reached)
        return Reliability.of_counts(
            self.thresholds,
            cells=seen[NEGATIVE] + seen[POSITIVE],
            positive=seen[POSITIVE],
            probability=self.mass[at] * PROBABILITY_UNIT,
        )

    def ece(self, name: str) -> float:
        """Return the expected calibration error of a class, see `Reliability.ece`.

        Raises:
            ConfigError: there is no such class.
        """
        return self.reliability(name).ece()

    def coverage(self) -> float:
        """Return the share of the known cells that a live camera sees; NaN without samples."""
        cells = self.histogram[0].sum((0, 2, 3))
        return float(cells[1] / cells.sum()) if cells.sum() else math.nan

    def as_json(self) -> dict[str, Any]:
        """Return plain values; None stands for an IoU where the truth does not have the class.

        {'samples': number of them,
         'coverage': share of the known cells that a live camera sees,
         'classes': {CLASS: {CONVENTION: {
             'iou': at 0.5,
             'best': {'threshold', 'iou'},
             'positive_cells': of the truth, over all samples,
             'bands': {'0-10 m': at 0.5, ...},
             'by_threshold': {'0.05': IoU, ...},
             'seen': {all of these again, of the cells that a live camera sees}},
          'calibration': see `Reliability.as_json`}}}

        All but 'seen' and 'calibration' is of the known cells; a CONVENTION is 'visible' or
        'all'.
        """
        return {
            'samples': self.samples,
            'coverage': plain_number(self.coverage()),
            'classes': {
                name: {
                    **{each: self._class_json(name, each) for each in CONVENTIONS},
                    'calibration': self.reliability(name).as_json(),
                }
                for name in self.classes
            },
        }

    def _class_json(self, name: str, convention: str) -> dict[str, Any]:
        by_region = {}
        for region in REGIONS:
            hit, false, missed = self._curves(name, convention, None, region)
            with np.errstate(invalid='ignore', divide='ignore'):
                curve = np.where(hit + missed > 0, hit / (hit + false + missed), math.nan)
            threshold, best = self.best(name, convention, region=region)
            by_region[region] = {
                'iou': plain_number(self._at_half(name, convention, None, region)),
                'best': {'threshold': plain_number(threshold), 'iou': plain_number(best)},
                'positive_cells': int(hit[0] + missed[0]),
                'bands': {
                    band_name(band): plain_number(self._at_half(name, convention, band, region))
                    for band in self.bands
                },
                'by_threshold': {
                    f'{t:g}': plain_number(float(v))
                    for t, v in zip(self.thresholds, curve, strict=True)
                },
            }
        return {**by_region['known'], 'seen': by_region['seen']}

    def _at_half(
        self, name: str, convention: str, band: tuple[float, float] | None, region: str
    ) -> float:
        if 0.5 not in self.thresholds:
            return math.nan
        return self.iou(name, convention, 0.5, band=band, region=region)

    @staticmethod
    def _check(what: str, value: object, known: Sequence[object]) -> None:
        if value not in known:
            raise ConfigError(f'{what} {value!r} is none of {[*known]}')

    def _curves(
        self, name: str, convention: str, band: tuple[float, float] | None, region: str
    ) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Return hit, false and missed cells, each (threshold,)."""
        for what, value, known in (
            ('class', name, self.classes),
            ('convention', convention, CONVENTIONS),
            ('region', region, REGIONS),
            ('band', band, (None, *self.bands)),
        ):
            self._check(what, value, known)
        of_class = self.histogram[self.classes.index(name)]
        in_band = of_class.sum(0) if band is None else of_class[self.bands.index(band)]
        in_region = in_band[1] if region == 'seen' else in_band.sum(0)  # (truth, reached)
        positive = in_region[POSITIVE]
        if convention == 'all':
            positive = positive + in_region[HIDDEN]
        # Cell k reaches the thresholds 0..k-1, so threshold i is reached by those behind it.
        hit = positive[::-1].cumsum()[::-1][1:]
        false = in_region[NEGATIVE][::-1].cumsum()[::-1][1:]
        return hit, false, positive.sum() - hit


def bands_of(
    grid: BevGrid,
) -> tuple[tuple[tuple[float, float], ...], npt.NDArray[np.int64]]:
    """Return the bands of distance that a grid has, and (y, x) which of them a cell is in."""
    distance_m = np.linalg.norm(grid.cell_centers(), axis=-1)
    band = np.digitize(distance_m, BANDS_M) - 1
    present = np.unique(band)
    bands = tuple((BANDS_M[b], BANDS_M[b + 1]) for b in present)
    return bands, np.searchsorted(present, band)


def band_name(band: tuple[float, float]) -> str:
    """Return a band as text: '0-10 m', '50+ m'."""
    low, high = band
    return f'{low:g}+ m' if math.isinf(high) else f'{low:g}-{high:g} m'
