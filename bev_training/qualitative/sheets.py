"""Pictures of samples: features as colours, and how alike they are to those of a chosen voxel."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.shapes import AnyArray, Array, ImageRgb
from bev_training.data.paths import whole_file
from bev_training.picture import camera_places, grid_panel
from bev_training.qualitative.color_mapping import ColorMapping
from bev_training.qualitative.sample_voxels import SampleVoxels, flat_views
from bev_training.qualitative.similarity import Chosen, similarity, similarity_colors
from bev_training.qualitative.voxel_drawing import draw_above, draw_outside, draw_voxels

_INK, _PAPER = '#e8eaed', '#17181c'
_DPI, _WIDTH_IN = 90, 18.0
_BESIDE = 3  # images
_IMAGE_PX, _OPACITY = 400, 0.65
_TITLE_IN, _TEXT_IN, _SCENE_IN = 0.3, 0.65, 6.9
_RING = (66, 255, 140)


def draw_features(
    path: Path, sample: SampleVoxels, mapping: ColorMapping, *, radius_m: float, notes: str
) -> None:
    """Draw a sample's images, its voxels over them, and its voxels from outside and from above.

    Args:
        path: PNG to write, whole or not at all.
        sample: what to draw; where the teacher was asked, it stands beside the network.
        mapping: colours of features.
        radius_m: of the view from outside.
        notes: a paragraph below.

    Raises:
        BagError: it cannot be written.
    """
    said = [('features', sample.features)]
    if sample.taught is not None:
        said = [('predicted features', sample.features), ("the teacher's", sample.taught)]
    colored = [(name, mapping.colors(features)) for name, features in said]
    rows = -(-len(camera_places(tuple(v.name for v in sample.view_set.views))) // _BESIDE)
    images_in = rows * (_WIDTH_IN / 2 / _BESIDE * 0.5625 + _TITLE_IN)
    heights = (images_in, *(_SCENE_IN for _ in colored))
    figure = Figure(figsize=(_WIDTH_IN, sum(heights) + _TEXT_IN), dpi=_DPI, facecolor=_PAPER)
    bands = figure.add_gridspec(len(heights), 1, height_ratios=heights, hspace=0.1)
    halves = bands[0].subgridspec(1, 2, wspace=0.02)
    _draw_images(figure, halves[0], sample, None)
    _draw_images(figure, halves[1], sample, colored[0][1])
    for band, (name, colors) in enumerate(colored):
        parts = bands[band + 1].subgridspec(1, 2, width_ratios=(1.58, 1), wspace=0.06)
        scene = draw_outside(sample.centers_m, sample.grid, colors, radius_m=radius_m)
        _show(figure, parts[0], scene, f'{name}, {radius_m:g} m around the vehicle')
        above = draw_above(sample.index_zyx, sample.grid, colors)
        title = f'{name} from above: the highest voxel of each column'
        grid_panel(figure.add_subplot(parts[1]), above, sample.grid, title)
    _finish(figure, path, f'{sample.key}   {notes}')


def draw_similarity(
    path: Path,
    sample: SampleVoxels,
    chosen: Sequence[Chosen],
    *,
    own: bool,
    radius_m: float,
    notes: str,
) -> None:
    """Draw how alike the features of a sample's voxels are to those of chosen ones, a row each.

    Args:
        path: PNG to write, whole or not at all.
        sample: what to draw.
        chosen: voxels, of this sample or of another one.
        own: whether they are of this sample, and so marked.
        radius_m: of the view from outside.
        notes: a paragraph below.

    Raises:
        BagError: it cannot be written.
    """
    height_in = len(chosen) * _SCENE_IN + _TEXT_IN
    figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, facecolor=_PAPER)
    bands = figure.add_gridspec(len(chosen), 1, hspace=0.08)
    for row, voxel in enumerate(chosen):
        cosine = similarity(sample.features, voxel.feature)
        low = color_floor(cosine)
        colors = similarity_colors(cosine, low)
        at_m = voxel.center_m if own else None
        parts = bands[row].subgridspec(1, 2, width_ratios=(1.45, 1), wspace=0.02)
        scene = draw_outside(
            sample.centers_m, sample.grid, colors, radius_m=radius_m, marked_m=at_m
        )
        where = ', '.join(f'{value:.2f}' for value in voxel.center_m)
        title = f'like the voxel {voxel.name} at ({where}) m'
        ax = _show(figure, parts[0], scene, title if own else f'{title} of the first sample')
        _color_bar(figure, ax, low)
        beside = parts[1].subgridspec(2, 1, height_ratios=(1.15, 1), hspace=0.12)
        above = draw_above(sample.index_zyx, sample.grid, colors)
        panel = figure.add_subplot(beside[0])
        grid_panel(panel, above, sample.grid, 'from above')
        if at_m is not None:
            # Of the picture alone: a circle at its rim would make the panel larger.
            x_limits, y_limits = panel.get_xlim(), panel.get_ylim()
            panel.plot(at_m[1], at_m[0], 'o', mfc='none', mec=np.divide(_RING, 255), ms=9)
            panel.set(xlim=x_limits, ylim=y_limits)
        _draw_best_image(figure, beside[1], sample, colors, cosine, at_m)
    _finish(figure, path, f'{sample.key}   {notes}')


def draw_overview(
    path: Path, samples: Sequence[SampleVoxels], mapping: ColorMapping, *, radius_m: float
) -> None:
    """Draw several samples below each other: images at the left, voxels in the same colours for
    all of them at the right.

    Args:
        path: PNG to write, whole or not at all.
        samples: what to draw.
        mapping: colours of features, one for all.
        radius_m: of the view from outside.

    Raises:
        BagError: it cannot be written.
    """
    row_in = 4.9
    figure = Figure(figsize=(_WIDTH_IN, row_in * len(samples) + 0.4), dpi=_DPI, facecolor=_PAPER)
    bands = figure.add_gridspec(len(samples), 1, hspace=0.06)
    for row, sample in enumerate(samples):
        parts = bands[row].subgridspec(1, 2, width_ratios=(1.25, 1), wspace=0.02)
        _draw_images(figure, parts[0], sample, None)
        colors = mapping.colors(sample.features)
        scene = draw_outside(sample.centers_m, sample.grid, colors, radius_m=radius_m)
        _show(figure, parts[1], scene, sample.key)
    _finish(figure, path, 'The same colour is the same feature, in all of these samples.')


def color_floor(cosine: AnyArray) -> float:
    """Return the cosine that is drawn darkest: 2 % of all are below it."""
    return float(np.percentile(cosine, 2)) if len(cosine) else 0.0


def _draw_images(
    figure: Figure, spec: SubplotSpec, sample: SampleVoxels, colors: AnyArray | None
) -> None:
    """Draw the images as they lie around the vehicle, with coloured voxels over them."""
    views = {view.name: view for view in flat_views(sample.view_set, _IMAGE_PX)}
    places = camera_places(tuple(views))
    rows = max((row for row, _ in places.values()), default=0) + 1
    cells = spec.subgridspec(rows, _BESIDE, hspace=0.12, wspace=0.015)
    for name, (row, column) in places.items():
        if name not in views:
            continue
        view = views[name]
        image = view.image
        if colors is not None:
            image = draw_voxels(
                image, view.camera, view.ego_T_cam, sample.centers_m, sample.size_m, colors,
                opacity=_OPACITY,
            )  # fmt: skip
        _show(figure, cells[row, column], image, name.replace('_', ' '))


def _draw_best_image(
    figure: Figure,
    spec: SubplotSpec,
    sample: SampleVoxels,
    colors: AnyArray,
    cosine: AnyArray,
    at_m: Array | None,
) -> None:
    """Draw the image in whose middle the chosen voxel is; of another sample's voxel, the one with
    the most that is like it.
    """
    views = flat_views(sample.view_set, 2 * _IMAGE_PX)
    alike = np.ones(len(cosine), bool) if not len(cosine) else cosine >= np.quantile(cosine, 0.98)
    wanted = sample.centers_m[alike] if at_m is None else at_m[None]
    scores = []
    for view in views:
        points = rigid.transform_points(rigid.inverse(view.ego_T_cam), wanted)
        uv, seen = view.camera.project(points)
        off = np.abs(uv[:, 0] / view.camera.size_px[0] - 0.5)
        scores.append(float((seen * (1.0 - off)).sum()))
    best = views[int(np.argmax(scores))]
    painted = draw_voxels(
        best.image, best.camera, best.ego_T_cam, sample.centers_m, sample.size_m, colors,
        opacity=_OPACITY,
    )  # fmt: skip
    ax = _show(figure, spec, painted, best.name.replace('_', ' '))
    if at_m is None:
        return
    uv, seen = best.camera.project(rigid.transform_points(rigid.inverse(best.ego_T_cam), wanted))
    if seen[0]:
        ax.plot(*uv[0], 'o', mfc='none', mec=np.divide(_RING, 255), ms=13, mew=1.8)


def _color_bar(figure: Figure, ax: Axes, low: float) -> None:
    """Put the colours of cosines, from `low` to 1, into a corner of a picture."""
    steps = np.linspace(0, 1, 256)
    strip = ListedColormap(similarity_colors(steps, 0.0) / 255.0)(steps)[None]
    inset = ax.inset_axes((0.02, 0.92, 0.24, 0.025))
    inset.imshow(strip, aspect='auto', extent=(low, 1, 0, 1))
    inset.set_yticks([])
    inset.tick_params(colors=_INK, labelsize=8, length=2)
    inset.set_title('cosine', color=_INK, fontsize=8, pad=2)


def _show(figure: Figure, spec: SubplotSpec, picture: ImageRgb, title: str) -> Axes:
    ax = figure.add_subplot(spec)
    ax.imshow(picture)
    ax.set_axis_off()
    ax.set_title(title, color=_INK, fontsize=10, pad=3)
    return ax


def _finish(figure: Figure, path: Path, text: str) -> None:
    """Write a figure.

    Raises:
        BagError: it cannot be written.
    """
    height_in = figure.get_figheight()
    figure.subplots_adjust(
        left=0.01, right=0.985, top=1 - 0.3 / height_in, bottom=(_TEXT_IN - 0.05) / height_in
    )
    figure.text(0.012, 0.1 / height_in, textwrap.fill(text, 290), color=_INK, fontsize=9)
    try:
        with whole_file(path, durable=False) as file:
            figure.savefig(file, format='png', metadata={'Software': None})
    except OSError as error:
        raise BagError(f'{path} cannot be written: {error.strerror or error}') from error
