"""Where the cells of the plane look: which cameras see a cell, and where its heights lie there.

Li et al., "BEVFormer", 2022, section 3.3: every cell is a pillar of points, its anchors. A camera
takes part in a cell's attention when it sees at least one of them, and the mean is over these
cameras. Every item of a batch has its own cameras, so each has its own list of pairs of a cell and
a camera; the lists lie one behind the other and none is filled up to another's length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.lift import NEAR_M, project_xyz, voxel_centers

FAR_PX = -1e6  # a place that no offset brings back into a map


@dataclass(frozen=True, eq=False, kw_only=True)
class Anchors:
    """The pairs of a cell and a map that it looks at, ordered by cell.

    Attributes:
        maps: (p,) int64 which map, an index into (b · n).
        cells: (p,) int64 which cell, ascending indices into (b · y · x).
        points: (p, z, 2) float32 (x, y) of the cell's anchors in pixels of the map, centres at
            integers; `FAR_PX` where an anchor lies behind the camera.
        count: (b, y, x) int64 number of maps that a cell looks at.
        maps_per_item: n.
    """

    maps: Tensor
    cells: Tensor
    points: Tensor
    count: Tensor
    maps_per_item: int

    @property
    def valid(self) -> Tensor:
        """(b, y, x) bool, whether a live camera sees any anchor of the cell."""
        return self.count > 0


def build_anchors(
    K: Tensor,
    ego_T_cam: Tensor,
    live: Tensor,
    *,
    grid: BevGrid,
    size_px: tuple[int, int],
    feature_px: tuple[int, int],
) -> Anchors:
    """Find the cells that every camera sees; the anchors of a cell are its voxels' centres.

    A camera sees an anchor that lies in front of it and inside its image (`lift.project_xyz`).

    Args:
        K: (b, n, 3, 3) of the images of `size_px`.
        ego_T_cam: (b, n, 4, 4).
        live: (b, n) bool; other cameras see nothing.
        grid: the volume.
        size_px: (width, height) of the images.
        feature_px: (width, height) of the feature maps.
    """
    zs, ys, xs = grid.shape
    centers = voxel_centers(grid, K.device).reshape(zs, ys, xs, 3)
    x, y, z = centers[:1, :1, :, 0], centers[:1, :, :1, 1], centers[:, :1, :1, 2]
    scale = [feature / size for feature, size in zip(feature_px, size_px, strict=True)]
    points, seen = [], []
    for item in zip(K.flatten(0, 1), ego_T_cam.flatten(0, 1), live.flatten(), strict=True):
        u, v, inside = project_xyz(x, y, z, item[0], item[1], size_px)
        # Pixel u of the image is feature (u + 0.5) / stride - 0.5.
        at = torch.stack([(c + 0.5) * s - 0.5 for c, s in zip((u, v), scale, strict=True)], -1)
        # Behind the camera `u` and `v` are of any value, and an offset could lead into the image.
        forward, origin = item[1][:3, 2], item[1][:3, 3]
        depth = x * forward[0] + y * forward[1] + z * forward[2] - (forward * origin).sum()
        points.append(at.masked_fill(((depth < 2 * NEAR_M) & ~inside)[..., None], FAR_PX))
        seen.append(inside & item[2])
    shape = (*live.shape, zs, ys, xs)
    return gather_anchors(torch.stack(points).reshape(*shape, 2), torch.stack(seen).reshape(shape))


def gather_anchors(points: Tensor, seen: Tensor) -> Anchors:
    """Keep the pairs of a cell and a camera that sees one of its anchors.

    Args:
        points: (b, n, z, y, x, 2) where each camera has every anchor, in pixels of its map,
            centres at integers; of any value where it has none.
        seen: (b, n, z, y, x) bool, whether the camera sees the anchor.
    """
    b, n, zs, ys, xs = seen.shape
    pairs = seen.any(2).permute(0, 2, 3, 1)  # (b, y, x, n): by cell
    item, iy, ix, camera = pairs.nonzero().unbind(1)
    cell = iy * xs + ix
    at = points.reshape(b, n, zs, ys * xs, 2)[item, camera, :, cell]
    return Anchors(
        maps=item * n + camera,
        cells=item * (ys * xs) + cell,
        points=at,
        count=pairs.sum(-1),
        maps_per_item=n,
    )


def plane_anchors(
    batch: int, shape: tuple[int, int], device: torch.device, *, transposed: bool = False
) -> Anchors:
    """Let every cell of `batch` planes of (y, x) cells look at its own plane, at itself.

    Args:
        batch: number of planes.
        shape: cells along (y, x).
        device: where the tensors are.
        transposed: look at (y, x) for (x, y), of a square plane.
    """
    y, x = shape
    rows, columns = torch.arange(y, device=device), torch.arange(x, device=device)
    axes = [columns.expand(y, x), rows[:, None].expand(y, x)]
    points = torch.stack(axes[::-1] if transposed else axes, -1).reshape(1, y * x, 1, 2)
    return Anchors(
        maps=torch.arange(batch, device=device).repeat_interleave(y * x),
        cells=torch.arange(batch * y * x, device=device),
        points=points.expand(batch, -1, -1, -1).reshape(-1, 1, 2).float(),
        count=torch.ones(batch, y, x, dtype=torch.int64, device=device),
        maps_per_item=1,
    )
