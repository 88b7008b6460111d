"""The optional heads for objects' middles, gradients of every parameter, a batch that overfits."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bev_perception.errors import ConfigError
from bev_perception.model import checkpoint
from bev_perception.model.backbone import ImageEncoder
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig
from bev_perception.model.tensors import BevInputs, BevMemory, BevPrediction
from bev_perception.preprocess import prepare

from ..factories import make_config, make_model, make_rig, make_view_set

ALL_HEADS = make_config(center_offset=True)


def make_bevformer(temporal: bool) -> ModelConfig:
    config = make_config(network='bevformer', center_offset=True)
    attention = dataclasses.replace(config.attention, temporal=temporal)
    return dataclasses.replace(config, attention=attention)


def make_inputs(batch: int = 2, *, moved_m: float = 0.0) -> BevInputs:
    """View sets of other cameras each, one camera of the first missing."""
    sets = [
        prepare(make_view_set(make_rig(fov_deg=70.0 + 10 * i)), ALL_HEADS) for i in range(batch)
    ]
    joined = {
        f.name: torch.cat([getattr(s, f.name) for s in sets])
        for f in dataclasses.fields(BevInputs)
    }
    joined['live'][0, 1] = False
    joined['odom_T_ego'][:] = torch.eye(4)
    joined['odom_T_ego'][:, 0, 3] = moved_m
    return BevInputs(**joined)


def loss_of(out: BevPrediction) -> torch.Tensor:
    """Depends on every output; truth is a box per class, elsewhere in every sample."""
    truth = torch.zeros_like(out.logits)
    for sample in range(len(truth)):
        for k in range(truth.shape[1]):
            truth[sample, k, 2 + 4 * k : 6 + 4 * k, 3 + 8 * sample : 9 + 8 * sample] = 1
    loss = F.binary_cross_entropy_with_logits(out.logits, truth)
    if out.center is not None and out.offset is not None:
        loss = loss + F.mse_loss(out.center.sigmoid(), truth[:, :1])
        loss = loss + F.mse_loss(out.offset, 1 - 2 * truth[:, :2])
    return loss


@torch.inference_mode()
def test_heads_are_there_when_asked_for():
    plain, full = make_model()(make_inputs()), make_model(ALL_HEADS)(make_inputs())
    assert plain.center is None and plain.offset is None
    assert full.logits.shape == (2, 3, 16, 20)
    assert full.center.shape == (2, 1, 16, 20) and full.offset.shape == (2, 2, 16, 20)
    assert full.offset.min() < 0 < full.offset.max()


@torch.inference_mode()
def test_inference_leaves_the_training_heads_out():
    model, inputs = make_model(ALL_HEADS), make_inputs(1)
    live = [0, 2, 3, 4, 5]
    projection = model.project(inputs)
    full = model(inputs)
    alone = model.infer(inputs.images[0], projection)
    assert alone.center is None and alone.offset is None and not full.valid.all()
    torch.testing.assert_close(alone.logits, full.logits, atol=1e-5, rtol=0)
    assert torch.equal(alone.valid, full.valid) and len(live) == int(inputs.live.sum())


def test_checkpoint_keeps_what_a_temporal_network_says(tmp_path):
    model = make_model(make_bevformer(temporal=True))
    checkpoint.save(tmp_path / 'a.safetensors', model, {})
    loaded = checkpoint.load(tmp_path / 'a.safetensors').model
    assert loaded.config == model.config
    before, now = make_inputs(moved_m=-0.7), make_inputs()
    with torch.inference_mode():
        want, got = (net(now, net(before).memory) for net in (model, loaded))
        first = model(now)
    assert torch.equal(want.logits, got.logits) and torch.equal(want.valid, got.valid)
    assert torch.equal(want.memory.features, got.memory.features)
    assert (want.logits - first.logits).abs().max() > 1e-3


def test_a_batch_item_without_a_pose_is_as_at_a_first_instant():
    model, now = make_model(make_bevformer(temporal=True)), make_inputs()
    now.odom_T_ego[1] = torch.nan
    with torch.inference_mode():
        out, first = model(now, model(make_inputs(moved_m=-0.7)).memory), model(now)
    torch.testing.assert_close(out.logits[1], first.logits[1], atol=1e-5, rtol=0)
    assert (out.logits[0] - first.logits[0]).abs().max() > 1e-3
    assert out.logits.isfinite().all() and out.memory.odom_T_ego[1].isnan().all()


def test_checkpoint_keeps_the_heads(tmp_path):
    model = make_model(ALL_HEADS)
    checkpoint.save(tmp_path / 'a.safetensors', model, {})
    loaded = checkpoint.load(tmp_path / 'a.safetensors').model
    assert loaded.config == ALL_HEADS
    with torch.inference_mode():
        want, got = model(make_inputs()), loaded(make_inputs())
    assert torch.equal(want.center, got.center) and torch.equal(want.offset, got.offset)


def test_a_config_of_before_the_heads_has_none():
    values = make_config().to_dict()
    del values['center_offset']
    assert ModelConfig.from_dict(json.loads(json.dumps(values))) == make_config()


def test_center_offset_must_be_a_truth_value():
    with pytest.raises(ConfigError, match='center_offset is 1'):
        make_config(center_offset=1)


@pytest.mark.parametrize(
    ('backbone', 'skip', 'deep', 'width'),
    [
        ('tf_efficientnet_lite0', 40, 112, 128),
        ('efficientnet_b0', 40, 112, 128),
        pytest.param('resnet50', 512, 1024, 512, marks=pytest.mark.slow),
        pytest.param('resnet101', 512, 1024, 512, marks=pytest.mark.slow),
    ],
)
def test_encoder_is_the_one_of_simplebev(backbone, skip, deep, width):
    """Harley et al.: stage outputs at stride 8 and 16, mixed at 128 or 512, then 128 channels."""
    encoder = ImageEncoder(backbone, 128)
    info = encoder.trunk.feature_info
    assert info.channels() == [skip, deep] and info.reduction() == [8, 16]
    convs = [m for m in encoder.mix if isinstance(m, nn.Conv2d)]
    shapes = [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs]
    assert shapes == [(skip + deep, width, 3), (width, width, 3), (width, 128, 1)]


@pytest.mark.parametrize(
    'backbone',
    [
        'tf_efficientnet_lite0',
        'efficientnet_b0',
        'resnet18',
        pytest.param('resnet50', marks=pytest.mark.slow),
        pytest.param('resnet101', marks=pytest.mark.slow),
    ],
)
def test_gradient_reaches_every_parameter(backbone):
    check_gradients(make_model(make_config(backbone=backbone, center_offset=True)))


@pytest.mark.parametrize('temporal', [False, True])
def test_gradient_reaches_every_parameter_of_bevformer(temporal):
    """Of an instant that remembers one before it, where there is such a thing."""
    model = make_model(make_bevformer(temporal))
    with torch.no_grad():
        memory = model(make_inputs(moved_m=-0.7)).memory
    assert (memory is not None) is temporal
    check_gradients(model, memory)


def check_gradients(model: BevModel, memory: BevMemory | None = None) -> None:
    model.train()
    loss_of(model(make_inputs(), memory)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(('network', 'share'), [('simple_bev', 0.1), ('bevformer', 0.15)])
def test_one_batch_overfits(network, share):
    """Attention drops out in training, so its loss stays a little higher."""
    torch.manual_seed(0)
    model = BevModel(make_config(network=network, center_offset=True)).train()
    inputs = make_inputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(70):
        optimizer.zero_grad()
        loss = loss_of(model(inputs))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f'\nloss {losses[0]:.3f} -> {losses[-1]:.4f}')
    assert losses[-1] < share * losses[0]
