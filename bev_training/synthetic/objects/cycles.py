"""Two-wheelers, with somebody on them or left standing."""

from __future__ import annotations

import numpy as np

from bev_perception.shapes import Array
from bev_training.synthetic.objects.builder import Builder, rectangle, shaded
from bev_training.synthetic.objects.cars import DARK, LAMP, PLATE, RIM, RUBBER, TAIL
from bev_training.synthetic.objects.mesh import Color, Mesh
from bev_training.synthetic.objects.people import draw_clothes, rider
from bev_training.synthetic.objects.style import Style, paint


def bicycle(rng: np.random.Generator, style: Style, *, ridden: bool) -> Mesh:
    """Return a bicycle."""
    radius = float(rng.uniform(0.31, 0.35))
    half = float(rng.uniform(0.50, 0.56))  # of the wheelbase
    color = paint(rng, style)
    build = Builder()
    rear, front = np.array([-half, 0.0, radius]), np.array([half, 0.0, radius])
    for middle in (rear, front):
        _hoop(build, middle, radius, 0.045)
    crank = np.array([-0.08, 0.0, 0.28])
    saddle = np.array([-0.24, 0.0, float(rng.uniform(0.88, 0.96))])
    neck = np.array([half - 0.20, 0.0, 0.86])
    bars = np.array([half - 0.24, 0.0, 1.02])
    low_neck = neck + (front - neck) * 0.22
    for start, end, thick in (
        (crank, saddle, 0.02), (crank, low_neck, 0.024), (saddle * [1, 1, 0.86], neck, 0.02),
        (rear, crank, 0.014), (rear, saddle * [1, 1, 0.86], 0.012), (front, bars, 0.02),
    ):  # fmt: skip
        build.tube(start, end, (thick, thick), color, 'paint', corners=4, caps=False)
    reach = 0.27
    build.tube(
        bars + [0, -reach, 0], bars + [0, reach, 0], (0.017, 0.017), DARK, 'metal', corners=4
    )
    seat = [
        rectangle(-0.36, -0.12, -w, w, z)
        for w, z in ((0.05, saddle[2] - 0.03), (0.08, saddle[2] + 0.02))
    ]
    build.loft(seat, DARK, 'matte')
    build.box(crank - [0.08, 0.05, 0.08], crank + [0.08, 0.05, 0.08], DARK, 'metal')
    lamp = np.array([-half - 0.10, 0.0, 0.62])
    build.box(lamp - [0.02, 0.03, 0.03], lamp + [0.02, 0.03, 0.03], TAIL, 'tail_lamp')
    light = neck + [0.1, 0.0, 0.0]
    build.box(light - [0.03, 0.03, 0.03], light + [0.03, 0.03, 0.03], LAMP, 'lamp')
    if rng.uniform() < 0.3:  # a basket
        at = bars + [0.2, 0.0, -0.1]
        build.box(at - [0.13, 0.16, 0.1], at + [0.13, 0.16, 0.1], (0.36, 0.27, 0.18), 'matte')
    if ridden:
        turn = float(rng.uniform(0, 2 * np.pi))
        pedals = [
            crank + [0.17 * np.cos(turn + side), y, 0.17 * np.sin(turn + side)]
            for side, y in ((0.0, 0.12), (np.pi, -0.12))
        ]
        helmet = paint(rng, style) if rng.uniform() < 0.5 else None
        rider(
            build, saddle, bars + [0.0, reach - 0.03, 0.02], pedals, draw_clothes(rng),
            lean_m=float(rng.uniform(0.12, 0.33)), helmet=helmet,
        )  # fmt: skip
    return build.mesh()


def motorcycle(rng: np.random.Generator, style: Style, *, ridden: bool) -> Mesh:
    """Return a motorcycle or a scooter."""
    scooter = rng.uniform() < 0.45
    radius = 0.23 if scooter else float(rng.uniform(0.30, 0.33))
    half = 0.65 if scooter else float(rng.uniform(0.68, 0.78))
    color = paint(rng, style)
    build = Builder()
    rear, front = np.array([-half, 0.0, radius]), np.array([half, 0.0, radius])
    for middle in (rear, front):
        for y, share, tint, material in (
            (0.06, 1.0, RUBBER, 'rubber'),
            (0.068, 0.55, RIM, 'metal'),
        ):
            out, thick = np.array([0, y, 0]), share * radius
            build.tube(middle - out, middle + out, (thick, thick), tint, material, corners=10)
    seat_z = 0.76 if scooter else float(rng.uniform(0.76, 0.86))
    bars = np.array([half - 0.33, 0.0, seat_z + 0.26])
    for side in (-1, 1):
        build.tube(
            front + [0, side * 0.09, 0],
            bars + [0, side * 0.09, -0.06],
            (0.03, 0.03),
            RIM,
            'metal',
            corners=4,
        )
    reach = 0.36
    build.tube(bars + [0, -reach, 0], bars + [0, reach, 0], (0.02, 0.02), DARK, 'metal', corners=5)
    if scooter:
        build.loft(
            [rectangle(-0.75, 0.05, -0.14, 0.14, 0.36),
             rectangle(-0.85, 0.02, -0.2, 0.2, seat_z - 0.08)],
            color, 'paint',
        )  # fmt: skip
        build.box([-0.05, -0.17, 0.24], [0.42, 0.17, 0.34], DARK, 'matte')
        shield = [
            rectangle(0.34, 0.44, -0.2, 0.2, 0.3), rectangle(0.36, 0.46, -0.24, 0.24, 0.55),
            rectangle(0.24, 0.36, -0.16, 0.16, bars[2] + 0.02),
        ]  # fmt: skip
        build.loft(shield, color, 'paint')
        foot, lean = np.array([0.2, 0.14, 0.40]), 0.10
    else:
        build.box([-0.32, -0.19, 0.26], [0.30, 0.19, 0.58], (0.25, 0.25, 0.26), 'metal')
        tank = [
            rectangle(-0.12, 0.36, -0.13, 0.13, 0.56),
            rectangle(-0.16, 0.40, -0.18, 0.18, seat_z - 0.02),
            rectangle(-0.08, 0.30, -0.11, 0.11, seat_z + 0.14),
        ]  # fmt: skip
        build.loft(tank, color, 'paint')
        tail = [
            rectangle(-0.75, -0.12, -0.10, 0.10, seat_z - 0.18),
            rectangle(-0.92, -0.12, -0.13, 0.13, seat_z - 0.05),
        ]  # fmt: skip
        build.loft(tail, color, 'paint')
        build.tube([-0.2, -0.2, 0.3], [-0.85, -0.22, 0.42], (0.04, 0.06), RIM, 'metal', corners=5)
        foot, lean = np.array([-0.18, 0.22, 0.36]), 0.24
    seat = [
        rectangle(-0.78, -0.02, -0.14, 0.14, seat_z - 0.08),
        rectangle(-0.74, -0.08, -0.12, 0.12, seat_z),
    ]  # fmt: skip
    build.loft(seat, DARK, 'matte')
    light = bars + [0.12, 0.0, -0.1]
    build.box(light - [0.08, 0.1, 0.09], light + [0.08, 0.1, 0.09], shaded(color, 0.8), 'paint')
    build.box(light + [0.08, -0.08, -0.07], light + [0.1, 0.08, 0.07], LAMP, 'lamp')
    back = -0.93 if not scooter else -0.87
    build.box(
        [back - 0.03, -0.09, seat_z - 0.17], [back + 0.1, 0.09, seat_z - 0.08], TAIL, 'tail_lamp'
    )
    build.box([back - 0.02, -0.1, seat_z - 0.36], [back, 0.1, seat_z - 0.2], PLATE, 'reflector')
    for side in (-1, 1):
        mirror = bars + [0.02, side * 0.3, 0.16]
        build.tube(bars + [0, side * 0.25, 0], mirror, (0.01, 0.01), DARK, 'metal', corners=3)
        build.box(mirror - [0.02, 0.06, 0.04], mirror + [0.02, 0.06, 0.04], DARK, 'matte')
    if ridden:
        feet = np.stack([foot, foot * [1, -1, 1]])
        helmet: Color = paint(rng, style)
        hands = bars + [0.0, reach - 0.05, 0.02]
        rider(
            build,
            [-0.28, 0.0, seat_z],
            hands,
            feet,
            draw_clothes(rng),
            lean_m=lean,
            helmet=helmet,
            visor=True,
        )
    return build.mesh()


def _hoop(build: Builder, middle: Array, radius: float, thick_m: float) -> None:
    """Add a tyre one can look through, and some spokes."""
    angle = np.arange(10) * (2 * np.pi / 10)

    def circle(share: float, y: float) -> Array:
        ring = np.stack([np.cos(angle), np.zeros(10), np.sin(angle)], -1) * share * radius
        return middle + ring + [0.0, y, 0.0]

    outer, inner = 1.0, 1 - thick_m / radius
    half = 0.5 * thick_m
    rings = [circle(inner, -half), circle(inner, half), circle(outer, half), circle(outer, -half)]
    build.loft([*rings, rings[0]], RUBBER, 'rubber', top=False, bottom=False)
    for turn in (0.3, 0.3 + np.pi / 3, 0.3 + 2 * np.pi / 3):
        spoke = np.array([np.cos(turn), 0.0, np.sin(turn)]) * inner * radius
        build.tube(
            middle - spoke, middle + spoke, (0.008, 0.008), RIM, 'metal', corners=3, caps=False
        )
