"""OccFeat: predict which voxels lidar points lie in, and what a teacher sees there.

Sirko-Galouchenko et al., "OccFeat: Self-supervised Occupancy Feature Prediction for Pretraining
BEV Segmentation Networks", 2024, section 3. Each sample has its own means, and the loss is the
mean over samples; so several small batches, on one process or many, equal one large batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bev_perception.model.tensors import BevPlane
from bev_training.data.batch import Batch
from bev_training.fit.settings import TrainConfig
from bev_training.objectives.by_sample import means_by_sample
from bev_training.objectives.feature_targets import feature_targets
from bev_training.objectives.unsplat import UnsplatHead


class OccFeatObjective(nn.Module):
    """occupancy * L_occ + lambda_feat * L_feat (equation 1), with the weights of `OccFeatConfig`.

    L_occ (equation 2) is the binary cross-entropy over all voxels of the grid, seen by a camera or
    not. L_feat (equation 3) is the negative cosine over the occupied voxels that a camera sees. A
    sample without lidar points has neither: both are 0 there.
    """

    def __init__(self, config: TrainConfig, teacher_channels: int) -> None:
        """Build the head with random weights (PyTorch's global seed).

        Args:
            config: of the run.
            teacher_channels: of the features; not asked for where `lambda_feat` is 0.
        """
        super().__init__()
        self.config, self.grid = config.occfeat, config.model.grid
        self.teacher_px = config.teacher.size_px
        features = teacher_channels if self.config.lambda_feat else 0
        self.head = UnsplatHead(config.model.channels, self.grid.z_cells, features)
        if not self.config.occupancy:
            # Not learned; several processes wait for the gradients of all that is.
            self.head.occupancy.requires_grad_(False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what `loss` gives, 'loss' first."""
        occupancy = ('occupancy',) if self.config.occupancy else ()
        features = ('features', 'feature_voxels') if self.config.lambda_feat else ()
        return ('loss', *occupancy, *features, 'dropped_points')

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of what `scores` gives."""
        occupancy = ('occupancy_iou', 'occupancy_bce') if self.config.occupancy else ()
        return (*occupancy, *(('feature_cosine',) if self.config.lambda_feat else ()))

    def loss(self, plane: BevPlane, batch: Batch) -> dict[str, Tensor]:
        """Return scalars: each term without its weight, 'loss', which is to be minimised, and per
        sample the voxels that 'features' counts and the lidar points that are no numbers.

        Args:
            plane: of the batch, with gradient.
            batch: with `lidar`, and `teacher` with features where `lambda_feat` is not 0.
        """
        assert batch.lidar is not None
        rows = self.head.rows(plane.features)
        b = len(rows)
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=rows.device)
        if self.config.occupancy:
            terms['occupancy'] = (
                self.head.occupancy_bce(
                    rows, batch.lidar.occupied, batch.lidar.known, self.config.pos_weight
                )
                / b
            )
            total = total + self.config.occupancy * terms['occupancy']
        if self.config.lambda_feat:
            cosine, samples = self._cosine(rows, batch)
            terms['features'] = -means_by_sample(cosine, samples, b).mean()
            terms['feature_voxels'] = cosine.new_tensor(len(cosine) / b)
            total = total + self.config.lambda_feat * terms['features']
        return {'loss': total, **terms, 'dropped_points': batch.lidar.dropped.float().mean()}

    @torch.no_grad()
    def scores(self, plane: BevPlane, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return sums and counts in float64 that add up over batches and processes.

        Intersection and union of the voxels at 0.5; binary cross-entropy and number of the samples
        with lidar points; cosine and number of the voxels with features.
        """
        assert batch.lidar is not None
        rows = self.head.rows(plane.features)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if self.config.occupancy:
            known, occupied = batch.lidar.known, batch.lidar.occupied
            logits = self.head.occupancy_logits(rows).float()
            predicted = (logits >= 0) & known[:, None, None, None]
            found['occupancy_iou'] = (predicted & occupied).sum(), (predicted | occupied).sum()
            bce = F.binary_cross_entropy_with_logits(logits, occupied.float(), reduction='none')
            found['occupancy_bce'] = bce.mean((1, 2, 3))[known].sum(), known.sum()
        if self.config.lambda_feat:
            cosine, samples = self._cosine(rows, batch)
            found['feature_cosine'] = cosine.double().sum(), samples.new_tensor(len(samples))
        return {name: (a.double(), b.double()) for name, (a, b) in found.items()}

    def _cosine(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cosine between predicted features and the teacher's (k,) float32, of all
        occupied voxels that a camera sees, and the samples (k,) that they belong to.
        """
        assert batch.lidar is not None and batch.teacher is not None
        voxels = batch.lidar.occupied.nonzero()
        targets, seen = feature_targets(
            batch.teacher, voxels, grid=self.grid, size_px=self.teacher_px
        )
        voxels = voxels[seen]
        features = self.head.features_at(rows, voxels).float()
        return F.cosine_similarity(features, targets, dim=1), voxels[:, 0]
