"""The lift of a batch through its sparse table against the plain form, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bev_perception.geometry.grid import BevGrid
from bev_perception.model import lift_table
from bev_perception.model.bev_net import BevNet
from bev_perception.model.lift import lift
from bev_perception.model.lift_table import build_batch_table, lift_with_table

from ..factories import look, make_camera

GRID = BevGrid(x_range_m=(-6, 8), y_range_m=(-5, 5), z_range_m=(-1, 3), cell_m=0.5, z_cells=3)
SIZE_PX = (64, 32)
FEATURE_PX = (8, 4)
CAMERAS = 4


def make_batch(batch: int, seed: int = 0):
    """Cameras anywhere, other ones in every sample, some of them missing: K, poses, live."""
    rng = np.random.default_rng(seed)
    K, poses = [], []
    for _ in range(batch * CAMERAS):
        K.append(make_camera(SIZE_PX, fov_deg=rng.uniform(40, 120)).K)
        at = rng.uniform([-2, -2, 0], [2, 2, 2])
        poses.append(look(rng.uniform(-180, 180), rng.uniform(-40, 40), at, rng.uniform(-30, 30)))
    live = rng.random((batch, CAMERAS)) < 0.7
    live[0] = [True, True, False, True]
    return (
        torch.tensor(np.array(K)).float().reshape(batch, CAMERAS, 3, 3),
        torch.tensor(np.array(poses)).float().reshape(batch, CAMERAS, 4, 4),
        torch.tensor(live),
    )


def make_features(batch: int, feature_px=FEATURE_PX, **values) -> torch.Tensor:
    width, height = feature_px
    generator = torch.Generator().manual_seed(batch)
    features = torch.randn(batch, CAMERAS, 5, height, width, generator=generator, **values)
    return features.requires_grad_()


def through_table(features, cameras, feature_px=FEATURE_PX):
    table = build_batch_table(*cameras, grid=GRID, size_px=SIZE_PX, feature_px=feature_px)
    return lift_with_table(features, table), table.valid


@pytest.mark.parametrize('batch', [1, 2, 3])
@pytest.mark.parametrize('feature_px', [FEATURE_PX, (64, 32), (5, 3), (1, 1)])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_values_and_gradients_equal_the_plain_form(batch, feature_px, seed):
    cameras = make_batch(batch, seed)
    features = make_features(batch, feature_px)
    slow = lift(features, *cameras, grid=GRID, size_px=SIZE_PX)
    fast, valid = through_table(features, cameras, feature_px)
    assert 0.05 < valid.float().mean() < 1 and torch.equal(valid, slow.valid)
    torch.testing.assert_close(fast, slow.features, atol=1e-4, rtol=0)
    assert (fast.permute(0, 2, 3, 4, 1)[~valid] == 0).all()
    incoming = torch.randn(fast.shape, generator=torch.manual_seed(seed))
    (expected,) = torch.autograd.grad(slow.features, features, incoming)
    (got,) = torch.autograd.grad(fast, features, incoming)
    assert expected.abs().max() > 1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_more_pixels_than_16_bits_can_count():
    """The transposed table sorts 16-bit numbers where they suffice."""
    feature_px, cameras = (160, 80), make_batch(2)
    features = make_features(2, feature_px)
    assert features[:, :, 0].numel() > 2**16
    fast, _ = through_table(features, cameras, feature_px)
    slow = lift(features, *cameras, grid=GRID, size_px=SIZE_PX).features
    incoming = torch.randn(fast.shape, generator=torch.manual_seed(0))
    (expected,) = torch.autograd.grad(slow, features, incoming)
    (got,) = torch.autograd.grad(fast, features, incoming)
    torch.testing.assert_close(fast, slow, atol=1e-3, rtol=0)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def test_gradient_equals_finite_differences():
    cameras = make_batch(2)
    features = torch.randn(2, CAMERAS, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f: through_table(f, cameras, (3, 2))[0], features, fast_mode=True
    )


@pytest.mark.parametrize('layout', ['as it comes', 'channels_last', 'expanded'])
def test_gradient_may_come_in_any_layout(layout):
    cameras, features = make_batch(2), make_features(2)
    fast, _ = through_table(features, cameras)
    incoming = torch.randn(fast.shape, generator=torch.manual_seed(0))
    if layout == 'channels_last':
        incoming = incoming.contiguous(memory_format=torch.channels_last_3d)
    if layout == 'expanded':
        incoming = torch.ones(()).expand(fast.shape)
    slow = lift(features, *cameras, grid=GRID, size_px=SIZE_PX).features
    (expected,) = torch.autograd.grad(slow, features, incoming)
    (got,) = torch.autograd.grad(fast, features, incoming)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_features_give_half_precision_volumes(dtype):
    """Within the rounding of the type: sums are taken in float32, forward and backward."""
    cameras = make_batch(2)
    exact = make_features(2)
    halves = exact.detach().to(dtype).requires_grad_()
    fast, valid = through_table(halves, cameras)
    slow, valid_exact = through_table(exact, cameras)
    assert fast.dtype == dtype and torch.equal(valid, valid_exact)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(fast.float(), slow, atol=8 * step, rtol=4 * step)
    ones = torch.ones_like(fast)
    (got,) = torch.autograd.grad(fast, halves, ones)
    (expected,) = torch.autograd.grad(slow, exact, ones.float())
    assert got.dtype == dtype and expected.max() > 20
    torch.testing.assert_close(got.float(), expected, atol=0.01, rtol=2 * step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('feature_px', [FEATURE_PX, (160, 80)])
def test_a_gpu_gives_what_the_processor_gives(dtype, feature_px):
    cameras, features = make_batch(2), make_features(2, feature_px)
    slow, valid = through_table(features, cameras, feature_px)
    there = features.detach().to('cuda', dtype).requires_grad_()
    fast, valid_there = through_table(there, [t.cuda() for t in cameras], feature_px)
    assert fast.dtype == dtype and fast.is_cuda
    same = valid == valid_there.cpu()
    assert (~same).float().mean() < 1e-3  # a voxel's centre on an image's border
    step = max(8 * torch.finfo(dtype).eps, 1e-3)
    torch.testing.assert_close(
        fast.float().cpu() * same[:, None], slow * same[:, None], atol=step, rtol=step
    )
    incoming = torch.randn(fast.shape, generator=torch.manual_seed(0)) * same[:, None]
    (expected,) = torch.autograd.grad(slow, features, incoming)
    (got,) = torch.autograd.grad(fast, there, incoming.to(there))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float().cpu(), expected, atol=4 * step, rtol=step)


def test_autocast_does_not_move_the_geometry():
    cameras, features = make_batch(2), make_features(2)
    exact, valid = through_table(features, cameras)
    with torch.autocast('cpu', torch.bfloat16):
        mixed, valid_mixed = through_table(features, cameras)
    assert torch.equal(valid, valid_mixed)
    torch.testing.assert_close(mixed.float(), exact, atol=1e-5, rtol=0)


def test_a_batch_whose_cameras_are_all_missing_gives_zeros():
    K, poses, live = make_batch(2)
    features = make_features(2)
    fast, valid = through_table(features, (K, poses, torch.zeros_like(live)))
    assert not valid.any() and (fast == 0).all()
    (gradient,) = torch.autograd.grad(fast.sum(), features)
    assert (gradient == 0).all()


def test_no_camera_has_a_volume_of_its_own(monkeypatch):
    """Every gather sees pixels' rows and gives voxels' rows, once per batch and direction."""
    sizes, gather = [], lift_table._sum_rows

    def watched(rows, indices, weights, offsets):
        out = gather(rows, indices, weights, offsets)
        sizes.append((len(rows), len(out)))
        return out

    monkeypatch.setattr(lift_table, '_sum_rows', watched)
    cameras, features = make_batch(3), make_features(3)
    through_table(features, cameras)[0].sum().backward()
    pixels, voxels = 3 * CAMERAS * 8 * 4, 3 * 3 * 20 * 28
    assert sizes == [(pixels, voxels), (voxels, pixels)]


@pytest.mark.parametrize('batch', [1, 2])
def test_the_volume_is_laid_out_as_the_height_compressor_reads_it(batch):
    """Folding heights into channels must be a view: a copy is the largest tensor of all."""
    seen = []
    net = BevNet(8, 3)
    net.compress.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features = torch.randn(batch, CAMERAS, 8, 4, 8)
    volume, _ = through_table(features, make_batch(batch))
    net(volume)
    c, z, y, x = volume.shape[1:]
    assert seen[0].data_ptr() == volume.data_ptr()
    assert seen[0].stride() == (y * x * z * c, 1, x * z * c, z * c)  # also where the batch is 1
