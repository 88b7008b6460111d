"""Which instants come before a sample, for networks that remember.

A training sample of such a network is a short sequence: the network sees the instants before
without learning from them, and hands on what it remembers to the labelled one (Li et al.,
"BEVFormer", ECCV 2022, section 3.6).
"""

from __future__ import annotations

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.memory import break_between
from bev_perception.model.config import ModelConfig
from bev_training.data.sample import SampleSource


def instants_wanted(model: ModelConfig) -> int:
    """Return how many instants before a sample a network is given; 0 if it is not temporal."""
    return model.attention.frames - 1 if model.attention.temporal else 0


def instants_before(
    source: SampleSource, i: int, count: int, rng: np.random.Generator | None = None
) -> list[int]:
    """Return the numbers of the samples before one, oldest first, labelled for the run or not.

    They are of the same scene, and a memory of each one holds at the next
    (`memory.break_between`); so there are fewer at the beginning of a scene, or after a gap.

    Args:
        source: of the samples.
        i: number of the sample.
        count: how many are wanted.
        rng: one of the `count + 1` samples before is left out at random, as BEVFormer's authors do
            in training, so that the time between two instants varies; None takes the last ones.

    Raises:
        BevError: the source cannot be read.
    """
    if not count:
        return []
    numbers = [*range(i - count - (rng is not None), i)]
    if rng is not None:
        del numbers[int(rng.integers(len(numbers)))]
    scenes = source.scenes
    found: list[int] = []
    now = source.whereabouts(i)
    for number in reversed(numbers):
        if number < 0 or scenes[number] != scenes[i]:
            break
        then = source.whereabouts(number)
        if break_between(then, now):
            break
        found.insert(0, number)
        now = then
    return found


def check_motion(source: SampleSource, model: ModelConfig) -> None:
    """See that the vehicle's motion is known, where the network needs it; of each scene the first
    sample tells.

    Raises:
        ConfigError: a scene has no poses.
        BevError: the source cannot be read.
    """
    if not model.attention.temporal:
        return
    scene = None
    for i, name in enumerate(source.scenes):
        if name != scene and source.whereabouts(i).odom_T_ego is None:
            raise ConfigError(
                f'{source.keys[i]} has no pose of the vehicle, which model.attention.temporal '
                'needs; convert its recording with odometry (odom_frame), or train with '
                'model.attention.temporal: false'
            )
        scene = name
