"""The network's config: strict, checked, and the same after a trip through JSON."""

from __future__ import annotations

import json

import pytest

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.config import AttentionConfig, ModelConfig

from ..factories import make_config


@pytest.mark.parametrize(
    'config',
    [
        ModelConfig(),
        make_config(classes=('x',), obstacle_classes=()),
        make_config(network='bevformer', compat='simple_bev', attention=AttentionConfig(layers=1)),
        ModelConfig(network='bevformer', attention=AttentionConfig(temporal=True)),
    ],
)
def test_round_trip(config):
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)


def test_defaults_fill_what_is_missing():
    assert ModelConfig.from_dict({}) == ModelConfig()
    config = ModelConfig.from_dict({'grid': {'z_cells': 2}, 'image_size_px': [64, 32]})
    assert config.grid == BevGrid(z_cells=2) and config.image_size_px == (64, 32)


def test_a_config_of_before_bevformer_is_one_of_simple_bev():
    values = make_config().to_dict()
    for name in ('network', 'attention', 'compat'):
        del values[name]
    assert ModelConfig.from_dict(json.loads(json.dumps(values))) == make_config()


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'attention': {'temporal': True}}, "temporal needs network: 'bevformer'"),
        ({'network': 'bevformer', 'channels': 40, 'attention': {'heads': 3}}, 'heads, 3'),
        ({'network': 'bevformer', 'attention': {'points': 6}}, r'points is 6.*z_cells, \d'),
        (
            {'network': 'bevformer', 'compat': 'simple_bev', 'attention': {'points': 4}},
            "points is 4.*simple_bev's heights, 8",
        ),
        (
            {'network': 'bevformer', 'compat': 'simple_bev', 'attention': {'temporal': True}},
            'know one instant only',
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_lists_become_tuples():
    """A config is hashable however it was written, for it keys caches."""
    assert hash(ModelConfig(image_size_px=[64, 32], classes=['vehicle'])) == hash(
        ModelConfig(image_size_px=(64, 32), classes=('vehicle',))
    )


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'chanels': 64}, ['chanels', 'channels']),
        ({'grid': {'cell': 0.5}}, ['grid.cell', 'cell_m']),
        ({'attention': {'head': 4}}, ['attention.head', 'heads']),
        ({'attention': 4}, ['attention']),
        ({'grid': 'big'}, ['grid']),
        ({'grid': None}, ['grid']),
    ],
)
def test_unknown_keys_are_named(values, words):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(values)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('classes', ()),
        ('classes', ('vehicle', 'vehicle')),
        ('classes', 'vehicle'),
        ('classes', ('Vehicle',)),
        ('classes', ('a-b', 'vehicle')),
        ('classes', ('vehicle\n',)),
        ('classes', ('', 'vehicle')),
        ('classes', ('vehicle', 5)),
        ('classes', ('vehicle', 'combined')),
        ('obstacle_classes', ('tree',)),
        ('obstacle_classes', 'vehicle'),
        ('image_size_px', (400, 225)),
        ('image_size_px', (24, 224)),
        ('image_size_px', (400.0, 224)),
        ('image_size_px', (400, 224, 3)),
        ('image_size_px', 400),
        ('backbone', 'vgg16'),
        ('channels', 0),
        ('channels', 12),
        ('channels', -8),
        ('channels', 64.0),
        ('channels', True),
        ('mean', (0.5, 0.5)),
        ('mean', (0.5, 0.5, float('nan'))),
        ('std', (0.5, 0.5, 0.0)),
        ('std', (0.5, 0.5, -1.0)),
        ('std', (0.5, float('nan'), 0.5)),
        ('std', 0.5),
        ('network', 'transformer'),
        ('compat', 'fiery'),
        ('attention', {'layers': 0}),
        ('attention', {'heads': 2.0}),
        ('attention', {'points': True}),
        ('attention', {'hidden': '64'}),
        ('attention', {'dropout': 1.0}),
        ('attention', {'dropout': 'high'}),
        ('attention', {'temporal': 1}),
        ('attention', {'frames': 0}),
        ('grid', {'z_cells': 2.5}),
        ('grid', {'cell_m': -0.5}),
        ('grid', {'x_range_m': [5, -5]}),
    ],
)
def test_bad_values_are_refused(name, value):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict({name: value})
    message = str(caught.value)
    assert '\n' not in message
    assert (next(iter(value)) if isinstance(value, dict) else name) in message
