"""Areas: roads, intersections, sidewalks, crosswalks, land; and the ways of pedestrians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from bev_perception.shapes import Array
from bev_training.synthetic.town.lanes import rounded, smooth
from bev_training.synthetic.town.network import BEND, CROSSING_M, Arm, Network, Street, turn_rad
from bev_training.synthetic.town.plan import Plan

GRID_M = 1e-4  # unions snap to it, so that shared edges vanish
_STEP_M = 1.5
_OUTSIDE_M = 35.0  # land around the outermost streets
_SLIVER_M2 = 60.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Streets:
    """Areas of the streets, without what lies inside the blocks.

    Attributes:
        roads: in the order of the network's streets.
        intersections: in the order of its nodes.
        paved: all of them.
        raised: everything up to the sidewalks' far edges.
        blocks: what the raised area encloses.
        outside: a strip around it.
    """

    roads: tuple[Polygon, ...]
    intersections: tuple[Polygon, ...]
    paved: MultiPolygon
    raised: Polygon
    blocks: tuple[Polygon, ...]
    outside: Polygon


def make_streets(network: Network, plan: Plan) -> Streets:
    """Return the areas of all streets."""
    roads = tuple(
        Polygon(
            np.concatenate([s.parallel(-s.half_width_m[1]), s.parallel(s.half_width_m[0])[::-1]])
        )
        for s in network.streets
    )
    intersections = tuple(_intersection(arms, plan) for arms in network.arms)
    paved = multi(shapely.union_all([*roads, *intersections], grid_size=GRID_M))
    raised = max(multi(paved.buffer(plan.walkway_m)).geoms, key=lambda p: p.area)
    filled = Polygon(raised.exterior)
    return Streets(
        roads=roads,
        intersections=intersections,
        paved=paved,
        raised=raised,
        blocks=tuple(Polygon(ring).normalize() for ring in raised.interiors),
        outside=filled.buffer(_OUTSIDE_M, quad_segs=4) - filled,
    )


def multi(shape: shapely.Geometry) -> MultiPolygon:
    """Return the polygons of any shape, outlines counter-clockwise."""
    parts = [p for p in shapely.get_parts(shape) if isinstance(p, Polygon) and not p.is_empty]
    return MultiPolygon([shapely.geometry.polygon.orient(p) for p in parts])


def corner(arm: Arm, after: Arm, plan: Plan, *, bend: bool, out_m: float = 0.0) -> Array:
    """Return the kerb (N, 2) between two neighbouring arms.

    Args:
        arm: where it begins, on its left side looking outwards.
        after: the next arm counter-clockwise.
        plan: the town's.
        bend: there are no other arms.
        out_m: how far beside the kerb, away from the intersection.
    """
    ahead, onward = -arm.out, after.out
    start, goal = arm.kerb(True), after.kerb(False)
    start = start + out_m * np.array([ahead[1], -ahead[0]])
    goal = goal + out_m * np.array([onward[1], -onward[0]])
    radius = plan.kerb_radius_m * (BEND if bend else 1.0) - out_m
    if turn_rad(ahead, onward) > 0:  # the outside of a bend
        return smooth(start, ahead, goal, onward, 1.0)
    return rounded(start, ahead, goal, onward, 1.0, radius)


def _intersection(arms: tuple[Arm, ...], plan: Plan) -> Polygon:
    outline = [
        corner(arm, arms[(i + 1) % len(arms)], plan, bend=len(arms) == 2)
        for i, arm in enumerate(arms)
    ]
    return Polygon(np.concatenate(outline))


def make_crossings(street: Street) -> list[Polygon]:
    """Return the areas of a street's crosswalks."""
    areas = []
    for end in (0, 1):
        if street.crosswalks[end]:
            near, far = _span(street, end, *CROSSING_M)
            right = street.offset(-street.half_width_m[1], near, far, 1.0)
            left = street.offset(street.half_width_m[0], near, far, 1.0)
            areas.append(Polygon(np.concatenate([right, left[::-1]])))
    return areas


def make_stop_lines(street: Street, plan: Plan) -> list[Polygon]:
    """Return the areas of a street's stop lines: across the lanes that arrive."""
    areas = []
    for end in (0, 1):
        if street.stops[end]:
            near, far = _span(street, end, *street.stop_line_m(end))
            side = -1 if end else 1  # what arrives at the start drives left of the line
            across = sorted((side * 0.3, side * (street.lanes_each_way * plan.lane_m - 0.1)))
            along = np.array([near, far, far, near])
            left = np.array([across[0], across[0], across[1], across[1]])
            areas.append(Polygon(street.at(along, left)))
    return areas


def _span(street: Street, end: int, near: float, far: float) -> tuple[float, float]:
    """Return distances from one end as distances along the street, rising."""
    return (street.length_m - far, street.length_m - near) if end else (near, far)


def make_footpaths(network: Network, plan: Plan) -> tuple[Array, ...]:
    """Return the middles of sidewalks (each with the corner at its end) and of crosswalks.

    Sidewalks come first: two for each street, with the road to the left of who walks along.
    """
    beside = plan.walkway_m / 2
    paths = []
    for street in network.streets:
        for end in (0, 1):
            if end:
                line = street.parallel(street.half_width_m[0] + beside)[::-1]
            else:
                line = street.parallel(-street.half_width_m[1] - beside)
            arms = network.arms[street.ends[1 - end]]
            here = next(k for k, arm in enumerate(arms) if _is(arm, street, network, 1 - end))
            after = arms[(here + 1) % len(arms)]
            turn = corner(arms[here], after, plan, bend=len(arms) == 2, out_m=beside)
            paths.append(np.concatenate([line, turn[1:]]))
    for street in network.streets:
        for end in (0, 1):
            if street.crosswalks[end]:
                along = np.mean(_span(street, end, *CROSSING_M))
                left, right = (width + beside for width in street.half_width_m)
                paths.append(street.at(along, np.linspace(-right, left, 12)))
    return tuple(paths)


def _is(arm: Arm, street: Street, network: Network, end: int) -> bool:
    return network.streets[arm.street] is street and arm.end == end


def make_land(streets: Streets, carparks: tuple[Polygon, ...]) -> MultiPolygon:
    """Return where buildings may stand."""
    parks = shapely.union_all(carparks).buffer(0.5) if carparks else Polygon()
    parts = [
        piece for area in (*streets.blocks, streets.outside) for piece in multi(area - parks).geoms
    ]
    # opened, which takes away slivers; a little short of where it was, to touch nothing
    opened = [piece.buffer(-2.0).buffer(1.9) for piece in parts]
    return MultiPolygon([p for piece in opened for p in multi(piece).geoms if p.area > _SLIVER_M2])
