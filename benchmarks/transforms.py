"""Time `TransformTree.lookup`: python benchmarks/transforms.py [--seconds 1].

Two questions: how fast is one chain of three edges of which one is interpolated, and what do the
lookups of one frame of the node cost (a mount for each of six cameras and one moving pose)?
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.geometry import rigid
from bev_perception.transforms import StampedTransform, TransformTree

CAMERAS = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 20_000_000  # odometry at 50 Hz
SAMPLES = 500  # ten seconds, as much as the tree keeps


def make_tree() -> TransformTree:
    """Return odom -> base_link (moving) with six optical frames, two static edges each."""
    tree = TransformTree()
    for i, name in enumerate(CAMERAS):
        mount, optical = f'camera_{name}_link', f'camera_{name}_optical_frame'
        yaw = np.radians(60 * i)
        base_T_mount = rigid.from_quat_xyzw(
            (0, 0, np.sin(yaw / 2), np.cos(yaw / 2)), (np.cos(yaw), np.sin(yaw), 1.5)
        )
        mount_T_optical = rigid.from_quat_xyzw((-0.5, 0.5, -0.5, 0.5), (0, 0, 0))
        for parent, child, pose in (
            ('base_link', mount, base_T_mount),
            (mount, optical, mount_T_optical),
        ):
            edge = StampedTransform(parent=parent, child=child, stamp_ns=0, parent_T_child=pose)
            tree.push(edge, static=True)
    for i in range(SAMPLES):
        yaw = 0.01 * i
        pose = rigid.from_quat_xyzw((0, 0, np.sin(yaw / 2), np.cos(yaw / 2)), (0.2 * i, 0, 0))
        moving = StampedTransform(
            parent='odom',
            child='base_link',
            stamp_ns=START_NS + i * PERIOD_NS,
            parent_T_child=pose,
        )
        tree.push(moving, static=False)
    return tree


def time_us(call: Callable[[int], object], seconds: float) -> float:
    """Return the median duration of `call(stamp_ns)` at stamps between two samples."""
    rng = np.random.default_rng(0)
    # Never exactly at a sample, so that every lookup interpolates.
    offsets = rng.integers(0, SAMPLES - 1, 1000) * PERIOD_NS + rng.integers(1, PERIOD_NS, 1000)
    durations, end, i = [], time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        stamp_ns = START_NS + int(offsets[i % len(offsets)])
        began = time.perf_counter_ns()
        call(stamp_ns)
        durations.append(time.perf_counter_ns() - began)
        i += 1
    return float(np.median(durations)) / 1e3


def main() -> None:
    """Print microseconds and lookups per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=1.0, help='time for each measurement')
    seconds = parser.parse_args().seconds
    tree = make_tree()
    optical = [f'camera_{name}_optical_frame' for name in CAMERAS]

    def chain(stamp_ns: int) -> object:
        return tree.lookup('odom', optical[0], stamp_ns)

    def mount(stamp_ns: int) -> object:
        return tree.lookup('base_link', optical[0], stamp_ns)

    def moving(stamp_ns: int) -> object:
        return tree.lookup('odom', 'base_link', stamp_ns)

    def frame(stamp_ns: int) -> object:
        poses = [tree.lookup('base_link', name, stamp_ns) for name in optical]
        return poses, tree.lookup('odom', 'base_link', stamp_ns)

    def frame_compensated(stamp_ns: int) -> object:
        return [tree.lookup('odom', name, stamp_ns) for name in optical]

    for label, call, lookups in (
        ('chain of 3 edges, 1 interpolated', chain, 1),
        ('2 static edges', mount, 1),
        ('1 interpolated edge', moving, 1),
        ('one frame: 6 x 2 static edges + 1 interpolated', frame, 7),
        ('one frame, each camera at its own stamp: 6 chains of 3', frame_compensated, 6),
    ):
        us = time_us(call, seconds)
        print(f'{label:56s} {us:8.1f} us  {lookups * 1e6 / us:9.0f} lookups/s')


if __name__ == '__main__':
    main()
