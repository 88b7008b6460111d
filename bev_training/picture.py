"""One picture of one instant: six images, each class's grid beside its truth, the coverage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec

from bev_perception.geometry.grid import BevGrid
from bev_perception.messages import read_image, stamp_ns
from bev_perception.pictures import draw_bev, forward_up
from bev_perception.shapes import Cells, ImageRgb
from bev_training.data.bag_reader import read_messages

_LAYOUT = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')
_INK, _PAPER = '#e8eaed', '#17181c'


def draw_sheet(
    path: Path,
    *,
    bag: Path,
    stamp_ns: int,
    cells: Cells,
    truth: npt.NDArray[np.bool_],
    classes: Sequence[str],
    grid: BevGrid,
    notes: Sequence[str],
) -> None:
    """Draw the images of a synthetic drive nearest to a stamp, and the grids of that stamp.

    Args:
        path: PNG to write.
        bag: the drive's bag, with the default topics.
        stamp_ns: the instant.
        cells: (class, y, x) as published.
        truth: (class, y, x).
        classes: names.
        grid: geometry of both.
        notes: lines of text beside the grids.
    """
    figure = Figure(figsize=(16, 12.2), dpi=90, facecolor=_PAPER)
    halves = figure.add_gridspec(2, 1, height_ratios=(0.93, 1.07), hspace=0.07)
    _draw_images(figure, halves[0].subgridspec(2, 3, hspace=0.1, wspace=0.02), bag, stamp_ns)
    columns = len(classes) + 2
    panels = halves[1].subgridspec(2, columns, hspace=0.14, wspace=0.12)
    names, valid = tuple(classes), cells[0] >= 0
    probability = np.where(valid, cells, 0).astype(np.float32) / np.float32(100)
    everywhere = np.ones_like(valid)

    def panel(row: int, column: int, picture: ImageRgb, title: str) -> None:
        grid_panel(figure.add_subplot(panels[row, column]), picture, grid, title)

    panel(0, 0, draw_bev(probability, valid, names), 'all classes')
    panel(1, 0, draw_bev(truth.astype(np.float32), everywhere, names), 'truth')
    for i in range(len(names)):
        one = draw_bev(probability[i : i + 1], valid, names[i : i + 1])
        panel(0, i + 1, one, f'~/grid/{names[i]}')
        panel(1, i + 1, _agreement(cells[i], truth[i], valid), f'{names[i]} against truth')
    panel(0, columns - 1, _coverage(valid), f'coverage: {valid.mean():.1%} seen, the rest is -1')
    text = figure.add_subplot(panels[1, columns - 1])
    text.set_axis_off()
    text.text(0, 1, _LEGEND + '\n\n' + '\n'.join(notes), color=_INK, fontsize=9, va='top')
    figure.subplots_adjust(left=0.03, right=0.99, top=0.975, bottom=0.03)
    figure.savefig(path)


_LEGEND = """Forward is up, the vehicle the red mark;
ticks in metres. Against truth, at 0.5: white
hit, orange false, blue missed, grey unseen."""


def _draw_images(figure: Figure, rows: GridSpecFromSubplotSpec, bag: Path, stamp_ns: int) -> None:
    images = _images_near(bag, stamp_ns)
    for i, name in enumerate(_LAYOUT):
        ax = figure.add_subplot(rows[i // 3, i % 3])
        ax.imshow(images[name])
        ax.set_axis_off()
        ax.set_title(name.replace('_', ' '), color=_INK, fontsize=10, pad=3)


def _images_near(bag: Path, wanted_ns: int) -> dict[str, ImageRgb]:
    """Return each camera's image with the stamp nearest to the wanted one."""
    topics = {f'/camera/{name}/image_raw/compressed': name for name in _LAYOUT}
    best: dict[str, tuple[int, object]] = {}
    for topic, _, message in read_messages(bag, list(topics)):
        distance = abs(stamp_ns(message.header) - wanted_ns)
        name = topics[topic]
        if name not in best or distance < best[name][0]:
            best[name] = distance, message
    return {name: read_image(message) for name, (_, message) in best.items()}


def _coverage(valid: npt.NDArray[np.bool_]) -> ImageRgb:
    picture = np.full((*valid.shape, 3), (60, 60, 66), np.uint8)
    picture[valid] = (129, 199, 132)
    return forward_up(picture)


def _agreement(
    cells: Cells, truth: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_]
) -> ImageRgb:
    picture = np.full((*valid.shape, 3), (60, 60, 66), np.uint8)
    picture[valid] = (22, 22, 26)
    predicted = cells >= 50
    picture[valid & predicted & truth] = (235, 235, 235)
    picture[valid & predicted & ~truth] = (255, 138, 60)
    picture[valid & ~predicted & truth] = (66, 133, 244)
    return forward_up(picture)


def grid_panel(
    ax: Axes, picture: ImageRgb, grid: BevGrid, title: str, *, fontsize: int = 10
) -> None:
    """Show a picture of a grid with ticks in metres, the vehicle as a red mark."""
    (x0, x1), (y0, y1) = grid.x_range_m, grid.y_range_m
    ax.imshow(picture, extent=(y1, y0, x0, x1), interpolation='nearest')
    ax.plot(0, 0, marker='^', color='#ef5350', markersize=5)
    ax.set_title(title, color=_INK, fontsize=fontsize, pad=0.3 * fontsize)
    ax.tick_params(colors=_INK, labelsize=0.7 * fontsize, length=2)
    for spine in ax.spines.values():
        spine.set_visible(False)
