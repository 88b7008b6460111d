"""Plots of an evaluation as SVG: each one small, so that a page of any width shows them at full
size, beside or below each other.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from bev_training.evaluation.comparison import Comparison
from bev_training.evaluation.corruptions import SEVERITIES
from bev_training.evaluation.robustness import Robustness
from bev_training.inspection.drawing import ACCENT, COLOURS, INK, QUIET, SOFT, style
from bev_training.metrics import Scores, band_name

_WIDTH_IN, _HEIGHT_IN = 3.6, 2.9  # an inch of an SVG is 96 pixels of a page, and 72 points
_LINES = {'network': (ACCENT, '-'), 'frequency': (QUIET, '--'), 'ground': (COLOURS[1], '-.')}
_MARKS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')


def by_threshold(name: str, scores: Mapping[str, Scores]) -> bytes:
    """Return IoU of a class over the threshold, a line for each of `scores`."""

    def paint(ax: Axes) -> None:
        for who, of in scores.items():
            colour, line = _LINES.get(who, (INK, ':'))
            iou = [of.iou(name, threshold=t) for t in of.thresholds]
            ax.plot(of.thresholds, iou, line, color=colour, label=who, linewidth=1.8)
        ax.set(xlim=(0, 1), xlabel='threshold', ylabel='IoU')
        ax.set_ylim(bottom=0)
        _legend(ax)

    return _svg(name, paint)


def by_distance(name: str, scores: Mapping[str, Scores]) -> bytes:
    """Return IoU of a class by distance, each of `scores` at the threshold that is best for it."""
    bands = next(iter(scores.values())).bands

    def paint(ax: Axes) -> None:
        wide = 0.8 / len(scores)
        for i, (who, of) in enumerate(scores.items()):
            threshold, _ = of.best(name)
            iou = [of.iou(name, threshold=threshold, band=band) for band in bands]
            at = np.arange(len(bands)) + (i - (len(scores) - 1) / 2) * wide
            ax.bar(at, np.nan_to_num(iou), wide, color=_LINES.get(who, (INK, ''))[0], label=who)
        ax.set_xticks(range(len(bands)), [band_name(band).removesuffix(' m') for band in bands])
        ax.set(xlabel='distance from the vehicle, m', ylabel='IoU')
        top = ax.get_ylim()[1] * 1.35  # room for the legend, without figures that IoU cannot have
        ax.set_yticks([tick for tick in ax.get_yticks() if tick <= 1])
        ax.set_ylim(0, top)
        _legend(ax)

    return _svg(name, paint)


def reliability(name: str, scores: Scores) -> bytes:
    """Return the share of a class's cells over what is said of them; below it how many there are.

    On the diagonal, probabilities mean what they say.
    """
    of = scores.reliability(name)
    figure = _figure(f'{name}: ECE {scores.ece(name):.3f}')
    ax, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    figure.subplots_adjust(left=0.16, right=0.97, top=0.89, bottom=0.17, hspace=0.12)
    for each in (ax, below):
        style(each)
    ax.plot([0, 1], [0, 1], color=QUIET, linewidth=1)
    there = of.cells > 0
    ax.plot(of.probability[there], of.share[there], 'o-', color=ACCENT, markersize=4)
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel='share that is true')
    below.bar(
        of.bounds[:, 0], of.cells, of.bounds[:, 1] - of.bounds[:, 0], align='edge', color=SOFT
    )
    below.set_yscale('log', nonpositive='clip')
    below.set_ylim(bottom=0.5)
    below.yaxis.set_major_locator(LogLocator(numticks=3))
    below.yaxis.set_minor_locator(NullLocator())  # they take longer than all else
    below.set(ylabel='cells', xlabel='probability that is said')
    return _bytes(figure)


def by_severity(name: str, of: Robustness) -> bytes:
    """Return IoU of a class over how strong corruptions are, a line for each."""

    def paint(ax: Axes) -> None:
        ax.axhline(of.clean.iou(name), color=QUIET, linewidth=1, linestyle='--', label='none')
        for i, (corruption, by_strength) in enumerate(of.corrupted.items()):
            ax.plot(
                [*by_strength],
                [each.iou(name) for each in by_strength.values()],
                color=COLOURS[i % len(COLOURS)],
                marker=_MARKS[i % len(_MARKS)],
                markersize=5,
                label=corruption,
            )
        strengths = sorted({s for by_strength in of.corrupted.values() for s in by_strength})
        ax.set_xticks(strengths, [SEVERITIES[s] for s in strengths])
        ax.set(ylabel='IoU')
        ax.set_ylim(bottom=0)
        ax.margins(x=0.1)
        ax.legend(fontsize=8, ncols=2, loc='upper center', bbox_to_anchor=(0.45, -0.1))
        ax.figure.subplots_adjust(top=0.93, bottom=0.36)

    return _svg(name, paint, taller_in=1.0)


def by_lost_cameras(of: Robustness) -> bytes:
    """Return IoU over the number of missing cameras, a line for each class: where a camera still
    sees, and dashed in all known cells.
    """

    def paint(ax: Axes) -> None:
        for i, name in enumerate(of.clean.classes):
            for region, line in (('seen', '-'), ('known', '--')):
                ax.plot(
                    [*of.lost],
                    [each.iou(name, region=region) for each in of.lost.values()],
                    line,
                    color=COLOURS[i % len(COLOURS)],
                    marker=_MARKS[i % len(_MARKS)] if region == 'seen' else '',
                    markersize=5,
                    label=name if region == 'seen' else None,
                )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel='cameras lost', ylabel='IoU')
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=8, ncols=2, loc='upper center', bbox_to_anchor=(0.45, -0.2))
        ax.figure.subplots_adjust(top=0.93, bottom=0.42)

    return _svg('all classes', paint, taller_in=1.3)


def differences(comparison: Comparison) -> bytes:
    """Return the differences of two checkpoints with their intervals, a line for each class."""
    there = {n: d for n, d in comparison.by_class.items() if not math.isnan(d.difference)}

    def paint(ax: Axes) -> None:
        for i, each in enumerate(there.values()):
            colour = ACCENT if each.clear else QUIET
            ax.plot([each.low, each.high], [i, i], color=colour, linewidth=2.5)
            ax.plot(each.difference, i, 'o', color=colour)
        ax.axvline(0, color=INK, linewidth=1)
        ax.set_yticks(range(len(there)), [*there])
        ax.set_ylim(len(there) - 0.5, -0.5)
        ax.set(xlabel='IoU of this one less that of the other')
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.figure.subplots_adjust(left=0.36, top=0.96, bottom=0.2)

    return _svg('', paint, taller_in=0.25 * len(there) - 1.7)


def _legend(ax: Axes) -> None:
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend(fontsize=8, framealpha=0.7)


def _figure(title: str, taller_in: float = 0.0) -> Figure:
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN + taller_in))
    figure.suptitle(title, fontsize=10, color=INK, y=0.98)
    return figure


def _svg(title: str, paint: Callable[[Axes], None], taller_in: float = 0.0) -> bytes:
    figure = _figure(title, taller_in)
    figure.subplots_adjust(left=0.16, right=0.97, top=0.89, bottom=0.17)
    ax = figure.add_subplot()
    style(ax)
    paint(ax)
    return _bytes(figure)


def _bytes(figure: Figure) -> bytes:
    """Return a figure as SVG; the same figure gives the same bytes."""
    out = io.BytesIO()
    # Text stays text: small, sharp, and in the reader's own fonts.
    with mpl.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'bev'}):
        figure.savefig(out, format='svg', metadata={'Date': None, 'Creator': None})
    return out.getvalue()
