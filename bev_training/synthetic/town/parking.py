"""Where vehicles are parked: car parks inside the blocks, and bays beside the lanes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely import Polygon

from bev_perception.shapes import Array
from bev_training.synthetic.town.network import Network, Street
from bev_training.synthetic.town.plan import PARKING_M, Plan
from bev_training.synthetic.town.surfaces import Streets, multi

BAY_M = (5.0, 2.5)  # in car parks: length, width
ROADSIDE_M = 6.2
_SHARE = 0.5  # of blocks that have a car park
_DRIVEWAY_M = 6.0
_AWAY_M = 6.0  # between bays and intersections or crosswalks


@dataclass(frozen=True, eq=False, kw_only=True)
class Carpark:
    """A car park beside a street.

    Attributes:
        area: with its driveway, without the street.
        whole: the same, reaching into the street.
        street, left, along_m: where its driveway begins.
        bays: (P, 4) as in `Town`.
        lines: (L, 2, 2) between bays.
    """

    area: Polygon
    whole: Polygon
    street: int
    left: bool
    along_m: float
    bays: Array
    lines: Array


def make_carparks(
    rng: np.random.Generator, network: Network, streets: Streets, plan: Plan
) -> tuple[Carpark, ...]:
    """Return the car parks: at most one in each block."""
    sides = [
        (i, left)
        for i, s in enumerate(network.streets)
        if s.length_m > 34
        for left in (False, True)
    ]
    carparks = []
    for block in streets.blocks:
        if rng.random() > _SHARE or block.area < 1200:
            continue
        room = block.buffer(-0.5)
        shapely.prepare(room)
        for k in rng.permutation(len(sides)):
            street, left = sides[k]
            found = _beside(rng, network.streets[street], street, left, room, streets, plan)
            if found:
                carparks.append(found)
                break
    return tuple(carparks)


def _beside(
    rng: np.random.Generator,
    street: Street,
    number: int,
    left: bool,
    room: Polygon,
    streets: Streets,
    plan: Plan,
) -> Carpark | None:
    """Return a car park beside a street, or None if it has no room there."""
    sign = 1 if left else -1
    half = street.half_width_m[0 if left else 1]
    along = rng.uniform(0.4, 0.6) * street.length_m
    near = plan.walkway_m + 0.7
    kerb = street.at(along, sign * half)
    inwards = street.at(along, sign * (half + 1)) - kerb
    if not shapely.contains_xy(room, *(kerb + inwards * (near + 8))):
        return None
    frame = np.stack([np.array([inwards[1], -inwards[0]]), inwards])  # rows: along, inwards
    wanted = rng.uniform(26, 46)
    for depth in (rng.uniform(33, 34), rng.uniform(18, 20)):
        for length in (wanted, wanted * 0.75, 18.0):
            corners = np.array([[-1, near], [1, near], [1, near + depth], [-1, near + depth]])
            place = Polygon(corners * (length / 2, 1) @ frame + kerb)
            if not room.contains(place):
                continue
            d = _DRIVEWAY_M / 2
            way = np.array([[-d, -0.6], [d, -0.6], [d, near + 0.5], [-d, near + 0.5]])
            whole = shapely.union(place, Polygon(way @ frame + kerb))
            area = max(multi(whole - streets.paved).geoms, key=lambda p: p.area)
            bays, lines = _rows(length, depth)
            yaw = np.arctan2(inwards[1], inwards[0])
            at = (bays + (0, near)) @ frame + kerb
            full = np.full(len(at), BAY_M[0])
            return Carpark(
                area=area,
                whole=shapely.geometry.polygon.orient(whole),
                street=number,
                left=left,
                along_m=float(along),
                bays=np.column_stack([at, np.full(len(at), yaw), full]),
                lines=(lines + (0, near)) @ frame + kerb,
            )
    return None


def _rows(length: float, depth: float) -> tuple[Array, Array]:
    """Return the middles (P, 2) of bays and lines (L, 2, 2) between them.

    In a frame whose x is along the street, 0 in the middle, and y inwards, 0 at the near edge.
    """
    long, wide = BAY_M
    rows = [(long / 2 + 0.3, 0.5), (depth - long / 2 - 0.3, 0.5)]
    if depth > 30:
        rows += [(depth / 2 - long / 2, 6.5), (depth / 2 + long / 2, 6.5)]
    bays, lines = [], []
    for row, (y, margin) in enumerate(rows):
        count = int((length - 2 * margin) / wide)
        x = (np.arange(count) - (count - 1) / 2) * wide
        if row == 0:
            x = x[np.abs(x) > _DRIVEWAY_M / 2 + wide / 2 + 0.3]
        bays += [(at, y) for at in x]
        edges = np.unique(np.round(np.concatenate([x - wide / 2, x + wide / 2]), 6))
        lines += [[(at, y - long / 2), (at, y + long / 2)] for at in edges]
    return np.array(bays).reshape(-1, 2), np.array(lines).reshape(-1, 2, 2)


def roadside(street: Street, left: bool, driveways_m: list[float], plan: Plan) -> Array:
    """Return where along a street the bays on one side begin, are halfway, and end (P, 3)."""
    if not street.parking[0 if left else 1]:
        return np.zeros((0, 3))
    # spaced along the parking lane itself, which is shorter than the street inside a curve
    line = street.parallel(_beside_lanes_m(street, left, plan), 0.5)
    at_m = np.linspace(0, street.length_m, len(line))
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    knots = np.concatenate([[0.0], np.cumsum(steps)])
    low, high = np.interp([street.clear_m(0), street.length_m - street.clear_m(1)], at_m, knots)
    count = int(max(high - low - 2 * _AWAY_M, 0) / ROADSIDE_M)
    middles = (low + high) / 2 + np.arange(0.5 - count / 2, count / 2) * ROADSIDE_M
    middles = middles[:count, None] + np.array([-0.5, 0, 0.5]) * ROADSIDE_M
    for way in np.interp(driveways_m, at_m, knots):
        clear = np.abs(middles[:, 1] - way) > _DRIVEWAY_M / 2 + ROADSIDE_M / 2 + 1.0
        middles = middles[clear]
    along: Array = np.interp(middles, knots, at_m)
    return along


def _beside_lanes_m(street: Street, left: bool, plan: Plan) -> float:
    """Return how far left of the street's line the middle of a parking lane is."""
    return (1 if left else -1) * (street.lanes_each_way * plan.lane_m + PARKING_M / 2)


def make_bays(network: Network, carparks: tuple[Carpark, ...], plan: Plan) -> Array:
    """Return all parking places (P, 4): roadside first, then those of car parks."""
    found = [np.zeros((0, 4))]
    for i, street in enumerate(network.streets):
        for left in (False, True):
            along = roadside(street, left, driveways(carparks, i, left), plan)[:, 1]
            at = street.at(along, _beside_lanes_m(street, left, plan))
            side = street.at(along, 1.0) - street.at(along, 0.0)
            ahead = np.stack([side[:, 1], -side[:, 0]], -1) * (-1 if left else 1)
            yaw = np.arctan2(ahead[:, 1], ahead[:, 0])
            found.append(np.column_stack([at, yaw, np.full(len(at), ROADSIDE_M)]))
    return np.concatenate([*found, *(park.bays for park in carparks)])


def driveways(carparks: tuple[Carpark, ...], street: int, left: bool) -> list[float]:
    """Return where along a street there are driveways on one side."""
    return [p.along_m for p in carparks if p.street == street and p.left == left]
