"""BEVFormer: what its cells see, whose business that is, and what they remember."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import bevformer, deformable
from bev_perception.model.anchors import build_anchors, plane_anchors
from bev_perception.model.bevformer import BevFormer, DeformableAttention, SelfAttention
from bev_perception.model.config import AttentionConfig, ModelConfig

from .test_training_lift import CAMERAS, FEATURE_PX, SIZE_PX, make_batch

GRID = BevGrid(x_range_m=(-6, 8), y_range_m=(-5, 5), z_range_m=(-1, 3), cell_m=1, z_cells=4)
CHANNELS = 16


def make_config(*, temporal=False, grid=GRID, **values) -> ModelConfig:
    attention = AttentionConfig(layers=2, hidden=24, temporal=temporal, **values)
    return ModelConfig(network='bevformer', grid=grid, channels=CHANNELS, attention=attention)


def make_net(*, seed=0, **values) -> BevFormer:
    """A network whose layers all do something, as trained ones do."""
    torch.manual_seed(seed)
    net = BevFormer(make_config(**values)).eval()
    for part in net.modules():
        if isinstance(part, DeformableAttention):
            nn.init.normal_(part.sampling_offsets.weight, std=0.3)
            nn.init.normal_(part.attention_weights.weight, std=0.5)
    return net


def make_scene(batch=2, seed=0, grid=GRID):
    """Features and anchors of other rigs in every item; some cameras are missing."""
    cameras = make_batch(batch, seed)
    width, height = FEATURE_PX
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, CAMERAS, CHANNELS, height, width, generator=generator)
    return features, cameras, look(cameras, grid)


def look(cameras, grid=GRID):
    return build_anchors(*cameras, grid=grid, size_px=SIZE_PX, feature_px=FEATURE_PX)


def make_before(batch=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randn(batch, CHANNELS, *GRID.shape[1:], generator=generator)
    return plane, torch.rand(batch, *GRID.shape[1:], generator=generator) < 0.7


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize('temporal', [False, True])
def test_items_with_different_rigs_give_the_same_alone_and_together(temporal):
    net = make_net(temporal=temporal)
    features, cameras, anchors = make_scene(3)
    before = make_before(3) if temporal else None
    together = net(features, anchors, before)
    assert together.shape == (3, CHANNELS, 10, 14)
    for i in range(3):
        one = look([t[i : i + 1] for t in cameras])
        known = None if before is None else (before[0][i : i + 1], before[1][i : i + 1])
        close(net(features[i : i + 1], one, known), together[i : i + 1])
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize('temporal', [False, True])
def test_fast_equals_plain_forward_and_in_gradients(temporal, monkeypatch):
    features, _, anchors = make_scene()
    before = make_before() if temporal else None
    results = []
    for form in (deformable.attend_plain, deformable.attend):
        monkeypatch.setattr(bevformer, 'attend', form)
        net = make_net(temporal=temporal)
        images = features.clone().requires_grad_()
        out = net(images, anchors, before)
        out.square().sum().backward()
        results.append([out.detach(), images.grad, *(p.grad for p in net.parameters())])
    for plain, fast in zip(*results, strict=True):
        assert plain is not None and fast is not None
        torch.testing.assert_close(fast, plain, atol=1e-3, rtol=1e-3)


def test_the_order_of_cameras_does_not_matter():
    features, cameras, anchors = make_scene()
    order = [2, 0, 3, 1]
    K, poses, live = (t[:, order] for t in cameras)
    net = make_net()
    close(net(features[:, order], look((K, poses, live))), net(features, anchors))


def test_a_dead_camera_contributes_nothing():
    features, (K, poses, live), anchors = make_scene(1)
    assert not live[0, 2] and live[0, 0]
    net = make_net()
    expected = net(features, anchors)
    features[0, 2] = 1e6
    assert torch.equal(net(features, anchors), expected)
    kept = [0, 1, 3]
    fewer = look((K[:, kept], poses[:, kept], live[:, kept]))
    close(net(features[:, kept], fewer), expected)


def test_no_live_camera_gives_the_learned_plane():
    features, (K, poses, live), _ = make_scene()
    net = make_net()
    out = net(features, look((K, poses, live & False)))
    assert out.isfinite().all()
    close(out[0], out[1])


def test_self_attention_looks_at_x_y():
    """In a plane of 10 x 14 cells a painted cell finds itself, and +x is one column further."""
    attention = SelfAttention(make_config(heads=1, points=4)).eval()
    with torch.no_grad():
        inner = attention.attention
        for layer in (inner.value_proj, inner.output_proj, attention.output_proj):
            layer.weight.copy_(torch.eye(CHANNELS))
            layer.bias.zero_()
        inner.attention_weights.bias.copy_(torch.tensor([0, -99.0, -99.0, -99.0]))
        painted = torch.zeros(10, 14, CHANNELS)
        painted[2, 11, 5] = 1
        query = painted.reshape(-1, CHANNELS)
        plane = plane_anchors(1, (10, 14), query.device)
        for step, cell in (((0.0, 0.0), (2, 11)), ((3.0, 0.0), (2, 8)), ((0.0, -4.0), (6, 11))):
            inner.sampling_offsets.bias.copy_(torch.tensor(step).repeat(4))
            seen = (attention(query, query * 0, plane, None) - query).reshape(10, 14, CHANNELS)
            expected = torch.zeros(10, 14, CHANNELS)
            expected[(*cell, 5)] = 1
            close(seen, expected)


def test_transposed_self_attention_looks_at_y_x_and_needs_a_square_plane():
    square = BevGrid(x_range_m=(-5, 5), y_range_m=(-5, 5), cell_m=1)
    features, _, anchors = make_scene(grid=square)
    net = make_net(grid=square)
    straight, turned = (net(features, anchors, transposed_self=t) for t in (False, True))
    assert (straight - turned).abs().max() > 0.05
    features, _, anchors = make_scene()
    with pytest.raises(ConfigError, match='square plane; it is 10 x 14'):
        make_net()(features, anchors, transposed_self=True)


def test_a_first_instant_takes_the_present_for_the_previous_plane():
    net = make_net(temporal=True)
    features, _, anchors = make_scene()
    plane, known = make_before()
    first = net(features, anchors)
    nothing_known = net(features, anchors, (plane * torch.nan, known & False))
    assert torch.equal(nothing_known, first)
    assert (net(features, anchors, (plane, known | True)) - first).abs().max() > 0.05


def test_items_and_cells_that_remember_nothing_are_as_at_a_first_instant():
    net = make_net(temporal=True)
    features, _, anchors = make_scene()
    plane, known = make_before()
    known[1] = False
    plane[~known[:, None].expand_as(plane)] = torch.nan
    out, first = net(features, anchors, (plane, known)), net(features, anchors)
    close(out[1], first[1])
    assert out.isfinite().all() and (out[0] - first[0]).abs().max() > 0.05


def test_temporal_self_attention_is_the_mean_over_both_planes():
    attention = make_net(temporal=True).layers[0].self_attention
    with torch.no_grad():
        attention.attention.sampling_offsets.weight.zero_()
        attention.attention.sampling_offsets.bias.zero_()
        query, before = torch.randn(2, 140, CHANNELS, generator=torch.manual_seed(1))
        known = torch.ones(140, 1, dtype=torch.bool)
        plane = plane_anchors(1, (10, 14), query.device)
        got = attention(query, query * 0, plane, (before, known)) - query
        inner = attention.attention
        mean = inner.output_proj(inner.value_proj((query + before) / 2))
        close(got, attention.output_proj(mean))


def test_no_gradient_of_memory_is_needed_and_every_weight_is_learned():
    for temporal in (False, True):
        net = make_net(temporal=temporal).train()
        features, _, anchors = make_scene()
        net(features, anchors, make_before() if temporal else None).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize('temporal', [False, True])
def test_bfloat16_is_close_to_float32(temporal):
    net = make_net(temporal=temporal)
    features, _, anchors = make_scene()
    before = make_before() if temporal else None
    exact = net(features, anchors, before)
    with torch.autocast('cpu', torch.bfloat16):
        rough = net(features, anchors, before)
    error = (rough.float() - exact).abs()
    assert 0 < error.max() < 0.3 and error.mean() < 0.01
    rough.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_offsets_start_as_rings():
    attention = DeformableAttention(make_config(heads=4, points=8))
    rings = attention.sampling_offsets(torch.randn(3, CHANNELS)).reshape(3, 4, 8, 2)
    close(rings[0, 0], torch.stack([torch.arange(1.0, 9), torch.zeros(8)], -1))
    close(rings[2, 1], torch.stack([torch.zeros(8), torch.arange(1.0, 9)], -1))
    assert (attention.attention_weights(torch.randn(3, CHANNELS)) == 0).all()


def test_dropout_works_in_training_alone():
    net = make_net(dropout=0.5)
    features, _, anchors = make_scene()
    assert torch.equal(net(features, anchors), net(features, anchors))
    trained = copy.deepcopy(net).train()
    assert not torch.equal(trained(features, anchors), trained(features, anchors))
