"""Frames of a drive in memory: the images of one camera cycle with poses and truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, ImageRgb, Rigid
from bev_training.synthetic.render import Renderer
from bev_training.synthetic.rig import CAMERA_HZ, Rig
from bev_training.synthetic.truth import class_grids
from bev_training.synthetic.world import World

REFERENCE = 'front'  # truth refers to this camera's exposure


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One cycle of the rig's cameras.

    Attributes:
        images: (H, W, 3) uint8 RGB by camera name.
        times_s: exposure by camera name, seconds since the start of the drive.
        odom_T_base: the vehicle's pose at each exposure.
        truth_time_s: exposure of the reference camera, to which `grids` and `vehicles` belong.
        grids: (C, Y, X) uint8 0/1, classes in the order of `truth.CLASSES`.
        vehicles: (V, 7) boxes x, y, z, length, width, height, yaw in odom.
    """

    images: dict[str, ImageRgb]
    times_s: dict[str, float]
    odom_T_base: dict[str, Rigid]
    truth_time_s: float
    grids: AnyArray
    vehicles: Array


def exposure_times_s(
    rig: Rig, frame: int, *, seed: int = 0, jitter_s: float = 0.0
) -> dict[str, float]:
    """Return when each camera exposes in a frame, in whole nanoseconds.

    Args:
        rig: the cameras.
        frame: number, from 0.
        seed: of the jitter.
        jitter_s: largest deviation to either side.
    """
    shake = np.random.default_rng((seed, frame)).uniform(-1, 1, len(rig.cameras)) * jitter_s
    return {
        c.name: round((frame / CAMERA_HZ + c.offset_s + float(s)) * 1e9) / 1e9
        for c, s in zip(rig.cameras, shake, strict=True)
    }


def render_frame(
    world: World,
    rig: Rig,
    times_s: dict[str, float],
    *,
    grid: BevGrid | None = None,
    renderer: Renderer | None = None,
) -> Frame:
    """Render a cycle of cameras.

    Args:
        world: the scene.
        rig: the cameras.
        times_s: exposure of each camera; see `exposure_times_s`.
        grid: of the truth; None takes the default one.
        renderer: of this world; passing the same one again saves painting the ground anew.
    """
    renderer = renderer or Renderer(world)
    poses = {name: world.odom_T_base(time) for name, time in times_s.items()}
    images = {
        c.name: renderer.image(c.camera, poses[c.name] @ c.base_T_cam, times_s[c.name])
        for c in rig.cameras
    }
    time_s = times_s[REFERENCE] if REFERENCE in times_s else next(iter(times_s.values()))
    return Frame(
        images=images,
        times_s=dict(times_s),
        odom_T_base=poses,
        truth_time_s=time_s,
        grids=class_grids(world, grid or BevGrid(), world.odom_T_base(time_s), time_s),
        vehicles=world.vehicles(time_s),
    )


def render_frames(world: World, rig: Rig, *, grid: BevGrid | None = None) -> Iterator[Frame]:
    """Yield every frame of the drive that the world was made for."""
    renderer = Renderer(world)
    for number in range(frame_count(world.seconds)):
        times = exposure_times_s(rig, number)
        yield render_frame(world, rig, times, grid=grid, renderer=renderer)


def frame_count(seconds: float, hz: int = CAMERA_HZ) -> int:
    """Return how many frames a drive has; at least one."""
    return max(1, int(seconds * hz + 1e-6))
