"""Results that must not change by accident, against the files beside this one."""

from __future__ import annotations

import numpy as np

from .regenerate import GRID_FILE, PREDICTION_FILE, grid_bytes, prediction


def test_grid_bytes():
    """0, 25, 50, 100; 99 -> 98, 98 (of 98.5), NaN -> -1, 10; unseen -1, -1, then 0 and 100.

    -1 is the byte 0xff.
    """
    by_hand = bytes([0, 25, 50, 100, 98, 98, 0xFF, 10, 0xFF, 0xFF, 0, 100])
    assert GRID_FILE.read_bytes() == by_hand
    assert grid_bytes() == by_hand


def test_prediction():
    """float32 on any processor: kernels differ by rounding only."""
    golden = np.load(PREDICTION_FILE)
    got = prediction(golden)
    np.testing.assert_array_equal(got.valid, golden['valid'])
    np.testing.assert_allclose(got.classes, golden['classes'], atol=1e-4)
