"""How plots of reports look, and how they become PNG."""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

INK, QUIET, GRID = '#202124', '#9aa0a6', '#e4e6e9'
ACCENT, SOFT, BAD = '#2a6fbb', '#8db3de', '#d33f2f'
COLOURS = (
    '#2a6fbb', '#e08a1e', '#2f9e5f', '#8e5bb5', '#17a2b8', '#c0508a', '#7a6a53', '#6b7280',
)  # fmt: skip
_DPI = 110


def draw(size_in: tuple[float, float], paint: Callable[[Axes], None]) -> bytes:
    """Return a PNG with one set of axes."""
    figure = Figure(figsize=size_in, dpi=_DPI, layout='constrained')
    ax = figure.add_subplot()
    style(ax)
    paint(ax)
    return png(figure)


def style(ax: Axes) -> None:
    """Make axes light: no box, thin grid behind."""
    for side, spine in ax.spines.items():
        spine.set_visible(side in ('left', 'bottom'))
        spine.set_color(QUIET)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=INK, labelsize=8.5, length=3)
    ax.xaxis.label.set(color=INK, fontsize=9)
    ax.yaxis.label.set(color=INK, fontsize=9)


def bar(colours: Colorbar, label: str) -> None:
    """Make a bar of colours look like axes."""
    colours.set_label(label, color=INK, fontsize=9)
    colours.ax.tick_params(colors=INK, labelsize=8.5, length=3)
    colours.outline.set_visible(False)  # type: ignore[operator]


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    figure.draw_without_rendering()  # equal scales change ticks, and ticks the layout
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=_DPI, metadata={'Software': None})
    return out.getvalue()
