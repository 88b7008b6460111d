"""The paint on the ground, as convex quadrilaterals."""

from __future__ import annotations

from typing import Literal

import numpy as np
from shapely import Polygon

from bev_perception.shapes import Array
from bev_training.synthetic.town.lanes import smooth
from bev_training.synthetic.town.network import CROSSING_M, Arm, Network, Street
from bev_training.synthetic.town.parking import Carpark, driveways, roadside
from bev_training.synthetic.town.plan import PARKING_M, Plan
from bev_training.synthetic.town.town import Color, Lane, Line, Marking, Turn

_PIECE_M = 1.9  # of lines that follow a curve
_OVERLAP_M = 0.01
_WIDTH_M = 0.15
_DOUBLE_M = (0.12, 0.2)  # width of two lines, and the gap between them
_SOLID_M = 15.0  # lines between lanes are not dashed this far before a stop line
_BAR_M = 0.5
_ARROW_M = 7.0  # from a stop line to where an arrow begins
_TIP = 0.02  # heads of arrows are trapezia, nearly triangles
_ARROWS: dict[Turn, Array] = {  # x ahead, y left, counter-clockwise
    'straight': np.array(
        [
            [[0.0, -0.08], [2.2, -0.08], [2.2, 0.08], [0.0, 0.08]],
            [[2.2, -0.4], [3.2, -_TIP], [3.2, _TIP], [2.2, 0.4]],
        ]
    ),
    'left': np.array(
        [
            [[0.0, -0.08], [1.6, -0.08], [1.6, 0.08], [0.0, 0.08]],
            [[1.4, 0.0], [1.6, -0.08], [1.9, 0.5], [1.7, 0.5]],
            [[1.4, 0.5], [2.2, 0.5], [1.8 + _TIP, 1.2], [1.8 - _TIP, 1.2]],
        ]
    ),
}
_ARROWS['right'] = (_ARROWS['left'] * (1, -1))[:, ::-1]


def make_markings(
    network: Network,
    plan: Plan,
    lanes: tuple[Lane, ...],
    carparks: tuple[Carpark, ...],
    stop_lines: list[Polygon],
) -> tuple[Marking, ...]:
    """Return all paint of a town."""
    paint: list[Marking] = []
    centre = plan.yellow if plan.centre_yellow else plan.white
    for i, street in enumerate(network.streets):
        paint += _marks(_divider(street, plan), centre)
        paint += _marks(_lane_lines(street, plan), plan.white)
        for left in (False, True):
            ways = driveways(carparks, i, left)
            paint += _marks(_parking_lines(street, left, ways, plan), plan.white)
        for end in (0, 1):
            if street.crosswalks[end]:
                paint += _marks(_crosswalk(street, end, plan), plan.white, 'crosswalk')
    areas = np.array([np.asarray(p.exterior.coords)[:4] for p in stop_lines]).reshape(-1, 4, 2)
    paint += _marks(areas, plan.white)
    for arms in network.arms:
        if len(arms) == 2:
            paint += _marks(_bend_divider(network, arms), centre)
            if min(network.streets[arm.street].lanes_each_way for arm in arms) == 2:
                lines = [bend(arms, left) for left in (plan.lane_m, -plan.lane_m)]
                paint += _marks(np.concatenate([_line(x, _WIDTH_M) for x in lines]), plan.white)
    if plan.arrows:
        paint += _marks(_arrows(network, lanes), plan.white)
    for park in carparks:
        paint += _marks(_pieces(park.lines[:, 0], park.lines[:, 1], 0.1), plan.white)
    return tuple(paint)


def road_divider(street: Street) -> Array:
    """Return the line (M, 2) between the directions, where it is painted."""
    return street.offset(0.0, *street.painted_m(), 1.0)


def bend(arms: tuple[Arm, ...], left_m: float = 0.0) -> Array:
    """Return a line (M, 2) from one street to the next where only two meet."""
    first, second = arms
    ahead, onward = -first.out, second.out
    start, goal = (
        point + left_m * np.array([-out[1], out[0]])
        for point, out in ((first.point, ahead), (second.point, onward))
    )
    return smooth(start, ahead, goal, onward, 1.0)


def lane_dividers(street: Street, plan: Plan) -> list[Array]:
    """Return lines (M, 2) between a street's lanes, and between lanes and parking lanes."""
    return [street.offset(left, *street.painted_m(), 1.0) for left in _between(street, plan)] + [
        street.offset(left, *street.painted_m(), 1.0) for left in _edges(street, plan)
    ]


def _between(street: Street, plan: Plan) -> list[float]:
    return [plan.lane_m, -plan.lane_m] if street.lanes_each_way == 2 else []


def _edges(street: Street, plan: Plan) -> list[float]:
    if not plan.edge_lines:
        return []
    far = street.lanes_each_way * plan.lane_m
    return [s * far for s, parked in zip((1, -1), street.parking, strict=True) if parked]


def _marks(
    quads: Array, color: Color, kind: Literal['line', 'crosswalk'] = 'line'
) -> list[Marking]:
    return [Marking(polygon=quad, color=color, kind=kind) for quad in quads]


def _pieces(start: Array, stop: Array, width_m: float) -> Array:
    """Return rectangles (K, 4, 2), counter-clockwise, around segments (K, 2) to (K, 2)."""
    ahead = stop - start
    ahead = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    side = np.stack([-ahead[:, 1], ahead[:, 0]], -1) * width_m / 2
    start, stop = start - ahead * _OVERLAP_M, stop + ahead * _OVERLAP_M
    return np.stack([start - side, stop - side, stop + side, start + side], 1)


def _solid(street: Street, left_m: float, start_m: float, stop_m: float, width_m: float) -> Array:
    if stop_m - start_m < 0.3:
        return np.zeros((0, 4, 2))
    return _line(street.offset(left_m, start_m, stop_m, _PIECE_M), width_m)


def _line(line: Array, width_m: float) -> Array:
    return _pieces(line[:-1], line[1:], width_m)


def _dashed(street: Street, left_m: float, start_m: float, stop_m: float, plan: Plan) -> Array:
    long, gap = plan.dash_m
    count = max(int((stop_m - start_m + gap) / (long + gap)), 0)
    first = (start_m + stop_m - count * (long + gap) + gap) / 2
    starts = first + np.arange(count) * (long + gap)
    parts = int(np.ceil(long / _PIECE_M))
    starts = (starts[:, None] + np.arange(parts) * long / parts).ravel()
    ends = starts + long / parts
    return _pieces(street.at(starts, left_m), street.at(ends, left_m), _WIDTH_M)


def _divider(street: Street, plan: Plan) -> Array:
    start, stop = street.painted_m()
    style: Line = street.divider
    if style == 'dashed':
        return _dashed(street, 0.0, start, stop, plan)
    if style == 'solid':
        return _solid(street, 0.0, start, stop, _WIDTH_M)
    width, gap = _DOUBLE_M
    apart = (width + gap) / 2
    return np.concatenate([_solid(street, s * apart, start, stop, width) for s in (1, -1)])


def _bend_divider(network: Network, arms: tuple[Arm, ...]) -> Array:
    if all(network.streets[arm.street].divider != 'double' for arm in arms):
        return _line(bend(arms), _WIDTH_M)
    width, gap = _DOUBLE_M
    apart = (width + gap) / 2
    return np.concatenate([_line(bend(arms, s * apart), width) for s in (1, -1)])


def _lane_lines(street: Street, plan: Plan) -> Array:
    found = [np.zeros((0, 4, 2))]
    start, stop = street.painted_m()
    for left in _between(street, plan):
        end = 0 if left > 0 else 1  # where the traffic on this side arrives
        solid = min(_SOLID_M, (stop - start) / 2) if street.stops[end] else 0.0
        middle = start + solid if end == 0 else stop - solid
        if end == 0:
            found.append(_solid(street, left, start, middle, _WIDTH_M))
            found.append(_dashed(street, left, middle, stop, plan))
        else:
            found.append(_solid(street, left, middle, stop, _WIDTH_M))
            found.append(_dashed(street, left, start, middle, plan))
    return np.concatenate(found)


def _parking_lines(street: Street, left: bool, ways: list[float], plan: Plan) -> Array:
    """Return the line along a parking lane, and those between its bays."""
    sign = 1 if left else -1
    far = street.lanes_each_way * plan.lane_m
    found = [np.zeros((0, 4, 2))]
    if not street.parking[0 if left else 1]:
        return found[0]
    if plan.edge_lines:
        found.append(_solid(street, sign * far, *street.painted_m(), _WIDTH_M))
    along = roadside(street, left, ways, plan)
    if plan.bay_marks and len(along):
        edges = np.unique(np.round(along[:, [0, 2]], 6))
        near, to = (sign * (far + m) for m in (0.1, PARKING_M))
        found.append(_pieces(street.at(edges, near), street.at(edges, to), 0.1))
    return np.concatenate(found)


def _crosswalk(street: Street, end: int, plan: Plan) -> Array:
    near, far = CROSSING_M
    if end:
        near, far = street.length_m - far, street.length_m - near
    left, right = street.half_width_m
    count = int((left + right - 0.6 + _BAR_M) / (2 * _BAR_M))
    middle = (left - right) / 2
    across = middle + (np.arange(count) - (count - 1) / 2) * 2 * _BAR_M
    ladder = plan.crosswalk == 'ladder'
    inset = 0.25 if ladder else 0.0
    full = np.ones(count)
    bars = [
        _pieces(
            street.at(full * (near + inset), across),
            street.at(full * (far - inset), across),
            _BAR_M,
        )
    ]
    if ladder:
        sides = np.array([near + 0.15, far - 0.15])
        span = np.array([across[0] - 0.25, across[-1] + 0.25])
        bars.append(_pieces(street.at(sides, span[[0, 0]]), street.at(sides, span[[1, 1]]), 0.3))
    return np.concatenate(bars)


def _arrows(network: Network, lanes: tuple[Lane, ...]) -> Array:
    """Return arrows on the lanes of avenues, before intersections where one must stop."""
    found = [np.zeros((0, 4, 2))]
    for lane in lanes:
        ways = {lanes[i].turn for i in lane.successors}
        if lane.road < 0:
            continue
        street = network.streets[lane.road]
        end = 0 if np.allclose(lane.line[-1], street.line[0], atol=3 * lane.width_m) else 1
        if street.lanes_each_way < 2 or not street.stops[end] or street.length_m < 40:
            continue
        along = np.linalg.norm(lane.line - lane.line[-1], axis=1)
        at = int(np.argmin(np.abs(along - street.clear_m(end) - _ARROW_M)))
        ahead = lane.line[at + 1] - lane.line[at]
        ahead /= np.linalg.norm(ahead)
        frame = np.array([ahead, [-ahead[1], ahead[0]]])
        found += [shape @ frame + lane.line[at] for turn, shape in _ARROWS.items() if turn in ways]
    return np.concatenate(found)
