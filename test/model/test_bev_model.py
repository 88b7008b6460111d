"""The network: two ways through it that agree, symmetries, gradients in every memory format."""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from bev_perception.model.backbone import ImageEncoder
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import BACKBONES, NETWORKS
from bev_perception.model.fold import folded
from bev_perception.model.norm import instance_norm
from bev_perception.model.tensors import BevInputs
from bev_perception.preprocess import prepare

from ..factories import lift_features, make_config, make_model, make_rig, make_view_set

# The large ones take seconds to make.
ALL_BACKBONES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ('resnet50', 'resnet101') else [])
    for name in BACKBONES
]


@pytest.fixture(scope='module')
def model() -> BevModel:
    return make_model()


@pytest.fixture(scope='module', params=NETWORKS)
def either(request) -> BevModel:
    """A network of each kind."""
    return make_model(make_config(network=request.param))


@pytest.fixture(scope='module')
def inputs() -> BevInputs:
    """One set of six cameras."""
    return prepare(make_view_set(), make_config())


def select(inputs: BevInputs, cameras) -> BevInputs:
    names = ('images', 'K', 'ego_T_cam', 'live')
    return replace(inputs, **{name: getattr(inputs, name)[:, cameras] for name in names})


@pytest.mark.parametrize('backbone', ALL_BACKBONES)
def test_encoder_has_stride_8(backbone):
    """Also for sizes that are no multiple of 16."""
    encoder = ImageEncoder(backbone, 16).eval()
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 3, 40, 72)).shape == (1, 16, 5, 9)


@torch.inference_mode()
def test_shapes(either, inputs):
    out = either(BevInputs(**{f.name: getattr(inputs, f.name)[[0, 0]] for f in fields(inputs)}))
    assert out.logits.shape == (2, 3, 16, 20)  # classes, y, x
    assert out.valid.shape == (2, 16, 20) and out.valid.dtype == torch.bool
    assert out.valid.float().mean() > 0.8


@torch.inference_mode()
def test_a_cell_is_covered_when_any_height_is(model, inputs):
    low, high = lift_features(model, inputs).valid[0]
    assert (low ^ high).any()
    assert torch.equal(model(inputs).valid[0], low | high)


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('backbone', ['resnet18', 'tf_efficientnet_lite0'])
@torch.inference_mode()
def test_infer_equals_forward(backbone, network, inputs):
    model = make_model(make_config(backbone=backbone, network=network))
    slow = model(inputs)
    for live in (list(range(6)), [0, 2, 5]):
        slow, some = model(select(inputs, live)), select(inputs, live)
        for format_, variant in (
            (torch.contiguous_format, model),
            (torch.channels_last, copy.deepcopy(model).to(memory_format=torch.channels_last)),
            (torch.channels_last, folded(model).to(memory_format=torch.channels_last)),
        ):
            images = some.images[0].contiguous(memory_format=format_)
            fast = variant.infer(images, model.project(some))
            assert torch.equal(fast.valid, slow.valid)
            torch.testing.assert_close(fast.logits, slow.logits, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_missing_camera_is_the_same_as_an_absent_one(either, inputs):
    """Training pads missing cameras with black images; the node leaves them out."""
    live = torch.tensor([[True, True, False, True, True, True]])
    images = inputs.images.clone()
    images[:, 2] = 0
    padded = either(replace(inputs, images=images, live=live))
    without = either(select(inputs, [0, 1, 3, 4, 5]))
    torch.testing.assert_close(padded.logits, without.logits, atol=1e-5, rtol=0)
    assert torch.equal(padded.valid, without.valid)


def test_a_missing_camera_leaves_the_batch_norms_alone(either, inputs):
    """In training too, where batch norms learn from all images of a batch."""
    padded, without = (copy.deepcopy(either).train() for _ in range(2))
    live = torch.tensor([[True, True, False, True, True, False]])
    images = inputs.images.clone()
    images[:, ~live[0]] = 0
    torch.manual_seed(0)  # of what attention drops
    got = padded(replace(inputs, images=images, live=live))
    torch.manual_seed(0)
    want = without(select(inputs, live[0].nonzero()[:, 0].tolist()))
    torch.testing.assert_close(got.logits, want.logits, atol=1e-4, rtol=0)
    for (name, a), b in zip(padded.named_buffers(), without.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)
    for side in (got, want):
        side.logits.square().mean().backward()
    for (name, a), b in zip(padded.named_parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_a_training_batch_without_any_camera_gives_an_answer(either, inputs):
    blind = replace(inputs, live=torch.zeros(1, 6, dtype=torch.bool))
    out = copy.deepcopy(either).train()(blind)
    assert torch.isfinite(out.logits).all() and not out.valid.any()
    for name, gradient in gradients(copy.deepcopy(either).train(), blind).items():
        assert torch.isfinite(gradient).all(), name


@torch.inference_mode()
def test_order_of_cameras_does_not_matter(either, inputs):
    out, other = either(inputs), either(select(inputs, [5, 2, 0, 1, 4, 3]))
    torch.testing.assert_close(out.logits, other.logits, atol=1e-4, rtol=0)
    assert torch.equal(out.valid, other.valid)


@torch.inference_mode()
def test_batch_items_do_not_touch_each_other(either, inputs):
    other = prepare(make_view_set(make_rig(fov_deg=50.0)), make_config())
    other = replace(other, images=other.images.flip(1))
    both = BevInputs(
        **{f.name: torch.cat([getattr(i, f.name) for i in (inputs, other)]) for f in fields(other)}
    )
    together = either(both)
    for i, alone in enumerate((either(inputs), either(other))):
        torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-4, rtol=0)
        assert torch.equal(together.valid[i], alone.valid[0])


def test_heights_are_not_mixed_up_with_channels(model):
    """The compressor sees its input height-major: channel z * c + k is feature k of layer z."""
    seen = []
    hook = model.bev_net.compress.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    z, c = model.config.grid.z_cells, model.config.channels
    volume = torch.arange(c * z).float().reshape(1, c, z, 1, 1).expand(1, c, z, 16, 20)
    with torch.inference_mode():
        model.bev_net(volume)
    hook.remove()
    for layer in range(z):
        for k in range(c):
            assert (seen[0][0, layer * c + k] == volume[0, k, layer]).all()


def test_weights_have_stable_names(model):
    """Checkpoints outlive the code; a name that changes makes them unreadable."""
    names = list(model.state_dict())
    assert {name.split('.')[0] for name in names} == {'encoder', 'bev_net', 'head'}
    for name in (
        'encoder.trunk.conv1.weight',
        'encoder.mix.0.weight',
        'encoder.mix.3.weight',
        'encoder.mix.6.bias',
        'bev_net.compress.0.weight',
        'bev_net.stem.0.weight',
        'bev_net.stem.1.running_mean',
        'bev_net.down3.1.conv2.weight',
        'bev_net.up0.reduce.weight',
        'head.layers.0.weight',
        'head.layers.3.bias',
    ):
        assert name in names or name.replace('trunk.', 'trunk.model.') in names


# --- folding and normalisation -------------------------------------------------------------------


@pytest.mark.parametrize('backbone', ALL_BACKBONES)
@torch.inference_mode()
def test_folding_batch_norms_changes_nothing(backbone):
    model = make_model(make_config(backbone=backbone))
    before = copy.deepcopy(model.state_dict())
    fused = folded(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    images = torch.randn(2, 3, 32, 64, generator=torch.manual_seed(1))
    plain = model.encoder(images)
    torch.testing.assert_close(fused.encoder(images), plain, atol=1e-4, rtol=1e-4)
    volume = torch.randn(1, 8, 2, 16, 20)
    plain = model.head(model.bev_net(volume))
    torch.testing.assert_close(fused.head(fused.bev_net(volume)), plain, atol=1e-4, rtol=1e-4)
    after = model.state_dict()  # the model itself stays as it was
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_instance_norm(batch, memory):
    """Values equal torch's InstanceNorm2d; gradients equal the formula's, in float64.

    torch 2.13's own InstanceNorm2d fails the second part for batch 1 in channels_last.
    """
    x = 3 + 2 * torch.randn(batch, 6, 5, 7, generator=torch.manual_seed(0))
    incoming = torch.randn(batch, 6, 5, 7)
    torch.testing.assert_close(instance_norm(6)(x), nn.InstanceNorm2d(6)(x), atol=1e-5, rtol=1e-5)
    exact = x.double().requires_grad_()
    variance, mean = torch.var_mean(exact, (2, 3), correction=0, keepdim=True)
    ((exact - mean) * torch.rsqrt(variance + 1e-5)).backward(incoming.double())
    leaf = x.contiguous(memory_format=memory).requires_grad_()
    instance_norm(6)(leaf).backward(incoming.contiguous(memory_format=memory))
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=1e-5, rtol=1e-4)


# --- gradients -----------------------------------------------------------------------------------


def gradients(model: BevModel, inputs: BevInputs) -> dict[str, torch.Tensor]:
    """Gradients of a smooth loss, by parameter."""
    model.zero_grad()
    out = model(inputs)
    target = torch.linspace(-1, 1, out.logits.numel(), dtype=out.logits.dtype)
    (out.logits * target.reshape(out.logits.shape)).sigmoid().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def double(inputs: BevInputs) -> BevInputs:
    images, K, ego_T_cam = (t.double() for t in (inputs.images, inputs.K, inputs.ego_T_cam))
    return replace(inputs, images=images, K=K, ego_T_cam=ego_T_cam)


def test_gradient_reaches_every_parameter(either, inputs):
    for name, gradient in gradients(copy.deepcopy(either).train(), inputs).items():
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0, name


@pytest.mark.parametrize('cameras', [6, 1])
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_gradients_are_right_at_batch_1(either, inputs, memory, cameras):
    """Against float64, with the model's weights in either memory format.

    Batch 1 in channels_last is where PyTorch's InstanceNorm2d is wrong by more than its size.
    """
    some = select(inputs, list(range(cameras)))
    exact = gradients(copy.deepcopy(either).double(), double(some))
    got = gradients(copy.deepcopy(either).to(memory_format=memory), some)
    for name, gradient in got.items():
        scale = exact[name].norm().clamp(min=1e-9)
        assert (gradient.double() - exact[name]).norm() / scale < 1e-4, name
    worst = max(
        float((got[n].double() - exact[n]).norm() / exact[n].norm().clamp(min=1e-9)) for n in got
    )
    print(f'\nlargest relative error of a gradient: {worst:.1e}')
