"""The network as one object: encode images, bring them into the plane, say what is there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bev_perception.model import simple_bev_compat as compat
from bev_perception.model.backbone import ImageEncoder
from bev_perception.model.bev_net import BevNet
from bev_perception.model.bevformer import BevFormer
from bev_perception.model.config import ModelConfig
from bev_perception.model.heads import BevHead
from bev_perception.model.lift_table import lift_with_table
from bev_perception.model.memory import align
from bev_perception.model.projection import Projection, build_projection
from bev_perception.model.tensors import BevInputs, BevMemory, BevPlane, BevPrediction

_SURELY_NOT = -20.0  # logit of cells that the plane of imported weights does not have


class BevModel(nn.Module):
    """SimpleBEV or BEVFormer: the same encoder, decoder and heads, another way into the plane."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights (PyTorch's global seed)."""
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.backbone, config.channels)
        if config.compat:
            compat.fix_padding(self.encoder, config.backbone)
        attends = config.network == 'bevformer'
        own = config.grid if not config.compat else compat.NATIVE_GRID
        if attends:
            self.attention = BevFormer(replace(config, grid=own))
        self.bev_net = BevNet(config.channels, 0 if attends else own.z_cells)
        if config.classes:
            self.head = BevHead(config.channels, len(config.classes))
        if config.center_offset:
            self.center_head = BevHead(config.channels, 1)
            self.offset_head = BevHead(config.channels, 2)

    @property
    def temporal(self) -> bool:
        """Whether what was seen before matters."""
        return self.config.attention.temporal

    def project(self, inputs: BevInputs) -> Projection:
        """Return what depends on the cameras alone."""
        return build_projection(self.config, inputs)

    def image_features(self, inputs: BevInputs) -> Tensor:
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

    def plane(
        self,
        features: Tensor,
        projection: Projection,
        odom_T_ego: Tensor | None = None,
        memory: BevMemory | None = None,
    ) -> tuple[Tensor, BevMemory | None]:
        """Return the plane that the heads look at, and what to remember of this instant.

        Args:
            features: (b, n, c, h/8, w/8) of the images.
            projection: of their cameras.
            odom_T_ego: (b, 4, 4) float64, see `BevInputs`; of temporal networks.
            memory: of the instant before, if anything is known of it; likewise.
        """
        if projection.table is not None:
            return self.bev_net(lift_with_table(features, projection.table)), None
        assert projection.anchors is not None
        before = None
        if self.temporal and memory is not None and odom_T_ego is not None:
            before = align(memory, odom_T_ego, self.config.grid)
        plane = self.attention(
            features, projection.anchors, before, transposed_self=bool(self.config.compat)
        )
        kept = None
        if self.temporal and odom_T_ego is not None:
            known = projection.valid if before is None else projection.valid | before[1]
            kept = BevMemory(features=plane.detach(), valid=known, odom_T_ego=odom_T_ego)
        return self.bev_net.refine(plane), kept

    def heads(self, plane: Tensor) -> dict[str, Tensor]:
        """Return what every head says of a plane, by the names of `BevPrediction`."""
        # Without classes it was pretrained only: the plane is all there is.
        heads = {'logits': self.head(plane) if self.config.classes else plane[:, :0]}
        if self.config.center_offset:
            heads |= {'center': self.center_head(plane), 'offset': self.offset_head(plane)}
        return heads

    def see(self, inputs: BevInputs, memory: BevMemory | None = None) -> BevPlane:
        """Return the plane of a batch of view sets, in the grid (not of imported weights, whose
        plane is their own); arguments as of `forward`.
        """
        assert not self.config.compat
        plane, projection, kept = self._seen(inputs, memory)
        return BevPlane(features=plane, valid=projection.valid, memory=kept)

    def forward(self, inputs: BevInputs, memory: BevMemory | None = None) -> BevPrediction:
        """Return what all heads say of a batch of view sets.

        Args:
            inputs: images and cameras.
            memory: what a temporal network said of the instant before (`BevPrediction.memory`).
        """
        plane, projection, kept = self._seen(inputs, memory)
        return _in_grid(self.heads(plane), projection, kept)

    def _seen(
        self, inputs: BevInputs, memory: BevMemory | None
    ) -> tuple[Tensor, Projection, BevMemory | None]:
        projection = self.project(inputs)
        features = self.image_features(inputs)
        plane, kept = self.plane(features, projection, inputs.odom_T_ego, memory)
        return plane, projection, kept

    @torch.inference_mode()
    def infer(
        self,
        images: Tensor,
        projection: Projection,
        odom_T_ego: Tensor | None = None,
        memory: BevMemory | None = None,
    ) -> BevPrediction:
        """Return the logits of one view set through its projection; equal to `forward`'s.

        The heads of objects' middles, which help in training only, are left out.

        Args:
            images: (n, 3, h, w) the live cameras' images.
            projection: of these cameras.
            odom_T_ego: (1, 4, 4), see `plane`.
            memory: see `forward`.
        """
        features = self.encoder(images)[None]
        plane, kept = self.plane(features, projection, odom_T_ego, memory)
        return _in_grid({'logits': self.head(plane)}, projection, kept)


def _in_grid(
    heads: dict[str, Tensor], projection: Projection, memory: BevMemory | None
) -> BevPrediction:
    """Return what the heads say of the grid's cells, also where the plane is another."""
    places = projection.to_grid
    if places is not None:
        offset = heads.pop('offset', None)
        heads = {k: compat.resample(v, places, _SURELY_NOT) for k, v in heads.items()}
        if offset is not None:
            heads['offset'] = compat.turn_offsets(compat.resample(offset, places), places)
    return BevPrediction(valid=projection.valid, memory=memory, **heads)
