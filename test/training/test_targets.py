"""Centre and offset targets, against drawings by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bev_perception.geometry.grid import BevGrid
from bev_training.data.moves import ego_move, move_boxes
from bev_training.data.sample import GroundBoxes
from bev_training.data.targets import center_targets
from test.training.fake_source import make_fake_source

GRID = BevGrid(x_range_m=(0, 10), y_range_m=(-5, 5), cell_m=1, z_cells=1)


def box(x, y, length=3.0, width=1.0, yaw_deg=0.0, *, name='vehicle', visibility=1.0):
    return GroundBoxes(
        names=(name,),
        center_m=np.array([[x, y, 0.8]]),
        size_m=np.array([[length, width, 1.6]]),
        yaw_rad=np.radians([yaw_deg]),
        visibility=np.array([visibility]),
        lidar_points=np.array([-1]),
    )


def both(a, b):
    values = {k: np.concatenate([v, vars(b)[k]]) for k, v in vars(a).items() if k != 'names'}
    return GroundBoxes(names=a.names + b.names, **values)


def test_a_box_along_x_by_hand():
    found = center_targets(box(4.75, 0.5), GRID, 'all')
    # x from 3.25 to 6.25: the cells 3, 4, 5 with centres 3.5, 4.5, 5.5; y cell 5.
    where = np.zeros((10, 10), bool)
    where[5, 3:6] = True
    np.testing.assert_array_equal(found.in_object[0], where)
    np.testing.assert_allclose(found.offset[0, 5, 3:6], [1.25, 0.25, -0.75])
    np.testing.assert_allclose(found.offset[1, 5, 3:6], 0, atol=1e-7)
    assert not found.offset[:, ~where].any()
    assert found.center[0, 5, 4] == 1 and found.center.max() == 1
    assert found.center[0, 5, 7] == pytest.approx(np.exp(-1))
    assert found.center[0, 9, 4] == pytest.approx(np.exp(-16 / 9))
    assert found.center.shape == (1, 10, 10) and found.offset.shape == (2, 10, 10)
    assert found.center.dtype == found.offset.dtype == np.float32


def test_offsets_lead_from_every_cell_to_the_middle():
    boxes = make_fake_source(grid=GRID).boxes(3)
    found = center_targets(boxes, GRID, 'all')
    y, x = np.nonzero(found.in_object[0])
    to = np.stack([x, y], 1) + 0.5 + (0, -5) + found.offset[:, y, x].T
    distance = np.linalg.norm(to[:, None] - boxes.center_m[None, :, :2], axis=-1).min(1)
    assert len(y) > 10 and distance.max() < 1e-5


def test_a_turned_box_covers_cells_along_its_heading():
    found = center_targets(box(5.5, 0.5, 5.0, 0.5, 45), GRID, 'all')
    expected = np.zeros((10, 10), bool)
    expected[[4, 5, 6], [4, 5, 6]] = True
    np.testing.assert_array_equal(found.in_object[0], expected)


def test_a_box_smaller_than_a_cell_covers_the_cell_of_its_middle():
    found = center_targets(box(4.9, 0.9, 0.2, 0.1), GRID, 'all')
    assert np.argwhere(found.in_object).tolist() == [[0, 5, 4]]
    np.testing.assert_allclose(found.offset[:, 5, 4], [0.4, 0.4], atol=1e-6)


def test_cells_between_two_boxes_belong_to_the_nearer_middle():
    found = center_targets(both(box(3.5, 0.5, 5), box(6.5, 0.5, 5)), GRID, 'all')
    np.testing.assert_allclose(found.offset[0, 5, 1:9], [2, 1, 0, -1, 1, 0, -1, -2])
    assert found.center[0, 5, 3] == found.center[0, 5, 6] == 1
    # The maximum of the two, not their sum.
    assert found.center[0, 5, 4] == pytest.approx(np.exp(-1 / 9))


def test_hardly_visible_and_other_objects_are_left_out():
    boxes = both(box(3.5, 0.5, visibility=0.4), box(7.5, -2.5, name='pedestrian'))
    found = center_targets(boxes, GRID, 'visible')
    assert not found.center.any() and not found.in_object.any()
    everything = center_targets(boxes, GRID, 'all')
    assert everything.center[0, 5, 3] == 1 and everything.center[0, 2, 7] < 0.3
    just = center_targets(replace(boxes, visibility=np.array([0.41, 1])), GRID, 'visible')
    assert just.center[0, 5, 3] == 1


def test_boxes_beyond_the_rim_reach_into_the_grid():
    found = center_targets(box(-0.6, 0.5, 4), GRID, 'all')
    np.testing.assert_allclose(found.offset[0, 5, 0], -1.1, atol=1e-6)
    assert found.in_object.sum() == 1
    assert found.center[0, 5, 0] == pytest.approx(np.exp(-1 / 9))
    far = center_targets(box(100, 100), GRID, 'all')
    assert not far.center.any() and not far.in_object.any()


def test_no_objects_give_empty_targets():
    none = GroundBoxes(
        names=(),
        center_m=np.empty((0, 3)),
        size_m=np.empty((0, 3)),
        yaw_rad=np.empty(0),
        visibility=np.empty(0),
        lidar_points=np.empty(0, np.int64),
    )
    found = center_targets(none, GRID, 'visible')
    assert not found.center.any() and not found.in_object.any() and not found.offset.any()


def test_targets_of_mirrored_boxes_are_mirrored_targets():
    boxes = make_fake_source(grid=GRID).boxes(1)
    one = center_targets(boxes, GRID, 'all')
    other = center_targets(move_boxes(boxes, ego_move(flip_y=True)), GRID, 'all')
    np.testing.assert_array_equal(other.in_object, one.in_object[:, ::-1])
    np.testing.assert_allclose(other.center, one.center[:, ::-1])
    np.testing.assert_allclose(other.offset[0], one.offset[0, ::-1], atol=1e-6)
    np.testing.assert_allclose(other.offset[1], -one.offset[1, ::-1], atol=1e-6)
