"""Collects triangles into a `Mesh`.

Rings are (N, 3) corners of a polygon, counter-clockwise seen from its outer side. Faces come out
counter-clockwise seen from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import Array, Index
from bev_training.synthetic.categories import MATERIAL_ID
from bev_training.synthetic.objects.mesh import Color, Mesh

_MIN_AREA_M2 = 2e-7


class Builder:
    """A growing heap of flat-coloured triangles."""

    def __init__(self) -> None:
        self._corners: list[Array] = []  # (F, 3, 3) each
        self._colors: list[Array] = []
        self._materials: list[npt.NDArray[np.uint8]] = []

    def triangles(self, corners: Array, color: npt.ArrayLike, material: str) -> None:
        """Add triangles (F, 3, 3); `color` is (3,) or (F, 3)."""
        self._corners.append(corners)
        self._colors.append(np.broadcast_to(np.asarray(color, float), (len(corners), 3)))
        self._materials.append(np.full(len(corners), MATERIAL_ID[material], np.uint8))

    def polygon(self, corners: npt.ArrayLike, color: npt.ArrayLike, material: str) -> None:
        """Add a convex polygon (N, 3)."""
        ring = np.asarray(corners, float)
        last = len(ring) - 1
        fan = np.stack([np.broadcast_to(ring[:1], (last - 1, 3)), ring[1:-1], ring[2:]], 1)
        self.triangles(fan, color, material)

    def quads(self, corners: Array, color: npt.ArrayLike, material: str) -> None:
        """Add quads (Q, 4, 3); `color` is (3,) or (Q, 3)."""
        colors = np.broadcast_to(np.asarray(color, float), (len(corners), 3))
        split = corners[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 3)
        self.triangles(split, np.repeat(colors, 2, axis=0), material)

    def loft(
        self,
        rings: Sequence[npt.ArrayLike],
        color: npt.ArrayLike,
        material: str,
        *,
        top: bool = True,
        bottom: bool = True,
    ) -> list[Array]:
        """Add the sides between rings of equally many corners, bottom to top, and caps.

        Returns:
            Per pair of rings (N, 4, 3): side i, between corners i and i + 1, from its bottom left
            corner seen from outside.
        """
        loops = [np.asarray(ring, float) for ring in rings]
        sides = []
        for low, high in pairwise(loops):
            following = [np.roll(ring, -1, axis=0) for ring in (low, high)]
            sides.append(np.stack([low, following[0], following[1], high], 1))
            self.quads(sides[-1], color, material)
        if top:
            self.polygon(loops[-1], color, material)
        if bottom:
            self.polygon(loops[0][::-1], color, material)
        return sides

    def box(
        self, low: npt.ArrayLike, high: npt.ArrayLike, color: npt.ArrayLike, material: str
    ) -> Array:
        """Add a box between two corners; return its sides (4, 4, 3): front, left, rear, right."""
        (x0, y0, z0), (x1, y1, z1) = np.asarray(low, float), np.asarray(high, float)
        rings = [rectangle(x0, x1, y0, y1, z) for z in (z0, z1)]
        return self.loft(rings, color, material)[0]

    def tube(
        self,
        start: npt.ArrayLike,
        end: npt.ArrayLike,
        radii_m: tuple[float, float],
        color: npt.ArrayLike,
        material: str,
        *,
        corners: int = 6,
        caps: bool = True,
    ) -> None:
        """Add a (tapered) bar with a round section from one point to another."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        axis = (b - a) / np.linalg.norm(b - a)
        across = np.cross(axis, [0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0])
        across /= np.linalg.norm(across)
        angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
        circle = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(axis, across)
        rings = [a + radii_m[0] * circle, b + radii_m[1] * circle]
        self.loft(rings, color, material, top=caps, bottom=caps)

    def blob(
        self,
        middle: npt.ArrayLike,
        radii_m: npt.ArrayLike,
        color: npt.ArrayLike,
        material: str,
        *,
        lumps: npt.ArrayLike = 1.0,
    ) -> None:
        """Add an ellipsoid of 80 triangles; `lumps` (42,) scales its corners, `color` (80, 3)."""
        points, faces = icosphere()
        scale = np.broadcast_to(np.asarray(lumps, float), (len(points),))[:, None]
        corners = np.asarray(middle, float) + points * scale * np.asarray(radii_m, float)
        self.triangles(corners[faces], color, material)

    def pane(
        self,
        side: Array,
        color: npt.ArrayLike,
        material: str,
        u: tuple[float, float] = (0.0, 1.0),
        v: tuple[float, float] = (0.0, 1.0),
        *,
        lift_m: float = 0.015,
    ) -> None:
        """Lay paint on a side (4, 3) of `loft`; u runs right and v up, both 0..1."""
        (u0, u1), (v0, v1) = u, v
        at = np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])
        low = side[0] + (side[1] - side[0]) * at[:, :1]
        high = side[3] + (side[2] - side[3]) * at[:, :1]
        quad = low + (high - low) * at[:, 1:]
        normal = np.cross(quad[2] - quad[0], quad[3] - quad[1])
        quad = quad + lift_m * normal / np.linalg.norm(normal)
        self.quads(quad[None], color, material)

    def signs(
        self,
        corner: npt.ArrayLike,
        along: npt.ArrayLike,
        rectangles: npt.ArrayLike,
        color: npt.ArrayLike,
        material: str,
        *,
        lift_m: float = 0.015,
    ) -> None:
        """Lay upright rectangles on a vertical wall.

        Args:
            corner: (3,) the wall's lower left corner, seen from outside.
            along: (3,) unit vector to its right, seen from outside.
            rectangles: (N, 4) left, right, bottom, top, metres from the corner.
            color: (3,) or (N, 3).
            material: of `categories.MATERIALS`.
            lift_m: distance from the wall.
        """
        spans = np.asarray(rectangles, float).reshape(-1, 4)
        right = np.asarray(along, float)
        up = np.array([0.0, 0.0, 1.0])
        base = np.asarray(corner, float) + lift_m * np.cross(right, up)
        x, z = spans[:, [0, 1, 1, 0], None], spans[:, [2, 2, 3, 3], None]
        self.quads(base + x * right + z * up, color, material)

    def mesh(self) -> Mesh:
        """Return everything as one mesh, moved to the middle of its box and onto z = 0."""
        corners = np.concatenate(self._corners)
        colors, materials = np.concatenate(self._colors), np.concatenate(self._materials)
        low, high = corners.min((0, 1)), corners.max((0, 1))
        moved = corners - [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]
        edges = moved[:, 1:] - moved[:, :1]
        area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1) / 2
        keep = area > _MIN_AREA_M2
        points = moved[keep].reshape(-1, 3).astype(np.float32)
        vertices, at = np.unique(points, axis=0, return_inverse=True)
        return Mesh(
            vertices=vertices,
            triangles=at.reshape(-1, 3).astype(np.int32),
            colors=np.clip(colors[keep], 0, 1).astype(np.float32),
            materials=materials[keep],
        )


def rectangle(x0: float, x1: float, y0: float, y1: float, z: float) -> Array:
    """Return a level ring (4, 3) whose sides face, in this order, +x, +y, -x, -y."""
    return np.array([[x1, y0, z], [x1, y1, z], [x0, y1, z], [x0, y0, z]])


def ellipse(
    middle: npt.ArrayLike, radius_x_m: float, radius_y_m: float, corners: int = 8
) -> Array:
    """Return a level ring (N, 3) around a middle."""
    angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    offset = [radius_x_m * np.cos(angle), radius_y_m * np.sin(angle), np.zeros(corners)]
    return np.asarray(middle, float) + np.stack(offset, -1)


def shaded(color: Color, by: float) -> Color:
    """Return a colour made darker (by < 1) or lighter."""
    r, g, b = (min(max(by * part, 0.0), 1.0) for part in color)
    return (r, g, b)


def mixed(color: Color, other: Color, share: float) -> Color:
    """Return `share` of the other colour mixed in."""
    r, g, b = (a + share * (c - a) for a, c in zip(color, other, strict=True))
    return (r, g, b)


@cache
def icosphere() -> tuple[Array, Index]:
    """Return unit points (42, 3) and faces (80, 3) of a ball."""
    ring = np.arange(5) * (2 * np.pi / 5)
    high, flat = 1 / np.sqrt(5), 2 / np.sqrt(5)
    upper = np.stack([flat * np.cos(ring), flat * np.sin(ring), np.full(5, high)], -1)
    turned = ring + np.pi / 5
    lower = np.stack([flat * np.cos(turned), flat * np.sin(turned), np.full(5, -high)], -1)
    points = [np.array([0.0, 0.0, 1.0]), *upper, *lower, np.array([0.0, 0.0, -1.0])]
    faces = []
    for i in range(5):
        j = (i + 1) % 5
        a, b, c, d = 1 + i, 1 + j, 6 + i, 6 + j
        faces += [(0, a, b), (a, c, b), (b, c, d), (11, d, c)]
    halves: dict[tuple[int, int], int] = {}

    def half(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in halves:
            middle = points[a] + points[b]
            points.append(middle / np.linalg.norm(middle))
            halves[key] = len(points) - 1
        return halves[key]

    fine = []
    for p, q, r in faces:
        pq, qr, rp = half(p, q), half(q, r), half(r, p)
        fine += [(p, pq, rp), (q, qr, pq), (r, rp, qr), (pq, qr, rp)]
    return np.stack(points), np.array(fine)
