"""Pictures for people: forward is up, left is left, the ground comes out where it is."""

from __future__ import annotations

import numpy as np
import pytest

from bev_perception.geometry.grid import BevGrid
from bev_perception.pictures import COLORS, class_color, draw_bev, draw_ground_mosaic, forward_up
from bev_perception.views import ViewSet

from .factories import look, make_camera, make_rig, make_view

CLASSES = ('drivable_area', 'lane_divider', 'vehicle')
GREY = (60, 60, 66)


def test_three_metres_ahead_one_to_the_left():
    """Default grid: row 102, column 106 of [y, x] (see test_occupancy).

    200 x 200 pixels; forward is up, so the picture's row is 199 - 106 = 93 (upper half), and
    left is left, so its column is 199 - 102 = 97 (left of the centre).
    """
    grid = np.zeros((200, 200), np.uint8)
    grid[102, 106] = 1
    assert np.argwhere(forward_up(grid)).tolist() == [[93, 97]]
    probability = np.zeros((3, 200, 200), np.float32)
    probability[2, 102, 106] = 1
    picture = draw_bev(probability, np.ones((200, 200), bool), CLASSES)
    assert tuple(picture[93, 97]) == COLORS['vehicle']
    assert (picture != picture[0, 0]).any(-1).sum() == 1


def test_shape_of_a_grid_that_is_not_square():
    """4 rows (y) of 6 columns (x): a picture 6 high and 4 wide."""
    assert forward_up(np.zeros((4, 6, 3), np.uint8)).shape == (6, 4, 3)
    picture = draw_bev(np.zeros((1, 4, 6), np.float32), np.ones((4, 6), bool), ('vehicle',))
    assert picture.shape == (6, 4, 3) and picture.dtype == np.uint8
    assert picture.flags.c_contiguous  # it becomes a message


def test_unseen_is_grey():
    """Whatever the network says of it: y 0, x 1 is the cell ahead on the right."""
    valid = np.array([[True, False], [True, True]])
    picture = draw_bev(np.ones((3, 2, 2), np.float32), valid, CLASSES)
    assert (picture == np.array(GREY)).all(-1).tolist() == [[False, True], [False, False]]


def test_colors_blend_and_vehicles_are_on_top():
    valid = np.ones((1, 1), bool)

    def color(*probability):
        picture = draw_bev(np.array(probability, np.float32).reshape(-1, 1, 1), valid, CLASSES)
        return tuple(picture[0, 0].tolist())

    assert color(1, 0, 0) == COLORS['drivable_area']
    assert color(1, 1, 1) == COLORS['vehicle']
    half = color(0, 0, 0.5)
    assert half == (44, 94, 136)  # between (22, 22, 26) and (66, 165, 245)
    swapped = draw_bev(np.ones((2, 1, 1), np.float32), valid, ('vehicle', 'drivable_area'))
    assert tuple(swapped[0, 0]) == COLORS['vehicle']  # whatever the order of the channels


@pytest.mark.filterwarnings('error')
def test_not_finite_probabilities_are_drawn_as_nothing():
    picture = draw_bev(np.full((1, 1, 1), np.nan, np.float32), np.ones((1, 1), bool), ('vehicle',))
    assert tuple(picture[0, 0]) == (22, 22, 26)


def test_every_class_has_a_color():
    colors = {class_color(name, i) for i, name in enumerate(['alpha', 'beta', 'gamma', *COLORS])}
    assert len(colors) == 3 + len(COLORS)


# --- ground mosaic -------------------------------------------------------------------------------

GRID = BevGrid(x_range_m=(-10, 14), y_range_m=(-10, 10), cell_m=0.5)


def board(x, y):
    """Squares of 4 m, lighter ahead than behind and redder on the left."""
    square = (np.floor(x / 4) + np.floor(y / 4)) % 2
    return np.stack([60 + 100 * square + 30 * (y > 0), 90 + 100 * square, 70 + 80 * (x > 0)], -1)


def photograph(camera, ego_T_cam, sample):
    """What a camera sees of a painted ground: `sample(x, y)` gives its colour; black sky."""
    v, u = np.mgrid[0 : camera.size_px[1], 0 : camera.size_px[0]].astype(float)
    rays = camera.unproject(np.stack([u, v], -1)) @ ego_T_cam[:3, :3].T
    down = rays[..., 2] < -1e-3
    scale = np.where(down, -ego_T_cam[2, 3] / np.where(down, rays[..., 2], -1), 0)
    x, y = (ego_T_cam[i, 3] + scale * rays[..., i] for i in range(2))
    return (sample(x, y) * down[..., None]).round().astype(np.uint8)


def ground_views(rig, sample):
    views = tuple(
        make_view(camera, photograph(camera, pose, sample), name=name, ego_T_cam=pose)
        for name, (camera, pose) in rig.items()
    )
    return ViewSet(stamp_ns=1, views=views)


@pytest.mark.parametrize(
    'lens', [{}, {'model': 'equidistant', 'D': (0.03, -0.01, 0.004, -0.001)}], ids=['flat', 'fish']
)
def test_a_painted_ground_comes_back(lens):
    rig = make_rig(size_px=(640, 360), **lens)
    mosaic = draw_ground_mosaic(ground_views(rig, board), GRID, px_per_m=8)
    assert mosaic.shape == (24 * 8, 20 * 8, 3)
    row, column = np.mgrid[0 : 24 * 8, 0 : 20 * 8]
    x, y = 14 - (row + 0.5) / 8, 10 - (column + 0.5) / 8
    expected = board(x, y)
    seen = (mosaic != np.array(GREY)).any(-1)
    assert 0.7 < seen.mean() < 1
    # Near edges of the pattern the pixels of the photographs blend.
    edge = np.minimum(*(np.abs((t + 2) % 4 - 2) for t in (x, y)))
    flat = seen & (edge > 0.35)
    error = np.abs(mosaic - expected).max(-1)
    assert flat.sum() > 5000 and (error[flat] < 3).mean() > 0.99
    assert not seen[14 * 8 - 2 : 14 * 8 + 2, 78:82].any()  # under the vehicle nobody looks


def test_a_dot_on_the_ground_is_where_it_is():
    """At (6, 2) m: row (14 - 6) * 8 - 0.5 = 63.5, column (10 - 2) * 8 - 0.5 = 63.5."""

    def dot(x, y):
        light = 200 * np.exp(-((x - 6) ** 2 + (y - 2) ** 2) / (2 * 0.3**2))
        return np.repeat(light[..., None], 3, -1) + 20

    rig = make_rig(size_px=(800, 448))
    mosaic = draw_ground_mosaic(ground_views(rig, dot), GRID, px_per_m=8).astype(float)[..., 0]
    weight = np.where(mosaic > 80, mosaic - 20, 0)
    row, column = np.mgrid[0 : 24 * 8, 0 : 20 * 8]
    assert (weight * row).sum() / weight.sum() == pytest.approx(63.5, abs=0.25)
    assert (weight * column).sum() / weight.sum() == pytest.approx(63.5, abs=0.25)


def test_overlaps_are_averaged():
    """Two cameras in the same place, one shows 100, the other 200."""
    camera, pose = make_camera((320, 180)), look(0, 30)
    views = tuple(
        make_view(camera, np.full((180, 320, 3), value, np.uint8), name=str(value), ego_T_cam=pose)
        for value in (100, 200)
    )
    mosaic = draw_ground_mosaic(ViewSet(stamp_ns=1, views=views), GRID)
    assert {tuple(p) for p in mosaic.reshape(-1, 3).tolist()} == {(150, 150, 150), GREY}


def test_image_edges_do_not_darken():
    """A white image stays white up to its last half pixel: no dark seam between cameras."""
    camera, pose = make_camera((64, 36)), look(0, 40)
    white = np.full((36, 64, 3), 255, np.uint8)
    views = (make_view(camera, white, ego_T_cam=pose),)
    mosaic = draw_ground_mosaic(ViewSet(stamp_ns=1, views=views), GRID)
    assert {tuple(p) for p in mosaic.reshape(-1, 3).tolist()} == {(255, 255, 255), GREY}


def test_no_views():
    mosaic = draw_ground_mosaic(ViewSet(stamp_ns=1, views=()), GRID, px_per_m=2)
    assert (mosaic == np.array(GREY)).all() and mosaic.shape == (48, 40, 3)
