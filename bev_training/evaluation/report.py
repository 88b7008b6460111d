"""What an evaluation says: JSON for machines, a table for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import textwrap
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
from bev_training.metrics import Scores, band_name

KIND = 'evaluation'
JSON_FILE, TEXT_FILE = f'{KIND}.json', f'{KIND}.txt'

_READING = (
    'Intersection over union, pooled over all samples. Columns: at 0.5 in all cells whose truth '
    f'is known (visible: objects seen to {HIDDEN_UP_TO:.0%} or less are left out; all: they count '
    'as missed where they are not predicted), at the best threshold, at 0.5 where a camera sees, '
    'and by distance from the vehicle (visible, at 0.5). "-": the truth does not have it.'
)


def evaluation_json(
    evaluation: Evaluation, *, data: Mapping[str, Any], command: Sequence[str]
) -> dict[str, Any]:
    """Return all of an evaluation as plain values.

    Args:
        evaluation: what came out.
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
        'checkpoint': checkpoint_json(evaluation.checkpoint),
        'run': run_json(
            command,
            device=evaluation.device,
            precision=evaluation.precision,
            seconds=evaluation.seconds,
        ),
    }


def checkpoint_json(loaded: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint is: path, SHA-256, card and settings."""
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
    said = ', '.join(f'{name} {value}' for name, value in data.items() if value and name != 'path')
    per_sample = evaluation.seconds / count
    parts = [
        f'{evaluation.checkpoint.path} on {data.get("path", "")}'
        f'{f" ({said})" if said else ""}: {plural(count, "sample")}, '
        f'{per_sample:.2f} s each on {evaluation.device} ({evaluation.precision})',
        f'Trained on: {evaluation.checkpoint.trained_on}',
        '',
        score_table(scores),
    ]
    for name, by_value in evaluation.by_fact.items():
        parts += ['', fact_table(name, by_value)]
    return '\n'.join([*parts, '', textwrap.fill(_READING, 98), ''])


def score_table(scores: Scores) -> str:
    """Return the scores of all classes, a line each."""
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
    coverage = f'coverage: a camera sees {scores.coverage():.1%} of the cells that are known'
    return f'{_table(rows)}\n{coverage}'


def fact_table(name: str, by_value: Mapping[str, Scores]) -> str:
    """Return IoU at 0.5 ('visible') by value of a fact, such as the weather."""
    classes = next(iter(by_value.values())).classes
    rows = [[name, 'samples', *classes]]
    for value, scores in by_value.items():
        rows.append([value or '(unknown)', str(scores.samples)])
        rows[-1] += [_said(scores.iou(each)) for each in classes]
    return _table(rows)


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    data: Mapping[str, Any],
    command: Sequence[str],
) -> None:
    """Write evaluation.txt and evaluation.json into a folder.

    Raises:
        BagError: they cannot be written.
    """
    described = evaluation_json(evaluation, data=data, command=command)
    text = evaluation_text(evaluation, data=data)
    for name, content in (
        (TEXT_FILE, text),
        (JSON_FILE, json.dumps(described, indent=1) + '\n'),
    ):
        try:
            write_whole(folder / name, content.encode())
        except OSError as error:
            raise BagError(f'{folder / name} cannot be written: {error.strerror}') from error


def _said(iou: float) -> str:
    return '-' if math.isnan(iou) else f'{iou:.3f}'


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
