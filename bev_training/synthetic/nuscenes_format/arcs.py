"""Centre lines of lanes as chains of arcs, the way nuScenes' map stores them.

A piece has a start pose and three parts (arc, straight or arc, arc) of one radius; we fill one of
the three and leave the others empty.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bev_perception.shapes import Array

TOLERANCE_M = 0.02
_STRAIGHT_M = 2000.0  # a larger radius cannot be told from a straight line over a lane's length


def arc_chain(line: Array, tolerance_m: float = TOLERANCE_M) -> list[dict[str, Any]]:
    """Return pieces through some of the points of a line (N, 2), in its direction.

    Every other point lies at most `tolerance_m` from its piece.
    """
    pieces = []
    first, last = 0, len(line) - 1
    while first < last:
        # doubling, then halving: the longest piece that fits
        good, step = first + 1, 2
        while good < last and _fits(line, first, min(first + step, last), tolerance_m):
            good, step = min(first + step, last), 2 * step
        bad = min(first + step, last + 1)
        while bad - good > 1:
            middle = (good + bad) // 2
            if _fits(line, first, middle, tolerance_m):
                good = middle
            else:
                bad = middle
        pieces.append(_piece(line, first, good))
        first = good
    return pieces


def _curvature(line: Array, first: int, last: int) -> float:
    """Return 1/radius, positive to the left, of the circle through both ends and the middle."""
    a, b, c = line[first], line[(first + last) // 2], line[last]
    (x1, y1), (x2, y2) = b - a, c - a
    sides = np.linalg.norm([b - a, c - b, c - a], axis=1)
    twice_area = x1 * y2 - y1 * x2
    return float(2 * twice_area / max(sides.prod(), 1e-12)) if last - first > 1 else 0.0


def _fits(line: Array, first: int, last: int, tolerance_m: float) -> bool:
    curvature = _curvature(line, first, last)
    points, a, c = line[first : last + 1], line[first], line[last]
    chord = c - a
    length = float(np.hypot(*chord))
    if length < 1e-9 or abs(curvature) * length > 1.8:  # nearly a half turn or more
        return False
    along = chord / length
    side = np.array([-along[1], along[0]])
    s, d = (points - a) @ along, (points - a) @ side
    if s.min() < -tolerance_m or s.max() > length + tolerance_m:
        return False
    if abs(curvature) * _STRAIGHT_M < 1:
        return bool(np.abs(d).max() <= tolerance_m)
    radius = 1 / curvature
    below = math.copysign(math.sqrt(max(radius**2 - length**2 / 4, 0.0)), radius)
    off = np.hypot(s - length / 2, d - below) - abs(radius)
    return bool(np.abs(off).max() <= tolerance_m)


def _piece(line: Array, first: int, last: int) -> dict[str, Any]:
    chord = line[last] - line[first]
    length = float(np.hypot(*chord))
    curvature = _curvature(line, first, last)
    heading = math.atan2(chord[1], chord[0])
    if abs(curvature) * _STRAIGHT_M < 1:
        return _record(line[first], line[last], heading, heading, 'LSR', 1.0, [0.0, length, 0.0])
    half = math.asin(min(1.0, abs(curvature) * length / 2))
    turn = math.copysign(half, curvature)
    radius = 1 / abs(curvature)
    shape = 'LSR' if turn > 0 else 'RSL'
    lengths = [2 * half * radius, 0.0, 0.0]
    return _record(line[first], line[last], heading - turn, heading + turn, shape, radius, lengths)


def _record(
    start: Array, end: Array, yaw: float, end_yaw: float, shape: str, radius: float, length: list
) -> dict[str, Any]:
    return {
        'start_pose': [*start.tolist(), yaw],
        'end_pose': [*end.tolist(), end_yaw],
        'shape': shape,
        'radius': radius,
        'segment_length': length,
    }
