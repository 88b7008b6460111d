"""Parameter-free lifting: every voxel takes the mean of the image features that its centre hits.

Harley et al., "Simple-BEV", 2023, section 3, in the gravity-aligned ego frame and half-pixel
correct: pixel u of the image is feature (u + 0.5) / stride - 0.5. A voxel is seen by a camera when
its centre lies in front of it and inside its image. `lift` is the differentiable form for
training; `LiftTable` is the same as a sparse matrix, for inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.tensors import FeatureVolume

_NEAR_M = 0.1  # nearer voxels are inside the camera's housing, and 1/z explodes


def sample(features: Tensor, uv: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Sample maps bilinearly at pixels of the image that they were made from.

    The only caller of `grid_sample`. Maps are continued past their border, by half a feature.

    Args:
        features: (b, c, hf, wf).
        uv: (b, p, 2) pixels of an image of `size_px` = (width, height), centres at integers.

    Returns:
        (b, c, p)
    """
    size = torch.tensor(size_px, dtype=uv.dtype, device=uv.device)
    normalised = 2 * (uv + 0.5) / size - 1
    # 16-bit features are sampled in float32: 16-bit coordinates are wrong by tenths of a feature.
    dtype = torch.promote_types(features.dtype, uv.dtype)
    out = F.grid_sample(
        features.to(dtype),
        normalised[:, None].to(dtype),
        mode='bilinear',
        padding_mode='border',
        align_corners=False,
    )
    return out[:, :, 0]


def project(
    points_ego: Tensor, K: Tensor, ego_T_cam: Tensor, size_px: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Project points into pinhole cameras.

    Args:
        points_ego: (p, 3) metres.
        K: (..., 3, 3) pixels.
        ego_T_cam: (..., 4, 4).
        size_px: (width, height) of the images.

    Returns:
        (..., p, 2) pixels, finite everywhere, and (..., p) whether the camera sees the point.
    """
    # K · cam_T_ego in one affine map; R is orthonormal, so its inverse is its transpose. Neither
    # float64 nor sums are touched by autocast and TF32, which would cost several pixels.
    R, t = ego_T_cam[..., :3, :3].double(), ego_T_cam[..., :3, 3].double()
    A = K.double() @ R.transpose(-1, -2)
    b = -(A @ t[..., None])[..., None, :, 0].to(points_ego.dtype)
    x_to_q, y_to_q, z_to_q = A.to(points_ego.dtype)[..., None, :, :].unbind(-1)
    x, y, z = points_ego[:, None].unbind(-1)
    q = x * x_to_q + y * y_to_q + z * z_to_q + b
    z = q[..., 2]
    front = z > _NEAR_M
    uv = q[..., :2] / torch.where(front, z, torch.ones_like(z))[..., None]
    width, height = size_px
    u, v = uv[..., 0], uv[..., 1]
    inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    return uv, front & inside


@lru_cache(maxsize=4)
def voxel_centers(grid: BevGrid, device: torch.device) -> Tensor:
    """Return the centres of the grid's voxels, (z·y·x, 3) float32, z slowest. Kept: read only."""
    # Kept for training too, so never one of inference mode's tensors, which autograd refuses.
    with torch.inference_mode(False):
        centers = torch.as_tensor(grid.voxel_centers(), dtype=torch.float32, device=device)
        return centers.reshape(-1, 3)


def lift(
    features: Tensor,
    K: Tensor,
    ego_T_cam: Tensor,
    live: Tensor,
    *,
    grid: BevGrid,
    size_px: tuple[int, int],
) -> FeatureVolume:
    """Gather features of n cameras in the grid: the masked mean over the cameras that see a voxel.

    One camera at a time, so that memory holds one volume, not n.

    Args:
        features: (b, n, c, hf, wf).
        K: (b, n, 3, 3) of the images of `size_px`.
        ego_T_cam: (b, n, 4, 4).
        live: (b, n) bool.
        grid: the volume.
        size_px: (width, height).
    """
    b, n, c = features.shape[:3]
    points = voxel_centers(grid, features.device)
    total = features.new_zeros(b, c, len(points))
    count = features.new_zeros(b, 1, len(points))
    for i in range(n):
        uv, seen = project(points, K[:, i], ego_T_cam[:, i], size_px)
        weight = (seen & live[:, i, None])[:, None].to(features.dtype)
        total = total + sample(features[:, i], uv, size_px) * weight
        count = count + weight
    mean = total / count.clamp(min=1)
    return FeatureVolume(
        features=mean.reshape(b, c, *grid.shape), valid=(count > 0).reshape(b, *grid.shape)
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class LiftTable:
    """`lift` of one view set as a sparse matrix: voxels x feature pixels, for fixed cameras.

    Attributes:
        pixels: (k,) int32 feature pixels, indices into (n · hf · wf).
        weights: (k,) float32 bilinear weights divided by the number of cameras.
        offsets: (y · x · z,) int32 where each voxel's entries start; z fastest.
        valid: (z, y, x) bool.
    """

    pixels: Tensor
    weights: Tensor
    offsets: Tensor
    valid: Tensor


def build_table(
    K: Tensor,
    ego_T_cam: Tensor,
    live: Tensor,
    *,
    grid: BevGrid,
    size_px: tuple[int, int],
    feature_px: tuple[int, int],
) -> LiftTable:
    """Make the table of one view set.

    Args:
        K: (n, 3, 3), `ego_T_cam`: (n, 4, 4), `live`: (n,).
        ego_T_cam: see K.
        live: see K.
        grid: the volume.
        size_px: (width, height) of the images.
        feature_px: (width, height) of the feature maps.
    """
    z, y, x = grid.shape
    points = voxel_centers(grid, K.device)
    points = points.reshape(z, y * x, 3).transpose(0, 1).reshape(-1, 3)  # z fastest
    uv, seen = project(points, K, ego_T_cam, size_px)
    seen = seen & live[:, None]
    count = seen.sum(0)
    voxel, cam = seen.T.nonzero(as_tuple=True)  # sorted by voxel
    width, height = feature_px
    scale = uv.new_tensor([width / size_px[0], height / size_px[1]])
    at = (uv[cam, voxel] + 0.5) * scale - 0.5
    low = at.floor()
    frac = at - low
    # Clamping after weighing continues the map past its border, as `sample` does.
    x0, x1 = (low[:, 0] + d for d in (0, 1))
    y0, y1 = (low[:, 1] + d for d in (0, 1))
    columns = torch.stack([x0, x1, x0, x1], 1).clamp(0, width - 1)
    rows = torch.stack([y0, y0, y1, y1], 1).clamp(0, height - 1)
    fx, fy = frac[:, 0], frac[:, 1]
    weights = (
        torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], 1)
        / count[voxel, None]
    )
    pixels = (cam[:, None] * height + rows) * width + columns
    offsets = 4 * (count.cumsum(0) - count)
    return LiftTable(
        pixels=pixels.reshape(-1).int(),
        weights=weights.reshape(-1),
        offsets=offsets.int(),
        valid=(count > 0).reshape(y, x, z).permute(2, 0, 1),
    )


def lift_with_table(features: Tensor, table: LiftTable) -> Tensor:
    """Apply a table.

    Args:
        features: (n, c, hf, wf) of the view set that the table was made for.
        table: from `build_table`.

    Returns:
        (1, c, z, y, x), laid out in memory as (y, x, z, c).
    """
    z, y, x = table.valid.shape
    c = features.shape[1]
    rows = features.permute(0, 2, 3, 1).reshape(-1, c)
    out = F.embedding_bag(
        table.pixels,
        rows,
        table.offsets,
        mode='sum',
        per_sample_weights=table.weights.to(rows.dtype),
    )
    return out.reshape(1, y, x, z, c).permute(0, 4, 3, 1, 2)
