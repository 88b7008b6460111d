"""Start of the executables, with one clear line where the interpreter lacks what they import.

The modules are imported only here, on start: a missing rclpy or torch then becomes a message that
names the interpreter and the remedy, instead of a traceback.
"""

from __future__ import annotations

import importlib
import os
import sys

_ROS_MODULES = ('rclpy', 'message_filters', 'cv_bridge', 'builtin_interfaces', 'launch')
_PIP_NAMES = {'torch': 'torch torchvision', 'cv2': 'opencv-python-headless', 'yaml': 'PyYAML'}


def missing_module_line(name: str, module: str) -> str:
    """One line: the executable `name` cannot start without `module`, and what helps."""
    python = sys.executable
    if module in _ROS_MODULES or module.endswith('_msgs'):
        remedy = (
            'source a ROS 2 distribution (source /opt/ros/jazzy/setup.bash); '
            f'without one, run `make env` in the checkout and start .venv/bin/{name}'
        )
    else:
        remedy = f'{python} -m pip install {_PIP_NAMES.get(module, module)}'
    return f'{name}: {python} has no module {module}: {remedy}'


def _start(name: str) -> int:
    # system services have no HOME, and rclpy does not start without one: its logs go below it
    os.environ.setdefault('HOME', os.path.expanduser('~'))
    try:
        module = importlib.import_module(f'bev_perception.ros.{name}')
        return module.main() or 0
    except ModuleNotFoundError as error:
        missing = (error.name or '').partition('.')[0]
        if missing in ('', 'bev_perception'):
            raise
        print(missing_module_line(name, missing), file=sys.stderr)
        return 1


def bev_node() -> int:
    """Run the lifecycle node; returns the exit status."""
    return _start('bev_node')


def bag_player() -> int:
    """Publish a recording; returns the exit status."""
    return _start('bag_player')


def bag_recorder() -> int:
    """Record topics into a bag; returns the exit status."""
    return _start('bag_recorder')
