"""Parameters: what is declared, what is refused and with which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from bev_perception.errors import ConfigError  # noqa: E402
from bev_perception.ros import params  # noqa: E402
from bev_perception.ros.params import BevNodeParams, ros_name  # noqa: E402


@pytest.fixture(scope='module')
def context() -> Iterator[rclpy.Context]:
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


def node_with(context: rclpy.Context, **overrides: Any) -> Node:
    node = rclpy.create_node(
        'test_params',
        context=context,
        parameter_overrides=[
            Parameter(name.replace('__', '.'), value=value) for name, value in overrides.items()
        ],
    )
    params.declare(node)
    return node


def test_defaults_are_those_of_the_dataclass(context: rclpy.Context) -> None:
    node = node_with(context)
    assert params.read(node) == BevNodeParams()
    for field in dataclasses.fields(BevNodeParams):
        assert node.describe_parameter(ros_name(field.name)).description
    node.destroy_node()


def test_overrides_reach_the_synchroniser(context: rclpy.Context) -> None:
    node = node_with(
        context,
        cameras=['a', 'b'],
        sync__offsets_s=[0.0, 0.02],
        sync__max_spread_s=0.03,
        sync__min_cameras=6,
        combined_classes=['vehicle'],
    )
    read = params.read(node)
    config = read.sync_config()
    assert config.cameras == ('a', 'b')
    assert config.offsets_s == {'a': 0.0, 'b': 0.02}
    assert config.max_spread_s == 0.03
    assert config.min_cameras == 2  # not more than there are
    assert read.combined_classes == ('vehicle',)
    node.destroy_node()


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ({'image_transport': 'theora'}, "image_transport is 'theora'"),
        ({'sync_min_cameras': 0}, 'sync.min_cameras is 0'),
        ({'sync_max_spread_s': float('nan')}, 'sync.max_spread_s is nan'),
        ({'cameras': ('front', 'front')}, 'cameras'),
        ({'cameras': ()}, 'cameras'),
        ({'cameras': ('front-left',)}, "cameras holds 'front-left'"),
        ({'image_topic': '/one/for/all'}, 'image_topic'),
        ({'camera_info_topic': '/one'}, 'camera_info_topic'),
        ({'base_frame': ''}, 'base_frame'),
        ({'precision': 'int3'}, 'precision'),
        ({'sync_offsets_s': (0.1,)}, 'sync.offsets_s has 1 values for 6 cameras'),
        ({'sync_offsets_s': ('a',) * 6}, "sync.offsets_s holds 'a'"),
        ({'combined_classes': (3,)}, 'combined_classes holds 3'),
        ({'sync_anchor': 'roof'}, 'roof'),
    ],
)
def test_refused_values(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        BevNodeParams(**values)
    assert text in str(error.value) and '\n' not in str(error.value)


def test_a_change_is_checked_with_all_other_values(context: rclpy.Context) -> None:
    node = node_with(context)

    def ask(name: str, value: Any, *, configured: bool = False) -> Any:
        return params.check_changes(node, [Parameter(name, value=value)], configured=configured)

    assert ask('sync.max_spread_s', 0.02).successful
    assert 'front2' in ask('sync.anchor', 'front2').reason
    assert 'list' in ask('sync.offsets_s', 'a').reason
    assert ask('sync.offsets_s', None).successful
    assert 'unconfigured' in ask('device', 'cpu', configured=True).reason
    assert ask('use_sim_time', True, configured=True).successful  # none of ours
    node.destroy_node()


@pytest.mark.parametrize(
    ('topic', 'transport', 'image', 'rectified'),
    [
        ('/camera/{camera}/image_raw', 'compressed', '/camera/f/image_raw/compressed', False),
        ('/camera/{camera}/image_raw', 'raw', '/camera/f/image_raw', False),
        ('/{camera}/image_rect_color', 'raw', '/f/image_rect_color', True),
        ('/{camera}/image_rect_compressed', 'compressed', '/f/image_rect_compressed', True),
        ('/direct/{camera}/image', 'raw', '/direct/f/image', False),
        ('/{camera}_direct/image', 'raw', '/f_direct/image', False),
    ],
)
def test_topics(topic: str, transport: str, image: str, rectified: bool) -> None:
    read = BevNodeParams(image_topic=topic, image_transport=transport)
    assert read.topics('f') == (image, '/camera/f/camera_info')
    assert read.rectified is rectified
    assert BevNodeParams(image_topic=topic, image_geometry='raw').rectified is False
    assert BevNodeParams(image_topic=topic, image_geometry='rectified').rectified is True
