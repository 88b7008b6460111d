"""Rays against the town: what they hit, and what blocks them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.categories import MATERIAL_ID
from bev_training.synthetic.rendering.color import linear
from bev_training.synthetic.town.terrain import LATTICE_M
from bev_training.synthetic.town.town import Town
from bev_training.synthetic.world import World

GROUND, NOTHING = -1, -2  # in Hits.actor
REACH_M = 125.0  # movers farther from the vehicle are left out
_FAR_M = 1500.0  # the ground goes on so far beyond the town
_HILLS_M = 45.0  # and rises: the horizon is closed
_KEPT = 64  # instants: those of all cameras around a key frame; a few MB

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Hits:
    """What rays hit first.

    Attributes:
        distance_m: (N,) float32, inf where nothing.
        actor: (N,) int32, position in `World.actors`, or GROUND or NOTHING.
        normal: (N, 3) float32 unit normal of the triangle in the map, on the ray's side.
        color: (N, 3) float32 linear albedo; 0 for the ground, whose paint `Ground` knows.
        material: (N,) uint8, position in `categories.MATERIALS`.
        triangle: (N,) int32, its number in the actor's mesh; -1 on the ground and for nothing.
    """

    distance_m: Floats
    actor: npt.NDArray[np.int32]
    normal: Floats
    color: Floats
    material: npt.NDArray[np.uint8]
    triangle: npt.NDArray[np.int32]


class _Surface:
    """Triangles in an Embree scene, and what is known of each."""

    def __init__(
        self, vertices: list[AnyArray], triangles: list[AnyArray], labels: list[tuple]
    ) -> None:
        """Take meshes' (V, 3) vertices, (F, 3) triangles and (actor, colors, materials)."""
        starts = np.cumsum([0] + [len(v) for v in vertices[:-1]])
        points = np.concatenate(vertices).astype(np.float32)
        faces = np.concatenate(
            [t + start for t, start in zip(triangles, starts, strict=True)]
        ).astype(np.int32)
        a, b, c = (points[faces[:, i]] for i in range(3))
        normal = np.cross(b - a, c - a)
        length = np.sqrt(np.einsum('ij,ij->i', normal, normal))
        normal /= np.maximum(length, 1e-20)[:, None]
        counts = [len(t) for t in triangles]
        self.actor = np.repeat([label[0] for label in labels], counts).astype(np.int32)
        self.look = np.concatenate(  # one row, so that one gather brings all
            [normal, np.concatenate([label[1] for label in labels])], 1, dtype=np.float32
        )
        self.material = np.concatenate([label[2] for label in labels]).astype(np.uint8)
        self.triangle = np.concatenate([np.arange(n, dtype=np.int32) for n in counts])
        self.triangle[self.actor == GROUND] = -1
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, points, faces)
        none = np.zeros((0, 3), np.float32)
        self._scene.run(none, none)  # builds the tree, before threads share it

    def first(self, origins: Floats, directions: Floats, limit_m: Floats | None) -> tuple:
        """Return (N,) numbers of triangles, -1 for none nearer than the limit, and distances."""
        found = self._scene.run(origins, directions, dists=limit_m, query='INTERSECT', output=True)
        return found['primID'], found['tfar']

    def blocks(self, origins: Floats, directions: Floats, limit_m: Floats) -> AnyArray:
        """Return (N,) whether anything is nearer than the limit."""
        found = self._scene.run(origins, directions, dists=limit_m, query='OCCLUDED', output=None)
        return np.asarray(found) >= 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Instant:
    """A scene at one time.

    Attributes:
        time_s: the time.
        poses: (A, 4, 4) map_T_actor of all actors.
    """

    time_s: float
    poses: Array
    _middle: Array
    _standing: _Surface
    _moving: _Surface | None

    def cast(self, origins: AnyArray, directions: AnyArray) -> Hits:
        """Return what rays hit first.

        Args:
            origins: (N, 3) in the map.
            directions: (N, 3) unit vectors.
        """
        start = np.subtract(origins, self._middle, dtype=np.float64).astype(np.float32)
        ahead = np.ascontiguousarray(directions, np.float32)
        fixed = self._standing
        number, distance = fixed.first(start, ahead, None)
        missed = number < 0
        actor, look = fixed.actor[number], fixed.look[number]
        material, triangle = fixed.material[number], fixed.triangle[number]
        if missed.any():
            distance[missed] = np.inf
            actor[missed], look[missed], material[missed], triangle[missed] = NOTHING, 0, 0, -1
        if self._moving:
            moving = self._moving
            number, nearer = moving.first(start, ahead, distance.copy())
            hit = np.flatnonzero(number >= 0)
            which = number[hit]
            distance[hit], actor[hit], look[hit] = (
                nearer[hit], moving.actor[which], moving.look[which],
            )  # fmt: skip
            material[hit], triangle[hit] = moving.material[which], moving.triangle[which]
        normal = look[:, :3]
        away = np.flatnonzero(np.einsum('ij,ij->i', normal, ahead) > 0)
        normal[away] *= -1
        return Hits(
            distance_m=distance, actor=actor, normal=normal, color=look[:, 3:],
            material=material, triangle=triangle,
        )  # fmt: skip

    def blocked(
        self, origins: AnyArray, directions: AnyArray, limit_m: float | AnyArray
    ) -> npt.NDArray[np.bool_]:
        """Return (N,) whether anything is nearer than a limit.

        Args:
            origins: (N, 3) in the map; start a centimetre off the surface that they leave.
            directions: (N, 3) unit vectors.
            limit_m: one for all, or (N,).
        """
        start = np.subtract(origins, self._middle, dtype=np.float64).astype(np.float32)
        ahead = np.ascontiguousarray(directions, np.float32)
        limit = np.empty(len(start), np.float32)
        limit[:] = limit_m
        blocked = self._standing.blocks(start, ahead, limit)
        if self._moving:
            free = np.flatnonzero(~blocked)
            blocked[free] = self._moving.blocks(start[free], ahead[free], limit[free])
        return blocked


# Materials of a parked vehicle: its lamps are off.
_OFF = np.arange(len(MATERIAL_ID), dtype=np.uint8)
_OFF[MATERIAL_ID['lamp']] = MATERIAL_ID['glass']
_OFF[MATERIAL_ID['tail_lamp']] = MATERIAL_ID['reflector']


class Scene:
    """A world that rays can be cast into. Safe to share between threads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._middle = np.array([*world.town.size_m, 0.0]) / 2  # keeps float32 exact
        ground = _ground(world.town)
        ground[0][:, :2] -= self._middle[:2]
        moving = set(world.movers.tolist())
        self._standing = self._surface(
            [i for i in range(len(world.actors)) if i not in moving],
            world.poses(0.0),
            ground,
        )
        self._lock = threading.Lock()
        self._instants: dict[float, Instant] = {}

    @cached_property
    def _colors(self) -> dict[int, Floats]:
        meshes = {id(actor.mesh): actor.mesh for actor in self.world.actors}
        return {key: linear(mesh.colors) for key, mesh in meshes.items()}

    def _surface(self, actors: list[int], poses: Array, ground: tuple | None) -> _Surface:
        vertices, triangles, labels = [], [], []
        if ground:
            points, faces = ground
            vertices.append(points)
            triangles.append(faces)
            grey = np.zeros((len(faces), 3), np.float32)
            labels.append((GROUND, grey, np.full(len(faces), MATERIAL_ID['ground'], np.uint8)))
        for i in actors:
            mesh = self.world.actors[i].mesh
            local = poses[i].copy()
            local[:3, 3] -= self._middle
            vertices.append(mesh.placed(local))
            triangles.append(mesh.triangles)
            off = self.world.actors[i].parked
            materials = _OFF[mesh.materials] if off else mesh.materials
            labels.append((i, self._colors[id(mesh)], materials))
        return _Surface(vertices, triangles, labels)

    def at(self, time_s: float) -> Instant:
        """Return the scene at a time, seconds since the start of the drive."""
        time_s = float(time_s)
        with self._lock:
            if time_s not in self._instants:
                while len(self._instants) >= _KEPT:
                    self._instants.pop(next(iter(self._instants)))
                self._instants[time_s] = self._instant(time_s)
            return self._instants[time_s]

    def _instant(self, time_s: float) -> Instant:
        world = self.world
        poses = world.poses(time_s)
        away = poses[world.movers, :2, 3] - world.map_T_base(time_s)[:2, 3]
        near = world.movers[np.hypot(*away.T) < REACH_M].tolist()  # absent ones are far away
        return Instant(
            time_s=time_s,
            poses=poses,
            _middle=self._middle,
            _standing=self._standing,
            _moving=self._surface(near, poses, None) if near else None,
        )


def _ground(town: Town) -> tuple[Array, npt.NDArray[np.int32]]:
    """Return vertices (V, 3) and triangles (F, 3) of the town's ground and of the land around."""
    size = np.asarray(town.size_m)
    x, y = (_steps(extent) for extent in size)
    xy = np.stack(np.meshgrid(x, y, indexing='ij'), -1)
    outside = np.linalg.norm(np.maximum(np.maximum(-xy, xy - size), 0), axis=-1) / _FAR_M
    waves = 0.6 + 0.4 * np.sin(xy[..., 0] / 210 + town.seed) * np.cos(xy[..., 1] / 260)
    z = town.terrain.height_m(xy) + _HILLS_M * waves * np.clip(outside, 0, 1) ** 1.5
    number = np.arange(z.size, dtype=np.int32).reshape(z.shape)
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    return np.concatenate([xy, z[..., None]], -1).reshape(-1, 3), faces


def _steps(extent_m: float) -> Array:
    """Return the lattice's lines along one axis: LATTICE_M apart in the town, wider outside."""
    inside = np.arange(int(np.ceil(extent_m / LATTICE_M)) + 1) * LATTICE_M
    beyond = _FAR_M * np.linspace(0, 1, 27)[1:] ** 1.6
    return np.concatenate([-beyond[::-1], inside, inside[-1] + beyond])
