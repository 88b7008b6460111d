"""Another ego frame for a sample's labels, boxes, points and sweeps: mirrored, or turned about z.

The move is `new_T_old`. That of a mirrored frame is a reflection (determinant -1): its inverse is
still `rigid.inverse`, since its 3x3 part is orthonormal.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Index, Mask, Rigid
from bev_perception.views import ViewSet
from bev_training.data.sample import GroundBoxes, LabelGrids, Sweep


def ego_move(*, flip_x: bool = False, flip_y: bool = False, yaw_rad: float = 0.0) -> Rigid:
    """Return `new_T_old` of an ego frame that is turned, then mirrored.

    Args:
        flip_x: front and rear change places.
        flip_y: left and right change places.
        yaw_rad: the scene turns by this, positive to the left.
    """
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    new_T_old = np.eye(4)
    new_T_old[:2, :2] = [[c, -s], [s, c]]
    new_T_old[0] *= -1 if flip_x else 1
    new_T_old[1] *= -1 if flip_y else 1
    return new_T_old


def move_labels(labels: LabelGrids, grid: BevGrid, new_T_old: Rigid) -> LabelGrids:
    """Return the labels in the new frame: every cell takes what its centre was before.

    Exact where centres meet centres: for a flip if the axis' range begins at a whole or half
    number of cells (as -50 m and cells of 0.5 m do). Cells whose centre comes from outside the
    grid are not `known`.
    """
    rows, columns, inside = _sources(grid, rigid.inverse(new_T_old))

    def moved(mask: Mask) -> Mask:
        return np.asarray(mask[..., rows, columns] & inside)

    return replace(
        labels,
        positive=moved(labels.positive),
        hidden=moved(labels.hidden),
        known=moved(labels.known),
    )


def move_boxes(boxes: GroundBoxes, new_T_old: Rigid) -> GroundBoxes:
    """Return the boxes in the new frame; length, width and height stay."""
    heading = np.stack([np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad)], -1)
    heading = heading @ new_T_old[:2, :2].T
    return replace(
        boxes,
        center_m=rigid.transform_points(new_T_old, np.asarray(boxes.center_m, np.float64)),
        yaw_rad=np.arctan2(heading[:, 1], heading[:, 0]),
    )


def move_points(points_m: npt.NDArray[np.float32], new_T_old: Rigid) -> npt.NDArray[np.float32]:
    """Return points (n, 3) in the new frame."""
    return rigid.transform_points(new_T_old, points_m.astype(np.float64)).astype(np.float32)


def move_sweep(sweep: Sweep, new_T_old: Rigid) -> Sweep:
    """Return the sweep, with where its sensor was, in the new frame."""
    return replace(
        sweep,
        points_m=move_points(sweep.points_m, new_T_old),
        origin_m=rigid.transform_points(new_T_old, sweep.origin_m[None])[0],
    )


def move_views(view_set: ViewSet, new_T_old: Rigid) -> ViewSet:
    """Return the set with all poses in the new frame; images stay as they are."""
    old_T_new, odom_T_old = rigid.inverse(new_T_old), view_set.odom_T_ego
    return replace(
        view_set,
        views=tuple(replace(v, ego_T_cam=new_T_old @ v.ego_T_cam) for v in view_set.views),
        base_T_ego=view_set.base_T_ego @ old_T_new,
        odom_T_ego=None if odom_T_old is None else odom_T_old @ old_T_new,
    )


def _sources(grid: BevGrid, old_T_new: Rigid) -> tuple[Index, Index, Mask]:
    """Return the row and column that each cell's centre had before, and whether it had one.

    They broadcast to (y, x): without a turn, a row needs one number only.
    """
    R = old_T_new[:2, :2]
    x, y = _centers(grid.x_range_m, grid), _centers(grid.y_range_m, grid)[:, None]
    if R[0, 1] == R[1, 0] == 0:
        old_x, old_y = R[0, 0] * x[None], R[1, 1] * y
    else:
        old_x, old_y = R[0, 0] * x + R[0, 1] * y, R[1, 0] * x + R[1, 1] * y
    columns, inside_x = _cells(old_x, grid.x_range_m[0], grid.shape[2], grid)
    rows, inside_y = _cells(old_y, grid.y_range_m[0], grid.shape[1], grid)
    return rows, columns, inside_x & inside_y


def _centers(range_m: tuple[float, float], grid: BevGrid) -> AnyArray:
    count = round((range_m[1] - range_m[0]) / grid.cell_m)
    return range_m[0] + (np.arange(count) + 0.5) * grid.cell_m


def _cells(at_m: AnyArray, low_m: float, count: int, grid: BevGrid) -> tuple[Index, Mask]:
    # Centres that meet borders are rounded alike on both sides of 0.
    index = np.floor((at_m - low_m) / grid.cell_m + 1e-6).astype(np.int64)
    return index.clip(0, count - 1), (index >= 0) & (index < count)
