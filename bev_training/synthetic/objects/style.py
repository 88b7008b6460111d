"""The taste of one town: colours, heights, windows, trees and cars."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from dataclasses import dataclass

import numpy as np

from bev_training.synthetic.objects.mesh import Color

TREE_KINDS = ('round', 'lumpy', 'conifer', 'poplar', 'young')
ROOFS = ('flat', 'gabled', 'hipped', 'mansard')
PAINTS: dict[str, Color] = {
    'white': (0.90, 0.90, 0.89),
    'silver': (0.70, 0.71, 0.72),
    'grey': (0.42, 0.43, 0.45),
    'anthracite': (0.22, 0.23, 0.25),
    'black': (0.08, 0.08, 0.09),
    'navy': (0.11, 0.17, 0.33),
    'blue': (0.15, 0.36, 0.66),
    'red': (0.70, 0.10, 0.10),
    'wine': (0.38, 0.08, 0.12),
    'green': (0.16, 0.33, 0.22),
    'beige': (0.76, 0.70, 0.58),
    'brown': (0.34, 0.25, 0.19),
    'yellow': (0.90, 0.72, 0.13),
    'orange': (0.86, 0.40, 0.10),
}
_USUAL = (0.21, 0.13, 0.15, 0.10, 0.15, 0.05, 0.06, 0.06, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01)
_WARM = (0.02, 0.05, 0.075, 0.10, 0.12, 0.14)  # hues of plaster, brick and sandstone
_COOL = (0.33, 0.45, 0.56, 0.62, 0.95)
_TILES: tuple[tuple[Color, ...], ...] = (
    ((0.55, 0.26, 0.18), (0.62, 0.33, 0.22), (0.48, 0.24, 0.19)),  # clay
    ((0.25, 0.26, 0.29), (0.33, 0.34, 0.37), (0.20, 0.20, 0.22)),  # slate
    ((0.40, 0.29, 0.22), (0.35, 0.26, 0.21), (0.46, 0.36, 0.28)),  # brown concrete tiles
    ((0.36, 0.44, 0.40), (0.42, 0.46, 0.47), (0.30, 0.33, 0.35)),  # sheet metal, old copper
)
_FLAT: tuple[Color, ...] = ((0.45, 0.45, 0.44), (0.56, 0.54, 0.51), (0.30, 0.30, 0.31))


@dataclass(frozen=True, kw_only=True)
class Style:
    """One town's taste; colours are sRGB in 0..1, shares and weights sum to 1 where they must.

    Attributes:
        walls: palette of facades.
        roofs: palette of pitched roofs.
        flat_roofs: palette of flat roofs.
        trims: palette of window frames, cornices and balconies.
        doors: palette of doors, awnings and shop signs.
        base_share: of the buildings that have a ground floor of another colour.
        floors: (fewest, most) storeys.
        floor_height_m: of a storey.
        roof_weights: of `ROOFS`.
        window_m: (width, height) of a window.
        window_spacing_m: from one window's middle to the next.
        shopfront_share: of the buildings.
        balcony_share: of the buildings with three floors and more.
        cornice_share: of the buildings with bands between the floors.
        shutter_share: of the buildings of up to four floors.
        foliage_hue: HSV hue of leaves.
        foliage_saturation: HSV saturation of leaves.
        foliage_value: HSV value of leaves.
        autumn_share: of the leaf trees that are yellow, orange or red.
        tree_weights: of `TREE_KINDS`.
        paint_weights: of `PAINTS`.
        bus_color: of the town's buses.
    """

    walls: tuple[Color, ...]
    roofs: tuple[Color, ...]
    flat_roofs: tuple[Color, ...]
    trims: tuple[Color, ...]
    doors: tuple[Color, ...]
    base_share: float
    floors: tuple[int, int]
    floor_height_m: float
    roof_weights: tuple[float, ...]
    window_m: tuple[float, float]
    window_spacing_m: float
    shopfront_share: float
    balcony_share: float
    cornice_share: float
    shutter_share: float
    foliage_hue: float
    foliage_saturation: float
    foliage_value: float
    autumn_share: float
    tree_weights: tuple[float, ...]
    paint_weights: tuple[float, ...]
    bus_color: Color


def draw_style(rng: np.random.Generator) -> Style:
    """Return a town's taste."""
    urban = float(rng.uniform())  # 0: village, 1: city
    fewest = 1 + int(urban * 3.4 + rng.uniform(0, 0.6))
    most = fewest + 1 + int(urban * 4 + rng.uniform(0, 0.9))
    flat = float(np.clip(0.9 * urban + rng.normal(-0.05, 0.2), 0.03, 0.97))
    pitched = (1 - flat) * rng.dirichlet([1.6, 1.2, 0.3 + 1.5 * urban])
    width = float(rng.uniform(0.9, 1.7))
    return Style(
        walls=_walls(rng),
        roofs=_TILES[int(rng.integers(len(_TILES)))],
        flat_roofs=_FLAT,
        trims=_trims(rng),
        doors=tuple(
            _hsv(rng.uniform(-0.1, 0.68), rng.uniform(0.25, 0.7), rng.uniform(0.15, 0.6))
            for _ in range(6)
        ),
        base_share=float(rng.uniform(0.0, 0.5)),
        floors=(fewest, most),
        floor_height_m=float(rng.uniform(2.75, 3.4)),
        roof_weights=(flat, *pitched.tolist()),
        window_m=(width, float(rng.uniform(1.15, 1.9))),
        window_spacing_m=width + float(rng.uniform(0.7, 1.7)),
        shopfront_share=float(rng.uniform(0.02, 0.25) + 0.4 * urban),
        balcony_share=float(rng.uniform(0.0, 0.6)),
        cornice_share=float(rng.uniform(0.1, 0.8)),
        shutter_share=max(float(rng.uniform(-0.5, 0.7)), 0.0),
        foliage_hue=float(rng.uniform(0.19, 0.32)),
        foliage_saturation=float(rng.uniform(0.28, 0.62)),
        foliage_value=float(rng.uniform(0.30, 0.47)),
        autumn_share=float(rng.choice([0.0, 0.04, 0.2, 0.6], p=[0.45, 0.3, 0.15, 0.1])),
        tree_weights=tuple(rng.dirichlet([1.3, 1.3, 0.8, 0.5, 0.6]).tolist()),
        paint_weights=tuple(rng.dirichlet(np.array(_USUAL) * 28 + 0.15).tolist()),
        bus_color=_hsv(rng.uniform(-0.05, 0.7), rng.uniform(0.5, 0.9), rng.uniform(0.45, 0.9)),
    )


def chosen(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 0.03) -> Color:
    """Return a colour of a palette, a little off."""
    color = np.array(colors[int(rng.integers(len(colors)))])
    r, g, b = np.clip(color * (1 + rng.normal(0, spread)) + rng.normal(0, 0.008, 3), 0.02, 0.98)
    return (float(r), float(g), float(b))


def paint(rng: np.random.Generator, style: Style) -> Color:
    """Return the colour of a car."""
    at = int(rng.choice(len(PAINTS), p=style.paint_weights))
    return chosen(rng, (tuple(PAINTS.values())[at],), 0.06)


def _hsv(hue: float, saturation: float, value: float) -> Color:
    return hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(value, 1.0))


def _walls(rng: np.random.Generator) -> tuple[Color, ...]:
    """Return 4 to 7 facade colours around one or two hues."""
    hues = [rng.choice(_WARM), rng.choice(_COOL) if rng.uniform() < 0.35 else rng.choice(_WARM)]
    strength = rng.uniform(0.05, 0.40)
    light = rng.uniform(0.5, 0.88)
    walls = []
    for number in range(int(rng.integers(4, 8))):
        hue = hues[0] if number < 3 else hues[1]
        saturation = strength * rng.uniform(0.5, 1.25)
        walls.append(
            _hsv(
                hue + rng.normal(0, 0.012),
                saturation,
                np.clip(light * rng.normal(1, 0.13), 0.3, 0.93),
            )
        )
    if rng.uniform() < 0.5:  # towns have a share of grey and of white houses
        walls[-1] = _hsv(0.1, 0.04, rng.uniform(0.55, 0.92))
    return tuple(walls)


def _trims(rng: np.random.Generator) -> tuple[Color, ...]:
    white, dark = (0.88, 0.88, 0.86), (0.24, 0.24, 0.25)
    wood = _hsv(0.07, 0.5, rng.uniform(0.25, 0.5))
    mixes: tuple[tuple[Color, ...], ...] = (
        (white, white, wood),
        (white, dark),
        (dark, dark, (0.5, 0.5, 0.5)),
        (wood, white, _hsv(rng.uniform(0.3, 0.6), 0.3, 0.4)),
    )
    return mixes[int(rng.integers(len(mixes)))]
