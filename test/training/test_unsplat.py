"""The pretraining head: section 3.2 of the paper by hand, and the fast form against the plain."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bev_training.objectives import unsplat
from bev_training.objectives.unsplat import UnsplatHead


def make_head(channels=3, z_cells=2, features=4, seed=0) -> UnsplatHead:
    torch.manual_seed(seed)
    return UnsplatHead(channels, z_cells, features).double()


def make_plane(b=1, channels=3, size=(2, 2), seed=1) -> torch.Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(b, channels, *size, generator=make, dtype=torch.float64)


def by_hand(head: UnsplatHead, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Section 3.2, one number at a time: logits (z, y, x) and features (f, z, y, x)."""
    weights = {name: value.detach().numpy() for name, value in head.state_dict().items()}
    c, ys, xs = plane.shape
    padded = np.pad(plane, ((0, 0), (1, 1), (1, 1)))
    first = np.zeros((c, ys, xs))
    for o in range(c):
        for y in range(ys):
            for x in range(xs):
                around = padded[:, y : y + 3, x : x + 3]
                first[o, y, x] = (weights['columns.0.weight'][o] * around).sum()
        mean = first[o].sum() / (ys * xs)
        variance = ((first[o] - mean) ** 2).sum() / (ys * xs)
        first[o] = np.maximum((first[o] - mean) / math.sqrt(variance + 1e-5), 0)

    def apply(name: str, values: np.ndarray) -> np.ndarray:
        matrix = weights[f'{name}.weight'].reshape(-1, len(values))
        return np.array(
            [
                sum(m * v for m, v in zip(row, values, strict=True)) + bias
                for row, bias in zip(matrix, weights[f'{name}.bias'], strict=True)
            ]
        )

    logits = np.zeros((head.z_cells, ys, xs))
    features = np.zeros((len(weights['features.bias']), head.z_cells, ys, xs))
    for y in range(ys):
        for x in range(xs):
            groups = apply('unfold', first[:, y, x])
            for z in range(head.z_cells):
                voxel = groups[z * c : (z + 1) * c]  # Z_B groups, each of N_B channels
                hidden = np.log1p(np.exp(apply('widen', voxel)))
                voxel = apply('narrow', hidden)
                logits[z, y, x] = apply('occupancy', voxel)[0]
                features[:, z, y, x] = apply('features', voxel)
    return logits, features


def every_voxel(b: int, z: int, y: int, x: int) -> torch.Tensor:
    return torch.ones(b, z, y, x, dtype=torch.bool).nonzero()


def test_dense_and_fast_form_are_the_papers_equations_on_2x2x2_voxels():
    head, plane = make_head(), make_plane()
    logits, features = by_hand(head, plane[0].numpy())
    assert np.ptp(logits) > 0.01
    dense_logits, dense_features = head.dense(plane)
    np.testing.assert_allclose(dense_logits[0].detach(), logits, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dense_features[0].detach(), features, rtol=1e-10, atol=1e-12)
    fast_logits, at_voxels = head(plane, every_voxel(1, 2, 2, 2))
    np.testing.assert_allclose(fast_logits[0].detach(), logits, rtol=1e-10, atol=1e-12)
    flat = features.reshape(4, -1).T
    np.testing.assert_allclose(at_voxels.detach(), flat, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('height', [0, 1, 2])
def test_channels_are_one_group_per_height(height):
    head, plane = make_head(z_cells=3), make_plane()
    dense, fast = head.dense(plane)[0], head(plane)[0]
    with torch.no_grad():
        head.unfold.bias[height * 3 : (height + 1) * 3] += 1
    for before, after in ((dense, head.dense(plane)[0]), (fast, head(plane)[0])):
        changed = (before != after).flatten(2).any(2)[0].tolist()
        assert changed == [z == height for z in range(3)]


def test_it_has_the_parameters_of_the_paper():
    head = UnsplatHead(128, 8, 384)
    shapes = {name: tuple(value.shape) for name, value in head.named_parameters()}
    assert shapes['columns.0.weight'] == (128, 128, 3, 3)
    assert shapes['unfold.weight'] == (1024, 128, 1, 1)
    assert shapes['widen.weight'] == (256, 128, 1, 1, 1)
    assert shapes['narrow.weight'] == (128, 256, 1, 1, 1)
    assert shapes['occupancy.weight'] == (1, 128, 1, 1, 1)
    assert shapes['features.weight'] == (384, 128, 1, 1, 1)
    assert sum(p.numel() for p in head.parameters()) == 395_265 - 128  # no bias before the norm
    assert UnsplatHead(8, 2, 0).features is None


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_fast_form_has_the_values_and_gradients_of_the_dense_form(memory_format, monkeypatch):
    monkeypatch.setattr(unsplat, '_COLUMNS_CPU', 7)  # several parts, the last one shorter
    head = make_head(channels=5, z_cells=3)
    planes = [
        make_plane(2, 5, (4, 6)).contiguous(memory_format=memory_format).requires_grad_()
        for _ in range(2)
    ]
    make = torch.Generator().manual_seed(2)
    voxels = every_voxel(2, 3, 4, 6)[torch.randint(144, (30,), generator=make)]  # any order, twice
    occupied = torch.rand(2, 3, 4, 6, generator=make) < 0.2
    known = torch.tensor([True, False])
    seed = torch.randn(30, 4, generator=make, dtype=torch.float64)

    logits, features = head.dense(planes[0])
    at = voxels.unbind(1)
    chosen = features[at[0], :, at[1], at[2], at[3]]
    bce = F.binary_cross_entropy_with_logits(
        logits[known],
        occupied[known].double(),
        pos_weight=torch.tensor(3.0),
        reduction='none',
    )
    dense_loss = bce.mean((1, 2, 3)).sum()
    (dense_loss + 0.1 * (chosen * seed).sum()).backward()
    dense_gradients = {name: p.grad.clone() for name, p in head.named_parameters()}

    head.zero_grad()
    rows = head.rows(planes[1])
    fast_chosen = head.features_at(rows, voxels)
    fast_loss = head.occupancy_bce(rows, occupied, known, 3.0)
    (fast_loss + 0.1 * (fast_chosen * seed).sum()).backward()

    # The cross-entropy is taken in float32, whatever the network computes in.
    torch.testing.assert_close(head.occupancy_logits(rows), logits)
    torch.testing.assert_close(fast_chosen, chosen)
    torch.testing.assert_close(fast_loss.double(), dense_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(planes[1].grad, planes[0].grad, rtol=1e-5, atol=1e-7)
    for name, p in head.named_parameters():
        torch.testing.assert_close(p.grad, dense_gradients[name], rtol=1e-5, atol=1e-7, msg=name)
        assert p.grad.abs().max() > 0, name


def test_no_voxels_give_no_features_and_zero_gradients():
    head, plane = make_head(), make_plane()
    none = torch.zeros(0, 4, dtype=torch.int64)
    _, features = head(plane, none)
    assert features.shape == (0, 4)
    features.sum().backward()
    gradients = {name: p.grad for name, p in head.named_parameters() if 'occupancy' not in name}
    assert all(g is not None and not g.any() for g in gradients.values())


def test_what_is_kept_for_the_gradient_is_a_small_part_of_the_dense_form():
    channels, z_cells, size = 16, 8, (32, 32)
    head = UnsplatHead(channels, z_cells, 48)
    plane = torch.randn(1, channels, *size, requires_grad=True)
    occupied = torch.zeros(1, z_cells, *size, dtype=torch.bool)
    occupied.view(-1)[::64] = True
    known = torch.ones(1, dtype=torch.bool)

    def kept(run) -> int:
        saved = []

        def keep(tensor):
            tensor = tensor.detach()
            saved.append(weakref.ref(tensor))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = run()
        assert result.requires_grad
        alive = [tensor for ref in saved if (tensor := ref()) is not None]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
        return sum(storages.values())

    def dense() -> torch.Tensor:
        logits, features = head.dense(plane)
        bce = F.binary_cross_entropy_with_logits(logits, occupied.float())
        return bce + features.square().mean()

    def fast() -> torch.Tensor:
        rows = head.rows(plane)
        at_voxels = head.features_at(rows, occupied.nonzero())
        return head.occupancy_bce(rows, occupied, known) + at_voxels.square().mean()

    assert kept(fast) < 0.15 * kept(dense)


def test_16_bit_arithmetic_gives_nearly_the_same_loss_in_float32():
    head = make_head(channels=8, z_cells=2).float()
    plane = make_plane(2, 8, (6, 5)).float()
    occupied = torch.rand(2, 2, 6, 5, generator=torch.Generator().manual_seed(3)) < 0.3
    known = torch.ones(2, dtype=torch.bool)
    exact = head.occupancy_bce(head.rows(plane), occupied, known)
    exact.backward()
    gradients = [p.grad.clone() for p in head.parameters() if p.grad is not None]
    head.zero_grad()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = head.occupancy_bce(head.rows(plane), occupied, known)
    rough.backward()
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.01)
    others = [p.grad for p in head.parameters() if p.grad is not None]
    for one, other in zip(gradients, others, strict=True):
        assert other.dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99


def test_the_gradients_of_many_columns_at_once_fit_float16(monkeypatch):
    monkeypatch.setattr(unsplat, '_COLUMNS_CPU', unsplat._COLUMNS)  # what an accelerator takes
    head = make_head(channels=4, z_cells=8, features=0).float()
    plane = make_plane(1, 4, (128, 128)).float()
    empty, known = torch.zeros(1, 8, 128, 128, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    gradients = []
    for dtype in (torch.float32, torch.float16):
        head.zero_grad()
        with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
            loss = head.occupancy_bce(head.rows(plane), empty, known)
        loss.backward()
        gradients.append([p.grad.clone() for p in head.parameters()])
    for exact, rough in zip(*gradients, strict=True):
        assert F.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99
        assert rough.norm().item() == pytest.approx(exact.norm().item(), rel=0.02)
