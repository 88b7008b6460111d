"""Supervised segmentation: how far a prediction is from labelled grids.

A cell counts for a class where its truth is known, a live camera sees it, and (convention
'visible') it does not belong to the class only through hardly visible objects. Each sample has its
own mean over its counted cells, and the loss is the mean over samples; so several small batches,
on one process or many, equal one large batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bev_perception.model.tensors import BevPrediction
from bev_training.data.batch import Targets
from bev_training.fit.settings import TrainConfig


class SegmentationObjective(nn.Module):
    """The weighted terms of `settings.LossConfig`.

    With `learned_weights` the loss is the sum of weight * term * exp(-s) + s / 2 over
    segmentation, centre and offset, with a learned s of each that starts at 0 (Kendall et al.,
    "Multi-task learning using uncertainty", CVPR 2018, in the form of Harley et al., "Simple-BEV",
    2023). These scalars are parameters of this module; they are not part of the network.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Read what counts, and how much."""
        super().__init__()
        self.config = config.loss
        self.visible_only = config.data.visibility == 'visible'
        weights = config.loss.pos_weight
        if len(weights) == 1:
            weights = weights * len(config.model.classes)
        self.register_buffer(
            'pos_weight', torch.tensor(weights).view(1, -1, 1, 1), persistent=False
        )
        self.parts = {
            part: terms
            for part, names in _PARTS.items()
            if (terms := tuple(name for name in names if getattr(config.loss, name) > 0))
        }
        self.log_variance = (
            nn.ParameterDict({part: nn.Parameter(torch.zeros(())) for part in self.parts})
            if config.loss.learned_weights
            else None
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what `loss` gives, 'loss' first."""
        return ('loss', *(term for terms in self.parts.values() for term in terms))

    def loss(self, prediction: BevPrediction, targets: Targets) -> dict[str, Tensor]:
        """Return scalars: each term without its weight, and 'loss', which is to be minimised.

        Args:
            prediction: logits of a batch.
            targets: truth of the same batch; with `center` where the centre or the offset counts.
        """
        seen = prediction.valid & targets.known
        counted = seen[:, None].expand_as(targets.positive)
        if self.visible_only:
            counted = counted & ~targets.hidden
            seen = seen & ~targets.hidden.any(1)
        terms: dict[str, Tensor] = {}
        logits = prediction.logits.float()
        if self.config.bce:
            terms['bce'] = self._bce(logits, targets.positive, counted)
        if self.config.dice:
            terms['dice'] = soft_dice_loss(logits.sigmoid(), targets.positive, counted)
        if self.config.center:
            assert prediction.center is not None and targets.center is not None
            terms['center'] = center_loss(
                prediction.center.float().sigmoid(), targets.center, seen[:, None]
            )
        if self.config.offset:
            assert prediction.offset is not None
            assert targets.offset is not None and targets.in_object is not None
            terms['offset'] = offset_loss(
                prediction.offset.float(), targets.offset, targets.in_object & seen[:, None]
            )
        return {'loss': self._weighted(terms), **terms}

    def _bce(self, logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        """Return the binary cross-entropy."""
        each = F.binary_cross_entropy_with_logits(
            logits, positive.float(), pos_weight=self.pos_weight, reduction='none'
        )
        return _mean_where(each, counted).mean()

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        total = torch.zeros((), device=self.pos_weight.device)
        for part, names in self.parts.items():
            weighted = sum(getattr(self.config, name) * terms[name] for name in names)
            if self.log_variance is None:
                total = total + weighted
            else:
                s = self.log_variance[part]
                total = total + weighted * torch.exp(-s) + 0.5 * s
        return total


# What is weighed together where the weights are learned.
_PARTS = {'segmentation': ('bce', 'dice'), 'center': ('center',), 'offset': ('offset',)}


def soft_dice_loss(probability: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Return 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), the mean over classes and samples.

    Milletari et al., "V-Net", 2016, with plain sums below; the ones keep it calm where a sample
    has nothing of a class.

    Args:
        probability: (b, class, y, x) in 0..1.
        positive: (b, class, y, x) bool.
        counted: (b, class, y, x) bool.
    """
    p = torch.where(counted, probability, 0.0)
    t = (positive & counted).float()
    both, either = (p * t).sum((2, 3)), (p + t).sum((2, 3))
    return (1 - (2 * both + 1) / (either + 1)).mean()


def center_loss(probability: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Return the squared error, half of it from cells above 0.5, half from those below.

    Args:
        probability: (b, 1, y, x) in 0..1.
        truth: (b, 1, y, x) in 0..1.
        counted: (b, 1, y, x) bool.
    """
    error = (probability - truth).square()
    near = _mean_where(error, counted & (truth > 0.5))
    far = _mean_where(error, counted & (truth < 0.5))
    return (0.5 * (near + far)).mean()


def offset_loss(offset: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Return the absolute error, summed over x and y.

    Args:
        offset: (b, 2, y, x) cells.
        truth: (b, 2, y, x) cells.
        counted: (b, 1, y, x) bool.
    """
    error = (offset - truth).abs().sum(1, keepdim=True)
    return _mean_where(error, counted).mean()


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Return each sample's mean over its counted values, 0 where it has none."""
    total = torch.where(counted, values, 0.0).flatten(1).sum(1)
    return total / counted.flatten(1).sum(1).clamp(min=1)
