"""Processes of a run: Lightning Fabric for devices and precision, and what ranks agree on."""

from __future__ import annotations

import logging
import os
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from bev_perception.errors import BevError, ConfigError
from bev_training.fit.settings import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar('T')
# Rank 0 may index a large data set while the others wait for it.
_WAIT = timedelta(hours=6)
_GRACE_S = 5.0


def start(config: TrainConfig) -> Fabric:
    """Start the processes of a run, and return what this one computes with.

    Processes come from torchrun or SLURM where one of them started this one; otherwise rank 0
    runs its own command line again for each of the others.

    Raises:
        ConfigError: a device or precision is not to be had.
    """
    accelerator = _accelerator(config)
    world = config.devices * config.nodes
    started = int(os.environ.get('WORLD_SIZE', '1'))
    if started not in (1, world):
        raise ConfigError(
            f'{started} processes were started, but devices x nodes is {config.devices} x '
            f'{config.nodes}; give --set devices=... and --set nodes=... as they are'
        )
    if config.nodes > 1 and started == 1 and 'SLURM_NTASKS' not in os.environ:
        raise ConfigError(f'nodes is {config.nodes}; start the processes with torchrun or SLURM')
    from lightning_fabric import Fabric  # 4 s
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger('lightning_fabric').setLevel(logging.WARNING)
    warnings.filterwarnings('ignore', message='Grad strides do not match bucket view strides')
    unused = config.model.center_offset and not (config.loss.center and config.loss.offset)
    strategy: Any = 'auto'
    if world > 1:
        strategy = DDPStrategy(
            process_group_backend='nccl' if accelerator == 'cuda' else 'gloo',
            timeout=_WAIT,
            find_unused_parameters=unused,
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=strategy,
        precision=config.precision,
    )
    fabric.launch()
    return fabric


def _accelerator(config: TrainConfig) -> str:
    accelerator = config.accelerator
    if accelerator == 'auto':
        accelerator = 'cuda' if torch.cuda.is_available() else 'cpu'
    if accelerator == 'cuda':
        if not torch.cuda.is_available():
            raise ConfigError("accelerator is 'cuda', but no GPU is to be had; take 'cpu'")
        if config.devices > torch.cuda.device_count():
            raise ConfigError(
                f'devices is {config.devices}, but this machine has '
                f'{torch.cuda.device_count()} GPU(s)'
            )
    elif config.precision == '16-mixed':
        raise ConfigError("precision '16-mixed' needs a GPU; on a CPU take 'bf16-mixed'")
    return accelerator


def on_rank_zero(fabric: Fabric, call: Callable[[], T]) -> T:
    """Return to all ranks what a function returns to rank 0, the only one that calls it.

    Raises:
        BevError: the call raised one; the other ranks then end without a word.
    """
    result: Any = None
    error: BevError | None = None
    if fabric.global_rank == 0:
        try:
            result = call()
        except BevError as raised:
            error = raised
    agree(fabric, error)
    return result if fabric.world_size == 1 else fabric.broadcast(result)


def rank_zero_first(fabric: Fabric, call: Callable[[], T]) -> T:
    """Return what a function returns, called by rank 0 before all others (it may fill a cache).

    Raises:
        BevError: the call raised one.
    """
    if fabric.world_size == 1:
        return call()
    result: list[T] = []
    on_rank_zero(fabric, lambda: result.append(call()))
    error: BevError | None = None
    if fabric.global_rank > 0:
        try:
            result.append(call())
        except BevError as raised:
            error = raised
    agree(fabric, error)
    return result[0]


def agree(fabric: Fabric, error: BevError | None) -> None:
    """Go on only where no rank has an error: others would wait for it for hours.

    Raises:
        BevError: that of this rank; a rank without one ends without a word.
    """
    failed = error is not None
    if fabric.world_size > 1:
        failed = bool(summed(fabric, torch.tensor([int(failed)])).item())
    if error is not None:
        raise error
    if failed:
        raise SystemExit(1)


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """End the processes that this one started where it fails: they would wait for it."""
    try:
        yield
    except BaseException:
        launcher = fabric.strategy.launcher
        started = getattr(launcher, 'procs', [])
        deadline = time.monotonic() + _GRACE_S
        for process in started:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        raise


def gathered(fabric: Fabric, value: T) -> list[T]:
    """Return what each rank gives, in their order."""
    if fabric.world_size == 1:
        return [value]
    found: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(found, value)
    return found


def summed(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the sum over ranks."""
    if fabric.world_size == 1:
        return tensor
    total = tensor.to(fabric.device)
    torch.distributed.all_reduce(total)
    return total.to(tensor.device)
