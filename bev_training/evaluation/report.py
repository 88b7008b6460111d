"""What an evaluation says: JSON for machines, a table for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bev_perception.errors import BagError
from bev_perception.model.checkpoint import Checkpoint
from bev_training.data.paths import write_whole
from bev_training.data.sample import HIDDEN_UP_TO
from bev_training.evaluation.evaluate import Evaluation
from bev_training.inspection.findings import plural
from bev_training.metrics import CONVENTIONS, Scores, band_name

KIND = 'evaluation'
JSON_FILE, TEXT_FILE = f'{KIND}.json', f'{KIND}.txt'

_READING = (
    (
        'visible',
        f'IoU at 0.5 in all known cells, without objects seen to {HIDDEN_UP_TO:.0%} or less',
    ),
    ('all', 'the same with all objects'),
    ('best, at', "'visible' at the threshold where it is best, and that threshold"),
    ('seen', "'visible' in the cells that a camera sees: where the node publishes a value"),
    ('0-10 m ...', "'visible' by distance from the vehicle"),
    ('-', 'the truth does not have the class there'),
)


def evaluation_json(
    evaluation: Evaluation,
    *,
    checkpoint: Mapping[str, Any],
    data: Mapping[str, Any],
    command: Sequence[str],
) -> dict[str, Any]:
    """Return all of an evaluation as plain values.

    {'kind': 'evaluation',
     'scores': see `Scores.as_json`,
     'by_fact': {'weather': {'rain': as 'scores', ...}, ...}, '' where a sample lacks the fact,
     'data': `data` and the number of samples,
     'checkpoint': see `checkpoint_json`,
     'run': see `run_json`}

    Args:
        evaluation: what came out.
        checkpoint: what `checkpoint_json` returned when it was loaded.
        data: what is said of the data: path, split, ...
        command: words of the command line.
    """
    return {
        'kind': KIND,
        'scores': evaluation.scores.as_json(),
        'by_fact': {
            name: {value: scores.as_json() for value, scores in by_value.items()}
            for name, by_value in evaluation.by_fact.items()
        },
        'data': {**data, 'samples': len(evaluation.indices)},
        'checkpoint': dict(checkpoint),
        'run': run_json(
            command,
            device=evaluation.device,
            precision=evaluation.precision,
            seconds=evaluation.seconds,
        ),
    }


def checkpoint_json(loaded: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint is: path, SHA-256, card and settings.

    To be asked as soon as it is loaded: a training that goes on replaces the file.
    """
    return {
        'path': str(loaded.path),
        'sha256': hashlib.sha256(loaded.path.read_bytes()).hexdigest(),
        'card': dict(loaded.card),
        'config': dataclasses.asdict(loaded.model.config),
    }


def run_json(
    command: Sequence[str], *, device: str, precision: str, seconds: float
) -> dict[str, Any]:
    """Return what is known of a run: command, versions, device and time."""
    return {
        'command': list(command),
        'ended': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'seconds': round(seconds, 2),
        'device': device,
        'precision': precision,
        'versions': {
            'bev_perception': version('bev_perception'),
            'torch': torch.__version__,
            'python': platform.python_version(),
        },
    }


def evaluation_text(evaluation: Evaluation, *, data: Mapping[str, Any]) -> str:
    """Return an evaluation as a table."""
    count, scores = len(evaluation.indices), evaluation.scores
    told = [f'{name} {data[name]}' for name in ('split', 'version') if data.get(name)]
    told.append(plural(count, 'sample') + (f' of {data["of"]}' if 'of' in data else ''))
    per_sample = evaluation.seconds / count
    parts = [
        f'{evaluation.checkpoint.path} on {data.get("path", "")}: {", ".join(told)}, '
        f'{per_sample:.2f} s each on {evaluation.device} ({evaluation.precision})',
        f'Trained on: {evaluation.checkpoint.trained_on}',
        '',
        score_table(scores),
    ]
    for name, by_value in evaluation.by_fact.items():
        parts += ['', fact_table(name, by_value)]
    return '\n'.join([*parts, ''])


def score_table(scores: Scores) -> str:
    """Return the scores of all classes, a line each, and what the columns are."""
    rows = [
        ['class', 'visible', 'all', 'best', 'at', 'seen']
        + [band_name(band) for band in scores.bands]
    ]
    for name in scores.classes:
        threshold, best = scores.best(name)
        rows.append(
            [name, _said(scores.iou(name)), _said(scores.iou(name, 'all')), _said(best)]
            + ['-' if math.isnan(threshold) else f'{threshold:.2f}']
            + [_said(scores.iou(name, region='seen'))]
            + [_said(scores.iou(name, band=band)) for band in scores.bands]
        )
    share = f'{scores.coverage():.1%} of the known cells are seen by a camera'
    reading = '\n'.join(f'  {column:12}{said}' for column, said in _READING)
    return f'{_table(rows)}\n\n{reading}\n  {"coverage":12}{share}'


def fact_table(name: str, by_value: Mapping[str, Scores]) -> str:
    """Return IoU at 0.5 ('visible') by value of a fact, such as the weather."""
    classes = next(iter(by_value.values())).classes
    rows = [[name, 'samples', *classes]]
    for value, scores in by_value.items():
        rows.append([value or '(unknown)', str(scores.samples)])
        rows[-1] += [_said(scores.iou(each)) for each in classes]
    return f"IoU ('visible', at 0.5) by {name}\n{_table(rows)}"


def iou_line(scores: Scores) -> str:
    """Return IoU at 0.5 where a camera sees, by class: 'walkway 0.61, vehicle 0.30 (all 0.25)'.

    'all' is the other convention, where it differs.
    """
    said = []
    for name in scores.classes:
        visible, every = (
            _said(scores.iou(name, convention, region='seen'), 2) for convention in CONVENTIONS
        )
        said.append(f'{name} {visible}' + ('' if every == visible else f' (all {every})'))
    return ', '.join(said)


def write_report(folder: Path, kind: str, described: Mapping[str, Any], text: str) -> None:
    """Write KIND.txt and KIND.json into a folder.

    Raises:
        BagError: they cannot be written.
    """
    for name, content in (
        (f'{kind}.txt', text),
        (f'{kind}.json', json.dumps(described, indent=1) + '\n'),
    ):
        try:
            write_whole(folder / name, content.encode())
        except OSError as error:
            raise BagError(f'{folder / name} cannot be written: {error.strerror}') from error


def _said(iou: float, digits: int = 3) -> str:
    return '-' if math.isnan(iou) else f'{iou:.{digits}f}'


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as columns, the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
