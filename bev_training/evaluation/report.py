"""What an evaluation says: JSON for machines, a table for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch

from bev_perception.errors import BagError
from bev_perception.model.checkpoint import Checkpoint
from bev_training.data.paths import write_whole
from bev_training.evaluation import report_tables as tables
from bev_training.evaluation.comparison import Comparison
from bev_training.evaluation.corruption_error import MeasuredRobustness
from bev_training.evaluation.evaluate import Evaluation
from bev_training.inspection.findings import plural
from bev_training.metrics import Scores

KIND = 'evaluation'
JSON_FILE, TEXT_FILE, HTML_FILE = f'{KIND}.json', f'{KIND}.txt', 'report.html'


def evaluation_json(
    evaluation: Evaluation,
    *,
    checkpoint: Mapping[str, Any],
    data: Mapping[str, Any],
    command: Sequence[str],
    comparison: Comparison | None = None,
    robustness: MeasuredRobustness | None = None,
) -> dict[str, Any]:
    """Return all of an evaluation as plain values.

    {'kind': 'evaluation',
     'scores': see `Scores.as_json`,
     'by_fact': {'weather': {'rain': as 'scores', ...}, 'cameras lost': {'0': ...}, ...}, ''
         where a sample lacks the fact,
     'baselines': {'how': what they learned from, 'scores': {'frequency': as 'scores', ...}},
     'comparison': see `Comparison.as_json`; None without a second checkpoint,
     'robustness': see `MeasuredRobustness.as_json`; None where nobody asked,
     'data': `data` and the number of samples,
     'checkpoint': see `checkpoint_json`,
     'run': see `run_json`}

    Args:
        evaluation: what came out.
        checkpoint: what `checkpoint_json` returned when it was loaded.
        data: what is said of the data: path, split, ...
        command: words of the command line.
        comparison: with a second checkpoint.
        robustness: against corruptions and lost cameras.
    """
    return {
        'kind': KIND,
        'scores': evaluation.scores.as_json(),
        'by_fact': {
            name: {value: scores.as_json() for value, scores in by_value.items()}
            for name, by_value in evaluation.by_fact.items()
        },
        'baselines': {
            'how': evaluation.baselines_how,
            'scores': {name: of.as_json() for name, of in evaluation.baselines.items()},
        },
        'comparison': None if comparison is None else comparison.as_json(),
        'robustness': None if robustness is None else robustness.as_json(),
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


def evaluation_text(
    evaluation: Evaluation,
    *,
    data: Mapping[str, Any],
    comparison: Comparison | None = None,
    robustness: MeasuredRobustness | None = None,
) -> str:
    """Return an evaluation as tables; arguments as of `evaluation_json`."""
    scores, baselines = evaluation.scores, evaluation.baselines
    parts = [
        headline(evaluation, data),
        f'Trained on: {evaluation.checkpoint.trained_on}',
        '',
        score_table(scores, baselines),
    ]
    if baselines:
        parts += [f'  {"baselines":12}{line}' for line in wrap(evaluation.baselines_how, 85)[:1]]
        parts += [f'  {"":12}{line}' for line in wrap(evaluation.baselines_how, 85)[1:]]
    parts += [
        '',
        'Calibration of the probabilities',
        tables.text_table(tables.calibration_rows(scores)),
        '',
        tables.text_columns(tables.CALIBRATION_COLUMNS),
    ]
    for name, by_value in evaluation.by_fact.items():
        rows = tables.fact_rows(name, by_value, scores, baselines)
        parts += ['', f"IoU ('visible', at 0.5) by {name}", tables.text_table(rows)]
    if comparison is not None:
        parts += [
            '',
            f"Against {comparison.other}: IoU ('visible', at 0.5)",
            tables.text_table(comparison.rows()),
            '',
            *wrap(comparison.how(), 97),
        ]
    if robustness is not None:
        parts += ['', robustness.text().rstrip()]
    return '\n'.join([*parts, ''])


def headline(evaluation: Evaluation, data: Mapping[str, Any]) -> str:
    """Return what was scored on what, in a line."""
    count = len(evaluation.indices)
    told = [f'{name} {data[name]}' for name in ('split', 'version') if data.get(name)]
    told.append(plural(count, 'sample') + (f' of {data["of"]}' if 'of' in data else ''))
    return (
        f'{evaluation.checkpoint.path} on {data.get("path", "")}: {", ".join(told)}, '
        f'{evaluation.seconds / count:.2f} s each on {evaluation.device} ({evaluation.precision})'
    )


def score_table(scores: Scores, baselines: Mapping[str, Scores] | None = None) -> str:
    """Return the scores of all classes, a line each, and what the columns are."""
    columns = tables.text_columns(tables.score_columns(scores, baselines))
    return f'{tables.text_table(tables.score_rows(scores, baselines))}\n\n{columns}'


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
