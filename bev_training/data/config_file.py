"""Settings of a conversion from a YAML file; see config/convert/example.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bev_perception.errors import ConfigError
from bev_training.data.settings import KeyFrames
from bev_training.yaml_fields import Value, read_yaml


def load_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a file gives, as arguments of `ConvertConfig`.

    Raises:
        ConfigError: it cannot be read, or has an unknown field or a value of the wrong kind; the
            message names both.
    """
    read = read_yaml(path)
    if read is None:
        raise ConfigError(f'{path}: is empty; see config/convert/example.yaml')
    given = Value(value=read, source=str(path)).fields(tuple(_FIELDS))
    return {name: _FIELDS[name](value) for name, value in given.items()}


def _text(value: Value) -> str:
    if not isinstance(value.value, str):
        raise value.error('text')
    return value.value


def _texts(value: Value) -> tuple[str, ...]:
    if not isinstance(value.value, list) or not all(isinstance(v, str) for v in value.value):
        raise value.error('a list of names')
    return tuple(value.value)


def _named(value: Value, wanted: str) -> dict[str, Value]:
    return {} if value.value == {} else value.items(wanted)


def _topics(value: Value) -> dict[str, str]:
    return {name: _text(item) for name, item in _named(value, 'topics by name').items()}


def _lidars(value: Value) -> dict[str, str] | None:
    return None if value.value is None else _topics(value)


def _offsets(value: Value) -> dict[str, float]:
    return {n: item.number(-1.0, 1.0) for n, item in _named(value, 'seconds by name').items()}


def _every(value: Value) -> KeyFrames:
    try:
        return KeyFrames.parse(_text(value))
    except ConfigError as error:
        raise value.error("like '2m', '0.5s' or 'all'") from error


def _quality(value: Value) -> int | None:
    return None if value.value is None else value.whole(1, 100)


_FIELDS: dict[str, Callable[[Value], Any]] = {
    'cameras': _texts,
    'image_topic': _text,
    'camera_info_topic': _text,
    'image_topics': _topics,
    'camera_info_topics': _topics,
    'image_geometry': _text,
    'lidars': _lidars,
    'odometry_topic': _text,
    'base_frame': _text,
    'odom_frame': _text,
    'tf_timeout_s': lambda value: value.number(0.0, 60.0),
    'every': _every,
    'max_spread_s': lambda value: value.number(0.0),
    'timeout_s': lambda value: value.number(0.0),
    'min_cameras': lambda value: value.whole(1, 1000),
    'anchor': _text,
    'offsets_s': _offsets,
    'max_sweeps': lambda value: value.whole(0, 1000),
    'jpeg_quality': _quality,
    'privacy': _text,
    'shard_mb': lambda value: value.number(0.0),
}
