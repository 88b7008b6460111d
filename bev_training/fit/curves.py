"""One picture of a run: its loss and the scores of its validations against the steps."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bev_perception.pictures import class_color
from bev_training.data.paths import write_whole
from bev_training.fit.table import read_columns

_INK, _PAPER, _LINE = '#e8eaed', '#17181c', '#33353c'


def draw_curves(
    path: Path, table: Path, scores: tuple[str, ...], title: str, *, iou: bool
) -> None:
    """Draw the learning curve.

    Args:
        path: PNG to write.
        table: metrics.csv of the run.
        scores: names of what a validation finds, such as the network's classes.
        title: what was trained.
        iou: whether the scores are IoU at 0.5, of which the highest is told, else the last.

    Raises:
        OSError: it cannot be written.
    """
    columns = read_columns(table)
    scored = [name for name in scores if columns.get(f'val_{name}')]
    figure = Figure(figsize=(13 if scored else 7, 4.6), dpi=110, facecolor=_PAPER)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    _draw_loss(axes[0], columns)
    if scored:
        for name in scored:
            # Colours of areas are dark: they are made to have lines upon them.
            color = 0.4 + 0.6 * np.array(class_color(name, scores.index(name))) / 255
            steps, values = zip(*columns[f'val_{name}'], strict=True)
            told = max(values) if iou else values[-1]
            axes[1].plot(steps, values, marker='o', ms=3, color=color, label=f'{name} {told:.3f}')
        what, which = ('validation IoU at 0.5', 'highest') if iou else ('validation', 'last')
        _style(axes[1], f'{what}; {which} in the legend')
        axes[1].set_ylim(0, 1)
        axes[1].set_xlim(axes[0].get_xlim())  # the same steps below both
    figure.suptitle(title, color=_INK, fontsize=10)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    write_whole(path, buffer.getvalue())


def _draw_loss(axes: Axes, columns: dict[str, list[tuple[int, float]]]) -> None:
    """Draw each step faintly, and the mean of the steps around it."""
    if columns.get('loss'):
        steps, loss = (np.array(values) for values in zip(*columns['loss'], strict=True))
        dot = 'o' if len(loss) < 50 else ''  # a single value makes no line
        axes.plot(steps, loss, color='#5c6370', lw=0.6, marker=dot, ms=3)
        width = max(1, len(loss) // 50)
        total = np.concatenate([[0], loss.cumsum()])
        low = np.maximum(np.arange(len(loss)) - width, 0)
        high = np.minimum(np.arange(len(loss)) + width + 1, len(loss))
        smooth = (total[high] - total[low]) / (high - low)
        label = f'loss {smooth[-1]:.4g}'
        axes.plot(steps, smooth, color='#8ab4f8', lw=1.6, marker=dot, ms=3, label=label)
        if loss.min() > 0 and loss.max() > 20 * loss.min():
            axes.set_yscale('log')
    _style(axes, 'training loss of each step (grey), and the mean around it (blue)')


def _style(axes: Axes, title: str) -> None:
    axes.set_facecolor(_PAPER)
    axes.set_title(title, color=_INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel('optimiser step', color=_INK, fontsize=8)
    axes.tick_params(colors=_INK, which='both', labelsize=8)
    axes.grid(color=_LINE, lw=0.5)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, facecolor=_PAPER, edgecolor=_LINE, labelcolor=_INK)
