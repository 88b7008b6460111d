"""OUT of a run: what is in it, who may write to it, and what is said where that fails."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bev_perception.errors import BagError, BevError, CheckpointError, ConfigError
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_training.folders import entries

CONFIG, LABELS, STATE, TABLE = 'config.yaml', 'labels.txt', 'last.ckpt', 'metrics.csv'
BEST, FINAL, CURVE = 'best.safetensors', 'final.safetensors', 'learning_curve.png'
OBJECTIVE = 'pretraining.safetensors'  # of `bev pretrain`
_OURS = {CONFIG, LABELS, STATE, TABLE, BEST, FINAL, CURVE, OBJECTIVE, 'tensorboard'}


def begin(out: Path, *, resume: bool) -> bool:
    """Make the folder; return whether it holds a run to go on with.

    With `resume`, a run that was stopped before its first checkpoint starts again.

    Raises:
        ConfigError: it is not empty, and not to be resumed, or holds something else.
        BagError: it cannot be read or written.
    """
    names = {path.name for path in entries(out)}
    going_on = STATE in names
    # A file that was being written when the machine went down.
    strange = sorted(n for n in names - _OURS if not n.endswith(('.part', '.partial')))
    if names and not resume:
        hint = 'give --resume to go on with it, or another --out'
        raise ConfigError(f'{out} is not empty; {hint if going_on else "give another --out"}')
    if strange and not going_on:
        raise ConfigError(f'{out} holds {strange[0]}, which is of no run; give another --out')
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BagError(f'{out} cannot be made: {error.strerror}') from error
    return going_on


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what a full disk and the like raise into one line.

    Raises:
        BevError: something could not be written; what was there before is still there.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())
        full = getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        kept = f'{STATE} is that of before' if (out / STATE).is_file() else 'nothing is saved yet'
        hint = '; make room, then go on with --resume' if full else ''
        raise BevError(f'{out} cannot be written: {reason}; {kept}{hint}') from error


def save_network(path: Path, network: BevModel, card: Mapping[str, str], *, half: bool) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        BevError: it cannot be written, or holds what is no number (of 16 bits, with `half`).
    """
    try:
        with writing(path.parent):
            checkpoint.save(path, network, card, half=half)
    except CheckpointError as error:
        hint = '; go on with --resume --set half_weights=false' if half else ''
        raise CheckpointError(f'{error}{hint}') from error
