"""Lanes of roads, and the ways across intersections that join them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bev_perception.shapes import Array
from bev_training.synthetic.town.network import BEND, Arm, Network, Street, turn_rad
from bev_training.synthetic.town.plan import GUTTER_M, Plan
from bev_training.synthetic.town.town import Lane, Line, Turn

_STEP_M = 0.4
_CORNER_RAD = 0.5
_TINY_M = 1e-3
_WIDER_M = 0.8
_TURNS: dict[int, Turn] = {1: 'right', 2: 'straight', 3: 'left'}  # slots, counter-clockwise
_Numbers = dict[tuple[int, int], list[int]]  # (street, end) -> lanes, the leftmost first


def make_lanes(network: Network, plan: Plan) -> tuple[Lane, ...]:
    """Return the lanes of all roads, then the ways across intersections."""
    lanes: list[Lane] = []
    leaving: _Numbers = {}  # by the end where they begin
    arriving: _Numbers = {}  # by the end where they stop
    for i, street in enumerate(network.streets):
        for end in (0, 1):
            numbers = list(range(len(lanes), len(lanes) + street.lanes_each_way))
            leaving[i, end], arriving[i, 1 - end] = numbers, numbers
            lanes += _road_lanes(street, i, end, plan)
    followers: dict[int, list[int]] = {i: [] for i in range(len(lanes))}
    for node, arms in enumerate(network.arms):
        bend = BEND if len(arms) == 2 else 1.0
        # about as far from the kerb's corner as from the kerb before and behind it
        radius_m = plan.kerb_radius_m * bend + plan.lane_m / 2 + GUTTER_M + _WIDER_M
        for first, second, turn in _ways(arms, arriving, leaving):
            followers[first].append(len(lanes))
            lanes.append(
                Lane(
                    line=_connector(lanes[first].line, lanes[second].line, radius_m),
                    width_m=plan.lane_m,
                    road=-1,
                    node=node,
                    successors=(second,),
                    turn=turn,
                )
            )
    return tuple(
        replace(lane, successors=tuple(followers[i])) if i in followers else lane
        for i, lane in enumerate(lanes)
    )


def _road_lanes(street: Street, number: int, end: int, plan: Plan) -> list[Lane]:
    """Return the lanes that leave one end of a street, the leftmost first."""
    side = 1 if end else -1
    lanes = []
    for k in range(street.lanes_each_way):
        line = street.parallel(side * (k + 0.5) * plan.lane_m, _STEP_M)
        outer: Line = 'solid' if plan.edge_lines and street.parking[0 if end else 1] else 'none'
        last = k == street.lanes_each_way - 1
        lanes.append(
            Lane(
                line=line[::-1] if end else line,
                width_m=plan.lane_m,
                road=number,
                node=-1,
                successors=(),
                sides=(street.divider if k == 0 else 'dashed', outer if last else 'dashed'),
            )
        )
    return lanes


def _ways(
    arms: tuple[Arm, ...], arriving: _Numbers, leaving: _Numbers
) -> list[tuple[int, int, Turn]]:
    """Return (from, to, turn) of all ways across one intersection."""
    ways: list[tuple[int, int, Turn]] = []
    for source in arms:
        lanes = arriving[source.street, source.end]
        exits: dict[Turn, list[int]] = {
            _TURNS[(target.slot - source.slot) % 4]: leaving[target.street, target.end]
            for target in arms
            if target is not source
        }
        for turn, targets in exits.items():
            ways += [(a, b, turn) for a, b in _pairs(turn, lanes, targets, list(exits))]
    reached = {b for _, b, _ in ways}
    for arm in arms:
        numbers = leaving[arm.street, arm.end]
        for lost in (n for n in numbers if n not in reached):
            ways.append(next((a, lost, turn) for a, b, turn in ways if b in numbers))
    return ways


def _pairs(
    turn: Turn, lanes: list[int], targets: list[int], exits: list[Turn]
) -> list[tuple[int, int]]:
    """Return which lane may go on in which lane, if it goes this way."""
    if len(exits) == 1:
        return [(a, targets[min(k, len(targets) - 1)]) for k, a in enumerate(lanes)]
    if turn == 'left':
        return [(lanes[0], targets[0])]
    if turn == 'right':
        return [(lanes[-1], targets[-1])]
    if len(lanes) <= len(targets):
        return [(lanes[min(k, len(lanes) - 1)], b) for k, b in enumerate(targets)]
    # two lanes become one: the other is for turning only
    return [(lanes[-1] if 'left' in exits else lanes[0], targets[0])]


def _connector(first: Array, second: Array, radius_m: float) -> Array:
    """Return a curve (N, 2) from where one lane ends to where another begins."""
    start, goal = first[-1], second[0]
    ahead, onward = (v / np.linalg.norm(v) for v in (first[-1] - first[-2], second[1] - second[0]))
    # to the left along a wide curve; to the right not, as it would cut the kerb's corner
    if turn_rad(ahead, onward) < -_CORNER_RAD:
        line = _evenly(rounded(start, ahead, goal, onward, _STEP_M / 8, radius_m), _STEP_M)
    else:
        line = smooth(start, ahead, goal, onward, _STEP_M)
    line[0], line[-1] = start, goal
    return line


def rounded(
    start: Array,
    ahead: Array,
    goal: Array,
    onward: Array,
    step_m: float,
    radius_m: float,
) -> Array:
    """Return a line (N, 2): straight, an arc, straight.

    Args:
        start: (2,) where it begins.
        ahead: (2,) unit vector, its heading there.
        goal: (2,) where it ends.
        onward: (2,) unit vector, its heading there.
        step_m: greatest distance between points.
        radius_m: of the arc, if there is room for it.
    """
    turn = turn_rad(ahead, onward)
    reach = _reach(goal - start, ahead, onward)
    tangent = min(radius_m * np.tan(abs(turn) / 2), *reach)
    if abs(turn) < _CORNER_RAD or tangent <= 0:
        return smooth(start, ahead, goal, onward, step_m)
    peak = start + reach[0] * ahead
    arc = smooth(peak - tangent * ahead, ahead, peak + tangent * onward, onward, step_m)
    before, after = _straight(start, arc[0], step_m), _straight(arc[-1], goal, step_m)
    return np.concatenate([before[:-1], arc, after[1:]])


def _straight(start: Array, goal: Array, step_m: float) -> Array:
    """Return points (N, 2) from one to the other; none if these are the same."""
    length = float(np.linalg.norm(goal - start))
    if length < _TINY_M:
        return np.zeros((0, 2))
    return np.linspace(start, goal, int(np.ceil(length / step_m)) + 1)


def _reach(chord: Array, ahead: Array, onward: Array) -> Array:
    """Return how far (2,) the ends of a chord are from where two headings through them meet."""
    sines = np.sin([turn_rad(chord, onward), turn_rad(ahead, chord)])
    reach: Array = np.linalg.norm(chord) * sines / np.sin(turn_rad(ahead, onward))
    return reach


def smooth(start: Array, ahead: Array, goal: Array, onward: Array, step_m: float) -> Array:
    """Return a cubic curve (N, 2) between two points, with given headings (unit vectors).

    Where the headings meet in a corner, the curve is close to an arc (or an ellipse's quarter).
    """
    chord = goal - start
    turn = turn_rad(ahead, onward)
    length = float(np.linalg.norm(chord))
    handles = np.full(2, length / (3 * np.cos(turn / 4) ** 2))
    if abs(turn) > 0.3:
        # distances to the corner; with k of them as handles, equal ones give a circle's arc
        corner = _reach(chord, ahead, onward)
        if (corner > 0).all():
            handles = corner * (4 / 3) * np.tan(abs(turn) / 4) / np.tan(abs(turn) / 2)
    knots = np.stack([start, start + handles[0] * ahead, goal - handles[1] * onward, goal])
    t = np.linspace(0, 1, 200)[:, None]
    weights = np.concatenate(
        [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1
    )
    return _evenly(weights @ knots, step_m)


def _evenly(line: Array, step_m: float) -> Array:
    """Return the same line (N, 2) with points at most `step_m` apart, evenly."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0, along[-1], max(int(np.ceil(along[-1] / step_m)), 1) + 1)
    return np.stack([np.interp(at, along, column) for column in line.T], -1)
