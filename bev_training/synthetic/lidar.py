"""Lidar sweeps: rays cast against the ground plane and the convex solids of the actors.

A sweep is taken in one instant: it needs no motion correction.
"""

from __future__ import annotations

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.shapes import AnyArray, Array, Rigid
from bev_training.synthetic.rig import Lidar
from bev_training.synthetic.world import World

# Laid out like the points of common drivers: packed, ring last.
POINT_DTYPE = np.dtype(
    [('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('intensity', '<f4'), ('ring', '<u2')]
)
_REFLECTANCE = {'vehicle': 60.0, 'building': 35.0, 'tree': 25.0}
_GROUND_REFLECTANCE = 18.0


def ray_directions(lidar: Lidar) -> Array:
    """Return unit directions (rings, azimuths, 3) in the lidar's frame."""
    azimuth = np.arange(lidar.azimuths) * (2 * np.pi / lidar.azimuths)
    elevation = lidar.elevations_rad[:, None]
    flat = np.cos(elevation)
    up = np.broadcast_to(np.sin(elevation), (len(elevation), lidar.azimuths))
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), up], -1)


def sweep(world: World, lidar: Lidar, odom_T_base: Rigid, time_s: float) -> AnyArray:
    """Return the points (N,) of POINT_DTYPE that a sweep sees, in the lidar's frame, metres.

    Args:
        world: what is there.
        lidar: the sensor.
        odom_T_base: pose of the vehicle.
        time_s: where moving actors are.
    """
    odom_T_lidar = odom_T_base @ lidar.base_T_lidar
    rays = ray_directions(lidar)
    directions = rays @ odom_T_lidar[:3, :3].T
    origin = odom_T_lidar[:3, 3]
    down = np.minimum(directions[..., 2], -1e-9)
    distance = -origin[2] / down
    intensity = _GROUND_REFLECTANCE * -down
    for index, pose in enumerate(world.poses(time_s)):
        shape = world.actors[index].shape
        reach = float(np.hypot(*shape.size_m[:2])) / 2
        away = pose[:2] - origin[:2]
        if np.linalg.norm(away) > lidar.range_m[1] + reach:
            continue
        columns = _columns(lidar, odom_T_lidar, away, reach)
        c, s = np.cos(pose[2]), np.sin(pose[2])
        actor_R_odom = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        start = actor_R_odom @ (origin - (*pose[:2], 0))
        toward = directions[:, columns] @ actor_R_odom.T
        for normals, offsets in shape.half_spaces:
            hit, facing = _enter(start, toward, normals, offsets)
            closer = hit < distance[:, columns]
            bright = _REFLECTANCE[world.actors[index].kind] * facing
            distance[:, columns] = np.where(closer, hit, distance[:, columns])
            intensity[:, columns] = np.where(closer, bright, intensity[:, columns])
    kept = (distance > lidar.range_m[0]) & (distance < lidar.range_m[1])
    ring, _ = np.nonzero(kept)
    points = np.zeros(len(ring), POINT_DTYPE)
    points['x'], points['y'], points['z'] = (rays[kept] * distance[kept][:, None]).T
    points['intensity'], points['ring'] = intensity[kept], ring
    return points


def _columns(lidar: Lidar, odom_T_lidar: Rigid, away: Array, reach: float) -> AnyArray:
    """Return the azimuth steps that can meet a disc in odom, at tilts below 1 degree."""
    gap = float(np.linalg.norm(away))
    if gap <= reach * 1.05:
        return np.arange(lidar.azimuths)
    step = 2 * np.pi / lidar.azimuths
    ahead = rigid.inverse(odom_T_lidar)[:3, :3] @ (*away, 0)
    middle = np.arctan2(ahead[1], ahead[0])
    half = np.arcsin(reach / gap) + 0.03
    first, last = np.floor((middle - half) / step), np.ceil((middle + half) / step)
    return np.arange(int(first), min(int(last) + 1, int(first) + lidar.azimuths)) % lidar.azimuths


def _enter(start: Array, toward: Array, normals: Array, offsets: Array) -> tuple[Array, Array]:
    """Return where rays enter a convex solid, metres (inf where they do not), and |cos| there."""
    slope = toward @ normals.T  # (..., P)
    room = offsets - normals @ start  # positive: the start lies inside of that plane
    with np.errstate(divide='ignore', invalid='ignore'):
        cut = room / slope
    entry = np.where(slope < 0, cut, -np.inf)
    leave = np.where(slope > 0, cut, np.inf).min(-1)
    which = entry.argmax(-1)
    enter = np.take_along_axis(entry, which[..., None], -1)[..., 0]
    outside = ((slope == 0) & (room < 0)).any(-1)
    hit = (enter <= leave) & (enter > 0) & ~outside
    facing = -np.take_along_axis(slope, which[..., None], -1)[..., 0]
    return np.where(hit, enter, np.inf), facing
