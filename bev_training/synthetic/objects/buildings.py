"""Houses, blocks of flats and shops."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import Array
from bev_training.synthetic.objects.builder import Builder, mixed, rectangle, shaded
from bev_training.synthetic.objects.look import Look, draw_look
from bev_training.synthetic.objects.mesh import Color, Mesh
from bev_training.synthetic.objects.roofs import PANE, roof
from bev_training.synthetic.objects.style import Style, chosen

_MOST_QUADS = 180  # of all windows
_MOST_BALCONIES = 12
_LOOSE = {'front': 1.0, 'right': 1.35, 'back': 1.15, 'left': 1.35}  # spacing of windows
_MIN_M = 4.0


@dataclass(frozen=True, eq=False, kw_only=True)
class _Wall:
    """One side of the house; `corner` is its lower left one seen from outside."""

    corner: Array
    along: Array
    width_m: float

    def sign(
        self,
        build: Builder,
        spans: Array | list[list[float]],
        color: Color | Array,
        material: str,
        lift_m: float,
    ) -> None:
        """Lay rectangles (N, 4) left, right, bottom, top on it."""
        build.signs(self.corner, self.along, spans, color, material, lift_m=lift_m)

    def box(
        self, build: Builder, span: list[float], out_m: float, color: Color, material: str
    ) -> None:
        """Add a box that sticks out of it over a span left, right, bottom, top."""
        normal = np.cross(self.along, [0.0, 0.0, 1.0])
        a = self.corner + self.along * span[0] + [0.0, 0.0, span[2]]
        b = self.corner + self.along * span[1] + [0.0, 0.0, span[3]] + normal * out_m
        build.box(np.minimum(a, b), np.maximum(a, b), color, material)


def building(rng: np.random.Generator, length_m: float, depth_m: float, style: Style) -> Mesh:
    """Return a building that fills its footprint; its front looks to local -y.

    Args:
        rng: source of all choices.
        length_m: along x, at least 4.
        depth_m: along y, at least 4.
        style: the town's taste.

    Raises:
        ConfigError: the footprint is too small.
    """
    for name, value in (('length_m', length_m), ('depth_m', depth_m)):
        if not value >= _MIN_M:
            raise ConfigError(f'building {name} {value}: must be at least {_MIN_M:g}')
    look = draw_look(rng, length_m, depth_m, style)
    build = Builder()
    end = 0.12 if look.roof == 'flat' else 0.3
    side = 0.10 if look.roof == 'gabled' and length_m >= depth_m else end
    front = 1.05 if look.balconies else 0.8 if look.shop else max(end, 0.2)
    x0, x1 = -length_m / 2 + side, length_m / 2 - side
    y0, y1 = -depth_m / 2 + front, depth_m / 2 - end
    rings = [rectangle(x0, x1, y0, y1, z) for z in (0.0, look.eaves_m)]
    build.loft(rings, look.wall, 'wall', top=False)
    if front > 0.5:  # paving, so that the box has the footprint's size in any case
        build.box([x0, -depth_m / 2, 0], [x1, y0, 0.06], (0.5, 0.5, 0.49), 'wall')
    walls = {
        name: _Wall(corner=rings[0][i], along=np.array(along), width_m=width)
        for name, i, along, width in (
            ('front', 3, [1.0, 0, 0], x1 - x0), ('right', 0, [0, 1.0, 0], y1 - y0),
            ('back', 1, [-1.0, 0, 0], x1 - x0), ('left', 2, [0, -1.0, 0], y1 - y0),
        )
    }  # fmt: skip
    columns, window_m = _layout(walls, look)
    spots = columns['front'] if len(columns['front']) else np.array([(x1 - x0) / 2])
    door = int(rng.integers(len(spots)))
    _ground_floor(build, rng, walls, look, front, float(spots[door]))
    _windows(build, rng, walls, look, columns, window_m, door)
    if look.balconies:
        _balconies(build, rng, walls['front'], look, columns['front'], front)
    roof_color = chosen(rng, style.flat_roofs if look.roof == 'flat' else style.roofs)
    box = (-length_m / 2, length_m / 2, y0 - 0.3 if front > 0.5 else -depth_m / 2, depth_m / 2)
    roof(build, rng, box, look, roof_color)
    return build.mesh()


def _layout(walls: dict[str, _Wall], look: Look) -> tuple[dict[str, Array], tuple[float, float]]:
    """Return the middles of the windows along each wall, and their size.

    On large houses they are fewer and wider.
    """
    spacing, (width, height) = look.spacing_m, look.window_m
    while True:
        columns = {
            name: _middles(wall.width_m, width, _LOOSE[name] * spacing)
            for name, wall in walls.items()
        }
        quads = sum(map(len, columns.values())) + look.front_quads * len(columns['front'])
        if quads * look.floors <= _MOST_QUADS:
            break
        spacing *= 1.12
    return columns, (width * min(spacing / look.spacing_m, 1.6), height)


def _middles(width_m: float, window_m: float, spacing_m: float) -> Array:
    if width_m < window_m + 0.8:
        return np.zeros(0)
    count = max(int((width_m - 0.5) / spacing_m), 1)
    middles: Array = np.linspace(0.5, count - 0.5, count) * (width_m / count)
    return middles


def _ground_floor(
    build: Builder,
    rng: np.random.Generator,
    walls: dict[str, _Wall],
    look: Look,
    front: float,
    at: float,
) -> None:
    """Add plinth, door (its middle at `at`) or shop windows."""
    dark = mixed(shaded(look.ground, 0.6), (0.35, 0.34, 0.33), 0.4)
    top = look.plinth_m + look.floor_m
    for wall in walls.values():
        if look.ground != look.wall:
            wall.sign(build, [[0, wall.width_m, 0, top]], look.ground, 'wall', 0.012)
        wall.sign(build, [[0, wall.width_m, 0, look.plinth_m]], dark, 'wall', 0.02)
    facade = walls['front']
    width = facade.width_m
    if look.shop:
        bays = max(int(width / 3.4), 2)
        door = int(rng.integers(bays))
        edges = np.linspace(0.15, width - 0.15, bays + 1)
        high = look.plinth_m + 0.82 * look.floor_m
        facade.sign(build, [[0.05, width - 0.05, 0, high]], shaded(look.trim, 0.8), 'wall', 0.028)
        panes = [
            [a + 0.12, b - 0.12, 0.08 if i == door else 0.55, high - 0.08]
            for i, (a, b) in enumerate(pairwise(edges))
        ]
        facade.sign(build, panes, _glazing(rng, bays) * 0.8, 'window', 0.04)
        facade.sign(
            build,
            [[edges[door] + 0.5, edges[door + 1] - 0.5, 0.02, high - 0.35]],
            look.accent,
            'paint',
            0.052,
        )
        facade.box(build, [0.05, width - 0.05, high, top - 0.02], 0.12, look.accent, 'wall')
        letters = np.sort(rng.uniform(0.15, 0.85, 2)) * width
        if letters[1] - letters[0] > 0.8:
            light = mixed(look.accent, (0.95, 0.95, 0.9), 0.75)
            facade.sign(build, [[*letters, high + 0.1, top - 0.12]], light, 'matte', 0.135)
        if rng.uniform() < 0.6:
            _awning(build, facade, (0.2, width - 0.2), high + 0.06, front - 0.05, look)
        return
    facade.sign(build, [[at - 0.72, at + 0.72, 0, 2.45]], look.trim, 'wall', 0.032)
    facade.sign(build, [[at - 0.55, at + 0.55, 0, 2.2]], look.accent, 'paint', 0.045)
    facade.sign(build, [[at - 0.4, at + 0.4, 2.22, 2.4]], PANE, 'window', 0.045)
    reach = min(front, 0.9)
    facade.box(
        build, [at - 0.9, at + 0.9, 0, min(0.3, look.plinth_m)], reach, (0.5, 0.5, 0.49), 'wall'
    )
    if reach > 0.5 and rng.uniform() < 0.5:
        facade.box(build, [at - 0.9, at + 0.9, 2.55, 2.68], reach, look.trim, 'wall')


def _awning(
    build: Builder, wall: _Wall, span: tuple[float, float], z: float, out_m: float, look: Look
) -> None:
    """Add a slanting awning over a shop window."""
    normal = np.cross(wall.along, [0.0, 0.0, 1.0])
    left, right = (wall.corner + wall.along * x + normal * 0.12 for x in span)
    out, low = normal * (out_m - 0.12), np.array([0.0, 0.0, z - 0.45])
    up = np.array([0.0, 0.0, z])
    ring = [left + low + out, right + low + out, right + up, left + up]
    under = [corner - [0, 0, 0.05] for corner in ring]
    build.loft([under, ring], look.accent, 'cloth')


def _glazing(rng: np.random.Generator, count: int) -> Array:
    """Return colours (N, 3) of panes: the sky in some, curtains behind others."""
    colors = np.array(PANE) * rng.uniform(0.55, 1.5, (count, 1)) + rng.normal(0, 0.008, (count, 3))
    curtains = rng.uniform(size=count) < 0.16
    colors[curtains] = np.array([0.56, 0.53, 0.47]) * rng.uniform(
        0.7, 1.1, (int(curtains.sum()), 1)
    )
    return np.clip(colors, 0.03, 0.9)


def _windows(
    build: Builder,
    rng: np.random.Generator,
    walls: dict[str, _Wall],
    look: Look,
    columns: dict[str, Array],
    window_m: tuple[float, float],
    door: int,
) -> None:
    """Add windows (none where the door is), frames and shutters in front, and cornices."""
    width, height = window_m
    for name, wall in walls.items():
        middles = columns[name]
        shop = name == 'front' and look.shop
        floor, column = np.meshgrid(np.arange(look.floors), np.arange(len(middles)), indexing='ij')
        keep = floor >= int(shop)
        if name == 'front':
            keep &= (floor > 0) | (column != door)
        x, z = middles[column[keep]], look.sill_m(0) + look.floor_m * floor[keep]
        spans = np.stack([x - width / 2, x + width / 2, z, z + height], -1)
        if name == 'front':
            wall.sign(build, spans + [-0.09, 0.09, -0.12, 0.08], look.trim, 'wall', 0.018)
        wall.sign(build, spans, _glazing(rng, len(spans)), 'window', 0.03)
        if name == 'front' and look.bars:
            bars = np.stack([x - 0.03, x + 0.03, z, z + height], -1)
            wall.sign(build, bars, look.trim, 'wall', 0.036)
        if name == 'front' and look.shutters:
            for edge in (x - 0.76 * width - 0.09, x + 0.5 * width + 0.09):
                leaf = np.stack([edge, edge + 0.26 * width, z - 0.04, z + height + 0.04], -1)
                wall.sign(build, leaf, look.accent, 'paint', 0.03)
    if look.cornices:
        for number in range(1, look.floors + 1):
            z_m = look.plinth_m + number * look.floor_m
            if number == 1 or rng.uniform() < 0.5:
                band = [0.0, walls['front'].width_m, z_m - 0.12, z_m + 0.06]
                walls['front'].box(build, band, 0.09, look.trim, 'wall')


def _balconies(
    build: Builder,
    rng: np.random.Generator,
    wall: _Wall,
    look: Look,
    middles: Array,
    reach: float,
) -> None:
    """Add up to about a dozen balconies above each other."""
    stacks = middles[int(rng.integers(2)) :: int(rng.integers(2, 4))]
    stacks = stacks[: max(_MOST_BALCONIES // look.floors, 1)]
    half = min(look.window_m[0] / 2 + 0.5, 0.46 * wall.width_m / max(len(middles), 1))
    rail = mixed(look.wall, look.trim, 0.7)
    for floor in range(1, look.floors):
        z = look.plinth_m + floor * look.floor_m
        for x in stacks:
            wall.box(build, [x - half, x + half, z - 0.14, z + 0.0], reach, look.trim, 'wall')
            wall.box(
                build, [x - half + 0.04, x + half - 0.04, z, z + 0.92], reach - 0.04, rail, 'wall'
            )
            # paint on its top: from above one looks into it
            low, high = wall.corner[0] + x - half + 0.1, wall.corner[0] + x + half - 0.1
            y, top = wall.corner[1], z + 0.93
            inside = rectangle(low, high, y - reach + 0.14, y, top)
            build.polygon(inside, shaded(look.wall, 0.45), 'wall')
