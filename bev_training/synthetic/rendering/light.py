"""Light on surfaces: sun, sky, lamps; what surfaces give back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.categories import MATERIAL_ID
from bev_training.synthetic.conditions import Conditions
from bev_training.synthetic.rendering.sky import Sky
from bev_training.synthetic.world import World

_LAMP_LIGHT = np.array([1.0, 0.78, 0.5], np.float32)  # of street lamps
_LAMPS = 12  # street lamps that count, the nearest ones
_LAMPS_WITHIN_M = 60.0
_LAMP_REACH_M = 20.0  # beyond, the cone has ended
_BEAM_LIGHT = np.array([1.0, 0.96, 0.86], np.float32)
_BEAM_STRENGTH = 90.0
_BEAMS = np.array([(3.7, 0.65, 0.65), (3.7, -0.65, 0.65)])  # the vehicle's head lamps, in base
_GLOW = {'lamp': (3.0, 2.6, 2.0), 'tail_lamp': (1.1, 0.05, 0.03), 'window': (1.0, 0.72, 0.4)}

# share of light that is mirrored head-on, and how much more at grazing angles
_GLOSS = {
    'paint': (0.04, 0.35), 'glass': (0.12, 0.7), 'metal': (0.18, 0.3), 'window': (0.14, 0.6),
    'lamp': (0.08, 0.4), 'tail_lamp': (0.05, 0.3),
}  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """Points that are lit, and from where they are seen.

    Attributes:
        point: (N, 3) in the map.
        normal: (N, 3) unit.
        view: (N, 3) unit, from the camera to the point.
        albedo: (N, 3) linear.
        material: (N,).
        actor: (N,) as in Hits.
        triangle: (N,) as in Hits.
        sunlit: (N,) 1 where the sun shines, 0 where something blocks it.
        open_sky: (N,) 0..1 how much of the sky's light arrives.
    """

    point: AnyArray
    normal: AnyArray
    view: AnyArray
    albedo: AnyArray
    material: AnyArray
    actor: AnyArray
    triangle: AnyArray
    sunlit: AnyArray
    open_sky: AnyArray


def dot(vectors: AnyArray, other: AnyArray) -> AnyArray:
    """Return (N,) products of vectors (N, 3) with one. Not BLAS: its threads would compete, and
    its sums depend on the processor.
    """
    x, y, z = other
    return np.asarray(vectors[:, 0] * x + vectors[:, 1] * y + vectors[:, 2] * z)


def turned(vectors: AnyArray, rotation: AnyArray) -> AnyArray:
    """Return vectors (N, 3) float32 after a rotation (3, 3); not BLAS, see `dot`."""
    x, y, z = rotation.T.astype(np.float32)
    result = vectors[:, :1] * x
    result += vectors[:, 1:2] * y
    result += vectors[:, 2:] * z
    return np.asarray(result)


def street_lamps(world: World) -> Array:
    """Return (L, 3): where street lamps shine, in the map."""
    lamps = []
    for actor in world.actors:
        if actor.category != 'pole':
            continue
        of_lamp = actor.mesh.materials == MATERIAL_ID['lamp']
        if of_lamp.any():
            corners = actor.mesh.vertices[actor.mesh.triangles[of_lamp]].reshape(-1, 3)
            middle = corners.mean(0).astype(float)
            if middle[2] > 5:  # not a traffic light's
                lamps.append(actor.map_T_actor[:3, :3] @ middle + actor.map_T_actor[:3, 3])
    return np.array(lamps).reshape(-1, 3)


class Light:
    """The light of one world."""

    def __init__(self, world: World) -> None:
        self.conditions: Conditions = world.conditions
        self.sky = Sky(world.conditions, world.seed)
        self._world = world
        self._lamps = street_lamps(world)
        self._sun = np.array(self.conditions.sun, np.float32)
        self._sun_direction = np.array(self.conditions.sun_direction, np.float32)
        self._sky = np.array(self.conditions.sky, np.float32)
        self._gloss = np.zeros((len(MATERIAL_ID), 2), np.float32)
        for name, values in _GLOSS.items():
            self._gloss[MATERIAL_ID[name]] = values
        self._gloss[MATERIAL_ID['ground']] = (
            0.02 * self.conditions.wetness, 0.3 * self.conditions.wetness,
        )  # fmt: skip

    def of(self, seen: Seen, time_s: float, eye: Array) -> AnyArray:
        """Return the linear light (N, 3) that points send to the camera, without haze."""
        c = self.conditions
        facing = np.maximum(dot(seen.normal, self._sun_direction), 0) * seen.sunlit
        up = seen.normal[:, 2] * np.float32(0.4)
        up += np.float32(0.6)
        up *= seen.open_sky
        light = facing[:, None] * self._sun
        light += up[:, None] * self._sky
        if c.lamps > 0:
            self._add_lamps(light, seen, eye)
            if c.weather == 'night':
                self._add_beams(light, seen, time_s)
        albedo = seen.albedo
        if c.wetness > 0:
            wet = np.where(seen.material == MATERIAL_ID['ground'], 1 - 0.45 * c.wetness, 1)
            light *= wet.astype(np.float32)[:, None]
        light *= albedo
        self._add_gloss(light, seen, facing)
        if c.lamps > 0:
            self._add_glow(light, seen)
        return light

    def _add_gloss(self, light: AnyArray, seen: Seen, facing: AnyArray) -> None:
        """Mix in what smooth surfaces mirror of the sky and the sun."""
        at = np.flatnonzero(self._gloss[seen.material, 0] > 0)
        if not len(at):
            return
        normal, view = seen.normal[at], seen.view[at]
        head_on = np.einsum('ij,ij->i', normal, view)  # negative
        mirrored = view - (2 * head_on)[:, None] * normal
        base, grazing = self._gloss[seen.material[at]].T
        share = base + grazing * (1 + np.minimum(head_on, 0)) ** 4
        sky = self.sky.toward(mirrored)
        sky *= np.clip(0.55 + 2 * mirrored[:, 2], 0.2, 1)[:, None]  # walls hide the horizon
        shine = np.maximum(dot(mirrored, self._sun_direction), 0) ** 60 * (facing[at] > 0)
        dry = seen.material[at] != MATERIAL_ID['ground']
        was = light[at]
        was += share[:, None] * (np.minimum(sky, 1.5) - was)
        was += (shine * dry * (0.5 + 2 * base))[:, None] * self._sun
        light[at] = was

    def _add_lamps(self, light: AnyArray, seen: Seen, eye: Array) -> None:
        if not len(self._lamps):
            return
        away = np.linalg.norm(self._lamps - eye, axis=1)
        nearest = np.argsort(away, kind='stable')[:_LAMPS]
        total = np.zeros(len(light), np.float32)
        x, y, _ = seen.point.T
        for lamp in self._lamps[nearest[away[nearest] < _LAMPS_WITHIN_M]].astype(np.float32):
            near = np.flatnonzero((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2 < _LAMP_REACH_M**2)
            to = lamp - seen.point[near]
            d2 = np.einsum('ij,ij->i', to, to) + np.float32(0.5)
            one_by_d = 1 / np.sqrt(d2)
            facing = np.einsum('ij,ij->i', to, seen.normal[near]) * one_by_d
            cone = np.clip(to[:, 2] * one_by_d * 1.6 - 0.25, 0, 1)
            total[near] += np.maximum(facing, 0) * cone / d2
        strength = np.float32(36 * self.conditions.lamps * self._night)
        light += (total * strength)[:, None] * _LAMP_LIGHT

    @property
    def _night(self) -> float:
        """How much lamps matter: they vanish in daylight."""
        return 1.0 if self.conditions.weather == 'night' else 0.15

    def _add_beams(self, light: AnyArray, seen: Seen, time_s: float) -> None:
        base = self._world.map_T_base(time_s)
        rotation = base[:3, :3].astype(np.float32)
        local = turned(seen.point - base[:3, 3].astype(np.float32), rotation.T)
        total = np.zeros(len(light), np.float32)
        ahead = np.flatnonzero(local[:, 0] > _BEAMS[0, 0])
        local, normal = local[ahead], turned(seen.normal[ahead], rotation.T)
        for lamp in _BEAMS.astype(np.float32):
            to = lamp - local
            d2 = np.einsum('ij,ij->i', to, to) + np.float32(0.3)
            one_by_d = 1 / np.sqrt(d2)
            yaw, pitch = to[:, 1] * one_by_d, -to[:, 2] * one_by_d
            beam = np.exp(-((yaw / 0.3) ** 2)) * np.exp(
                -((np.maximum(pitch + 0.012, 0) / 0.035) ** 2) - (np.minimum(pitch, 0) / 0.25) ** 2
            )
            facing = np.einsum('ij,ij->i', to, normal) * one_by_d
            total[ahead] += np.maximum(facing, 0) * beam * one_by_d * np.sqrt(one_by_d)
        light += (total * np.float32(_BEAM_STRENGTH))[:, None] * _BEAM_LIGHT

    def _add_glow(self, light: AnyArray, seen: Seen) -> None:
        """Let lamps and some windows shine."""
        strength = self.conditions.lamps * (1 if self.conditions.weather == 'night' else 0.6)
        for name, color in _GLOW.items():
            at = np.flatnonzero(seen.material == MATERIAL_ID[name])
            if name == 'window':
                pane = seen.actor[at].astype(np.uint32) * np.uint32(2654435761)
                pane += (seen.triangle[at] // 2).astype(np.uint32) * np.uint32(40503)
                pane ^= pane >> np.uint32(15)
                pane *= np.uint32(2246822519)
                share = (pane >> np.uint32(16)).astype(np.float32) / 65536
                at = at[share < 0.42]
                share = share[share < 0.42] / 0.42
                light[at] += ((0.25 + 0.5 * share) * strength)[:, None] * np.array(
                    color, np.float32
                )
            else:
                light[at] += np.array(color, np.float32) * np.float32(strength)
