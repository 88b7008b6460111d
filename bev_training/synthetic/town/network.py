"""The road network: a grid that lost its straightness and some of its edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.town.plan import GUTTER_M, PARKING_M, Plan
from bev_training.synthetic.town.town import Line

MARGIN_M = 165.0
BEND = 1.8  # larger radius where only two streets meet: it is driven faster
CROSSING_M = (0.8, 3.8)  # from where the intersection ends
_STEP_M = 0.35
_PITCH_M = (78.0, 135.0)
_MIN_RADIUS_M = 36.0
_OUTLINE = 0.8


@dataclass(frozen=True, eq=False, kw_only=True)
class Arm:
    """A street's end, seen from the middle of its intersection.

    Attributes:
        street: its number.
        end: 0 if the street begins here, 1 if it ends here.
        slot: 0 east, 1 north, 2 west, 3 south (before the grid was bent).
        point: (2,) end of the centre line.
        out: (2,) unit vector along the street, away from the intersection.
        half_width_m: (left, right) looking outwards.
    """

    street: int
    end: int
    slot: int
    point: Array
    out: Array
    half_width_m: tuple[float, float]

    def kerb(self, left: bool) -> Array:
        """Return where the kerb (2,) of one side meets the intersection."""
        normal = np.array([-self.out[1], self.out[0]])
        return self.point + normal * (self.half_width_m[0] if left else -self.half_width_m[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Street:
    """A road between two intersections, and what is decided about it.

    Attributes:
        line: (N, 2) centre line, _STEP_M between points.
        normals: (N, 2) to its left.
        ends: numbers of the nodes.
        slots: on which side of each node it leaves.
        lanes_each_way: 1 or 2.
        parking: (left, right).
        half_width_m: (left, right).
        divider: what is painted between the directions.
        crosswalks, stops: (start, end): painted there.
    """

    line: Array
    normals: Array
    ends: tuple[int, int]
    slots: tuple[int, int]
    lanes_each_way: int
    parking: tuple[bool, bool]
    half_width_m: tuple[float, float]
    divider: Line
    crosswalks: tuple[bool, bool]
    stops: tuple[bool, bool]

    @cached_property
    def along_m(self) -> Array:
        """Distance (N,) of the points from the start."""
        return _along(self.line)

    @property
    def length_m(self) -> float:
        """Length of the centre line."""
        return float(self.along_m[-1])

    def at(self, along_m: npt.ArrayLike, left_m: npt.ArrayLike) -> Array:
        """Return points (..., 2) at distances along the street and to its left."""
        columns = (*self.line.T, *self.normals.T)
        at, left = np.asarray(along_m, float), np.asarray(left_m, float)
        x, y, nx, ny = (np.interp(at, self.along_m, column) for column in columns)
        return np.stack([x + nx * left, y + ny * left], -1)

    def offset(self, left_m: float, start_m: float, stop_m: float, step_m: float) -> Array:
        """Return a line (M, 2) parallel to the street, from `start_m` to `stop_m`."""
        count = max(int(np.ceil((stop_m - start_m) / step_m)), 1)
        return self.at(np.linspace(start_m, stop_m, count + 1), left_m)

    def parallel(self, left_m: float, step_m: float = 1.5) -> Array:
        """Return a line (M, 2) parallel to the whole street."""
        return self.offset(left_m, 0, self.length_m, step_m)

    def stop_line_m(self, end: int) -> tuple[float, float]:
        """Return from where to where the stop line lies, from the end of the intersection."""
        near = CROSSING_M[1] + 1.2 if self.crosswalks[end] else 0.6
        return near, near + 0.5

    def clear_m(self, end: int) -> float:
        """Return how much of this end has no lines along the street."""
        if self.stops[end]:
            return self.stop_line_m(end)[1]
        return CROSSING_M[1] + 0.7 if self.crosswalks[end] else 0.0

    def painted_m(self) -> tuple[float, float]:
        """Return from where to where there are lines along the street."""
        return self.clear_m(0), self.length_m - self.clear_m(1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """Nodes (N, 2), streets, and the arms of every node, counter-clockwise."""

    nodes: Array
    streets: tuple[Street, ...]
    arms: tuple[tuple[Arm, ...], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Edge:
    ends: tuple[int, int]
    slots: tuple[int, int]
    lanes_each_way: int
    parking: tuple[bool, bool]
    half_width_m: tuple[float, float]
    curve: Array


def make_network(rng: np.random.Generator, plan: Plan, blocks: tuple[int, int]) -> Network:
    """Return the streets of a town; all nodes are MARGIN_M inside the map's corner (0, 0)."""
    columns, rows = blocks[0] + 1, blocks[1] + 1
    nodes = _lattice(rng, plan, columns, rows)
    numbers = np.arange(columns * rows).reshape(rows, columns)
    tangents = np.stack(
        [_tangents(nodes[numbers]), _tangents(nodes[numbers.T]).swapaxes(0, 1)], 2
    ).reshape(-1, 2, 2)
    tangents = _rotated(tangents, rng.normal(0, 0.09 * plan.curves, len(nodes))[:, None])
    wide = [_avenues(rng, plan, count) for count in (rows, columns)]
    pairs = [(a, a + 1, 0) for a in numbers[:, :-1].ravel().tolist()]
    pairs += [(a, a + columns, 1) for a in numbers[:-1].ravel().tolist()]
    edges = []
    for a, b, axis in _thinned(rng, plan, pairs, len(nodes)):
        lanes = 2 if wide[axis][a // columns if axis == 0 else a % columns] else 1
        left, right = (bool(p) for p in rng.random(2) < plan.parking)
        lanes_m = lanes * plan.lane_m + GUTTER_M
        bow = rng.uniform(-9, 9) * plan.curves
        edges.append(
            _Edge(
                ends=(a, b),
                slots=(axis, axis + 2),
                lanes_each_way=lanes,
                parking=(left, right),
                half_width_m=(lanes_m + left * PARKING_M, lanes_m + right * PARKING_M),
                curve=_curve(nodes[[a, b]], tangents[[a, b], axis], bow),
            )
        )
    streets = _streets(rng, plan, edges, len(nodes))
    return Network(nodes=nodes, streets=streets, arms=_arms(streets, len(nodes)))


def _lattice(rng: np.random.Generator, plan: Plan, columns: int, rows: int) -> Array:
    """Return nodes (N, 2), row after row."""
    mean = rng.uniform(_PITCH_M[0] + 12, _PITCH_M[1] - 15)
    x, y = (
        np.cumsum(np.clip(rng.normal(mean, 16, count), *_PITCH_M)) for count in (columns, rows)
    )
    nodes = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    nodes += rng.uniform(-1, 1, nodes.shape) * (3 + 7 * plan.curves)
    nodes = _rotated(nodes, plan.rotation_rad)
    lattice: Array = nodes - nodes.min(0) + MARGIN_M
    return lattice


def _rotated(vectors: Array, angle: npt.ArrayLike) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], -1)


def _tangents(chains: Array) -> Array:
    """Return unit vectors along chains of points (C, K, 2)."""
    ahead = np.gradient(chains, axis=1)
    unit: Array = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    return unit


def _avenues(rng: np.random.Generator, plan: Plan, count: int) -> AnyArray:
    """Return which of the rows have two lanes each way: at least one."""
    wide = rng.random(count) < plan.avenues
    wide[rng.integers(count)] = True
    return wide


def _thinned(
    rng: np.random.Generator, plan: Plan, pairs: list[tuple[int, int, int]], nodes: int
) -> list[tuple[int, int, int]]:
    """Return edges without some; no dead ends, and everything stays connected."""
    kept = set(range(len(pairs)))
    degree = np.bincount(np.array([p[:2] for p in pairs]).ravel(), minlength=nodes)
    to_go = round(plan.removed * len(pairs))
    for i in rng.permutation(len(pairs)).tolist():
        a, b, _ = pairs[i]
        # of the outermost edges more stay, so that most blocks are closed
        stays = max(degree[a], degree[b]) <= 3 and rng.random() < _OUTLINE
        if to_go == 0 or stays or min(degree[a], degree[b]) <= 2:
            continue
        if _connected([pairs[k] for k in sorted(kept - {i})], nodes):
            kept -= {i}
            degree[[a, b]] -= 1
            to_go -= 1
    return [pairs[k] for k in sorted(kept)]


def _connected(pairs: list[tuple[int, int, int]], nodes: int) -> bool:
    ends = np.array([p[:2] for p in pairs])
    label = np.arange(nodes)
    for _ in range(nodes):
        low = label[ends].min(1)
        before = label.copy()
        np.minimum.at(label, ends[:, 0], low)
        np.minimum.at(label, ends[:, 1], low)
        if (label == before).all():
            break
    return bool((label == 0).all())


def _curve(ends: Array, tangents: Array, bow_m: float) -> Array:
    """Return a smooth line (N, 2) between two points, not bent more than allowed."""
    chord = ends[1] - ends[0]
    length = np.linalg.norm(chord)
    side = np.array([-chord[1], chord[0]]) / length
    t = np.linspace(0, 1, int(length / _STEP_M) + 2)[:, None]
    line = ends[0] + t * chord
    for scale in (1.0, 0.75, 0.5, 0.3, 0.15):
        pull = (tangents - chord / length) * length * scale
        line = ends[0] + t * chord
        line = line + (t - 2 * t**2 + t**3) * pull[0] + (t**3 - t**2) * pull[1]
        line = line + 16 * (t * (1 - t)) ** 2 * side * bow_m * scale
        ahead = np.gradient(line, axis=0)
        yaw = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
        if np.abs(np.diff(yaw) / np.diff(_along(line))).max() < 1 / _MIN_RADIUS_M:
            break
    return line


def _along(line: Array) -> Array:
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _streets(
    rng: np.random.Generator, plan: Plan, edges: list[_Edge], nodes: int
) -> tuple[Street, ...]:
    """Return the edges, cut where the intersections begin."""
    around: list[list[Arm]] = [[] for _ in range(nodes)]
    for i, edge in enumerate(edges):
        for end, line in enumerate((edge.curve, edge.curve[::-1])):
            # a chord rather than the tangent: it is this far out that kerbs meet
            out = (line[30] - line[0]) / np.linalg.norm(line[30] - line[0])
            widths = edge.half_width_m if end == 0 else edge.half_width_m[::-1]
            around[edge.ends[end]].append(
                Arm(
                    street=i,
                    end=end,
                    slot=edge.slots[end],
                    point=line[0],
                    out=out,
                    half_width_m=(widths[0], widths[1]),
                )
            )
    cut = np.zeros((len(edges), 2))
    crosswalks, stops = np.zeros((2, len(edges), 2), bool)
    for arms in around:
        arms.sort(key=lambda arm: arm.slot)
        painted, must_stop = rng.random(2) < (0.75, 0.6)
        for arm, room in zip(arms, _room(arms, plan.kerb_radius_m), strict=True):
            cut[arm.street, arm.end] = room
            crosswalks[arm.street, arm.end] = painted and len(arms) > 2
            stops[arm.street, arm.end] = (painted or must_stop) and len(arms) > 2
    streets = []
    for i, edge in enumerate(edges):
        line, normals = _cut(edge.curve, cut[i])
        styles: tuple[Line, ...] = ('double', 'solid', 'dashed')
        share = (0.6, 0.4, 0.0) if edge.lanes_each_way == 2 else (0.25, 0.2, 0.55)
        streets.append(
            Street(
                line=line,
                normals=normals,
                ends=edge.ends,
                slots=edge.slots,
                lanes_each_way=edge.lanes_each_way,
                parking=edge.parking,
                half_width_m=edge.half_width_m,
                divider=styles[rng.choice(3, p=share)],
                crosswalks=(bool(crosswalks[i, 0]), bool(crosswalks[i, 1])),
                stops=(bool(stops[i, 0]), bool(stops[i, 1])),
            )
        )
    return tuple(streets)


def _room(arms: list[Arm], radius_m: float) -> list[float]:
    """Return for every arm how far from the node its street must begin."""
    rooms = [7.0] * len(arms)
    if len(arms) == 2:
        radius_m *= BEND
    for i, arm in enumerate(arms):
        k = (i + 1) % len(arms)
        angle = turn_rad(arm.out, arms[k].out) % (2 * np.pi)
        if angle > np.deg2rad(150):
            continue
        a, b = arm.half_width_m[0], arms[k].half_width_m[1]
        round_m = radius_m / np.tan(angle / 2) + 0.6
        rooms[i] = max(rooms[i], (b + a * np.cos(angle)) / np.sin(angle) + round_m)
        rooms[k] = max(rooms[k], (a + b * np.cos(angle)) / np.sin(angle) + round_m)
    return rooms


def turn_rad(first: Array, second: Array) -> float:
    """Return the angle from one vector (2,) to another, counter-clockwise, -pi .. pi."""
    cross = first[0] * second[1] - first[1] * second[0]
    return float(np.arctan2(cross, first @ second))


def _cut(curve: Array, room_m: Array) -> tuple[Array, Array]:
    """Return a line without its ends, evenly spaced, and its normals to the left."""
    knots = _along(curve)
    along = np.linspace(room_m[0], knots[-1] - room_m[1], int(knots[-1] / _STEP_M) + 2)
    line = np.stack([np.interp(along, knots, column) for column in curve.T], -1)
    ahead = np.gradient(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    return line, np.stack([-ahead[:, 1], ahead[:, 0]], -1)


def _arms(streets: tuple[Street, ...], nodes: int) -> tuple[tuple[Arm, ...], ...]:
    around: list[list[Arm]] = [[] for _ in range(nodes)]
    for i, street in enumerate(streets):
        for end in (0, 1):
            normal = street.normals[-end]
            sign = 1 - 2 * end
            widths = street.half_width_m[:: 1 - 2 * end]
            around[street.ends[end]].append(
                Arm(
                    street=i,
                    end=end,
                    slot=street.slots[end],
                    point=street.line[-end],
                    out=sign * np.array([normal[1], -normal[0]]),
                    half_width_m=(widths[0], widths[1]),
                )
            )
    return tuple(tuple(sorted(arms, key=lambda arm: arm.slot)) for arms in around)
