"""Recipes: a `TrainConfig` from strict YAML with single values overridden, and back to YAML.

A recipe is whole by itself; what it leaves out has the default of `settings.TrainConfig`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import warnings
from argparse import ArgumentError
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bev_perception.errors import ConfigError
from bev_training.fit.settings import TrainConfig
from bev_training.shipped import find_config
from bev_training.yaml_fields import Value, read_yaml

_REFUSED = re.compile(r'Parser key "(?P<name>[^"]+)":\s*(?P<reason>.*)', re.DOTALL)
_EXPECTED = re.compile(r'Expected an? (?P<kind>.*?)\. Got value: (?P<value>.*)', re.DOTALL)
_FREE_NAME = re.compile(r'card\.\w+')
# What jsonargparse calls the kinds of our settings.
_KINDS = {
    "<class 'int'>": 'a whole number',
    "<class 'float'>": 'a number',
    "<class 'bool'>": 'true or false',
    "<class 'str'>": 'text',
    "<class 'tuple'>": 'a list like [a, b]',
    "<class 'dict'>": 'a mapping of names to text',
}


def find_recipe(name: str) -> Path:
    """Return the path of a recipe: a file, or the name of a shipped one (`town`, `town.yaml`).

    Raises:
        ConfigError: there is neither; the message lists those that are shipped.
    """
    return find_config(name, 'train', 'recipe')


def read_recipe(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> TrainConfig:
    """Read a training run's settings.

    Args:
        path: YAML; every field may be left out.
        overrides: (`optimizer.lr`, `1e-4`) and the like; the last one of a name counts.

    Raises:
        ConfigError: a field is unknown, of the wrong kind or out of its range; one line that names
            the file, or the override, and the field.
    """
    fields = read_yaml(path)
    fields = {} if fields is None else fields
    _check_names(Value(value=fields, source=str(path)), TrainConfig())
    config = _built(_parsed(str(path), fields), str(path))
    changed = dict(overrides)
    if not changed:
        return config
    known = flat(config)
    for name in changed:
        if name not in known and not _FREE_NAME.fullmatch(name):
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f'did you mean {" or ".join(near)}?' if near else 'one is optimizer.lr'
            raise ConfigError(f'--set {name}: is no known field; {hint}')
    return _built(_parsed('--set', to_plain(config), changed), f'{path} with --set')


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """Return the settings as dictionaries, lists, text and numbers."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def flat(config: TrainConfig) -> dict[str, Any]:
    """Return plain values by dotted name, such as `model.grid.cell_m`."""
    return flattened(to_plain(config))


def flattened(plain: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return the values of nested dictionaries by dotted name."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            found |= flattened(value, f'{prefix}{name}.')
        else:
            found[f'{prefix}{name}'] = value
    return found


def as_yaml(config: TrainConfig) -> str:
    """Return YAML that `read_recipe` reads back to the same settings."""
    return yaml.dump(to_plain(config), Dumper=_Dumper, sort_keys=False, width=99)


class _Dumper(yaml.SafeDumper):
    """Lists in one line, mappings in blocks."""

    def represent_list(self, values: list[Any]) -> yaml.Node:
        return self.represent_sequence('tag:yaml.org,2002:seq', values, flow_style=True)


_Dumper.add_representer(list, _Dumper.represent_list)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _check_names(value: Value, settings: Any) -> None:
    """Refuse unknown names, also deep down; jsonargparse's own words for them leave out the path.

    Raises:
        ConfigError: a name is unknown, or a group of settings is no mapping.
    """
    if value.value == {}:
        return
    names = tuple(f.name for f in dataclasses.fields(settings))
    for name, item in value.fields(names).items():
        if dataclasses.is_dataclass(getattr(settings, name)):
            _check_names(item, getattr(settings, name))


def _parsed(source: str, fields: dict[str, Any], changed: Mapping[str, str] | None = None) -> Any:
    """Return an instance of `TrainConfig` to be, each value checked against its type."""
    from jsonargparse import ArgumentParser  # 0.2 s

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig, None)
    try:
        parsed = parser.parse_object(fields)
        if changed:
            arguments = [f'--{name}={value}' for name, value in changed.items()]
            parsed = parser.parse_args(arguments, namespace=parsed)
    except ArgumentError as error:
        raise ConfigError(_one_line(source, str(error))) from error
    return parser, parsed


def _built(parsed: Any, source: str) -> TrainConfig:
    """Return the settings; they check their ranges themselves."""
    parser, values = parsed
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        make = getattr(parser, 'instantiate', None) or parser.instantiate_classes
        try:
            return TrainConfig(**vars(make(values)))
        except ConfigError as error:
            raise ConfigError(f'{source}: {error}') from error


def _one_line(source: str, said: str) -> str:
    """Return jsonargparse's message as FILE: FIELD: is VALUE; it must be KIND."""
    refused = _REFUSED.search(said)
    if not refused:
        return f'{source}: {" ".join(said.split())}'
    name, reason = refused['name'], ' '.join(refused['reason'].split())
    where = f'{source} {name}' if source == '--set' else f'{source}: {name}'
    expected = _EXPECTED.search(reason)
    if not expected:
        return f'{where}: {reason}'
    kind = expected['kind']
    if choices := re.fullmatch(r'typing\.Literal\[(.*)\]', kind):
        wanted = f'one of {choices[1]}'
    elif length := re.fullmatch(r'tuple with (\d+) elements', kind):
        wanted = f'a list of {length[1]} values'
    else:
        wanted = _KINDS.get(kind, f'a {kind}')
    return f'{where}: is {expected["value"]}; it must be {wanted}'
