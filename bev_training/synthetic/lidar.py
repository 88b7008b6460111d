"""Lidar sweeps: rays against the town, and what becomes of their echoes.

A sweep is taken in one instant: it needs no motion correction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bev_perception.shapes import AnyArray, Array, Rigid
from bev_training.synthetic.categories import MATERIAL_ID, MATERIALS, SEMANTICS
from bev_training.synthetic.conditions import Conditions
from bev_training.synthetic.rendering.scene import GROUND, Hits, Instant
from bev_training.synthetic.rig import Lidar

# Laid out like the points of common drivers: packed, ring last.
POINT_DTYPE = np.dtype(
    [('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('intensity', '<f4'), ('ring', '<u2')]
)

# Share of a pulse that comes back from a white surface met head-on.
_REFLECTANCE = {
    'matte': 0.5, 'paint': 0.6, 'glass': 0.04, 'metal': 0.5, 'rubber': 0.08, 'wall': 0.55,
    'window': 0.05, 'roof': 0.4, 'foliage': 0.45, 'cloth': 0.45, 'lamp': 0.6, 'tail_lamp': 0.9,
    'reflector': 1.0, 'ground': 0.2,
}  # fmt: skip
_TINTED = ('matte', 'paint', 'metal', 'wall', 'roof', 'cloth')  # dark colours return less
_RETRO = ('tail_lamp', 'reflector')  # return as much from the side
_SMOOTH = ('glass', 'window')  # mirror the pulse away unless they are met head-on
_GROUND_REFLECTANCE = {
    'road': 0.15, 'lane_marking': 0.75, 'crosswalk': 0.75, 'sidewalk': 0.28, 'parking': 0.17,
    'terrain': 0.3,
}  # fmt: skip
_HALF_LOST_M = 140.0  # of the echoes from reflectance 0.1, met head-on, in clear air


def ray_directions(lidar: Lidar) -> Array:
    """Return unit directions (rings, azimuths, 3) in the lidar's frame."""
    azimuth = np.arange(lidar.azimuths) * (2 * np.pi / lidar.azimuths)
    elevation = np.asarray(lidar.elevations_rad)[:, None]
    flat = np.cos(elevation)
    up = np.broadcast_to(np.sin(elevation), (len(elevation), lidar.azimuths))
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), up], -1)


def sweep(
    instant: Instant,
    lidar: Lidar,
    map_T_base: Rigid,
    *,
    seed: tuple[int, ...],
    conditions: Conditions | None = None,
    ground_semantics: Callable[[Array], AnyArray] | None = None,
) -> AnyArray:
    """Return the points (N,) of POINT_DTYPE that a sweep sees, in the lidar's frame, metres.

    Points are in the order of rings, then of azimuths. Intensity lies in 0..255. With `noise_m`
    and `dropout` of 0 the lidar is ideal: exact ranges, an echo from everything in range.

    Args:
        instant: what is there.
        lidar: the sensor.
        map_T_base: pose of the vehicle.
        seed: of noise and dropout, >= 0.
        conditions: the weather: haze and rain swallow echoes, wet ground returns less. None is
            dry, clear air.
        ground_semantics: says what the ground is at (N, 2) in the map, in `categories.SEMANTICS`
            (`Ground.semantics`), so that paint on it is bright; None takes all of it for asphalt.
    """
    map_T_lidar = map_T_base @ lidar.base_T_lidar
    rays = ray_directions(lidar).reshape(-1, 3)
    ring = np.repeat(np.arange(len(lidar.elevations_rad)), lidar.azimuths)
    towards = rays @ map_T_lidar[:3, :3].T
    rng = np.random.default_rng((*seed, 17))
    shift = rng.normal(0, 1, len(rays)) * lidar.noise_m  # for every ray: the same whatever it hits
    luck = rng.uniform(size=len(rays))

    hits = instant.cast(np.broadcast_to(map_T_lidar[:3, 3], rays.shape), towards)
    near, far = lidar.range_m
    found = np.flatnonzero((hits.distance_m > near) & (hits.distance_m < far))
    distance = hits.distance_m[found].astype(float)
    facing = np.abs((towards[found] * hits.normal[found]).sum(-1))
    returned = _reflectance(hits, found)
    ground = hits.actor[found] == GROUND
    if ground_semantics is not None and ground.any():
        points = map_T_lidar[:3, 3] + towards[found][ground] * distance[ground][:, None]
        table = np.array([_GROUND_REFLECTANCE.get(name, 0.2) for name in SEMANTICS])
        returned[ground] = table[ground_semantics(points[:, :2])]
    if conditions is not None:
        returned[ground] *= 1 - 0.6 * conditions.wetness
    echo = returned * np.select(
        [_made_of(_RETRO, hits, found), _made_of(_SMOOTH, hits, found)],
        [np.maximum(facing, 0.6), np.maximum(facing**4, 0.1)],
        facing,
    )

    # What arrives falls with the square of the distance, and twice with what the air swallows.
    arriving = np.maximum(echo, 1e-4) / 0.1 * (_HALF_LOST_M / distance) ** 2
    if conditions is not None:
        arriving *= np.exp(-2 * distance / (3 * conditions.haze_m))
    # dropout 0.03 and arriving = 1: half are lost
    kept = luck[found] < (1 - lidar.dropout) ** (1 + 22 / arriving**2)
    distance = distance + shift[found]
    kept &= (distance > near) & (distance < far)
    found, distance = found[kept], distance[kept]
    made = np.zeros(len(found), POINT_DTYPE)
    made['x'], made['y'], made['z'] = (rays[found] * distance[:, None]).T
    made['intensity'] = np.clip(255 * echo[kept], 0, 255)
    made['ring'] = ring[found]
    return made


def _reflectance(hits: Hits, found: AnyArray) -> Array:
    """Return (N,) which share of a pulse the surfaces of some hits return."""
    table = np.array([_REFLECTANCE[name] for name in MATERIALS])
    bright = 0.15 + 0.85 * hits.color[found].astype(float).mean(-1)
    returned = table[hits.material[found]]
    returned = np.where(_made_of(_TINTED, hits, found), returned * bright, returned)
    returned[hits.actor[found] == GROUND] = _GROUND_REFLECTANCE['road']
    return np.asarray(returned)


def _made_of(names: tuple[str, ...], hits: Hits, found: AnyArray) -> AnyArray:
    return np.isin(hits.material[found], [MATERIAL_ID[name] for name in names])
