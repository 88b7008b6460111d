"""The pretraining head of OccFeat: from the plane back into the volume ("unsplatting").

Sirko-Galouchenko et al., "OccFeat", 2024, section 3.2. `dense` is the paper's form, layer by
layer. The other methods give the same numbers in a fraction of the operations and of the memory,
from two facts. All layers in the volume are 1x1x1, so a voxel's output depends on its column
alone: features are computed at chosen voxels only, and the occupancy of a few columns at a time.
And nothing lies between the layers before the Softplus, nor between those behind it up to the
occupancy, so each two are one matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bev_perception.model.norm import instance_norm
from bev_training.objectives.sum_in_parts import sum_in_parts

# Columns whose hidden values are there at once: a processor wants them in its cache, an
# accelerator wants few large steps.
_COLUMNS_CPU, _COLUMNS = 2**10, 2**14
# The loss is divided by this before its gradients and multiplied after: those of a part's biases
# are sums over 2**17 voxels, more than float16 can hold. A power of two changes no bit elsewhere.
_SMALLER = 2.0**5


class UnsplatHead(nn.Module):
    """Plane (b, c, y, x) → occupancy, and features, of the voxels above every cell.

    The first layer has no bias, which the normalisation behind it would take away again; where
    the paper says no more, the others have PyTorch's defaults (a bias, random weights).
    """

    def __init__(self, channels: int, z_cells: int, features: int) -> None:
        """Build with random weights (PyTorch's global seed).

        Args:
            channels: of the plane (N_B).
            z_cells: heights (Z_B).
            features: of a voxel (N_y); 0 predicts none.
        """
        super().__init__()
        self.z_cells = z_cells
        self.columns = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            instance_norm(channels),
            nn.ReLU(inplace=True),
        )
        self.unfold = nn.Conv2d(channels, channels * z_cells, 1)
        self.widen = nn.Conv3d(channels, 2 * channels, 1)
        self.narrow = nn.Conv3d(2 * channels, channels, 1)
        self.occupancy = nn.Conv3d(channels, 1, 1)
        self.features = nn.Conv3d(channels, features, 1) if features else None

    def dense(self, plane: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of occupancy (b, z, y, x) and all features (b, N_y, z, y, x).

        The paper's form: slow and large, the reference of everything else here.
        """
        heights = self.unfold(self.columns(plane))
        # Channels are z groups of N_B: height is the slower of the two.
        volume = heights.unflatten(1, (self.z_cells, -1)).transpose(1, 2)
        volume = self.narrow(F.softplus(self.widen(volume)))
        features = self.features(volume) if self.features is not None else None
        return self.occupancy(volume)[:, 0], features

    def forward(self, plane: Tensor, voxels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the logits of occupancy (b, z, y, x), and the features of chosen voxels.

        Args:
            plane: (b, c, y, x).
            voxels: (k, 4) int64 indices (b, z, y, x); None where no features are wanted.

        Returns:
            logits and (k, N_y), None without voxels.
        """
        rows = self.rows(plane)
        features = None if voxels is None else self.features_at(rows, voxels)
        return self.occupancy_logits(rows), features

    def rows(self, plane: Tensor) -> Tensor:
        """Return what the column of every cell is made of, (b, y, x, c)."""
        columns: Tensor = self.columns(plane)
        return columns.permute(0, 2, 3, 1)

    def occupancy_logits(self, rows: Tensor) -> Tensor:
        """Return the logits (b, z, y, x) of all voxels."""
        weights = *self._into_hidden(), *self._out_of_hidden()
        parts = rows.flatten(0, 2).split(_at_once(rows))
        logits = torch.cat([_logits(part, *weights) for part in parts])
        return logits.view(*rows.shape[:3], self.z_cells).permute(0, 3, 1, 2)

    def occupancy_bce(
        self, rows: Tensor, occupied: Tensor, known: Tensor, pos_weight: float = 1.0
    ) -> Tensor:
        """Return the binary cross-entropy, the mean over a sample's voxels, summed over samples.

        What `occupancy_logits` would give is neither kept nor computed again for the gradient.

        Args:
            rows: (b, y, x, c).
            occupied: (b, z, y, x) bool.
            known: (b,) bool, samples that count.
            pos_weight: of occupied voxels.
        """
        b, z, y, x = occupied.shape

        def part(rows: Tensor, occupied: Tensor, counted: Tensor, *weights: Tensor) -> Tensor:
            logits = _logits(rows, *weights).float()
            each = F.binary_cross_entropy_with_logits(
                logits,
                occupied.float(),
                weight=counted[:, None].float(),
                pos_weight=logits.new_tensor(pos_weight),
                reduction='none',
            )
            return each.sum() / _SMALLER

        fixed = (
            occupied.permute(0, 2, 3, 1).reshape(-1, z),
            known.view(b, 1, 1).expand(b, y, x).reshape(-1),
        )
        weights = *self._into_hidden(), *self._out_of_hidden()
        total = sum_in_parts(part, rows.flatten(0, 2), fixed, weights, at_once=_at_once(rows))
        return total * _SMALLER / (z * y * x)

    def features_at(self, rows: Tensor, voxels: Tensor) -> Tensor:
        """Return the features (k, N_y) of voxels (k, 4), indices (b, z, y, x)."""
        assert self.features is not None
        into, shift = self._into_hidden()
        sample, height, y, x = voxels.unbind(1)
        height, order = height.sort(stable=True)
        at = rows[sample[order], y[order], x[order]]
        counts = torch.bincount(height, minlength=self.z_cells).tolist()
        hidden = torch.cat(
            [
                F.softplus(F.linear(some, into[z], shift[z]))
                for z, some in enumerate(at.split(counts))
            ]
        )
        volume = F.linear(hidden, self.narrow.weight.flatten(1), self.narrow.bias)
        features = F.linear(volume, self.features.weight.flatten(1), self.features.bias)
        return features[order.argsort()]

    def _into_hidden(self) -> tuple[Tensor, Tensor]:
        """Return one affine map per height from a column to what the Softplus takes:
        (z, 2c, c) and (z, 2c).
        """
        unfold, widen = self.unfold.weight.flatten(1), self.widen.weight.flatten(1)
        # In the weights' own precision: 16 bits are for activations.
        with torch.autocast(unfold.device.type, enabled=False):
            into = widen @ unfold.unflatten(0, (self.z_cells, -1))
            shift = self.unfold.bias.view(self.z_cells, -1) @ widen.T + self.widen.bias
        return into, shift

    def _out_of_hidden(self) -> tuple[Tensor, Tensor]:
        """Return the affine map from what the Softplus gives to a logit: (1, 2c) and (1,)."""
        narrow, occupancy = self.narrow.weight.flatten(1), self.occupancy.weight.flatten(1)
        with torch.autocast(narrow.device.type, enabled=False):
            return occupancy @ narrow, occupancy @ self.narrow.bias + self.occupancy.bias


def _at_once(rows: Tensor) -> int:
    return _COLUMNS_CPU if rows.device.type == 'cpu' else _COLUMNS


def _logits(rows: Tensor, into: Tensor, shift: Tensor, out: Tensor, bias: Tensor) -> Tensor:
    """Return the logits (n, z) of columns (n, c), given both maps."""
    hidden = F.softplus(F.linear(rows, into.flatten(0, 1), shift.flatten()))
    return F.linear(hidden.unflatten(1, (len(into), -1)), out, bias)[..., 0]
