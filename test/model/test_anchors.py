"""Which cells cameras see, and where."""

from __future__ import annotations

import torch

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.anchors import FAR_PX, build_anchors, plane_anchors
from bev_perception.model.lift import project, voxel_centers

from .test_training_lift import CAMERAS, FEATURE_PX, GRID, SIZE_PX, make_batch


def build(cameras, grid: BevGrid = GRID):
    return build_anchors(*cameras, grid=grid, size_px=SIZE_PX, feature_px=FEATURE_PX)


def test_pairs_are_those_of_the_plain_projection():
    K, poses, live = cameras = make_batch(3)
    anchors = build(cameras)
    z, y, x = GRID.shape
    uv, seen = project(voxel_centers(GRID, K.device), K, poses, SIZE_PX)
    seen = (seen & live[..., None]).reshape(3, CAMERAS, z, y * x)
    uv = uv.reshape(3, CAMERAS, z, y * x, 2)
    expected = [
        (item * y * x + cell, item * CAMERAS + camera)
        for item in range(3)
        for cell in range(y * x)
        for camera in range(CAMERAS)
        if seen[item, camera, :, cell].any()
    ]
    assert list(zip(anchors.cells.tolist(), anchors.maps.tolist(), strict=True)) == expected
    assert torch.equal(anchors.count, seen.any(2).sum(1).reshape(3, y, x))
    assert torch.equal(anchors.valid, seen.any(2).any(1).reshape(3, y, x))
    assert anchors.valid.any() and not anchors.valid.all()
    scale = torch.tensor([f / s for f, s in zip(FEATURE_PX, SIZE_PX, strict=True)])
    item, camera, cell = anchors.maps // CAMERAS, anchors.maps % CAMERAS, anchors.cells % (y * x)
    at = (uv[item, camera, :, cell] + 0.5) * scale - 0.5
    inside = seen[item, camera, :, cell]
    torch.testing.assert_close(anchors.points[inside], at[inside], atol=1e-4, rtol=1e-5)


def test_heights_behind_a_camera_are_far_away():
    """A camera that looks down sees the ground; what is above it is behind it."""
    K, poses, live = make_batch(1)
    poses[0, 0] = torch.tensor([[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, -1, 1.2], [0, 0, 0, 1.0]])
    anchors = build((K[:, :1], poses[:, :1], live[:, :1] | True))
    heights = GRID.voxel_centers()[:, 0, 0, 2]
    behind = torch.tensor(heights > 1.2)
    assert behind.any() and not behind.all() and len(anchors.points)
    assert (anchors.points[:, behind] == FAR_PX).all()
    assert (anchors.points[:, ~behind].abs() < 1000).all()


def test_a_dead_camera_has_no_pairs():
    K, poses, live = make_batch(2)
    live[:] = True
    live[1, 2] = False
    anchors = build((K, poses, live))
    assert CAMERAS + 2 not in anchors.maps and 2 in anchors.maps
    live[:] = False
    nothing = build((K, poses, live))
    assert not len(nothing.maps) and not nothing.valid.any()


def test_items_have_the_same_pairs_alone_and_together():
    cameras = make_batch(3)
    together, cells = build(cameras), GRID.shape[1] * GRID.shape[2]
    alone = [build([t[i : i + 1] for t in cameras]) for i in range(3)]
    assert torch.equal(together.points, torch.cat([a.points for a in alone]))
    maps = torch.cat([a.maps + i * CAMERAS for i, a in enumerate(alone)])
    assert torch.equal(together.maps, maps)
    assert torch.equal(
        together.cells, torch.cat([a.cells + i * cells for i, a in enumerate(alone)])
    )


def test_cells_of_a_plane_lie_at_x_y():
    anchors = plane_anchors(2, (3, 5), torch.device('cpu'))
    cell = 2 * 5 + 4  # row 2, column 4
    assert anchors.points[cell, 0].tolist() == [4, 2]
    assert anchors.points[15 + cell, 0].tolist() == [4, 2] and anchors.maps[15 + cell] == 1
    turned = plane_anchors(1, (5, 5), torch.device('cpu'), transposed=True)
    assert turned.points[2 * 5 + 4, 0].tolist() == [2, 4]
