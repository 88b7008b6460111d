"""Batch normalisation merged into the convolutions before it: the same network, fewer passes."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bev_perception.model.bev_model import BevModel


def folded(model: BevModel) -> BevModel:
    """Return a copy for inference, equal to the model up to rounding; the model stays as it is.

    The copy cannot be trained or saved as a checkpoint: its weights have other names.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    _fold(copied)
    return copied


def _fold(module: nn.Module) -> None:
    """Fold every batch norm that directly follows a convolution among a module's children."""
    before: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(before, nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(before, child)
            before.weight, before.bias = fused.weight, fused.bias
            # timm's batch norms carry their activation.
            setattr(module, name, getattr(child, 'act', nn.Identity()))
        else:
            _fold(child)
        before = child
