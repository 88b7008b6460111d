"""Starting from another network: what is taken, what stays, and what is refused."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from bev_perception.errors import CheckpointError
from bev_perception.geometry.grid import BevGrid
from bev_training.fit.initial import initialise

from ..factories import make_config, make_model, write_checkpoint

LAST = ('head.layers.3.weight', 'head.layers.3.bias')


def test_the_same_network_is_taken_whole(tmp_path):
    path = write_checkpoint(tmp_path / 'a.safetensors', seed=1)
    model, source = make_model(seed=2), make_model(seed=1)
    report = initialise(model, path)
    assert set(report.loaded) == set(model.state_dict())
    assert not report.not_loaded and not report.unused
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())
    assert str(path) in report.lines()[0] and 'nothing (random weights)' in report.lines()[0]


def test_classes_of_the_same_name_keep_their_rows(tmp_path):
    path = write_checkpoint(tmp_path / 'a.safetensors', make_config(), seed=1)
    classes = ('sidewalk', 'vehicle', 'drivable_area', 'crosswalk')
    model = make_model(make_config(classes=classes), seed=2)
    fresh, source = copy.deepcopy(model.state_dict()), make_model(seed=1).state_dict()
    report = initialise(model, path)
    assert report.classes == ('vehicle', 'drivable_area') and not report.not_loaded
    for name in LAST:
        got = model.state_dict()[name]
        assert torch.equal(got[[1, 2]], source[name][[2, 0]])
        assert torch.equal(got[[0, 3]], fresh[name][[0, 3]])
    for name in set(source) - set(LAST):
        assert torch.equal(model.state_dict()[name], source[name]), name
    assert 'classes that start at random: sidewalk, crosswalk' in report.lines()


def test_heads_that_are_absent_stay_random_and_are_named(tmp_path):
    path = write_checkpoint(tmp_path / 'a.safetensors', make_config(), seed=1)
    model = make_model(make_config(classes=('road',), obstacle_classes=(), center_offset=True))
    fresh = copy.deepcopy(model.state_dict())
    report = initialise(model, path)
    stayed = {name for name in fresh if name.startswith(('center_head', 'offset_head'))}
    assert set(report.not_loaded) == stayed | set(LAST)
    assert all(torch.equal(model.state_dict()[name], fresh[name]) for name in report.not_loaded)
    text = '\n'.join(report.lines())
    assert 'no such part: center_head, offset_head' in text
    assert 'no class of the same name: head (2 tensors)' in text


def test_heads_that_are_not_wanted_are_reported(tmp_path):
    path = write_checkpoint(tmp_path / 'a.safetensors', make_config(center_offset=True))
    report = initialise(make_model(), path)
    assert {name.split('.')[0] for name in report.unused} == {'center_head', 'offset_head'}
    assert any('unused of the checkpoint: center_head' in line for line in report.lines())


def test_images_may_have_another_size(tmp_path):
    path = write_checkpoint(tmp_path / 'a.safetensors', seed=1)
    model = make_model(make_config(image_size_px=(128, 64)), seed=2)
    report = initialise(model, path)
    assert not report.not_loaded
    assert any('(64, 32)' in line and '(128, 64)' in line for line in report.lines())


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'backbone': 'tf_efficientnet_lite0'}, 'backbone is resnet18, .*tf_efficientnet_lite0'),
        ({'channels': 16}, 'channels is 8, the model needs 16'),
        ({'grid': BevGrid(z_cells=2)}, r'grid is .*cell_m=1,.*needs .*cell_m=0\.5'),
        ({'mean': (0.4, 0.4, 0.4)}, 'mean is'),
        ({'compat': 'simple_bev'}, 'compat is none, the model needs simple_bev'),
    ],
)
def test_another_network_is_refused(tmp_path, values, message):
    path = write_checkpoint(tmp_path / 'a.safetensors')
    model = make_model(make_config(**values))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message) as raised:
        initialise(model, path)
    assert '\n' not in str(raised.value) and 'a.safetensors' in str(raised.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_kind_of_network_shares_what_both_have(tmp_path):
    path = write_checkpoint(tmp_path / 'a.safetensors', seed=1)
    model, source = make_model(make_config(network='bevformer'), seed=2), make_model(seed=1)
    report = initialise(model, path)
    assert {name.split('.')[0] for name in report.not_loaded} == {'attention'}
    assert {name.rpartition('.0.')[0] for name in report.unused} == {'bev_net.compress'}
    given = source.state_dict()
    assert all(torch.equal(model.state_dict()[name], given[name]) for name in report.loaded)
    assert 'the network was simple_bev and is bevformer now' in report.lines()


def test_a_temporal_network_starts_from_one_of_single_instants(tmp_path):
    config = make_config(network='bevformer')
    path = write_checkpoint(tmp_path / 'a.safetensors', config, seed=1)
    temporal = dataclasses.replace(config.attention, temporal=True, layers=3)
    report = initialise(make_model(make_config(network='bevformer', attention=temporal)), path)
    reasons = {name: why for name, why in report.not_loaded.items() if 'layers.2' not in name}
    assert reasons and set(reasons.values()) == {'of another shape'}
    assert all('self_attention.attention.' in name for name in reasons)
    others = dataclasses.replace(config.attention, heads=4, points=2)  # as many samples
    with pytest.raises(CheckpointError, match=r'attention\.heads is 2, the model needs 4'):
        initialise(make_model(make_config(network='bevformer', attention=others)), path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match='does not exist'):
        initialise(make_model(), tmp_path / 'none.safetensors')
