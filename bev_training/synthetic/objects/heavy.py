"""Trucks, buses and trailers."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from itertools import pairwise

import numpy as np

from bev_perception.shapes import Array
from bev_training.synthetic.objects.builder import Builder, mixed, rectangle, shaded
from bev_training.synthetic.objects.cars import DARK, GLASS, LAMP, PLATE, RIM, TAIL, wheel
from bev_training.synthetic.objects.mesh import Color, Mesh
from bev_training.synthetic.objects.style import Style, paint

_FRAME: Color = (0.17, 0.17, 0.18)
_WHITE: Color = (0.88, 0.88, 0.87)


def truck(rng: np.random.Generator, style: Style) -> Mesh:
    """Return a box truck, a flatbed or a tipper of 6 to 10 m."""
    length, width = float(rng.uniform(6.0, 9.8)), float(rng.uniform(2.35, 2.55))
    y, front, rear = width / 2, length / 2, -length / 2
    cab_height = float(rng.uniform(2.6, 3.1))
    cab = front - float(rng.uniform(1.7, 2.2))
    color = paint(rng, style)
    build = Builder()
    _cab(build, (cab, front), y - 0.08, cab_height, color)
    build.box([rear + 0.1, -0.42, 0.55], [cab, 0.42, 0.95], _FRAME, 'metal')
    kind = str(rng.choice(['box', 'flatbed', 'tipper'], p=[0.6, 0.2, 0.2]))
    bed = cab - 0.12
    if kind == 'box':
        top = float(rng.uniform(3.0, 3.8))
        _cargo_box(build, rng, (rear, bed), y, (0.98, top), _box_color(rng, style))
    elif kind == 'flatbed':
        board = mixed(color, (0.5, 0.5, 0.5), 0.5)
        build.box([rear, -y, 0.96], [bed, y, 1.14], board, 'metal')
        build.box([bed - 0.08, -y, 1.14], [bed, y, 2.1], board, 'metal')
        x = bed - 0.2
        while x > rear + 1.4 and rng.uniform() < 0.85:  # pallets with goods
            size = float(rng.uniform(0.8, 1.3))
            goods = tuple(rng.uniform(0.25, 0.75) * np.array([1.0, 0.9, 0.75]))
            reach = float(rng.uniform(0.6, 0.95)) * y
            high = 1.14 + float(rng.uniform(0.5, 1.4))
            build.box([x - size, -reach, 1.14], [x, reach, high], goods, 'matte')
            x -= size + 0.15
    else:
        tub: Color = paint(rng, style) if rng.uniform() < 0.5 else (0.45, 0.44, 0.42)
        rings = [
            rectangle(rear + 0.25, bed - 0.2, -y + 0.22, y - 0.22, 0.98),
            rectangle(rear + 0.05, bed, -y, y, 1.45),
            rectangle(rear, bed, -y, y, 2.35),
            rectangle(rear + 0.1, bed - 0.1, -y + 0.1, y - 0.1, 2.35),
            rectangle(rear + 0.1, bed - 0.1, -y + 0.1, y - 0.1, 2.10),
        ]
        sides = build.loft(rings, tub, 'paint', top=False)
        build.polygon(rings[-1], (0.42, 0.35, 0.27), 'matte')  # its load
        for side in (sides[1][1], sides[1][3]):
            for u in np.linspace(0.02, 0.98, 6):
                build.pane(side, shaded(tub, 0.7), 'paint', (u - 0.012, u + 0.012))
    radius = float(rng.uniform(0.44, 0.50))
    rears = [rear + 0.24 * length] + ([rear + 0.24 * length + 2.15 * radius] if length > 8 else [])
    _axles(build, [cab + 0.55 * (front - cab), *rears], y - 0.06, radius)
    _rear_lamps(build, rear + 0.05, y, 0.62)
    build.signs(
        [rear + 0.04, y - 0.2, 0.4], [0, -1, 0], [[0.9, 1.4, 0.12, 0.24]], PLATE, 'reflector'
    )
    return build.mesh()


def bus(rng: np.random.Generator, style: Style) -> Mesh:
    """Return a bus of 10 to 12.5 m, its doors on its right."""
    length, width = float(rng.uniform(10.0, 12.5)), float(rng.uniform(2.52, 2.6))
    height = float(rng.uniform(2.95, 3.3))
    y, front, rear = width / 2 - 0.02, length / 2, -length / 2
    coach = rng.uniform() < 0.3
    color = paint(rng, style) if coach else shaded(style.bus_color, float(rng.normal(1, 0.05)))
    second = _WHITE if rng.uniform() < 0.6 else shaded(color, 0.55)
    sill, head = (1.35, height - 0.55) if coach else (1.05, height - 0.50)
    build = Builder()
    rings = [
        _bus_ring(rear + 0.05, front - 0.1, y - 0.05, 0.26),
        _bus_ring(rear, front, y, 0.60),
        _bus_ring(rear, front, y, sill),
        _bus_ring(rear + 0.06, front - 0.1, y - 0.01, head),
        _bus_ring(rear + 0.10, front - 0.18, y - 0.04, height - 0.32),
        _bus_ring(rear + 0.30, front - 0.45, y - 0.28, height - 0.17),
    ]
    build.loft(rings[:2], DARK, 'matte', top=False)
    low, windows, brow, _ = build.loft(rings[1:], color, 'paint', bottom=False)
    for side in (low[1], low[5]):
        build.pane(side, second, 'paint', (0.0, 1.0), (0.55, 0.95), lift_m=0.006)
    count = int(rng.integers(6, 9))
    for side, forward in ((windows[1], -1), (windows[5], 1)):
        edges = np.linspace(0.01, 0.99, count + 1)
        for u0, u1 in pairwise(edges):
            gap = 0.004
            build.pane(side, GLASS, 'glass', (u0 + gap, u1 - gap), (0.04, 0.96))
        for at in (0.93, 0.52) if forward > 0 else ():
            half = 0.62 / length
            both = np.stack([low[5][0], low[5][1], side[2], side[3]])
            build.pane(both, DARK, 'matte', (at - half, at + half), (0.02, 0.93), lift_m=0.024)
            for u in ((at - half + 0.004, at - 0.003), (at + 0.003, at + half - 0.004)):
                build.pane(both, GLASS, 'glass', u, (0.10, 0.90), lift_m=0.03)
    build.pane(windows[7], GLASS, 'glass', (0.01, 0.99), (-0.2, 1.0))
    build.pane(windows[0], GLASS, 'glass', (0.05, 0.95), (0.0, 0.97))
    build.pane(windows[6], GLASS, 'glass', (0.05, 0.95), (0.0, 0.97))
    build.pane(windows[3], GLASS, 'glass', (0.1, 0.9), (0.3, 0.95))
    build.pane(brow[7], DARK, 'matte', (0.08, 0.92), (0.05, 0.95))
    build.pane(brow[7], (0.92, 0.66, 0.20), 'lamp', (0.25, 0.75), (0.3, 0.7), lift_m=0.025)
    for u in ((0.03, 0.2), (0.8, 0.97)):
        build.pane(low[7], LAMP, 'lamp', u, (0.06, 0.38))
        build.pane(low[3], TAIL, 'tail_lamp', u, (0.1, 0.6))
    for face in (low[7], low[3]):
        build.pane(face, PLATE, 'reflector', (0.4, 0.6), (0.04, 0.22))
    _axles(build, [front - 2.7, rear + 3.2], y, 0.48)
    box = float(rng.uniform(1.5, 3.0))
    at = float(rng.uniform(rear + 2, front - 2 - box))
    build.box([at, -0.75, height - 0.2], [at + box, 0.75, height], _WHITE, 'metal')
    for side in (-1, 1):
        near, far = sorted((side * (y - 0.02), side * width / 2))
        build.box([front - 0.25, near, 1.7], [front - 0.12, far, 2.1], DARK, 'matte')
    return build.mesh()


def trailer(rng: np.random.Generator, style: Style) -> Mesh:
    """Return a semi-trailer of 8 to 12 m without its tractor: a box or a tank."""
    length, width = float(rng.uniform(8.0, 12.0)), float(rng.uniform(2.45, 2.55))
    y, front, rear = width / 2, length / 2, -length / 2
    build = Builder()
    build.box([rear + 0.05, -0.5, 0.85], [front - 0.3, 0.5, 1.12], _FRAME, 'metal')
    if rng.uniform() < 0.72:
        top = float(rng.uniform(3.4, 4.0))
        _cargo_box(build, rng, (rear, front), y, (1.12, top), _box_color(rng, style))
    else:
        shell = _WHITE if rng.uniform() < 0.4 else (0.66, 0.67, 0.69)
        middle, radius = 1.12 + 0.92 * y, y * 1.0
        angle = (np.arange(12) + 0.5) * (2 * np.pi / 12)
        circle = np.stack([0 * angle, np.cos(angle), np.sin(angle)], -1)
        circle /= np.abs(circle).max(0) + [1, 0, 0]
        rings = [
            np.array([x, 0.0, middle]) + share * radius * circle * [1, 1, 0.92]
            for x, share in (
                (rear, 0.55),
                (rear + 0.3, 0.93),
                (rear + 0.7, 1.0),
                (front - 0.7, 1.0),
                (front - 0.3, 0.93),
                (front, 0.55),
            )
        ]
        hull = build.loft(rings, shell, 'metal')
        stripe = paint(rng, style)
        for side in (hull[2][11], hull[2][5]):
            build.pane(side, stripe, 'paint', lift_m=0.006)
        for x in np.linspace(rear + 0.25 * length, front - 0.25 * length, 3):
            hatch = np.array([x, 0.0, 1.10 + 1.84 * y])
            color = shaded(shell, 0.8)
            build.tube(hatch, hatch + [0, 0, 0.18], (0.28, 0.28), color, 'metal', corners=8)
        build.box([rear + 0.4, -y + 0.03, 0.75], [front - 3.0, -y + 0.12, 1.1], _FRAME, 'metal')
        build.box([rear + 0.4, y - 0.12, 0.75], [front - 3.0, y - 0.03, 1.1], _FRAME, 'metal')
    radius = 0.50
    axles = 3 if length > 9.5 else 2
    _axles(build, [rear + 1.3 + 2.35 * radius * i for i in range(axles)], y - 0.03, radius)
    for side in (-1, 1):  # landing legs
        x = front - 2.6
        build.tube(
            [x, side * 0.6, 1.12], [x, side * 0.6, 0.08], (0.07, 0.07), _FRAME, 'metal', corners=4
        )
        build.box(
            [x - 0.15, side * 0.6 - 0.13, 0.0],
            [x + 0.15, side * 0.6 + 0.13, 0.08],
            _FRAME,
            'metal',
        )
    _rear_lamps(build, rear + 0.02, y, 0.60)
    return build.mesh()


def _cab(build: Builder, x: tuple[float, float], y: float, height: float, color: Color) -> None:
    rear, front = x

    def ring(inset: float, nose: float, z: float) -> Array:
        cut = 0.16
        at = [front - nose, front - nose - cut, rear]
        half = np.array([0.82, 1.0, 1.0]) * (y - inset)
        left = np.stack([at, half, [z] * 3], -1)
        return np.concatenate([left, left[::-1] * [1.0, -1.0, 1.0]])

    rings = [
        ring(0.02, 0.05, 0.38), ring(0.0, 0.0, 0.75), ring(0.0, 0.02, 1.55),
        ring(0.06, 0.20, height - 0.22), ring(0.16, 0.5, height),
    ]  # fmt: skip
    low, door, glazing, _ = build.loft(rings, color, 'paint')
    build.pane(glazing[5], GLASS, 'glass', (0.02, 0.98), (0.06, 0.92))
    for side, u in ((glazing[1], (0.08, 0.68)), (glazing[3], (0.32, 0.92))):
        build.pane(side, GLASS, 'glass', u, (0.08, 0.86))
    for i in (0, 4):
        build.pane(glazing[i], GLASS, 'glass', (0.2, 0.8), (0.06, 0.88))
    for side in (door[1], door[3]):
        for at in (0.06, 0.66) if side is door[1] else (0.34, 0.94):
            seam = (at - 0.008, at + 0.008)
            build.pane(side, shaded(color, 0.4), 'paint', seam, lift_m=0.008)
    build.pane(door[5], DARK, 'matte', (0.08, 0.92), (0.1, 0.6))
    build.pane(low[5], DARK, 'matte', (0.0, 1.0), (0.0, 0.45))
    for u in ((0.02, 0.2), (0.8, 0.98)):
        build.pane(low[5], LAMP, 'lamp', u, (0.5, 0.95))
    build.pane(low[5], PLATE, 'reflector', (0.38, 0.62), (0.1, 0.4), lift_m=0.025)
    for side in (-1, 1):
        near, far = sorted((side * (y - 0.02), side * (y + 0.07)))
        build.box([front - 0.3, near, 1.5], [front - 0.18, far, 2.1], DARK, 'matte')


def _cargo_box(
    build: Builder,
    rng: np.random.Generator,
    x: tuple[float, float],
    y: float,
    z: tuple[float, float],
    color: Color,
) -> None:
    """Add a closed box with a stripe or a sign, edges and doors at its rear."""
    front, left, rear, right = build.box(
        [x[0], -y + 0.01, z[0]], [x[1], y - 0.01, z[1]], color, 'paint'
    )
    edge, second = shaded(color, 0.72), _livery(rng)
    layout = rng.uniform()
    for side in (left, right):
        if layout < 0.35:
            build.pane(side, second, 'paint', (0.0, 1.0), (0.12, 0.3), lift_m=0.005)
        elif layout < 0.7:
            build.pane(side, second, 'paint', (0.25, 0.75), (0.4, 0.75), lift_m=0.005)
        build.pane(side, edge, 'metal', (0.0, 1.0), (0.0, 0.05), lift_m=0.01)
        build.pane(side, edge, 'metal', (0.0, 1.0), (0.96, 1.0), lift_m=0.01)
        for u in (0.006, 0.994):
            build.pane(side, edge, 'metal', (u - 0.006, u + 0.006), (0.05, 0.96), lift_m=0.01)
    for u in (0.02, 0.5, 0.98):
        build.pane(rear, edge, 'metal', (u - 0.018, u + 0.018), lift_m=0.0)
    for u in (0.3, 0.7):
        build.pane(rear, RIM, 'metal', (u - 0.01, u + 0.01), (0.04, 0.96), lift_m=0.0)
    build.pane(front, edge, 'metal', (0.0, 1.0), (0.94, 1.0), lift_m=0.005)


def _axles(build: Builder, at_m: list[float], y: float, radius: float) -> None:
    for x in at_m:
        for side in (-1, 1):
            wheel(build, (x, side * (y + 0.012), radius), 0.32, side, RIM, corners=10)


def _rear_lamps(build: Builder, x: float, y: float, z: float) -> None:
    """Add the bumper bar at the rear with lamps in its ends."""
    _, _, rear, _ = build.box([x, -y + 0.1, z - 0.1], [x + 0.1, y - 0.1, z + 0.1], _FRAME, 'metal')
    for u in ((0.01, 0.16), (0.84, 0.99)):
        build.pane(rear, TAIL, 'tail_lamp', u, (0.15, 0.85))


def _bus_ring(rear: float, front: float, y: float, z: float) -> Array:
    x = np.array([front, front - 0.30, rear + 0.16, rear])
    left = np.stack([x, np.array([0.80, 1.0, 1.0, 0.90]) * y, np.full(4, z)], -1)
    return np.concatenate([left, left[::-1] * [1.0, -1.0, 1.0]])


def _box_color(rng: np.random.Generator, style: Style) -> Color:
    kind = rng.uniform()
    if kind < 0.55:
        return shaded(_WHITE, float(rng.uniform(0.85, 1.05)))
    return _livery(rng) if kind < 0.8 else mixed(paint(rng, style), (0.6, 0.6, 0.6), 0.35)


def _livery(rng: np.random.Generator) -> Color:
    return hsv_to_rgb(
        float(rng.uniform()), float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.25, 0.75))
    )
