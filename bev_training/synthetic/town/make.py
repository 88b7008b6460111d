"""Makes towns."""

from __future__ import annotations

import numpy as np
import shapely

from bev_training.synthetic.town.lanes import make_lanes
from bev_training.synthetic.town.markings import bend, lane_dividers, make_markings, road_divider
from bev_training.synthetic.town.network import MARGIN_M, make_network
from bev_training.synthetic.town.parking import make_bays, make_carparks
from bev_training.synthetic.town.plan import draw_plan
from bev_training.synthetic.town.surfaces import (
    GRID_M,
    make_crossings,
    make_footpaths,
    make_land,
    make_stop_lines,
    make_streets,
    multi,
)
from bev_training.synthetic.town.terrain import make_terrain
from bev_training.synthetic.town.town import Road, Town

_STEEPEST = (0.012, 0.04)


def make_town(seed: int, *, blocks: tuple[int, int] = (5, 5)) -> Town:
    """Return the town that belongs to a seed.

    Args:
        seed: any number >= 0; the same one gives the same town.
        blocks: how many blocks along x and y, at least 1 each; some neighbours become one block.
    """
    plan_rng, net_rng, park_rng, terrain_rng = (
        np.random.default_rng((seed, part)) for part in range(4)
    )
    plan = draw_plan(plan_rng)
    network = make_network(net_rng, plan, blocks)
    streets = make_streets(network, plan)
    parks = make_carparks(park_rng, network, streets, plan)
    areas = tuple(park.area for park in parks)
    drivable = multi(
        shapely.union_all([streets.paved, *(park.whole for park in parks)], grid_size=GRID_M)
    )
    stop_lines = [area for s in network.streets for area in make_stop_lines(s, plan)]
    lanes = make_lanes(network, plan)
    bends = tuple(bend(arms) for arms in network.arms if len(arms) == 2)
    far = network.nodes.max(0) + MARGIN_M
    return Town(
        seed=seed,
        size_m=(float(np.ceil(far[0])), float(np.ceil(far[1]))),
        terrain=make_terrain(terrain_rng, float(terrain_rng.uniform(*_STEEPEST))),
        nodes=network.nodes,
        roads=tuple(
            Road(
                line=street.parallel(0.0, 0.9),
                ends=street.ends,
                lanes_each_way=street.lanes_each_way,
                parking=street.parking,
                half_width_m=street.half_width_m,
            )
            for street in network.streets
        ),
        lanes=lanes,
        drivable_area=drivable,
        walkway=multi(streets.raised - drivable),
        intersections=streets.intersections,
        road_areas=streets.roads,
        crossings=tuple(area for s in network.streets for area in make_crossings(s)),
        carparks=areas,
        stop_lines=tuple(stop_lines),
        road_dividers=(*(road_divider(street) for street in network.streets), *bends),
        lane_dividers=tuple(line for s in network.streets for line in lane_dividers(s, plan)),
        markings=make_markings(network, plan, lanes, parks, stop_lines),
        bays=make_bays(network, parks, plan),
        land=make_land(streets, areas),
        footpaths=make_footpaths(network, plan),
    )
