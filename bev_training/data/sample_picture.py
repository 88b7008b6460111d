"""A picture of one training sample: whether lidar, boxes, labels and images fit each other.

The first thing to look at when augmentation or a calibration is in doubt: lidar points must lie on
what they were reflected from, in the images and in the grids alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.pictures import draw_bev, forward_up
from bev_perception.shapes import ImageRgb, Points3
from bev_perception.views import CameraView
from bev_training.data.paths import whole_file
from bev_training.data.sample import HIDDEN_UP_TO, GroundBoxes, LabelGrids, Sample
from bev_training.picture import grid_panel

_INK, _PAPER = '#e8eaed', '#17181c'
_UNKNOWN, _NEGATIVE, _POSITIVE, _HIDDEN = (
    (60, 60, 66),
    (22, 22, 26),
    (235, 235, 235),
    (126, 87, 194),
)
_BESIDE = 3  # images
_FAR_M = 50.0  # where the colours of points end
_MAX_POINTS = 20_000  # in the grids
_GROUND_M = 0.3  # points up to here are left out of the grids
# Corners of a box by their signs along length, width and height, and the edges between them.
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
_EDGES = [(a, b) for a in range(8) for b in range(a) if (_CORNERS[a] != _CORNERS[b]).sum() == 1]


def draw_sample(path: Path, sample: Sample, grid: BevGrid, notes: Sequence[str] = ()) -> None:
    """Draw a sample, augmented or not.

    Args:
        path: PNG to write, whole or not at all.
        sample: read with its points.
        grid: of the labels.
        notes: lines of text.

    Raises:
        OSError: it cannot be written.
    """
    views, labels = sample.view_set.views, sample.labels
    rows = -(-len(views) // _BESIDE)
    panel = 14.4 / (len(labels.classes) + 1)
    heights = 2.95 * rows, panel
    figure = Figure(figsize=(15, sum(heights) + 0.6), dpi=90, facecolor=_PAPER)
    halves = figure.add_gridspec(2, 1, height_ratios=heights, hspace=0.08)
    above = halves[0].subgridspec(rows, _BESIDE, hspace=0.08, wspace=0.02)
    corners = box_corners(sample.boxes)
    for i, view in enumerate(views):
        ax = figure.add_subplot(above[i // _BESIDE, i % _BESIDE])
        _draw_view(ax, view, sample, corners)
    below = halves[1].subgridspec(1, len(labels.classes) + 1, wspace=0.2)
    ax = figure.add_subplot(below[0])
    everything = draw_bev(labels.positive.astype(np.float32), labels.known, labels.classes)
    grid_panel(ax, everything, grid, 'labels, lidar and boxes')
    _draw_ground(ax, sample, corners, grid)
    for i, name in enumerate(labels.classes):
        grid_panel(figure.add_subplot(below[i + 1]), _draw_class(labels, i), grid, name)
    lost = ', '.join(sample.view_set.missing)
    text = [f'{sample.key}{f"   without {lost}" if lost else ""}', *notes]
    text.append('grids: forward up, left left; violet: hardly visible; grey: unknown')
    figure.text(0.03, 0.012, '   '.join(text), color=_INK, fontsize=9)
    figure.subplots_adjust(left=0.03, right=0.99, top=0.97, bottom=0.06)
    with whole_file(path) as file:
        figure.savefig(file, format='png')


def box_corners(boxes: GroundBoxes) -> Points3:
    """Return the corners of boxes, (n, 8, 3), ego frame."""
    c, s = np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad)
    local = _CORNERS * boxes.size_m[:, None]
    x, y, z = np.moveaxis(local, -1, 0)
    turned = [x * c[:, None] - y * s[:, None], x * s[:, None] + y * c[:, None], z]
    return np.stack(turned, -1) + boxes.center_m[:, None]


def _draw_view(ax: Axes, view: CameraView, sample: Sample, corners: Points3) -> None:
    cam_T_ego = rigid.inverse(view.ego_T_cam)
    ax.imshow(view.image)
    points = rigid.transform_points(cam_T_ego, sample.points_m.astype(np.float64))
    uv, seen = view.camera.project(points)
    u, v = uv[seen].T
    ax.scatter(u, v, c=points[seen, 2], s=1.2, cmap='turbo', vmin=0, vmax=_FAR_M, lw=0)
    share = np.linspace(0, 1, 24)[:, None]
    for i, box in enumerate(rigid.transform_points(cam_T_ego, corners)):
        for a, b in _EDGES:
            uv, seen = view.camera.project(box[a] + share * (box[b] - box[a]))
            uv[~seen] = np.nan  # breaks the line
            ax.plot(*uv.T, color=_box_color(sample.boxes, i), linewidth=0.9, alpha=0.9)
    width, height = view.camera.size_px
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_axis_off()
    ax.set_title(view.name.replace('_', ' '), color=_INK, fontsize=10, pad=3)


def _draw_ground(ax: Axes, sample: Sample, corners: Points3, grid: BevGrid) -> None:
    """Draw points and boxes over a panel whose axes are (y, x) in metres."""
    points = sample.points_m[sample.points_m[:, 2] > _GROUND_M]
    points = points[:: -(-len(points) // _MAX_POINTS) or 1]
    ax.scatter(points[:, 1], points[:, 0], s=0.4, color='#a5d6a7', lw=0)
    outline = [0, 2, 6, 4, 0]  # the corners below, around
    for i, box in enumerate(corners):
        ax.plot(box[outline, 1], box[outline, 0], color=_box_color(sample.boxes, i), linewidth=0.8)
    (x0, x1), (y0, y1) = grid.x_range_m, grid.y_range_m
    ax.set_xlim(y1, y0)
    ax.set_ylim(x0, x1)


def _box_color(boxes: GroundBoxes, i: int) -> str:
    return '#ffb74d' if boxes.visibility[i] > HIDDEN_UP_TO else '#9575cd'


def _draw_class(labels: LabelGrids, i: int) -> ImageRgb:
    picture = np.full((*labels.known.shape, 3), _UNKNOWN, np.uint8)
    picture[labels.known] = _NEGATIVE
    picture[labels.known & labels.positive[i]] = _POSITIVE
    picture[labels.known & labels.hidden[i]] = _HIDDEN
    return forward_up(picture)
