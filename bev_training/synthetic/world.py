"""Everything that sensors can see, and the way of the vehicle that carries them.

Times are seconds since the start of the drive. `map` is the town's frame; `odom` is the map moved
to where base_link is at time 0, its x along the heading there, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.shapes import AnyArray, Array, Index, Mask, Rigid
from bev_training.synthetic.categories import OBJECTS
from bev_training.synthetic.conditions import Conditions
from bev_training.synthetic.objects.mesh import Color, Mesh
from bev_training.synthetic.objects.motion import Motion
from bev_training.synthetic.town.town import Town

_VELOCITY_S = 0.01
_ABSENT_M = 1e6


@dataclass(frozen=True, eq=False, kw_only=True)
class Actor:
    """A solid thing in the town.

    Attributes:
        category: of `categories.OBJECTS` or `categories.SCENERY`.
        mesh: its surface.
        map_T_actor: where it stands, if it does not move.
        motion: how it moves; then its pose follows the ground, and `map_T_actor` is ignored.
        parked: a vehicle that nobody drives.
    """

    category: str
    mesh: Mesh
    map_T_actor: Rigid
    motion: Motion | None = None
    parked: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Palette:
    """Colours (sRGB in 0..1) and textures of one town's ground."""

    asphalt: Color
    sidewalk: Color
    parking: Color
    grass: Color
    soil: Color
    roughness: float  # 0.5 .. 1.5: strength of grain, patches and cracks


@dataclass(frozen=True, eq=False, kw_only=True)
class Boxes:
    """Objects at one time.

    Attributes:
        actor: (B,) positions in `World.actors`; these identify objects through a drive.
        category: (B,) positions in `categories.OBJECTS`.
        map_T_box: (B, 4, 4) pose of the box's middle.
        size_m: (B, 3) length (x), width (y), height (z).
        velocity_mps: (B, 3) in the map.
        parked: (B,) bool.
    """

    actor: Index
    category: Index
    map_T_box: Rigid
    size_m: Array
    velocity_mps: Array
    parked: AnyArray


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """A town with everything in it, for the time of a drive.

    Attributes:
        seed: of every random choice of the drive.
        seconds: for how long motions are planned (and a second before and after).
        town: the map.
        palette: colours of its ground.
        conditions: light and weather.
        actors: in fixed order; position = identity.
        ego: motion of base_link, on the ground below the rear axle.
        sway: (2, 2, 3) for pitch and roll, two waves of (amplitude_rad, rate_radps, phase_rad).
    """

    seed: int
    seconds: float
    town: Town
    palette: Palette
    conditions: Conditions
    actors: tuple[Actor, ...]
    ego: Motion
    sway: Array

    def map_T_base(self, time_s: float) -> Rigid:
        """Return the pose of base_link."""
        x, y, yaw = self.ego.at(time_s)
        pitch, roll = (
            self.sway[..., 0] * np.sin(self.sway[..., 1] * time_s + self.sway[..., 2])
        ).sum(1)
        cp, sp, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
        tilt = np.eye(4)
        tilt[:3, :3] = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]) @ np.array(
            [[1, 0, 0], [0, cr, -sr], [0, sr, cr]]
        )
        return self.town.terrain.pose((x, y), yaw) @ tilt

    @cached_property
    def map_T_odom(self) -> Rigid:
        """Where the drive's odometry starts: at the first position, level."""
        return self.map_T_base(0.0) @ rigid.level(self.map_T_base(0.0))

    def odom_T_base(self, time_s: float) -> Rigid:
        """Return the pose of base_link in odom."""
        return rigid.inverse(self.map_T_odom) @ self.map_T_base(time_s)

    @cached_property
    def movers(self) -> Index:
        """Positions of the actors that move."""
        return np.array([i for i, actor in enumerate(self.actors) if actor.motion], np.int64)

    @cached_property
    def _standing(self) -> Rigid:
        return np.array([actor.map_T_actor for actor in self.actors], float).reshape(-1, 4, 4)

    def poses(self, time_s: float) -> Rigid:
        """Return map_T_actor (A, 4, 4) of all actors; absent ones lie far outside of the map."""
        poses = self._planned(time_s)
        poses[~self.present(time_s), :2, 3] = _ABSENT_M
        return poses

    def _planned(self, time_s: float) -> Rigid:
        """Return map_T_actor (A, 4, 4), also of actors that are not there yet or any more."""
        poses = self._standing.copy()
        motions = [self.actors[i].motion for i in self.movers]
        if motions:
            at = np.stack([motion.at(time_s) for motion in motions if motion])
            poses[self.movers] = self.town.terrain.pose(at[:, :2], at[:, 2])
        return poses

    def present(self, time_s: float) -> Mask:
        """Return (A,): which actors are there; see `Motion.from_s`."""
        first, last = self._presence
        return np.asarray((time_s >= first) & (time_s <= last))

    @cached_property
    def _presence(self) -> tuple[Array, Array]:
        motions = [actor.motion for actor in self.actors]
        first = [m.from_s if m else -np.inf for m in motions]
        last = [m.to_s if m else np.inf for m in motions]
        return np.array(first, float), np.array(last, float)

    @cached_property
    def objects(self) -> Index:
        """Positions of the actors that have boxes."""
        has = [i for i, actor in enumerate(self.actors) if actor.category in OBJECTS]
        return np.array(has, np.int64)

    def boxes(self, time_s: float) -> Boxes:
        """Return the boxes of all objects that are in the town, seen or not."""
        of = self.objects[self.present(time_s)[self.objects]]
        poses = self._planned(time_s)[of]
        sizes = np.array([self.actors[i].mesh.size_m for i in of]).reshape(-1, 3)
        before, after = (self._planned(time_s + s)[of, :3, 3] for s in (-_VELOCITY_S, _VELOCITY_S))
        middle = poses.copy()
        middle[:, :3, 3] += poses[:, :3, 2] * sizes[:, 2:] / 2
        return Boxes(
            actor=of,
            category=np.array([OBJECTS.index(self.actors[i].category) for i in of], np.int64),
            map_T_box=middle,
            size_m=sizes,
            velocity_mps=(after - before) / (2 * _VELOCITY_S),
            parked=np.array([self.actors[i].parked for i in of], bool),
        )
