"""Whether probabilities mean what they say: reliability curve and expected calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.shapes import Array, Index


@dataclass(frozen=True, eq=False, kw_only=True)
class Reliability:
    """How often a class is there where it is said to be so probable, by step of probability.

    Attributes:
        bounds: (step, 2) from and to which probability; the last step holds 1 too.
        probability: (step,) mean of what is said; NaN in a step without cells.
        share: (step,) of the cells that are of the class; NaN in a step without cells.
        cells: (step,) number of them.
    """

    bounds: Array
    probability: Array
    share: Array
    cells: Index

    @classmethod
    def of_counts(
        cls, thresholds: Sequence[float], *, cells: Index, positive: Index, probability: Array
    ) -> Reliability:
        """Return the curve of counted cells.

        Args:
            thresholds: between the steps, one less than there are steps.
            cells: (step,) number of them.
            positive: (step,) those of them that are of the class.
            probability: (step,) sum over the cells.
        """
        edges = np.array([0.0, *thresholds, 1.0])
        with np.errstate(invalid='ignore'):
            return cls(
                bounds=np.stack([edges[:-1], edges[1:]], 1),
                probability=probability / cells,
                share=positive / cells,
                cells=cells,
            )

    def ece(self) -> float:
        """Return the expected calibration error: the mean over all cells of the distance between
        probability and share in their step; NaN without cells.

        Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015.
        """
        there = self.cells > 0
        if not there.any():
            return math.nan
        gaps = np.abs(self.share - self.probability)[there]
        return float(np.average(gaps, weights=self.cells[there]))

    def as_json(self) -> dict[str, Any]:
        """Return plain values; None stands for what has no cells.

        {'ece': see `ece`,
         'steps': [{'from', 'to', 'probability', 'share', 'cells'}, ...]}
        """
        columns = (*self.bounds.T, self.probability, self.share, self.cells)
        names = ('from', 'to', 'probability', 'share')
        return {
            'ece': plain_number(self.ece()),
            'steps': [
                {
                    **{
                        each: plain_number(float(v))
                        for each, v in zip(names, row[:4], strict=True)
                    },
                    'cells': int(row[4]),
                }
                for row in zip(*columns, strict=True)
            ],
        }


def plain_number(value: float) -> float | None:
    """Return a figure as JSON has it: None for NaN, six digits."""
    return None if math.isnan(value) else round(value, 6)
