"""Build of the ROS 2 package `bev_perception` (ament_python); also a plain pip wheel.

Dependencies are declared in package.xml for ROS and in requirements/ for pip: `install_requires`
would make pip fetch a second OpenCV or numpy beside those of a ROS distribution.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'bev_perception'
os.chdir(Path(__file__).resolve().parent)


def files_below(folder: str, pattern: str = '*') -> list[tuple[str, list[str]]]:
    """Pairs (place below the prefix, files) for a folder shipped in share/, if it exists."""
    groups: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob(pattern)):
        if path.is_file() and '__pycache__' not in path.parts:
            groups.setdefault(f'share/{PACKAGE}/{path.parent}', []).append(str(path))
    return list(groups.items())


def pinned(name: str) -> list[str]:
    """Requirements of requirements/NAME.txt."""
    lines = Path('requirements', f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


setup(
    name=PACKAGE,
    version='0.1.0',
    description="Bird's-eye-view occupancy grids from surround cameras, trained from drives",
    maintainer='bev_perception maintainers',
    maintainer_email='maintainers@example.org',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[f'{PACKAGE}*', 'bev_training*']),
    package_data={PACKAGE: ['py.typed'], 'bev_training': ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *files_below('launch', '*.launch.py'),
        *files_below('config'),
        *files_below('weights'),
        # `ros2 run` and launch look in lib/<package>, where a pip wheel puts no console script
        (f'lib/{PACKAGE}', [str(path) for path in sorted(Path('scripts').iterdir())]),
    ],
    install_requires=['setuptools'],
    extras_require={
        'data': pinned('data'),
        'video': pinned('video'),
        'train': pinned('train'),
        'viz': pinned('viz'),
        'cluster': pinned('cluster'),
        'test': ['pytest', 'pytest-timeout', 'hypothesis'],
    },
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'bev = bev_training.cli:main',
            'bev_node = bev_perception.ros.executables:bev_node',
            'bag_player = bev_perception.ros.executables:bag_player',
            'bag_recorder = bev_perception.ros.executables:bag_recorder',
        ],
    },
)
