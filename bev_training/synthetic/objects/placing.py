"""Puts vehicles and people into a town for the time of one drive, near where it leads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bev_perception.shapes import Array
from bev_training.synthetic.objects import people, street, vehicles
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.objects.motion import Motion, drive_along, resampled
from bev_training.synthetic.objects.style import Style
from bev_training.synthetic.objects.traffic import Occupied, beside, length_of, walk_lanes
from bev_training.synthetic.town.town import Town
from bev_training.synthetic.world import Actor

REACH_M = 130.0  # from the way of the vehicle: beyond, nothing is placed
_TRAFFIC = {'car': 0.68, 'truck': 0.08, 'bus': 0.05, 'trailer': 0.03, 'motorcycle': 0.07,
            'bicycle': 0.09}  # fmt: skip
_PARKED = {'car': 0.93, 'truck': 0.02, 'motorcycle': 0.05}
_POOL = {'car': 26, 'truck': 5, 'bus': 3, 'trailer': 3, 'motorcycle': 4, 'bicycle': 4}
_PEOPLE = 24


class Placing:
    """Places actors one after the other; those that would meet another are left out."""

    def __init__(
        self, rng: np.random.Generator, town: Town, style: Style, ego: Motion, seconds: float
    ) -> None:
        self.rng, self.town, self.style, self.seconds = rng, town, style, seconds
        self.occupied = Occupied.during(seconds)
        self.occupied.add_ego(ego)
        self.way = ego.at(np.arange(0.0, seconds + 0.5, 0.5))[:, :2]
        self.actors: list[Actor] = []
        self._ridden = {
            kind: [vehicles.vehicle(kind, rng, style) for _ in range(n)]
            for kind, n in _POOL.items()
        }
        self._left_alone = {
            kind: [vehicles.vehicle(kind, rng, style, ridden=False) for _ in range(3)]
            for kind in ('motorcycle', 'bicycle')
        }
        self._people = [people.pedestrian(rng) for _ in range(_PEOPLE)]

    def traffic(self, per_km: float, speed_mps: float) -> None:
        """Add moving vehicles, about `per_km` of lane, and some that wait at stop lines."""
        near = [
            i
            for i, lane in enumerate(self.town.lanes)
            if lane.road >= 0 and self._distance(lane.line) < REACH_M
        ]
        lengths = np.array([length_of(self.town.lanes[i]) for i in near])
        self._waiting([i for i in near if self.rng.random() < 0.25])
        for _ in range(int(per_km * lengths.sum() / 1000)):
            start = int(self.rng.choice(near, p=lengths / lengths.sum()))
            self._one_vehicle(start, speed_mps)

    def parked(self, share: float) -> None:
        """Fill this share of the parking places; some become sites of road works instead."""
        bays = self.town.bays
        near = [i for i in range(len(bays)) if self._distance(bays[i : i + 1, :2]) < REACH_M]
        works = self.rng.random(len(near)) < 0.02
        for i, site in zip(near, works, strict=True):
            x, y, yaw, length = bays[i]
            if site:
                self._works(x, y, yaw, length)
            elif self.rng.random() < share:
                self._park(x, y, yaw, length)

    def walkers(self, per_km: float) -> None:
        """Add people on the footpaths, about `per_km`; some stand."""
        near = [p for p in self.town.footpaths if self._distance(p) < REACH_M * 0.7]
        lengths = np.array([np.linalg.norm(np.diff(p, axis=0), axis=1).sum() for p in near])
        if not len(near):
            return
        for _ in range(int(per_km * lengths.sum() / 1000)):
            line = near[int(self.rng.choice(len(near), p=lengths / lengths.sum()))]
            path, yaw = resampled(line if self.rng.random() < 0.5 else line[::-1])
            if len(path) < 4:
                continue
            path = beside(path, self.rng.uniform(-0.7, 0.7))
            speed = self.rng.uniform(0.7, 1.7) if self.rng.random() < 0.85 else 0.0
            start, end = self.rng.uniform(0, (len(path) - 1) * 0.25), self.seconds + 1
            motion = Motion(
                path=path, yaw=yaw, times_s=np.array([-1.0, end]),
                along_m=np.maximum([start - speed, start + speed * end], 0),
            )  # fmt: skip
            mesh = self._people[int(self.rng.integers(_PEOPLE))]
            poses = motion.at(self.occupied.times_s)
            if speed == 0:
                poses[:, 2] = self.rng.uniform(-np.pi, np.pi)
                self._add_standing('pedestrian', mesh, poses[0], 0.3, parked=False)
            else:
                self._add_moving([('pedestrian', mesh, motion)], 0.3)

    def _one_vehicle(self, start: int, speed_mps: float) -> None:
        rng = self.rng
        kind = str(rng.choice(list(_TRAFFIC), p=list(_TRAFFIC.values())))
        speed = rng.uniform(3.5, 6.0) if kind == 'bicycle' else speed_mps * rng.uniform(0.75, 1.1)
        begin = rng.uniform(0, length_of(self.town.lanes[start])) + 30 + speed
        lane = self._before(start)
        begin += length_of(self.town.lanes[lane]) if lane != start else 0
        line = walk_lanes(rng, self.town, lane, begin + speed * (self.seconds + 4) + 40)
        if kind == 'bicycle':
            line = beside(resampled(line)[0], -rng.uniform(0.7, 1.1))
        motion = drive_along(line, speed, self.seconds, begin)
        if kind != 'trailer':
            self._add_moving([(kind, self._draw(kind), motion)], 1.6)
            return
        tractor, trailer = self._draw('truck'), self._draw('trailer')
        behind = (tractor.size_m[0] + trailer.size_m[0]) / 2 + 0.6
        follows = replace(motion, along_m=np.maximum(motion.along_m - behind, 0))
        self._add_moving([('truck', tractor, motion), ('trailer', trailer, follows)], 1.6)

    def _before(self, lane: int) -> int:
        """Return a road lane from which one comes into this one, so that vehicles have a past."""
        into = [i for i, other in enumerate(self.town.lanes) if lane in other.successors]
        if not into:
            return lane
        across = into[int(self.rng.integers(len(into)))]
        roads = [i for i, other in enumerate(self.town.lanes) if across in other.successors]
        return roads[int(self.rng.integers(len(roads)))] if roads else lane

    def _waiting(self, lanes: list[int]) -> None:
        """Put up to four vehicles one behind the other at the end of each lane."""
        for number in lanes:
            path, yaw = resampled(self.town.lanes[number].line[::-1])
            at = self.rng.uniform(1.5, 3.0)
            for _ in range(int(self.rng.integers(1, 5))):
                kind = 'car' if self.rng.random() < 0.85 else 'truck'
                mesh = self._draw(kind)
                i = round((at + mesh.size_m[0] / 2) / 0.25)
                if i >= len(path) - 20:
                    break
                pose = np.array([*path[i], yaw[i] + np.pi])
                self._add_standing(kind, mesh, pose, 2.0, parked=False)
                at += mesh.size_m[0] + self.rng.uniform(1.2, 3.0)

    def _park(self, x: float, y: float, yaw: float, length: float) -> None:
        kind = str(self.rng.choice(list(_PARKED), p=list(_PARKED.values())))
        if kind == 'motorcycle':
            pool = self._left_alone[kind]
            mesh = pool[int(self.rng.integers(len(pool)))]
        else:
            mesh = self._draw(kind)
        if mesh.size_m[0] > length - 0.2 or (kind == 'truck' and mesh.size_m[1] > 2.4):
            return
        shift = self.rng.uniform(-0.25, 0.25, 2) * (1.0, 0.4)
        c, s = np.cos(yaw), np.sin(yaw)
        turned = yaw + self.rng.normal(0, 0.02)
        pose = np.array([x + c * shift[0] - s * shift[1], y + s * shift[0] + c * shift[1], turned])
        self._add_standing(kind, mesh, pose, 0.0, parked=True)

    def _works(self, x: float, y: float, yaw: float, length: float) -> None:
        """Close a parking place: barriers along it, cones at its corners."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s], [-s, c]])
        rng = self.rng
        for corner in np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)]) * (length / 2 - 0.3, 0.85):
            px, py = corner @ turn + (x, y)
            pose = np.array([px, py, rng.uniform(0, 2 * np.pi)])
            self._add_standing('traffic_cone', street.traffic_cone(rng), pose, 0.1, parked=False)
        for along in (-length / 4, length / 4):
            px, py = np.array([along, 0.0]) @ turn + (x, y)
            pose = np.array([px, py, yaw + rng.normal(0, 0.05)])
            self._add_standing('barrier', street.barrier(rng), pose, 0.0, parked=False)

    def _draw(self, kind: str) -> Mesh:
        pool = self._ridden[kind]
        return pool[int(self.rng.integers(len(pool)))]

    def _add_moving(self, parts: list[tuple[str, Mesh, Motion]], gap_m: float) -> None:
        """Add actors that belong together, if none of them meets anybody else."""
        times = self.occupied.times_s
        bodies = [self.occupied.body(m.at(times), *mesh.size_m[:2]) for _, mesh, m in parts]
        if not all(self.occupied.is_free(*body, gap_m) for body in bodies):
            return
        for body, (category, mesh, motion) in zip(bodies, parts, strict=True):
            self.occupied.add(*body)
            self.actors.append(
                Actor(category=category, mesh=mesh, map_T_actor=np.eye(4), motion=motion)
            )

    def _add_standing(
        self, category: str, mesh: Mesh, pose: Array, gap_m: float, *, parked: bool
    ) -> None:
        length, width, _ = mesh.size_m
        poses = np.broadcast_to(pose, (len(self.occupied.times_s), 3))
        body = self.occupied.body(poses, length, width)
        if not self.occupied.is_free(*body, gap_m):
            return
        self.occupied.add(*body)
        stands = self.town.terrain.pose(pose[:2], pose[2])
        self.actors.append(Actor(category=category, mesh=mesh, map_T_actor=stands, parked=parked))

    def _distance(self, points: Array) -> float:
        """Return how near points (N, 2) come to the way of the vehicle."""
        some: Array = points[:: max(1, len(points) // 20)]
        return float(np.linalg.norm(some[:, None] - self.way[None], axis=-1).min())
