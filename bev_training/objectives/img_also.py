"""Img-ALSO: tell from the plane whether points near lidar points lie inside something.

The baseline of Sirko-Galouchenko et al., "OccFeat", 2024, section 4.2: ALSO (Boulch et al., CVPR
2023) for networks whose features lie in a plane, with cameras in place of the lidar network. Every
cell has to reconstruct its surroundings: each pair of a query and a cell near it is a prediction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.tensors import BevPlane
from bev_training.data.batch import Batch
from bev_training.fit.settings import TrainConfig
from bev_training.objectives.by_sample import means_by_sample


class ImgAlsoObjective(nn.Module):
    """BCE of occupancy + intensity * absolute error of intensity, over pairs of query and cell.

    Each sample has its own means over its pairs, and the loss is the mean over samples, so several
    small batches equal one large batch. A sample without queries has 0.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Build the decoder with random weights (PyTorch's global seed).

        Raises:
            ConfigError: the radius is so small that there would be queries without a cell.
        """
        super().__init__()
        self.config, self.grid = config.img_also, config.model.grid
        least = math.sqrt(0.5) * self.grid.cell_m
        if self.config.radius_m < least:
            raise ConfigError(
                f'img_also.radius_m is {self.config.radius_m:g}; with cells of '
                f'{self.grid.cell_m:g} m some points would have no cell that near; set it to at '
                f'least {math.ceil(1000 * least) / 1000:g}'
            )
        self.decoder = QueryDecoder(config.model.channels, outputs=2 if self._intensity else 1)

    @property
    def _intensity(self) -> bool:
        return self.config.intensity > 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what `loss` gives, 'loss' first."""
        intensity = ('intensity',) if self._intensity else ()
        return ('loss', 'occupancy', *intensity, 'dropped_points')

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of what `scores` gives."""
        intensity = ('query_intensity_error',) if self._intensity else ()
        return ('query_accuracy', 'query_bce', *intensity)

    def loss(self, plane: BevPlane, batch: Batch) -> dict[str, Tensor]:
        """Return scalars: each term without its weight, 'loss', which is to be minimised, and the
        lidar points per sample that are no numbers.

        Args:
            plane: of the batch, with gradient.
            batch: with queries in `lidar`.
        """
        assert batch.lidar is not None
        predicted, occupied, intensity, samples = self._predict(plane, batch)
        b = len(batch.keys)
        bce = F.binary_cross_entropy_with_logits(predicted[:, 0], occupied, reduction='none')
        terms = {'occupancy': means_by_sample(bce, samples, b).mean()}
        total = terms['occupancy']
        if self._intensity:
            said = intensity.isfinite()
            error = (predicted[said, 1] - intensity[said]).abs()
            terms['intensity'] = means_by_sample(error, samples[said], b).mean()
            total = total + self.config.intensity * terms['intensity']
        return {'loss': total, **terms, 'dropped_points': batch.lidar.dropped.float().mean()}

    @torch.no_grad()
    def scores(self, plane: BevPlane, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return sums and counts in float64 that add up over batches and processes.

        Pairs that are told right at 0.5 and all pairs; binary cross-entropy and number of the
        samples with queries; with intensity, the absolute error and number of pairs that have one.
        """
        predicted, occupied, intensity, samples = self._predict(plane, batch)
        logits, b = predicted[:, 0], len(batch.keys)
        right = (logits >= 0) == (occupied > 0.5)
        bce = F.binary_cross_entropy_with_logits(logits, occupied, reduction='none')
        known = samples.bincount(minlength=b) > 0
        pairs = right.new_ones(len(right), dtype=torch.float64)
        found = {
            'query_accuracy': (right.sum(), pairs.sum()),
            'query_bce': (means_by_sample(bce, samples, b).double().sum(), known.sum()),
        }
        if self._intensity:
            said = intensity.isfinite()
            error = (predicted[said, 1] - intensity[said]).abs().double()
            found['query_intensity_error'] = error.sum(), said.sum()
        return {name: (a.double(), b.double()) for name, (a, b) in found.items()}

    def _predict(self, plane: BevPlane, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return of every pair the outputs (p, 1 or 2), whether its query is occupied (p,) 0 or 1,
        the query's intensity (p,), 1 of the brightest point, and the sample (p,); float32.
        """
        lidar = batch.lidar
        assert lidar is not None and lidar.queries_m is not None
        assert lidar.query_occupied is not None and lidar.query_intensity is not None
        sample, query, y, x, relative = pairs_in_reach(
            lidar.queries_m, lidar.query_occupied >= 0, self.grid, self.config.radius_m
        )
        latent = plane.features.permute(0, 2, 3, 1)[sample, y, x].float()
        # Queries are told apart by centimetres, which 16 bits do not have at 4 m.
        with torch.autocast(latent.device.type, enabled=False):
            predicted = self.decoder(latent, relative)
        occupied = lidar.query_occupied[sample, query].float()
        intensity = lidar.query_intensity[sample, query].float() / self.config.intensity_full
        return predicted, occupied, intensity, sample


class QueryDecoder(nn.Module):
    """Features of cells (p, c), and points (p, 3) metres from their middles → (p, outputs)."""

    def __init__(self, channels: int, outputs: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels + 3, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.Linear(channels, outputs),
        )

    def forward(self, latent: Tensor, relative: Tensor) -> Tensor:
        """Return the outputs, unbounded."""
        out: Tensor = self.layers(torch.cat([latent, relative.to(latent.dtype)], 1))
        return out


def pairs_in_reach(
    queries_m: Tensor, counted: Tensor, grid: BevGrid, radius_m: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return all pairs of a query and a cell whose middle is up to `radius_m` from it in x and y.

    Args:
        queries_m: (b, q, 3) ego frame.
        counted: (b, q) bool, which of them count.
        grid: whose cells; their middles lie at height 0.
        radius_m: see above.

    Returns:
        (p,) int64 each: sample, query, and the cell's y and x; and (p, 3) float32 from the cell's
        middle to the query.
    """
    _, ys, xs = grid.shape
    sample, query = counted.nonzero().unbind(1)
    points = queries_m[sample, query].float()
    low = points.new_tensor([grid.x_range_m[0], grid.y_range_m[0]])
    own = ((points[:, :2] - low) / grid.cell_m).floor().long()
    reach = math.floor(radius_m / grid.cell_m + 0.5)  # from the query's own cell, in cells
    steps = torch.arange(-reach, reach + 1, device=points.device)
    cells = own[:, None] + torch.cartesian_prod(steps, steps)  # (query, candidate, 2)
    middles = low + (cells + 0.5) * grid.cell_m
    near = (points[:, None, :2] - middles).square().sum(-1) <= radius_m**2
    inside = (cells >= 0) & (cells < cells.new_tensor([xs, ys]))
    at, candidate = (near & inside.all(-1)).nonzero().unbind(1)
    x, y = cells[at, candidate].unbind(1)
    flat = F.pad(middles[at, candidate], (0, 1))
    return sample[at], query[at], y, x, points[at] - flat
