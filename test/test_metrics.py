"""Pooled IoU on examples worked by hand."""

from __future__ import annotations

import numpy as np

from bev_training.metrics import PooledIou


def grid(*rows: str) -> np.ndarray:
    """(1, y, x) from rows of # and dots."""
    return np.array([[[c == '#' for c in row] for row in rows]])


def test_three_by_three_by_hand() -> None:
    iou = PooledIou(1)
    iou.update(grid('##.', '...', '...'), grid('.##', '...', '...'), np.ones((3, 3), bool))
    assert iou.compute()[0] == 1 / 3


def test_frames_are_pooled_not_averaged() -> None:
    """1/1 and 0/4 are 1/5, while the mean of the frames would be 1/2."""
    iou = PooledIou(1)
    everywhere = np.ones((2, 2), bool)
    iou.update(grid('#.', '..'), grid('#.', '..'), everywhere)
    iou.update(grid('##', '##'), grid('..', '..'), everywhere)
    assert iou.compute()[0] == 1 / 5


def test_cells_that_nobody_sees_do_not_count() -> None:
    iou = PooledIou(1)
    valid = grid('.#', '##')[0]
    iou.update(grid('#.', '.#'), grid('..', '.#'), valid)
    assert iou.compute()[0] == 1


def test_an_absent_class_is_no_number() -> None:
    iou = PooledIou(2)
    both = np.concatenate([grid('#.', '..'), grid('..', '..')])
    iou.update(both, both, np.ones((2, 2), bool))
    first, second = iou.compute()
    assert first == 1 and np.isnan(second)
