"""What voxels look like to a teacher: its features at their centres, the mean over the cameras.

Sirko-Galouchenko et al., "OccFeat", 2024, section 3.3. Features are averaged as they are, before
any normalisation, and there is no test of occlusion: a voxel behind a car takes the car's features
from the camera that sees the car.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.lift import project, sample, voxel_centers
from bev_training.data.batch import TeacherViews


def centers_of(voxels: Tensor, grid: BevGrid) -> Tensor:
    """Return the centres (k, 3), metres, ego frame, of voxels (k, 3), indices (z, y, x)."""
    z, y, x = voxels.unbind(1)
    _, rows, columns = grid.shape
    return voxel_centers(grid, voxels.device)[(z * rows + y) * columns + x]


@torch.no_grad()
def feature_targets(
    views: TeacherViews, voxels: Tensor, *, grid: BevGrid, size_px: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the features of the voxels that a live camera sees, and which voxels those are.

    A map covers its whole image, so a feature lies in the middle of its patch: of patches of 14
    pixels, feature (i, j) is pixel (14 j + 6.5, 14 i + 6.5). Between them maps are bilinear, and
    beyond the middle of the last patch constant.

    Args:
        views: of a batch, with features.
        voxels: (k, 4) int64 indices (b, z, y, x), sorted by b.
        grid: the volume that they are indices of.
        size_px: (width, height) of the teacher's images.

    Returns:
        (m, c) float32, and (k,) bool with m voxels that are seen, in their order.
    """
    assert views.features is not None
    b, n, c = views.features.shape[:3]
    centers = centers_of(voxels[:, 1:], grid)
    found = [centers.new_zeros(0, c)]
    seen_by_any = [voxels.new_zeros(0, dtype=torch.bool)]
    counts = voxels[:, 0].bincount(minlength=b).tolist()
    for i, points in enumerate(centers.split(counts)):
        uv, seen = project(points, views.K[i], views.ego_T_cam[i], size_px)
        seen &= views.live[i, :, None]
        valid = seen.any(0)
        uv, seen = uv[:, valid], seen[:, valid]
        total = centers.new_zeros(c, uv.shape[1])
        for cam in range(n):
            values = sample(views.features[i, cam, None], uv[cam, None], size_px)[0]
            total += torch.where(seen[cam], values, 0)
        found.append((total / seen.sum(0)).T)
        seen_by_any.append(valid)
    return torch.cat(found), torch.cat(seen_by_any)
