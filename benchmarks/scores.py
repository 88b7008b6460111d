"""Time of counting one sample's scores: one histogram against a pass per score.

python benchmarks/scores.py [--rounds 5]

Both count the same for five classes in 200 x 200 cells: two conventions of visibility, two
regions, 19 thresholds and all bands of distance; the fast form also sums what calibration needs.
The plain form asks for each score by itself, as its definition reads. They take turns on one
thread, so that a busy machine slows both alike; their counts are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.geometry.grid import BevGrid
from bev_training.data.sample import LabelGrids
from bev_training.metrics import CONVENTIONS, REGIONS, PooledScores

CLASSES = ('drivable_area', 'walkway', 'ped_crossing', 'lane_divider', 'vehicle')
GRID = BevGrid(x_range_m=(-50, 50), y_range_m=(-50, 50), cell_m=0.5)


def make_sample():
    """Probabilities, labels and what is seen."""
    rng = np.random.default_rng(0)
    shape = (len(CLASSES), *GRID.shape[1:])
    positive = rng.random(shape) < 0.2
    labels = LabelGrids(
        classes=CLASSES,
        positive=positive,
        hidden=positive & (rng.random(shape) < 0.3),
        known=rng.random(shape[1:]) < 0.9,
    )
    return rng.random(shape, np.float32), labels, rng.random(shape[1:]) < 0.8


def plain(probability, labels, seen, thresholds, bands) -> dict[tuple, tuple[int, int, int]]:
    """Hit, false and missed cells of every score, each by itself."""
    distance_m = np.linalg.norm(GRID.cell_centers(), axis=-1)
    counts = {}
    for c, name in enumerate(CLASSES):
        for convention in CONVENTIONS:
            for region in REGIONS:
                for band in bands:
                    counted = labels.known & (band[0] <= distance_m) & (distance_m < band[1])
                    if region == 'seen':
                        counted &= seen
                    if convention == 'visible':
                        counted &= ~labels.hidden[c]
                    truth = labels.positive[c][counted]
                    for threshold in thresholds:
                        said = probability[c][counted] >= np.float32(threshold)
                        sums = (said & truth).sum(), (said & ~truth).sum(), (~said & truth).sum()
                        counts[name, convention, threshold, band, region] = sums
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=5)
    rounds = parser.parse_args().rounds
    sample, pooled = make_sample(), PooledScores(CLASSES, GRID)
    thresholds, bands = pooled.thresholds, pooled.bands
    pooled.update(*sample)
    scores, expected = pooled.result(), plain(*sample, thresholds, bands)
    for (*chosen, band, region), counts in expected.items():
        assert scores.cells(*chosen, band=band, region=region) == counts
    ratios, fast = [], []
    for _ in range(rounds):
        marks = [time.perf_counter()]
        plain(*sample, thresholds, bands)
        marks.append(time.perf_counter())
        pooled.update(*sample)
        marks.append(time.perf_counter())
        slow_s, fast_s = np.diff(marks)
        ratios.append(slow_s / fast_s)
        fast.append(fast_s)
    print(
        f'{len(expected)} scores of a sample in {1e3 * statistics.median(fast):.1f} ms; median of '
        f'{rounds} rounds: {statistics.median(ratios):.0f} times faster than a pass per score'
    )


if __name__ == '__main__':
    main()
