"""Vehicles and people that move, without ever meeting: whoever would is not placed.

Bodies are covered by discs, and compared at steps of STEP_S over the whole drive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bev_perception.shapes import Array
from bev_training.synthetic.objects.motion import Motion
from bev_training.synthetic.town.town import Lane, Town

STEP_S = 0.25
_EGO_SIZE_M = (5.6, 2.0)  # length and width that others keep away from
_EGO_MIDDLE_M = 1.4  # from the rear axle forward to the middle of the vehicle


@dataclass(eq=False, kw_only=True)
class Occupied:
    """Where the bodies placed so far are, at every step: discs (T, D, 2) and radii (D,)."""

    times_s: Array
    _discs: list[Array] = field(default_factory=list)
    _radii: list[Array] = field(default_factory=list)

    @classmethod
    def during(cls, seconds: float) -> Occupied:
        """Return an empty one for a drive of this length."""
        return cls(times_s=np.arange(-1.0, seconds + 1.0 + STEP_S, STEP_S))

    def is_free(self, discs: Array, radii: Array, gap_m: float) -> bool:
        """Whether a body (T, D, 2), (D,) keeps a distance from all others at all times."""
        middle = discs.mean(1)
        reach = np.abs(discs - middle[:, None]).max() + radii.max() + gap_m
        for other, other_radii in zip(self._discs, self._radii, strict=True):
            apart = np.abs(other.mean(1) - middle).max(1)
            if apart.min() > reach + 12:
                continue
            gaps = np.linalg.norm(discs[:, :, None] - other[:, None], axis=-1)
            if (gaps < radii[:, None] + other_radii + gap_m).any():
                return False
        return True

    def add(self, discs: Array, radii: Array) -> None:
        """Add a body."""
        self._discs.append(discs)
        self._radii.append(radii)

    def body(
        self, poses: Array, length_m: float, width_m: float, middle_m: float = 0.0
    ) -> tuple[Array, Array]:
        """Return the discs (T, D, 2) and radii (D,) that cover a rectangle.

        Args:
            poses: (T, 3) x, y, yaw.
            length_m: along the heading.
            width_m: across.
            middle_m: of the rectangle, ahead of the pose.
        """
        count = max(1, int(np.ceil(length_m / max(width_m, 0.4))))
        places = middle_m + ((np.arange(count) + 0.5) / count - 0.5) * length_m
        ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], -1)
        discs = poses[:, None, :2] + places[:, None] * ahead[:, None]
        return discs, np.full(count, width_m / 2 + 0.1)

    def add_ego(self, ego: Motion) -> None:
        """Add the vehicle that carries the sensors."""
        self.add(*self.body(ego.at(self.times_s), *_EGO_SIZE_M, _EGO_MIDDLE_M))


def walk_lanes(
    rng: np.random.Generator, town: Town, start: int, length_m: float, *, straight: float = 0.5
) -> Array:
    """Return a line (N, 2) that follows lanes from the beginning of one, at random turns.

    Args:
        rng: source of chance.
        town: the map.
        start: number of the first lane.
        length_m: at least this long.
        straight: probability of preferring to go straight on.
    """
    pieces: list[Array] = []
    total, at = 0.0, start
    while True:
        lane = town.lanes[at]
        pieces.append(lane.line if not pieces else lane.line[1:])
        total += length_of(lane)
        if total >= length_m:
            return np.concatenate(pieces)
        ways = lane.successors
        ahead = [n for n in ways if town.lanes[n].turn == 'straight']
        ways = tuple(ahead) if ahead and rng.random() < straight else ways
        at = ways[int(rng.integers(len(ways)))]


def length_of(lane: Lane) -> float:
    """Return the length of a lane, metres."""
    return float(np.linalg.norm(np.diff(lane.line, axis=0), axis=1).sum())


def beside(line: Array, left_m: float) -> Array:
    """Return a line (N, 2) moved to its left (right, if negative)."""
    ahead = np.gradient(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    return line + left_m * np.stack([-ahead[:, 1], ahead[:, 0]], -1)
