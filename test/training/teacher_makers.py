"""Teachers for tests: a ViT with random weights that ends after its first block."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bev_perception.model import torchvision_ops as torchvision_ops  # before timm
from bev_training.fit.pretrain_settings import TeacherConfig
from bev_training.teachers.load import Teacher, load_teacher

import timm  # isort: skip

SIZE_PX = (56, 28)


@functools.cache
def full_vit(name: str = 'vit_small_patch14_dinov2') -> torch.nn.Module:
    """A random network of timm's, in its own size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = timm.create_model(name, pretrained=False, num_classes=0)
        for parameter in network.parameters():
            if parameter.ndim < 2:  # norms, biases and layer scales, which would hide mistakes
                torch.nn.init.normal_(parameter, 0.5, 0.3)
    return network.eval()


def first_blocks(count: int = 2, name: str = 'vit_small_patch14_dinov2') -> dict[str, Tensor]:
    """The weights of the first blocks of `full_vit`: enough for a teacher that ends there."""
    kept = tuple(f'blocks.{i}.' for i in range(count))
    return {
        k: v
        for k, v in full_vit(name).state_dict().items()
        if not k.startswith('blocks.') or k.startswith(kept)
    }


def write_weights(folder: Path) -> Path:
    path = folder / 'vit.safetensors'
    save_file(first_blocks(), path)
    return path


def make_teacher(folder: Path, **values) -> Teacher:
    """384 channels, 4 x 2 patches, cut after block 0."""
    config = {'weights': str(write_weights(folder)), 'block': 0, 'size_px': SIZE_PX, **values}
    return load_teacher(TeacherConfig(**config))
