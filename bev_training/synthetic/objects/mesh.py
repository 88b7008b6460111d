"""Triangle meshes of objects, in their own frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import AnyArray, Array

Color = tuple[float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mesh:
    """A closed or open surface of flat-coloured triangles.

    The frame: x forward, y left, z up, origin on the ground in the middle of the bounding box
    of the footprint. Everything lies inside the box of `size_m` that stands on z = 0, centred in
    x and y, and touches its sides.

    Attributes:
        vertices: (V, 3) float32, metres.
        triangles: (F, 3) int32, counter-clockwise seen from outside.
        colors: (F, 3) float32 albedo in 0..1, sRGB (as a colour picker shows it).
        materials: (F,) uint8, positions in `categories.MATERIALS`.
        size_m: (length, width, height).
    """

    vertices: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int32]
    colors: npt.NDArray[np.float32]
    materials: npt.NDArray[np.uint8]

    @property
    def size_m(self) -> tuple[float, float, float]:
        """(length, width, height) of the bounding box."""
        x, y, z = np.abs(self.vertices).max(0).tolist()
        return 2 * x, 2 * y, z

    def placed(self, map_T_body: Array) -> AnyArray:
        """Return the vertices (V, 3) float32 in the map."""
        points = self.vertices @ map_T_body[:3, :3].T + map_T_body[:3, 3]
        return np.asarray(points, np.float32)
