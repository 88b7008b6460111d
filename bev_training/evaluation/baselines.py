"""What can be had without a network: scores that a network must beat to have learned anything.

- 'empty': nothing is predicted anywhere, IoU 0.
- 'frequency': how often a class is in a cell of the grid, whatever the images show.
- 'ground': the images projected onto the ground (`ground`): how often a class is where the ground
  has such a colour at such a distance; 'frequency' where no camera sees the ground.

They learn from the evaluated samples themselves, but never from what they are scored on: scenes
are dealt into folds, and each fold is scored with what the others tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, Index, Mask
from bev_training.data.sample import LabelGrids
from bev_training.evaluation.ground import COLORS
from bev_training.inspection.findings import plural
from bev_training.metrics import (
    HIDDEN,
    NEGATIVE,
    POSITIVE,
    PROBABILITY_UNIT,
    THRESHOLDS,
    Scores,
    bands_of,
)

# A rare class is never frequent: with the network's thresholds alone it would not be found at all.
FINE_THRESHOLDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, *THRESHOLDS)
MOST_FOLDS = 10
NAMES = ('empty', 'frequency', 'ground')

_UNSEEN, _SEEN, _COLORED = range(3)  # kinds of cells; a coloured one is seen too


class Baselines:
    """Counts what is where, in one pass over the samples and in bounded memory; scores then.

    Attributes:
        folds: number of them; with one alone, nothing can be learned for it.
        how: says how samples are dealt into folds.
    """

    def __init__(self, classes: Sequence[str], grid: BevGrid, scenes: Sequence[str]) -> None:
        """Start.

        Args:
            classes: names along axis C.
            grid: of the labels.
            scenes: of each of the samples that will be added, in that order.
        """
        self.classes = tuple(classes)
        self._fold_of, self.how = deal(scenes)
        self.folds = max(self._fold_of, default=0) + 1
        self._bands, band = bands_of(grid)
        self._band = band.reshape(-1)
        c, b, cells = len(self.classes), len(self._bands), self._band.size
        # (fold, ..., visible or hidden, ...) of cells that have the class; the others follow.
        self._there = np.zeros((self.folds, c, 2, 3, cells), np.int32)
        self._known = np.zeros((self.folds, 3, cells), np.int32)
        self._there_by_color = np.zeros((self.folds, c, 2, b, COLORS), np.int64)
        self._known_by_color = np.zeros((self.folds, b, COLORS), np.int64)
        self._samples = 0

    def add(self, labels: LabelGrids, seen: Mask, colors: npt.NDArray[np.int16]) -> None:
        """Add the next sample.

        Args:
            labels: of the same classes, in the same order.
            seen: (y, x), cells that a live camera sees.
            colors: (cells,) of the ground, see `GroundColors`.
        """
        fold = self._fold_of[self._samples]
        self._samples += 1
        b, cells = len(self._bands), self._band.size
        kind = np.where(seen.reshape(-1), np.where(colors >= 0, _COLORED, _SEEN), _UNSEEN)
        known = labels.known.reshape(-1)
        self._known[fold].reshape(-1)[(kind * cells + np.arange(cells))[known]] += 1
        at = np.flatnonzero(labels.positive & labels.known)
        of_class, cell = np.divmod(at, cells)
        row = of_class * 2 + labels.hidden.reshape(-1)[at]
        # Each index comes once: a sample has each cell of a class once.
        self._there[fold].reshape(-1)[(row * 3 + kind[cell]) * cells + cell] += 1
        tint = self._band * COLORS + colors  # where there is a colour
        colored = kind[cell] == _COLORED
        own = self._there_by_color[fold]
        own += np.bincount(
            (row * (b * COLORS))[colored] + tint[cell[colored]], minlength=own.size
        ).reshape(own.shape)
        whole = self._known_by_color[fold]
        whole += np.bincount(tint[known & (kind == _COLORED)], minlength=whole.size).reshape(
            whole.shape
        )

    def result(self) -> dict[str, Scores]:
        """Return the scores by name, those of `NAMES` that can be had."""
        names = NAMES if self.folds > 1 else NAMES[:1]
        tallies = {name: _Tally(self.classes, self._bands, self._band) for name in names}
        everywhere = self._there.sum(0), self._known.sum(0)
        by_color = self._there_by_color.sum(0), self._known_by_color.sum(0)
        for fold in range(self.folds):
            there, known = self._there[fold], self._known[fold]
            nothing = np.zeros((len(self.classes), self._band.size))
            tallies['empty'].add(nothing, there, known)
            if self.folds == 1:
                break
            frequent = _shares(
                (everywhere[0] - there).sum(2), (everywhere[1] - known).sum(0)[None]
            )  # of all kinds of cells
            tallies['frequency'].add(frequent, there, known)
            colored = _shares(
                by_color[0] - self._there_by_color[fold], by_color[1] - self._known_by_color[fold]
            )
            ground = tallies['ground']
            ground.add(frequent, there[:, :, :_COLORED], known[:_COLORED])
            ground.add_by_color(colored, self._there_by_color[fold], self._known_by_color[fold])
        return {name: tally.scores(self._samples) for name, tally in tallies.items()}


def deal(scenes: Sequence[str]) -> tuple[list[int], str]:
    """Return the fold of each sample, and how it was found.

    Whole scenes are dealt, in an order that their names alone decide; the samples of a single
    scene are parted in the middle.
    """
    names = sorted(set(scenes), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) > 1:
        folds = min(MOST_FOLDS, len(names))
        fold_of = {name: i % folds for i, name in enumerate(names)}
        one = 'one scene' if folds == len(names) else 'every tenth scene'
        how = (
            f'learned from the evaluated data: {one} of {len(names)} is left out at a time, '
            'and scored with what the others tell'
        )
        return [fold_of[name] for name in scenes], how
    count = len(scenes)
    how = (
        f'learned from the evaluated data: all {plural(count, "sample")} are of one scene; its '
        'first half is scored with what the second tells, and the other way round. They are of '
        'the same place, so this flatters the baselines'
    )
    if count < 2:
        how = 'a single sample leaves nothing to learn from; only the empty baseline is there'
    return [int(i >= count // 2) if count > 1 else 0 for i in range(count)], how


def _shares(there: Index, known: Index) -> Array:
    """Return (class, ...) how often a class is there; its mean share where nothing is known.

    Args:
        there: (class, visible or hidden, ...) numbers; hidden ones are left out.
        known: (...) numbers, or with a first axis of 1.
    """
    visible, counted = there[:, POSITIVE - 1], known - there[:, HIDDEN - 1]
    rest = tuple(range(1, visible.ndim))
    mean = visible.sum(rest, keepdims=True) / np.maximum(counted.sum(rest, keepdims=True), 1)
    return np.where(counted > 0, visible / np.maximum(counted, 1), mean)


class _Tally:
    """Scores of predictions that are the same for many cells at once."""

    def __init__(
        self, classes: tuple[str, ...], bands: tuple[tuple[float, float], ...], band: Index
    ) -> None:
        self._classes, self._bands, self._band = classes, bands, band
        self._steps = np.array(FINE_THRESHOLDS, np.float32)
        bins = len(FINE_THRESHOLDS) + 1
        self._histogram = np.zeros((len(classes), len(bands), 2, 3, bins), np.int64)
        self._mass = np.zeros((len(classes), bins), np.int64)

    def add(self, probability: Array, there: AnyArray, known: AnyArray) -> None:
        """Add cells of the grid: (class, cell) probability; (class, visible or hidden, kind,
        cell) and (kind, cell) numbers.
        """
        for kind in range(known.shape[0]):
            seen = int(kind != _UNSEEN)
            self._add(probability, self._band, seen, there[:, :, kind], known[kind])

    def add_by_color(self, probability: Array, there: Index, known: Index) -> None:
        """Add cells that a camera sees: (class, band, color) probability; (class, visible or
        hidden, band, color) and (band, color) numbers.
        """
        c, b, colors = probability.shape
        band = np.repeat(np.arange(b), colors)
        self._add(probability.reshape(c, -1), band, 1, there.reshape(c, 2, -1), known.reshape(-1))

    def _add(
        self, probability: Array, band: Index, seen: int, there: AnyArray, known: AnyArray
    ) -> None:
        said = probability.astype(np.float32)
        bins, b = len(self._steps) + 1, len(self._bands)
        reached = np.searchsorted(self._steps, said, side='right')
        units = np.rint(said * np.float32(1 / PROBABILITY_UNIT)).astype(np.int64)
        for c in range(len(self._classes)):
            visible, hidden = there[c].astype(np.int64)
            negative = known - visible - hidden
            for state, counts in ((NEGATIVE, negative), (POSITIVE, visible), (HIDDEN, hidden)):
                sums = np.bincount(band * bins + reached[c], counts, b * bins)
                self._histogram[c, :, seen, state] += sums.astype(np.int64).reshape(b, bins)
            if seen:
                np.add.at(self._mass[c], reached[c], units[c] * (negative + visible))

    def scores(self, samples: int) -> Scores:
        return Scores(
            classes=self._classes,
            thresholds=FINE_THRESHOLDS,
            bands=self._bands,
            samples=samples,
            histogram=self._histogram,
            mass=self._mass,
        )
