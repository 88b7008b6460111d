"""Roofs of houses."""

from __future__ import annotations

import numpy as np

from bev_training.synthetic.objects.builder import Builder, mixed, rectangle
from bev_training.synthetic.objects.look import Look
from bev_training.synthetic.objects.mesh import Color

PANE: Color = (0.20, 0.25, 0.30)
_FASCIA_M = 0.16
_LEDGE_M = 0.05  # behind it, room for paint on gables


def roof(
    build: Builder,
    rng: np.random.Generator,
    outline: tuple[float, float, float, float],
    look: Look,
    color: Color,
) -> None:
    """Add the roof; its eaves or its cornice reach the sides of the outline x0, x1, y0, y1."""
    if look.roof == 'flat':
        _flat(build, rng, outline, look, color)
        return
    low = rectangle(*outline, look.eaves_m)
    eaves = look.eaves_m + _FASCIA_M
    rings = [low, low + [0, 0, _FASCIA_M], rectangle(*_inset(outline, _LEDGE_M), eaves)]
    build.loft(rings, look.trim, 'wall', top=False)
    if look.roof == 'mansard':
        _mansard(build, rng, _inset(outline, _LEDGE_M), eaves, look, color)
    else:
        _pitched(build, rng, _inset(outline, _LEDGE_M), eaves, look, color)


def _inset(
    outline: tuple[float, float, float, float], by: float
) -> tuple[float, float, float, float]:
    x0, x1, y0, y1 = outline
    return x0 + by, x1 - by, y0 + by, y1 - by


def _flat(
    build: Builder,
    rng: np.random.Generator,
    outline: tuple[float, float, float, float],
    look: Look,
    color: Color,
) -> None:
    z, rise = look.eaves_m, float(rng.uniform(0.3, 0.9))
    inner = _inset(outline, 0.35)
    rings = [
        rectangle(*outline, z - 0.25), rectangle(*outline, z + rise),
        rectangle(*inner, z + rise), rectangle(*inner, z + 0.08),
    ]  # fmt: skip
    build.loft(rings, mixed(look.wall, look.trim, 0.5), 'wall', top=False)
    build.polygon(rings[-1], color, 'roof')
    _roof_boxes(build, rng, _inset(outline, 1.0), z)


def _mansard(
    build: Builder,
    rng: np.random.Generator,
    outline: tuple[float, float, float, float],
    eaves: float,
    look: Look,
    color: Color,
) -> None:
    """Add a steep roof with a row of dormers and a flat one above it."""
    x0, x1, y0, _ = outline
    slope, inset = float(rng.uniform(2.2, 2.9)), min(0.8, 0.05 * (x1 - x0))
    rings = [
        rectangle(*outline, eaves),
        rectangle(*_inset(outline, inset), eaves + slope),
        rectangle(*_inset(outline, 2 * inset), eaves + slope + 0.5),
    ]
    build.loft(rings, color, 'roof')
    count = max(int((x1 - x0 - 2) / (1.3 * look.spacing_m)), 1)
    for at in x0 + (np.arange(count) + 0.5) * ((x1 - x0) / count):
        low, high = eaves + 0.4, eaves + 1.9
        dormer = build.box(
            [at - 0.6, y0 + 0.15 * inset, low], [at + 0.6, y0 + 2 * inset, high], look.trim, 'wall'
        )
        build.pane(dormer[3], PANE, 'window', (0.15, 0.85), (0.1, 0.88))
    _chimneys(build, rng, outline, eaves + slope + 0.3, 1.0)


def _pitched(
    build: Builder,
    rng: np.random.Generator,
    outline: tuple[float, float, float, float],
    eaves: float,
    look: Look,
    color: Color,
) -> None:
    """Add a gabled or hipped roof; its ridge runs along the longer side."""
    x0, x1, y0, y1 = outline
    span = min(x1 - x0, y1 - y0)
    rise = span / 2 * float(rng.uniform(0.55, 0.95))
    inset = 0.0 if look.roof == 'gabled' else span / 2 * float(rng.uniform(0.7, 0.97))
    x, y, top = (x0 + x1) / 2, (y0 + y1) / 2, eaves + rise
    if x1 - x0 >= y1 - y0:
        ridge = rectangle(x0 + inset, x1 - inset, y - 0.02, y + 0.02, top)
        ends = (0, 2)
    else:
        ridge = rectangle(x - 0.02, x + 0.02, y0 + inset, y1 - inset, top)
        ends = (1, 3)
    foot = rectangle(*outline, eaves)
    sides = np.stack([foot, np.roll(foot, -1, axis=0), np.roll(ridge, -1, axis=0), ridge], 1)
    for i in range(4):
        gable = look.roof == 'gabled' and i in ends
        build.quads(sides[i][None], look.wall if gable else color, 'wall' if gable else 'roof')
        if gable and rise > 2.2:
            low, high = 0.12, min(0.12 + 1.3 / rise, 0.55)
            half = 0.55 / span  # u narrows with height: the window's sides lean a little
            build.pane(sides[i], look.trim, 'wall', (0.47 - half, 0.53 + half), (low, high))
            build.pane(
                sides[i], PANE, 'window', (0.48 - half, 0.52 + half),
                (low + 0.02, high - 0.02), lift_m=0.03,
            )  # fmt: skip
    build.polygon(ridge, color, 'roof')
    _chimneys(build, rng, outline, eaves + 0.35 * rise, 0.65 * rise + 0.5)


def _chimneys(
    build: Builder,
    rng: np.random.Generator,
    outline: tuple[float, float, float, float],
    z: float,
    height: float,
) -> None:
    x0, x1, y0, y1 = outline
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform([0.2, 0.4], [0.8, 0.6])
        at = np.array([x0 + x * (x1 - x0), y0 + y * (y1 - y0), z])
        tone = np.array([0.46, 0.33, 0.28]) * rng.uniform(0.7, 1.3)
        build.box(at - [0.3, 0.25, 0], at + [0.3, 0.25, height], tone, 'wall')


def _roof_boxes(
    build: Builder, rng: np.random.Generator, room: tuple[float, float, float, float], z: float
) -> None:
    """Add a stairhead and machines to a flat roof."""
    x0, x1, y0, y1 = room
    if x1 - x0 < 3 or y1 - y0 < 3:
        return
    for _ in range(int(rng.integers(0, 4))):
        size = rng.uniform([0.8, 0.8, 0.7], [2.8, 2.6, 2.4])
        size = np.minimum(size, [x1 - x0, y1 - y0, 9.0])
        at = np.array([rng.uniform(x0, x1 - size[0]), rng.uniform(y0, y1 - size[1]), z])
        tone = rng.uniform(0.4, 0.75)
        build.box(at, at + size + [0, 0, 0.1], (tone, tone, 0.98 * tone), 'metal')
