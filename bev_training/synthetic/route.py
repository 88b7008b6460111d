"""The road's centre line: the map between metres along and across it, and the odom frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import Array

STEP_M = 0.5  # between samples; chords leave the curve by less than 1 mm


@dataclass(frozen=True, eq=False, kw_only=True)
class Route:
    """A smooth curve, sampled every STEP_M.

    Attributes:
        xy: (N, 2) metres, odom frame.
        yaw: (N,) heading, radians, without jumps.
    """

    xy: Array
    yaw: Array

    @property
    def length_m(self) -> float:
        """Length of the curve."""
        return (len(self.yaw) - 1) * STEP_M

    def at(self, along_m: npt.ArrayLike, left_m: npt.ArrayLike = 0.0) -> Array:
        """Return (..., 3) x, y, yaw in odom of points along the curve and left of it, metres."""
        along, left = np.broadcast_arrays(np.asarray(along_m, float), np.asarray(left_m, float))
        knots = np.arange(len(self.yaw)) * STEP_M
        x, y, yaw = (np.interp(along, knots, v) for v in (*self.xy.T, self.yaw))
        return np.stack([x - left * np.sin(yaw), y + left * np.cos(yaw), yaw], -1)

    def ribbon(self, start_m: float, end_m: float, right_m: float, left_m: float) -> Array:
        """Return the polygon (M, 2) between two offsets from the curve, counter-clockwise."""
        steps = max(2, int(np.ceil((end_m - start_m) / (2 * STEP_M))) + 1)
        along = np.linspace(start_m, end_m, steps)
        return np.concatenate(
            [self.at(along, right_m)[:, :2], self.at(along[::-1], left_m)[:, :2]]
        )


def make_route(rng: np.random.Generator, length_m: float, origin: tuple[float, float]) -> Route:
    """Return a gently winding route.

    Args:
        rng: source of the bends.
        length_m: its length.
        origin: (along, left) of the point that becomes the origin of odom, heading along x.
    """
    steps = int(np.ceil(length_m / STEP_M))
    along = (np.arange(steps) + 0.5) * STEP_M
    bend, phase = rng.uniform(0.6, 1.0), rng.uniform(0, 2 * np.pi, 2)
    wave = np.sin(along * (2 * np.pi / 210) + phase[0])
    curvature = bend * (wave / 170 + np.sin(along * (2 * np.pi / 95) + phase[1]) / 500)
    yaw = np.concatenate([[0.0], np.cumsum(curvature * STEP_M)])
    middle = (yaw[:-1] + yaw[1:]) / 2
    steps_xy = STEP_M * np.stack([np.cos(middle), np.sin(middle)], -1)
    route = Route(xy=np.concatenate([np.zeros((1, 2)), np.cumsum(steps_xy, 0)]), yaw=yaw)
    x, y, heading = route.at(*origin)
    c, s = np.cos(heading), np.sin(heading)
    turned = (route.xy - (x, y)) @ np.array([[c, -s], [s, c]])
    return Route(xy=turned, yaw=route.yaw - heading)
