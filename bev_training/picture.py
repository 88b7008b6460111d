"""One picture of one instant: its images, each class's grid beside its truth, the coverage."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_perception.messages import read_image, stamp_ns
from bev_perception.pictures import draw_bev, forward_up
from bev_perception.shapes import Cells, ImageRgb, Mask
from bev_training.data.bag_reader import read_messages
from bev_training.data.paths import whole_file
from bev_training.data.sample import LabelGrids

_LAYOUT = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')
_INK, _PAPER = '#e8eaed', '#17181c'
_IMAGES_BESIDE, _GRIDS_BESIDE = 3, 5  # in 6 columns, text is longer than a panel is high
_TEXT_WIDTH = 231  # letters, at the text's size, beside each other on the whole sheet
_GAP = 0.12  # between columns, in their width
_IMAGE_ROW_IN, _GRID_ROW_IN = 2.85, 3.25
_UNSEEN, _SEEN = (60, 60, 66), (22, 22, 26)
_HIT, _FALSE, _MISSED = (235, 235, 235), (255, 138, 60), (66, 133, 244)
_HIDDEN_HIT, _HIDDEN_MISSED = (206, 178, 250), (103, 58, 183)


def draw_sheet(
    path: Path,
    *,
    images: Mapping[str, ImageRgb],
    cells: Cells,
    labels: LabelGrids | None,
    classes: Sequence[str],
    grid: BevGrid,
    notes: Sequence[str],
) -> None:
    """Draw the images of an instant and its grids.

    Args:
        path: PNG to write, whole or not at all.
        images: by camera, in the rig's order.
        cells: (class, y, x) as published.
        labels: the truth, of the same classes; None where nobody knows it.
        classes: names.
        grid: geometry of both.
        notes: paragraphs of text beside the grids; they are wrapped.

    Raises:
        BagError: the picture cannot be written.
    """
    names, valid = tuple(classes), cells[0] >= 0
    places = camera_places(tuple(images))
    rows = max((row for row, _ in places.values()), default=-1) + 1
    step = 1 if labels is None else 2  # rows of panels: the truth lies below
    panels = len(names) + (3 if labels is None else 2)  # all, coverage, and the text
    lines = -(-panels // _GRIDS_BESIDE)
    columns, bands = -(-panels // lines), lines * step
    heights = (max(rows, 0.01) * _IMAGE_ROW_IN, bands * _GRID_ROW_IN)
    figure = Figure(figsize=(16, sum(heights)), dpi=90, facecolor=_PAPER)
    halves = figure.add_gridspec(2, 1, height_ratios=heights, hspace=0.07)
    if rows:
        spec = halves[0].subgridspec(rows, _IMAGES_BESIDE, hspace=0.1, wspace=0.02)
        for name, at in places.items():
            _draw_image(figure, spec, at, images.get(name), name)
    spec = halves[1].subgridspec(bands, columns, hspace=0.14, wspace=_GAP)
    upper = _predicted(cells, valid, names)
    lower = [] if labels is None else _against_truth(cells, valid, names, labels)
    for i, (picture, title) in enumerate(upper):
        at = step * (i // columns), i % columns
        grid_panel(figure.add_subplot(spec[at]), picture, grid, title)
    for i, (picture, title) in enumerate(lower):
        at = step * (i // columns) + 1, i % columns
        grid_panel(figure.add_subplot(spec[at]), picture, grid, title)
    row, column = divmod(panels - 1, columns)
    text = figure.add_subplot(spec[step * row + step - 1, column:])
    text.set_axis_off()
    left, whole = columns - column, columns + _GAP * (columns - 1)
    letters = min(int(_TEXT_WIDTH * (left + _GAP * (left - 1)) / whole), 80)
    said = [textwrap.fill(paragraph, letters) for paragraph in (_legend(labels), '', *notes)]
    text.text(0, 1, '\n'.join(said), color=_INK, fontsize=9, va='top')
    margin = 0.3 / sum(heights)
    figure.subplots_adjust(left=0.03, right=0.99, top=1 - margin, bottom=1.2 * margin)
    try:
        with whole_file(path, durable=False) as file:
            figure.savefig(file, format='png', metadata={'Software': None})
    except OSError as error:
        raise BagError(f'{path} cannot be written: {error.strerror or error}') from error


def _predicted(cells: Cells, valid: Mask, names: tuple[str, ...]) -> list[tuple[ImageRgb, str]]:
    probability = np.where(valid, cells, 0).astype(np.float32) / np.float32(100)
    return [
        (draw_bev(probability, valid, names), 'all classes'),
        *(
            (draw_bev(probability[i : i + 1], valid, names[i : i + 1]), names[i])
            for i in range(len(names))
        ),
        (_coverage(valid), f'coverage: {valid.mean():.1%} seen, the rest is -1'),
    ]


def _against_truth(
    cells: Cells, valid: Mask, names: tuple[str, ...], labels: LabelGrids
) -> list[tuple[ImageRgb, str]]:
    return [
        (draw_bev(labels.positive.astype(np.float32), labels.known, names), 'truth'),
        *(
            (
                agreement(cells[i], labels.positive[i], labels.hidden[i], valid & labels.known),
                f'{names[i]} against truth',
            )
            for i in range(len(names))
        ),
    ]


def _legend(labels: LabelGrids | None) -> str:
    text = 'Forward is up, the vehicle the red mark; ticks in metres.'
    if labels is None:
        return text
    text += ' Against truth, at 0.5: white hit, orange false, blue missed, grey unseen'
    if not labels.known.all():
        text += ' or unknown'
    if labels.hidden.any():
        text += '; violet: hardly visible objects (pale: hit)'
    return text + '.'


def camera_places(names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Return row and column by camera: around the vehicle where names tell, else in order.

    Of the six cameras that names tell of, those without an image have their place, too.
    """
    told = {name.lower().removeprefix('cam_').removeprefix('camera_'): name for name in names}
    order = list(names)
    if names and len(told) == len(names) and set(told) <= set(_LAYOUT):
        order = [told.get(name, name) for name in _LAYOUT]
    return {name: divmod(i, _IMAGES_BESIDE) for i, name in enumerate(order)}


def _draw_image(
    figure: Figure,
    rows: GridSpecFromSubplotSpec,
    at: tuple[int, int],
    image: ImageRgb | None,
    name: str,
) -> None:
    ax = figure.add_subplot(rows[at])
    ax.set_axis_off()
    title = name.replace('_', ' ')
    if image is None:
        ax.text(0.5, 0.5, 'no image', color=_INK, fontsize=12, ha='center', va='center')
    else:
        ax.imshow(image)
    ax.set_title(title, color=_INK, fontsize=10, pad=3)


def images_near(bag: Path, wanted_ns: int) -> dict[str, ImageRgb]:
    """Return the images of a synthetic drive nearest to a stamp, by camera.

    Args:
        bag: the drive's bag, with the default topics and cameras.
        wanted_ns: the stamp.
    """
    topics = {f'/camera/{name}/image_raw/compressed': name for name in _LAYOUT}
    best: dict[str, tuple[int, object]] = {}
    for topic, _, message in read_messages(bag, list(topics)):
        distance = abs(stamp_ns(message.header) - wanted_ns)
        name = topics[topic]
        if name not in best or distance < best[name][0]:
            best[name] = distance, message
    return {name: read_image(message) for name, (_, message) in best.items()}


def _coverage(valid: npt.NDArray[np.bool_]) -> ImageRgb:
    picture = np.full((*valid.shape, 3), _UNSEEN, np.uint8)
    picture[valid] = (129, 199, 132)
    return forward_up(picture)


def agreement(cells: Cells, positive: Mask, hidden: Mask, valid: Mask) -> ImageRgb:
    """Return where a class's grid and its truth agree, as a picture with x up.

    Args:
        cells: (y, x) as published.
        positive: (y, x) truth.
        hidden: (y, x), a part of `positive`: only through hardly visible objects.
        valid: (y, x) cells that are seen and known; the others are grey.
    """
    picture = np.full((*valid.shape, 3), _UNSEEN, np.uint8)
    picture[valid] = _SEEN
    predicted, visible = cells >= 50, positive & ~hidden
    picture[valid & predicted & visible] = _HIT
    picture[valid & predicted & ~positive] = _FALSE
    picture[valid & ~predicted & visible] = _MISSED
    picture[valid & predicted & hidden] = _HIDDEN_HIT
    picture[valid & ~predicted & hidden] = _HIDDEN_MISSED
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
