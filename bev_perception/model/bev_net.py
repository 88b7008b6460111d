"""BEV volume → BEV plane: height compressor and ResNet-18 decoder of SimpleBEV.

Networks that have a plane already (BEVFormer) use the decoder alone.

Harley et al., "Simple-BEV", 2023, section 3: heights are folded into channels and compressed by
one 3x3 convolution; three ResNet-18 stages at /2, /4, /8 with skip connections refine the plane.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bev_perception.model import torchvision_ops as torchvision_ops  # before timm
from bev_perception.model.norm import instance_norm

import timm  # isort: skip


class BevNet(nn.Module):
    """(b, c, z, y, x) features → (b, c, y, x)."""

    def __init__(self, channels: int, z_cells: int) -> None:
        """Build with random weights; without heights (0), there is only `refine`."""
        super().__init__()
        if z_cells:
            self.compress = nn.Sequential(
                nn.Conv2d(channels * z_cells, channels, 3, padding=1, bias=False),
                instance_norm(channels),
                nn.GELU(),
            )
        resnet = timm.create_model('resnet18', pretrained=False, in_chans=channels)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act1)
        self.down1, self.down2, self.down3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.up2, self.up1, self.up0 = UpBlock(256, 128), UpBlock(128, 64), UpBlock(64, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Compress heights (folded height-major) and refine the plane."""
        # Of a lifted volume this is a view, in channels_last. `reshape` gives a batch of one other
        # strides, of the same meaning, in which convolutions do not know channels_last: they would
        # copy the largest tensor of the network, forward and backward.
        heights = features.permute(0, 3, 4, 2, 1).flatten(3).permute(0, 3, 1, 2)
        return self.refine(self.compress(heights))

    def refine(self, plane: Tensor) -> Tensor:
        """Let every cell see its surroundings; (b, c, y, x) stays its shape."""
        half = self.down1(self.stem(plane))
        quarter = self.down2(half)
        out: Tensor = self.up2(self.down3(quarter), quarter)
        return self.up0(self.up1(out, half), plane)


class UpBlock(nn.Module):
    """Bring a map to the size of a skip connection and add it."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm = instance_norm(channels_out)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Return a map of `skip`'s size.

        A 1x1 convolution and bilinear upsampling commute; reducing first costs a quarter.
        """
        deep = self.reduce(deep)
        deep = F.interpolate(deep, size=skip.shape[-2:], mode='bilinear', align_corners=False)
        out: Tensor = self.norm(deep) + skip
        return out
