"""What robustness says, as rows for tables of any kind."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bev_training.evaluation.corruptions import SEVERITIES
from bev_training.evaluation.report_tables import Rows, said
from bev_training.evaluation.robustness import Robustness, mce, mrr
from bev_training.inspection.report_text import table
from bev_training.metrics import Scores

_READING = (
    ('easy, mid, hard', "IoU at 0.5 ('visible', all known cells) on the corrupted images"),
    ('mean', 'of the severities'),
    ('kept', 'mean / IoU on the clean images (resilience rate); the last row is mRR'),
    ('error', "1 - mean over the baseline's (corruption error); the last row is mCE"),
    ('-', 'the truth does not have the class'),
)
LOST_READING = (
    ('seen', 'cells that a camera still sees: where the node publishes a value'),
    ('known', 'all cells; what a network says of those that no camera sees is not trained'),
    ('share', 'of the known cells that are seen'),
)


def robustness_rows(
    of: Robustness,
    baseline: Robustness | None = None,
    beside: Mapping[str, Scores] | None = None,
) -> Rows:
    """Return (head, rows) by class and corruption; the first row of a class is the clean score,
    then corruptions and their mean.

    Args:
        of: what was measured.
        baseline: of what errors are relative to.
        beside: what needs no network, on the clean images: a row each below the mean.

    Raises:
        ConfigError: the baseline does not fit; see `mce`.
    """
    severities = sorted({s for by_severity in of.corrupted.values() for s in by_severity})
    kept, error = mrr(of), None if baseline is None else mce(of, baseline)
    head = ['class', 'corruption', *(SEVERITIES[s] for s in severities), 'mean', 'kept']
    head += [] if error is None else ['error']
    rows = []
    for name in of.clean.classes:
        blank = [''] * len(severities)
        rows.append([name, 'none', *blank, said(of.clean.iou(name)), ''])
        means = []
        for corruption, by_severity in of.corrupted.items():
            ious = [by_severity[s].iou(name) for s in severities]
            means.append(sum(ious) / len(ious))
            rows.append([name, corruption, *map(said, ious), said(means[-1])])
            rows[-1].append(said(kept.by_corruption[corruption][name]))
        if means:
            mean = sum(means) / len(means)
            rows.append([name, 'mean', *blank, said(mean), said(kept.by_class[name])])
        if error is not None:
            own = [error.by_corruption[corruption][name] for corruption in of.corrupted]
            cells = ['', *map(said, own), *([said(error.by_class[name])] if means else [])]
            for row, cell in zip(rows[-len(cells) :], cells, strict=True):
                row.append(cell)
        for what, scores in (beside or {}).items():
            rows.append([name, f'{what}, clean', *blank, said(scores.iou(name)), ''])
            rows[-1] += [] if error is None else ['']
    return head, rows


def lost_rows(of: Robustness, beside: Mapping[str, Scores] | None = None) -> Rows:
    """Return (head, rows): IoU by number of missing cameras, in the cells that the others see and
    in all known ones, and what share those seen are; then that of `beside`, which need no network,
    with all cameras.
    """
    named = {str(count): scores for count, scores in of.lost.items()}
    named |= {f'0, {what}': scores for what, scores in (beside or {}).items()}
    rows = [
        [what, region, *(said(scores.iou(name, region=region)) for name in scores.classes)]
        + [_share(scores.coverage()) if region == 'seen' else '']
        for what, scores in named.items()
        for region in ('seen', 'known')
    ]
    return ['lost cameras', 'cells', *of.clean.classes, 'share'], rows


def robustness_text(
    of: Robustness,
    baseline: Robustness | None = None,
    beside: Mapping[str, Scores] | None = None,
) -> str:
    """Return both tables as text; arguments as of `robustness_rows`.

    Raises:
        ConfigError: the baseline does not fit; see `mce`.
    """
    parts = []
    if of.corrupted:
        head, rows = robustness_rows(of, baseline, beside)
        parts += [f'Robustness against corrupted images (seed {of.seed})']
        parts += table(head, rows, range(2, len(head)))
        parts += [
            '',
            *(f'  {column:17}{text}' for column, text in _READING
              if column != 'error' or baseline is not None),
            '',
        ]  # fmt: skip
    if len(of.lost) > 1:
        head, rows = lost_rows(of, beside)
        parts += ["IoU ('visible', at 0.5) by number of lost cameras"]
        parts += table(head, rows, range(2, len(head)))
        parts += ['', *(f'  {column:17}{text}' for column, text in LOST_READING)]
    return '\n'.join([*parts, ''])


def _share(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.1%}'
