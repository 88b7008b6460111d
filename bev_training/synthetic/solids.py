"""Convex solids with flat-coloured faces: cars, houses, trees.

Every object is a `Shape` in its own frame: x forward (or along the street), y left, z up, origin
in the middle of its footprint on the ground. Metres; colours are RGB in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from bev_perception.shapes import Array, Index, Mask

CORNERS = 12  # corners per face; faces with fewer repeat their last one
Color = tuple[float, float, float]

_GLASS: Color = (0.16, 0.20, 0.25)
_RUBBER: Color = (0.07, 0.07, 0.08)
_RIM: Color = (0.50, 0.51, 0.53)


@dataclass(frozen=True, eq=False, kw_only=True)
class Shape:
    """A union of convex solids, as painted faces.

    Attributes:
        size_m: (length, width, height) of the bounding box, which is centred on the origin in x
            and y and stands on z = 0.
        faces: (F, CORNERS, 3) corners, counter-clockwise seen from outside, in painting order.
        colors: (F, 3).
        part: (F,) which solid a face belongs to.
        decal: (F,) True for paint on a face (windows, wheels), which bounds no solid.
    """

    size_m: tuple[float, float, float]
    faces: Array
    colors: Array
    part: Index
    decal: Mask

    @cached_property
    def half_spaces(self) -> list[tuple[Array, Array]]:
        """(normals (P, 3), offsets (P,)) per solid; inside is `normal @ point <= offset`."""
        edges = self.faces[:, 1:3] - self.faces[:, :1]
        normals = np.cross(edges[:, 0], edges[:, 1])
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        offsets = np.einsum('fi,fi->f', normals, self.faces[:, 0])
        solids = [(self.part == part) & ~self.decal for part in range(int(self.part.max()) + 1)]
        return [(normals[keep], offsets[keep]) for keep in solids]


@dataclass
class _Builder:
    """Collects faces in painting order."""

    faces: list[Array] = field(default_factory=list)
    colors: list[Color] = field(default_factory=list)
    part: list[int] = field(default_factory=list)
    decal: list[bool] = field(default_factory=list)
    parts: int = 0

    def face(self, corners: Array, color: Color, *, decal: bool) -> None:
        padding = np.repeat(corners[-1:], CORNERS - len(corners), axis=0)
        self.faces.append(np.concatenate([corners, padding]))
        self.colors.append(color)
        self.part.append(self.parts - 1)
        self.decal.append(decal)

    def solid(self, rings: list[Array], color: Color, cap: Color | None = None) -> list[Array]:
        """Add the convex solid between horizontal rings of equally many corners, bottom to top.

        Returns:
            Its side faces, each (4, 3) from bottom left, seen from outside.
        """
        self.parts += 1
        sides = [
            np.stack([low[i], low[i - len(low) + 1], high[i - len(low) + 1], high[i]])
            for low, high in pairwise(rings)
            for i in range(len(low))
        ]
        for side in sides:
            self.face(side, color, decal=False)
        self.face(rings[-1], cap or color, decal=False)
        self.face(rings[0][::-1], color, decal=False)
        return sides

    def pane(
        self, side: Array, color: Color, u: tuple[float, float], v: tuple[float, float]
    ) -> None:
        """Paint a rectangle on a side face; u runs right and v up, both 0..1."""

        def at(a: float, b: float) -> Array:
            low = side[0] + (side[1] - side[0]) * a
            high = side[3] + (side[2] - side[3]) * a
            return low + (high - low) * b

        quad = np.stack([at(u[0], v[0]), at(u[1], v[0]), at(u[1], v[1]), at(u[0], v[1])])
        self.face(quad, color, decal=True)

    def shape(self, size_m: tuple[float, float, float]) -> Shape:
        return Shape(
            size_m=size_m,
            faces=np.stack(self.faces),
            colors=np.array(self.colors),
            part=np.array(self.part),
            decal=np.array(self.decal),
        )


def _rectangle(x0: float, x1: float, y0: float, y1: float, z: float) -> Array:
    """Ring whose sides face, in this order, +x, +y, -x, -y."""
    return np.array([[x1, y0, z], [x1, y1, z], [x0, y1, z], [x0, y0, z]])


def _circle(radius: float, z: float, corners: int = 8) -> Array:
    angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(corners, z)], -1)


def car(kind: str, color: Color) -> Shape:
    """Return a car: 'sedan', 'hatch', 'suv', 'van' or 'truck'."""
    length, width, height, sill, x0, x1, top0, top1 = {
        # sill: bottom of the windows; cabin from x0 to x1, its roof from top0 to top1 (of length)
        'sedan': (4.65, 1.82, 1.46, 0.92, -0.44, 0.24, -0.28, 0.04),
        'hatch': (4.05, 1.78, 1.50, 0.94, -0.49, 0.24, -0.42, 0.05),
        'suv': (4.70, 1.90, 1.72, 1.06, -0.49, 0.24, -0.44, 0.08),
        'van': (5.20, 1.98, 2.10, 1.15, -0.50, 0.36, -0.49, 0.24),
        'truck': (8.20, 2.40, 3.20, 1.20, 0.24, 0.48, 0.24, 0.44),
    }[kind]
    x, y = length / 2, width / 2
    build = _Builder()
    body = build.solid(
        [
            _rectangle(-x + 0.08, x - 0.08, -y + 0.06, y - 0.06, 0.22),
            _rectangle(-x, x, -y, y, 0.48),
            _rectangle(-x + 0.04, x - 0.10, -y + 0.05, y - 0.05, sill),
        ],
        color,
    )
    front, left, rear, right = body[4:]
    for low in body[:4]:  # the dark skirt around the bottom
        build.pane(low, (0.12, 0.12, 0.13), (0, 1), (0, 0.55))
    for u in ((0.03, 0.24), (0.76, 0.97)):
        build.pane(front, (0.93, 0.93, 0.86), u, (0.42, 0.72))
        build.pane(rear, (0.62, 0.05, 0.05), u, (0.45, 0.85))
    build.pane(front, (0.10, 0.10, 0.11), (0.3, 0.7), (0.25, 0.6))
    build.pane(rear, (0.85, 0.85, 0.80), (0.38, 0.62), (0.2, 0.42))
    for side, sign in ((left, 1), (right, -1)):
        build.pane(side, _scaled(color, 0.6), (0.46, 0.465), (0.05, 0.95))
        for wheel_x in (-0.31 * length, 0.31 * length):
            center = np.array([wheel_x, sign * y, 0.33])
            for radius, paint in ((0.33, _RUBBER), (0.19, _RIM)):
                circle = _circle(radius, 0.0, CORNERS)[::sign]
                build.face(center + circle[:, [0, 2, 1]][::-1], paint, decal=True)
    inset = 0.08
    cabin = build.solid(
        [
            _rectangle(x0 * length, x1 * length, -y + inset, y - inset, sill),
            _rectangle(top0 * length, top1 * length, -y + 0.26, y - 0.26, height),
        ],
        color,
    )
    for side in (cabin[0], cabin[2]):
        build.pane(side, _GLASS, (0.07, 0.93), (0.1, 0.9))
    for side in (cabin[1], cabin[3]):
        for u in ((0.08, 0.47), (0.53, 0.92)):
            build.pane(side, _GLASS, u, (0.12, 0.86))
    if kind == 'truck':
        build.solid(
            [_rectangle(-x, 0.22 * length, -y, y, z) for z in (sill, height)], _light(color)
        )
    return build.shape((length, width, height))


def _scaled(color: Color, by: float) -> Color:
    r, g, b = color
    return (by * r, by * g, by * b)


def _light(color: Color) -> Color:
    r, g, b = color
    return (0.55 + 0.4 * r, 0.55 + 0.4 * g, 0.55 + 0.4 * b)


def house(
    length: float, depth: float, floors: int, wall: Color, roof: Color, shade: Array
) -> Shape:
    """Return a house, its front at -y.

    Args:
        length: metres along x.
        depth: metres along y.
        floors: storeys of 3 m; up to three get a hipped roof, higher ones a flat one.
        wall: colour of the walls.
        roof: colour of the roof.
        shade: numbers in 0..1 that vary the windows.
    """
    x, y, eaves = length / 2, depth / 2, 3.0 * floors + 0.6
    build = _Builder()
    rings = [_rectangle(-x, x, -y, y, z) for z in (0.0, eaves)]
    front_last = build.solid(rings, wall, roof)
    height = eaves
    for number, side in enumerate(front_last):
        build.pane(side, _scaled(wall, 0.72), (0, 1), (0, 0.55 / eaves))
        columns = max(2, int((length if number % 2 else depth) / 2.4))
        for floor in range(floors):
            low = 3.0 * floor + 1.2
            for column in range(columns):
                u = (column + 0.5) / columns
                half = 0.6 / (length if number % 2 else depth)
                dim = 0.75 + 0.5 * float(shade[(7 * floor + 3 * column + number) % len(shade)])
                if number == 3 and floor == 0 and column == columns // 2:
                    build.pane(side, (0.30, 0.19, 0.12), (u - half, u + half), (0, 2.3 / eaves))
                    continue
                pane = _scaled((0.24, 0.30, 0.37), dim)
                build.pane(
                    side,
                    (0.86, 0.86, 0.84),
                    (u - 1.2 * half, u + 1.2 * half),
                    ((low - 0.12) / eaves, (low + 1.62) / eaves),
                )
                build.pane(side, pane, (u - half, u + half), (low / eaves, (low + 1.5) / eaves))
    if floors <= 3:
        height = eaves + 0.32 * depth
        ridge = _rectangle(-x + 0.35 * depth, x - 0.35 * depth, -0.05, 0.05, height)
        build.solid([_rectangle(-x, x, -y, y, eaves), ridge], roof)
    return build.shape((length, depth, height))


def tree(height: float, radius: float, color: Color, *, conifer: bool) -> Shape:
    """Return a tree: an eight-sided trunk and crown."""
    build = _Builder()
    trunk = 0.28 * height if not conifer else 0.14 * height
    build.solid([_circle(0.16, 0.0), _circle(0.11, trunk)], (0.29, 0.22, 0.16))
    profile = (
        ((0.0, 1.0), (1.0, 0.03))
        if conifer
        else ((0.0, 0.45), (0.22, 0.88), (0.5, 1.0), (0.78, 0.72), (1.0, 0.22))
    )
    crown = [_circle(radius * r, trunk + (height - trunk) * z) for z, r in profile]
    build.solid(crown, color)
    wide = 2 * radius * float(np.cos(np.pi / 8))
    return build.shape((wide, wide, height))
