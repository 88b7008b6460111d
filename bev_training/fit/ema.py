"""A running average of a network's weights."""

from __future__ import annotations

import copy

import torch

from bev_perception.model.bev_model import BevModel


class Ema:
    """average = d * average + (1 - d) * weights after every step, with d = min(decay, (1 + n) /
    (10 + n)) at step n: a short run forgets its random start in time.

    Buffers (statistics of BatchNorm) are copied: they are running averages already.
    """

    def __init__(self, network: BevModel, decay: float) -> None:
        """Start from the network's weights, on its device."""
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self._average = list(self.network.parameters())
        self._average_buffers = list(self.network.buffers())

    @torch.no_grad()
    def update(self, network: BevModel, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, list(network.parameters()), 1 - decay)
        for mine, theirs in zip(self._average_buffers, network.buffers(), strict=True):
            mine.copy_(theirs)
