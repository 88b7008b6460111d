"""The height of the ground: a sum of long waves, so that no slope exceeds a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import Array, Rigid

LATTICE_M = 2.0  # what is rendered is the height at these steps, joined by triangles
WAVELENGTHS_M = (150.0, 420.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Terrain:
    """Height over the map's plane.

    Attributes:
        waves: (W, 4) amplitude_m, wave number along x and y in rad/m, phase.
    """

    waves: Array

    def height_m(self, xy: npt.ArrayLike) -> Array:
        """Return the height (...) of the ground at (..., 2), metres."""
        amplitude, kx, ky, phase = self.waves.T
        x, y = np.moveaxis(np.asarray(xy, float), -1, 0)
        angle = x[..., None] * kx + y[..., None] * ky + phase
        height: Array = (amplitude * np.sin(angle)).sum(-1)
        return height

    def slope(self, xy: npt.ArrayLike) -> Array:
        """Return (..., 2): how fast the height grows along x and y."""
        amplitude, kx, ky, phase = self.waves.T
        x, y = np.moveaxis(np.asarray(xy, float), -1, 0)
        steep = amplitude * np.cos(x[..., None] * kx + y[..., None] * ky + phase)
        return np.stack([(steep * kx).sum(-1), (steep * ky).sum(-1)], -1)

    def pose(self, xy: npt.ArrayLike, yaw: npt.ArrayLike, *, upright: bool = False) -> Rigid:
        """Return map_T_body (..., 4, 4) of a body that stands on the ground.

        Args:
            xy: (..., 2) where.
            yaw: (...) heading in the horizontal plane, radians, 0 = x.
            upright: z points up; otherwise it is normal to the ground.
        """
        at, heading = np.asarray(xy, float), np.asarray(yaw, float)
        ahead = np.stack([np.cos(heading), np.sin(heading)], -1)
        slope = np.zeros_like(at) if upright else self.slope(at)
        climb = (slope * ahead).sum(-1)
        x = np.concatenate([ahead, climb[..., None]], -1)
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        z = np.concatenate([-slope, np.ones_like(climb)[..., None]], -1)
        z /= np.linalg.norm(z, axis=-1, keepdims=True)
        pose = np.zeros((*climb.shape, 4, 4))
        pose[..., :3, 0], pose[..., :3, 1], pose[..., :3, 2] = x, np.cross(z, x), z
        pose[..., :2, 3], pose[..., 2, 3], pose[..., 3, 3] = at, self.height_m(at), 1
        return pose


def make_terrain(rng: np.random.Generator, max_grade: float, waves: int = 5) -> Terrain:
    """Return terrain whose slope never exceeds `max_grade` (0.04 = 4 %), in any direction."""
    length = rng.uniform(*WAVELENGTHS_M, waves)
    heading, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    k = 2 * np.pi / length
    share = rng.dirichlet(np.full(waves, 3.0)) * max_grade * rng.uniform(0.7, 1.0)
    return Terrain(
        waves=np.stack([share / k, k * np.cos(heading), k * np.sin(heading), phase], -1)
    )
