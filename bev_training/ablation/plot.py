"""One picture of a grid's results: for every table rows of plots, one per network and score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bev_training.ablation.plan import Cell
from bev_training.ablation.results import Results, Spread
from bev_training.ablation.settings import THRESHOLDS, Table
from bev_training.inspection.drawing import COLOURS, GRID, INK, png, style

_WIDTH_IN, _HEIGHT_IN = 3.7, 2.7
_COLUMNS = 3  # a table of more scores goes on in the next row
_MARKS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')


def draw_results(results: Results) -> bytes:
    """Return a PNG: a dot per run, and the mean over seeds with its standard deviation.

    Several shares of labels are a line over them; of one share, the pretrainings stand beside
    each other. A pretraining has the same colour everywhere.
    """
    grid = results.grid
    rows = [
        (title, table, network, table.scores[i : i + _COLUMNS])
        for title, table in grid.tables.items()
        for network in table.networks
        for i in range(0, len(table.scores), _COLUMNS)
    ]
    wide = max(len(scores) for *_, scores in rows)
    size = (_WIDTH_IN * wide + 1.8, _HEIGHT_IN * len(rows) + 0.3)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(len(rows), wide, squeeze=False)
    for (title, table, network, scores), line in zip(rows, axes, strict=True):
        for ax in line[len(scores) :]:
            ax.set_axis_off()
        for ax, score in zip(line, scores, strict=False):
            _panel(ax, results, table, network, score)
            where = 'at 0.5' if table.threshold == '0.5' else 'at the best threshold'
            ax.set_title(f'{network}: {score} {where}', fontsize=9, color=INK)
        line[0].set_ylabel(f'{title}\nIoU, %')
    lines = [table for table in grid.tables.values() if len(table.labels) > 1]
    handles = []  # of lines; points have their names below them
    for name in grid.pretrainings:
        if any(name in table.pretrainings for table in lines):
            colour, mark = _look(results, name)
            handles.append(Line2D([], [], color=colour, marker=mark, label=name))
    if handles:
        figure.legend(
            handles=handles,
            loc='outside right upper',
            fontsize=8.5,
            labelcolor=INK,
            edgecolor=GRID,
        )
    return png(figure)


def _panel(ax: Axes, results: Results, table: Table, network: str, score: str) -> None:
    style(ax)
    kind = THRESHOLDS[table.threshold]
    names = [name for name in table.pretrainings if results.grid.has(network, name)]
    shares = sorted(table.labels)
    for i, name in enumerate(names):
        spreads = [results.score(Cell(network, name, share), score, kind) for share in shares]
        at: Sequence[float] = [i] if len(shares) == 1 else shares
        if len(shares) > 1:  # side by side, or the last one hides all others
            at = [share * 1.06 ** (i - (len(names) - 1) / 2) for share in shares]
        _draw(ax, at, spreads, *_look(results, name))
    if len(shares) > 1:
        ax.set_xscale('log')
        ax.set_xticks(shares, [f'{share:g} %' for share in shares])
        ax.set_xticks([], minor=True)
        ax.set_xlabel('labelled samples')
    else:
        ax.set_xticks(range(len(names)), names, rotation=25, ha='right')
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_xlabel(f'pretraining, then {shares[0]:g} % of the labels')


def _draw(
    ax: Axes, at: Sequence[float], spreads: Sequence[Spread], colour: str, mark: str
) -> None:
    known = [(x, spread) for x, spread in zip(at, spreads, strict=True) if spread.by_seed]
    for x, spread in known:
        values = 100 * np.array(list(spread.by_seed.values()))
        ax.plot([x] * len(values), values, '.', color=colour, alpha=0.4, markersize=4)
    means = [100 * spread.mean for _, spread in known]
    stds = [100 * np.nan_to_num(spread.std) for _, spread in known]
    ax.errorbar(
        [x for x, _ in known], means, stds, color=colour, marker=mark, markersize=5,
        linewidth=1.6, elinewidth=1, capsize=2,
    )  # fmt: skip


def _look(results: Results, pretraining: str) -> tuple[str, str]:
    i = list(results.grid.pretrainings).index(pretraining)
    return COLOURS[i % len(COLOURS)], _MARKS[i // len(COLOURS) % len(_MARKS)]
