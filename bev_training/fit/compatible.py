"""Whether one network may start from another: told from their settings, before either is made."""

from __future__ import annotations

from typing import Any

from bev_perception.model.config import ModelConfig

_MUST_AGREE = ('backbone', 'channels', 'grid', 'mean', 'std', 'compat')
# Of two networks with attention: the order of rows of the same number.
_ATTENTION_MUST_AGREE = ('heads', 'points')


def misfit(old: ModelConfig, new: ModelConfig) -> tuple[str, Any, Any] | None:
    """Return the first setting that forbids `new` to start from `old`: its name and both values;
    None where nothing does.
    """
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in _MUST_AGREE]
    if old.network == new.network == 'bevformer':
        pairs += [
            (f'attention.{name}', getattr(old.attention, name), getattr(new.attention, name))
            for name in _ATTENTION_MUST_AGREE
        ]
    return next((each for each in pairs if each[1] != each[2]), None)
