"""A street with traffic: what is where, in the odom frame, at any time.

The street has two lanes and a parking lane per direction, drives on the right and is crossed by
side streets. The ground is the plane z = 0 of odom, whose origin is the vehicle's first position.
Times are seconds since the start of the drive.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import Array, Rigid
from bev_training.synthetic import solids
from bev_training.synthetic.route import Route, make_route
from bev_training.synthetic.solids import Shape

LANE_M = 3.5
ROAD_HALF_M = 2 * LANE_M + 2.4  # two lanes and the parking lane
SIDE_HALF_M = LANE_M
SIDEWALK_M = 2.2
SIDE_LENGTH_M = 75.0  # of a side street, from the centre of the main one
EGO_LEFT_M = -LANE_M / 2
MARGIN_M = 230.0  # of road before the first and after the last position of the vehicle
MAX_DISTANCE_M = 3000.0

_PAINTS = (
    (0.86, 0.87, 0.88), (0.62, 0.64, 0.67), (0.10, 0.11, 0.13), (0.62, 0.08, 0.09),
    (0.11, 0.22, 0.45), (0.25, 0.27, 0.30), (0.13, 0.30, 0.24), (0.74, 0.47, 0.12),
    (0.42, 0.62, 0.74), (0.55, 0.50, 0.42),
)  # fmt: skip
_WALLS = (
    (0.80, 0.74, 0.63), (0.72, 0.44, 0.35), (0.86, 0.83, 0.77), (0.66, 0.68, 0.70),
    (0.77, 0.63, 0.47), (0.60, 0.66, 0.62), (0.83, 0.76, 0.70),
)  # fmt: skip
_ROOFS = ((0.48, 0.23, 0.18), (0.30, 0.30, 0.33), (0.42, 0.30, 0.24))


@dataclass(frozen=True, eq=False, kw_only=True)
class Actor:
    """An object that stands or follows a lane.

    Attributes:
        kind: 'vehicle', 'building' or 'tree'.
        shape: its geometry.
        pose: (3,) x, y, yaw in odom at time 0.
        lane: for moving ones, (along_m, left_m, speed_mps) on the route at time 0; negative
            speeds run against the route.
    """

    kind: str
    shape: Shape
    pose: Array
    lane: tuple[float, float, float] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Paint:
    """A convex polygon (4, 2) on the ground, counter-clockwise, in odom; its RGB in 0..1."""

    polygon: Array
    color: tuple[float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """Everything that sensors can see, and the way of the vehicle that carries them.

    Attributes:
        seed: of every random choice.
        seconds: for how long the traffic is planned.
        speed_mps: speed of the vehicle along the route.
        route: the main road's centre line.
        roads: polygons (M, 2) of the drivable area, odom frame; they may overlap.
        sidewalks: polygons around the roads.
        dividers: centre lines (M, 2) of the lane markings, dashes bridged.
        paints: the markings themselves.
        actors: in fixed order; index = identity.
        sway: (2, 2, 3) for pitch and roll, two waves of (amplitude_rad, rate_radps, phase_rad).
    """

    seed: int
    seconds: float
    speed_mps: float
    route: Route
    roads: tuple[Array, ...]
    sidewalks: tuple[Array, ...]
    dividers: tuple[Array, ...]
    paints: tuple[Paint, ...]
    actors: tuple[Actor, ...]
    sway: Array

    def odom_T_base(self, time_s: float) -> Rigid:
        """Return the pose of base_link, on the ground below the rear axle."""
        x, y, yaw = self.route.at(MARGIN_M + self.speed_mps * time_s, EGO_LEFT_M)
        pitch, roll = (
            self.sway[..., 0] * np.sin(self.sway[..., 1] * time_s + self.sway[..., 2])
        ).sum(1)
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        cr, sr = np.cos(roll), np.sin(roll)
        pose = np.eye(4)
        pose[:3, :3] = (
            np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
            @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
            @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
        )
        pose[:2, 3] = x, y
        return pose

    def poses(self, time_s: float) -> Array:
        """Return (A, 3) x, y, yaw in odom of all actors."""
        poses = np.stack([actor.pose for actor in self.actors])
        moving = [i for i, actor in enumerate(self.actors) if actor.lane]
        if moving:
            along, left, speed = np.array([self.actors[i].lane for i in moving]).T
            poses[moving] = self.route.at(along + speed * time_s, left)
            poses[moving, 2] += np.where(speed < 0, np.pi, 0)
        return poses

    def vehicles(self, time_s: float) -> Array:
        """Return (V, 7) boxes x, y, z of the centre, length, width, height, yaw, in odom."""
        poses = self.poses(time_s)
        rows = [
            (*pose[:2], actor.shape.size_m[2] / 2, *actor.shape.size_m, pose[2])
            for actor, pose in zip(self.actors, poses, strict=True)
            if actor.kind == 'vehicle'
        ]
        return np.array(rows, float).reshape(-1, 7)


def make_world(*, seed: int = 0, seconds: float = 8.0, speed_mps: float = 8.0) -> World:
    """Build the street for a drive.

    Raises:
        ConfigError: a value is out of its range.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f'seed is {seed}; it must lie in 0..{2**32 - 1}')
    if not 0 < seconds <= 300:
        raise ConfigError(f'seconds is {seconds:g}; it must lie in (0, 300]')
    if not 0 <= speed_mps <= 40:
        raise ConfigError(f'speed_mps is {speed_mps:g}; it must lie in [0, 40]')
    if speed_mps * seconds > MAX_DISTANCE_M:
        raise ConfigError(
            f'speed_mps x seconds is {speed_mps * seconds:g} m; at most {MAX_DISTANCE_M:g} m'
        )
    rng = np.random.default_rng(seed)
    length = 2 * MARGIN_M + speed_mps * seconds
    route = make_route(rng, length, (MARGIN_M, EGO_LEFT_M))
    crossings = _crossings(rng, length)
    roads, sidewalks = _surfaces(route, crossings)
    dividers, paints = _markings(route, crossings)
    actors = (
        *_traffic(rng, route, speed_mps, seconds),
        *_parked(rng, route, crossings),
        *_scenery(rng, route, crossings),
    )
    sway = np.array([[(0.35, 2.7, 0), (0.13, 7.1, 0)], [(0.30, 2.1, 0), (0.16, 5.3, 0)]], float)
    sway[..., 0] = np.radians(sway[..., 0])
    sway[..., 2] = rng.uniform(0, 2 * np.pi, (2, 2))
    return World(
        seed=seed, seconds=seconds, speed_mps=speed_mps, route=route, roads=roads,
        sidewalks=sidewalks, dividers=dividers, paints=paints, actors=actors, sway=sway,
    )  # fmt: skip


def _crossings(rng: np.random.Generator, length: float) -> Array:
    """Return where side streets cross, metres along the route."""
    first = MARGIN_M + rng.uniform(22, 40)
    ahead = np.arange(first, length - 30, 88.0)
    behind = np.arange(first - 88.0, 30, -88.0)
    return np.sort(np.concatenate([ahead, behind]))


def _across(
    route: Route, crossing: float, along: tuple[float, float], left: tuple[float, float]
) -> Array:
    """Return a rectangle (4, 2) beside a crossing, metres along and left of the route there."""
    x, y, yaw = route.at(crossing)
    a, b = np.array(along), np.array(left)
    corners = np.array([(a[0], b[0]), (a[1], b[0]), (a[1], b[1]), (a[0], b[1])])
    c, s = np.cos(yaw), np.sin(yaw)
    return corners @ np.array([[c, s], [-s, c]]) + (x, y)


def _surfaces(route: Route, crossings: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return the polygons of the roads and of the sidewalks (which include the roads)."""
    roads: list[Array] = []
    sidewalks: list[Array] = []
    for wider, out in ((0.0, roads), (SIDEWALK_M, sidewalks)):
        half = ROAD_HALF_M + wider
        out.append(route.ribbon(0, route.length_m, -half, half))
        side = SIDE_HALF_M + wider
        long = SIDE_LENGTH_M
        out.extend(_across(route, at, (-side, side), (-long, long)) for at in crossings)
    return tuple(roads), tuple(sidewalks)


_WHITE, _YELLOW = (0.88, 0.88, 0.86), (0.86, 0.66, 0.16)


def _markings(route: Route, crossings: Array) -> tuple[tuple[Array, ...], tuple[Paint, ...]]:
    """Return the dividers' centre lines and the paint of every marking."""
    dividers: list[Array] = []
    paints: list[Paint] = []
    gap = SIDE_HALF_M + 5.5  # crosswalk and stop line
    ends = np.concatenate([[-gap], crossings, [route.length_m + gap]])
    for start, end in zip(ends[:-1] + gap, ends[1:] - gap, strict=True):
        steps = np.linspace(start, end, max(2, int(np.ceil(end - start)) + 1))
        for left in (-2 * LANE_M, -LANE_M, 0.0, LANE_M, 2 * LANE_M):
            dividers.append(route.at(steps, left)[:, :2])
        for left in (-2 * LANE_M, 2 * LANE_M):
            paints += _stripe(route, (start, end), left, 0.14, _WHITE)
        for left in (-0.15, 0.15):
            paints += _stripe(route, (start, end), left, 0.14, _YELLOW)
        for left in (-LANE_M, LANE_M):
            for dash in np.arange(start, end, 6.0):
                paints += _stripe(route, (dash, min(dash + 3.0, end)), left, 0.15, _WHITE)
    for at in crossings:
        for sign in (-1, 1):
            paints += _crosswalk(route, at, sign)
            line = sorted((sign * (ROAD_HALF_M + 1.0), sign * (SIDE_LENGTH_M - 0.5)))
            x, y, yaw = route.at(at)
            normal = np.array([-np.sin(yaw), np.cos(yaw)])
            dividers.append(np.array([(x, y) + normal * line[0], (x, y) + normal * line[1]]))
            for dash in np.arange(line[0], line[1] - 2.0, 5.0):
                quad = _across(route, at, (-0.06, 0.06), (dash, dash + 2.5))
                paints.append(Paint(polygon=quad, color=_WHITE))
    return tuple(dividers), tuple(paints)


def _stripe(
    route: Route, span: tuple[float, float], left: float, width: float, color: solids.Color
) -> list[Paint]:
    """Return a line along the route in straight pieces, which stray by less than 5 mm."""
    pieces = max(1, round((span[1] - span[0]) / 2))
    ends = np.linspace(*span, pieces + 1)
    result = []
    for start, end in pairwise(ends):
        over = min(end + 0.1, span[1])  # overlaps, so that no seam shows
        right = route.at([start, over], left - width / 2)[:, :2]
        other = route.at([over, start], left + width / 2)[:, :2]
        result.append(Paint(polygon=np.concatenate([right, other]), color=color))
    return result


def _crosswalk(route: Route, at: float, sign: int) -> list[Paint]:
    """Return the bars of a crosswalk and the stop line before it."""

    def quad(along: tuple[float, float], left: tuple[float, float]) -> Paint:
        low, high = sorted(sign * (SIDE_HALF_M + a) for a in along)
        return Paint(polygon=_across(route, at, (low, high), left), color=_WHITE)

    bars = np.arange(-ROAD_HALF_M + 0.7, ROAD_HALF_M - 0.6, 1.0)
    low, high = sorted((sign * 0.3, sign * 2 * LANE_M))
    return [*(quad((1.2, 4.2), (x, x + 0.5)) for x in bars), quad((4.9, 5.3), (low, high))]


def _car(rng: np.random.Generator) -> Shape:
    kind = rng.choice(['sedan', 'hatch', 'suv', 'van', 'truck'], p=[0.36, 0.26, 0.24, 0.09, 0.05])
    return solids.car(str(kind), _PAINTS[rng.integers(len(_PAINTS))])


def _traffic(rng: np.random.Generator, route: Route, speed: float, seconds: float) -> list[Actor]:
    """Moving vehicles. All in one lane share one speed, so that none ever meets another."""
    actors = []
    for lane, left in enumerate((-1.5 * LANE_M, EGO_LEFT_M, LANE_M / 2, 1.5 * LANE_M)):
        lane_speed = float(speed * rng.uniform(0.75, 1.25)) if left != EGO_LEFT_M else speed
        lane_speed = max(lane_speed, 0.5) if left != EGO_LEFT_M else lane_speed
        signed = lane_speed if left < 0 else -lane_speed
        travel = signed * seconds
        at = 12.0 - min(travel, 0) + rng.uniform(0, 12)
        while at < route.length_m - 12.0 - max(travel, 0):
            shape = _car(rng)
            clear = left != EGO_LEFT_M or not -9.0 < at - MARGIN_M < 15.0
            if clear:
                along = (at, left, signed)
                pose = route.at(at, left) + (0, 0, np.pi if signed < 0 else 0)
                actors.append(Actor(kind='vehicle', shape=shape, pose=pose, lane=along))
            at += 11.0 + rng.exponential(13.0 + 3.0 * lane)
    return actors


def _parked(rng: np.random.Generator, route: Route, crossings: Array) -> list[Actor]:
    """Parked vehicles along the main road, and some waiting in side streets."""
    actors = []
    for sign in (-1, 1):
        for at in np.arange(8.0, route.length_m - 8.0, 6.4):
            if np.abs(crossings - at).min() < 14 or rng.random() > 0.5:
                continue
            shape = _car(rng)
            if shape.size_m[0] > 5.5:
                continue
            pose = route.at(
                at + rng.uniform(-0.3, 0.3), sign * (2 * LANE_M + 1.2 + rng.uniform(-0.1, 0.1))
            )
            pose[2] += (np.pi if sign > 0 else 0) + rng.uniform(-0.03, 0.03)
            actors.append(Actor(kind='vehicle', shape=shape, pose=pose))
    for at in crossings:
        for sign in (-1, 1):
            for place in range(3):
                if rng.random() > (0.6, 0.45, 0.3)[place]:
                    continue
                x, y, yaw = route.at(at)
                ahead = sign * (ROAD_HALF_M + 6.0 + 8.5 * place)
                beside = sign * LANE_M / 2  # towards the main road, on the right
                pose = np.array([x, y, yaw - sign * np.pi / 2])
                c, s = np.cos(yaw), np.sin(yaw)
                pose[:2] += np.array([[c, -s], [s, c]]) @ (-beside, ahead)
                actors.append(Actor(kind='vehicle', shape=_car(rng), pose=pose))
    return actors


def _scenery(rng: np.random.Generator, route: Route, crossings: Array) -> list[Actor]:
    """Houses and trees on both sides of the street."""
    actors = []
    for sign in (-1, 1):
        at = rng.uniform(4, 10)
        while at < route.length_m - 10:
            length, depth = rng.uniform(10, 16), rng.uniform(9, 13)
            floors = int(rng.choice([2, 3, 4, 5], p=[0.4, 0.3, 0.2, 0.1]))
            middle = at + length / 2
            clear = np.abs(crossings - middle).min() > length / 2 + SIDE_HALF_M + SIDEWALK_M + 1.5
            if clear and rng.random() < 0.78:
                wall, roof = _WALLS[rng.integers(len(_WALLS))], _ROOFS[rng.integers(len(_ROOFS))]
                shape = solids.house(length, depth, floors, wall, roof, rng.random(97))
                setback = ROAD_HALF_M + SIDEWALK_M + rng.uniform(5.5, 8.5) + depth / 2
                pose = route.at(middle, sign * setback)
                pose[2] += np.pi if sign < 0 else 0
                actors.append(Actor(kind='building', shape=shape, pose=pose))
            at += length + rng.uniform(3.5, 9.0)
        for along in np.arange(5.0, route.length_m - 5.0, 11.0):
            along += rng.uniform(-2.0, 2.0)
            height, radius = rng.uniform(4.8, 7.6), rng.uniform(1.3, 1.9)
            conifer = rng.random() < 0.25
            near = np.abs(crossings - along).min() < SIDE_HALF_M + SIDEWALK_M + 2.5
            if near or rng.random() > 0.8:
                continue
            green = np.array([0.22, 0.36, 0.13]) + rng.uniform(-0.05, 0.07, 3) * (1, 1, 0.5)
            shape = solids.tree(height, radius, tuple(green), conifer=bool(conifer))
            pose = route.at(along, sign * (ROAD_HALF_M + SIDEWALK_M + 1.6))
            pose[2] += rng.uniform(0, np.pi)
            actors.append(Actor(kind='tree', shape=shape, pose=pose))
    return actors
