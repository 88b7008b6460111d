"""Cars: saloons, estates, hatchbacks, off-roaders, vans and pickups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.objects.builder import Builder, shaded
from bev_training.synthetic.objects.mesh import Color, Mesh
from bev_training.synthetic.objects.style import Style, paint

GLASS: Color = (0.10, 0.12, 0.14)
RUBBER: Color = (0.07, 0.07, 0.075)
DARK: Color = (0.10, 0.10, 0.11)
RIM: Color = (0.56, 0.57, 0.59)
LAMP: Color = (0.92, 0.92, 0.88)
TAIL: Color = (0.55, 0.04, 0.05)
PLATE: Color = (0.90, 0.90, 0.84)
_MIRROR_M = 0.06  # how far mirrors reach out of the body


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A kind of car; x in shares of the length from the middle, z in shares of the height."""

    share: float  # of all cars
    size_m: tuple[float, float, float]
    nose: float
    belt: float
    tail: float
    foot: tuple[float, float]  # of the cabin: rear, front
    roof: tuple[float, float]
    windows: tuple[tuple[float, float], ...]  # of the cabin's side, from its rear
    wheel: float  # radius, m


_PLANS = {
    'sedan': _Plan(
        share=0.24, size_m=(4.65, 1.91, 1.45), nose=0.50, belt=0.65, tail=0.69,
        foot=(-0.385, 0.245), roof=(-0.22, 0.055),
        windows=((0.12, 0.50), (0.54, 0.93)), wheel=0.33,
    ),
    'estate': _Plan(
        share=0.13, size_m=(4.70, 1.91, 1.49), nose=0.50, belt=0.65, tail=0.66,
        foot=(-0.490, 0.245), roof=(-0.415, 0.055),
        windows=((0.03, 0.26), (0.30, 0.62), (0.65, 0.95)), wheel=0.33,
    ),
    'hatch': _Plan(
        share=0.26, size_m=(4.08, 1.86, 1.50), nose=0.52, belt=0.64, tail=0.66,
        foot=(-0.488, 0.265), roof=(-0.395, 0.05),
        windows=((0.14, 0.46), (0.50, 0.94)), wheel=0.31,
    ),
    'suv': _Plan(
        share=0.21, size_m=(4.55, 1.98, 1.70), nose=0.54, belt=0.64, tail=0.65,
        foot=(-0.490, 0.255), roof=(-0.435, 0.075),
        windows=((0.04, 0.24), (0.28, 0.60), (0.63, 0.95)), wheel=0.37,
    ),
    'van': _Plan(
        share=0.11, size_m=(5.15, 2.08, 2.10), nose=0.48, belt=0.57, tail=0.57,
        foot=(-0.492, 0.365), roof=(-0.475, 0.225),
        windows=((0.70, 0.95),), wheel=0.34,
    ),
    'pickup': _Plan(
        share=0.05, size_m=(5.35, 2.02, 1.81), nose=0.56, belt=0.63, tail=0.60,
        foot=(-0.105, 0.235), roof=(-0.075, 0.10),
        windows=((0.05, 0.44), (0.50, 0.94)), wheel=0.39,
    ),
}  # fmt: skip


def car(rng: np.random.Generator, style: Style) -> Mesh:
    """Return a car of a kind, size and paint drawn at random."""
    names = tuple(_PLANS)
    shares = np.array([plan.share for plan in _PLANS.values()])
    kind = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    plan = _PLANS[kind]
    spread = np.array([0.045, 0.015, 0.025])
    length, width, height = (
        np.array(plan.size_m) * (1 + np.clip(rng.normal(0, 1, 3), -1.8, 1.8) * spread)
    ).tolist()
    color = paint(rng, style)
    if kind == 'van' and rng.uniform() < 0.5:
        color = shaded((0.89, 0.89, 0.88), float(rng.uniform(0.92, 1.05)))
    windows = plan.windows
    if kind == 'van' and rng.uniform() < 0.5:  # for people instead of goods
        windows = ((0.03, 0.33), (0.36, 0.66), (0.70, 0.95))
    trim = color if rng.uniform() < 0.75 else DARK  # bumpers and mirrors
    build = Builder()
    y = width / 2 - _MIRROR_M
    _body(build, plan, (length, y, height), color, trim)
    _cabin(build, plan, (length, y, height), color, windows, dark_roof=rng.uniform() < 0.12)
    rim = RIM if rng.uniform() < 0.65 else (0.16, 0.16, 0.17)
    radius = plan.wheel * float(rng.uniform(0.96, 1.05))
    for x in (0.305 * length, -0.29 * length):
        for side in (-1, 1):
            wheel(build, (x, side * (y + 0.012), radius), 0.2, side, rim, arch=True)
    at = plan.foot[1] * length - 0.12
    z = plan.belt * height
    for side in (-1, 1):
        low, high = sorted((side * (y - 0.10), side * (y + _MIRROR_M)))
        build.box([at - 0.20, low, z - 0.02], [at - 0.10, high, z + 0.13], trim, 'paint')
    if kind in ('estate', 'suv') and rng.uniform() < 0.5:
        for side in (-1, 1):
            ends = plan.roof[0] * length + 0.15, plan.roof[1] * length - 0.2
            start, end = (np.array([x, side * 0.66 * y, height - 0.015]) for x in ends)
            build.tube(start, end, (0.025, 0.025), (0.3, 0.3, 0.31), 'metal', corners=4)
    return build.mesh()


def wheel(
    build: Builder,
    outside: tuple[float, float, float],
    width_m: float,
    side: int,
    rim: Color,
    *,
    arch: bool = False,
    corners: int = 10,
) -> None:
    """Add a wheel whose outer side's middle is at `outside`.

    Args:
        build: where to.
        outside: (x, y, radius): it stands on z = 0.
        width_m: how far it reaches inwards.
        side: 1 on the left of the vehicle, -1 on its right.
        rim: colour.
        arch: paint the dark gap above it (the body hides its inner side).
        corners: of its outline.
    """
    x, y, radius = outside
    middle = np.array([x, y, radius])
    inner = middle - [0.0, side * width_m, 0.0]
    turn = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    rings = [_disc(end, radius, turn, side) for end in (inner, middle)]
    build.loft(rings, RUBBER, 'rubber', bottom=not arch)
    for share, color, material, lift in ((0.66, rim, 'metal', 0.006), (0.2, DARK, 'metal', 0.01)):
        angle = (np.arange(8 if share > 0.5 else 5) + 0.5) * (
            2 * np.pi / (8 if share > 0.5 else 5)
        )
        build.polygon(
            _disc(middle + [0, side * lift, 0], share * radius, angle, side), color, material
        )
    if arch:
        angle = np.linspace(np.radians(-8), np.radians(188), 8)
        hidden = middle - [0.0, side * 0.006, 0.0]
        build.polygon(_disc(hidden, radius + 0.055, angle, side), DARK, 'matte')


def _disc(middle: Array, radius: float, angle: AnyArray, side: int) -> Array:
    """Return corners of a disc that faces the side; angles from +x over the top."""
    offset = [np.cos(angle), np.zeros_like(angle), np.sin(angle)]
    ring = middle + radius * np.stack(offset, -1)
    return ring[::-side]


def _mirrored(left: Array) -> Array:
    """Return the ring of corners of a left half (N, 3), front to rear, and its mirror image."""
    return np.concatenate([left, left[::-1] * [1.0, -1.0, 1.0]])


def _body(
    build: Builder,
    plan: _Plan,
    size_m: tuple[float, float, float],
    color: Color,
    trim: Color,
) -> None:
    """Add everything below the windows; `size_m` holds the body's half width."""
    length, y, height = size_m
    front, rear = length / 2, -length / 2
    screen = plan.foot[1] * length
    back = max(plan.foot[0] * length, rear + 0.35)
    nose, belt, tail = (share * height for share in (plan.nose, plan.belt, plan.tail))
    clearance = 0.42 * plan.wheel + 0.05

    def ring(inset: float, ends: float, heights: tuple[float, ...]) -> Array:
        x = [front - ends, front - ends - 0.2, screen, back, rear + ends + 0.14, rear + ends]
        half = np.array([0.66, 0.95, 1.0, 1.0, 0.96, 0.80]) * (y - inset)
        return _mirrored(np.stack([x, half, heights], -1))

    bumper = 0.45 * nose + 0.55 * clearance + 0.08
    rings = [
        ring(0.07, 0.07, (clearance,) * 6),
        ring(0.02, 0.02, (clearance + 0.12,) * 6),
        ring(0.0, 0.0, (bumper, bumper, bumper, bumper, bumper, bumper)),
        ring(0.025, 0.05, (nose - 0.04, nose, 0.93 * belt, 0.93 * belt, tail - 0.07, tail - 0.07)),
        ring(0.085, 0.14, (nose, nose + 0.04, belt, belt, tail, tail)),
    ]
    build.loft(rings[:2], DARK, 'matte', top=False)
    _, face, _ = build.loft(rings[1:], color, 'paint', top=False, bottom=False)
    lower = np.stack([rings[1], np.roll(rings[1], -1, 0), np.roll(rings[2], -1, 0), rings[2]], 1)
    deck = rings[-1]
    for i in range(5):
        strip = np.stack([deck[11 - i], deck[i], deck[i + 1], deck[10 - i]])
        open_bed = plan.foot[0] > -0.2 and i >= 3
        build.quads(strip[None], DARK if open_bed else color, 'matte' if open_bed else 'paint')
    for i in (0, 10, 11):  # grille, lamps
        build.pane(
            lower[i],
            trim if trim == DARK else shaded(color, 0.45),
            'matte',
            (0.06, 0.94),
            (0.1, 0.55),
        )
    build.pane(face[11], DARK, 'matte', (0.2, 0.8), (0.10, 0.72))
    build.pane(lower[11], PLATE, 'reflector', (0.30, 0.70), (0.62, 0.98), lift_m=0.025)
    for i, u in ((0, (0.02, 0.92)), (10, (0.08, 0.98))):
        build.pane(face[i], LAMP, 'lamp', u, (0.42, 0.86))
    for u in ((0.02, 0.17), (0.83, 0.98)):
        build.pane(face[11], LAMP, 'lamp', u, (0.42, 0.86))
    for i, u in ((4, (0.3, 0.98)), (6, (0.02, 0.7))):
        build.pane(face[i], TAIL, 'tail_lamp', u, (0.45, 0.95))
    for u in ((0.01, 0.2), (0.8, 0.99)):
        build.pane(face[5], TAIL, 'tail_lamp', u, (0.45, 0.95))
    build.pane(face[5], PLATE, 'reflector', (0.35, 0.65), (0.25, 0.6))
    build.pane(
        lower[5], trim if trim == DARK else shaded(color, 0.5), 'matte', (0.0, 1.0), (0.0, 0.5)
    )
    for i in (2, 8):  # door seams
        for at in (0.03, 0.46, 0.88):
            seam = at if i == 2 else 1 - at
            build.pane(
                face[i], shaded(color, 0.4), 'paint', (seam - 0.003, seam + 0.003), lift_m=0.008
            )


def _cabin(
    build: Builder,
    plan: _Plan,
    size_m: tuple[float, float, float],
    color: Color,
    windows: tuple[tuple[float, float], ...],
    *,
    dark_roof: bool,
) -> None:
    """Add windows and roof."""
    length, y, height = size_m
    belt = plan.belt * height - 0.01

    def ring(rear: float, front: float, half: float, z: float, bow: float) -> Array:
        x = [front, front - bow, rear + 0.6 * bow, rear]
        return _mirrored(np.stack([x, np.array([0.78, 1, 1, 0.86]) * half, [z] * 4], -1))

    foot, roof = (np.array(part) * length for part in (plan.foot, plan.roof))
    tuck = 0.30 * (height - belt)
    rings = [
        ring(foot[0] + 0.03, foot[1], y - 0.075, belt, 0.24),
        ring(roof[0], roof[1], y - 0.075 - tuck, height - 0.065, 0.16),
        ring(roof[0] + 0.12, roof[1] - 0.16, y - 0.16 - tuck, height, 0.10),
    ]
    glazing, _ = build.loft(rings, color, 'paint', bottom=False, top=False)
    build.polygon(rings[-1], DARK if dark_roof else color, 'paint')
    build.pane(glazing[7], GLASS, 'glass', (0.03, 0.97), (0.05, 0.95))
    build.pane(glazing[3], GLASS, 'glass', (0.07, 0.93), (0.18, 0.92))
    for side, forward in ((glazing[1], -1), (glazing[5], 1)):
        for low, high in windows:
            u = (low, high) if forward > 0 else (1 - high, 1 - low)
            build.pane(side, GLASS, 'glass', u, (0.10, 0.90))
    for i in (0, 6):
        build.pane(
            glazing[i], GLASS, 'glass', (0.35, 0.85) if i == 0 else (0.15, 0.65), (0.1, 0.9)
        )
