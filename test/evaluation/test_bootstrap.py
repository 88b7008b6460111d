"""Paired bootstrap: it covers, is zero for equals, and has the right sign."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bev_perception.errors import ConfigError
from bev_training.evaluation.bootstrap import paired_bootstrap, units_of


def simulate(rng: np.random.Generator, samples: int, better: float = 0.06):
    """Hits, false and missed cells of two networks on samples of varied difficulty and size."""
    truth = rng.integers(50, 400, samples)
    ease = rng.beta(4, 4, samples)
    counts = []
    for shift in (better, 0.0):
        hit = rng.binomial(truth, np.clip(ease + shift, 0, 1))
        false = rng.poisson(truth * 0.5 * (1 - ease))
        counts.append(np.stack([hit, false, truth - hit], -1)[:, None])
    return counts


def iou(counts: np.ndarray) -> float:
    hit, false, missed = counts.sum((0, 1))
    return hit / (hit + false + missed)


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(3)
    many = simulate(rng, 400_000)
    truth = iou(many[0]) - iou(many[1])
    covered = 0
    for i in range(200):
        first, second = simulate(rng, 40)
        found = paired_bootstrap(first, second, np.arange(40), resamples=600, seed=i)[0]
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_whole_scenes_are_drawn_where_samples_of_a_scene_are_alike() -> None:
    """Intervals of single samples are far too narrow for copies of the same sample."""
    rng = np.random.default_rng(0)
    first, second = (np.repeat(each, 10, 0) for each in simulate(rng, 12))
    scenes = [f'scene-{i // 10:02d}' for i in range(120)]
    units, drawn = units_of(scenes)
    assert drawn == 'scenes' and units.max() == 11
    by_scene = paired_bootstrap(first, second, units)[0]
    by_sample = paired_bootstrap(first, second, np.arange(120))[0]
    wide, narrow = (each.high - each.low for each in (by_scene, by_sample))
    assert wide / narrow == pytest.approx(math.sqrt(10), rel=0.25)
    once = paired_bootstrap(first[::10], second[::10], np.arange(12))[0]
    assert (once.low, once.high) == pytest.approx((by_scene.low, by_scene.high), abs=1e-12)
    units, drawn = units_of(['one'] * 4 + ['two'] * 5)
    assert drawn == 'samples' and units.tolist() == [*range(9)]


def test_equal_checkpoints_differ_by_nothing() -> None:
    first, _ = simulate(np.random.default_rng(0), 20)
    found = paired_bootstrap(first, first, np.arange(20))[0]
    assert (found.difference, found.low, found.high) == (0, 0, 0) and not found.clear


def test_the_better_one_has_the_positive_difference() -> None:
    first, second = simulate(np.random.default_rng(1), 60, better=0.2)
    found = paired_bootstrap(first, second, np.arange(60))[0]
    assert found.clear and 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(iou(first) - iou(second))
    assert (found.first, found.second) == pytest.approx((iou(first), iou(second)))
    other = paired_bootstrap(second, first, np.arange(60))[0]
    assert (other.difference, other.low, other.high) == pytest.approx(
        (-found.difference, -found.high, -found.low)
    )
    assert paired_bootstrap(first, second, np.arange(60))[0] == found  # seeded


def test_resamples_are_those_of_a_plain_loop() -> None:
    first, second = simulate(np.random.default_rng(2), 9)
    found = paired_bootstrap(first, second, np.arange(9), resamples=300, seed=5)[0]
    times = np.random.default_rng(5)
    differences = []
    for rows in (200, 100):
        for drawn in times.multinomial(9, np.full(9, 1 / 9), rows):
            chosen = np.repeat(np.arange(9), drawn)
            differences.append(iou(first[chosen]) - iou(second[chosen]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))


def test_a_class_that_is_not_there_has_no_difference() -> None:
    first, second = simulate(np.random.default_rng(0), 6)
    nothing = np.zeros_like(first)
    both = paired_bootstrap(
        np.concatenate([first, nothing], 1), np.concatenate([second, nothing], 1), np.arange(6)
    )
    assert both[0] == paired_bootstrap(first, second, np.arange(6))[0]
    assert all(math.isnan(v) for v in (both[1].difference, both[1].low)) and not both[1].clear
    rare = nothing.copy()
    rare[0] = (3, 1, 2)  # the class is in one sample alone: most resamples do not have it
    found = paired_bootstrap(rare, rare, np.arange(6))[0]
    assert (found.first, found.low, found.high) == (0.5, 0, 0)


def test_counts_of_other_samples_are_refused() -> None:
    first, second = simulate(np.random.default_rng(0), 6)
    with pytest.raises(ConfigError, match='cannot be compared'):
        paired_bootstrap(first, second[:5], np.arange(6))
