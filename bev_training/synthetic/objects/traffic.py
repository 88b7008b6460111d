"""Who is where when, so that nobody ever meets anybody.

Bodies are covered by discs, and compared at steps of STEP_S. A mover that would meet another is
in the world only for as long as it meets nobody, if it is far from the vehicle where it begins and
ends to be there; otherwise it is not placed.
"""

from __future__ import annotations

import numpy as np

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.objects.motion import Motion
from bev_training.synthetic.town.town import Lane, Town

STEP_S = 0.25
UNSEEN_M = 110.0  # from the vehicle: where movers may come into the world and leave it
GAP_M = 0.15  # between bodies, besides what the discs exceed them by
_AHEAD_M = 2.0  # that a vehicle keeps free before it
_FAR_M = 1e7


class Occupied:
    """Bodies placed so far, at every step of a drive."""

    def __init__(self, seconds: float, ego: Motion, ego_box_m: tuple[float, float, float]) -> None:
        """Start with the vehicle that carries the sensors.

        Args:
            seconds: length of the drive; steps reach a second beyond its ends.
            ego: its motion.
            ego_box_m: its length, its width, and how far its middle is ahead of its pose.
        """
        self.times_s = np.arange(-1.0, seconds + 1.0 + STEP_S, STEP_S)
        poses = ego.at(self.times_s)
        self.way = poses[:, :2]
        self._discs: list[Array] = []  # (T, D, 2); _FAR_M away where absent
        self._radii: list[float] = []
        self._reaches: list[float] = []
        self._middles = np.zeros((2, 64, len(poses)), np.float32)  # x, y of all bodies; grows
        length, width, ahead = ego_box_m
        self.add(*covered(poses, length + 1.0, width + 0.2, ahead), np.ones(len(poses), bool))

    def free(self, discs: Array, radius: float, steps: slice = slice(None)) -> AnyArray:
        """Return (T,): at which steps a body (T, D, 2) with discs of a radius meets nobody.

        Args:
            discs: their middles.
            radius: of every disc.
            steps: which ones count; the others are free.
        """
        free = np.ones(len(self.times_s), bool)
        mine, some = discs[steps], free[steps]  # a view
        middle = mine.mean(1)
        reach = float(np.abs(mine - middle[:, None]).max()) * 1.5 + radius
        x, y = self._middles[:, : len(self._discs), steps]
        mx, my = middle.astype(np.float32).T
        apart = np.maximum(np.abs(x - mx), np.abs(y - my))  # (bodies, T)
        close = apart < np.array(self._reaches)[:, None] + reach + GAP_M
        for number in np.flatnonzero(close.any(1)):
            at = np.flatnonzero(close[number])
            gaps = mine[at, :, None] - self._discs[number][steps][at, None]
            least = radius + self._radii[number] + GAP_M
            some[at[(np.hypot(gaps[..., 0], gaps[..., 1]) < least).any((1, 2))]] = False
        return free

    def add(self, discs: Array, radius: float, present: AnyArray) -> None:
        """Add a body that is there at some of the steps (T,)."""
        number = len(self._discs)
        if number == self._middles.shape[1]:
            more = np.zeros_like(self._middles)
            self._middles = np.concatenate([self._middles, more], axis=1)
        middle = discs.mean(1)
        self._reaches.append(float(np.abs(discs - middle[:, None]).max()) * 1.5 + radius)
        self._discs.append(np.where(present[:, None, None], discs, _FAR_M))
        self._radii.append(radius)
        self._middles[:, number] = np.where(present, middle.T, _FAR_M)

    def stay(self, bodies: list[tuple[Array, float]], step: int, exists: AnyArray) -> AnyArray:
        """Return (T,): when bodies that belong together can be there, around a step.

        Args:
            bodies: (discs, radius) of each.
            step: at which they must be there.
            exists: (T,) when their motion is defined.

        Returns:
            One run of steps, or none at all.
        """
        stays = np.zeros(len(exists), bool)
        if not exists[step]:
            return stays
        first, last = np.flatnonzero(exists)[[0, -1]]
        free = exists.copy()
        for discs, radius in bodies:
            free &= self.free(discs, radius, slice(first, last + 1))
        if not free[step]:
            return stays
        blocked = np.flatnonzero(~free)
        first = blocked[blocked < step].max(initial=-1) + 1
        last = blocked[blocked > step].min(initial=len(free)) - 1
        ends = [at for at, edge in ((first, 0), (last, len(free) - 1)) if at != edge]
        for discs, _ in bodies:
            for at in ends:
                if np.linalg.norm(discs[at].mean(0) - self.way[at]) < UNSEEN_M:
                    return stays
        stays[first : last + 1] = True
        return stays


def covered(
    poses: Array, length_m: float, width_m: float, middle_m: float = 0.0
) -> tuple[Array, float]:
    """Return discs (T, D, 2) and their radius that cover a rectangle.

    Args:
        poses: (T, 3) x, y, yaw.
        length_m: along the heading.
        width_m: across.
        middle_m: of the rectangle, ahead of the pose.
    """
    count = max(1, int(np.ceil(length_m / (0.6 * max(width_m, 0.5)))))
    places = middle_m + ((np.arange(count) + 0.5) / count - 0.5) * length_m
    ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], -1)
    discs = poses[:, None, :2] + places[:, None] * ahead[:, None]
    return discs, float(np.hypot(length_m / count, width_m) / 2)


def covered_moving(poses: Array, length_m: float, width_m: float) -> tuple[Array, float]:
    """Return the discs and radius of a vehicle on its way, with what it keeps free ahead."""
    return covered(poses, length_m + _AHEAD_M, width_m, _AHEAD_M / 2)


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


def way_back(
    rng: np.random.Generator, town: Town, into: list[list[int]], start: int, length_m: float
) -> Array:
    """Return a line (N, 2) that leads to the beginning of a lane, at least this long.

    Args:
        rng: source of chance.
        town: the map.
        into: the predecessors of every lane; see `predecessors`.
        start: number of the lane; not part of the line, but for its first point.
        length_m: how far back to begin.
    """
    pieces, total, at = [town.lanes[start].line[:1]], 0.0, start
    while total < length_m:
        at = into[at][int(rng.integers(len(into[at])))]
        pieces.insert(0, town.lanes[at].line[:-1])
        total += length_of(town.lanes[at])
    return np.concatenate(pieces)


def predecessors(town: Town) -> list[list[int]]:
    """Return, for every lane, the lanes that lead into it."""
    into: list[list[int]] = [[] for _ in town.lanes]
    for number, lane in enumerate(town.lanes):
        for after in lane.successors:
            into[after].append(number)
    return into


def length_of(lane: Lane) -> float:
    """Return the length of a lane, metres."""
    return line_length(lane.line)


def line_length(line: Array) -> float:
    """Return the length of a polyline (N, 2)."""
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def beside(line: Array, left_m: float) -> Array:
    """Return a line (N, 2) moved to its left (right, if negative)."""
    ahead = np.gradient(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    return line + left_m * np.stack([-ahead[:, 1], ahead[:, 0]], -1)
