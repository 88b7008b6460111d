"""The network of github.com/aharley/simple_bev as its code computes it, for weights trained there.

Its plane is no plane of the vehicle: it is spanned by the axes of one camera, the reference
camera, and tilts with it. Rows are that camera's z (forward, row 0 is 50 m behind), columns its x
(right, column 0 is 50 m left), heights its y (down); integers are cell centres. Kernels with a
stride are not symmetric, so the network has to run in this plane, and its output is then sampled
at the cells of an ego grid (`to_grid`, `resample`).

The reference camera is the live camera whose optical axis points most forward (largest x in the
ego frame): the one that its authors evaluate with is the front camera.

What its code does otherwise than `lift` and `anchors`, and what weights have therefore learned:

- features: pixel u of a map of w columns is read at u * w / (w - 1) - 0.5, zeros beside the map;
- a feature that is exactly zero does not count as seen, so the borders of maps count only where a
  corner of the interpolation lies inside;
- attention: a point behind a camera is clamped to 0.1 mm in front of it instead of left out, and
  points of an image are fractions u / w without half a pixel;
- attention in the plane: the reference point of (row, column) is read at (column, row), see
  `BevFormer.forward`'s `transposed_self`;
- B4's convolution from stride 4 to stride 8 is padded evenly (`fix_padding`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.anchors import FAR_PX, Anchors, gather_anchors
from bev_perception.model.lift import sample
from bev_perception.model.lift_table import LiftTable, join_tables

# Its volume as a grid whose x are columns, y rows and z heights; only for shapes: build the
# network's layers with it (`dataclasses.replace(config, grid=NATIVE_GRID)`). Its frame is the
# reference camera's, so none of the functions that take ego frames may see it.
NATIVE_GRID = BevGrid(z_range_m=(-4.0, 6.0), z_cells=8)

_EPSILON = 1e-6  # added to the number of cameras that a mean divides by
# The image size that the names of efficientnet_pytorch stand for. Its padding is made for images
# of this size: where a map is then of odd size, padding is even on all sides.
_TRAINED_PX = {'tf_efficientnet_b0': 224, 'tf_efficientnet_b4': 380}


@dataclass(frozen=True, eq=False, kw_only=True)
class ToGrid:
    """Where the cells of an ego grid lie in the network's plane, for b view sets.

    Attributes:
        points: (b, y, x, 2) columns and rows of the plane, integers are centres.
        valid: (b, y, x) bool, whether the plane has that place.
        turn: (b, 2, 2) from (columns, rows) to cells along the ego frame's x and y.
    """

    points: Tensor
    valid: Tensor
    turn: Tensor


def reference_camera(ego_T_cam: Tensor, live: Tensor) -> Tensor:
    """Return the index of each item's reference camera, (b,) int64; 0 where no camera is live.

    Args:
        ego_T_cam: (b, n, 4, 4).
        live: (b, n) bool.
    """
    forward = ego_T_cam[..., 0, 2]  # the optical axis is z
    return torch.where(live, forward, -torch.inf).argmax(-1)


def from_reference(ego_T_cam: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cameras as the reference camera sees them.

    Args:
        ego_T_cam: (b, n, 4, 4).
        live: (b, n) bool.

    Returns:
        `ref_T_cam` (b, n, 4, 4) and `ego_T_ref` (b, 4, 4), float64.
    """
    poses = ego_T_cam.double()
    index = reference_camera(poses, live)
    ego_T_ref = poses[torch.arange(len(poses), device=poses.device), index]
    return _inverse(ego_T_ref)[:, None] @ poses, ego_T_ref


def build_compat_table(
    K: Tensor,
    ref_T_cam: Tensor,
    live: Tensor,
    *,
    size_px: tuple[int, int],
    feature_px: tuple[int, int],
) -> LiftTable:
    """Make the lift table of one view set; rows play y, columns x, heights z.

    Args:
        K: (n, 3, 3) of images of `size_px`.
        ref_T_cam: (n, 4, 4).
        live: (n,) bool.
        size_px: (width, height) of the images.
        feature_px: (width, height) of the feature maps.
    """
    (heights, rows, columns), (width, height) = NATIVE_GRID.shape, feature_px
    n = len(K)
    left, upper = torch.empty(2, n, heights, rows, columns, device=K.device)
    seen = torch.empty(n, heights, rows, columns, dtype=torch.bool, device=K.device)
    for i in range(n):  # one camera's temporaries stay in the processor's cache
        u, v, depth = _project(_scaled(K[i], size_px, feature_px), ref_T_cam[i], near_m=1e-6)
        left[i], upper[i] = u * (width / (width - 1)) - 0.5, v * (height / (height - 1)) - 0.5
        seen[i] = (depth > 0) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    for at, size in ((left, width), (upper, height)):
        seen &= (at > -1) & (at < size)  # a corner counts
    seen &= live[:, None, None, None]
    count = seen.sum(0, dtype=torch.int32)
    iy, ix, iz, cam = seen.permute(2, 3, 1, 0).contiguous().nonzero().int().unbind(1)
    voxel = (iz * rows + iy) * columns + ix
    at = cam * (heights * rows * columns) + voxel
    part = 1 / (count.reshape(-1)[voxel] + _EPSILON)
    x, x_weights = _corners(left.reshape(-1)[at], width)
    y, y_weights = _corners(upper.reshape(-1)[at], height)
    pixels = (cam[:, None] * height + y)[:, :, None] * width + x[:, None]
    weights = (y_weights * part[:, None])[:, :, None] * x_weights[:, None]
    entries = 4 * count.permute(1, 2, 0).reshape(-1)
    return LiftTable(
        pixels=pixels.reshape(-1),
        weights=weights.reshape(-1),
        offsets=entries.cumsum(0, dtype=torch.int32) - entries,
        valid=(count > 0)[None],
    )


def build_batch_compat_table(
    K: Tensor,
    ref_T_cam: Tensor,
    live: Tensor,
    *,
    size_px: tuple[int, int],
    feature_px: tuple[int, int],
) -> LiftTable:
    """Make the lift table of b view sets: (b, n, 3, 3), (b, n, 4, 4), (b, n)."""
    sets = zip(K, ref_T_cam, live, strict=True)
    tables = [build_compat_table(*s, size_px=size_px, feature_px=feature_px) for s in sets]
    return join_tables(tables, pixels_per_set=K.shape[1] * feature_px[0] * feature_px[1])


def _scaled(K: Tensor, size_px: tuple[int, int], feature_px: tuple[int, int]) -> Tensor:
    """Return intrinsics of the feature map, float64; the principal point without half a pixel."""
    scale = [feature_px[0] / size_px[0], feature_px[1] / size_px[1], 1.0]
    return K.double() * torch.tensor(scale, dtype=torch.float64, device=K.device)[:, None]


def _project(K: Tensor, ref_T_cam: Tensor, *, near_m: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, v and depth of all voxels' centres, (heights, rows, columns) each."""
    cam_T_ref = _inverse(ref_T_cam.double())
    K = K.double()
    # The principal point is added last: it counts fully where a depth is clamped.
    center = K[:2, 2].float()
    K = torch.cat([K[:2, :2], torch.zeros_like(K[:2, 2:])], 1)
    K = torch.cat([K, K.new_tensor([[0.0, 0.0, 1.0]])])
    A, b = K @ cam_T_ref[:3, :3], K @ cam_T_ref[:3, 3:]
    x, y, z = _centers(K.device)

    def coordinate(row: int) -> Tensor:
        to_x, to_y, to_z, shift = torch.cat([A[row], b[row]]).float()
        return x * to_x + y * to_y + z * to_z + shift

    depth = coordinate(2)
    divisor = depth.clamp(min=near_m)
    return coordinate(0) / divisor + center[0], coordinate(1) / divisor + center[1], depth


def _centers(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the voxels' centres in the reference camera's frame: x, y, z that broadcast."""
    heights, rows, columns = NATIVE_GRID.shape
    grid = NATIVE_GRID
    across = torch.arange(columns, device=device) + 0.5
    down = torch.arange(heights, device=device) + 0.5
    ahead = torch.arange(rows, device=device) + 0.5
    return (
        grid.x_range_m[0] + across * grid.cell_m,
        (grid.z_range_m[0] + down * grid.z_cell_m)[:, None, None],
        (grid.y_range_m[0] + ahead * grid.cell_m)[:, None],
    )


def _corners(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return (k, 2) indices on both sides of (k,) places, and weights: 0 beside the map."""
    low = at.floor()
    share = at - low
    index = torch.stack([low, low + 1], 1).int()
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), torch.stack([1 - share, share], 1) * inside


def build_compat_anchors(
    K: Tensor,
    ref_T_cam: Tensor,
    live: Tensor,
    *,
    size_px: tuple[int, int],
    feature_px: tuple[int, int],
) -> Anchors:
    """Make the anchors of b view sets; rows play y, columns x, heights z.

    Args:
        K: (b, n, 3, 3) of images of `size_px`.
        ref_T_cam: (b, n, 4, 4).
        live: (b, n) bool.
        size_px: (width, height) of the images.
        feature_px: (width, height) of the feature maps.
    """
    (heights, rows, columns), (width, height) = NATIVE_GRID.shape, size_px
    points, seen = [], []
    for K_, ref_T_cam_, live_ in zip(
        K.flatten(0, 1), ref_T_cam.flatten(0, 1), live.flatten(), strict=True
    ):
        u, v, _ = _project(K_, ref_T_cam_, near_m=1e-4)
        seen.append((u > 0) & (u < width) & (v > 0) & (v < height) & live_)
        at = torch.stack([u * (feature_px[0] / width), v * (feature_px[1] / height)], -1) - 0.5
        points.append(at.clamp(FAR_PX, -FAR_PX))  # as far beside the map as what it was
    shape = (*live.shape, heights, rows, columns)
    return gather_anchors(torch.stack(points).reshape(*shape, 2), torch.stack(seen).reshape(shape))


def to_grid(ego_T_ref: Tensor, grid: BevGrid) -> ToGrid:
    """Place the cells of an ego grid, on the ground (z = 0), in the network's plane.

    Args:
        ego_T_ref: (b, 4, 4).
        grid: whose cells are wanted.
    """
    ref_T_ego = _inverse(ego_T_ref.double())
    cells = torch.as_tensor(grid.cell_centers(), dtype=torch.float64, device=ego_T_ref.device)
    x, y = cells.unbind(-1)
    _, rows, columns = NATIVE_GRID.shape
    right, forward = (
        ref_T_ego[:, axis, 0, None, None] * x
        + ref_T_ego[:, axis, 1, None, None] * y
        + ref_T_ego[:, axis, 3, None, None]
        for axis in (0, 2)
    )
    column = (right - NATIVE_GRID.x_range_m[0]) / NATIVE_GRID.cell_m - 0.5
    row = (forward - NATIVE_GRID.y_range_m[0]) / NATIVE_GRID.cell_m - 0.5
    valid = (column >= -0.5) & (column < columns - 0.5) & (row >= -0.5) & (row < rows - 0.5)
    # Of a camera that looks straight down, the ground is one line of the plane: pinv gives that.
    turn = torch.linalg.pinv(ref_T_ego[:, [0, 2], :2]) * (NATIVE_GRID.cell_m / grid.cell_m)
    return ToGrid(points=torch.stack([column, row], -1).float(), valid=valid, turn=turn.float())


def resample(planes: Tensor, places: ToGrid, beside: float = 0.0) -> Tensor:
    """Return a plane in the ego grid, bilinear.

    Args:
        planes: (b, c, rows, columns).
        places: of the same view sets.
        beside: the value of cells that the plane does not have.

    Returns:
        (b, c, y, x)
    """
    _, rows, columns = NATIVE_GRID.shape
    out = sample(planes, places.points.flatten(1, 2), (columns, rows))
    return torch.where(places.valid[:, None], out.unflatten(-1, places.valid.shape[1:]), beside)


def resample_mask(seen: Tensor, places: ToGrid) -> Tensor:
    """Return (b, y, x) bool in the ego grid of (b, rows, columns) bool: the nearest cell's.

    False beside the plane.
    """
    column, row = places.points.round().long().unbind(-1)
    item = torch.arange(len(seen), device=seen.device)[:, None, None]
    _, rows, columns = NATIVE_GRID.shape
    return seen[item, row.clamp(0, rows - 1), column.clamp(0, columns - 1)] & places.valid


def turn_offsets(offsets: Tensor, places: ToGrid) -> Tensor:
    """Return offsets as `BevPrediction.offset` has them.

    Args:
        offsets: (b, 2, y, x) resampled output of the network's offset head: from the middle of
            the object to the cell, in columns and rows.
        places: of the same view sets.

    Returns:
        (b, 2, y, x) from the cell to the middle, in cells of the ego grid along x and y.
    """
    by_column, by_row = places.turn.to(offsets.dtype)[..., None, None].unbind(2)
    return -(by_column * offsets[:, :1] + by_row * offsets[:, 1:])


def fix_padding(encoder: nn.Module, backbone: str) -> None:
    """Pad the convolutions of an `ImageEncoder` as efficientnet_pytorch does, in place.

    Names and shapes of weights stay. Other backbones are left alone.
    """
    if backbone not in _TRAINED_PX:
        return
    size = _TRAINED_PX[backbone]
    for name, conv in list(encoder.named_modules()):
        if not isinstance(conv, nn.Conv2d) or conv.stride != (2, 2):
            continue
        if size % 2:
            parent, _, own = name.rpartition('.')
            setattr(encoder.get_submodule(parent), own, _evenly_padded(conv))
        size = (size + 1) // 2


def _evenly_padded(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution with half a kernel of zeros on all sides, and the same weights."""
    even = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=(conv.kernel_size[0] // 2, conv.kernel_size[1] // 2),
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    even.weight, even.bias = conv.weight, conv.bias
    return even


def _inverse(dst_T_src: Tensor) -> Tensor:
    """Return `src_T_dst` of rigid transforms (..., 4, 4)."""
    inverse = torch.zeros_like(dst_T_src)
    R = dst_T_src[..., :3, :3].transpose(-1, -2)
    inverse[..., :3, :3] = R
    inverse[..., :3, 3:] = -R @ dst_T_src[..., :3, 3:]
    inverse[..., 3, 3] = 1
    return inverse
