"""Cells of the grid message: unknown, percent, never 99, and which index is where."""

from __future__ import annotations

import numpy as np
import pytest

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.occupancy import combine, grid_origin, to_cells


def cells_of(*probabilities, valid=True):
    row = np.array([probabilities], np.float32)
    return to_cells(row, np.full(row.shape, valid))[0].tolist()


def test_percent():
    assert cells_of(0, 0.004, 0.006, 0.25, 0.5, 0.754, 0.756, 1) == [0, 0, 1, 25, 50, 75, 76, 100]


def test_never_99():
    """nav2 reads 99 as "inscribed obstacle"."""
    got = cells_of(0.98, 0.9851, 0.99, 0.9949, 0.996, 1)
    assert got == [98, 98, 98, 98, 100, 100]
    ramp = np.linspace(0, 1, 100_001, dtype=np.float32)[None]
    everything = to_cells(ramp, np.ones(ramp.shape, bool))
    assert set(everything[0].tolist()) == set(range(101)) - {99}
    assert (np.diff(everything[0].astype(int)) >= 0).all()


def test_unseen_is_unknown():
    assert cells_of(0, 0.5, 1, valid=False) == [-1, -1, -1]
    probability = np.full((3, 2, 2), 0.5, np.float32)  # every class
    got = to_cells(probability, np.array([[True, False], [False, True]]))
    assert got.dtype == np.int8
    assert (got == np.array([[50, -1], [-1, 50]])).all()


@pytest.mark.filterwarnings('error')
def test_not_finite_is_unknown():
    assert cells_of(np.nan, np.inf, -np.inf, 0.5) == [-1, -1, -1, 50]


def test_input_is_left_alone():
    probability = np.array([[0.99, np.nan]], np.float32)
    to_cells(probability, np.array([[False, True]]))
    np.testing.assert_array_equal(probability, np.array([[0.99, np.nan]], np.float32))


def test_three_metres_ahead_one_to_the_left():
    """The default grid: x and y from -50 m, cells of 0.5 m, 200 columns.

    x = 3 m: column (3 + 50) / 0.5 = 106. y = 1 m: row (1 + 50) / 0.5 = 102.
    data[] index: row * 200 + column = 102 * 200 + 106 = 20506.
    OccupancyGrid: that cell's centre is at origin + (index + 0.5) * resolution
    = -50 + 106.5 * 0.5 = 3.25 m ahead and -50 + 102.5 * 0.5 = 1.25 m left.
    """
    grid = BevGrid()
    (_, row, column), inside = grid.xyz_to_index(np.array([3.0, 1.0, 0.0]))
    assert inside and (row, column) == (102, 106)
    probability = np.zeros(grid.shape[1:], np.float32)
    probability[row, column] = 1
    data = to_cells(probability, np.ones_like(probability, bool)).flatten()
    assert np.flatnonzero(data).tolist() == [20506] and data[20506] == 100
    np.testing.assert_allclose(grid.cell_centers()[102, 106], (3.25, 1.25))


def test_combined_is_the_largest_and_unknown_stays_unknown():
    cells = np.array([[[10, 80, -1]], [[30, 20, -1]], [[99, 99, -1]]], np.int8)
    assert combine(cells, [0, 1]).tolist() == [[30, 80, -1]]
    assert combine(cells, (1,)).tolist() == [[30, 20, -1]]
    assert combine(cells, []).tolist() == [[0, 0, -1]]


def test_origin_is_the_lower_corner_on_the_tilted_ground():
    grid = BevGrid(x_range_m=(-8, 12), y_range_m=(-6, 8), cell_m=1)
    np.testing.assert_array_equal(grid_origin(grid, np.eye(4))[:3, 3], [-8, -6, 0])
    base_T_ego = rigid.from_quat_xyzw([0.0, np.sin(0.05), 0.0, np.cos(0.05)], np.zeros(3))
    origin = grid_origin(grid, base_T_ego)
    np.testing.assert_array_equal(origin[:3, :3], base_T_ego[:3, :3])
    corner = rigid.transform_points(base_T_ego, np.array([-8.0, -6.0, 0.0]))
    np.testing.assert_allclose(origin[:3, 3], corner[0], atol=1e-12)
