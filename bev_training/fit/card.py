"""What is known of a trained network, for its checkpoint."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bev_training.fit.recipes import to_plain
from bev_training.fit.settings import TrainConfig

_CHECKOUT = Path(__file__).resolve().parents[2]


def labels_said(config: TrainConfig, chosen: int, total: int) -> str:
    """Return how many samples are labelled, and how they were drawn."""
    data = config.data
    if config.objectives.pretraining and chosen == total:
        return f'all {total} samples, without labels'
    if data.labels_file:
        return f'{chosen} of {total} samples, those of {data.labels_file}'
    if data.labels_percent == 100:
        return f'all {total} samples'
    return (
        f'{chosen} of {total} samples ({data.labels_percent:g} % by {data.labels_by}, '
        f'seed {data.labels_seed})'
    )


def make_card(
    config: TrainConfig,
    *,
    labels: str,
    origin: Sequence[str],
    command: str,
    code: str,
    step: int,
    steps: int,
    scores: dict[str, Any] | None,
) -> dict[str, str]:
    """Return text by name: that of `config.card`, and the facts of the run.

    `trained_on` is what users are shown: the data and how much of it was labelled.

    Args:
        config: as it was used.
        labels: what `labels_said` returned.
        origin: from which weights the run started.
        command: that started the run, or made it go on.
        code: what `code_version` returned when the run started.
        step: optimiser steps done.
        steps: of the whole run.
        scores: of the newest validation, as JSON.
    """
    data = config.data.train or 'samples given by a program'
    return {
        **config.card,
        'trained_on': f'{config.card.get("trained_on", data)}: {labels}',
        'data': data,
        'validated_on': config.data.val or config.data.val_split,
        'labels': labels,
        'started_from': '; '.join(origin),
        'command': command,
        'seed': str(config.seed),
        'steps': f'{step} of {steps}',
        'code': code,
        'scores': json.dumps(scores),
        'config': json.dumps(to_plain(config)),
    }


def code_version() -> str:
    """Return the package's version, and of a checkout the commit and whether files differ."""
    try:
        said = version('bev_perception')
    except PackageNotFoundError:
        said = 'not installed'
    if not (_CHECKOUT / '.git').exists():
        return said
    commit = _git('rev-parse', '--short=12', 'HEAD')
    changed = _git('status', '--porcelain', '--untracked-files=no')
    return f'{said}, git {commit}{" with changes" if changed else ""}' if commit else said


def _git(*arguments: str) -> str:
    """Return what git says; '' where it is not installed or refuses."""
    try:
        done = subprocess.run(
            ['git', '-C', str(_CHECKOUT), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''
