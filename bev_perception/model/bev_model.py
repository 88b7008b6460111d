"""The network as one object: encode images, lift, decode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bev_perception.model.backbone import STRIDE, ImageEncoder
from bev_perception.model.bev_net import BevNet
from bev_perception.model.config import ModelConfig
from bev_perception.model.heads import BevHead
from bev_perception.model.lift_table import LiftTable, build_batch_table, lift_with_table
from bev_perception.model.tensors import BevInputs, BevPrediction, FeatureVolume


class BevModel(nn.Module):
    """SimpleBEV: `forward(inputs)` is `decode(encode(inputs))`."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights (PyTorch's global seed)."""
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.backbone, config.channels)
        self.bev_net = BevNet(config.channels, config.grid.z_cells)
        self.head = BevHead(config.channels, len(config.classes))
        if config.center_offset:
            self.center_head = BevHead(config.channels, 1)
            self.offset_head = BevHead(config.channels, 2)

    def encode(self, inputs: BevInputs) -> FeatureVolume:
        """Return the image features in the BEV volume."""
        table = self.lift_table(inputs)
        features = self._image_features(inputs)
        return FeatureVolume(features=lift_with_table(features, table), valid=table.valid)

    def _image_features(self, inputs: BevInputs) -> Tensor:
        """Return (b, n, c, h/8, w/8), of any value where a camera is missing."""
        images, live = inputs.images.flatten(0, 1), inputs.live.flatten()
        if self.training and live.any() and not live.all():
            # Batch norms would take the zeros of missing cameras for images.
            encoded = self.encoder(images[live])
            features = encoded.new_zeros(len(images), *encoded.shape[1:])
            features[live] = encoded
        else:
            features = self.encoder(images)
        return features.unflatten(0, inputs.live.shape)

    def lift_table(self, inputs: BevInputs) -> LiftTable:
        """Return the lifting table of a batch of view sets."""
        width, height = self.config.image_size_px
        return build_batch_table(
            inputs.K,
            inputs.ego_T_cam,
            inputs.live,
            grid=self.config.grid,
            size_px=(width, height),
            feature_px=(width // STRIDE, height // STRIDE),
        )

    def decode(self, volume: FeatureVolume) -> BevPrediction:
        """Return what all heads say of a volume."""
        plane = self.bev_net(volume.features)
        heads = {}
        if self.config.center_offset:
            heads = {'center': self.center_head(plane), 'offset': self.offset_head(plane)}
        return BevPrediction(logits=self.head(plane), valid=volume.valid.any(1), **heads)

    def forward(self, inputs: BevInputs) -> BevPrediction:
        """Return what all heads say of a batch of view sets."""
        return self.decode(self.encode(inputs))

    @torch.inference_mode()
    def infer(self, images: Tensor, table: LiftTable) -> BevPrediction:
        """Return the logits of one view set through its table; equal to `forward`'s.

        The heads of objects' middles, which help in training only, are left out.

        Args:
            images: (n, 3, h, w) the live cameras' images.
            table: made for these cameras.
        """
        volume = lift_with_table(self.encoder(images)[None], table)
        return BevPrediction(logits=self.head(self.bev_net(volume)), valid=table.valid.any(1))
