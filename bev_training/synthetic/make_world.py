"""Puts a town, what stands in it, its traffic and the weather together to the world of a drive."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bev_training.synthetic.conditions import draw_conditions
from bev_training.synthetic.limits import check_drive, check_seed
from bev_training.synthetic.objects.motion import Motion, drive_along
from bev_training.synthetic.objects.placing import Placing
from bev_training.synthetic.objects.scenery import make_scenery
from bev_training.synthetic.objects.style import Style, draw_style
from bev_training.synthetic.objects.traffic import Occupied, length_of, walk_lanes
from bev_training.synthetic.rig import Vehicle
from bev_training.synthetic.town.make import make_town
from bev_training.synthetic.town.town import Color, Town
from bev_training.synthetic.world import Actor, Palette, World

# Streams of random numbers; `make_town` takes (seed, 0) to (seed, 3).
_WEATHER, _DRIVE, _LOOK = 11, 12, 13


def make_world(
    *,
    seed: int = 0,
    seconds: float = 8.0,
    speed_mps: float = 8.0,
    weather: str = 'any',
    town_seed: int | None = None,
    vehicle: Vehicle | None = None,
) -> World:
    """Build the world of a drive.

    Args:
        seed: of the drive (its way, traffic, weather), and of the town without a `town_seed`.
        seconds: length of the drive.
        speed_mps: of the vehicle, where curves allow it; 0 stands still.
        weather: one of `conditions.WEATHERS`, or 'any' to draw one.
        town_seed: of map, buildings and trees: drives with the same one are in the same town.
        vehicle: what others keep away from; None takes a car.

    Raises:
        ConfigError: a value is out of its range.
    """
    town_seed = seed if town_seed is None else town_seed
    check_seed('seed', seed)
    check_seed('town_seed', town_seed)
    check_drive(seconds=seconds, speed_mps=speed_mps, weather=weather)
    light = draw_conditions(np.random.default_rng((seed, _WEATHER)), weather)
    town, style, palette, scenery = _town_with_scenery(town_seed)
    rng = np.random.default_rng((seed, _DRIVE))
    ego = _way(rng, town, seconds, speed_mps)
    vehicle = vehicle or Vehicle()
    length, width, _ = vehicle.size_m
    middle = length / 2 - vehicle.rear_overhang_m
    placing = Placing(rng, town, style, Occupied(seconds, ego, (length, width, middle)))
    placing.waiting(share=float(rng.uniform(0.1, 0.45)))
    placing.traffic(per_km=float(rng.uniform(16, 45)), speed_mps=float(rng.uniform(6, 12)))
    placing.parked(share=float(rng.uniform(0.35, 0.9)))
    placing.walkers(per_km=float(rng.uniform(8, 45)))
    sway = np.array([[(0.35, 2.7, 0), (0.13, 7.1, 0)], [(0.30, 2.1, 0), (0.16, 5.3, 0)]], float)
    sway[..., 0] = np.radians(sway[..., 0])
    sway[..., 2] = rng.uniform(0, 2 * np.pi, (2, 2))
    return World(
        seed=seed,
        seconds=seconds,
        town=town,
        palette=palette,
        conditions=light,
        actors=(*scenery, *placing.actors),
        ego=ego,
        sway=sway,
    )


@lru_cache(maxsize=2)  # drives in one town follow each other
def _town_with_scenery(seed: int) -> tuple[Town, Style, Palette, tuple[Actor, ...]]:
    town = make_town(seed)
    rng = np.random.default_rng((seed, _LOOK))
    style, palette = draw_style(rng), _palette(rng)
    scenery = make_scenery(rng, town, style)
    return town, style, palette, scenery


def _palette(rng: np.random.Generator) -> Palette:
    """Draw the colours of a town's ground."""

    def shade(low: float, high: float, warmth: float) -> Color:
        grey, tint = rng.uniform(low, high), rng.uniform(-warmth, warmth)
        return grey + tint, grey + tint / 4, grey - tint

    green = rng.uniform(0, 1)  # lush .. dry
    grass = np.array([0.24, 0.37, 0.13]) * (1 - green) + np.array([0.47, 0.44, 0.25]) * green
    r, g, b = (grass * rng.uniform(0.85, 1.1)).tolist()
    brick = rng.random() < 0.3  # red paving
    tile, earth = shade(0.46, 0.58, 0.02), float(rng.uniform(0.32, 0.44))
    return Palette(
        asphalt=shade(0.24, 0.44, 0.015),
        sidewalk=(tile[0] * 1.1, tile[1] * 0.82, tile[2] * 0.72) if brick else tile,
        parking=shade(0.30, 0.50, 0.02),
        grass=(r, g, b),
        soil=(earth * 1.12, earth, earth * float(rng.uniform(0.68, 0.86))),
        roughness=float(rng.uniform(0.6, 1.4)),
    )


def _way(rng: np.random.Generator, town: Town, seconds: float, speed_mps: float) -> Motion:
    """Choose where the vehicle drives: from the middle of some road, at random turns."""
    numbers = [i for i, lane in enumerate(town.lanes) if lane.road >= 0 and length_of(lane) > 45]
    # not along the edge of the town, where half of the view is fields
    low, high = town.nodes.min(0) + 40, town.nodes.max(0) - 40
    inner = [
        i for i in numbers if ((town.lanes[i].line > low) & (town.lanes[i].line < high)).all()
    ]
    numbers = inner or numbers
    start = numbers[int(rng.integers(len(numbers)))]
    lead = speed_mps + 5  # of way before time 0: motions begin a second earlier
    begin = lead + rng.uniform(0, max(length_of(town.lanes[start]) - lead - 15, 1))
    line = walk_lanes(rng, town, start, begin + speed_mps * (seconds + 3) + 40, straight=0.4)
    return drive_along(line, speed_mps, seconds, begin)
