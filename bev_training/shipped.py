"""Settings that a user names: a file of one's own, or one that is shipped."""

from __future__ import annotations

from pathlib import Path

from bev_perception.errors import ConfigError
from bev_perception.resources import config_path


def find_config(name: str, folder: str, what: str) -> Path:
    """Return the path of a YAML file: `name` itself, or the shipped one of that name.

    Args:
        name: a path, or the name of a file in config/FOLDER, with or without `.yaml`.
        folder: of the shipped ones, below config/.
        what: they are, for messages.

    Raises:
        ConfigError: there is neither; the message lists those that are shipped.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.name == name and not path.exists():
        shipped = config_path(folder)
        found = shipped / f'{name.removesuffix(".yaml")}.yaml'
        if found.is_file():
            return found
        known = ', '.join(sorted(each.stem for each in shipped.glob('*.yaml')))
        raise ConfigError(f'{name} is no file, and no shipped {what}; those are {known}')
    raise ConfigError(f'{path} {"is no file" if path.exists() else "does not exist"}')
