"""The tables of an evaluation as rows of text, for the terminal and for HTML alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from bev_training.data.sample import HIDDEN_UP_TO
from bev_training.metrics import CONVENTIONS, Scores, band_name

Rows: TypeAlias = tuple[list[str], list[list[str]]]  # head, rows

_COLUMNS = (
    (
        'visible',
        f'IoU at 0.5 in all known cells, without objects seen to {HIDDEN_UP_TO:.0%} or less',
    ),
    ('all', 'the same with all objects'),
    ('best, at', "'visible' at the threshold where it is best, and that threshold"),
)
_BASELINE_COLUMNS = (
    ('freq', 'to compare with best: how often the class is in each cell, whatever is seen there'),
    ('ground', 'to compare with best: the images projected on the ground, by colour and distance'),
    ('empty', 'predicting nothing scores 0.000 in every row'),
)
_MORE_COLUMNS = (
    ('seen', "'visible' in the cells that a camera sees: where the node publishes a value"),
    ('0-10 ...', "'visible' by distance from the vehicle, metres"),
    ('-', 'the truth does not have the class there'),
)
_BESIDE = {'frequency': 'freq', 'ground': 'ground'}  # baselines that have a column


def score_rows(scores: Scores, baselines: Mapping[str, Scores] | None = None) -> Rows:
    """Return the scores of all classes, a row each."""
    beside = {name: of for name, of in (baselines or {}).items() if name in _BESIDE}
    head = ['class', 'visible', 'all', 'best', 'at', *(_BESIDE[name] for name in beside), 'seen']
    head += [band_name(band).removesuffix(' m') for band in scores.bands]
    rows = []
    for name in scores.classes:
        threshold, best = scores.best(name)
        rows.append(
            [name, said(scores.iou(name)), said(scores.iou(name, 'all')), said(best)]
            + ['-' if math.isnan(threshold) else f'{threshold:.2f}']
            + [said(of.best(name)[1]) for of in beside.values()]
            + [said(scores.iou(name, region='seen'))]
            + [said(scores.iou(name, band=band)) for band in scores.bands]
        )
    return head, rows


def score_columns(
    scores: Scores, baselines: Mapping[str, Scores] | None = None
) -> list[tuple[str, str]]:
    """Return what the columns of `score_rows` are."""
    given = set(baselines or {})
    told = [
        (column, text)
        for column, text in _BASELINE_COLUMNS
        if column in {*given, *(_BESIDE.get(name) for name in given)}
    ]
    share = f'{scores.coverage():.1%} of the known cells are seen by a camera'
    return [*_COLUMNS, *told, *_MORE_COLUMNS, ('coverage', share)]


def fact_rows(
    name: str,
    by_value: Mapping[str, Scores],
    every: Scores | None = None,
    baselines: Mapping[str, Scores] | None = None,
) -> Rows:
    """Return IoU at 0.5 ('visible') by value of a fact, such as the weather; below it that of all
    samples, and of the baselines.
    """
    named = {value or '(unknown)': scores for value, scores in by_value.items()}
    named |= {} if every is None else {'all samples': every}
    named |= {f'{each}, all samples': of for each, of in (baselines or {}).items()}
    classes = next(iter(by_value.values())).classes
    return [name, 'samples', *classes], [
        [value, str(scores.samples), *(said(scores.iou(each)) for each in classes)]
        for value, scores in named.items()
    ]


def baseline_rows(scores: Scores, baselines: Mapping[str, Scores]) -> Rows:
    """Return the best IoU of the network and of each baseline by class, and the network's lead."""
    head = ['class', 'network', *baselines, 'lead']
    rows = []
    for name in scores.classes:
        own = scores.best(name)[1]
        others = [of.best(name)[1] for of in baselines.values()]
        lead = own - max(others, default=math.nan)
        rows.append(
            [name, said(own), *map(said, others), '-' if math.isnan(lead) else f'{lead:+.3f}']
        )
    return head, rows


def calibration_rows(scores: Scores) -> Rows:
    """Return how well the probabilities of each class are calibrated."""
    rows = []
    for name in scores.classes:
        of = scores.reliability(name)
        cells = of.cells.sum()
        expected, there = (
            float(np.nansum(each * of.cells) / cells) if cells else math.nan
            for each in (of.probability, of.share)
        )
        rows.append([name, said(of.ece(), 4), said(expected, 4), said(there, 4), f'{cells:d}'])
    return ['class', 'ECE', 'said', 'there', 'cells'], rows


CALIBRATION_COLUMNS = (
    ('ECE', 'expected calibration error: mean distance of what is said and what is there'),
    ('said, there', 'mean probability, and share of the cells that are of the class'),
    ('cells', "known, seen by a camera, without hidden objects ('visible')"),
)


def iou_line(scores: Scores) -> str:
    """Return IoU at 0.5 where a camera sees, by class: 'walkway 0.61, vehicle 0.30 (all 0.25)'.

    'all' is the other convention, where it differs.
    """
    told = []
    for name in scores.classes:
        visible, every = (
            said(scores.iou(name, convention, region='seen'), 2) for convention in CONVENTIONS
        )
        told.append(f'{name} {visible}' + ('' if every == visible else f' (all {every})'))
    return ', '.join(told)


def text_table(rows: Rows) -> str:
    """Return rows of text as columns, the first one to the left, the others to the right."""
    lines: Sequence[Sequence[str]] = [rows[0], *rows[1]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def text_columns(columns: Sequence[tuple[str, str]]) -> str:
    """Return what columns are, a line each."""
    return '\n'.join(f'  {column:12}{text}' for column, text in columns)


def said(value: float, digits: int = 3) -> str:
    """Return a score as text."""
    return '-' if math.isnan(value) else f'{value:.{digits}f}'
