"""Puts vehicles and people into a town for the time of one drive, near where it leads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from shapely import LineString

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.objects import people, street, vehicles
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.objects.motion import STEP_M, Motion, drive_along, resampled
from bev_training.synthetic.objects.style import Style
from bev_training.synthetic.objects.traffic import (
    STEP_S,
    Occupied,
    beside,
    covered,
    covered_moving,
    length_of,
    line_length,
    predecessors,
    walk_lanes,
    way_back,
)
from bev_training.synthetic.town.town import Town
from bev_training.synthetic.world import Actor

REACH_M = 130.0  # from the way of the vehicle: beyond, nothing is placed
_WINDOW_S = 12.0  # for each, traffic is placed around where the vehicle is then
_PRESENCE_S = 25.0  # how long before and after that a motion is planned, at most
_TRAFFIC = {'car': 0.68, 'truck': 0.08, 'bus': 0.05, 'trailer': 0.03, 'motorcycle': 0.07,
            'bicycle': 0.09}  # fmt: skip
_PARKED = {'car': 0.92, 'motorcycle': 0.05, 'bicycle': 0.03}
_POOL = {'car': 26, 'truck': 5, 'bus': 3, 'trailer': 3, 'motorcycle': 4, 'bicycle': 4}
_PEOPLE = 24


class Placing:
    """Places actors one after the other; those that would meet another are left out."""

    def __init__(
        self, rng: np.random.Generator, town: Town, style: Style, occupied: Occupied
    ) -> None:
        self.rng, self.town, self.occupied = rng, town, occupied
        self.seconds = float(occupied.times_s[-1]) - 1.0
        self.actors: list[Actor] = []
        self._pool = {
            kind: [vehicles.vehicle(kind, rng, style) for _ in range(n)]
            for kind, n in _POOL.items()
        }
        self._left_alone = {
            kind: [vehicles.vehicle(kind, rng, style, ridden=False) for _ in range(3)]
            for kind in ('motorcycle', 'bicycle')
        }
        self._into = predecessors(town)
        self._people = [people.pedestrian(rng) for _ in range(_PEOPLE)]

    def traffic(self, per_km: float, speed_mps: float) -> None:
        """Add moving vehicles, about `per_km` of lane."""
        windows = max(1, round(self.seconds / _WINDOW_S))
        for window in range(windows):
            span = self.seconds / windows * np.array([window, window + 1])
            way = self._way(*span)
            near = [
                i
                for i, lane in enumerate(self.town.lanes)
                if lane.road >= 0 and _distance(lane.line, way) < REACH_M
            ]
            lengths = np.array([length_of(self.town.lanes[i]) for i in near])
            for _ in range(int(per_km * lengths.sum() / 1000)):
                start = int(self.rng.choice(near, p=lengths / lengths.sum()))
                self._one_vehicle(start, speed_mps, float(self.rng.uniform(*span)))

    def waiting(self, share: float) -> None:
        """Put up to four vehicles, one behind the other, before a share of the stop lines."""
        way = self._way(0, self.seconds)
        lines = shapely.STRtree(self.town.stop_lines)
        for lane in self.town.lanes:
            if lane.road < 0 or _distance(lane.line, way) > REACH_M or self.rng.random() > share:
                continue
            course = LineString(lane.line)
            found = lines.query(course, predicate='intersects')
            stops = [course.intersection(self.town.stop_lines[int(n)]) for n in found]
            if not stops:
                continue
            # nearest to the lane's end: a short lane may cross that of the intersection behind
            near_edge = max(course.project(shapely.Point(stop.coords[0])) for stop in stops)
            if near_edge < 0.7 * course.length:
                continue
            path, yaw = resampled(lane.line)
            at = near_edge - self.rng.uniform(0.3, 1.4)
            for _ in range(int(self.rng.integers(1, 5))):
                kind = 'car' if self.rng.random() < 0.85 else 'truck'
                mesh = self._draw(kind)
                i = int((at - mesh.size_m[0] / 2) / STEP_M)
                if i < 20:
                    break
                self._add_standing(kind, mesh, np.array([*path[i], yaw[i]]), parked=False)
                at -= mesh.size_m[0] + self.rng.uniform(1.2, 3.0)

    def parked(self, share: float) -> None:
        """Fill this share of the parking places; some become sites of road works instead."""
        way, bays = self._way(0, self.seconds), self.town.bays
        near = [i for i in range(len(bays)) if _distance(bays[i : i + 1, :2], way) < REACH_M]
        works = self.rng.random(len(near)) < 0.02
        for i, site in zip(near, works, strict=True):
            if site:
                self._works(*bays[i])
            elif self.rng.random() < share:
                self._park(*bays[i])

    def walkers(self, per_km: float) -> None:
        """Add people on the footpaths, about `per_km`; some stand."""
        way = self._way(0, self.seconds)
        near = [p for p in self.town.footpaths if _distance(p, way) < REACH_M * 0.7]
        if not near:
            return
        lengths = np.array([line_length(p) for p in near])
        for _ in range(int(per_km * lengths.sum() / 1000)):
            line = near[int(self.rng.choice(len(near), p=lengths / lengths.sum()))]
            # the road is on the left: lamps and signs stand on that side
            line = beside(resampled(line)[0], self.rng.uniform(-0.7, 0.05))
            self._one_walker(line if self.rng.random() < 0.5 else line[::-1])

    def _one_walker(self, line: Array) -> None:
        mesh = self._people[int(self.rng.integers(_PEOPLE))]
        length, speed = (len(line) - 1) * STEP_M, self.rng.uniform(0.7, 1.7)
        start = self.rng.uniform(0, length)
        if self.rng.random() < 0.15:
            at = line[int(start / STEP_M)]
            pose = np.array([*at, self.rng.uniform(-np.pi, np.pi)])
            self._add_standing('pedestrian', mesh, pose, parked=False)
            return
        turns = 1 + int((start + speed * (self.seconds + 3)) / length)  # to and fro
        path, yaw = resampled(
            np.concatenate([line if n % 2 == 0 else line[::-1] for n in range(turns)])
        )
        begin = max(start - speed, 0.0)
        motion = Motion(
            path=path,
            yaw=yaw,
            times_s=np.array([-1.0, self.seconds + 1.0]),
            along_m=np.array([begin, begin + speed * (self.seconds + 2)]),
        )
        self._add_moving([('pedestrian', mesh, motion)], self.rng.uniform(0, self.seconds))

    def _one_vehicle(self, start: int, speed_mps: float, time_s: float) -> None:
        """Try to place a vehicle that is somewhere on a lane at a time."""
        rng = self.rng
        kind = str(rng.choice(list(_TRAFFIC), p=list(_TRAFFIC.values())))
        speed = rng.uniform(3.5, 6.0) if kind == 'bicycle' else speed_mps * rng.uniform(0.75, 1.1)
        before = min(_PRESENCE_S, time_s + 1)
        after = min(_PRESENCE_S, self.seconds + 1 - time_s)
        past = way_back(rng, self.town, self._into, start, speed * before + 30)
        begin = line_length(past) + rng.uniform(0, length_of(self.town.lanes[start]))
        onward = walk_lanes(rng, self.town, start, speed * (after + 3) + 140)
        line = np.concatenate([past, onward[1:]])
        if kind == 'bicycle':
            line = beside(resampled(line)[0], -rng.uniform(0.7, 1.1))
        motion = drive_along(line, speed, after, begin, before_s=before)
        motion = replace(motion, times_s=motion.times_s + time_s)
        if kind != 'trailer':
            self._add_moving([(kind, self._draw(kind), motion)], time_s)
            return
        tractor, trailer = self._draw('truck'), self._draw('trailer')
        behind = (tractor.size_m[0] + trailer.size_m[0]) / 2 + 0.6
        follows = replace(motion, along_m=np.maximum(motion.along_m - behind, 0))
        self._add_moving([('truck', tractor, motion), ('trailer', trailer, follows)], time_s)

    def _park(self, x: float, y: float, yaw: float, length: float) -> None:
        kind = str(self.rng.choice(list(_PARKED), p=list(_PARKED.values())))
        pool = self._left_alone.get(kind, self._pool[kind])
        mesh = pool[int(self.rng.integers(len(pool)))]
        if mesh.size_m[0] > length - 0.2:
            return
        shift = self.rng.uniform(-0.25, 0.25, 2) * (1.0, 0.4)
        c, s = np.cos(yaw), np.sin(yaw)
        turned = yaw + self.rng.normal(0, 0.02)
        pose = np.array([x + c * shift[0] - s * shift[1], y + s * shift[0] + c * shift[1], turned])
        self._add_standing(kind, mesh, pose, parked=True)

    def _works(self, x: float, y: float, yaw: float, length: float) -> None:
        """Close a parking place: barriers along it, cones at its corners."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s], [-s, c]])
        rng = self.rng
        for corner in np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)]) * (length / 2 - 0.3, 0.85):
            px, py = corner @ turn + (x, y)
            pose = np.array([px, py, rng.uniform(0, 2 * np.pi)])
            self._add_standing('traffic_cone', street.traffic_cone(rng), pose, parked=False)
        for along in (-length / 4, length / 4):
            px, py = np.array([along, 0.0]) @ turn + (x, y)
            pose = np.array([px, py, yaw + rng.normal(0, 0.05)])
            self._add_standing('barrier', street.barrier(rng), pose, parked=False)

    def _draw(self, kind: str) -> Mesh:
        pool = self._pool[kind]
        return pool[int(self.rng.integers(len(pool)))]

    def _add_moving(self, parts: list[tuple[str, Mesh, Motion]], time_s: float) -> None:
        """Add actors that belong together, for as long around a time as they meet nobody."""
        times = self.occupied.times_s
        first, last = parts[0][2].times_s[[0, -1]]
        exists = (times > first - 1e-6) & (times < last + 1e-6)
        poses = [motion.at(times) for _, _, motion in parts]
        sizes = [mesh.size_m[:2] for _, mesh, _ in parts]
        bodies = [covered_moving(p, *size) for p, size in zip(poses, sizes, strict=True)]
        step = int(np.abs(times - time_s).argmin())
        stays = self.occupied.stay(bodies, step, exists)
        if not stays.any():
            return
        whole = stays.all()
        from_s, to_s = times[np.flatnonzero(stays)[[0, -1]]]
        for (category, mesh, motion), pose, size in zip(parts, poses, sizes, strict=True):
            self.occupied.add(*covered(pose, *size), stays)
            kept = motion if whole else replace(motion, from_s=float(from_s), to_s=float(to_s))
            self.actors.append(
                Actor(category=category, mesh=mesh, map_T_actor=np.eye(4), motion=kept)
            )

    def _add_standing(self, category: str, mesh: Mesh, pose: Array, *, parked: bool) -> None:
        """Add an actor that stands there during the whole drive, if it is in nobody's way."""
        steps = len(self.occupied.times_s)
        discs, radius = covered(np.broadcast_to(pose, (steps, 3)), *mesh.size_m[:2])
        if not self.occupied.free(discs, radius).all():
            return
        self.occupied.add(discs, radius, np.ones(steps, bool))
        stands = self.town.terrain.pose(pose[:2], pose[2])
        self.actors.append(Actor(category=category, mesh=mesh, map_T_actor=stands, parked=parked))

    def _way(self, from_s: float, to_s: float) -> AnyArray:
        """Return where the vehicle is during a part of the drive, (N, 2)."""
        times = self.occupied.times_s
        inside = (times >= from_s - STEP_S) & (times <= to_s + STEP_S)
        return np.asarray(self.occupied.way[inside][::2])


def _distance(points: Array, way: Array) -> float:
    """Return how near points (N, 2) come to the way of the vehicle (M, 2)."""
    some: Array = points[:: max(1, len(points) // 20)]
    return float(np.linalg.norm(some[:, None] - way[None], axis=-1).min())
