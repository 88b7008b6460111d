"""How something moves along a line: where it is at which time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import Array

STEP_M = 0.25  # between points of a path; chords leave a curve of 8 m radius by 1 mm
_COMFORT_MPS2 = (2.0, 1.8)  # sideways in curves; when speeding up and slowing down


@dataclass(frozen=True, eq=False, kw_only=True)
class Motion:
    """A path and a timetable.

    Attributes:
        path: (N, 2) points in the map, STEP_M apart.
        yaw: (N,) heading along it, radians, without jumps.
        times_s: (K,) rising, seconds since the start of the drive.
        along_m: (K,) distance along the path at these times, not falling.
        from_s: when it comes into the world; -inf: it is there from the beginning.
        to_s: when it leaves the world; inf: it stays.
    """

    path: Array
    yaw: Array
    times_s: Array
    along_m: Array
    from_s: float = -np.inf
    to_s: float = np.inf

    def at(self, time_s: npt.ArrayLike) -> Array:
        """Return (..., 3) x, y, yaw at times; before the first and after the last it stands."""
        along = np.interp(np.asarray(time_s, float), self.times_s, self.along_m)
        knots = np.arange(len(self.yaw)) * STEP_M
        columns = (*self.path.T, self.yaw)
        return np.stack([np.interp(along, knots, column) for column in columns], -1)


def resampled(line: npt.ArrayLike) -> tuple[Array, Array]:
    """Return a polyline (M, 2) as points STEP_M apart (N, 2), and the headings (N,) there."""
    points = np.asarray(line, float)
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    points = points[np.concatenate([[True], gaps > 1e-6])]
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    along = np.arange(int(knots[-1] / STEP_M) + 1) * STEP_M
    path = np.stack([np.interp(along, knots, column) for column in points.T], -1)
    ahead = np.gradient(path, axis=0)
    return path, np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))


def drive_along(
    line: npt.ArrayLike,
    speed_mps: float,
    seconds: float,
    start_m: float,
    *,
    before_s: float = 1.0,
) -> Motion:
    """Return a motion that keeps its speed where curves allow it.

    Args:
        line: (M, 2) the way; must be long enough, see Raises.
        speed_mps: wanted speed; 0 stands still.
        seconds: until when; the motion goes on for a second more.
        start_m: where on the line it is at time 0.
        before_s: how long before that the motion begins.

    Raises:
        ValueError: the line ends before the time does.
    """
    path, yaw = resampled(line)
    times = np.array([-before_s, seconds + 1.0])
    if speed_mps <= 0:
        return Motion(path=path, yaw=yaw, times_s=times, along_m=np.full(2, start_m))
    sideways, ahead = _COMFORT_MPS2
    curvature = np.abs(np.gradient(yaw)) / STEP_M
    # a window of 3 m: steering takes time, and the joints of lanes are not perfectly smooth
    curvature = np.convolve(np.pad(curvature, 6, 'edge'), np.full(13, 1 / 13), 'valid')
    limit = np.minimum(speed_mps, np.sqrt(sideways / np.maximum(curvature, 1e-6))).tolist()
    gain = 2 * ahead * STEP_M
    for i in range(1, len(limit)):  # plain floats: much quicker than items of an array
        limit[i] = min(limit[i], math.sqrt(limit[i - 1] * limit[i - 1] + gain))
    for i in range(len(limit) - 2, -1, -1):
        limit[i] = min(limit[i], math.sqrt(limit[i + 1] * limit[i + 1] + gain))
    speed = np.array(limit)
    clock = np.concatenate([[0], np.cumsum(STEP_M / ((speed[1:] + speed[:-1]) / 2))])
    knots = np.asarray(np.arange(len(path)) * STEP_M, np.float64)
    clock -= np.interp(start_m, knots, clock)
    if not (clock[0] <= -before_s and clock[-1] >= seconds + 1):  # also where it is not finite
        raise ValueError('the line is too short for the time')
    return Motion(path=path, yaw=yaw, times_s=clock, along_m=knots)
