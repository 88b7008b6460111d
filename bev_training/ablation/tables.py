"""Tables of a grid's results as Markdown, in the manner of papers: IoU in percent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from bev_training.ablation.plan import Cell
from bev_training.ablation.results import Results, Spread
from bev_training.ablation.settings import DIMENSIONS, THRESHOLDS, Table

_HEADS = {
    'networks': 'network',
    'pretrainings': 'pretraining',
    'scores': 'classes',
    'labels': 'labels',
}
_NOTHING = '–'


def text_tables(results: Results) -> str:
    """Return all tables, and what the figures in them are."""
    seeds = results.grid.seeds
    parts = [_table(results, title, table) for title, table in results.grid.tables.items()]
    if results.failed:
        lines = [f'- {said}: {why}' for said, why in results.failed.items()]
        parts.append('\n'.join(['## Failed', '', *lines]))
    said = [f'IoU in % on the validation data, {len(seeds)} seed{"s" * (len(seeds) > 1)}']
    if len(seeds) > 1:
        said[0] = f'{said[0]}: mean ± standard deviation'
    if results.grid.baseline is not None and len(results.grid.pretrainings) > 1:
        said.append(f'in brackets what is gained over {results.grid.baseline}, seed by seed')
    if any('map' in table.scores for table in results.grid.tables.values()):
        said.append('map is the mean of all classes that are no objects')
    if results.grid.pretrain_seed is not None:
        said.append('all seeds start from one pretraining, which the deviation does not include')
    total, done = len(results.plan.runs), len(results.outcomes) - len(results.failed)
    if done < total:
        said.append(f'so far {done} of {total} runs are done')
    return '\n\n'.join(['; '.join(said) + '.', *parts]) + '\n'


def _table(results: Results, title: str, table: Table) -> str:
    wanted: dict[str, Sequence[Any]] = {
        'networks': table.networks,
        'pretrainings': table.pretrainings,
        'scores': table.scores,
        'labels': table.labels,
    }
    across = [name for name in DIMENSIONS if name not in table.rows]
    columns = list(itertools.product(*(wanted[name] for name in across)))
    telling = [i for i, name in enumerate(across) if len(wanted[name]) > 1] or [
        *range(len(across))
    ]
    heads = [' '.join(_said(across[i], column[i]) for i in telling) or 'IoU' for column in columns]
    lines = [[*(_HEADS[name] for name in table.rows), *heads]]
    lines.append(['---'] * len(lines[0]))
    before: tuple[str, ...] = ()
    for row in itertools.product(*(wanted[name] for name in table.rows)):
        names = tuple(_said(name, value) for name, value in zip(table.rows, row, strict=True))
        cells = []
        for column in columns:
            at = dict(zip((*table.rows, *across), (*row, *column), strict=True))
            cells.append(_cell(results, at, THRESHOLDS[table.threshold]))
        if all(cell == '' for cell in cells):  # a network that is not pretrained in this way
            continue
        lines.append([*_without_repeats(names, before), *(cell or _NOTHING for cell in cells)])
        before = names
    where = {'0.5': '0.5', 'best': 'its best threshold on the validation data'}[table.threshold]
    few = {'networks': results.grid.networks, 'pretrainings': results.grid.pretrainings}
    only = [
        _said(name, columns[0][i])
        for i, name in enumerate(across)
        if i not in telling and len(few.get(name, 'several')) > 1
    ]
    notes = '; '.join([f'Each class at {where}', *only])
    body = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    return f'## {title}\n\n{notes}.\n\n{body}'


def _without_repeats(names: tuple[str, ...], before: tuple[str, ...]) -> list[str]:
    """Leave out what the row above says already; not the last name."""
    shown = list(names)
    for i, name in enumerate(names[:-1]):
        if before[i : i + 1] != (name,):
            break
        shown[i] = ''
    return shown


def _cell(results: Results, at: dict[str, Any], kind: str) -> str:
    """Return what is known, '' where there is nothing to know."""
    if not results.grid.has(at['networks'], at['pretrainings']):
        return ''
    cell = Cell(at['networks'], at['pretrainings'], at['labels'])
    score = results.score(cell, at['scores'], kind)
    gain = results.gain(cell, at['scores'], kind)
    if math.isnan(score.mean):
        return _NOTHING
    text = f'{100 * score.mean:.1f}{_spread(score)}'
    if gain is not None and not math.isnan(gain.mean):
        text += f' ({100 * gain.mean:+.1f}{_spread(gain)})'
    missing = len(results.grid.seeds) - len(score.by_seed)
    return f'{text} [{len(score.by_seed)} of {len(results.grid.seeds)}]' if missing else text


def _spread(score: Spread) -> str:
    return '' if math.isnan(score.std) else f' ± {100 * score.std:.1f}'


def _said(dimension: str, value: Any) -> str:
    return f'{value:g} %' if dimension == 'labels' else str(value).replace('|', '\\|')
