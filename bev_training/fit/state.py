"""All that a run needs to go on as if nothing had happened, in one file: OUT/last.ckpt."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bev_perception.errors import CheckpointError, ConfigError
from bev_training.data.paths import write_whole
from bev_training.fit.recipes import flat
from bev_training.fit.settings import TrainConfig

T = TypeVar('T')
_FORMAT = 'bev finetune/1'
# What may differ when a run goes on, as may all of `card`: it changes how fast or how often, where
# the same data lie or how results are stored, but not what is learned.
_FREE = frozenset(
    {'data.train', 'data.val', 'data.cache', 'data.labels_file', 'data.workers'}
    | {'validate_every', 'save_every', 'accelerator', 'half_weights'}
    | {'teacher.weights', 'teacher.cache', 'teacher.cache_gb'}
)


@dataclass(kw_only=True)
class RunState:
    """Where a run is.

    Attributes:
        step: optimiser steps done.
        weights: states of network, objective, average, optimiser, schedule and scaler, by name.
        rng: states of random numbers, of each process.
        best: mean IoU of the best validation and its step, or None.
        scores: of the newest validation, as JSON.
        pending: the row of the table of this step, where its validation was interrupted.
        origin: lines that say from which weights the run started.
        code: version of the program that took the steps.
        teacher: digest of the network whose features are learned; '' without one.
    """

    step: int = 0
    weights: dict[str, Any] = field(default_factory=dict)
    rng: list[dict[str, Any]] = field(default_factory=list)
    best: tuple[float, int] | None = None
    scores: dict[str, Any] | None = None
    pending: dict[str, float] | None = None
    origin: list[str] = field(default_factory=list)
    code: str = ''
    teacher: str = ''


def labels_digest(keys: Sequence[str]) -> str:
    """Return what tells one set of labelled samples from another."""
    return hashlib.sha256('\n'.join(keys).encode()).hexdigest()


def save_state(path: Path, state: RunState, config: TrainConfig, labels: str) -> None:
    """Write a state; an existing file is replaced whole or not at all.

    Args:
        path: the file.
        state: of the run.
        config: of the run, without what it was resumed with.
        labels: digest of the labelled samples.

    Raises:
        OSError: it cannot be written.
    """
    content = {
        'format': _FORMAT,
        'config': json.dumps(flat(config)),
        'labels': labels,
        'scores': json.dumps(state.scores),
        'origin': list(state.origin),
        'code': state.code,
        'teacher': state.teacher,
        **{name: getattr(state, name) for name in ('step', 'weights', 'rng', 'best', 'pending')},
    }
    # In memory first: torch reports a full disk as anything but an OSError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def load_state(
    path: Path, config: TrainConfig, labels: str, world: int, teacher: str = ''
) -> RunState:
    """Read a state that goes with a run's settings.

    Args:
        path: the file.
        config: with which the run shall go on.
        labels: digest of the labelled samples.
        world: number of processes.
        teacher: digest of the network whose features are learned; '' without one.

    Raises:
        CheckpointError: the file cannot be read, or is of another kind.
        ConfigError: a setting, the samples, the teacher or the number of processes has changed.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
        if content['format'] != _FORMAT:
            raise CheckpointError(f'{path} has format {content["format"]!r}, not {_FORMAT!r}')
        state = RunState(
            scores=json.loads(content['scores']),
            **{name: content[name] for name in ('step', 'weights', 'rng', 'best', 'pending')},
            origin=content['origin'],
            code=content.get('code', ''),
            teacher=content.get('teacher', teacher),
        )
        _check_same(path, json.loads(content['config']), config)
        if content['labels'] != labels:
            raise ConfigError(
                f'{path}: the samples to learn from are not those that the run began with; have '
                'the data changed? Start anew in another folder'
            )
        if state.teacher != teacher:
            raise ConfigError(
                f'{path}: the teacher is not the one that the run began with; set '
                'teacher.weights to the same weights, or start anew in another folder'
            )
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, EOFError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise CheckpointError(
            f'{path} cannot be used: {type(error).__name__}: {reason}'
        ) from error
    if len(state.rng) != world:
        raise ConfigError(
            f'{path} is of a run with {len(state.rng)} processes, not {world}; '
            'go on with as many, or start anew in another folder'
        )
    return state


def _check_same(path: Path, before: dict[str, Any], config: TrainConfig) -> None:
    now = flat(config)
    # A setting that is newer than the run: its default is what was done before there was one.
    before = {**flat(TrainConfig()), **before}
    for name in sorted((set(before) | set(now)) - _FREE):
        if not name.startswith('card.') and before.get(name) != now.get(name):
            raise ConfigError(
                f'{path}: {name} was {before.get(name)!r} and is now {now.get(name)!r}; a run '
                'goes on with its own settings. Start anew in another folder'
            )


def random_states() -> dict[str, Any]:
    """Return the states of all random numbers of this process, in plain values and tensors."""
    numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    name, keys, *rest = numpy
    version, numbers, gauss = random.getstate()
    return {
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        'numpy': [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        'python': [version, list(numbers), gauss],
    }


def undisturbed(batches: Iterator[T]) -> Iterator[T]:
    """Yield the same, but leave torch's random numbers alone: a loader draws one when it starts,
    and a run that goes on starts its loader once more.
    """
    while True:
        before = torch.get_rng_state()
        try:
            item = next(batches)
        except StopIteration:
            return
        finally:
            torch.set_rng_state(before)
        yield item


def restore_random_states(states: dict[str, Any]) -> None:
    """Go on with what `random_states` returned."""
    torch.set_rng_state(states['torch'])
    if torch.cuda.is_available() and len(states['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states['cuda'])
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = states['python']
    random.setstate((version, tuple(numbers), gauss))
