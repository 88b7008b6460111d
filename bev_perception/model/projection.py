"""What a network needs to know of its cameras: made once per calibration, used for every image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bev_perception.model import simple_bev_compat as compat
from bev_perception.model.anchors import Anchors, build_anchors
from bev_perception.model.backbone import STRIDE
from bev_perception.model.config import ModelConfig
from bev_perception.model.lift_table import LiftTable, build_batch_table
from bev_perception.model.tensors import BevInputs


@dataclass(frozen=True, eq=False, kw_only=True)
class Projection:
    """Where the cells of b view sets lie in their images.

    Attributes:
        valid: (b, y, x) bool, whether a live camera sees any height of the cell.
        table: of SimpleBEV, from features to voxels; None otherwise.
        anchors: of BEVFormer, from cells to features; None otherwise.
        to_grid: of imported weights, where the grid's cells lie in the network's own plane.
    """

    valid: Tensor
    table: LiftTable | None = None
    anchors: Anchors | None = None
    to_grid: compat.ToGrid | None = None


def build_projection(config: ModelConfig, inputs: BevInputs) -> Projection:
    """Make the projection of the cameras of `inputs`; its images are not looked at."""
    cameras = (inputs.K, inputs.ego_T_cam, inputs.live)
    width, height = config.image_size_px
    feature_px = (width // STRIDE, height // STRIDE)
    if config.compat:
        return _compat_projection(config, inputs, feature_px)
    if config.network == 'bevformer':
        anchors = build_anchors(
            *cameras, grid=config.grid, size_px=config.image_size_px, feature_px=feature_px
        )
        return Projection(valid=anchors.valid, anchors=anchors)
    table = build_batch_table(
        *cameras, grid=config.grid, size_px=config.image_size_px, feature_px=feature_px
    )
    return Projection(valid=table.valid.any(1), table=table)


def _compat_projection(
    config: ModelConfig, inputs: BevInputs, feature_px: tuple[int, int]
) -> Projection:
    ref_T_cam, ego_T_ref = compat.from_reference(inputs.ego_T_cam, inputs.live)
    cameras, table, anchors = (inputs.K, ref_T_cam, inputs.live), None, None
    if config.network == 'bevformer':
        anchors = compat.build_compat_anchors(
            *cameras, size_px=config.image_size_px, feature_px=feature_px
        )
        seen = anchors.valid
    else:
        table = compat.build_batch_compat_table(
            *cameras, size_px=config.image_size_px, feature_px=feature_px
        )
        seen = table.valid.any(1)
    places = compat.to_grid(ego_T_ref, config.grid)
    valid = compat.resample_mask(seen, places)
    return Projection(valid=valid, table=table, anchors=anchors, to_grid=places)
