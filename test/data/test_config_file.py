"""Settings of a conversion from YAML: strict, and every error names file and field."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from bev_perception.errors import ConfigError
from bev_training.data.config_file import load_settings
from bev_training.data.settings import ConvertConfig, KeyFrames


def load(path: Path) -> ConvertConfig:
    return ConvertConfig(**load_settings(path))


def test_the_example(repository: Path) -> None:
    path = repository / 'config' / 'convert' / 'example.yaml'
    config = load(path)
    assert config.cameras == ('front', 'left', 'right', 'rear')
    assert config.image_topics['rear'] == '/sensing/cam_b/image/compressed'
    assert config.lidars == {'top': '/sensing/lidar_top/points'}
    assert config.every == KeyFrames(metres=2.0) and config.offsets_s['rear'] == 0.05
    # It shows every field: the rest is in comments.
    text = path.read_text()
    assert all(f'\n{f.name}:' in text or f'\n# {f.name}:' in text for f in fields(ConvertConfig))


def test_every_field_can_be_given(tmp_path: Path) -> None:
    """What a manifest holds can be given back."""
    config = ConvertConfig(
        cameras=('a', 'b'),
        camera_info_topic='/{camera}/info',
        image_topics={'a': '/x', 'b': '/y'},
        image_geometry='raw',
        lidars={},
        every=KeyFrames(seconds=0.5),
        max_spread_s=0.0,
        min_cameras=1,
        anchor='b',
        offsets_s={'a': -0.01},
        jpeg_quality=90,
        odom_frame='',
        tf_timeout_s=0.25,
        shard_mb=0.5,
    )
    path = tmp_path / 'settings.yaml'
    for each in (config, ConvertConfig()):
        path.write_text(yaml.safe_dump(each.as_json()))
        assert load(path) == each


def test_only_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / 'settings.yaml'
    path.write_text('every: all\nmin_cameras: 2\n')
    assert load_settings(path) == {'every': KeyFrames(), 'min_cameras': 2}


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'is empty'),
        ('[]', 'it must be a mapping'),
        ('evry: 2m', 'evry: is no known field; known are cameras, image_topic'),
        ('every: 2', "every: is 2; it must be like '2m'"),
        ('every: 2 miles', "every: is '2 miles'; it must be like '2m'"),
        ('every: 0m', "every: is '0m'; it must be like"),
        ('cameras: front', "cameras: is 'front'; it must be a list of names"),
        ('cameras: [1]', 'cameras: is [1]; it must be a list of names'),
        ('image_topics: [a]', "image_topics: is ['a']; it must be topics by name"),
        ('image_topics: {a: 1}', 'image_topics.a: is 1; it must be text'),
        ('lidars: /points', "lidars: is '/points'; it must be topics by name"),
        ('offsets_s: {a: 3}', 'offsets_s.a: is 3; it must be a number in [-1, 1]'),
        ('min_cameras: 2.5', 'min_cameras: is 2.5; it must be a whole number'),
        ('max_spread_s: wide', "max_spread_s: is 'wide'; it must be a number"),
        ('jpeg_quality: 0', 'jpeg_quality: is 0; it must be a whole number in [1, 100]'),
        ('odom_frame:', 'odom_frame: is None; it must be text'),
        ('tf_timeout_s: 61', 'tf_timeout_s: is 61; it must be a number in [0, 60]'),
        ('every: 1m\nevery: 2m', "line 2: 'every' is given twice"),
        ('cameras: [', 'settings.yaml: line'),
    ],
)
def test_mistakes_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / 'settings.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings(path)
    message = str(error.value)
    assert message.startswith(f'{path}: ') and words in message and '\n' not in message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'no\.yaml: cannot be read'):
        load_settings(tmp_path / 'no.yaml')
