"""Checkpoints of github.com/aharley/simple_bev → ours.

Its `Segnet` and `Bevformernet`, cameras only, with any of its four encoders, become our
'simple_bev' and 'bevformer' with `compat='simple_bev'`: the network computes what its code does
(`bev_perception.model.simple_bev_compat`), every weight is used, none is made up.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from bev_perception.errors import CheckpointError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import AttentionConfig, ModelConfig
from bev_perception.model.simple_bev_compat import NATIVE_GRID
from bev_training.simple_bev_names import EFFICIENTNET_STAGES, is_left_out, their_name

SIZE_PX = (800, 448)  # of the images that its released weights were trained with
_STRIDE = 16  # of its deepest features; its code needs whole ones
_SHOWN = 3  # names in a message
_COMPRESSOR = 'bev_compressor.0.weight'
_PLANE = 'decoder.first_conv.weight'
_QUERIES = 'bev_queries'
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What else its compressor takes, as channels beside those of the images, by the channels'
# number: its variants for other sensors, with heights of the volume.
_SENSORS = {1: 'radar', 16 * NATIVE_GRID.z_cells: 'radar', NATIVE_GRID.z_cells: 'lidar'}
# What torch.load raises of a file that is not its own, of one cut short, and of a pickle.
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError),
    *(AttributeError, TypeError, IndexError),
)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did.

    Attributes:
        source: the file that was read.
        path: the checkpoint that was written.
        config: of the network in it.
        mapped: number of tensors that were taken over.
        left_out: names of those that have no part in our network.
        filled: names of counters that the file lacks (their value changes nothing).
    """

    source: Path
    path: Path
    config: ModelConfig
    mapped: int
    left_out: tuple[str, ...]
    filled: tuple[str, ...]


def import_checkpoint(
    source: Path, out: Path, *, size_px: tuple[int, int] = SIZE_PX, grid: BevGrid | None = None
) -> Imported:
    """Write a checkpoint of ours; an existing file is replaced whole or not at all.

    Args:
        source: what simple_bev's training saved, or a state dict alone.
        out: the file, `*.safetensors`; folders above it are made.
        size_px: (width, height) of the images that the weights expect.
        grid: what the network publishes in the ego frame (the default grid).

    Raises:
        CheckpointError: the file cannot be read, has other weights, or `out` cannot be written.
        ConfigError: a size or a grid is impossible.
    """
    theirs = read_weights(source)
    config = find_config(theirs, source, size_px=size_px, grid=grid or BevGrid())
    model = BevModel(config)
    ours, filled = to_ours(theirs, model.state_dict(), config, source)
    model.load_state_dict(ours)
    card = {
        'trained_on': f'data of {source.name}, a checkpoint of simple_bev (it trains on nuScenes)',
        'imported_from': str(source),
        'imported_sha256': _sha256(source),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(out, model, card)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'{out} cannot be written: {error}') from error
    left_out = tuple(name for name in theirs if is_left_out(name))
    mapped = len(theirs) - len(left_out)
    return Imported(
        source=source, path=out, config=config, mapped=mapped, left_out=left_out, filled=filled
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by simple_bev's names. Nothing is unpickled but tensors.

    Raises:
        CheckpointError: the file is missing, or holds anything else.
    """
    if not path.is_file():
        raise CheckpointError(f'{path} does not exist, or is no file')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error
    except _UNREADABLE as error:
        found = re.search(r'GLOBAL (\S+) was not an allowed global', str(error))
        if found is None:
            raise CheckpointError(
                f"{path} is no file of PyTorch's torch.save, or damaged"
            ) from error
        raise CheckpointError(
            f'{path} holds more than tensors ({found[1]}), and nothing else is loaded from it. '
            "Where you trust it, save its 'model_state_dict' alone"
        ) from error
    for key in ('model_state_dict', 'state_dict'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} has no weights: neither 'model_state_dict' nor tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f'{path}: {name!r} is no tensor but {type(value).__name__}; expected are the '
                f"weights by name, alone or as 'model_state_dict'"
            )
    return {name.removeprefix('module.'): value for name, value in content.items()}


def find_config(
    theirs: Mapping[str, Tensor], path: Path, *, size_px: tuple[int, int], grid: BevGrid
) -> ModelConfig:
    """Return the config of the network that some weights are of.

    Raises:
        CheckpointError: none of those that can be imported.
        ConfigError: the size or the grid is impossible.
    """
    if any(side % _STRIDE for side in size_px):
        raise ConfigError(
            f'images of {size_px[0]}x{size_px[1]}: the sides must be multiples of {_STRIDE}; '
            'simple_bev has 800x448 and 400x224'
        )
    backbone = _backbone(theirs, path)
    attends = _QUERIES in theirs
    if _PLANE not in theirs or (not attends and _COMPRESSOR not in theirs):
        missing = [name for name in (_PLANE, _COMPRESSOR) if name not in theirs]
        hint = ''
        if missing == [_COMPRESSOR]:
            hint = '; Segnet with do_rgbcompress=False has none and cannot be imported'
        raise _other_layout(path, 'Segnet', missing, [], hint)
    channels = theirs[_PLANE].shape[1] if theirs[_PLANE].ndim == 4 else 0
    if not attends:
        _check_sensors(theirs[_COMPRESSOR], channels, path)
    elif tuple(theirs[_QUERIES].shape) != (channels, *NATIVE_GRID.shape[1:]):
        raise CheckpointError(
            f'{path}: {_QUERIES} is {tuple(theirs[_QUERIES].shape)}, not '
            f'{(channels, *NATIVE_GRID.shape[1:])}; other grids cannot be imported'
        )
    try:
        return ModelConfig(
            network='bevformer' if attends else 'simple_bev',
            classes=('vehicle',),
            obstacle_classes=('vehicle',),
            grid=grid,
            image_size_px=size_px,
            backbone=backbone,
            channels=channels,
            center_offset=True,
            attention=AttentionConfig(),
            compat='simple_bev',
            mean=_MEAN,
            std=_STD,
        )
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error


def _backbone(theirs: Mapping[str, Tensor], path: Path) -> str:
    if 'encoder.backbone._conv_stem.weight' in theirs:
        by_blocks = {sum(stages): name for name, stages in EFFICIENTNET_STAGES.items()}
        what, blocks = 'encoder.backbone._blocks', _count(theirs, 'encoder.backbone._blocks.')
    elif 'encoder.backbone.0.weight' in theirs:
        by_blocks = {6: 'resnet50', 23: 'resnet101'}
        what, blocks = 'encoder.layer3', _count(theirs, 'encoder.layer3.')
    else:
        raise _other_layout(
            path,
            'Segnet or Bevformernet',
            ['encoder.backbone.0.weight (ResNet)', 'encoder.backbone._conv_stem.weight'],
            sorted(name for name in theirs if not name.startswith('encoder.backbone.')),
        )
    if blocks not in by_blocks:
        known = ', '.join(f'{count} ({name})' for count, name in by_blocks.items())
        raise CheckpointError(f'{path}: {what} has {blocks} blocks; known are {known}')
    return by_blocks[blocks]


def _count(theirs: Mapping[str, Tensor], start: str) -> int:
    """Return how many numbers follow the beginning of a name."""
    rest = (name.removeprefix(start) for name in theirs if name.startswith(start))
    return len({name.partition('.')[0] for name in rest})


def _check_sensors(compressor: Tensor, channels: int, path: Path) -> None:
    width = compressor.shape[1] if compressor.ndim == 4 else 0
    more = width - channels * NATIVE_GRID.z_cells
    if more:
        sensor = _SENSORS.get(more)
        raise CheckpointError(
            f'{path}: {_COMPRESSOR} takes {width} channels, not {channels} for each of '
            f'{NATIVE_GRID.z_cells} heights; '
            + (f'weights for {sensor} cannot be imported' if sensor else 'the volume is another')
        )


def to_ours(
    theirs: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    config: ModelConfig,
    path: Path,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return a state dict under our names, and the names of counters that theirs lacks.

    Args:
        theirs: all weights of the file.
        wanted: the state dict of a network of `config`, for names and shapes.
        config: from `find_config`.
        path: of the file, for messages.

    Raises:
        CheckpointError: a weight is missing, unknown, of another shape or not finite.
    """
    names = {ours: their_name(ours, config.backbone) for ours in wanted}
    # Counters of batches, which old versions of PyTorch did not save, matter to nobody.
    filled = tuple(
        name for name in names.values() if name not in theirs and name.endswith('_tracked')
    )
    missing = sorted(set(names.values()) - set(theirs) - set(filled))
    unknown = sorted(n for n in set(theirs) - set(names.values()) if not is_left_out(n))
    if missing or unknown:
        network = 'Bevformernet' if config.network == 'bevformer' else 'Segnet'
        raise _other_layout(path, f'{network} with {config.backbone}', missing, unknown)
    found = {}
    for ours, name in names.items():
        if name in filled:
            found[ours] = torch.zeros_like(wanted[ours])
            continue
        value = theirs[name]
        if value.is_floating_point() != wanted[ours].is_floating_point():
            raise CheckpointError(f'{path}: {name} is of type {value.dtype}')
        if not torch.isfinite(value).all():
            raise CheckpointError(f'{path}: {name} holds values that are not finite')
        if name == _COMPRESSOR:
            value = _by_height(value, config.channels)
        if value.shape != wanted[ours].shape:
            raise CheckpointError(
                f'{path}: {name} is {tuple(value.shape)}, not {tuple(wanted[ours].shape)}; '
                'the network has other sizes than can be imported'
            )
        found[ours] = value.to(wanted[ours].dtype).contiguous()
    return found, filled


def _by_height(weight: Tensor, channels: int) -> Tensor:
    """Return a kernel for a volume that is folded height by height; theirs is by channel."""
    heights = NATIVE_GRID.z_cells
    return weight.unflatten(1, (channels, heights)).transpose(1, 2).flatten(1, 2)


def _other_layout(
    path: Path, what: str, missing: list[str], unknown: list[str], hint: str = ''
) -> CheckpointError:
    def some(names: list[str]) -> str:
        more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
        return f'{", ".join(names[:_SHOWN])}{more}' if names else 'none'

    return CheckpointError(
        f"{path}: no weights of simple_bev's {what}; missing: {some(missing)}; "
        f'unknown: {some(unknown)}{hint}'
    )


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
