"""People: on foot and on two wheels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bev_training.synthetic.objects.builder import Builder, ellipse, icosphere, rectangle, shaded
from bev_training.synthetic.objects.mesh import Color, Mesh

_SKIN: tuple[Color, ...] = (
    (0.87, 0.68, 0.56), (0.78, 0.57, 0.44), (0.62, 0.42, 0.30), (0.42, 0.27, 0.19),
)  # fmt: skip
_HAIR: tuple[Color, ...] = (
    (0.08, 0.06, 0.05), (0.20, 0.13, 0.09), (0.38, 0.25, 0.14), (0.72, 0.58, 0.35),
    (0.62, 0.61, 0.60),
)  # fmt: skip
_TOPS: tuple[Color, ...] = (
    (0.10, 0.10, 0.12), (0.16, 0.20, 0.32), (0.45, 0.46, 0.48), (0.85, 0.84, 0.82),
    (0.62, 0.12, 0.13), (0.18, 0.35, 0.58), (0.24, 0.36, 0.24), (0.78, 0.58, 0.20),
    (0.55, 0.42, 0.30), (0.60, 0.40, 0.52), (0.86, 0.42, 0.14), (0.30, 0.52, 0.52),
)  # fmt: skip
_TROUSERS: tuple[Color, ...] = (
    (0.09, 0.09, 0.11), (0.15, 0.19, 0.30), (0.28, 0.35, 0.47), (0.36, 0.35, 0.34),
    (0.56, 0.49, 0.38), (0.80, 0.78, 0.74), (0.30, 0.24, 0.18),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Clothes:
    """Colours of one person."""

    skin: Color
    hair: Color
    top: Color
    trousers: Color
    shoes: Color


def draw_clothes(rng: np.random.Generator) -> Clothes:
    """Return somebody's colours."""
    return Clothes(
        skin=_one(rng, _SKIN),
        hair=_one(rng, _HAIR),
        top=_one(rng, _TOPS),
        trousers=_one(rng, _TROUSERS),
        shoes=_one(rng, ((0.08, 0.08, 0.08), (0.3, 0.2, 0.13), (0.85, 0.85, 0.85))),
    )


def pedestrian(rng: np.random.Generator) -> Mesh:
    """Return somebody on foot, in the middle of a step, facing x.

    Children and adults from 1.1 to 1.95 m; some carry a bag or push a stroller (which is part of
    the mesh and of its box).
    """
    child = rng.uniform() < 0.15
    height = float(rng.uniform(1.1, 1.5) if child else np.clip(rng.normal(1.71, 0.09), 1.5, 1.95))
    stout = float(rng.uniform(0.88, 1.25))
    clothes = draw_clothes(rng)
    build = Builder()
    step = float(rng.uniform(0.0, 0.17)) * height * rng.choice([-1, 1])
    pushes = not child and rng.uniform() < 0.06
    hip, shoulder = 0.50 * height, 0.80 * height
    for side in (-1, 1):
        forward = side * step
        top = np.array([0.0, side * 0.052 * height, hip])
        lift = 0.03 * height if forward < 0 else 0.0
        foot = np.array([forward, side * 0.055 * height, 0.045 * height + lift])
        knee = (top + foot) / 2 + [0.04 * height + 0.15 * abs(forward), 0.0, 0.0]
        _leg(build, top, knee, foot, 0.052 * height * (0.4 + 0.6 * stout), clothes)
        swing = -0.8 * forward
        arm = np.array([0.0, side * 0.108 * height * (0.6 + 0.4 * stout), shoulder - 0.01])
        hand = np.array([swing, side * 0.15 * height * stout, 0.455 * height])
        if pushes:
            hand = np.array([0.30 * height, side * 0.13 * height, 0.60 * height])
        _arm(build, arm, hand, 0.030 * height, clothes)
    coat = 0.08 + 0.6 * abs(step) / height if rng.uniform() < 0.3 else 0.0
    _torso(build, height, stout, clothes, coat)
    _head(build, [0.02 * height, 0.0, 0.930 * height], 0.070 * height, clothes)
    if pushes:
        _stroller(build, 0.34 * height, 0.60 * height, _one(rng, _TOPS))
    else:
        _bag(build, rng, height)
    return build.mesh()


def rider(
    build: Builder,
    seat: npt.ArrayLike,
    hands: npt.ArrayLike,
    feet: npt.ArrayLike,
    clothes: Clothes,
    *,
    lean_m: float,
    helmet: Color | None = None,
    visor: bool = False,
) -> None:
    """Add somebody who sits on two wheels, facing x.

    Args:
        build: where to.
        seat: (3,) of the saddle.
        hands: (3,) of the left hand; the right one is mirrored.
        feet: (2, 3) left and right foot.
        clothes: colours.
        lean_m: how far the shoulders are before the saddle.
        helmet: its colour, None for a bare head.
        visor: the helmet covers the face.
    """
    hip = np.asarray(seat, float) + [0.0, 0.0, 0.08]
    chest = hip + [lean_m, 0.0, np.sqrt(0.52**2 - min(lean_m, 0.45) ** 2)]
    rings = []
    for share, depth, width in (
        (-0.12, 0.09, 0.13), (0.0, 0.14, 0.17), (0.5, 0.13, 0.16), (0.85, 0.13, 0.20),
        (1.06, 0.07, 0.10),
    ):  # fmt: skip
        rings.append(ellipse(hip + (chest - hip) * share, depth, width))
    build.loft(rings, clothes.top, 'cloth')
    head = chest + [0.07, 0.0, 0.205]
    build.tube(chest + [0.02, 0, 0], head, (0.055, 0.055), clothes.skin, 'cloth', corners=5)
    _head(build, head, 0.122, clothes, helmet=helmet, visor=visor)
    for side, foot in zip((1, -1), np.asarray(feet, float), strict=True):
        top = hip + [0.03, side * 0.09, -0.02]
        reach = float(np.linalg.norm(foot - top))
        bend = np.sqrt(max(0.47**2 - (reach / 2) ** 2, 0.01))
        knee = (top + foot) / 2 + [bend * 0.9, side * 0.03, bend * 0.35]
        _leg(build, top, knee, foot, 0.085, clothes)
        hand = np.asarray(hands, float) * [1, side, 1]
        _arm(build, chest + [0.0, side * 0.19, -0.03], hand, 0.05, clothes)


def _one(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    return shaded(colors[int(rng.integers(len(colors)))], float(rng.uniform(0.85, 1.12)))


def _leg(
    build: Builder,
    top: npt.NDArray[np.float64],
    knee: npt.NDArray[np.float64],
    foot: npt.NDArray[np.float64],
    radius_m: float,
    clothes: Clothes,
) -> None:
    build.tube(top, knee, (radius_m, 0.8 * radius_m), clothes.trousers, 'cloth', corners=5)
    build.tube(knee, foot, (0.8 * radius_m, 0.55 * radius_m), clothes.trousers, 'cloth', corners=5)
    size = radius_m * np.array([0.85, 0.62, 0.78])
    x, y, z = foot
    sole = rectangle(x - size[0], x + 2.1 * size[0], y - size[1], y + size[1], z - size[2])
    ankle = rectangle(
        x - size[0], x + 0.7 * size[0], y - 0.8 * size[1], y + 0.8 * size[1], z + 0.1 * size[2]
    )
    build.loft([sole, ankle], clothes.shoes, 'cloth')


def _arm(
    build: Builder,
    shoulder: npt.NDArray[np.float64],
    hand: npt.NDArray[np.float64],
    radius_m: float,
    clothes: Clothes,
) -> None:
    bend = 0.03 + 0.15 * max(hand[0] - shoulder[0], 0.0)
    elbow = (shoulder + hand) / 2 + [-0.04, np.sign(hand[1]) * bend, -bend]
    build.tube(shoulder, elbow, (1.15 * radius_m, radius_m), clothes.top, 'cloth', corners=5)
    wrist = elbow + 0.8 * (hand - elbow)
    build.tube(elbow, wrist, (radius_m, 0.75 * radius_m), clothes.top, 'cloth', corners=5)
    tip = wrist + 0.45 * (hand - elbow)
    build.tube(wrist, tip, (0.8 * radius_m, 0.6 * radius_m), clothes.skin, 'cloth', corners=4)


def _torso(build: Builder, height: float, stout: float, clothes: Clothes, coat: float) -> None:
    profile = [
        (0.47, 0.072, 0.095), (0.55, 0.072, 0.092), (0.62, 0.066, 0.084), (0.73, 0.072, 0.102),
        (0.79, 0.062, 0.118), (0.83, 0.035, 0.060), (0.845, 0.028, 0.032),
    ]  # fmt: skip
    if coat:
        profile[:1] = [(0.31, coat, 0.125), (0.44, 0.5 * coat + 0.045, 0.112)]
    rings = [
        ellipse([0.0, 0.0, z * height], x * height * stout, y * height * (0.6 + 0.4 * stout))
        for z, x, y in profile
    ]
    build.loft(rings, clothes.top, 'cloth')
    neck = (0.035 * height, 0.035 * height)
    base, chin = [0.0, 0.0, 0.83 * height], [0.015 * height, 0.0, 0.9 * height]
    build.tube(base, chin, neck, clothes.skin, 'cloth', corners=5)


def _head(
    build: Builder,
    middle: npt.ArrayLike,
    radius_m: float,
    clothes: Clothes,
    *,
    helmet: Color | None = None,
    visor: bool = False,
) -> None:
    points, faces = icosphere()
    at = points[faces].mean(1)
    covered = at[:, 2] > 0.28 + 0.80 * at[:, 0]
    lumps = np.where(points[:, 2] > 0.2 + 0.75 * points[:, 0], 1.0, 0.96)
    face: Color = clothes.skin
    if helmet is not None:
        covered, lumps = at[:, 2] > 0.22 + 0.25 * at[:, 0], 1 + 0.14 * (points[:, 2] > 0.1)
    if visor:
        covered, lumps = (at[:, 0] < 0.55) | (np.abs(at[:, 2]) > 0.45), 1.14 + 0 * lumps
        face = (0.08, 0.09, 0.10)
    color = np.where(covered[:, None], clothes.hair if helmet is None else helmet, face)
    radii = radius_m * np.array([0.92, 0.80, 1.0])
    build.blob(middle, radii, color, 'cloth', lumps=lumps)


def _bag(build: Builder, rng: np.random.Generator, height: float) -> None:
    kind, color = rng.uniform(), _one(rng, _TOPS)
    if kind < 0.2:  # on the back
        low, high = [-0.17, -0.09, 0.57], [-0.06, 0.09, 0.80]
        low_ring = rectangle(low[0], high[0], low[1], high[1], low[2])
        high_ring = rectangle(low[0] + 0.03, high[0], 0.8 * low[1], 0.8 * high[1], high[2])
        middle = rectangle(low[0], high[0], low[1], high[1], 0.73)
        rings = [height * ring for ring in (low_ring, middle, high_ring)]
        build.loft(rings, color, 'cloth')
    elif kind < 0.38:  # in the hand
        side = 1 if rng.uniform() < 0.5 else -1
        y = side * 0.17 * height
        build.box(
            [-0.16, y - 0.05, 0.26 * height], [0.16, y + 0.05, 0.41 * height], color, 'cloth'
        )


def _stroller(build: Builder, start_m: float, handle_m: float, color: Color) -> None:
    dark: Color = (0.13, 0.13, 0.14)
    low, high = start_m + 0.12, start_m + 0.72
    basket = [
        rectangle(low + 0.1, high - 0.1, -0.17, 0.17, 0.38),
        rectangle(low, high, -0.22, 0.22, 0.68),
    ]
    build.loft(basket, color, 'cloth')
    hood = [
        rectangle(low + 0.25, high + 0.03, -0.22, 0.22, 0.68),
        rectangle(low + 0.3, high - 0.02, -0.2, 0.2, 0.88),
        rectangle(low + 0.36, high - 0.12, -0.15, 0.15, 0.98),
    ]
    build.loft(hood, shaded(color, 0.8), 'cloth')
    for side in (-1, 1):
        y = side * 0.24
        handle = [start_m - 0.04, y, handle_m]
        build.tube(handle, [high - 0.05, y, 0.12], (0.015, 0.015), dark, 'metal', corners=3)
        for x in (low + 0.05, high - 0.05):
            middle = np.array([x, y, 0.11])
            build.tube(
                middle - [0, 0.02, 0],
                middle + [0, 0.02, 0],
                (0.11, 0.11),
                dark,
                'rubber',
                corners=8,
            )
    bar = [start_m - 0.04, -0.25, handle_m], [start_m - 0.04, 0.25, handle_m]
    build.tube(*bar, (0.018, 0.018), dark, 'matte', corners=4)
