"""Stamps of a simulated camera rig, for the tests and benchmarks of the synchroniser.

Only images are simulated: CameraInfo is calibration, read as it comes, and its loss costs no set.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

CAMERAS = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')
RING_S = dict(zip(CAMERAS, (0.0, 0.0076, 0.0155, 0.0230, 0.0327, 0.0426), strict=True))
PAIR_S = {'back_left': 0.040, 'back_right': 0.040}
START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class Push:
    """One image as it arrives; `cycle` is the truth that a synchroniser cannot see."""

    camera: str
    stamp_ns: int
    cycle: int


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a rig does wrong."""

    rate_hz: float = 12.0
    cycles: int = 720
    jitter_s: float = 0.0  # uniform, plus and minus
    loss: float = 0.0  # of each image, independently
    delay_s: float = 0.0  # transport, uniform from 0
    offsets_s: Mapping[str, float] = field(default_factory=dict)
    dead: Mapping[str, range] = field(default_factory=dict)  # cycles without this camera
    every: Mapping[str, int] = field(default_factory=dict)  # a camera takes part each n-th cycle
    passes: int = 1  # times the same bag is played; truth counts on through the passes


def stream(scenario: Scenario, seed: int) -> list[Push]:
    """Return all images in order of arrival."""
    rng = random.Random(seed)
    pushes = []
    for cycle in range(scenario.cycles):
        for camera in CAMERAS:
            jitter_s = rng.uniform(-scenario.jitter_s, scenario.jitter_s)
            delay_s = rng.uniform(0, scenario.delay_s)
            lost = rng.random() < scenario.loss
            if lost or cycle in scenario.dead.get(camera, ()):
                continue
            if cycle % scenario.every.get(camera, 1):
                continue
            at_s = cycle / scenario.rate_hz + scenario.offsets_s.get(camera, 0.0) + jitter_s
            stamp_ns = START_NS + round(at_s * 1e9)
            # the order of equal arrivals differs from cycle to cycle, as it does on a network
            arrival = (at_s + delay_s, rng.random())
            pushes.append((arrival, Push(camera=camera, stamp_ns=stamp_ns, cycle=cycle)))
    once = [push for _, push in sorted(pushes, key=lambda timed: timed[0])]
    return [
        Push(camera=p.camera, stamp_ns=p.stamp_ns, cycle=p.cycle + k * scenario.cycles)
        for k in range(scenario.passes)
        for p in once
    ]
