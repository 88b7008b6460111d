"""The network as one object: encode images, lift, decode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bev_perception.model.backbone import ImageEncoder
from bev_perception.model.bev_net import BevNet
from bev_perception.model.config import ModelConfig
from bev_perception.model.heads import SegmentationHead
from bev_perception.model.lift import LiftTable, lift, lift_with_table
from bev_perception.model.tensors import BevInputs, BevPrediction, FeatureVolume


class BevModel(nn.Module):
    """SimpleBEV: `forward(inputs)` is `decode(encode(inputs))`."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights (PyTorch's global seed)."""
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.backbone, config.channels)
        self.bev_net = BevNet(config.channels, config.grid.z_cells)
        self.head = SegmentationHead(config.channels, len(config.classes))

    def encode(self, inputs: BevInputs) -> FeatureVolume:
        """Return the image features in the BEV volume."""
        b, n = inputs.images.shape[:2]
        features = self.encoder(inputs.images.flatten(0, 1)).unflatten(0, (b, n))
        return lift(
            features,
            inputs.K,
            inputs.ego_T_cam,
            inputs.live,
            grid=self.config.grid,
            size_px=self.config.image_size_px,
        )

    def decode(self, volume: FeatureVolume) -> BevPrediction:
        """Return the logits of a volume."""
        logits = self.head(self.bev_net(volume.features))
        return BevPrediction(logits=logits, valid=volume.valid.any(1))

    def forward(self, inputs: BevInputs) -> BevPrediction:
        """Return the logits of a batch of view sets."""
        return self.decode(self.encode(inputs))

    @torch.inference_mode()
    def infer(self, images: Tensor, table: LiftTable) -> BevPrediction:
        """Return the logits of one view set through its table; equal to `forward`.

        Args:
            images: (n, 3, h, w) the live cameras' images.
            table: made for these cameras.
        """
        features = lift_with_table(self.encoder(images), table)
        return self.decode(FeatureVolume(features=features, valid=table.valid[None]))
