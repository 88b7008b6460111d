"""BEV plane → one logit per class and cell."""

from __future__ import annotations

from torch import Tensor, nn

from bev_perception.model.norm import instance_norm


class SegmentationHead(nn.Module):
    """(b, c, y, x) → (b, classes, y, x); classes are independent (a crosswalk is also road)."""

    def __init__(self, channels: int, classes: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            instance_norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, classes, 1),
        )

    def forward(self, plane: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layers(plane)
        return logits
