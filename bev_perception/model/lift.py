"""Parameter-free lifting: every voxel takes the mean of the image features that its centre hits.

Harley et al., "Simple-BEV", 2023, section 3, in the gravity-aligned ego frame and half-pixel
correct: pixel u of the image is feature (u + 0.5) / stride - 0.5. A voxel is seen by a camera when
its centre lies in front of it and inside its image. `lift` is the plain form; `lift_table` does
the same as a sparse matrix, many times faster.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.tensors import FeatureVolume

NEAR_M = 0.1  # nearer voxels are inside the camera's housing, and 1/z explodes


def sample(
    features: Tensor, uv: Tensor, size_px: tuple[int, int], *, outside: str = 'border'
) -> Tensor:
    """Sample maps bilinearly at pixels of the image that they were made from.

    The only caller of `grid_sample`.

    Args:
        features: (b, c, hf, wf).
        uv: (b, p, 2) pixels of an image of `size_px` = (width, height), centres at integers.
        size_px: see uv; of the maps themselves if `uv` are pixels of theirs.
        outside: 'border' continues the maps past their border, 'zeros' has nothing there.

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
        padding_mode=outside,
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
    x, y, z = points_ego.unbind(-1)
    u, v, seen = project_xyz(x, y, z, K, ego_T_cam, size_px)
    return torch.stack([u, v], -1), seen


def project_xyz(
    x: Tensor, y: Tensor, z: Tensor, K: Tensor, ego_T_cam: Tensor, size_px: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Project points whose coordinates are given apart, so that a grid's need not be spread out.

    Args:
        x: metres, of any shape that broadcasts with `y` and `z`.
        y: likewise.
        z: likewise.
        K: (..., 3, 3), see `project`.
        ego_T_cam: (..., 4, 4).
        size_px: (width, height) of the images.

    Returns:
        u, v and whether the camera sees the point, each (..., shape of the points).
    """
    # K · cam_T_ego in one affine map; R is orthonormal, so its inverse is its transpose. Neither
    # float64 nor sums are touched by autocast and TF32, which would cost several pixels.
    R, t = ego_T_cam[..., :3, :3].double(), ego_T_cam[..., :3, 3].double()
    A = K.double() @ R.transpose(-1, -2)
    b = -(A @ t[..., None])[..., 0]
    dims = max(x.ndim, y.ndim, z.ndim)

    def coordinate(row: int) -> Tensor:
        factors = torch.cat([A[..., row, :], b[..., row, None]], -1).to(x.dtype)
        to_x, to_y, to_z, shift = factors[(..., *[None] * dims, slice(None))].unbind(-1)
        return (x * to_x + y * to_y + z * to_z).add_(shift)

    depth = coordinate(2)
    seen = depth > NEAR_M
    depth = torch.where(seen, depth, 1)
    u, v = coordinate(0).div_(depth), coordinate(1).div_(depth)
    width, height = size_px
    seen &= (u >= -0.5) & (u < width - 0.5)
    seen &= (v >= -0.5) & (v < height - 0.5)
    return u, v, seen


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
