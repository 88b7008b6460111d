"""Where a teacher's features are taken for a voxel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bev_perception.geometry.grid import BevGrid
from bev_training.objectives.feature_targets import feature_targets
from test.factories import look
from test.training.pretraining_batches import SIZE_PX, make_teacher_views

# 2 x 2 x 2 voxels of 1 m, ahead of a camera in the middle of its lower edge.
GRID = BevGrid(x_range_m=(3, 5), y_range_m=(-1, 1), z_range_m=(0, 2), cell_m=1, z_cells=2)
ALL = torch.ones(1, 2, 2, 2, dtype=torch.bool).nonzero()
AHEAD = look(at=(0.0, 0.0, 1.0))
BACK = look(180.0, at=(0.0, 0.0, 1.0))


def positions() -> torch.Tensor:
    """Maps (2, 2, 4) of a teacher that tells the pixel in the middle of its patches of 14."""
    v, u = torch.meshgrid(14 * torch.arange(2) + 6.5, 14 * torch.arange(4) + 6.5, indexing='ij')
    return torch.stack([u, v])


def targets(views, voxels=ALL, grid=GRID):
    return feature_targets(views, voxels, grid=grid, size_px=SIZE_PX)


def project(x: float, y: float, z: float) -> tuple[float, float]:
    """The pixel of a point in the camera AHEAD, by hand: 70 degrees, 56 x 28 pixels."""
    f = 28 / 0.7002075382097097  # tan of 35 degrees
    return 27.5 - f * y / x, 13.5 - f * (z - 1.0) / x


def test_a_map_of_pixel_positions_gives_the_pixel_of_the_voxels_middle():
    views = make_teacher_views(1, [AHEAD], positions()[None, None])
    values, seen = targets(views)
    assert seen.all() and values.shape == (8, 2) and values.dtype == torch.float32
    for (_, z, y, x), (u, v) in zip(ALL.tolist(), values.tolist(), strict=True):
        by_hand = project(3.5 + x, -0.5 + y, 0.5 + z)
        assert 6.5 < by_hand[0] < 48.5 and 6.5 < by_hand[1] < 20.5  # between middles of patches
        assert (u, v) == pytest.approx(by_hand, abs=1e-3)


def test_a_feature_is_bilinear_between_patches_by_hand():
    maps = torch.arange(8.0).view(1, 1, 1, 2, 4)
    values, _ = targets(make_teacher_views(1, [AHEAD], maps), ALL[:1])
    u, v = project(3.5, -0.5, 0.5)
    j, i = (u - 6.5) / 14, (v - 6.5) / 14
    assert 1 < j < 2 and 0 < i < 1
    right, down = j - 1, i
    upper, lower = (1 - right) * 1 + right * 2, (1 - right) * 5 + right * 6
    assert values.item() == pytest.approx((1 - down) * upper + down * lower, abs=1e-4)


def test_beyond_the_middle_of_the_last_patch_the_map_is_constant():
    grid = replace(GRID, y_range_m=(1.5, 3.5))
    u, _ = project(3.5, 2.0, 0.5)
    assert 0 < u < 6.5
    values, seen = targets(make_teacher_views(1, [AHEAD], positions()[None, None]), ALL[:1], grid)
    assert seen.all() and values[0, 0] == 6.5


def test_voxels_behind_a_camera_or_beside_its_image_are_not_seen():
    maps = torch.ones(1, 1, 3, 2, 4)
    values, seen = targets(make_teacher_views(1, [BACK], maps))
    assert not seen.any() and values.shape == (0, 3)
    grid = replace(GRID, y_range_m=(-4, 4))
    voxels = torch.ones(1, 2, 8, 2, dtype=torch.bool).nonzero()
    values, seen = targets(make_teacher_views(1, [AHEAD], maps), voxels, grid)
    inside = []
    for _, z, y, x in voxels.tolist():
        u, v = project(3.5 + x, -3.5 + y, 0.5 + z)
        inside.append(-0.5 <= u < 55.5 and -0.5 <= v < 27.5)
    assert seen.tolist() == inside and 0 < sum(inside) < len(inside)
    assert len(values) == sum(inside) and (values == 1).all()


def test_a_target_is_the_plain_mean_over_the_cameras_that_see_the_voxel():
    # Not normalised before: the longer feature weighs more.
    maps = torch.zeros(1, 4, 2, 2, 4)
    maps[0, 0, 0], maps[0, 1, 1], maps[0, 2], maps[0, 3] = 10, 1, 99, 77
    views = make_teacher_views(1, [AHEAD, AHEAD, BACK, AHEAD], maps)
    views.live[0, 3] = False
    values, seen = targets(views)
    assert seen.all()
    torch.testing.assert_close(values, torch.tensor([[5.0, 0.5]]).expand(8, 2))


def test_a_camera_that_does_not_see_a_voxel_may_have_no_numbers():
    maps = torch.ones(1, 2, 2, 2, 4)
    maps[0, 1] = torch.nan
    values, _ = targets(make_teacher_views(1, [AHEAD, BACK], maps))
    assert (values == 1).all()


def test_missing_cameras_are_zeros_and_not_live():
    views = make_teacher_views(1, [AHEAD, AHEAD], torch.ones(1, 2, 2, 2, 4).half())
    views.K[0, 1], views.ego_T_cam[0, 1], views.features[0, 1] = 0, 0, 0
    views.live[0, 1] = False
    values, seen = targets(views)
    assert seen.all() and (values == 1).all()


def test_every_sample_has_its_own_cameras_and_maps():
    maps = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 1, 2, 2, 4)
    views = make_teacher_views(3, [AHEAD], maps)
    views.ego_T_cam[1, 0] = torch.as_tensor(BACK, dtype=torch.float32)
    voxels = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 1, 1], [2, 0, 1, 0]])
    values, seen = targets(views, voxels)
    assert seen.tolist() == [True, False, True, True]
    assert values[:, 0].tolist() == [0, 2, 2]


def test_no_voxels_give_no_targets():
    views = make_teacher_views(2, [AHEAD], torch.ones(2, 1, 3, 2, 4))
    values, seen = targets(views, ALL[:0])
    assert values.shape == (0, 3) and seen.shape == (0,)
