"""Strict reading of YAML; every error names the file, the field and what is allowed:

FILE: cameras.front.position_m: is [1, 2]; it must be a list of 3 numbers
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bev_perception.errors import ConfigError
from bev_perception.shapes import Array

_NAME = re.compile(r'[a-z][a-z0-9_]*')


@dataclass(frozen=True, kw_only=True)
class Value:
    """A value of unknown kind, and where it stands.

    Attributes:
        value: as YAML or JSON gave it.
        source: name of the file.
        path: names of the fields that lead to it.
    """

    value: Any
    source: str
    path: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """File and field."""
        return f'{self.source}: {".".join(self.path)}' if self.path else self.source

    def error(self, wanted: str) -> ConfigError:
        """Return the error that says what the value must be."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 120 else f'{shown[:117]}...'
        return ConfigError(f'{self.where}: is {shown}; it must be {wanted}')

    def fields(self, known: tuple[str, ...], required: tuple[str, ...] = ()) -> dict[str, Value]:
        """Return the fields of a mapping with known names.

        Raises:
            ConfigError: it is no mapping, has an unknown field or lacks a required one.
        """
        items = self.items('a mapping of fields')
        for name, item in items.items():
            if name not in known:
                raise ConfigError(f'{item.where}: is no known field; known are {", ".join(known)}')
        for name in required:
            if name not in items:
                missing = '.'.join((*self.path, name))
                raise ConfigError(f'{self.source}: {missing}: is missing; it is required')
        return items

    def items(self, wanted: str) -> dict[str, Value]:
        """Return the values of a mapping with free names.

        Raises:
            ConfigError: it is no mapping, or empty.
        """
        if not isinstance(self.value, dict) or not self.value:
            raise self.error(wanted)
        return {
            str(key): Value(value=value, source=self.source, path=(*self.path, str(key)))
            for key, value in self.value.items()
        }

    def name(self) -> str:
        """Return a name.

        Raises:
            ConfigError: it holds other characters than [a-z0-9_] or begins with none of [a-z].
        """
        if not isinstance(self.value, str) or not _NAME.fullmatch(self.value):
            raise self.error('a name of a-z, 0-9 and _, with a letter first')
        return self.value

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number in [low, high].

        Raises:
            ConfigError: it is none.
        """
        if not _is_number(self.value) or not low <= self.value <= high:
            limits = '' if math.isinf(low) else f' in [{low:g}, {high:g}]'
            raise self.error(f'a number{limits}')
        return float(self.value)

    def whole(self, low: int, high: int) -> int:
        """Return a whole number in [low, high].

        Raises:
            ConfigError: it is none.
        """
        if type(self.value) is not int or not low <= self.value <= high:
            raise self.error(f'a whole number in [{low}, {high}]')
        return self.value

    def numbers(self, count: int | None = None) -> tuple[float, ...]:
        """Return finite numbers: this many, or one and more.

        Raises:
            ConfigError: it is no such list.
        """
        wanted = 'a list of numbers' if count is None else f'a list of {count} numbers'
        value = self.value
        if not isinstance(value, list) or not all(map(_is_number, value)):
            raise self.error(wanted)
        if not value if count is None else len(value) != count:
            raise self.error(wanted)
        return tuple(float(number) for number in value)

    def matrix3(self) -> Array:
        """Return a (3, 3) matrix, given as three rows.

        Raises:
            ConfigError: it is none.
        """
        rows = self.value
        if not isinstance(rows, list) or len(rows) != 3:
            raise self.error('a 3x3 matrix: three lists of 3 numbers')
        for row in rows:
            if not isinstance(row, list) or len(row) != 3 or not all(map(_is_number, row)):
                raise self.error('a 3x3 matrix: three lists of 3 numbers')
        return np.array(rows, np.float64)


def _is_number(value: object) -> bool:
    if type(value) is int:
        return abs(value) < 1e300  # type: ignore[operator]  # larger ones overflow a float
    return isinstance(value, float) and math.isfinite(value)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        ConfigError: it cannot be read, is no YAML or gives a field twice.
    """
    try:
        return yaml.load(path.read_text(encoding='utf-8'), _Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: cannot be read: {error}') from error
    except yaml.MarkedYAMLError as error:
        line = f'line {error.problem_mark.line + 1}: ' if error.problem_mark else ''
        raise ConfigError(f'{path}: {line}{error.problem or error.context}') from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a 13th month
        raise ConfigError(f'{path}: is no YAML: {" ".join(str(error).split())}') from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers (1e-3), and no silent last-one-wins for fields given twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != '<<':
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f'{key.value!r} is given twice', problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+[eE][-+]?[0-9]+$'), list('-+0123456789')
)
