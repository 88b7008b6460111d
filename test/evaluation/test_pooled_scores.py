"""Pooled scores against torchmetrics, against a slow reference, and on examples by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bev_perception.model.torchvision_ops  # noqa: F401  (before torchmetrics)

from torchmetrics.classification import BinaryJaccardIndex, BinaryStatScores  # isort: skip

from bev_perception.errors import BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.sample import LabelGrids
from bev_training.metrics import (
    BANDS_M,
    CONVENTIONS,
    REGIONS,
    THRESHOLDS,
    PooledScores,
    Scores,
    band_name,
)

CLASSES = ('drivable_area', 'vehicle')
GRID = BevGrid(x_range_m=(-20, 56), y_range_m=(-24, 24), cell_m=4)
SHAPE = (len(CLASSES), *GRID.shape[1:])
HALF = THRESHOLDS.index(0.5)


def labels_of(positive, hidden=None, known=None, classes=CLASSES) -> LabelGrids:
    positive = np.asarray(positive, bool)
    return LabelGrids(
        classes=classes,
        positive=positive,
        hidden=np.zeros_like(positive) if hidden is None else hidden & positive,
        known=np.ones(positive.shape[1:], bool) if known is None else known,
    )


def random_frame(seed: int):
    """Probabilities (many of them exactly at a threshold), labels, and what is seen."""
    rng = np.random.default_rng(seed)
    probability = rng.random(SHAPE).astype(np.float32)
    at = rng.random(SHAPE) < 0.4
    probability[at] = rng.choice(np.array([0, *THRESHOLDS, 1], np.float32), at.sum())
    labels = labels_of(
        rng.random(SHAPE) < rng.uniform(0.05, 0.6),
        hidden=rng.random(SHAPE) < 0.3,
        known=rng.random(SHAPE[1:]) < 0.9,
    )
    return probability, labels, rng.random(SHAPE[1:]) < 0.8


FRAMES = [random_frame(seed) for seed in range(7)]


def scores_of(frames) -> Scores:
    pooled = PooledScores(CLASSES, GRID)
    for frame in frames:
        pooled.update(*frame)
    return pooled.result()


def masks(frame, name: str, convention: str, region: str, band):
    """Truth and counted cells of one class, straight from the definition."""
    probability, labels, seen = frame
    c = CLASSES.index(name)
    counted = labels.known.copy()
    if region == 'seen':
        counted &= seen
    if convention == 'visible':
        counted &= ~labels.hidden[c]
    if band is not None:
        distance = np.hypot(*np.moveaxis(GRID.cell_centers(), -1, 0))
        counted &= (distance >= band[0]) & (distance < band[1])
    return probability[c], labels.positive[c], counted


def each_way(scores: Scores):
    return [
        (name, convention, region, band)
        for name in CLASSES
        for convention in CONVENTIONS
        for region in REGIONS
        for band in (None, *scores.bands)
    ]


def test_counts_are_those_of_a_slow_reference() -> None:
    scores = scores_of(FRAMES)
    assert scores.samples == len(FRAMES)
    for name, convention, region, band in each_way(scores):
        for threshold in THRESHOLDS:
            hit = false = missed = 0
            for frame in FRAMES:
                probability, positive, counted = masks(frame, name, convention, region, band)
                predicted = probability >= np.float32(threshold)
                hit += (predicted & positive & counted).sum()
                false += (predicted & ~positive & counted).sum()
                missed += (~predicted & positive & counted).sum()
            found = scores.cells(name, convention, threshold, band=band, region=region)
            assert found == (hit, false, missed), (name, convention, region, band, threshold)
            iou = scores.iou(name, convention, threshold, band=band, region=region)
            assert iou == hit / (hit + false + missed)


def test_scores_are_those_of_torchmetrics() -> None:
    scores = scores_of(FRAMES)
    for name, convention, region, band in each_way(scores):
        for threshold in (0.05, 0.5, 0.7):
            jaccard, stats = BinaryJaccardIndex(), BinaryStatScores()
            for frame in FRAMES:
                probability, positive, counted = masks(frame, name, convention, region, band)
                # theirs is above the threshold, ours is at it or above
                predicted = torch.from_numpy(probability >= np.float32(threshold)).int()[counted]
                truth = torch.from_numpy(positive).int()[counted]
                jaccard.update(predicted, truth)
                stats.update(predicted, truth)
            true_positive, false_positive, _, false_negative, _ = stats.compute().tolist()
            assert scores.cells(name, convention, threshold, band=band, region=region) == (
                true_positive, false_positive, false_negative,
            )  # fmt: skip
            iou = scores.iou(name, convention, threshold, band=band, region=region)
            assert np.float32(iou) == jaccard.compute().numpy()


def test_best_is_the_largest_of_all_thresholds() -> None:
    scores = scores_of(FRAMES)
    for name in CLASSES:
        for convention in CONVENTIONS:
            for region in REGIONS:
                ious = [scores.iou(name, convention, t, region=region) for t in THRESHOLDS]
                at = int(np.argmax(ious))
                assert scores.best(name, convention, region=region) == (THRESHOLDS[at], ious[at])


@given(st.permutations(range(len(FRAMES))))
def test_order_does_not_matter(order: list[int]) -> None:
    one, other = scores_of(FRAMES), scores_of([FRAMES[i] for i in order])
    np.testing.assert_array_equal(one.histogram, other.histogram)
    assert one.as_json() == other.as_json()


@given(st.lists(st.integers(0, 2), min_size=len(FRAMES), max_size=len(FRAMES)))
def test_several_processes_equal_one(rank_of: list[int]) -> None:
    ranks = [PooledScores(CLASSES, GRID) for _ in range(3)]
    for frame, rank in zip(FRAMES, rank_of, strict=True):
        ranks[rank].update(*frame)
    every = PooledScores(CLASSES, GRID)
    total = np.sum([rank.counts() for rank in ranks], axis=0)
    assert total.dtype == np.int64
    every.add_counts(total)
    assert every.result().as_json() == scores_of(FRAMES).as_json()
    again = PooledScores(CLASSES, GRID)
    for rank in ranks:
        again.add_counts(rank.counts())
    np.testing.assert_array_equal(again.counts(), every.counts())


def test_a_perfect_prediction_scores_one_and_an_empty_one_zero() -> None:
    _, labels, seen = FRAMES[0]
    for probability, expected in (
        (labels.positive.astype(np.float32), 1.0),
        (0 * FRAMES[0][0], 0),
    ):
        scores = scores_of([(probability, labels, seen)])
        for name, convention, region, band in each_way(scores):
            assert scores.iou(name, convention, region=region, band=band) == expected
            assert scores.best(name, convention, region=region)[1] == expected


def test_three_cells_by_hand() -> None:
    """A visible object that is hit, a hidden one that is missed, a false alarm."""
    grid = BevGrid(x_range_m=(0, 3), y_range_m=(0, 1), cell_m=1)
    pooled = PooledScores(('vehicle',), grid)
    labels = labels_of([[[1, 1, 0]]], np.array([[[0, 1, 0]]], bool), classes=('vehicle',))
    pooled.update(np.array([[[0.5, 0.49, 0.9]]], np.float32), labels, np.array([[1, 1, 0]], bool))
    scores = pooled.result()
    assert scores.iou('vehicle') == 1 / 2  # the hidden one does not count
    assert scores.iou('vehicle', 'all') == 1 / 3
    assert scores.iou('vehicle', region='seen') == 1
    assert scores.iou('vehicle', 'all', region='seen') == 1 / 2
    assert scores.iou('vehicle', 'all', threshold=0.45) == 2 / 3
    assert scores.best('vehicle', 'all') == (0.05, 2 / 3)
    assert scores.coverage() == 2 / 3
    assert scores.bands == ((0, 10),)


def test_frames_are_pooled_not_averaged() -> None:
    """1/1 and 0/4 are 1/5, while the mean of the frames would be 1/2."""
    grid = BevGrid(x_range_m=(0, 2), y_range_m=(0, 2), cell_m=1)
    pooled = PooledScores(('vehicle',), grid)
    one, none, every = np.zeros((3, 1, 2, 2), np.float32)
    one[0, 0, 0], every[:] = 1, 1
    for probability, truth in ((one, one), (every, none)):
        labels = labels_of(truth, classes=('vehicle',))
        pooled.update(probability, labels, np.ones((2, 2), bool))
    assert pooled.result().iou('vehicle') == 1 / 5


def test_bands_part_the_grid_by_distance() -> None:
    scores = scores_of(FRAMES)
    assert [band_name(b) for b in scores.bands] == [
        '0-10 m', '10-20 m', '20-35 m', '35-50 m', '50+ m',
    ]  # fmt: skip
    assert BANDS_M[-1] == math.inf and 0.5 in THRESHOLDS
    parts = [scores.cells('vehicle', band=band) for band in scores.bands]
    assert np.sum(parts, 0).tolist() == list(scores.cells('vehicle'))
    near = PooledScores(CLASSES, BevGrid(x_range_m=(-12, 12), y_range_m=(-2, 2), cell_m=1))
    assert near.bands == ((0, 10), (10, 20))  # those that the grid has


def test_a_class_that_is_not_there_has_no_score() -> None:
    probability = np.full(SHAPE, 0.9, np.float32)
    positive = np.zeros(SHAPE, bool)
    positive[0, 0, 0] = True
    hidden = positive.copy()
    scores = scores_of([(probability, labels_of(positive, hidden), np.ones(SHAPE[1:], bool))])
    assert math.isnan(scores.iou('vehicle')) and math.isnan(scores.iou('drivable_area'))
    assert all(map(math.isnan, scores.best('vehicle')))
    assert scores.iou('drivable_area', 'all') == 1 / np.prod(SHAPE[1:])  # hidden, so only in 'all'
    described = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    assert described['classes']['vehicle']['all']['iou'] is None
    assert described['classes']['vehicle']['all']['best'] == {'threshold': None, 'iou': None}
    assert described['classes']['drivable_area']['visible']['positive_cells'] == 0
    assert math.isnan(PooledScores(CLASSES, GRID).result().coverage())


def test_json_holds_what_the_methods_say() -> None:
    scores = scores_of(FRAMES)
    described = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    assert described['samples'] == 7
    for name, convention, region, band in each_way(scores):
        found = described['classes'][name][convention]
        found = found if region == 'known' else found['seen']
        expected = pytest.approx(scores.iou(name, convention, region=region, band=band), abs=1e-6)
        assert (found['iou'] if band is None else found['bands'][band_name(band)]) == expected
    curve = described['classes']['vehicle']['all']['by_threshold']
    assert list(curve) == [f'{t:g}' for t in THRESHOLDS]
    assert curve['0.25'] == pytest.approx(scores.iou('vehicle', 'all', 0.25), abs=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    probability, labels, seen = FRAMES[0]
    pooled = PooledScores(CLASSES, GRID)
    with pytest.raises(ConfigError, match=r"labels are of .*'walkway'.*, not of"):
        pooled.update(probability, replace(labels, classes=('walkway', 'vehicle')), seen)
    with pytest.raises(ConfigError, match=r'probabilities have the shape \(2, 5, 5\)'):
        pooled.update(probability[:, :5, :5], labels, seen)
    with pytest.raises(ConfigError, match=r'seen cells have the shape \(12,\)'):
        pooled.update(probability, labels, seen[:, 0])
    bad = probability.copy()
    bad[1, 3, 3] = np.nan
    with pytest.raises(BevError, match='probability of vehicle is not a number'):
        pooled.update(bad, labels, seen)
    assert pooled.result().samples == 0
    with pytest.raises(ConfigError, match='counts have the shape'):
        pooled.add_counts(pooled.counts()[1:])
    for thresholds in ((), (0.5, 0.4), (0.5, 1.5)):
        with pytest.raises(ConfigError, match='must rise within'):
            PooledScores(CLASSES, GRID, thresholds)
    scores = scores_of(FRAMES)
    for call in (
        lambda: scores.iou('bus'),
        lambda: scores.iou('vehicle', 'some'),
        lambda: scores.iou('vehicle', threshold=0.51),
        lambda: scores.iou('vehicle', band=(1, 2)),
        lambda: scores.iou('vehicle', region='far'),
    ):
        with pytest.raises(ConfigError, match='is none of'):
            call()
