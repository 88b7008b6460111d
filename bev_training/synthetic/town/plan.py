"""What is the same all over one town: widths, curves and the style of the paint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bev_training.synthetic.town.town import Color

PARKING_M = 2.3
GUTTER_M = 0.25  # between the outermost lane and the kerb


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Numbers and styles of one town.

    Attributes:
        lane_m: width of lanes.
        walkway_m: width of sidewalks.
        kerb_radius_m: of the corners of intersections.
        curves: 0 .. 1: how much roads leave the straight grid.
        rotation_rad: of the grid.
        removed: share of the grid's edges that have no road.
        avenues: share of rows and columns with two lanes each way.
        parking: share of road sides with a parking lane.
        white, yellow: paint.
        dash_m: (painted, gap).
        centre_yellow: lines between directions are yellow.
        edge_lines: a line between parking lanes and lanes.
        bay_marks: lines between roadside bays.
        crosswalk: bars only, or also lines along the crosswalk's sides.
        arrows: before intersections of avenues.
    """

    lane_m: float
    walkway_m: float
    kerb_radius_m: float
    curves: float
    rotation_rad: float
    removed: float
    avenues: float
    parking: float
    white: Color
    yellow: Color
    dash_m: tuple[float, float]
    centre_yellow: bool
    edge_lines: bool
    bay_marks: bool
    crosswalk: Literal['zebra', 'ladder']
    arrows: bool


def draw_plan(rng: np.random.Generator) -> Plan:
    """Return the plan of a town."""
    white, warm, worn = rng.uniform((0.75, 0.93, 0.72), (0.9, 1.0, 0.88))
    return Plan(
        lane_m=float(rng.uniform(3.2, 3.6)),
        walkway_m=float(rng.uniform(2.0, 3.5)),
        kerb_radius_m=float(rng.uniform(4, 8)),
        curves=float(rng.uniform(0.15, 1.0)),
        rotation_rad=float(rng.uniform(-0.2, 0.2)),
        removed=float(rng.uniform(0.12, 0.22)),
        avenues=float(rng.uniform(0.15, 0.45)),
        parking=float(rng.uniform(0.3, 0.75)),
        white=(float(white), float(white), float(white * warm)),
        yellow=(float(worn), float(worn * 0.78), float(worn * 0.22)),
        dash_m=((3.0, 6.0), (2.0, 4.0))[rng.integers(2)],
        centre_yellow=bool(rng.random() < 0.6),
        edge_lines=bool(rng.random() < 0.7),
        bay_marks=bool(rng.random() < 0.6),
        crosswalk=('zebra', 'ladder')[rng.integers(2)],
        arrows=bool(rng.random() < 0.7),
    )
