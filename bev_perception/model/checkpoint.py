"""Checkpoints: one safetensors file with weights, config and where they come from.

Nothing is unpickled. The metadata holds `format`, `config` (JSON of ModelConfig) and `card` (JSON
of free text: what the weights were trained on, by which command).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bev_perception.errors import CheckpointError, ConfigError
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig

FORMAT = 'bev_perception/1'


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded network.

    Attributes:
        model: in evaluation mode, on the CPU, float32.
        card: what is known of the weights, e.g. `trained_on`.
        path: the file.
    """

    model: BevModel
    card: dict[str, str]
    path: Path

    @property
    def trained_on(self) -> str:
        """One line: what the weights were trained on."""
        return self.card.get('trained_on', 'unknown data (the checkpoint does not say)')


def save(path: Path, model: BevModel, card: Mapping[str, str], *, half: bool = False) -> None:
    """Write a checkpoint; an existing file is replaced whole or not at all.

    Args:
        path: the file, by custom `*.safetensors`.
        model: any device.
        card: free text by name; `trained_on` is shown to users.
        half: store weights as float16 (half the size).

    Raises:
        CheckpointError: weights are not finite (as float16).
        OSError: it cannot be written; likewise SafetensorError.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        value = value.half() if half and value.is_floating_point() else value
        if not torch.isfinite(value).all():
            what = 'too large for float16, or not finite' if half else 'not finite'
            raise CheckpointError(f'{path}: {name} holds values that are {what}; not saved')
        tensors[name] = value
    metadata = {
        'format': FORMAT,
        'config': json.dumps(model.config.to_dict()),
        'card': json.dumps(dict(card)),
    }
    partial = path.with_name(f'{path.name}.partial')
    try:
        save_file(tensors, partial, metadata)
        partial.chmod(0o644)  # safetensors writes files that only their owner can read
        with partial.open('rb') as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint, strictly.

    Raises:
        CheckpointError: the file is missing, no checkpoint of ours, of a newer format, or its
            weights are not those of its config.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'no weights: {path} does not exist')
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path} is no safetensors file ({error})') from error
    if metadata.get('format') != FORMAT:
        raise CheckpointError(
            f'{path} has format {metadata.get("format")!r}; this version reads {FORMAT!r}'
        )
    try:
        config = ModelConfig.from_dict(json.loads(metadata['config']))
        card = {str(k): str(v) for k, v in json.loads(metadata.get('card', '{}')).items()}
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f'{path}: its metadata cannot be used: {error!r}') from error
    model = BevModel(config)
    _load_weights(model, tensors, path)
    return Checkpoint(model=model.eval(), card=card, path=path)


def _load_weights(model: BevModel, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(tensors))
    unknown = sorted(set(tensors) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f'{path}: {len(missing)} weights are missing (first {missing[:1]}) and '
            f'{len(unknown)} are unknown (first {unknown[:1]})'
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f'{path}: {name} is {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}'
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f'{path}: {name} holds values that are not finite')
    model.load_state_dict({k: v.to(wanted[k].dtype) for k, v in tensors.items()})
