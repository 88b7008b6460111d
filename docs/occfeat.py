"""Draws docs/occfeat.jpg: how OccFeat pretrains, with the tensors of a run.

python docs/occfeat.py RUN FRAMES OUT.jpg [SAMPLE]    RUN: OUT of `bev pretrain`; FRAMES: drives
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.nn import functional as F

from bev_perception.geometry.grid import BevGrid
from bev_perception.pictures import forward_up
from bev_perception.shapes import AnyArray, ImageRgb
from bev_training.data.sources import open_source
from bev_training.objectives.feature_targets import feature_targets
from bev_training.picture import camera_places
from bev_training.qualitative.color_mapping import ColorMapping, fit_mapping, unit
from bev_training.qualitative.pretrained import (
    features_at,
    lidar_voxels,
    load_pretrained,
    look,
    teach,
    visible,
)
from bev_training.qualitative.similarity import similarity_colors
from bev_training.qualitative.voxel_drawing import PAPER, draw_above, draw_outside
from bev_training.teachers.load import load_teacher
from bev_training.teachers.views import teacher_images

_INK, _PAPER = '#e8eaed', '#17181c'
_ARROW, _LOSS = '#9aa0a6', '#ffb74d'
_LIKELY = 0.1  # voxels that are drawn: predicted to be occupied with this probability
_SCENE_PX = (760, 480)
# (left, bottom, width, height) of the panels, shares of the figure: what the network does above,
# what it learns from below.
_LEFT, _WIDE = (0.008, 0.29, 0.505, 0.755), (0.235, 0.16, 0.24, 0.24)
_BOTTOM, _HIGH = (0.545, 0.055), 0.4


def main(run: str, frames: str, out: str, sample: str = '0') -> None:
    """Draw it.

    Args:
        run: OUT of `bev pretrain`.
        frames: drives with a lidar.
        out: JPEG or PNG to write.
        sample: number of the sample.
    """
    pretrained = load_pretrained(Path(run), torch.device('cpu'))
    config, grid = pretrained.config, pretrained.config.model.grid
    source = open_source(frames, classes=(), grid=grid)
    i = int(sample)
    teacher = load_teacher(config.teacher)
    seen = look(pretrained, source, i)
    views = teach(teacher, seen.view_set, config)
    occupied = lidar_voxels(source, i, config).nonzero()
    voxels = occupied[visible(seen.inputs, occupied, grid)]
    in_batch = torch.cat([torch.zeros_like(voxels[:, :1]), voxels], 1)
    taught, kept = feature_targets(views, in_batch, grid=grid, size_px=config.teacher.size_px)
    voxels = voxels[kept]
    predicted = features_at(pretrained, seen, voxels).numpy()
    mapping = fit_mapping(np.concatenate([unit(predicted), unit(taught.numpy())]))
    images, _, _ = teacher_images(seen.view_set, config.teacher.size_px)
    names = [view.name for view in seen.view_set.views]
    assert views.features is not None
    maps = [_map(each.float(), mapping, images.shape[1:3]) for each in views.features[0]]
    likely = (seen.probability >= _LIKELY).nonzero()
    chance = seen.probability[tuple(likely.T)].numpy()
    figure = Figure(figsize=(16, 6.6), dpi=90, facecolor=_PAPER)
    panels = {
        (0, 0): (_mosaic(list(images), names), f'{len(names)} images'),
        (0, 1): (_plane(seen.plane.features[0]), 'BEV plane (3 of its components)'),
        (0, 2): (
            _scene(likely.numpy(), grid, similarity_colors(chance, 0.0)),
            'predicted occupancy (dark to bright)',
        ),
        (0, 3): (_scene(voxels.numpy(), grid, mapping.colors(predicted)), 'predicted features'),
        (1, 0): (_mosaic(maps, names), "the teacher's features of the clean images"),
        (1, 1): (_points(source.points(i), grid), 'lidar'),
        (1, 2): (
            _scene(occupied.numpy(), grid, np.full((len(occupied), 3), 235)),
            'voxels with a point',
        ),
        (1, 3): (
            _scene(voxels.numpy(), grid, mapping.colors(taught.numpy())),
            "the teacher's features there",
        ),
    }
    for (row, column), (picture, title) in panels.items():
        ax = figure.add_axes((_LEFT[column], _BOTTOM[row], _WIDE[column], _HIGH))
        ax.imshow(picture)
        ax.set_axis_off()
        ax.set_title(title, color=_INK, fontsize=10, pad=4)
    _arrows(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., 2::-1]
    cv2.imwrite(out, drawn, [cv2.IMWRITE_JPEG_QUALITY, 88] if out.endswith('.jpg') else [])


def _arrows(figure: Figure) -> None:
    """Put arrows between the panels."""

    def arrow(tail: tuple[float, float], head: tuple[float, float], style: str = '->') -> None:
        color = _LOSS if style == '<->' else _ARROW
        figure.add_artist(_patch(tail, head, style, color))

    def text(x: float, y: float, said: str, color: str = _INK, ha: str = 'center') -> None:
        figure.text(x, y, said, color=color, fontsize=10, ha=ha, va='center')

    upper, lower = (bottom + _HIGH / 2 for bottom in _BOTTOM)
    images, plane, occupancy, features = (
        (left, left + wide) for left, wide in zip(_LEFT, _WIDE, strict=True)
    )
    for (_, right), (left, _), said in (
        (images, plane, 'BEV\nnetwork'),
        (plane, occupancy, 'unsplat\nhead'),
    ):
        arrow((right + 0.005, upper), (left - 0.005, upper))
        text((left + right) / 2, upper + 0.055, said)
    middle = sum(images) / 2
    arrow((middle, 0.575), (middle, 0.435))
    text(middle + 0.052, 0.505, 'teacher (frozen)')
    arrow((plane[1] + 0.005, lower), (occupancy[0] - 0.005, lower))
    arrow((middle, 0.035), (features[0] + 0.01, 0.035))
    text(middle + 0.09, 0.06, 'looked up at the voxels with a point')
    for panel, said in (
        (occupancy, 'L_occ: binary cross-entropy of all voxels'),
        (features, '+ λ · L_feat: negative cosine, voxels with a point'),
    ):
        x = sum(panel) / 2
        arrow((x - 0.125, 0.49), (x - 0.125, 0.55), '<->')
        text(x - 0.115, 0.52, said, _LOSS, 'left')


def _patch(tail: tuple[float, float], head: tuple[float, float], style: str, color: str):
    from matplotlib.patches import FancyArrowPatch

    return FancyArrowPatch(
        tail, head, arrowstyle=style, mutation_scale=16, color=color, linewidth=1.6
    )


def _scene(index_zyx: AnyArray, grid: BevGrid, colors: AnyArray) -> ImageRgb:
    radius_m = min(grid.x_range_m[1], 30.0)
    centers_m = grid.index_to_xyz(index_zyx)
    return draw_outside(centers_m, grid, colors, radius_m=radius_m, size_px=_SCENE_PX)


def _plane(plane: torch.Tensor) -> ImageRgb:
    """Return (c, y, x) as a picture: its three strongest components."""
    flat = plane.permute(1, 2, 0).flatten(0, 1).numpy()
    return forward_up(fit_mapping(flat).colors(flat).reshape(*plane.shape[1:], 3))


def _map(features: torch.Tensor, mapping: ColorMapping, size: tuple[int, int]) -> ImageRgb:
    """Return a teacher's map (c, h, w) in colours, as large as its image."""
    colors = mapping.colors(features.permute(1, 2, 0).numpy())
    as_tensor = torch.from_numpy(colors.astype(np.float32)).permute(2, 0, 1)[None]
    large = F.interpolate(as_tensor, size, mode='nearest')[0]
    return large.permute(1, 2, 0).numpy().astype(np.uint8)


def _points(points_m: AnyArray, grid: BevGrid) -> ImageRgb:
    """Return the lidar's points in the grid from above, finer than its cells."""
    fine = BevGrid(
        x_range_m=grid.x_range_m,
        y_range_m=grid.y_range_m,
        z_range_m=grid.z_range_m,
        cell_m=grid.cell_m / 4,
        z_cells=16,
    )
    index, inside = fine.xyz_to_index(points_m)
    index = index[inside]
    share = index[:, 0] / fine.z_cells
    return draw_above(index, fine, similarity_colors(0.25 + 0.75 * share, 0.0))


def _mosaic(images: list[ImageRgb], names: list[str]) -> ImageRgb:
    """Return images as they lie around the vehicle."""
    height, width = images[0].shape[:2]
    places = camera_places(tuple(names))
    rows = max(row for row, _ in places.values()) + 1
    gap = max(2, width // 60)
    sheet = np.empty((rows * (height + gap), 3 * (width + gap), 3), np.uint8)
    sheet[:] = PAPER
    for name, image in zip(names, images, strict=True):
        row, column = places[name]
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


if __name__ == '__main__':
    main(*sys.argv[1:])
