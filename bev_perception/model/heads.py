"""BEV plane → what is in a cell, and where objects have their middles."""

from __future__ import annotations

from torch import Tensor, nn

from bev_perception.model.norm import instance_norm


class BevHead(nn.Module):
    """(b, c, y, x) → (b, outputs, y, x): a 3x3 convolution and a 1x1 one, for any of the heads.

    Classes are independent of each other (a crosswalk is also road), so their outputs are logits
    of sigmoids; so is the one of an object's middle. Offsets are cells along x and y. As in
    Harley et al., "Simple-BEV", 2023.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            instance_norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, outputs, 1),
        )

    def forward(self, plane: Tensor) -> Tensor:
        """Return the outputs, unbounded."""
        out: Tensor = self.layers(plane)
        return out
