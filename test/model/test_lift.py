"""Lifting: against a plain loop, worked examples, borders, symmetries, gradients, the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.lift import lift, project, sample
from bev_perception.model.lift_table import build_table, lift_with_table

from ..factories import look, make_camera, make_rig

GRID = BevGrid(x_range_m=(-6, 8), y_range_m=(-5, 5), z_range_m=(-1, 3), cell_m=1, z_cells=2)
SIZE_PX = (64, 32)
FEATURE_PX = (8, 4)


def random_rig(seed: int, cameras: int = 3):
    """Cameras anywhere, looking anywhere, rolled too: (K (n, 3, 3), ego_T_cam (n, 4, 4))."""
    rng = np.random.default_rng(seed)
    K, poses = [], []
    for _ in range(cameras):
        camera = make_camera(SIZE_PX, fov_deg=rng.uniform(40, 120))
        K.append(camera.K + [[0, 0, rng.uniform(-9, 9)], [0, 0, rng.uniform(-5, 5)], [0, 0, 0]])
        at = rng.uniform([-2, -2, 0], [2, 2, 2])
        poses.append(look(rng.uniform(-180, 180), rng.uniform(-40, 40), at, rng.uniform(-30, 30)))
    return np.array(K), np.array(poses)


def rig_tensors(rig):
    """A factories' rig as tensors."""
    K = torch.tensor(np.array([camera.K for camera, _ in rig.values()]), dtype=torch.float32)
    return K, torch.tensor(np.array([pose for _, pose in rig.values()]), dtype=torch.float32)


def loop_bilinear(feature_map, column, row):
    """Sample (c, h, w) at feature coordinates, the map continued past its border."""
    _, height, width = feature_map.shape
    column, row = np.clip(column, 0, width - 1), np.clip(row, 0, height - 1)
    x0, y0 = int(np.floor(column)), int(np.floor(row))
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    a, b = column - x0, row - y0
    top = feature_map[:, y0, x0] * (1 - a) + feature_map[:, y0, x1] * a
    bottom = feature_map[:, y1, x0] * (1 - a) + feature_map[:, y1, x1] * a
    return top * (1 - b) + bottom * b


def loop_lift(features, K, ego_T_cam, live, grid=GRID, size_px=SIZE_PX):
    """The plain form: for every voxel, for every camera. Also says how near a border each is."""
    n, c, hf, wf = features.shape
    Z, Y, X = grid.shape
    volume, seen = np.zeros((c, Z, Y, X)), np.zeros((Z, Y, X), bool)
    margin = np.full((Z, Y, X), np.inf)  # pixels to the nearest border of a decision
    cell_z = (grid.z_range_m[1] - grid.z_range_m[0]) / Z
    for z, y, x in np.ndindex(Z, Y, X):
        p = np.array(
            [
                grid.x_range_m[0] + (x + 0.5) * grid.cell_m,
                grid.y_range_m[0] + (y + 0.5) * grid.cell_m,
                grid.z_range_m[0] + (z + 0.5) * cell_z,
                1,
            ]
        )
        samples = []
        for i in range(n):
            p_cam = np.linalg.inv(ego_T_cam[i]) @ p
            margin[z, y, x] = min(margin[z, y, x], abs(p_cam[2] - 0.1))
            if not live[i] or p_cam[2] <= 0.1:
                continue
            u, v, _ = K[i] @ (p_cam[:3] / p_cam[2])
            to_border = np.abs([u + 0.5, v + 0.5, size_px[0] - 0.5 - u, size_px[1] - 0.5 - v])
            margin[z, y, x] = min(margin[z, y, x], to_border.min())
            if -0.5 <= u < size_px[0] - 0.5 and -0.5 <= v < size_px[1] - 0.5:
                column = (u + 0.5) * wf / size_px[0] - 0.5
                row = (v + 0.5) * hf / size_px[1] - 0.5
                samples.append(loop_bilinear(features[i], column, row))
        if samples:
            volume[:, z, y, x] = np.mean(samples, 0)
            seen[z, y, x] = True
    return volume, seen, margin > 1e-3


def run_lift(features, K, ego_T_cam, live, **values):
    """`lift` of one set in float32, as arrays."""
    values = {'grid': GRID, 'size_px': SIZE_PX, **values}
    tensors = [torch.tensor(np.asarray(a)).float() for a in (features, K, ego_T_cam)]
    out = lift(*(t[None] for t in tensors), torch.as_tensor(np.asarray(live))[None], **values)
    return out.features[0].numpy(), out.valid[0].numpy()


def run_table(features, K, ego_T_cam, live, **values):
    """The same through a table."""
    values = {'grid': GRID, 'size_px': SIZE_PX, **values}
    features, K, ego_T_cam = (
        torch.tensor(np.asarray(a)).float() for a in (features, K, ego_T_cam)
    )
    feature_px = features.shape[:-3:-1]
    table = build_table(
        K, ego_T_cam, torch.as_tensor(np.asarray(live)), feature_px=tuple(feature_px), **values
    )
    return lift_with_table(features[None], table)[0].numpy(), table.valid[0].numpy()


# --- against the plain loop ----------------------------------------------------------------------


@pytest.mark.parametrize('path', [run_lift, run_table])
@pytest.mark.parametrize('seed', range(6))
def test_equals_the_loop(path, seed):
    rng = np.random.default_rng(seed)
    K, poses = random_rig(seed)
    features = rng.normal(size=(3, 5, 4, 8))
    live = np.array([True, seed % 3 != 1, True])
    expected, seen, clear = loop_lift(features, K, poses, live)
    got, valid = path(features, K, poses, live)
    assert clear.mean() > 0.99 and 0.05 < seen.mean() < 1
    np.testing.assert_array_equal(valid[clear], seen[clear])
    np.testing.assert_allclose(got[:, clear], expected[:, clear], atol=2e-4)
    assert (got[:, ~valid] == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    live=st.lists(st.booleans(), min_size=4, max_size=4),
    feature_px=st.sampled_from([(8, 4), (64, 32), (5, 3), (1, 1)]),
    z_cells=st.integers(1, 3),
)
def test_table_equals_lift(seed, live, feature_px, z_cells):
    grid = BevGrid(x_range_m=(-9, 9), y_range_m=(-7, 7), cell_m=0.5, z_cells=z_cells)
    K, poses = random_rig(seed, 4)
    width, height = feature_px
    features = np.random.default_rng(seed).normal(size=(4, 3, height, width))
    slow, seen = run_lift(features, K, poses, live, grid=grid)
    fast, valid = run_table(features, K, poses, live, grid=grid)
    # A voxel exactly at an image's border may fall on either side by rounding; none did so far.
    assert (seen != valid).mean() < 1e-3
    same = seen == valid
    np.testing.assert_allclose(fast[:, same], slow[:, same], atol=1e-4)
    close = np.abs(fast[:, same] - slow[:, same]) < 1e-5
    assert close.mean() > 0.999


@pytest.mark.parametrize('path', [run_lift, run_table])
def test_no_camera_sees_anything(path):
    """A camera that looks into the sky, and one that is missing."""
    K, _ = random_rig(0, 2)
    poses = np.array([look(0, -90), look(0)])
    grid = BevGrid(x_range_m=(-4, 4), y_range_m=(-4, 4), z_range_m=(-1, 1), cell_m=1, z_cells=1)
    got, valid = path(np.ones((2, 3, 4, 8)), K, poses, [True, False], grid=grid)
    assert not valid.any() and (got == 0).all()


# --- worked examples -----------------------------------------------------------------------------


def test_projection_by_hand():
    """A camera 1.5 m up looking ahead; K: f = 40, c = (31.5, 15.5).

    The point 4 m ahead, 1 m left, on the ground is at (x right, y down, z forward) = (-1, 1.5, 4):
    u = 31.5 - 40 / 4 = 21.5, v = 15.5 + 40 * 1.5 / 4 = 30.5.
    Behind the camera, and nearer than 0.1 m, nothing is seen.
    """
    K = torch.tensor([[40, 0, 31.5], [0, 40, 15.5], [0, 0, 1]])
    pose = torch.tensor(look(0, 0, (0, 0, 1.5)), dtype=torch.float32)
    points = torch.tensor([[4.0, 1, 0], [-4, 1, 0], [0.05, 0, 1.5], [0.15, 0, 1.5], [4, 9, 0]])
    uv, seen = project(points, K, pose, SIZE_PX)
    assert seen.tolist() == [True, False, False, True, False]
    assert uv[0].tolist() == pytest.approx([21.5, 30.5], abs=1e-4)
    assert torch.isfinite(uv).all()


@pytest.mark.parametrize(
    ('u', 'v', 'seen'),
    [(-0.5, 5, True), (-0.51, 5, False), (63.49, 5, True), (63.5, 5, False)]
    + [(5, -0.5, True), (5, -0.51, False), (5, 31.49, True), (5, 31.5, False)],
)
def test_image_borders(u, v, seen):
    """An image of 64 x 32 pixels spans [-0.5, 63.5) x [-0.5, 31.5)."""
    K = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    ego_T_cam = torch.eye(4)  # u = x / z, v = y / z
    _, got = project(torch.tensor([[u, v, 1.0]]), K, ego_T_cam, SIZE_PX)
    assert got.item() is seen


def test_sampling_by_hand():
    """Maps of 4 x 1 features (0, 10, 20, 30) of an image of 32 x 8 pixels.

    Feature k covers pixels 8k..8k+7, so its centre is pixel 8k + 3.5: pixel 3.5 gives 0, pixel
    11.5 gives 10, halfway between (7.5) 5; left of 3.5 and right of 27.5 the map continues.
    """
    maps = torch.tensor([[[[0.0, 10, 20, 30]]]])
    u = torch.tensor([3.5, 11.5, 7.5, 5.5, -0.5, 0, 27.5, 31.4])
    uv = torch.stack([u, torch.full_like(u, 3.5)], -1)[None]
    got = sample(maps, uv, (32, 8))[0, 0]
    assert got.tolist() == pytest.approx([0, 10, 5, 2.5, 0, 0, 30, 30], abs=1e-4)


def test_coordinates_are_features():
    """A map that holds its own pixel coordinates gives back where a voxel projects to."""
    camera, pose = make_camera((64, 32)), look(20, 10)
    v, u = np.mgrid[0:32, 0:64].astype(float)
    args = (np.stack([u, v])[None], camera.K[None], pose[None], [True])
    for got, valid in (run_lift(*args), run_table(*args)):
        cam_T_ego = np.linalg.inv(pose)
        points = GRID.voxel_centers() @ cam_T_ego[:3, :3].T + cam_T_ego[:3, 3]
        uv, seen = camera.project(points)
        inner = seen & (uv >= 0).all(-1) & (uv <= (63, 31)).all(-1)
        assert inner.sum() > 20
        np.testing.assert_array_equal(seen, valid)
        np.testing.assert_allclose(np.moveaxis(got, 0, -1)[inner], uv[inner], atol=1e-3)


def lit_cells(pixel, pose, above=0.0):
    """Voxels (z, y, x) lit by one image pixel of a full-resolution map, and their centres."""
    features = np.zeros((1, 1, 32, 64))
    features[0, 0, pixel[1], pixel[0]] = 1
    args = (features, make_camera((64, 32)).K[None], pose[None], [True])
    got, _ = run_lift(*args, grid=FINE)
    np.testing.assert_allclose(run_table(*args, grid=FINE)[0], got, atol=1e-5)
    at = np.argwhere(got[0] > above)
    return at, FINE.index_to_xyz(at)


FINE = BevGrid(x_range_m=(-10, 10), y_range_m=(-10, 10), z_range_m=(0, 2), cell_m=0.25, z_cells=8)


@pytest.mark.parametrize('yaw', [0, 90, -135])
def test_one_pixel_lights_its_ray(yaw):
    pose, camera, pixel = look(yaw, 10), make_camera((64, 32)), (20, 18)
    at, xyz = lit_cells(pixel, pose)
    ray = pose[:3, :3] @ camera.unproject(np.array(pixel, float))
    offset = xyz - pose[:3, 3]
    along = offset @ ray
    away = np.linalg.norm(offset - along[:, None] * ray, axis=1)
    assert len(at) >= 10 and along.max() > 6
    assert (along > 0).all()
    # A bilinear sample reaches a pixel away in u and in v, and a pixel is z / f metres wide.
    assert (away <= 1.42 * along / camera.K[0, 0]).all()


def test_an_object_that_moves():
    """A bright pixel where a thing 6 m ahead and 1 m left stands lights its cell.

    The camera is at (0, 0, 1.5) and looks ahead, f = 45.7 px, c = (31.5, 15.5): the point
    (6.125, 1.125, 1.125) is at u = 31.5 - 45.7 * 1.125 / 6.125 = 23.1, v = 15.5 + 45.7 * 0.375 /
    6.125 = 18.3. Moved to 1 m right it is at u = 39.9. Cells: x = (6.125 + 10) / 0.25 = 64,
    y = (1.125 + 10) / 0.25 = 44 and (-1.125 + 10) / 0.25 = 35, z = 1.125 / 0.25 = 4.
    """
    left, _ = lit_cells((23, 18), look(), 0.5)
    right, _ = lit_cells((40, 18), look(), 0.5)
    assert [4, 44, 64] in left.tolist() and [4, 35, 64] not in left.tolist()
    assert [4, 35, 64] in right.tolist() and [4, 44, 64] not in right.tolist()


# --- symmetries ----------------------------------------------------------------------------------


def test_batch_items_do_not_touch_each_other():
    features = torch.randn(3, 4, 5, 4, 8, generator=torch.manual_seed(0))
    rigs = [random_rig(seed, 4) for seed in range(3)]
    K = torch.tensor(np.array([rig[0] for rig in rigs]), dtype=torch.float32)
    poses = torch.tensor(np.array([rig[1] for rig in rigs]), dtype=torch.float32)
    live = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]]).bool()
    together = lift(features, K, poses, live, grid=GRID, size_px=SIZE_PX)
    for i in range(3):
        one = slice(i, i + 1)
        alone = lift(features[one], K[one], poses[one], live[one], grid=GRID, size_px=SIZE_PX)
        torch.testing.assert_close(alone.features[0], together.features[i], atol=1e-5, rtol=0)
        assert torch.equal(alone.valid[0], together.valid[i])


@pytest.mark.parametrize('path', [run_lift, run_table])
def test_order_of_cameras_does_not_matter(path):
    K, poses = random_rig(3, 5)
    features, live = np.random.default_rng(0).normal(size=(5, 4, 4, 8)), np.ones(5, bool)
    order = [3, 0, 4, 2, 1]
    got, valid = path(features, K, poses, live)
    other, other_valid = path(features[order], K[order], poses[order], live)
    np.testing.assert_allclose(got, other, atol=1e-5)
    np.testing.assert_array_equal(valid, other_valid)


@pytest.mark.parametrize('path', [run_lift, run_table])
def test_a_dropped_camera_changes_only_what_it_sees(path):
    K, poses = rig_tensors(make_rig())
    features, live = np.random.default_rng(0).normal(size=(6, 4, 4, 8)), np.ones(6, bool)
    full, _ = path(features, K, poses, live)
    for i in range(6):
        alone = np.arange(6) == i
        _, sees = path(features, K, poses, alone)
        without, valid = path(features, K, poses, ~alone)
        changed = (without != full).any(0)
        assert sees.any() and not (changed & ~sees).any()
        assert changed[sees & ~valid].all()
        # To leave the camera out of the arrays is the same as to mark it as missing.
        dropped, dropped_valid = path(features[~alone], K[~alone], poses[~alone], np.ones(5, bool))
        np.testing.assert_allclose(dropped, without, atol=1e-6)
        np.testing.assert_array_equal(dropped_valid, valid)


def test_rig_and_grid_turn_together():
    """The vehicle turned by 90 degrees under the cameras: the square grid turns with them."""
    grid = BevGrid(x_range_m=(-5, 5), y_range_m=(-5, 5), cell_m=1, z_cells=2)
    K, poses = random_rig(7)
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]  # x becomes y: to the left
    features, live = np.random.default_rng(0).normal(size=(3, 4, 4, 8)), np.ones(3, bool)
    here, valid = run_lift(features, K, poses, live, grid=grid)
    there, valid_there = run_lift(features, K, turn @ poses, live, grid=grid)
    # (x, y) -> (-y, x): new[y = x_old, x = n - 1 - y_old]
    np.testing.assert_array_equal(valid_there, valid.swapaxes(1, 2)[:, :, ::-1])
    np.testing.assert_allclose(there, here.swapaxes(2, 3)[..., ::-1], atol=1e-4)


# --- precision and gradients ---------------------------------------------------------------------


def test_autocast_does_not_blur_the_geometry():
    """Mixed precision may touch features, never where they are taken from."""
    K, poses = rig_tensors(make_rig(size_px=(400, 224)))
    v, u = torch.meshgrid(torch.arange(28.0), torch.arange(50.0), indexing='ij')
    features = torch.stack([u, v])[None, None].expand(1, 6, 2, 28, 50)
    grid, live = BevGrid(z_cells=2), torch.ones(1, 6, dtype=torch.bool)
    kwargs = {'grid': grid, 'size_px': (400, 224)}
    exact = lift(features, K[None], poses[None], live, **kwargs)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = lift(features, K[None], poses[None], live, **kwargs)
        halves = lift(features.bfloat16(), K[None], poses[None], live, **kwargs)
    for got in (mixed, halves):  # 0..49 are exact in bfloat16
        assert torch.equal(got.valid, exact.valid)
        torch.testing.assert_close(got.features.float(), exact.features, atol=1e-4, rtol=0)


def test_gradient_reaches_the_features_that_were_sampled():
    K, poses = rig_tensors(make_rig())
    features = torch.randn(1, 6, 3, 4, 8, requires_grad=True)
    live = torch.tensor([[True] * 5 + [False]])
    out = lift(features, K[None], poses[None], live, grid=GRID, size_px=SIZE_PX)
    out.features.square().sum().backward()
    assert (features.grad[0, :5].abs().sum((1, 2, 3)) > 0).all()
    assert (features.grad[0, 5] == 0).all()


def test_gradient_is_right():
    K, poses = (torch.tensor(a) for a in random_rig(1, 2))
    grid = BevGrid(x_range_m=(-3, 3), y_range_m=(-3, 3), cell_m=2, z_cells=1)
    features = torch.randn(1, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    live = torch.ones(1, 2, dtype=torch.bool)
    assert torch.autograd.gradcheck(
        lambda f: lift(f, K[None], poses[None], live, grid=grid, size_px=SIZE_PX).features,
        features,
    )
