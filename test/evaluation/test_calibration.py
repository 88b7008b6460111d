"""Reliability curve and expected calibration error, against a plain reference and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.metrics import PooledScores

from .test_pooled_scores import CLASSES, FRAMES, GRID, labels_of, scores_of


def plain_curve(name: str, steps: int = 20):
    """Mean probability, share and number of cells by step, straight from the definition."""
    c = CLASSES.index(name)
    said, there = [], []
    for probability, labels, seen in FRAMES:
        counted = labels.known & seen & ~labels.hidden[c]
        said.append(probability[c][counted].astype(float))
        there.append(labels.positive[c][counted])
    said, there = np.concatenate(said), np.concatenate(there)
    edges = np.array([0.0, *((np.arange(steps - 1) + 1) / steps), 1.0], np.float32)
    curve = []
    for i in range(steps):
        last = i == steps - 1
        inside = (said >= edges[i]) & ((said < edges[i + 1]) | last)
        curve.append((said[inside].mean(), there[inside].mean(), inside.sum()))
    return np.array(curve)


@pytest.mark.parametrize('name', CLASSES)
def test_the_curve_is_that_of_a_plain_reference(name: str) -> None:
    expected, scores = plain_curve(name), scores_of(FRAMES)
    found = scores.reliability(name)
    np.testing.assert_allclose(found.probability, expected[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.share, expected[:, 1], rtol=1e-12)
    np.testing.assert_array_equal(found.cells, expected[:, 2])
    np.testing.assert_allclose(found.bounds[:, 0], np.arange(20) / 20)
    np.testing.assert_allclose(found.bounds[:, 1], np.arange(1, 21) / 20)
    ece = (np.abs(expected[:, 0] - expected[:, 1]) * expected[:, 2]).sum() / expected[:, 2].sum()
    assert scores.ece(name) == pytest.approx(ece, abs=1e-6) and ece > 0.1
    described = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    told = described['classes'][name]['calibration']
    assert told['ece'] == pytest.approx(ece, abs=2e-6)
    assert [step['cells'] for step in told['steps']] == expected[:, 2].tolist()
    assert told['steps'][3] == {
        'from': 0.15,
        'to': 0.2,
        'probability': pytest.approx(expected[3, 0], abs=2e-6),
        'share': pytest.approx(expected[3, 1], abs=2e-6),
        'cells': expected[3, 2],
    }


@settings(max_examples=15)
@given(st.permutations(range(len(FRAMES))), st.integers(1, len(FRAMES) - 1))
def test_neither_order_nor_split_changes_it(order: list[int], at: int) -> None:
    parts = [PooledScores(CLASSES, GRID) for _ in range(2)]
    for i, number in enumerate(order):
        parts[i < at].update(*FRAMES[number])
    whole = PooledScores(CLASSES, GRID)
    whole.add_counts(parts[0].counts() + parts[1].counts())
    np.testing.assert_array_equal(whole.result().mass, scores_of(FRAMES).mass)
    assert whole.result().as_json() == scores_of(FRAMES).as_json()


def test_what_counts_by_hand() -> None:
    """One cell is unknown, one unseen, one hidden; 0.5 opens a step, 1 ends the last."""
    grid = BevGrid(x_range_m=(0, 5), y_range_m=(0, 1), cell_m=1)
    pooled = PooledScores(('vehicle',), grid)
    labels = labels_of(
        [[[0, 0, 1, 1, 0]]],
        np.array([[[0, 0, 1, 0, 0]]], bool),
        np.array([[0, 1, 1, 1, 1]], bool),
        classes=('vehicle',),
    )
    seen = np.array([[1, 0, 1, 1, 1]], bool)
    pooled.update(np.array([[[0.9, 0.9, 0.9, 1.0, 0.5]]], np.float32), labels, seen)
    of = pooled.result().reliability('vehicle')
    assert of.cells.nonzero()[0].tolist() == [10, 19] and of.cells.sum() == 2
    assert (of.probability[10], of.share[10]) == (0.5, 0)
    assert (of.probability[19], of.share[19]) == (1, 1)
    assert math.isnan(of.share[0]) and math.isnan(of.probability[0])
    assert pooled.result().ece('vehicle') == 0.25


def test_calibrated_probabilities_have_no_error_and_boasting_ones_have() -> None:
    rng = np.random.default_rng(0)
    grid = BevGrid(x_range_m=(-50, 50), y_range_m=(-50, 50), cell_m=0.5)
    pooled = PooledScores(('calm', 'loud'), grid)
    chance = rng.random(grid.shape[1:]).astype(np.float32)
    there = rng.random(chance.shape) < chance
    labels = labels_of([there, there], classes=('calm', 'loud'))
    loud = np.where(chance > 0.5, 1 - (1 - chance) / 2, chance / 2)
    pooled.update(np.stack([chance, loud]).astype(np.float32), labels, np.ones_like(there))
    scores = pooled.result()
    assert scores.ece('calm') < 0.01
    # The mean of min(p, 1 - p) / 2 over 0..1.
    assert scores.ece('loud') == pytest.approx(0.125, abs=0.01)


def test_without_cells_there_is_no_error() -> None:
    scores = PooledScores(CLASSES, GRID).result()
    assert math.isnan(scores.ece('vehicle'))
    assert scores.as_json()['classes']['vehicle']['calibration']['ece'] is None
    with pytest.raises(ConfigError, match="class 'bus' is none of"):
        scores.ece('bus')
