"""Ranges of the settings that drives and data sets share."""

from __future__ import annotations

from bev_perception.errors import ConfigError
from bev_training.synthetic.conditions import check_weather

MAX_SECONDS = 300.0
MAX_SPEED_MPS = 25.0
MAX_SEED = 2**32 - 1


def check_drive(*, seconds: float, speed_mps: float, weather: str) -> None:
    """Check what every drive has.

    Raises:
        ConfigError: a value is out of its range.
    """
    if not 0 < seconds <= MAX_SECONDS:  # false for NaN too
        raise ConfigError(f'seconds is {seconds:g}; it must lie in (0, {MAX_SECONDS:g}]')
    if not 0 <= speed_mps <= MAX_SPEED_MPS:
        raise ConfigError(f'speed_mps is {speed_mps:g}; it must lie in [0, {MAX_SPEED_MPS:g}]')
    check_weather(weather)


def check_seed(name: str, seed: int) -> None:
    """Check that a seed can be one.

    Raises:
        ConfigError: it is no whole number in its range.
    """
    if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f'{name} is {seed}; it must be a whole number in [0, {MAX_SEED}]')
