"""Fixtures of the tests over DDS."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network that runs in milliseconds."""
    from .harness import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')
