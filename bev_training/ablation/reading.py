"""Grids of trainings from strict YAML; every error names the file, the field and what is allowed.

`config/ablate/*.yaml` are examples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bev_perception.errors import ConfigError
from bev_training.ablation.settings import (
    DIMENSIONS,
    THRESHOLDS,
    AblationConfig,
    Network,
    Pretraining,
    Table,
)
from bev_training.shipped import find_config
from bev_training.yaml_fields import Value, read_yaml

T = TypeVar('T')
_FIELDS = (
    *('train', 'val', 'seeds', 'pretrain_seed', 'labels', 'steps'),
    *('networks', 'pretrainings', 'report'),
)
_MAX_SEED = 2**63 - 1


def find_ablation(name: str) -> Path:
    """Return the path of a file, or that of a shipped grid by its name.

    Raises:
        ConfigError: there is neither; the message lists those that are shipped.
    """
    return find_config(name, 'ablate', 'grid of trainings')


def read_ablation(path: Path, **instead: str | None) -> AblationConfig:
    """Read a grid of trainings.

    Args:
        path: YAML.
        instead: `train` and `val` that are not None count instead of the file's.

    Raises:
        ConfigError: a field is unknown, missing or of the wrong kind, or names what is not there.
    """
    file = Value(value=read_yaml(path), source=str(path))
    fields = file.fields(_FIELDS, required=('seeds', 'labels', 'networks'))
    networks = _by_name(fields['networks'], _network)
    pretrainings = _pretrainings(fields.get('pretrainings'), networks)
    labels = _each(fields['labels'], _share)
    whole = Table(networks=tuple(networks), pretrainings=tuple(pretrainings), labels=labels)
    tables = {'Results': whole}
    if 'report' in fields:
        tables = _by_name(fields['report'], lambda value: _table(value, whole))
    steps = fields['steps'].items('steps by share of labels') if 'steps' in fields else {}
    seed = fields.get('pretrain_seed')
    data = [name for name in ('train', 'val') if name in fields]
    given: dict[str, str] = {name: _text(fields[name]) for name in data}
    given |= {name: text for name, text in instead.items() if text is not None}
    return AblationConfig(
        train=given.get('train', ''),
        val=given.get('val', ''),
        seeds=_each(fields['seeds'], _seed),
        pretrain_seed=None if seed is None else _seed(seed),
        steps={_key(value, labels): value.whole(1, 10**9) for value in steps.values()},
        networks=networks,
        pretrainings=pretrainings,
        tables=tables,
    )


def _network(value: Value) -> Network:
    fields = value.fields(('pretrain', 'finetune', 'set'), required=('finetune',))
    return Network(
        pretrain=_recipes(fields['pretrain']) if 'pretrain' in fields else {},
        finetune=_recipes(fields['finetune']),
        set=_settings(fields.get('set')),
    )


def _recipes(value: Value) -> dict[str, str]:
    """Return recipes by name; a single one has the name ''."""
    if isinstance(value.value, dict):
        return _by_name(value, _text)
    return {'': _text(value)}


def _pretrainings(
    value: Value | None, networks: Mapping[str, Network]
) -> dict[str, Pretraining | None]:
    if value is None:
        return {'none': None}
    items = value.items('ways of pretraining by name')
    found = {name: _pretraining(name, item, networks) for name, item in items.items()}
    if sum(how is None for how in found.values()) > 1:
        raise value.error('a mapping with one null, which is no pretraining')
    return found


def _pretraining(name: str, value: Value, networks: Mapping[str, Network]) -> Pretraining | None:
    if value.value is None:
        return None
    fields = value.fields(('recipe', 'networks', 'set')) if value.value != {} else {}
    chosen = tuple(networks)
    if 'networks' in fields:
        chosen = _each(fields['networks'], partial(_one_of, known=chosen))
    recipe = name
    if 'recipe' in fields:
        recipe = _text(fields['recipe'])
    elif all(set(networks[each].pretrain) == {''} for each in chosen):
        recipe = ''
    for each in chosen:
        if recipe not in networks[each].pretrain:
            known = ', '.join(networks[each].pretrain) or 'none'
            raise ConfigError(
                f'{value.where}: needs a recipe {recipe!r} in networks.{each}.pretrain, which has '
                f'{known}; name another one as `recipe`, or its `networks`'
            )
    return Pretraining(recipe=recipe, networks=chosen, set=_settings(fields.get('set')))


def _table(value: Value, whole: Table) -> Table:
    """Return a table; what it leaves out is as in the one that has everything."""
    if value.value == {}:
        return whole
    fields = value.fields(tuple(f.name for f in dataclasses.fields(Table)))
    allowed: dict[str, tuple[Any, ...]] = {
        'networks': whole.networks,
        'pretrainings': whole.pretrainings,
        'labels': whole.labels,
        'rows': DIMENSIONS,
    }
    found: dict[str, Any] = {
        name: _each(fields[name], partial(_one_of, known=known))
        for name, known in allowed.items()
        if name in fields
    }
    if 'scores' in fields:
        found['scores'] = _each(fields['scores'], Value.name)
    if 'threshold' in fields:
        threshold = fields['threshold']
        text = Value(value=str(threshold.value), source=value.source, path=threshold.path)
        found['threshold'] = _one_of(text, tuple(THRESHOLDS))
    return dataclasses.replace(whole, **found)


def _settings(value: Value | None) -> dict[str, str]:
    """Return settings by dotted name, as text for a recipe."""
    if value is None or value.value == {}:
        return {}
    return _by_name(value, _setting)


def _setting(value: Value) -> str:
    if value.value is None or isinstance(value.value, dict):
        raise value.error('a value, with a name such as optimizer.lr')
    return value.value if isinstance(value.value, str) else json.dumps(value.value, default=str)


def _key(value: Value, labels: tuple[float, ...]) -> float:
    """Return the name of a field that is a share."""
    try:
        share = float(value.path[-1])
    except ValueError:
        share = float('nan')
    if share not in labels:
        raise ConfigError(f'{value.where}: is no share in labels; those are {_listed(labels)}')
    return share


def _share(value: Value) -> float:
    share = value.number(0, 100)
    if share == 0:
        raise value.error('a share in percent, above 0')
    return share


def _seed(value: Value) -> int:
    return value.whole(0, _MAX_SEED)


def _text(value: Value) -> str:
    if not isinstance(value.value, str) or not value.value.strip():
        raise value.error('text')
    return value.value


def _one_of(value: Value, known: tuple[T, ...]) -> T:
    for each in known:
        if value.value == each and not isinstance(value.value, bool):
            return each
    raise value.error(f'one of {_listed(known)}')


def _listed(known: tuple[Any, ...]) -> str:
    return ', '.join(f'{each:g}' if isinstance(each, float) else str(each) for each in known)


def _by_name(value: Value, read: Callable[[Value], T]) -> dict[str, T]:
    return {name: read(item) for name, item in value.items('a mapping of names').items()}


def _each(value: Value, read: Callable[[Value], T]) -> tuple[T, ...]:
    """Return the items of a list, each of them once.

    Raises:
        ConfigError: it is no list, is empty or has an item twice.
    """
    if not isinstance(value.value, list) or not value.value:
        raise value.error('a list')
    found = tuple(
        read(Value(value=item, source=value.source, path=(*value.path, str(i))))
        for i, item in enumerate(value.value)
    )
    if len(set(found)) != len(found):
        raise value.error('a list of different values')
    return found
