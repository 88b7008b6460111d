"""BEVFormer: every cell of the plane asks the images, and the plane of the instant before.

Li et al., "BEVFormer", 2022, in the form that Harley et al., "Simple-BEV", 2023, compare with:
learned queries, and layers of deformable self-attention, deformable cross-attention over a cell's
heights, and a feed-forward network, each with a residual and a layer norm behind it. With
`attention.temporal`, self-attention is that of equation 5: it looks at the previous plane, brought
into the present ego frame, and at the present one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bev_perception.errors import ConfigError
from bev_perception.model.anchors import Anchors, plane_anchors
from bev_perception.model.config import ModelConfig
from bev_perception.model.deformable import attend


class BevFormer(nn.Module):
    """(b, n, c, hf, wf) image features → (b, c, y, x)."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights."""
        super().__init__()
        shape = (config.channels, *config.grid.shape[1:])
        self.queries = nn.Parameter(0.1 * torch.randn(shape))
        self.positions = nn.Parameter(0.1 * torch.randn(shape))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.attention.layers))

    def forward(
        self,
        features: Tensor,
        anchors: Anchors,
        before: tuple[Tensor, Tensor] | None = None,
        *,
        transposed_self: bool = False,
    ) -> Tensor:
        """Return the plane of every item, (b, c, y, x), laid out in memory as (b, y, x, c).

        Args:
            features: (b, n, c, hf, wf), of any finite value where a camera is missing.
            anchors: which cells the cameras of these features see.
            before: of a temporal network, the plane before in the present ego frame (b, c, y, x)
                and the cells where it is known (b, y, x); None where nothing is.
            transposed_self: self-attention looks at (y, x) for (x, y), for weights that were
                trained so; of square planes.

        Raises:
            ConfigError: `transposed_self` of a plane that is not square.
        """
        b, (c, y, x) = len(features), self.queries.shape
        if transposed_self and y != x:
            raise ConfigError(f'transposed self-attention needs a square plane; it is {y} x {x}')
        plane = plane_anchors(b, (y, x), features.device, transposed=transposed_self)
        maps = features.permute(0, 1, 3, 4, 2).flatten(0, 1)
        query, position = (
            rows.flatten(1).T.repeat(b, 1) for rows in (self.queries, self.positions)
        )
        known = None
        if before is not None:
            known = before[0].permute(0, 2, 3, 1).reshape(-1, c), before[1].reshape(-1, 1)
        for layer in self.layers:
            query = layer(query, position, maps, anchors, plane, known)
        return query.reshape(b, y, x, c).permute(0, 3, 1, 2)


class Layer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network; norms follow the residuals."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights."""
        super().__init__()
        c, hidden = config.channels, config.attention.hidden
        self.self_attention = SelfAttention(config)
        self.norm1 = nn.LayerNorm(c)
        self.cross_attention = CrossAttention(config)
        self.norm2 = nn.LayerNorm(c)
        self.ffn = nn.Sequential(nn.Linear(c, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, c))
        self.norm3 = nn.LayerNorm(c)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        maps: Tensor,
        anchors: Anchors,
        plane: Anchors,
        known: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Return (q, c) of queries and their positions (q, c), q = b · y · x, see the parts."""
        query = self.norm1(self.self_attention(query, position, plane, known))
        query = self.norm2(self.cross_attention(query, position, maps, anchors))
        out: Tensor = self.norm3(query + self.ffn(query))
        return out


class SelfAttention(nn.Module):
    """Cells look around themselves in the plane, and in the plane before if temporal."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights."""
        super().__init__()
        c = config.channels
        self.queue = 2 if config.attention.temporal else 1
        self.attention = DeformableAttention(config, queue=self.queue, project=True)
        self.output_proj = nn.Linear(c, c)
        self.dropout = nn.Dropout(config.attention.dropout)

    def forward(
        self, query: Tensor, position: Tensor, plane: Anchors, known: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Return the queries with what they saw.

        Args:
            query: (q, c).
            position: (q, c) learned, only to choose where to look.
            plane: every cell's place in the plane.
            known: the plane before (q, c) and whether it is known (q, 1). Elsewhere the present
                one takes its place, as it does at a first instant.
        """
        placed = query + position
        shape = plane.count.shape
        if self.queue == 1:
            seen = self.attention(placed, placed.reshape(*shape, -1), plane)
        else:
            before = query if known is None else torch.where(known[1], known[0].to(query), query)
            values = torch.stack([before, query]).reshape(2 * shape[0], *shape[1:], -1)
            seen = self.attention(torch.cat([before, placed], -1), values, plane)
        out: Tensor = self.dropout(self.output_proj(seen)) + query
        return out


class CrossAttention(nn.Module):
    """Cells look at the images of the cameras that see them: the mean over these."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.attention = DeformableAttention(config)
        self.output_proj = nn.Linear(config.channels, config.channels)
        self.dropout = nn.Dropout(config.attention.dropout)

    def forward(self, query: Tensor, position: Tensor, maps: Tensor, anchors: Anchors) -> Tensor:
        """Return the queries with what they saw: the output layer's bias where no camera looks.

        Args:
            query: (q, c).
            position: (q, c).
            maps: (b · n, hf, wf, c).
            anchors: where the cells lie in these.
        """
        seen = self.attention(query + position, maps, anchors)
        out: Tensor = self.dropout(self.output_proj(seen)) + query
        return out


class DeformableAttention(nn.Module):
    """Queries choose where to look, in `queue` sets of maps, and how much each place counts."""

    def __init__(self, config: ModelConfig, *, queue: int = 1, project: bool = False) -> None:
        """Build so that head h looks along direction h, at 1, 2, ... pixels, all alike.

        Args:
            config: of the network.
            queue: number of sets of maps.
            project: whether a linear layer mixes the heads at the end.
        """
        super().__init__()
        c, heads, points = config.channels, config.attention.heads, config.attention.points
        self.shape = (queue, heads, points)
        self.sampling_offsets = nn.Linear(queue * c, queue * heads * points * 2)
        self.attention_weights = nn.Linear(queue * c, queue * heads * points)
        self.value_proj = _xavier(c)
        self.output_proj = _xavier(c) if project else nn.Identity()
        angle = torch.arange(heads) * (2 * math.pi / heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        rings = ring[:, None] * torch.arange(1, points + 1)[:, None]  # (heads, points, 2)
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_(rings.expand(*self.shape, 2).flatten())
            self.attention_weights.weight.zero_()
            self.attention_weights.bias.zero_()

    def forward(self, query: Tensor, maps: Tensor, anchors: Anchors) -> Tensor:
        """Return (q, c), the mean over the queue.

        Args:
            query: (q, queue · c).
            maps: (queue · m, h, w, c).
            anchors: pairs of queries and maps, the same in every set.
        """
        queue, heads, points = self.shape
        with torch.autocast(query.device.type, enabled=False):
            # 16 bits are too few for coordinates.
            wide = query.float() if query.dtype.itemsize < 4 else query
            offsets = self.sampling_offsets(wide).reshape(-1, queue, heads, points, 2)
            weights = self.attention_weights(wide).reshape(-1, queue, heads, points).softmax(-1)
        values = self.value_proj(maps).unflatten(-1, (heads, -1))
        parts = zip(values.chunk(queue), offsets.unbind(1), weights.unbind(1), strict=True)
        seen = [attend(*part, anchors) for part in parts]
        out: Tensor = self.output_proj(seen[0] if queue == 1 else torch.stack(seen).mean(0))
        return out


def _xavier(channels: int) -> nn.Linear:
    layer = nn.Linear(channels, channels)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
