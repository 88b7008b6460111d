"""Draws a contact sheet of written drives, from their bags and truth only.

What the sheet shows was read back from the files, with the poses in the bag: boxes that do not lie
around the lidar's points would tell of a wrong transform or stamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Patch

from bev_perception.errors import BagError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.pictures import class_color, draw_bev
from bev_perception.shapes import AnyArray, ImageRgb
from bev_training.picture import grid_panel
from bev_training.synthetic.preview_colors import (
    BOX_COLORS,
    SEMANTIC_COLORS,
    box_color,
    color_depth,
    color_height,
    color_semantics,
)
from bev_training.synthetic.preview_data import Shown, image_truth_of, show
from bev_training.synthetic.stored_truth import Truth, load_truth

MAX_ROWS = 24
_INK, _PAPER = '#e8eaed', '#17181c'
_DPI = 80
_WIDTH_IN, _ROW_IN, _TOP_IN, _LEGEND_IN = 20.0, 4.6, 0.55, 0.75
_THUMB_PX = 420  # width of a shown image
_LIDAR_PX_PER_M = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class _Row:
    """A line of the sheet: a drive at an instant."""

    title: str
    truth: Truth
    shown: Shown


def draw_preview(drive: Path, *, out: Path | None = None, frames: int = 4) -> Path:
    """Draw a contact sheet and return its path.

    Args:
        drive: what `write_drive` wrote, or a folder of such folders.
        out: PNG to write, *.png; None takes preview.png in `drive`.
        frames: how many instants of a single drive; of several, each shows its middle.

    Raises:
        BevError: a drive cannot be read, or the picture cannot be written.
    """
    if frames < 1:
        raise ConfigError(f'frames is {frames}; it must be at least 1')
    path = out or drive / 'preview.png'
    if path.suffix.lower() != '.png':
        raise ConfigError(f'{path} must end in .png')
    drives = drives_in(drive)
    rows, cut = [], ''
    if drives == [drive]:
        truth = load_truth(drive)
        count = len(truth.stamps_ns)
        chosen = np.unique(np.linspace(0, count - 1, min(frames, MAX_ROWS)).round().astype(int))
        for shown in show(drive, truth, chosen.tolist()):
            time_s = (shown.stamp_ns - truth.config.epoch_ns) / 1e9
            rows.append(_Row(title=f'{time_s:.2f} s', truth=truth, shown=shown))
        title = f'{drive.name}: {_about(truth)}'
    else:
        for one in drives[:MAX_ROWS]:
            truth = load_truth(one)
            shown = show(one, truth, [len(truth.stamps_ns) // 2])[0]
            rows.append(_Row(title=f'{one.name}: {_about(truth)}', truth=truth, shown=shown))
        cut = f', the first {MAX_ROWS}' if len(drives) > MAX_ROWS else ''
        title = f'{drive.name}: {len(drives)} drives{cut}'
    truths = image_truth_of(drives[0], rows[0].shown) if rows[0].truth.config.image_truth else {}
    figure = _sheet(title, rows, truths)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format='png')
    except OSError as error:
        raise BagError(
            f'{path} cannot be written: {error.strerror}; choose another --out'
        ) from error
    return path


def drives_in(folder: Path) -> list[Path]:
    """Return the folder itself, or the drives in it.

    Raises:
        BagError: it is a data set in nuScenes' format.
    """
    inside = sorted(path.parent for path in folder.glob('*/drive.json'))
    if not inside and any(folder.glob('v1.0-*/scene.json')):
        raise BagError(
            f"{folder} is a data set in nuScenes' format; this draws drives that were written "
            'with --format bag'
        )
    return [folder] if (folder / 'drive.json').exists() or not inside else inside


def _about(truth: Truth) -> str:
    config = truth.config
    rig = config.rig_or_default()
    town = '' if config.town_seed is None else f', town {config.town_seed}'
    lidar = ' and a lidar' if rig.lidar else ''
    return (
        f'seed {config.seed}{town}, {truth.weather}, {config.seconds:g} s, '
        f'rig {rig.name} of {len(rig.cameras)} cameras{lidar}'
    )


def _sheet(title: str, rows: list[_Row], truths: dict[str, tuple[AnyArray, AnyArray]]) -> Figure:
    strip_in = _strip_height_in(rows[0].shown, len(truths))
    heights = [_TOP_IN, *[_ROW_IN] * len(rows), *([strip_in] if truths else []), _LEGEND_IN]
    figure = Figure(figsize=(_WIDTH_IN, sum(heights)), dpi=_DPI, facecolor=_PAPER)
    lines = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, hspace=0, left=0.008, right=0.992, top=1, bottom=0
    )
    head = _blank(figure, lines[0])
    head.text(0, 0.5, title, color=_INK, fontsize=16, va='center')
    for number, row in enumerate(rows):
        _draw_row(figure, lines[number + 1], row)
    if truths:
        _draw_image_truth(figure, lines[len(rows) + 1], truths)
    _draw_legend(_blank(figure, lines[len(heights) - 1]), rows[0].truth, bool(truths))
    return figure


def _draw_row(figure: Figure, line: SubplotSpec, row: _Row) -> None:
    shown, grid = row.shown, row.truth.config.grid
    outer = line.subgridspec(2, 1, height_ratios=(0.1, 0.9), hspace=0.02)
    _blank(figure, outer[0]).text(0, 0.62, row.title, color=_INK, fontsize=12, va='center')
    panels = 2 if shown.points_ego is not None else 1
    cells = outer[1].subgridspec(1, 1 + panels, width_ratios=(2.85, *[1] * panels), wspace=0.03)
    columns = ceil(len(shown.images) / 2)
    thumbs = cells[0].subgridspec(min(2, len(shown.images)), columns, hspace=0.1, wspace=0.02)
    for i, (name, image) in enumerate(shown.images.items()):
        ax = _blank(figure, thumbs[i // columns, i % columns])
        ax.imshow(_thumb(image))
        ax.set_title(name.replace('_', ' '), color=_INK, fontsize=8, pad=2)
    classes = row.truth.classes
    seen = np.ones(shown.grids.shape[1:], bool)
    _panel(
        figure, cells[1], draw_bev(shown.grids.astype(np.float32), seen, classes), grid, 'truth'
    )
    if shown.points_ego is not None:
        title = f'lidar: {len(shown.points_ego)} points, coloured by height; boxes'
        _panel(figure, cells[2], draw_lidar(shown, grid), grid, title)


def draw_lidar(shown: Shown, grid: BevGrid) -> ImageRgb:
    """Return lidar points and boxes from above, forward up, over the extent of the grid."""
    (x0, x1), (y0, y1) = grid.x_range_m, grid.y_range_m
    rows, columns = (round((b - a) * _LIDAR_PX_PER_M) for a, b in ((x0, x1), (y0, y1)))
    picture = np.full((rows, columns, 3), (22, 22, 26), np.uint8)

    def pixels(xy: AnyArray) -> AnyArray:
        return np.stack([y1 - xy[..., 1], x1 - xy[..., 0]], -1) * _LIDAR_PX_PER_M - 0.5

    if shown.points_ego is not None and shown.intensity is not None:
        order = np.argsort(shown.points_ego[:, 2])  # what is higher hides what is lower
        points, strength = shown.points_ego[order], shown.intensity[order].astype(float)
        color = color_height(points[:, 2])
        bright = 0.45 + 0.55 * np.sqrt(strength / max(float(strength.max(initial=0)), 1e-9))
        u, v = pixels(points[:, :2]).round().astype(int).T
        inside = (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
        shades = (color * bright[:, None])[inside]
        for du, dv in ((1, 0), (0, 1), (0, 0)):  # dots that stay visible when shown smaller
            at = np.minimum(v[inside] + dv, rows - 1), np.minimum(u[inside] + du, columns - 1)
            picture[at] = shades
    for corners, category in zip(shown.corners_ego, shown.category, strict=True):
        outline = (pixels(corners) * 16).round().astype(np.int32)
        cv2.polylines(picture, [outline], True, box_color(int(category)), 1, cv2.LINE_AA, 4)
    return picture


def _draw_image_truth(
    figure: Figure, line: SubplotSpec, truths: dict[str, tuple[AnyArray, AnyArray]]
) -> None:
    parts = line.subgridspec(2, 1, height_ratios=(0.1, 0.9), hspace=0)  # space for titles
    cells = parts[1].subgridspec(2, len(truths), hspace=0.12, wspace=0.02)
    for i, (name, (semantics, depth_m)) in enumerate(truths.items()):
        for row, (what, picture) in enumerate(
            (('semantics', color_semantics(semantics)), ('depth', color_depth(depth_m)))
        ):
            ax = _blank(figure, cells[row, i])
            ax.imshow(picture)
            ax.set_title(f'{name.replace("_", " ")}: {what}', color=_INK, fontsize=8, pad=2)


def _draw_legend(ax: Axes, truth: Truth, semantics: bool) -> None:
    def patches(colors: dict[str, tuple[int, int, int]]) -> list[Patch]:
        return [
            Patch(color=(r / 255, g / 255, b / 255), label=name.replace('_', ' '))
            for name, (r, g, b) in colors.items()
        ]

    classes = {name: class_color(name, i) for i, name in enumerate(truth.classes)}
    legends = {'truth': classes, 'boxes': BOX_COLORS}
    if semantics:
        legends['semantics'] = SEMANTIC_COLORS
    x = 0.0
    for title, colors in legends.items():
        columns = ceil(len(colors) / 2)
        legend = ax.legend(
            handles=patches(colors), title=f'{title}:', ncols=columns, loc='center left',
            bbox_to_anchor=(x, 0.5), frameon=False, fontsize=8, title_fontsize=8,
            labelcolor=_INK, alignment='left', columnspacing=0.9, handlelength=1.0,
        )  # fmt: skip
        legend.get_title().set_color(_INK)
        ax.add_artist(legend)
        x += 0.065 * columns + 0.015


def _strip_height_in(shown: Shown, cameras: int) -> float:
    height, width = next(iter(shown.images.values())).shape[:2]
    return 2 * (_WIDTH_IN / max(cameras, 3) * height / width + 0.35)


def _thumb(image: ImageRgb) -> ImageRgb:
    height, width = image.shape[:2]
    if width <= _THUMB_PX:
        return image
    size = (_THUMB_PX, round(height * _THUMB_PX / width))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _blank(figure: Figure, cell: SubplotSpec) -> Axes:
    ax = figure.add_subplot(cell)
    ax.set_axis_off()
    return ax


def _panel(
    figure: Figure, cell: SubplotSpec, picture: ImageRgb, grid: BevGrid, title: str
) -> None:
    grid_panel(figure.add_subplot(cell), picture, grid, title, fontsize=8)
