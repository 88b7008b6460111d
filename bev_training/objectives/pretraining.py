"""The weighted sum of the objectives that need no labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bev_perception.model.tensors import BevPlane
from bev_training.data.batch import Batch
from bev_training.fit.settings import TrainConfig
from bev_training.objectives.img_also import ImgAlsoObjective
from bev_training.objectives.occfeat import OccFeatObjective

# By the names of `ObjectivesConfig`; each is made from a run's settings and the channels of its
# teacher (0 without one).
OBJECTIVES: dict[str, Callable[[TrainConfig, int], nn.Module]] = {
    'occfeat': OccFeatObjective,
    'img_also': lambda config, _: ImgAlsoObjective(config),
}


class PretrainingObjective(nn.Module):
    """sum over objectives of weight * loss. None of it becomes part of the network."""

    def __init__(self, config: TrainConfig, teacher_channels: int) -> None:
        """Build the heads with random weights (PyTorch's global seed)."""
        super().__init__()
        self.weights = {
            name: weight for name in OBJECTIVES if (weight := getattr(config.objectives, name)) > 0
        }
        self.parts = nn.ModuleDict(
            {name: OBJECTIVES[name](config, teacher_channels) for name in self.weights}
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what `loss` gives, 'loss' first."""
        terms = [self._named(part, term) for part in self.parts for term in self._terms(part)]
        return ('loss', *terms)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of what `scores` gives."""
        return tuple(
            self._named(part, name) for part in self.parts for name in self.parts[part].score_names
        )

    def loss(self, plane: BevPlane, batch: Batch) -> dict[str, Tensor]:
        """Return scalars: 'loss', which is to be minimised, and the terms of every objective.

        Args:
            plane: of the batch, with gradient.
            batch: with its lidar and teacher targets.
        """
        total = torch.zeros((), device=plane.features.device)
        terms: dict[str, Tensor] = {}
        for part, weight in self.weights.items():
            found = self.parts[part].loss(plane, batch)
            total = total + weight * found['loss']
            terms |= {self._named(part, term): found[term] for term in self._terms(part)}
        return {'loss': total, **terms}

    def scores(self, plane: BevPlane, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return sums and counts of every score; their ratio over all batches is the score."""
        return {
            self._named(part, name): pair
            for part, objective in self.parts.items()
            for name, pair in objective.scores(plane, batch).items()
        }

    def _terms(self, part: str) -> tuple[str, ...]:
        names: tuple[str, ...] = self.parts[part].names
        return names[1:]

    def _named(self, part: str, term: str) -> str:
        return term if len(self.parts) == 1 else f'{part}_{term}'
