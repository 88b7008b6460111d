"""What one house looks like, before it is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_training.synthetic.objects.builder import mixed
from bev_training.synthetic.objects.mesh import Color
from bev_training.synthetic.objects.style import ROOFS, Style, chosen


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was drawn for one house; lengths in metres."""

    wall: Color
    ground: Color
    trim: Color
    accent: Color
    roof: str
    floors: int
    floor_m: float
    plinth_m: float
    window_m: tuple[float, float]
    spacing_m: float
    shop: bool
    balconies: bool
    cornices: bool
    bars: bool  # in the windows
    shutters: bool

    @property
    def eaves_m(self) -> float:
        """Where the walls end."""
        return self.plinth_m + self.floors * self.floor_m + 0.25

    @property
    def front_quads(self) -> int:
        """How many rectangles a window in front has besides its pane."""
        return 1 + self.bars + 2 * self.shutters

    def sill_m(self, floor: int) -> float:
        """Return the height of the lower edge of a floor's windows."""
        return self.plinth_m + floor * self.floor_m + 0.62 * (self.floor_m - self.window_m[1])


def draw_look(rng: np.random.Generator, length: float, depth: float, style: Style) -> Look:
    """Return the look of a house of that footprint, in metres."""
    floors = int(rng.integers(style.floors[0], style.floors[1] + 1))
    if min(length, depth) < 7:
        floors = min(floors, 3)
    weights = np.array(style.roof_weights)
    if floors > 5 or min(length, depth) > 19:  # nobody builds a ridge so high
        weights = weights * [1.0, 0.0, 0.0, 0.4]
        weights[0] += 1e-3
    if floors < 2:
        weights[3] = 0.0
    wall = chosen(rng, style.walls)
    other = chosen(rng, style.walls)
    width, height = style.window_m
    scale = float(rng.uniform(0.88, 1.15))
    floor_m = style.floor_height_m * float(rng.uniform(0.96, 1.06))
    spacing_m = style.window_spacing_m * float(rng.uniform(0.9, 1.2))
    roomy = spacing_m > 1.7 * width * scale + 0.4
    return Look(
        wall=wall,
        ground=mixed(other, (0.4, 0.36, 0.33), 0.35) if rng.uniform() < style.base_share else wall,
        trim=chosen(rng, style.trims),
        accent=chosen(rng, style.doors),
        roof=ROOFS[int(rng.choice(len(ROOFS), p=weights / weights.sum()))],
        floors=floors,
        floor_m=floor_m,
        plinth_m=float(rng.uniform(0.25, 0.7)),
        window_m=(width * scale, min(height, 0.66 * floor_m)),
        spacing_m=spacing_m,
        shop=bool(length > 7 and rng.uniform() < style.shopfront_share),
        balconies=bool(floors >= 3 and rng.uniform() < style.balcony_share),
        cornices=bool(rng.uniform() < style.cornice_share),
        bars=bool(rng.uniform() < 0.6),
        shutters=bool(roomy and floors <= 4 and rng.uniform() < style.shutter_share),
    )
