"""Instance normalisation, as SimpleBEV uses it: no learned scale, statistics of each map alone."""

from __future__ import annotations

from torch import nn


def instance_norm(channels: int) -> nn.Module:
    """Return a layer equal to `nn.InstanceNorm2d(channels)`, as a group norm of single channels.

    PyTorch 2.13's own InstanceNorm2d gives silently wrong gradients on a CPU for batch 1 in
    channels_last memory, and is several times slower there. Neither form has weights.
    """
    return nn.GroupNorm(channels, channels, affine=False)
