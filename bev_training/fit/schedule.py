"""Which weights learn, at which rate."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from bev_perception.model.bev_model import BevModel
from bev_training.fit.settings import OptimizerConfig, TrainConfig


def count_steps(config: TrainConfig, samples: int, processes: int) -> int:
    """Return the number of optimiser steps of a run over so many labelled samples."""
    if config.steps:
        return config.steps
    per_step = config.batch_size * config.accumulate * processes
    return max(1, math.ceil(config.epochs * samples / per_step - 1e-9))


def freeze(network: BevModel, config: OptimizerConfig) -> None:
    """Take the gradients from what shall stay as it is."""
    if config.backbone_lr_scale == 0:
        network.encoder.trunk.requires_grad_(False)


def train_mode(network: BevModel, config: OptimizerConfig) -> None:
    """Put the network in training mode, but for what shall stay as it is."""
    network.train()
    if config.backbone_lr_scale == 0:
        network.encoder.trunk.eval()
    if config.batch_norm == 'frozen':
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def make_optimizer(
    network: BevModel, objective: nn.Module, config: OptimizerConfig, steps: int
) -> tuple[Adam, LRScheduler]:
    """Return the optimiser and its schedule over so many steps.

    The last group of parameters has the full rate; before it stands the backbone, where it learns.
    Everything decays alike, as in Harley et al., "Simple-BEV", 2023.
    """
    trunk = [p for p in network.encoder.trunk.parameters() if p.requires_grad]
    of_trunk = set(map(id, network.encoder.trunk.parameters()))
    rest = [p for p in network.parameters() if id(p) not in of_trunk]
    rest += objective.parameters()
    groups = [trunk] if trunk else []
    rates = [config.lr * config.backbone_lr_scale] if trunk else []
    kind = {'adamw': AdamW, 'adam': Adam}[config.kind]
    optimizer = kind(
        [
            {'params': params, 'lr': lr}
            for params, lr in zip([*groups, rest], [*rates, config.lr], strict=True)
        ],
        lr=config.lr,
        eps=1e-8,
        weight_decay=config.weight_decay,
    )
    if config.schedule == 'constant':
        return optimizer, ConstantLR(optimizer, factor=1.0)
    share = config.warmup_share
    if math.isclose(share * steps, 1):  # torch takes the first step for 0, and divides by that
        share *= 1 - 1e-6
    schedule = OneCycleLR(
        optimizer,
        max_lr=[*rates, config.lr],
        total_steps=steps,
        pct_start=share,
        anneal_strategy=config.anneal,
        cycle_momentum=False,
    )
    return optimizer, schedule
