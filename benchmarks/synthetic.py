"""Speed of the synthetic drive: each step on one core, and whole drives with more processes.

python benchmarks/synthetic.py [--seconds 8]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from bev_perception.geometry.grid import BevGrid
from bev_training.synthetic.drive import DriveConfig, write_drive
from bev_training.synthetic.ground import LEVELS, Ground
from bev_training.synthetic.lidar import sweep
from bev_training.synthetic.render import Renderer
from bev_training.synthetic.slices import encode_jpeg
from bev_training.synthetic.truth import class_grids


def seconds_of(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """CPU and wall-clock seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def steps() -> None:
    config = DriveConfig()
    world, rig = config.world(), config.rig()
    renderer = Renderer(world)
    poses = {c.name: world.odom_T_base(c.offset_s) for c in rig.cameras}

    def images() -> list:
        return [
            renderer.image(c.camera, poses[c.name] @ c.base_T_cam, c.offset_s) for c in rig.cameras
        ]

    rendered = images()
    base = poses['front']
    table = {
        'six images, 1600x900': lambda: images(),
        'six JPEGs': lambda: [encode_jpeg(image) for image in rendered],
        'lidar sweep': lambda: sweep(world, rig.lidar, base, 0.0),
        'truth, 200x200, 3 classes': lambda: class_grids(world, BevGrid(), base, 0.0),
    }
    print(f'{"step, one thread":32} {"CPU ms":>8} {"wall ms":>8}')
    for name, work in table.items():
        cpu, wall = seconds_of(work, 5)
        print(f'{name:32} {1e3 * cpu:8.1f} {1e3 * wall:8.1f}')
    for level, (cell, half, between) in enumerate(LEVELS):
        cpu, wall = seconds_of(lambda at=level: Ground(world=world).patch(at, base[:2, 3]), 2)
        name = f'ground {2 * half:g} m at {100 * cell:g} cm, per {between:g} m'
        print(f'{name:32} {1e3 * cpu:8.1f} {1e3 * wall:8.1f}')


def drives(seconds: float) -> None:
    print(f'\n{"drive of":>10} {"processes":>10} {"wall s":>8} {"frames/s":>9} {"images/s":>9}')
    with tempfile.TemporaryDirectory() as folder:
        for workers in sorted({1, 2, min(16, os.cpu_count() or 1)}):
            began = time.perf_counter()
            out = Path(folder) / str(workers)
            done = write_drive(out, DriveConfig(seconds=seconds), workers=workers)
            wall = time.perf_counter() - began
            print(
                f'{seconds:8g} s {workers:10} {wall:8.1f} {done.frames / wall:9.1f} '
                f'{done.images / wall:9.1f}'
            )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=8.0, help='of the drives')
    cv2.setNumThreads(1)
    steps()
    drives(parser.parse_args().seconds)
