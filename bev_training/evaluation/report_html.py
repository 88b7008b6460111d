"""An evaluation as one HTML file that needs no other: no script, no link, pictures inside."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from bev_perception.errors import BagError
from bev_training.evaluation import report_plots as plots
from bev_training.evaluation import report_tables as tables
from bev_training.evaluation.comparison import Comparison
from bev_training.evaluation.corruption_error import MeasuredRobustness
from bev_training.evaluation.evaluate import Evaluation
from bev_training.evaluation.report import headline
from bev_training.evaluation.robustness_text import lost_rows, robustness_rows
from bev_training.html_page import (
    facts,
    figure,
    folded,
    heading,
    page,
    paragraph,
    plot_row,
    preformatted,
    table,
)
from bev_training.metrics import Scores

_PICTURE_WIDTH_PX, _JPEG_QUALITY = 1500, 82


def html_report(
    evaluation: Evaluation,
    described: Mapping[str, Any],
    *,
    comparison: Comparison | None = None,
    robustness: MeasuredRobustness | None = None,
    pictures: Sequence[Path] = (),
) -> str:
    """Return the page.

    Args:
        evaluation: what came out.
        described: what `report.evaluation_json` returned of it.
        comparison: with a second checkpoint.
        robustness: against corruptions and lost cameras.
        pictures: of samples, PNG.

    Raises:
        BagError: a picture cannot be read.
    """
    scores = evaluation.scores
    there = [name for name in scores.classes if not math.isnan(scores.iou(name))]
    parts = [
        heading(f'Evaluation of {evaluation.checkpoint.path.name}', 1),
        paragraph(headline(evaluation, described['data'])),
        _card(described),
        *_scores(evaluation, there),
        *_calibration(scores),
    ]
    if robustness is not None:
        parts += _robustness(robustness, there)
    if comparison is not None:
        parts += _comparison(comparison)
    if pictures:
        parts += [heading('Samples'), *(_picture(path) for path in pictures)]
    return page(f'bev evaluate: {evaluation.checkpoint.path.name}', ''.join(parts))


def _card(described: Mapping[str, Any]) -> str:
    weights, run, data = (described[name] for name in ('checkpoint', 'run', 'data'))
    config = weights['config']
    grid, (width, height) = config['grid'], config['image_size_px']
    (x0, x1), (y0, y1) = grid['x_range_m'], grid['y_range_m']
    card = {name.replace('_', ' '): str(value) for name, value in weights['card'].items()}
    own = {
        'checkpoint': weights['path'],
        'SHA-256': weights['sha256'],
        'network': f'{config["network"]}, {config["backbone"]}, images of {width}x{height}',
        'grid': f'x {x0:g}..{x1:g} m, y {y0:g}..{y1:g} m, cells of {grid["cell_m"]:g} m',
        'trained on': card.pop('trained on', 'unknown'),
    }
    this = {
        'data': ', '.join(f'{name} {value}' for name, value in data.items() if value),
        'command': ' '.join(run['command']),
        'ended': f'{run["ended"]}, after {run["seconds"]:g} s',
        'versions': ', '.join(f'{name} {value}' for name, value in run['versions'].items()),
    }
    return ''.join(
        [
            facts([*own.items(), *this.items()]),
            folded("the checkpoint's card", facts([*card.items()])),
            folded("the network's settings", preformatted(json.dumps(config, indent=1))),
        ]
    )


def _scores(evaluation: Evaluation, there: Sequence[str]) -> list[str]:
    scores, baselines = evaluation.scores, evaluation.baselines
    parts = [
        heading('Intersection over union'),
        table(*tables.score_rows(scores, baselines)),
        facts(tables.score_columns(scores, baselines)),
    ]
    if baselines:
        note = (
            'IoU (visible) of each at the threshold that is best for it; lead: how much better '
            f'the network is than the best of them. Baselines are {evaluation.baselines_how}.'
        )
        parts += [
            heading('Beside what needs no network'),
            paragraph(note, 'note'),
            table(*tables.baseline_rows(scores, baselines)),
        ]
    shown = {'network': scores}
    shown |= {name: of for name, of in baselines.items() if name != 'empty'}
    parts += [
        heading('By threshold'),
        paragraph('IoU (visible, known cells) of each class.', 'note'),
        _row(there, 'IoU by threshold', lambda name: plots.by_threshold(name, shown)),
        heading('By distance'),
        paragraph('IoU (visible, known cells) at the threshold that is best overall.', 'note'),
        _row(there, 'IoU by distance', lambda name: plots.by_distance(name, shown)),
    ]
    for name, by_value in evaluation.by_fact.items():
        parts += [
            heading(f'By {name}'),
            paragraph('IoU (visible, at 0.5, known cells).', 'note'),
            table(*tables.fact_rows(name, by_value, scores, baselines)),
        ]
    return parts


def _calibration(scores: Scores) -> list[str]:
    there = [name for name in scores.classes if not math.isnan(scores.ece(name))]
    note = (
        'Of all cells that are said to be vehicle with 30 %, 30 % should be: on the diagonal '
        'probabilities mean what they say, below it too much is said. The bars count the cells '
        'of each step.'
    )
    return [
        heading('Calibration of the probabilities'),
        table(*tables.calibration_rows(scores)),
        facts(tables.CALIBRATION_COLUMNS),
        paragraph(note, 'note'),
        _row(there, 'reliability', lambda name: plots.reliability(name, scores)),
    ]


def _robustness(measured: MeasuredRobustness, there: Sequence[str]) -> list[str]:
    of, parts = measured.of, []
    if of.corrupted:
        note = (
            'IoU (visible, at 0.5, known cells) on corrupted images, by strength. kept: mean of '
            f'the strengths / IoU on clean images. {measured.note()}'
        )
        parts += [
            heading(f'Robustness against corrupted images (seed {of.seed})'),
            paragraph(note, 'note'),
            table(*robustness_rows(of, measured.baseline, measured.beside), left=(1,)),
            _row(there, 'IoU by strength', lambda name: plots.by_severity(name, of)),
        ]
    if len(of.lost) > 1:
        parts += [
            heading('With lost cameras'),
            paragraph(
                'IoU (visible, at 0.5) in the cells that a camera still sees, where the node '
                'publishes a value, and (dashed) in all known ones: what a network says of cells '
                'that no camera sees is not trained.',
                'note',
            ),
            table(*lost_rows(of, measured.beside), left=(1,)),
            plot_row([('IoU by cameras lost', plots.by_lost_cameras(of))]),
        ]
    return parts


def _comparison(comparison: Comparison) -> list[str]:
    return [
        heading(f'Against {comparison.other}'),
        paragraph(f'That one was trained on: {comparison.trained_on}'),
        paragraph(f'IoU (visible, at 0.5, known cells). {comparison.how()}.', 'note'),
        table(*comparison.rows()),
        plot_row([('differences with intervals', plots.differences(comparison))]),
    ]


def _row(names: Sequence[str], what: str, draw: Callable[[str], bytes]) -> str:
    return plot_row([(f'{name}: {what}', draw(name)) for name in names])


def _picture(path: Path) -> str:
    picture = cv2.imread(str(path))
    if picture is None:
        raise BagError(f'{path} cannot be read as a picture')
    height, width = picture.shape[:2]
    if width > _PICTURE_WIDTH_PX:
        size_px = (_PICTURE_WIDTH_PX, round(height * _PICTURE_WIDTH_PX / width))
        picture = cv2.resize(picture, size_px, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not ok:
        raise BagError(f'{path} cannot be encoded as JPEG')
    return figure(path.stem.partition('_')[2], data.tobytes(), 'jpeg', sheet=True)
