"""One check of settings that are numbers."""

from __future__ import annotations

import math

from bev_perception.errors import ConfigError


def check_range(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    """Raise ConfigError unless low <= value <= high (with `above`: low < value)."""
    if math.isfinite(value) and (low < value if above else low <= value) and value <= high:
        return
    raise ConfigError(
        f'{name} is {value}; it must be {"above" if above else "from"} {low:g} '
        f'{"and at most" if above else "to"} {high:g}'
    )
