"""Which cells areas, lines and boxes cover: against cases drawn by hand, and against shapely."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely import MultiPolygon, Polygon, affinity, box

from bev_perception.geometry.grid import BevGrid
from bev_training.data.label_classes import line_half_width_m
from bev_training.outlines import Outlines, box_corners, crossing_lines, outlines

GRID = BevGrid(x_range_m=(0.0, 5.0), y_range_m=(0.0, 5.0), cell_m=1.0)
HERE = np.eye(4)


def drawn(picture: str) -> np.ndarray:
    """Rows from the top, which is the left of the vehicle, as a map is looked at."""
    rows = [[c == '#' for c in line.replace(' ', '')] for line in picture.strip().splitlines()]
    return np.array(rows)[::-1]


def cells(*, areas=(), lines=(), pose: np.ndarray = HERE, grid: BevGrid = GRID) -> np.ndarray:
    found = outlines(('a',), areas={'a': areas}, lines={'a': lines}).rasterised(pose, grid)
    assert found.dtype == bool and found.shape == (1, *grid.shape[1:])
    return found[0]


def test_a_polygon_covers_the_cells_whose_centre_lies_inside() -> None:
    triangle = Polygon([(0, 0), (5, 0), (5, 5)])
    expected = drawn("""
        . . . . .
        . . . . #
        . . . # #
        . . # # #
        . # # # #
    """)
    assert (cells(areas=[shapely.transform(triangle, lambda p: p - (0, 1e-6))]) == expected).all()


def test_a_cell_that_is_half_covered_counts_by_its_centre() -> None:
    expected = drawn("""
        . . . . .
        . . . . .
        # # # # .
        # # # # .
        . . . . .
    """)
    assert (cells(areas=[box(0.49, 1.49, 3.51, 2.51)]) == expected).all()
    expected = drawn("""
        . . . . .
        . . . . .
        . . . . .
        . # # . .
        . . . . .
    """)
    assert (cells(areas=[box(0.51, 1.49, 3.49, 2.49)]) == expected).all()


def test_a_hole_is_not_covered_and_overlaps_are() -> None:
    ring = box(0, 0, 5, 5) - box(1, 1, 4, 3)
    expected = drawn("""
        # # # # #
        # # # # #
        # . . . #
        # . . . #
        # # # # #
    """)
    assert (cells(areas=[ring]) == expected).all()
    assert (cells(areas=[ring.reverse()]) == expected).all()  # whatever its orientation
    expected[1, 2] = True
    assert (cells(areas=[ring, box(2, 1, 3, 2), box(2, 1, 3, 2)]) == expected).all()
    two = MultiPolygon([box(0, 0, 1, 1), box(3, 3, 5, 4)])
    expected = drawn("""
        . . . . .
        . . . # #
        . . . . .
        . . . . .
        # . . . .
    """)
    assert (cells(areas=[two]) == expected).all()


def test_a_line_covers_the_cells_near_it_and_ends_square() -> None:
    assert line_half_width_m(GRID) == 0.6
    expected = drawn("""
        . . . . .
        . . . # .
        . . . # .
        . # # # .
        . . . . .
    """)
    assert (cells(lines=[[(1.2, 1.5), (3.5, 1.5), (3.5, 4.0)]]) == expected).all()
    assert not cells(lines=[[(1.2, 1.5)], [], [(2.0, 2.0), (2.0, 2.0)]]).any()  # no lines at all


def test_a_line_is_at_least_as_wide_as_paint() -> None:
    fine = BevGrid(x_range_m=(0.0, 2.0), y_range_m=(0.0, 2.0), cell_m=0.1)
    found = cells(lines=[[(-1.0, 1.0), (3.0, 1.0)]], grid=fine)
    assert found.sum(0).tolist() == [6] * 20  # 0.6 m


def test_a_turned_box_covers_what_its_corners_span() -> None:
    corners = box_corners(
        np.array([[2.5, 2.5, 1.0]]), np.array([[4.0, 1.2, 2.0]]), np.radians([45.0])
    )
    at = (4 + 1.2) / 2 * np.sqrt(0.5)
    assert corners[0, 1] == pytest.approx([2.5 + (4 - 1.2) / 2 * np.sqrt(0.5), 2.5 + at])
    assert Polygon(corners[0]).exterior.is_ccw
    found = outlines(('a', 'b')).with_rings(corners, np.array([1])).rasterised(HERE, GRID)
    assert not found[0].any()
    expected = drawn("""
        . . . . .
        . . . # .
        . . # . .
        . # . . .
        . . . . .
    """)
    assert (found[1] == expected).all()


def test_without_boxes_nothing_is_added() -> None:
    nobody = box_corners(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    found = outlines(('a',)).with_rings(nobody, np.zeros(0, int))
    assert isinstance(found, Outlines) and not found.rasterised(HERE, GRID).any()


def test_a_pose_moves_the_map_under_the_grid() -> None:
    turned = np.array([[0.0, -1, 0, 7], [1, 0, 0, 20], [0, 0, 1, 0], [0, 0, 0, 1]])
    # ego (x, y) is at map (7 - y, 20 + x)
    expected = drawn("""
        . . # . .
        . . # . .
        . . . . .
        . . . . .
        . . . . .
    """)
    assert (cells(areas=[box(2, 22, 4, 23)], pose=turned) == expected).all()


def test_an_unknown_layer_is_an_error() -> None:
    with pytest.raises(ValueError):
        outlines(('a',), areas={'b': [box(0, 0, 1, 1)]})


def test_what_is_near_gives_the_same_cells() -> None:
    rng = np.random.default_rng(5)
    areas = [
        affinity.rotate(box(x, y, x + w, y + h), angle) - box(x + 1, y + 1, x + 2, y + 2)
        for x, y, w, h, angle in rng.uniform(2, 200, (300, 5)) * (1, 1, 0.05, 0.05, 1)
    ]
    lines = [
        np.cumsum(rng.normal(size=(6, 2)) * 4, 0) + rng.uniform(0, 200, 2) for _ in range(100)
    ]
    town = outlines(('a', 'b'), areas={'a': areas}, lines={'b': lines})
    grid = BevGrid(x_range_m=(-10.0, 30.0), y_range_m=(-15.0, 15.0), cell_m=0.5)
    for _ in range(5):
        x, y, yaw = rng.uniform(0, 200), rng.uniform(0, 200), rng.uniform(-4, 4)
        c, s = np.cos(yaw), np.sin(yaw)
        pose = np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, 0], [0, 0, 0, 1]])
        near = town.near(pose, grid)
        assert 0 < len(near.edges) < len(town.edges) / 3
        assert len(near.pieces) < len(town.pieces) / 3
        found = near.rasterised(pose, grid)
        assert (found == town.rasterised(pose, grid)).all() and found.any((1, 2)).all()
        centers = grid.cell_centers().reshape(-1, 2) @ pose[:2, :2].T + pose[:2, 3]
        expected = shapely.contains_xy(shapely.union_all(areas), *centers.T)
        assert (found[0].ravel() != expected).mean() < 1e-3  # centres on an outline
        assert (near.near(pose, grid).rasterised(pose, grid) == found).all()


def test_the_lines_of_a_crossing_are_its_two_longest_edges() -> None:
    street = Polygon([(0, 0), (1, 0.1), (2, 0.1), (3, 0), (3, 10), (2, 10), (1, 10), (0, 9.5)])
    first, second = crossing_lines(street)
    assert first.tolist() == [[3, 0], [3, 10]] and second.tolist() == [[0, 9.5], [0, 0]]
