"""Files shipped beside the code: configuration, launch files, weights.

They lie in the checkout (also for an editable or symlinked install), or else in
``share/bev_perception`` of the prefix that holds the code: a colcon install space, a virtual
environment, /opt/ros.
"""

from __future__ import annotations

import os
from pathlib import Path

from bev_perception.errors import ConfigError

_PACKAGE = 'bev_perception'
SHIPPED_WEIGHTS = 'synthetic.safetensors'


def _roots() -> list[Path]:
    """Folders that may hold ``config/`` and the like, the one nearest to the running code first.

    The code's own place decides before AMENT_PREFIX_PATH: a stale workspace that is still sourced
    must not lend its files to this code.
    """
    module = Path(__file__).resolve()
    checkout = module.parents[1]
    roots = [checkout] if (checkout / 'package.xml').is_file() else []
    prefixes = [*module.parents[2:]]
    prefixes += [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    for prefix in prefixes:
        share = prefix / 'share' / _PACKAGE
        if share.is_dir() and share not in roots:
            roots.append(share)
    return roots


def _find(folder: str, name: str) -> Path:
    roots = _roots()
    for root in roots:
        path = root / folder / name
        if path.exists():
            return path
    looked = ', '.join(str(root / folder) for root in roots)
    where = (
        f'looked in {looked}' if looked else f'no share/{_PACKAGE} near {Path(__file__).parent}'
    )
    raise ConfigError(f'{folder}/{name} is not among the files of {_PACKAGE}: {where}')


def config_path(name: str) -> Path:
    """Path of ``config/<name>``, for example ``bev_node.yaml``.

    Raises:
        ConfigError: no such file; the message names the folders that were searched.
    """
    return _find('config', name)


def launch_path(name: str) -> Path:
    """Path of ``launch/<name>``; raises ConfigError like `config_path`."""
    return _find('launch', name)


def weights_path(name: str) -> Path:
    """Path of the shipped weights ``weights/<name>``; raises ConfigError like `config_path`."""
    return _find('weights', name)
