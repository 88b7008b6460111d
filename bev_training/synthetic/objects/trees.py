"""Trees of several kinds."""

from __future__ import annotations

from colorsys import hsv_to_rgb

import numpy as np
import numpy.typing as npt

from bev_perception.shapes import Array
from bev_training.synthetic.objects.builder import Builder, icosphere, shaded
from bev_training.synthetic.objects.mesh import Color, Mesh
from bev_training.synthetic.objects.style import TREE_KINDS, Style


def tree(rng: np.random.Generator, style: Style) -> Mesh:
    """Return a tree of 4 to 14 m; the kind is drawn from the town's mix."""
    kind = TREE_KINDS[int(rng.choice(len(TREE_KINDS), p=style.tree_weights))]
    build = Builder()
    bark = shaded((0.34, 0.27, 0.20), float(rng.uniform(0.6, 1.25)))
    leaf = _leaf_color(rng, style, evergreen=kind == 'conifer')
    if kind == 'round':
        height = float(rng.uniform(5.0, 11.0))
        radius = height * float(rng.uniform(0.24, 0.34))
        middle = height - float(rng.uniform(0.95, 1.15)) * radius
        _trunk(build, rng, middle, 0.020 * height, bark)
        _lump(build, rng, [0, 0, middle], [radius, radius, height - middle], leaf, 0.14)
        offset = rng.normal(0, 0.25, 2) * radius
        _lump(
            build,
            rng,
            [*offset, middle - 0.3 * radius],
            [0.9 * radius, 0.9 * radius, 0.65 * radius],
            leaf,
            0.16,
        )
    elif kind == 'lumpy':
        height = float(rng.uniform(6.5, 12.5))
        radius = height * float(rng.uniform(0.17, 0.22))
        _trunk(build, rng, 0.6 * height, 0.024 * height, bark)
        turn = rng.uniform(0, 2 * np.pi)
        for number in range(3):
            angle = turn + number * 2.1
            at = [
                0.75 * radius * np.cos(angle),
                0.75 * radius * np.sin(angle),
                height * (0.50 + 0.11 * number),
            ]
            size = radius * rng.uniform(0.95, 1.3)
            _lump(build, rng, at, [size, size, 0.85 * size], leaf, 0.15)
    elif kind == 'conifer':
        height = float(rng.uniform(6.0, 14.0))
        radius = height * float(rng.uniform(0.15, 0.22))
        _trunk(build, rng, 0.3 * height, 0.018 * height, bark)
        _conifer(build, rng, height, radius, leaf)
    elif kind == 'poplar':
        height = float(rng.uniform(7.0, 12.5))
        radius = height * float(rng.uniform(0.09, 0.13))
        _trunk(build, rng, 0.3 * height, 0.018 * height, bark)
        for up, wide, high in ((0.42, 1.05, 0.30), (0.66, 0.9, 0.34)):
            radii = [wide * radius, wide * radius, high * height]
            _lump(build, rng, [0, 0, up * height], radii, leaf, 0.13)
    else:
        _young(build, rng, float(rng.uniform(4.0, 6.5)), leaf, bark)
    return build.mesh()


def _leaf_color(rng: np.random.Generator, style: Style, *, evergreen: bool) -> Color:
    hue = style.foliage_hue + rng.normal(0, 0.015)
    saturation = style.foliage_saturation * rng.uniform(0.85, 1.15)
    value = style.foliage_value * rng.uniform(0.85, 1.15)
    if evergreen:
        hue, value = hue + 0.05, 0.75 * value
    elif rng.uniform() < style.autumn_share:
        hue, saturation, value = (
            rng.uniform(0.03, 0.15),
            rng.uniform(0.6, 0.8),
            rng.uniform(0.5, 0.75),
        )
    return hsv_to_rgb(hue % 1.0, min(saturation, 0.9), min(value, 0.9))


def _leaves(rng: np.random.Generator, corners: Array, color: Color) -> Array:
    """Return colours (F, 3) of triangles (F, 3, 3): darker below, each a little off."""
    z = corners[..., 2].mean(1)
    rise = (z - z.min()) / max(float(np.ptp(z)), 1e-6)
    light = (0.70 + 0.42 * rise) * rng.normal(1.0, 0.11, len(corners))
    tint = rng.normal(0.0, 0.012, (len(corners), 3))
    return np.asarray(color) * np.clip(light, 0.4, 1.5)[:, None] + tint


def _lump(
    build: Builder,
    rng: np.random.Generator,
    middle: npt.ArrayLike,
    radii_m: npt.ArrayLike,
    color: Color,
    rough: float,
) -> None:
    points, faces = icosphere()
    lumps = 1 + np.clip(rng.normal(0, rough, len(points)), -1.6 * rough, 1.6 * rough)
    turn = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    turned = points @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    corners = (np.asarray(middle, float) + turned * lumps[:, None] * np.asarray(radii_m))[faces]
    build.triangles(corners, _leaves(rng, corners, color), 'foliage')


def _trunk(
    build: Builder, rng: np.random.Generator, top: float, radius: float, bark: Color
) -> Array:
    lean = [*(rng.normal(0, 0.03, 2) * top), top]
    build.tube([0, 0, 0], [0, 0, 0.5], (1.4 * radius, radius), bark, 'matte', corners=6)
    build.tube([0, 0, 0.4], lean, (1.02 * radius, 0.55 * radius), bark, 'matte', corners=6)
    return np.array(lean)


def _conifer(
    build: Builder, rng: np.random.Generator, height: float, radius: float, color: Color
) -> None:
    """Add a stack of ragged cones."""
    tiers = int(rng.integers(4, 7))
    foot = height * float(rng.uniform(0.08, 0.18))
    edges = np.linspace(foot, height, tiers + 1)
    for number in range(tiers):
        low = edges[number]
        top = height if number == tiers - 1 else edges[number + 1] + 0.35 * (edges[1] - foot)
        wide = radius * (1 - (low - foot) / (height - foot) * 0.92)
        angle = (np.arange(10) + rng.uniform()) * (2 * np.pi / 10)
        reach = wide * rng.normal(1.0, 0.10, 10).clip(0.75, 1.25)
        droop = low - rng.uniform(0.0, 0.12, 10) * (edges[1] - foot)
        ring = np.stack([reach * np.cos(angle), reach * np.sin(angle), droop], -1)
        following = np.roll(ring, -1, axis=0)
        tip = np.broadcast_to([0.0, 0.0, top], ring.shape)
        hub = np.broadcast_to([0.0, 0.0, low + 0.15 * (top - low)], ring.shape)
        upper, lower = np.stack([ring, following, tip], 1), np.stack([following, ring, hub], 1)
        share = 0.85 + 0.3 * number / tiers
        light = np.concatenate([rng.normal(share, 0.1, 10), rng.normal(0.55, 0.05, 10)])
        build.triangles(
            np.concatenate([upper, lower]), np.asarray(color) * light[:, None], 'foliage'
        )


def _young(
    build: Builder, rng: np.random.Generator, height: float, leaf: Color, bark: Color
) -> None:
    """Add a thin tree with visible branches and tufts at their ends."""
    fork = 0.45 * height
    top = _trunk(build, rng, fork, 0.012 * height, bark)
    turn = rng.uniform(0, 2 * np.pi)
    points, faces = icosphere()
    coarse = faces.reshape(-1, 4, 3)[:, :3, 0]  # the twenty faces before they were split
    for number in range(8):
        angle = turn + number * 2.4
        out = height * rng.uniform(0.10, 0.17) * (0.25 if number == 7 else 1)
        rise = height * (0.48 + 0.055 * number) if number < 7 else 0.90 * height
        end = np.array([out * np.cos(angle), out * np.sin(angle), rise])
        start = top * rng.uniform(0.75, 1.0)
        build.tube(start, end, (0.028, 0.012), bark, 'matte', corners=4)
        size = height * rng.uniform(0.07, 0.105)
        lumps = 1 + rng.normal(0, 0.14, len(points)).clip(-0.3, 0.3)
        ball = end + points * lumps[:, None] * [size, size, 0.85 * size]
        corners = ball[coarse]
        build.triangles(corners, _leaves(rng, corners, leaf), 'foliage')
