"""Frames of a drive in memory: the images of one camera cycle with poses and truth."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, ImageRgb, Index, Rigid
from bev_training.synthetic.rendering.renderer import Renderer, View
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import CAMERA_HZ, Rig, RigCamera
from bev_training.synthetic.truth import class_grids
from bev_training.synthetic.visibility import visibility
from bev_training.synthetic.world import Boxes, World

REFERENCE = 'front'  # truth refers to this camera's exposure, or to the first camera's
BOXES_WITHIN_M = 100.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One cycle of the rig's cameras.

    Attributes:
        images: (H, W, 3) uint8 RGB by camera name.
        semantics: (H, W) uint8, positions in `categories.SEMANTICS` or UNSEEN, by camera name.
        depth_m: (H, W) float32 along the optical axis, by camera name; 0 is none, see `View`.
        times_s: exposure by camera name, seconds since the start of the drive.
        map_T_base: the vehicle's pose at each exposure.
        truth_time_s: exposure of the reference camera, to which everything below belongs.
        map_T_base_truth: the vehicle's pose then.
        grids: (C, Y, X) uint8 0/1, classes in the order of `truth.CLASSES`.
        boxes: of all objects within BOXES_WITHIN_M of the vehicle.
        visibility: (B,) 0..1, which part of an object the cameras see.
    """

    images: dict[str, ImageRgb]
    semantics: dict[str, AnyArray]
    depth_m: dict[str, AnyArray]
    times_s: dict[str, float]
    map_T_base: dict[str, Rigid]
    truth_time_s: float
    map_T_base_truth: Rigid
    grids: AnyArray
    boxes: Boxes
    visibility: Array


def exposure_times_s(
    rig: Rig, frame: int, *, seed: int = 0, jitter_s: float = 0.0
) -> dict[str, float]:
    """Return when each camera exposes in a frame, in whole microseconds.

    Args:
        rig: the cameras.
        frame: number, from 0.
        seed: of the jitter.
        jitter_s: largest deviation to either side.
    """
    shake = np.random.default_rng((seed, frame)).uniform(-1, 1, len(rig.cameras)) * jitter_s
    return {
        c.name: round((frame / rig.camera_hz + c.offset_s + float(s)) * 1e6) / 1e6
        for c, s in zip(rig.cameras, shake, strict=True)
    }


def truth_time_s(times_s: dict[str, float]) -> float:
    """Return the exposure to which a frame's truth belongs: the front camera's or the first."""
    return times_s[REFERENCE] if REFERENCE in times_s else next(iter(times_s.values()))


def render_frame(
    renderer: Renderer,
    rig: Rig,
    times_s: dict[str, float],
    *,
    grid: BevGrid | None = None,
    truth: bool = True,
    noise_seed: tuple[int, ...] = (),
    threads: int = 1,
) -> Frame:
    """Render a cycle of cameras.

    Args:
        renderer: of the world.
        rig: the cameras.
        times_s: exposure of each camera; see `exposure_times_s`.
        grid: of the truth; None takes the default one.
        truth: False saves the time for grids, boxes and visibility; these are empty then.
        noise_seed: of the images' noise, besides the world's seed, the camera and its exposure.
        threads: how many cameras are rendered at once; the images do not depend on it.
    """
    world = renderer.scene.world
    poses = {c.name: world.map_T_base(times_s[c.name]) for c in rig.cameras}

    def look(numbered: tuple[int, RigCamera]) -> View:
        number, c = numbered
        seed = (world.seed, *noise_seed, number, round(times_s[c.name] * 1e6) + 1_000_000)
        map_T_cam = poses[c.name] @ c.base_T_cam
        return renderer.view(c.camera, map_T_cam, times_s[c.name], noise_seed=seed)

    numbered = list(enumerate(rig.cameras))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            views = list(pool.map(look, numbered))
    else:
        views = [look(one) for one in numbered]
    named = {c.name: view for c, view in zip(rig.cameras, views, strict=True)}
    time_s = truth_time_s(times_s)
    base = world.map_T_base(time_s)
    boxes = boxes_near(world, time_s) if truth else selected(world.boxes(time_s), np.arange(0))
    grid = grid or BevGrid()
    return Frame(
        images={name: view.image for name, view in named.items()},
        semantics={name: view.semantics for name, view in named.items()},
        depth_m={name: view.depth_m for name, view in named.items()},
        times_s=dict(times_s),
        map_T_base=poses,
        truth_time_s=time_s,
        map_T_base_truth=base,
        grids=class_grids(world, grid, time_s) if truth else np.zeros((0, *grid.shape[1:]), 'u1'),
        boxes=boxes,
        visibility=visibility(renderer.scene, rig, times_s, boxes, time_s),
    )


def boxes_near(world: World, time_s: float, within_m: float = BOXES_WITHIN_M) -> Boxes:
    """Return the boxes whose middle lies this near to base, measured in the horizontal plane."""
    boxes = world.boxes(time_s)
    away = boxes.map_T_box[:, :2, 3] - world.map_T_base(time_s)[:2, 3]
    return selected(boxes, np.flatnonzero(np.hypot(*away.T) <= within_m))


def selected(boxes: Boxes, which: Index) -> Boxes:
    """Return some of the boxes."""
    return Boxes(**{f.name: getattr(boxes, f.name)[which] for f in fields(boxes)})


def render_frames(world: World, rig: Rig, *, grid: BevGrid | None = None) -> Iterator[Frame]:
    """Yield every frame of the drive that the world was made for."""
    renderer = Renderer(Scene(world))
    for number in range(frame_count(world.seconds, rig.camera_hz)):
        yield render_frame(renderer, rig, exposure_times_s(rig, number), grid=grid)


def frame_count(seconds: float, hz: int = CAMERA_HZ) -> int:
    """Return how many frames a drive has; at least one."""
    return max(1, int(seconds * hz + 1e-6))
