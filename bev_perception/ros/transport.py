"""How messages travel between the processes of one machine: the Fast DDS profile."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import MutableMapping
from importlib import metadata
from pathlib import Path

from bev_perception.resources import config_path

SEGMENT_BYTES = 64 * 1024 * 1024  # segment_size in config/fastdds.xml
_PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def use_shared_memory_profile(
    environ: MutableMapping[str, str] = os.environ, shared_memory: str = '/dev/shm'
) -> Path | None:
    """Make Fast DDS use config/fastdds.xml in this process. Call it before `rclpy.init`.

    Nothing happens where the user has chosen already: another RMW, or any of
    FASTDDS_DEFAULT_PROFILES_FILE, FASTRTPS_DEFAULT_PROFILES_FILE and FASTDDS_BUILTIN_TRANSPORTS.
    Where `shared_memory` has no room for the segments of two processes, one line on stderr says
    so and the defaults stay, because a profile whose segment cannot be made leaves UDP only.

    Returns:
        The profile's path, or None where the environment was left as it is.

    Raises:
        ConfigError: config/fastdds.xml is not installed.
    """
    chosen = (*_PROFILE_VARIABLES, 'FASTDDS_BUILTIN_TRANSPORTS')
    if any(environ.get(name) for name in chosen):
        return None
    if not environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp').startswith('rmw_fastrtps'):
        return None
    profile = config_path('fastdds.xml')
    free_bytes = shutil.disk_usage(shared_memory).free if os.path.isdir(shared_memory) else 0
    if free_bytes < 2 * SEGMENT_BYTES:
        print(
            f'{shared_memory} has {free_bytes >> 20} MiB free, the shared-memory profile needs '
            f'{2 * SEGMENT_BYTES >> 20} MiB: using the defaults of Fast DDS, which lose large '
            'images (in a container: raise --shm-size)',
            file=sys.stderr,
        )
        return None
    environ[profile_variable()] = str(profile)
    return profile


def profile_variable() -> str:
    """The environment variable that the installed Fast DDS reads.

    Fast DDS 3 (rclpy 9, Kilted) warns about the old name, Fast DDS 2 (rclpy 7, Jazzy) does not
    know the new one.
    """
    try:
        old = int(metadata.version('rclpy').split('.')[0]) < 8
    except metadata.PackageNotFoundError:
        old = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    return _PROFILE_VARIABLES[old]


def shared_memory_segments(pid: int | str = 'self') -> dict[Path, int]:
    """Fast DDS segments that a running process has mapped, with their sizes in bytes.

    A process maps its own segment and, once it has received something, those of its peers.
    """
    lines = Path(f'/proc/{pid}/maps').read_text().splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in lines if '/dev/shm/fast' in line}
    return {path: path.stat().st_size for path in sorted(paths) if path.exists()}
