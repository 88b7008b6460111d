"""EfficientNet-Lite0 as a light teacher: ImageNet's classes, a tenth of a ViT-S's time."""

from __future__ import annotations

from torch import Tensor, nn

from bev_perception.errors import ConfigError
from bev_perception.model import torchvision_ops as torchvision_ops  # before timm

import timm  # isort: skip

BACKBONE = 'tf_efficientnet_lite0'
STRIDES = (8, 16, 32)
# Its weights want (pixel - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


class Lite0Maps(nn.Module):
    """(b, 3, height, width) normalised → (b, c, height / stride, width / stride).

    It pads as TensorFlow does, more on the right and below, yet with its trained weights a cell
    sees what is around its own place: the gradient's centre is within 2 px of it at stride 32.
    """

    def __init__(self, stride: int) -> None:
        """Build with random weights.

        Args:
            stride: 8, 16 or 32.

        Raises:
            ConfigError: it is another.
        """
        super().__init__()
        if stride not in STRIDES:
            raise ConfigError(
                f'teacher.block of efficientnet_lite0 is a stride: {STRIDES} or -1 (32), '
                f'not {stride}'
            )
        self.stride = stride
        self.trunk = timm.create_model(
            BACKBONE,
            pretrained=False,
            features_only=True,
            feature_cls='getter',
            out_indices=(2 + STRIDES.index(stride),),
        )

    @property
    def channels(self) -> int:
        """Of the maps."""
        return int(self.trunk.feature_info.channels()[0])

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps."""
        maps: Tensor = self.trunk(images)[0]
        return maps
