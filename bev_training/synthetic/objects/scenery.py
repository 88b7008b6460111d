"""What stands in a town whoever drives through it: buildings, trees, lamps, signs, signals."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import Polygon, STRtree

from bev_perception.shapes import Array, Rigid
from bev_training.synthetic.objects import buildings, street
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.objects.motion import STEP_M, resampled
from bev_training.synthetic.objects.style import Style
from bev_training.synthetic.town.terrain import Terrain
from bev_training.synthetic.town.town import Road, Town
from bev_training.synthetic.world import Actor

_TREES = 14  # different ones, used again turned about


def make_scenery(rng: np.random.Generator, town: Town, style: Style) -> tuple[Actor, ...]:
    """Return the scenery of a town, along all of its roads."""
    walk_m = _sidewalk_width(town)
    houses, footprints = _buildings(rng, town, style, walk_m)
    free = shapely.difference(town.land, shapely.unary_union(footprints).buffer(1.5))
    trees = _trees(rng, town, style, free, STRtree(footprints), walk_m)
    return (*houses, *trees, *_poles(rng, town, walk_m))


def _sidewalk_width(town: Town) -> float:
    """Return the width of the sidewalks: area over half of the outline is near enough."""
    return float(np.clip(2 * town.walkway.area / max(town.walkway.length, 1), 1.5, 4))


def side_line(road: Road, left: bool, beyond_kerb_m: float) -> tuple[Array, Array]:
    """Return points (N, 2) along a road's side, STEP_M apart, and the headings (N,) there.

    Args:
        road: the road.
        left: which side of its centre line.
        beyond_kerb_m: distance outwards from the kerb.
    """
    path, yaw = resampled(road.line)
    away = road.half_width_m[0 if left else 1] + beyond_kerb_m
    normal = np.stack([-np.sin(yaw), np.cos(yaw)], -1) * (away if left else -away)
    return path + normal, yaw


def rectangle(x: float, y: float, yaw: float, length: float, width: float) -> Polygon:
    """Return the polygon of a rectangle around (x, y), its length along yaw."""
    c, s = np.cos(yaw), np.sin(yaw)
    corners = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)]) * (length / 2, width / 2)
    return Polygon(corners @ np.array([[c, s], [-s, c]]) + (x, y))


def _buildings(
    rng: np.random.Generator, town: Town, style: Style, walk_m: float
) -> tuple[list[Actor], list[Polygon]]:
    """Line the streets with buildings, each facing its street."""
    placed: list[Actor] = []
    footprints: list[Polygon] = []
    middles: list[Array] = []
    land = town.land.buffer(0)
    shapely.prepare(land)
    open_side = rng.random((len(town.roads), 2)) < 0.12  # without buildings
    setback, gap = rng.uniform(0.8, 6.0), rng.uniform(0.5, 9.0)
    for number, road in enumerate(town.roads):
        for left in (True, False):
            if open_side[number, int(left)]:
                continue
            path, yaw = side_line(road, left, walk_m)
            step = round(1 / STEP_M)
            at = int(rng.uniform(2, 8)) * step
            while at < len(path):
                length, depth = rng.uniform(9, 26), rng.uniform(9, 16)
                middle = at + int(length / 2) * step
                if middle >= len(path):
                    break
                back = setback + rng.uniform(0, 1.5)
                for scale in (1.0, 0.8, 0.62):  # smaller where the full one does not fit
                    a, b = length * scale, depth * scale
                    heading = yaw[middle]
                    out = np.array([-np.sin(heading), np.cos(heading)]) * (1 if left else -1)
                    middle_xy = path[middle] + out * (back + b / 2)
                    x, y = middle_xy.tolist()
                    # local -y looks at the street
                    facing = heading if left else heading + np.pi
                    outline = rectangle(x, y, facing, a, b)
                    if land.contains(outline) and not any(
                        outline.distance(other) < 0.4
                        for other in _near(footprints, middles, middle_xy)
                    ):
                        mesh = buildings.building(rng, a, b, style)
                        pose = _sunk(town.terrain, outline, (x, y), facing)
                        placed.append(Actor(category='building', mesh=mesh, map_T_actor=pose))
                        footprints.append(outline)
                        middles.append(middle_xy)
                        break
                at += int(length + gap * rng.uniform(0.4, 1.6)) * step
    return placed, footprints


def _near(outlines: list[Polygon], middles: list[Array], xy: Array) -> list[Polygon]:
    """Return the outlines whose middle lies within 40 m of a point; none is larger."""
    if not middles:
        return []
    near = np.abs(np.array(middles) - xy).max(1) < 40
    return [outlines[i] for i in np.flatnonzero(near)]


def _sunk(terrain: Terrain, outline: Polygon, xy: tuple[float, float], yaw: float) -> Rigid:
    """Return an upright pose so low that no corner hangs over a slope."""
    pose = terrain.pose(xy, yaw, upright=True)
    corners = np.asarray(outline.exterior.coords)[:4, :2]
    pose[2, 3] = float(terrain.height_m(corners).min()) - 0.05
    return pose


def _trees(
    rng: np.random.Generator,
    town: Town,
    style: Style,
    free: shapely.Geometry,
    houses: STRtree,
    walk_m: float,
) -> list[Actor]:
    """Plant trees beside the sidewalks and in what is left of the blocks."""
    kinds = [street.tree(rng, style) for _ in range(_TREES)]
    spots: list[Array] = []
    spacing, present = rng.uniform(8, 16), rng.uniform(0.25, 0.9)
    for road in town.roads:
        for left in (True, False):
            path, _ = side_line(road, left, walk_m + 1.0)
            for at in np.arange(rng.uniform(2, 8), len(path) * STEP_M - 2, spacing):
                if rng.random() < present:
                    spots.append(path[round(at / STEP_M)] + rng.uniform(-0.5, 0.5, 2))
    minx, miny, maxx, maxy = town.land.bounds
    count = int(town.land.area / rng.uniform(150, 420))
    spots += list(rng.uniform((minx, miny), (maxx, maxy), (count, 2)))
    points = np.array(spots)
    points = points[shapely.contains_xy(free, points[:, 0], points[:, 1])]
    yaws, numbers = rng.uniform(0, 2 * np.pi, len(points)), rng.integers(0, _TREES, len(points))
    room = np.array([0.8 * max(kind.size_m[:2]) / 2 for kind in kinds])[numbers]
    crowded = np.zeros(len(points), bool)  # crowns stay out of walls, trunks apart
    crowded[houses.query(shapely.points(points), 'dwithin', distance=room)[0]] = True
    pairs = STRtree(shapely.points(points)).query(shapely.points(points), 'dwithin', distance=2.0)
    crowded[pairs[0][pairs[0] > pairs[1]]] = True
    trees = []
    for i in np.flatnonzero(~crowded):
        pose = town.terrain.pose(points[i], yaws[i], upright=True)
        trees.append(Actor(category='vegetation', mesh=kinds[numbers[i]], map_T_actor=pose))
    return trees


def _poles(rng: np.random.Generator, town: Town, walk_m: float) -> list[Actor]:
    """Put lamps along the kerbs, signals at the stop lines, signs here and there."""
    lamp, light = street.lamp_post(rng), street.traffic_light(rng)
    signs = [street.sign_post(rng) for _ in range(4)]
    spacing = rng.uniform(22, 38)
    poles = []
    blocked = STRtree([*town.crossings, town.drivable_area])

    def put(mesh: Mesh, foot: Array, yaw: float, middle: Array | None = None) -> None:
        if len(blocked.query(shapely.Point(foot), predicate='intersects')):
            return
        pose = town.terrain.pose(foot if middle is None else middle, yaw, upright=True)
        pose[2, 3] = town.terrain.height_m(foot)
        poles.append(Actor(category='pole', mesh=mesh, map_T_actor=pose))

    for number, road in enumerate(town.roads):
        for left in (True, False):
            path, yaw = side_line(road, left, 0.45)
            first = spacing * (0.25 if left == (number % 2 == 0) else 0.75)
            for at in np.arange(first, len(path) * STEP_M - 3, spacing):
                i = round(at / STEP_M)
                # the arm reaches along local +y, over the road; the pole is at its other end
                toward = yaw[i] + (np.pi if left else 0.0)
                over = (lamp.size_m[1] / 2 - 0.1) * np.array([-np.sin(toward), np.cos(toward)])
                put(lamp, path[i], toward, path[i] + over)
            if rng.random() < 0.6 and len(path) > 80:
                i = int(rng.integers(30, len(path) - 30))
                put(signs[int(rng.integers(4))], path[i], yaw[i] + (np.pi if left else 0.0))
    for line in town.stop_lines:
        found = _beside(line, town)
        if found is not None:
            put(light, *found)
    return poles


def _beside(stop_line: Polygon, town: Town) -> tuple[Array, float] | None:
    """Return where the signal of a stop line stands (2,), and the heading of who reads it."""
    middle = np.asarray(stop_line.centroid.coords)[0]
    for lane in town.lanes:
        end, before = lane.line[-1], lane.line[-2]
        if lane.road < 0 or np.abs(end - middle).max() > 12:
            continue
        ahead = (end - before) / np.linalg.norm(end - before)
        right = np.array([ahead[1], -ahead[0]])
        if abs((middle - end) @ ahead) > 8 or abs((middle - end) @ right) > 5:
            continue
        road = town.roads[lane.road]
        at = int(np.linalg.norm(road.line - middle, axis=1).argmin())
        along = road.line[min(at + 1, len(road.line) - 1)] - road.line[max(at - 1, 0)]
        to_kerb = road.half_width_m[0 if along @ ahead < 0 else 1]  # left of the line, or right
        foot = road.line[at] + right * (to_kerb + 0.4)
        return foot, float(np.arctan2(ahead[1], ahead[0]))
    return None
