"""Which part of an object the cameras see."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.shapes import Array
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import Rig
from bev_training.synthetic.world import Boxes

SAMPLES = 64  # points on an object's surface
REACH_M = 80.0  # farther objects count as not seen
_CLEAR_M = 0.05  # a ray that comes this near to its point has met nothing else


def visibility(
    scene: Scene, rig: Rig, times_s: dict[str, float], boxes: Boxes, boxes_time_s: float
) -> Array:
    """Return (B,) 0..1: the part of an object, as the cameras would see it alone, that they see.

    Of the points on the surface that faces a camera in whose image the object lies, at least in
    part, it is the share at which an image shows the object and nothing before it. Every camera
    looks at its own exposure, with objects where they are then. What is outside of all images or
    farther than REACH_M is not seen.

    Args:
        scene: what can hide objects.
        rig: the cameras.
        times_s: exposure of each camera.
        boxes: the objects.
        boxes_time_s: of `boxes`; decides which objects are in reach.
    """
    world = scene.world
    part = np.zeros(len(boxes.actor))
    away = boxes.map_T_box[:, :3, 3] - world.map_T_base(boxes_time_s)[:3, 3]
    near = np.flatnonzero(np.linalg.norm(away, axis=1) <= REACH_M)
    if not len(near):
        return part
    actors = boxes.actor[near]
    samples = [_samples(world.actors[i].mesh, int(i)) for i in actors]
    points_body, normals_body = (np.stack(column) for column in zip(*samples, strict=True))
    facing = np.zeros(points_body.shape[:2], bool)
    seen = np.zeros_like(facing)
    for c in rig.cameras:
        time_s = times_s[c.name]
        instant = scene.at(time_s)
        map_T_body = instant.poses[actors]
        points = rigid.transform_points(map_T_body, points_body)
        normals = normals_body @ np.swapaxes(map_T_body[:, :3, :3], -1, -2)
        map_T_cam = world.map_T_base(time_s) @ c.base_T_cam
        rays = points - map_T_cam[:3, 3]
        towards = (rays * normals).sum(-1) < 0
        _, shown = c.camera.project(rigid.transform_points(rigid.inverse(map_T_cam), points))
        looks = (shown & towards).any(1)  # cameras that look elsewhere face other sides
        facing |= towards & looks[:, None]
        open_ = shown & towards & ~seen
        if not open_.any():
            continue
        distance = np.linalg.norm(rays[open_], axis=-1)
        origins = np.broadcast_to(map_T_cam[:3, 3], (len(distance), 3))
        hits = instant.cast(origins, rays[open_] / distance[:, None])
        own = np.broadcast_to(actors[:, None], open_.shape)[open_]
        # A point behind other parts of its object counts: what is shown there is the object.
        seen[open_] = (hits.actor == own) | (hits.distance_m > distance - _CLEAR_M)
    part[near] = seen.sum(1) / np.maximum(facing.sum(1), 1)
    return part


@lru_cache(maxsize=4096)
def _samples(mesh: Mesh, seed: int) -> tuple[Array, Array]:
    """Return SAMPLES points and unit normals (S, 3) spread over a mesh's surface, by area."""
    corners = mesh.vertices[mesh.triangles].astype(float)  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    doubled = np.linalg.norm(cross, axis=1)
    rng = np.random.default_rng((seed, 64))
    share = (np.arange(SAMPLES) + rng.uniform(size=SAMPLES)) / SAMPLES
    edges = np.cumsum(doubled) / doubled.sum()
    chosen = np.minimum(np.searchsorted(edges, share), len(doubled) - 1)
    a, b = rng.uniform(size=(2, SAMPLES))
    a, b = np.where(a + b > 1, 1 - a, a), np.where(a + b > 1, 1 - b, b)
    at = corners[chosen]
    weights = np.stack([1 - a - b, a, b], -1)[..., None]
    return (at * weights).sum(1), cross[chosen] / doubled[chosen, None]
