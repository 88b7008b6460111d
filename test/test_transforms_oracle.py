"""The transform tree against pytransform3d: random trees of static and moving frames."""

from __future__ import annotations

import numpy as np
import pytest

from bev_perception.geometry import rigid
from bev_perception.transforms import StampedTransform, TransformTree

pt_manager = pytest.importorskip(
    'pytransform3d.transform_manager', reason='pytransform3d is not installed'
)
pt_transforms = pytest.importorskip('pytransform3d.transformations')

S = 10**9
START_NS = 1_700_000_000 * S


def random_pose(rng: np.random.Generator) -> np.ndarray:
    return rigid.from_quat_xyzw(rng.normal(size=4), rng.normal(scale=5.0, size=3))


def dual(poses: list[np.ndarray]) -> np.ndarray:
    return np.array([pt_transforms.pq_from_transform(pose) for pose in poses])


def random_trees(seed: int, *, straight: bool):
    """Our tree and theirs of the same frames, and the stamps of the samples."""
    rng = np.random.default_rng(seed)
    ours, theirs = TransformTree(history_s=100), pt_manager.TemporalTransformManager()
    stamps = START_NS + np.sort(rng.choice(4 * 10**9, 12, replace=False))
    frames = ['f0']
    for number in range(1, 9):
        parent, child = str(rng.choice(frames)), f'f{number}'
        frames.append(child)
        first = random_pose(rng)
        if rng.random() < 0.5:
            ours.push(
                StampedTransform(parent=parent, child=child, stamp_ns=0, parent_T_child=first),
                static=True,
            )
            theirs.add_transform(child, parent, pt_manager.StaticTransform(first))
            continue
        poses = [first]
        step = random_pose(rng)
        if straight:
            step[:3, :3] = np.eye(3)
        poses = [random_pose(rng) if not straight else first @ scaled(step, i) for i in range(12)]
        for stamp, pose in zip(stamps.tolist(), poses, strict=True):
            ours.push(
                StampedTransform(parent=parent, child=child, stamp_ns=stamp, parent_T_child=pose),
                static=False,
            )
        seconds = (stamps - START_NS) / 1e9
        theirs.add_transform(
            child, parent, pt_manager.NumpyTimeseriesTransform(seconds, dual(poses))
        )
    return ours, theirs, frames, stamps


def scaled(step: np.ndarray, factor: float) -> np.ndarray:
    moved = np.eye(4)
    moved[:3, 3] = factor * step[:3, 3]
    return moved


def both(ours, theirs, target: str, source: str, stamp: int) -> tuple[np.ndarray, np.ndarray]:
    wanted = theirs.get_transform_at_time(source, target, (stamp - START_NS) / 1e9)
    return ours.lookup(target, source, stamp), wanted


@pytest.mark.parametrize('seed', range(6))
def test_at_samples_any_two_frames_agree(seed):
    ours, theirs, frames, stamps = random_trees(seed, straight=False)
    for stamp in stamps[1:-1].tolist():
        for target in frames:
            for source in frames:
                np.testing.assert_allclose(*both(ours, theirs, target, source, stamp), atol=1e-6)


@pytest.mark.parametrize('seed', range(6))
def test_between_samples_a_straight_motion_agrees(seed):
    """Theirs interpolates along screws, ours rotation and position apart, as tf2; where nothing
    turns, the two are the same.
    """
    ours, theirs, frames, stamps = random_trees(seed, straight=True)
    rng = np.random.default_rng(seed)
    for stamp in rng.integers(stamps[0] + 1, stamps[-1], 5).tolist():
        for source in frames:
            np.testing.assert_allclose(*both(ours, theirs, 'f0', source, stamp), atol=1e-6)


@pytest.mark.parametrize('seed', range(6))
def test_between_samples_rotations_agree_in_general(seed):
    rng = np.random.default_rng(seed)
    ours, theirs = TransformTree(history_s=100), pt_manager.TemporalTransformManager()
    poses = [random_pose(rng) for _ in range(2)]
    for i, pose in enumerate(poses):
        ours.push(
            StampedTransform(
                parent='odom', child='base', stamp_ns=START_NS + i * S, parent_T_child=pose
            ),
            static=False,
        )
    series = pt_manager.NumpyTimeseriesTransform(np.array([0.0, 1.0]), dual(poses))
    theirs.add_transform('base', 'odom', series)
    for alpha in (0.1, 0.5, 0.9):
        got, wanted = both(ours, theirs, 'odom', 'base', START_NS + round(alpha * S))
        np.testing.assert_allclose(got[:3, :3], wanted[:3, :3], atol=1e-6)
