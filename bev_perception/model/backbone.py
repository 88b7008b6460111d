"""Images → features at stride 8 (SimpleBEV's encoder, with any timm backbone).

Harley et al., "Simple-BEV", 2023, section 3: the stride-16 map is upsampled, joined with the
stride-8 one, and mixed by two 3x3 convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bev_perception.model import torchvision_ops as torchvision_ops  # before timm
from bev_perception.model.norm import instance_norm

import timm  # isort: skip

STRIDE = 8
# Width of the mixing convolutions: (at most, per channel of the features). SimpleBEV's for 128.
_MIX_WIDTH = {
    'tf_efficientnet_lite0': (128, 2),
    'efficientnet_b0': (128, 2),
    'tf_efficientnet_b0': (128, 2),
    'tf_efficientnet_b4': (128, 2),
    'resnet18': (256, 2),
    'resnet50': (512, 4),
    'resnet101': (512, 4),
}


class ImageEncoder(nn.Module):
    """(b, 3, h, w) normalised images → (b, channels, h/8, w/8)."""

    def __init__(self, backbone: str, channels: int) -> None:
        """Build with random weights; `bev_training` loads pretrained ones."""
        super().__init__()
        self.trunk = timm.create_model(
            backbone,
            pretrained=False,
            features_only=True,
            feature_cls='getter',
            out_indices=(2, 3),
        )
        skip, deep = self.trunk.feature_info.channels()
        most, per_channel = _MIX_WIDTH[backbone]
        width = max(channels, min(most, per_channel * channels))
        self.mix = nn.Sequential(
            nn.Conv2d(skip + deep, width, 3, padding=1, bias=False),
            instance_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            instance_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images of any batch size."""
        return self.fuse(*self.trunk(images))

    def fuse(self, skip: Tensor, deep: Tensor) -> Tensor:
        """Mix the trunk's maps at stride 8 and 16."""
        deep = F.interpolate(deep, size=skip.shape[-2:], mode='bilinear', align_corners=False)
        features: Tensor = self.mix(torch.cat([skip, deep], 1))
        return features
