"""Fixtures of all tests: every test process talks in a ROS domain of its own, on loopback only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same command gives the same result. To look for new examples: `pytest --hypothesis-profile
# default`. No deadline: the machine may be busy with other work.
settings.register_profile('repeatable', derandomize=True, deadline=None)
settings.load_profile('repeatable')

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session', autouse=True)
def isolated_ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A reserved ROS_DOMAIN_ID (also among parallel workers), and logs out of the way."""
    from domain_coordinator import domain_id

    with domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(domain))
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv('ROS_LOG_DIR', str(tmp_path_factory.mktemp('ros_log')))
        if 'HOME' not in os.environ:
            patch.setenv('HOME', str(tmp_path_factory.mktemp('home')))
        yield


@pytest.fixture(scope='session')
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Folder of real recordings that may lie beside the checkout; its tests skip without it."""
    path = REPOSITORY.parent / 'shared' / 'data'
    if not path.is_dir():
        pytest.skip(f'no real recordings: {path} does not exist')
    return path
