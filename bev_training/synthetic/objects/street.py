"""What stands along streets: lamps, signs, traffic lights, barriers, cones and trees."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from bev_perception.shapes import Array
from bev_training.synthetic.objects.builder import Builder, ellipse, rectangle
from bev_training.synthetic.objects.mesh import Color, Mesh
from bev_training.synthetic.objects.trees import tree

__all__ = ['barrier', 'lamp_post', 'sign_post', 'traffic_cone', 'traffic_light', 'tree']

_STEEL: tuple[Color, ...] = (
    (0.52, 0.53, 0.54), (0.35, 0.36, 0.37), (0.16, 0.18, 0.18), (0.14, 0.22, 0.18),
)  # fmt: skip
_RED: Color = (0.74, 0.10, 0.09)
_WHITE: Color = (0.90, 0.90, 0.88)
_BLACK: Color = (0.07, 0.07, 0.08)


def barrier(rng: np.random.Generator) -> Mesh:
    """Return a road barrier, its length of 1.2 to 3 m along x: concrete, plastic or boards."""
    build = Builder()
    kind = rng.uniform()
    if kind < 0.4:
        half = float(rng.uniform(1.0, 1.5))
        tone = float(rng.uniform(0.5, 0.72))
        jersey = ((0.30, 0.0), (0.30, 0.08), (0.14, 0.33), (0.09, 0.81))
        rings = [rectangle(-half, half, -y, y, z) for y, z in jersey]
        sides = build.loft(rings, (tone, tone, 0.96 * tone), 'wall')
        for side in (sides[2][1], sides[2][3]):
            build.pane(side, _RED, 'reflector', (0.47, 0.53), (0.7, 0.85))
    elif kind < 0.75:
        half = float(rng.uniform(0.6, 1.0))
        color, other = (_RED, _WHITE) if rng.uniform() < 0.5 else (_WHITE, _RED)
        profile = (
            (0.24, 0.0),
            (0.24, 0.12),
            (0.12, 0.22),
            (0.10, 0.55),
            (0.13, 0.60),
            (0.11, 0.92),
        )
        rings = [rectangle(-half, half, -y, y, z) for y, z in profile]
        sides = build.loft(rings, color, 'matte')
        for side in (sides[2][1], sides[2][3], sides[4][1], sides[4][3]):
            build.pane(side, other, 'reflector', (0.35, 0.65), (0.1, 0.9), lift_m=0.008)
    else:
        half = float(rng.uniform(0.7, 1.2))
        for x in (-0.75 * half, 0.75 * half):
            build.box([x - 0.1, -0.27, 0.0], [x + 0.1, 0.27, 0.09], _BLACK, 'rubber')
            build.box([x - 0.03, -0.03, 0.09], [x + 0.03, 0.03, 1.0], _WHITE, 'metal')
        board = (
            rectangle(-half, half, -0.05, 0.05, 0.78),
            rectangle(-half, half, -0.05, 0.05, 1.02),
        )
        sides = build.loft(board, _WHITE, 'reflector')
        edges = np.linspace(0.0, 1.0, 8)
        for side in (sides[0][1], sides[0][3]):
            for i in range(0, 7, 2):
                build.pane(side, _RED, 'reflector', (edges[i], edges[i + 1]), lift_m=0.006)
    return build.mesh()


def traffic_cone(rng: np.random.Generator) -> Mesh:
    """Return a cone of 0.45 to 0.95 m."""
    height = float(rng.uniform(0.45, 0.95))
    foot = 0.21 * height + 0.06
    orange: Color = (0.92, float(rng.uniform(0.26, 0.38)), 0.08)
    build = Builder()
    build.box(
        [-foot, -foot, 0.0],
        [foot, foot, 0.035],
        _BLACK if rng.uniform() < 0.5 else orange,
        'rubber',
    )

    def ring(share: float) -> Array:
        radius = 0.86 * foot + share * (0.03 - 0.86 * foot)
        return ellipse([0.0, 0.0, 0.035 + share * (height - 0.035)], radius, radius, 10)

    for low, high, color, material in (
        (0.0, 0.36, orange, 'matte'), (0.36, 0.56, _WHITE, 'reflector'),
        (0.56, 0.70, orange, 'matte'), (0.70, 0.84, _WHITE, 'reflector'),
        (0.84, 1.0, orange, 'matte'),
    ):  # fmt: skip
        build.loft([ring(low), ring(high)], color, material, top=high == 1.0, bottom=False)
    return build.mesh()


def lamp_post(rng: np.random.Generator) -> Mesh:
    """Return a street lamp of 6 to 9 m whose arm reaches towards +y.

    The origin is the middle of the box, so the pole stands at the box's -y side, at x = 0.
    """
    height, reach = float(rng.uniform(6.0, 9.0)), float(rng.uniform(0.9, 2.2))
    color = _STEEL[int(rng.integers(len(_STEEL)))]
    build = Builder()
    build.tube([0, 0, 0], [0, 0, 0.9], (0.11, 0.10), color, 'metal', corners=8)
    curved = rng.uniform() < 0.5
    knee = height - (0.55 if curved else 0.08)
    build.tube([0, 0, 0.9], [0, 0, knee], (0.08, 0.05), color, 'metal', corners=6)
    points = [[0, 0, knee]]
    if curved:
        points += [[0, 0.22, height - 0.2], [0, 0.6, height - 0.08], [0, reach, height - 0.06]]
    else:
        points = [[0, -0.05, height - 0.16], [0, reach, height - 0.06]]
    for start, end in pairwise(points):
        build.tube(start, end, (0.045, 0.04), color, 'metal', corners=5)
    head = [
        rectangle(-0.11, 0.11, reach - 0.12, reach + 0.55, height - 0.11),
        rectangle(-0.13, 0.13, reach - 0.15, reach + 0.58, height - 0.07),
        rectangle(-0.07, 0.07, reach - 0.12, reach + 0.50, height),
    ]
    build.loft(head, color, 'metal', bottom=False)
    build.polygon(head[0][::-1], (0.95, 0.93, 0.82), 'lamp')
    return build.mesh()


def sign_post(rng: np.random.Generator) -> Mesh:
    """Return a traffic sign on a post of 2.2 to 3 m; its face looks to -x."""
    height = float(rng.uniform(2.2, 3.0))
    build = Builder()
    steel = _STEEL[0]
    build.tube([0, 0, 0], [0, 0, height], (0.035, 0.035), steel, 'metal', corners=6)
    plates = 2 if rng.uniform() < 0.25 else 1
    top = height
    for _ in range(plates):
        top = _plate(build, rng, top)
    return build.mesh()


def traffic_light(rng: np.random.Generator) -> Mesh:
    """Return a traffic light on a pole of 2.9 to 3.6 m; its lamps look to -x."""
    height = float(rng.uniform(2.9, 3.6))
    build = Builder()
    color = _STEEL[int(rng.integers(1, len(_STEEL)))]
    build.tube([0, 0, 0], [0, 0, height - 0.1], (0.07, 0.055), color, 'metal', corners=8)
    body = (0.09, 0.10, 0.10) if rng.uniform() < 0.7 else (0.72, 0.56, 0.12)
    low = height - 0.98
    build.box([-0.30, -0.15, low], [-0.08, 0.15, height], body, 'matte')
    if rng.uniform() < 0.6:  # a backplate
        build.box([-0.15, -0.26, low - 0.1], [-0.13, 0.26, height + 0.1], _BLACK, 'matte')
    lit = int(rng.integers(2)) * 2  # red or green
    angle = (np.arange(8) + 0.5) * (2 * np.pi / 8)
    colors = ((0.10, 0.80, 0.42), (0.90, 0.62, 0.10), (0.90, 0.10, 0.08))
    for number, bright in enumerate(colors):
        z = low + 0.17 + 0.32 * number
        disc = [np.full(8, -0.315), -0.105 * np.cos(angle), z + 0.105 * np.sin(angle)]
        shine = 1.0 if number == lit else 0.28
        material = 'lamp' if number == lit else 'glass'
        build.polygon(np.stack(disc, -1), np.array(bright) * shine, material)
        hood = rectangle(-0.45, -0.30, -0.12, 0.12, z + 0.115)
        build.loft([hood, hood + [0, 0, 0.015]], body, 'matte')
    if rng.uniform() < 0.6:  # for people on foot
        build.box([-0.08, 0.07, 2.0], [0.10, 0.27, 2.5], body, 'matte')
        build.signs(
            [-0.08, 0.27, 2.0], [0, -1, 0], [[0.04, 0.16, 0.3, 0.42]], (0.5, 0.06, 0.05), 'lamp'
        )
    return build.mesh()


def _plate(build: Builder, rng: np.random.Generator, top: float) -> float:
    """Add a sign whose upper edge is at `top`; return the next one's."""
    kind = str(rng.choice(['round', 'square', 'triangle', 'yield', 'octagon', 'direction']))
    half = float(rng.uniform(0.28, 0.36))
    corners, turn = {
        'round': (12, 0.0), 'square': (4, np.pi / 4), 'triangle': (3, np.pi / 2),
        'yield': (3, -np.pi / 2), 'octagon': (8, np.pi / 8), 'direction': (4, np.pi / 4),
    }[kind]  # fmt: skip
    angle = np.arange(corners) * (2 * np.pi / corners) + turn
    stretch = 1.7 if kind == 'direction' else 1.0
    outline = np.stack([0 * angle, -stretch * np.cos(angle), np.sin(angle)], -1) * half
    low, high = outline[:, 2].min(), outline[:, 2].max()
    middle = np.array([-0.05, 0.0, top - high])
    blue, red = (0.08, 0.24, 0.60), _RED
    rim, face = {
        'round': (red, _WHITE) if rng.uniform() < 0.6 else (blue, blue),
        'square': (_WHITE, blue), 'triangle': (red, _WHITE), 'yield': (red, _WHITE),
        'octagon': (_WHITE, red), 'direction': (_WHITE, (0.86, 0.70, 0.12)),
    }[kind]  # fmt: skip
    rings = [middle + [0.02, 0, 0] + outline, middle + outline]
    build.loft(rings, (0.45, 0.46, 0.47), 'metal', top=False)
    build.polygon(rings[1], rim, 'reflector')
    build.polygon(middle + [-0.008, 0, 0] + 0.76 * outline, face, 'reflector')
    mark = np.array([[0, 0.3, -0.08], [0, -0.3, -0.08], [0, -0.3, 0.12], [0, 0.3, 0.12]]) * half
    build.polygon(
        middle + [-0.016, 0, 0] + mark, _BLACK if face == _WHITE else _WHITE, 'reflector'
    )
    return float(top - (high - low) - 0.04)
