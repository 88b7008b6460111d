"""What learns, and one step of it: gradients of one or more batches, on one or more processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bev_perception.errors import BevError, CheckpointError
from bev_perception.model.bev_model import BevModel
from bev_perception.model.tensors import BevMemory
from bev_training.data.batch import Batch
from bev_training.fit.ema import Ema
from bev_training.fit.history import remember
from bev_training.fit.ranks import agree, gathered, summed
from bev_training.fit.schedule import freeze, make_optimizer, train_mode
from bev_training.fit.settings import TrainConfig
from bev_training.fit.stop import Stop
from bev_training.fit.teaching import Teaching
from bev_training.objectives.pretraining import PretrainingObjective
from bev_training.objectives.segmentation import SegmentationObjective
from bev_training.teachers.cache import FeatureCache

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Steps in a row that the loss scale of float16 may be too large for.
_MOST_SKIPPED = 50
_KEYS_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step gave, the same on every rank.

    Attributes:
        values: learning rate, loss and its terms, norm of the gradients before clipping.
        stopped: whether a rank was asked to stop.
    """

    values: dict[str, float]
    stopped: bool


class Learner:
    """A network with its objective, optimiser, schedule and running average."""

    def __init__(
        self,
        fabric: Fabric,
        network: BevModel,
        config: TrainConfig,
        *,
        steps: int,
        teaching: Teaching | None = None,
    ) -> None:
        """Put everything on its device.

        Args:
            fabric: of the run.
            network: it is changed in place.
            config: the run.
            steps: length of the schedule.
            teaching: gives the features that are to be learned, if any are.
        """
        self.fabric, self.config, self.teaching = fabric, config, teaching
        self.objective: SegmentationObjective | PretrainingObjective
        if config.objectives.pretraining:
            self.objective = PretrainingObjective(
                config, teaching.teacher.channels if teaching else 0
            )
        else:
            self.objective = SegmentationObjective(config)
        freeze(network, config.optimizer)
        if fabric.world_size > 1 and fabric.device.type == 'cuda':
            from timm.layers import convert_sync_batchnorm

            network = convert_sync_batchnorm(network)
        self.network = network
        self._optimizer, self._schedule = make_optimizer(
            network, self.objective, config.optimizer, steps
        )
        self._module, self._stepper = fabric.setup(
            _WithLoss(network, self.objective), self._optimizer
        )
        self.ema = Ema(network, config.ema_decay) if config.ema_decay else None
        self._skipped = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a step's values."""
        return ('lr', *self.objective.names, 'grad_norm')

    @property
    def cache(self) -> FeatureCache | None:
        """The teacher's stored features, where there are any."""
        return self.teaching.cache if self.teaching else None

    @property
    def kept(self) -> BevModel:
        """The network that is validated and stored: the average, where there is one."""
        return self.ema.network if self.ema else self.network

    def step(self, batches: Iterator[Batch], number: int, stop: Stop) -> Step:
        """Take a step.

        Every process has batches of the same size, so the mean over batches and processes is the
        mean over samples.

        Args:
            batches: `accumulate` of them are taken.
            number: of the step, from 1.
            stop: whether this process was asked to stop.

        Raises:
            BevError: the loss or the gradients are not finite, or a sample cannot be read. The
                weights are then those before the step.
        """
        parts, keys = [], []
        for remaining in reversed(range(self.config.accumulate)):
            batch = self._next(batches)
            memory = remember(self.fabric, self.network, batch)
            train_mode(self.network, self.config.optimizer)
            with self.fabric.no_backward_sync(self._module, enabled=remaining > 0):
                terms = self._module(_Sealed(batch, memory))
                self.fabric.backward(terms['loss'] / self.config.accumulate)
            parts.append(torch.stack([terms[name].detach() for name in self.objective.names]))
            keys.append(batch.keys)
        norm = self.fabric.clip_gradients(
            self._module,
            self._stepper,
            max_norm=self.config.optimizer.clip_norm or math.inf,
            error_if_nonfinite=False,
        )
        assert norm is not None
        each = torch.stack(parts)  # (batch, term)
        own = torch.cat([each.mean(0), norm.view(1), norm.new_tensor([float(stop.came)])])
        *means, norm_mean, stopped = (summed(self.fabric, own) / self.fabric.world_size).tolist()
        self._check(number, means[0], norm_mean, each[:, 0], keys)
        lr = self._schedule.get_last_lr()[-1]
        self._stepper.step()
        self._schedule.step()
        self._stepper.zero_grad()
        if self.ema:
            self.ema.update(self.network, number)
        values = dict(zip(self.columns, (lr, *means, norm_mean), strict=True))
        return Step(values=values, stopped=stopped > 0)

    def completed(self, batch: Batch) -> Batch:
        """Return a batch with all that the objective needs."""
        return self.teaching.complete(batch) if self.teaching else batch

    def _next(self, batches: Iterator[Batch]) -> Batch:
        error, batch = None, None
        try:
            batch = self.completed(next(batches).to(self.fabric.device))
        except BevError as raised:
            error = raised
        agree(self.fabric, error)
        assert batch is not None
        return batch

    def _check(
        self, number: int, loss: float, norm: float, losses: Tensor, keys: list[tuple[str, ...]]
    ) -> None:
        """Raise BevError unless loss and gradients are finite."""
        if math.isfinite(loss) and math.isfinite(norm):
            self._skipped = 0
            return
        if math.isfinite(loss) and self._scaler:
            self._skipped += 1  # the scaler leaves out this step and scales less
            if self._skipped <= _MOST_SKIPPED:
                return
        finite = losses.isfinite().tolist()
        guilty = [k for k, good in zip(keys, finite, strict=True) if not good]
        what = f'the loss is {loss}' if guilty or not math.isfinite(loss) else ''
        what = what or f'the norm of the gradients is {norm}'
        if math.isfinite(loss):
            guilty = keys
        names = [name for of_rank in gathered(self.fabric, guilty) for k in of_rank for name in k]
        more = f' and {len(names) - _KEYS_SHOWN} more' if len(names) > _KEYS_SHOWN else ''
        error = BevError(
            f'step {number}: {what} with the samples {", ".join(names[:_KEYS_SHOWN])}{more}; '
            'try a smaller optimizer.lr, or another precision'
        )
        agree(self.fabric, error if self.fabric.global_rank == 0 else None)

    @property
    def _scaler(self) -> dict[str, Any]:
        """State of the loss scale; empty without one."""
        return self.fabric.strategy.precision.state_dict()

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs, as tensors and plain values."""
        return {
            'network': self.network.state_dict(),
            'objective': self.objective.state_dict(),
            'ema': self.ema.network.state_dict() if self.ema else None,
            'optimizer': self._optimizer.state_dict(),
            'schedule': self._schedule.state_dict(),
            'scaler': self._scaler,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            CheckpointError: it is of a version of this program whose networks are others.
        """
        try:
            self.network.load_state_dict(state['network'])
            self.objective.load_state_dict(state['objective'])
            if self.ema:
                self.ema.network.load_state_dict(state['ema'])
            self._optimizer.load_state_dict(state['optimizer'])
            self._schedule.load_state_dict(state['schedule'])
            self.fabric.strategy.precision.load_state_dict(state['scaler'])
        except (KeyError, ValueError, RuntimeError) as error:
            reason = ' '.join(str(error).split())[:160]
            raise CheckpointError(
                f'the run is of another version of this program; start anew: {reason}'
            ) from error


class _Sealed:
    """A batch that Fabric does not look into: it would round the cameras to 16 bits."""

    def __init__(self, batch: Batch, memory: BevMemory | None) -> None:
        self.batch, self.memory = batch, memory


class _WithLoss(nn.Module):
    """Network and objective in one, so that both take part in what processes share."""

    def __init__(
        self, network: BevModel, objective: SegmentationObjective | PretrainingObjective
    ) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, sealed: _Sealed) -> dict[str, Tensor]:
        batch = sealed.batch
        if isinstance(self.objective, PretrainingObjective):
            return self.objective.loss(self.network.see(batch.inputs, sealed.memory), batch)
        prediction = self.network(batch.inputs, sealed.memory)
        return self.objective.loss(prediction, batch.targets)
