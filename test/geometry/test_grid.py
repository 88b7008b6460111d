"""The BEV grid: orientation, indices at both sides of every border, refused settings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid

GRIDS = {
    'default': BevGrid(),
    'ahead only, flat, one layer': BevGrid(
        x_range_m=(0, 30), y_range_m=(-7.5, 7.5), z_range_m=(-0.3, 0.2), cell_m=0.25, z_cells=1
    ),
    'away from the origin, decimal cell': BevGrid(
        x_range_m=(2.1, 4.5), y_range_m=(-9.3, -8.1), z_range_m=(1, 4), cell_m=0.3, z_cells=7
    ),
}
grids = pytest.mark.parametrize('grid', GRIDS.values(), ids=GRIDS)
HAIR = 1e-9


def ranges(grid: BevGrid) -> np.ndarray:
    """(3, 2): rows x, y, z."""
    return np.array([grid.x_range_m, grid.y_range_m, grid.z_range_m])


def test_an_object_ahead_and_to_the_left_by_hand():
    # Default grid: x and y from -50 to 50 m in cells of 0.5 m, z from -1 to 3 m in 4 layers.
    # 3 m ahead: column (3 + 50) / 0.5 = 106. 1 m left: row (1 + 50) / 0.5 = 102.
    # 0.2 m up: layer (0.2 + 1) / 1 = 1.2 -> 1. In an OccupancyGrid, x runs fastest:
    # data index 102 * 200 + 106 = 20506.
    grid = BevGrid()
    assert grid.shape == (4, 200, 200)
    index, valid = grid.xyz_to_index(np.array([3.0, 1.0, 0.2]))
    assert valid
    assert index.tolist() == [1, 102, 106]
    cells = np.zeros(grid.shape[1:], np.int8)
    cells[index[1], index[2]] = 100
    assert cells.flatten().argmax() == 20506
    # That cell spans x 3.0..3.5 and y 1.0..1.5, so its centre is (3.25, 1.25).
    np.testing.assert_allclose(grid.cell_centers()[102, 106], (3.25, 1.25))
    np.testing.assert_allclose(grid.voxel_centers()[1, 102, 106], (3.25, 1.25, 0.5))


def test_grid_of_unequal_sides_by_hand():
    # x 0..2 in 4 columns, y -1..0.5 in 3 rows, z 0..1 in 2 layers of 0.5 m.
    grid = BevGrid(x_range_m=(0, 2), y_range_m=(-1, 0.5), z_range_m=(0, 1), cell_m=0.5, z_cells=2)
    assert grid.shape == (2, 3, 4)
    assert grid.z_cell_m == 0.5
    assert grid.cell_centers().shape == (3, 4, 2)
    assert grid.voxel_centers().shape == (2, 3, 4, 3)
    # The lower corner is cell (0, 0); row 0 is the robot's right.
    np.testing.assert_allclose(grid.cell_centers()[0, 0], (0.25, -0.75))
    np.testing.assert_allclose(grid.cell_centers()[2, 3], (1.75, 0.25))
    np.testing.assert_allclose(grid.voxel_centers()[1, 2, 0], (0.25, 0.25, 0.75))
    index, valid = grid.xyz_to_index(np.array([[1.9, 0.4, 0.1], [0.1, -0.6, 0.9]]))
    assert index.tolist() == [[0, 2, 3], [1, 0, 0]]
    assert valid.all()


@grids
def test_index_of_every_centre_is_its_own(grid):
    index, valid = grid.xyz_to_index(grid.voxel_centers())
    assert valid.all()
    np.testing.assert_array_equal(index, np.moveaxis(np.indices(grid.shape), 0, -1))
    np.testing.assert_allclose(grid.voxel_centers()[0, :, :, :2], grid.cell_centers())


@grids
@given(fractions=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3))
def test_a_point_is_within_half_a_cell_of_its_centre(grid, fractions):
    low, high = ranges(grid).T
    xyz = low + np.array(fractions) * (high - low) * (1 - 1e-12)
    index, valid = grid.xyz_to_index(xyz)
    assert valid
    half = np.array([grid.cell_m, grid.cell_m, grid.z_cell_m]) / 2
    assert (np.abs(grid.index_to_xyz(index) - xyz) <= half + HAIR).all()


@grids
@pytest.mark.parametrize('axis', [0, 1, 2], ids='xyz')
def test_both_sides_of_every_border_of_the_grid(grid, axis):
    # Truncation instead of floor would put a halo of one cell below each lower border into
    # cell 0, so the first points outside are tested up to a whole cell away.
    size = grid.z_cell_m if axis == 2 else grid.cell_m
    low, high = ranges(grid)[axis]
    last = grid.shape[::-1][axis] - 1
    for value, inside, cell in [
        (low + HAIR, True, 0),
        (low - HAIR, False, -1),
        (low - 0.3 * size, False, -1),
        (low - 0.99 * size, False, -1),
        (low - 1.01 * size, False, -2),
        (high - HAIR, True, last),
        (high + HAIR, False, last + 1),
        (high + 0.99 * size, False, last + 1),
    ]:
        xyz = ranges(grid).mean(axis=1)
        xyz[axis] = value
        index, valid = grid.xyz_to_index(xyz)
        assert valid == inside, value
        assert index[::-1][axis] == cell, value  # indices are z, y, x


def test_lower_borders_belong_to_the_grid_and_upper_ones_do_not():
    # The default ranges are exact in binary, so the very border can be asked for.
    grid = BevGrid()
    corners = np.array([[-50.0, -50, -1], [50, 0, 0], [0, 50, 0], [0, 0, 3]])
    assert grid.xyz_to_index(corners)[1].tolist() == [True, False, False, False]


@grids
def test_borders_between_cells_belong_to_the_upper_one(grid):
    low = ranges(grid)[:, 0]
    size = np.array([grid.cell_m, grid.cell_m, grid.z_cell_m])
    count = np.array(grid.shape[::-1])
    for k in range(1, min(count[:2])):
        border = low + k * size
        border[2] = low[2] + size[2] / 2
        assert grid.xyz_to_index(border + HAIR)[0].tolist() == [0, k, k]
        assert grid.xyz_to_index(border - HAIR)[0].tolist() == [0, k - 1, k - 1]


def test_broken_points_are_in_no_cell():
    points = np.array([[np.nan, 0, 0], [0, np.inf, 0], [0, 0, -np.inf], [1e300, 0, 0]])
    with np.errstate(all='raise'):
        index, valid = BevGrid().xyz_to_index(points)
    assert not valid.any()
    assert index.dtype == np.int64
    assert (index[0, 2], index[1, 1], index[2, 0], index[3, 2]) == (-1, -1, -1, -1)


@pytest.mark.parametrize('shape', [(), (0,), (5,), (2, 3)])
def test_any_leading_axes(shape):
    index, valid = BevGrid().xyz_to_index(np.zeros((*shape, 3)))
    assert index.shape == (*shape, 3)
    assert np.shape(valid) == shape
    assert BevGrid().index_to_xyz(index).shape == (*shape, 3)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'x_range_m': (-50, 50.2)}, r'x_range_m \(-50, 50.2\) is 200.4 cells of 0.5 m'),
        ({'y_range_m': (-50, 50), 'cell_m': 0.3}, 'whole number of cells'),
        ({'y_range_m': (0, 0.2)}, 'y_range_m .* whole number of cells'),
        ({'cell_m': 1e9}, 'whole number of cells'),
        ({'x_range_m': (50, -50)}, 'x_range_m is .*; min must be below max'),
        ({'z_range_m': (1, 1)}, 'z_range_m is .*; min must be below max'),
        ({'x_range_m': (-np.inf, 50)}, 'x_range_m'),
        ({'y_range_m': (np.nan, 50)}, 'y_range_m'),
        ({'cell_m': 0}, 'cell_m is 0'),
        ({'cell_m': -0.5}, 'cell_m is -0.5'),
        ({'cell_m': np.nan}, 'cell_m is nan'),
        ({'z_cells': 0}, 'z_cells is 0'),
    ],
)
def test_settings_that_make_no_grid_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        BevGrid(**values)


def test_decimal_cells_divide_in_spite_of_rounding():
    # 0.3 / 0.1 is 2.9999999999999996 in binary.
    grid = BevGrid(x_range_m=(0, 0.3), y_range_m=(-51.2, 51.2), cell_m=0.1)
    assert grid.shape == (4, 1024, 3)


def test_grids_compare_by_value():
    assert BevGrid(x_range_m=(-50, 50)) == BevGrid(x_range_m=(-50.0, 50.0))
    assert BevGrid(x_range_m=[-50, 50]) == BevGrid()
    assert hash(BevGrid()) == hash(BevGrid(cell_m=0.5))
