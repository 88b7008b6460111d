"""simple_bev's conventions against slow forms of its equations, and its plane in the ego grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.model import simple_bev_compat as compat
from bev_perception.model.backbone import ImageEncoder
from bev_perception.model.config import AttentionConfig
from bev_perception.model.lift_table import lift_with_table
from bev_perception.preprocess import prepare

from ..factories import look, make_camera, make_config, make_model, make_view_set

SIZE_PX = (96, 64)
FEATURE_PX = (12, 8)
SIZES = {'size_px': SIZE_PX, 'feature_px': FEATURE_PX}
CAMERAS = 3
ROWS = COLUMNS = 200
HEIGHTS = 8
FORWARD_TILTED = look(12.0, 6.0, (1.5, 0.2, 1.6), 3.0)


def make_cameras(batch: int, seed: int = 0):
    """K (b, n, 3, 3), ego_T_cam (b, n, 4, 4) and live (b, n): three cameras, all other ones."""
    rng = np.random.default_rng(seed)
    K, poses = [], []
    for _ in range(batch):
        for yaw_deg in (60.0, 5.0, -120.0):
            camera = make_camera(SIZE_PX, fov_deg=rng.uniform(70, 90))
            K.append(camera.K + [[0, 0, rng.uniform(-3, 3)], [0, 0, rng.uniform(-3, 3)], [0] * 3])
            at = (1 + rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(1.4, 1.8))
            poses.append(look(yaw_deg + rng.uniform(-9, 9), *rng.uniform(-6, 6, 1), at, 3.0))
    live = torch.ones(batch, CAMERAS, dtype=torch.bool)
    return (
        torch.tensor(np.array(K)).float().reshape(batch, CAMERAS, 3, 3),
        torch.tensor(np.array(poses)).float().reshape(batch, CAMERAS, 4, 4),
        live,
    )


def voxel_points() -> torch.Tensor:
    """Centres (rows, heights, columns, 3): x right, y down and z forward of the reference."""
    z, y, x = torch.meshgrid(
        -50 + 0.5 * (torch.arange(200.0) + 0.5),
        -4 + 1.25 * (torch.arange(8.0) + 0.5),
        -50 + 0.5 * (torch.arange(200.0) + 0.5),
        indexing='ij',
    )
    return torch.stack([x, y, z], -1).double()


def in_camera(points: torch.Tensor, ref_T_cam: torch.Tensor) -> torch.Tensor:
    return (points - ref_T_cam[:3, 3]) @ ref_T_cam[:3, :3]


def slow_lift(features, K, ref_T_cam, live):
    """One item's volume (c, rows, heights, columns) and how many features each mean is of."""
    (width, height), points = FEATURE_PX, voxel_points()
    total = count = 0
    for f, K_, pose, alive in zip(features, K, ref_T_cam, live, strict=True):
        at = in_camera(points, pose)
        depth = at[..., 2].clamp(min=1e-6)
        u = (K_[0, 0] * at[..., 0] + K_[0, 2] * at[..., 2]) / depth * width / SIZE_PX[0]
        v = (K_[1, 1] * at[..., 1] + K_[1, 2] * at[..., 2]) / depth * height / SIZE_PX[1]
        valid = (at[..., 2] > 0) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        place = torch.stack([2 * u / (width - 1) - 1, 2 * v / (height - 1) - 1], -1).clamp(-2, 2)
        value = F.grid_sample(f[None], place.reshape(1, 1, -1, 2), align_corners=False)
        value = value.reshape(len(f), *valid.shape) * (valid & alive)
        total = total + value
        count = count + (value.abs() > 0).double()
    return total / (1e-6 + count), count


@pytest.mark.parametrize('dead', [None, 0, 1])
def test_table_equals_the_slow_form_with_its_mask_of_every_element(dead):
    K, ego_T_cam, live = make_cameras(1)
    if dead is not None:
        live[0, dead] = False
    ref_T_cam, _ = compat.from_reference(ego_T_cam, live)
    rng = torch.Generator().manual_seed(1)
    # No value is near zero, as no feature of a network is exactly zero.
    shape = (1, CAMERAS, 4, FEATURE_PX[1], FEATURE_PX[0])
    features = 0.5 + torch.rand(shape, generator=rng, dtype=torch.float64)
    expected, count = slow_lift(features[0], K[0].double(), ref_T_cam[0], live[0])
    table = compat.build_batch_compat_table(K, ref_T_cam, live, **SIZES)
    volume = lift_with_table(features.float(), table)[0]  # (c, heights, rows, columns)
    expected, count = expected.permute(0, 2, 1, 3), count.permute(0, 2, 1, 3)
    # All channels of a voxel are of the same cameras, so a count for each voxel is enough.
    assert (count == count[:1]).all()
    assert torch.equal(table.valid[0], count[0] > 0)
    assert count.max() >= (2 if dead is None else 1)
    assert 0.02 < table.valid.double().mean() < 0.9
    torch.testing.assert_close(volume.double(), expected, atol=2e-4, rtol=0)


def test_corners_beside_a_map_are_zero_and_do_not_count():
    inside, weights = compat._corners(torch.tensor([-0.25, 0.0, 10.75, 11.25]), 12)
    assert inside.tolist() == [[0, 0], [0, 1], [10, 11], [11, 11]]
    assert weights.tolist() == [[0, 0.75], [1, 0], [0.25, 0.75], [0.75, 0]]


def test_items_of_a_batch_have_tables_of_their_own():
    K, ego_T_cam, live = make_cameras(2)
    live[1, 2] = False
    ref_T_cam, _ = compat.from_reference(ego_T_cam, live)
    features = torch.rand(2, CAMERAS, 3, FEATURE_PX[1], FEATURE_PX[0])
    both = lift_with_table(features, compat.build_batch_compat_table(K, ref_T_cam, live, **SIZES))
    for i in range(2):
        table = compat.build_compat_table(K[i], ref_T_cam[i], live[i], **SIZES)
        assert torch.equal(lift_with_table(features[i : i + 1], table)[0], both[i])


def slow_anchors(K, ref_T_cam):
    """One camera's anchors (rows, columns, heights, 2) as fractions of the image, who is seen."""
    points = voxel_points()
    at = in_camera(points, ref_T_cam).transpose(1, 2)
    depth = at[..., 2].clamp(min=1e-4)
    u = (at[..., 0] * K[0, 0] / depth + K[0, 2]) / SIZE_PX[0]
    v = (at[..., 1] * K[1, 1] / depth + K[1, 2]) / SIZE_PX[1]
    return torch.stack([u, v], -1), (u > 0) & (u < 1) & (v > 0) & (v < 1)


def test_anchors_equal_the_slow_form_for_every_item_of_a_batch():
    K, ego_T_cam, live = make_cameras(2, seed=3)
    live[1, 0] = False
    ref_T_cam, _ = compat.from_reference(ego_T_cam, live)
    anchors = compat.build_compat_anchors(K, ref_T_cam, live, **SIZES)
    assert anchors.count.shape == (2, ROWS, COLUMNS) and anchors.maps_per_item == CAMERAS
    for i in range(2):
        for camera in range(CAMERAS):
            mine = anchors.maps == i * CAMERAS + camera
            where, seen = slow_anchors(K[i, camera].double(), ref_T_cam[i, camera])
            cells = (seen.any(-1) & live[i, camera]).flatten().nonzero()[:, 0]
            assert torch.equal(anchors.cells[mine] - i * ROWS * COLUMNS, cells)
            if not live[i, camera]:
                assert not len(cells)
                continue
            assert len(cells) > 1000
            # A sample at a fraction of a map of w columns is at fraction * w - 0.5.
            expected = where.reshape(-1, HEIGHTS, 2)[cells] * torch.tensor(FEATURE_PX) - 0.5
            got, near = anchors.points[mine].double(), expected.abs().amax(-1) < 1000
            torch.testing.assert_close(got[near], expected[near], atol=2e-3, rtol=0)
            assert (got[~near].abs().amax(-1) > 999).all()  # never brought back into the map


def test_a_point_on_the_axis_behind_a_camera_is_seen_as_the_original_sees_it():
    K = torch.tensor(make_camera(SIZE_PX).K).float()[None, None]
    pose = torch.eye(4)[None, None].double()
    pose[..., :3, 3] = torch.tensor([0.25, 0.375, 10.25])  # on centres of cells
    live = torch.ones(1, 1, dtype=torch.bool)
    anchors = compat.build_compat_anchors(K, pose, live, **SIZES)
    behind = anchors.count[0, :120]
    assert behind.nonzero().tolist() == [[row, 100] for row in range(120)]
    table = compat.build_compat_table(K[0], pose[0], live[0], **SIZES)
    assert not table.valid[0, :, :120].any()


def test_the_reference_is_the_live_camera_that_looks_most_forward():
    poses = [look(40.0), look(-4.0, 8.0), look(3.0), look(180.0)]
    ego_T_cam = torch.tensor(np.array([poses] * 3)).float()
    live = torch.tensor([[True] * 4, [True, True, False, True], [False] * 4])
    assert compat.reference_camera(ego_T_cam, live).tolist() == [2, 1, 0]
    ref_T_cam, ego_T_ref = compat.from_reference(ego_T_cam, live)
    torch.testing.assert_close(ego_T_ref[1], torch.tensor(poses[1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(ref_T_cam[1, 1], torch.eye(4).double(), atol=1e-6, rtol=0)
    expected = rigid.inverse(poses[1]) @ poses[3]
    np.testing.assert_allclose(ref_T_cam[1, 3].numpy(), expected, atol=1e-6)


def places_of(pose, grid=None):
    return compat.to_grid(torch.tensor(pose)[None], grid or BevGrid())


def ground_in_plane(grid: BevGrid, pose):
    """Columns and rows (y, x) of the ego cells' ground points, by the definition of the plane."""
    centers = grid.cell_centers()
    ground = np.concatenate([centers, np.zeros_like(centers[..., :1])], -1)
    at = (ground - pose[:3, 3]) @ pose[:3, :3]
    return (at[..., 0] + 50) / 0.5 - 0.5, (at[..., 2] + 50) / 0.5 - 0.5


@pytest.mark.parametrize('grid', [BevGrid(), BevGrid(y_range_m=(-20, 30), cell_m=0.25)])
def test_a_painted_plane_lands_at_the_right_cells(grid):
    places = places_of(FORWARD_TILTED, grid)
    rows, columns = torch.meshgrid(torch.arange(200.0), torch.arange(200.0), indexing='ij')
    planes = torch.stack([columns, rows])[None]
    out = compat.resample(planes, places, beside=-7.0)[0].numpy()
    column, row = ground_in_plane(grid, FORWARD_TILTED)
    inside = (column >= -0.5) & (column < 199.5) & (row >= -0.5) & (row < 199.5)
    assert np.array_equal(places.valid[0].numpy(), inside)
    assert 0.7 < inside.mean() < 1
    assert (out[:, ~inside] == -7).all()
    for got, expected in zip(out, (column, row), strict=True):
        np.testing.assert_allclose(got[inside], expected[inside].clip(0, 199), atol=1e-3)


def test_a_vehicle_ahead_and_to_the_left_is_painted_where_it_stands():
    # The reference camera looks straight ahead from (2, 0): 20 m ahead of it, 6 m to its left.
    plane = torch.zeros(1, 1, ROWS, COLUMNS)
    plane[0, 0, 140:144, 86:90] = 1  # z 20 to 22 m, x -7 to -5 m
    grid = BevGrid()
    out = compat.resample(plane, places_of(look(0.0, 0.0, (2.0, 0.0, 1.5)), grid))[0, 0] > 0.5
    x, y = grid.cell_centers()[out.numpy()].T
    assert out.sum() == 16
    assert x.min() == 22.25 and x.max() == 23.75 and y.min() == 5.25 and y.max() == 6.75


def test_a_mask_takes_the_nearest_cell_and_nothing_beside_the_plane():
    seen = torch.zeros(1, ROWS, COLUMNS, dtype=torch.bool)
    seen[:, 100:] = True  # in front of the camera
    pose = look(90.0, 0.0, (0.0, 0.0, 1.5))  # it looks to the left
    grid = BevGrid(x_range_m=(-60, 60), y_range_m=(-60, 60))
    got = compat.resample_mask(seen, places_of(pose, grid))[0].numpy()
    x, y = np.moveaxis(grid.cell_centers(), -1, 0)
    assert np.array_equal(got, (y > 0) & (y < 50) & (np.abs(x) < 50))


@pytest.mark.parametrize('cell_m', [0.5, 0.25])
def test_offsets_point_to_the_middle_in_cells_of_the_grid(cell_m):
    grid = BevGrid(x_range_m=(5, 25), y_range_m=(-10, 10), cell_m=cell_m)
    places, middle = places_of(FORWARD_TILTED, grid), np.array([14.0, -3.0, 0.0])
    at = (middle - FORWARD_TILTED[:3, 3]) @ FORWARD_TILTED[:3, :3]
    column, row = (at[[0, 2]] + 50) / 0.5 - 0.5
    rows, columns = torch.meshgrid(torch.arange(200.0), torch.arange(200.0), indexing='ij')
    theirs = torch.stack([columns - column, rows - row])[None].float()  # cell minus middle
    out = compat.turn_offsets(compat.resample(theirs, places), places)[0].numpy()
    expected = (middle[:2] - grid.cell_centers()) / cell_m
    assert places.valid.all()
    np.testing.assert_allclose(np.moveaxis(out, 0, -1), expected, atol=2e-3)


def test_a_reference_camera_that_looks_straight_down_gives_finite_numbers():
    places = places_of(look(0.0, 90.0))
    assert torch.isfinite(places.points).all() and torch.isfinite(places.turn).all()


def test_only_b4_is_padded_otherwise_and_its_weights_keep_their_names():
    for backbone, changed in (('tf_efficientnet_b0', []), ('tf_efficientnet_b4', ['blocks.2.0'])):
        plain = ImageEncoder(backbone, 8)
        fixed = ImageEncoder(backbone, 8)
        compat.fix_padding(fixed, backbone)
        assert list(fixed.state_dict()) == list(plain.state_dict())
        kinds = dict(plain.named_modules())
        other = [n for n, m in fixed.named_modules() if type(m) is not type(kinds[n])]
        assert other == [f'trunk.model.{name}.conv_dw' for name in changed]
    conv = fixed.get_submodule(other[0])
    maps = torch.randn(1, conv.in_channels, 12, 8)
    expected = F.conv2d(F.pad(maps, (2, 2, 2, 2)), conv.weight, stride=2, groups=conv.groups)
    torch.testing.assert_close(conv(maps), expected)
    dynamic = plain.get_submodule(other[0])
    dynamic.load_state_dict(conv.state_dict())
    assert (dynamic(maps) - conv(maps)).abs().max() > 0.1


@pytest.mark.parametrize('network', ['simple_bev', 'bevformer'])
def test_a_compatible_network_comes_back_from_its_checkpoint(tmp_path, network):
    config = make_config(
        network=network,
        compat='simple_bev',
        classes=('vehicle',),
        center_offset=True,
        attention=AttentionConfig(layers=1, heads=2, hidden=8),
        backbone='tf_efficientnet_b4' if network == 'simple_bev' else 'resnet18',
    )
    model = make_model(config)
    checkpoint.save(tmp_path / 'a.safetensors', model, {})
    again = checkpoint.load(tmp_path / 'a.safetensors').model
    inputs = prepare(make_view_set(), config)
    with torch.inference_mode():
        one, two = model(inputs), again(inputs)
    assert one.logits.shape == (1, 1, *config.grid.shape[1:])
    assert one.offset.shape == (1, 2, *config.grid.shape[1:])
    for name in ('logits', 'center', 'offset', 'valid'):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert 0.5 < one.valid.float().mean()
