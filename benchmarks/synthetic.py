"""Speed of synthetic drives: each step on one core, a frame on two threads, whole drives.

python benchmarks/synthetic.py [--size 400x224] [--weather clear] [--drive-seconds 4]
python benchmarks/synthetic.py --warp      # the same camera rays by warp-lang, if it is installed
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from bev_perception.geometry.grid import BevGrid
from bev_training.option_types import size_px
from bev_training.synthetic.drive import DriveConfig, write_drive
from bev_training.synthetic.frames import boxes_near, exposure_times_s
from bev_training.synthetic.lidar import sweep
from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import NOTHING, Scene
from bev_training.synthetic.rig import RigCamera, nuscenes_rig
from bev_training.synthetic.slices import encode_jpeg
from bev_training.synthetic.truth import class_grids
from bev_training.synthetic.visibility import visibility
from bev_training.synthetic.world import World

TIME_S = 3.0


def measured(name: str, work: Callable[[], object], repeats: int = 5) -> float:
    """Print CPU and wall-clock milliseconds of one call, the best of several; return the wall."""
    cpu, wall = [], []
    for _ in range(repeats):
        before = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - before[0])
        wall.append(time.perf_counter() - before[1])
    print(f'{name:44} {1e3 * min(cpu):8.1f} {1e3 * min(wall):8.1f}')
    return min(wall)


def camera_rays(
    cameras: tuple[RigCamera, ...], world: World
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Origins and directions of all pixels' rays, camera by camera, in the map."""
    rays = []
    for c in cameras:
        pose = world.map_T_base(TIME_S) @ c.base_T_cam
        u, v = np.meshgrid(*(np.arange(n) for n in c.camera.size_px))
        ahead = c.camera.unproject(np.stack([u, v], -1).reshape(-1, 2)) @ pose[:3, :3].T
        rays.append((np.tile(pose[:3, 3], (len(ahead), 1)), ahead.astype(np.float32)))
    return rays


def steps(size: tuple[int, int], weather: str, seed: int) -> None:
    print(f'{"step":44} {"CPU ms":>8} {"wall ms":>8}')
    measured('world: map, objects, traffic', lambda: make_world(seed=seed, weather=weather), 1)
    world = make_world(seed=seed, weather=weather)
    measured('scene: meshes and tree of what stands', lambda: Scene(world), 1)
    scene = Scene(world)
    measured('renderer: ground and sky', lambda: Renderer(scene), 1)
    renderer, rig = Renderer(scene), nuscenes_rig(size)
    triangles = sum(len(actor.mesh.triangles) for actor in world.actors)
    print(f'  ({len(world.actors)} objects, {triangles} triangles, {len(world.movers)} moving)')

    def view(c: RigCamera) -> np.ndarray:
        pose = world.map_T_base(TIME_S + c.offset_s) @ c.base_T_cam
        return renderer.view(c.camera, pose, TIME_S + c.offset_s).image

    def points() -> np.ndarray:
        instant, pose = scene.at(TIME_S), world.map_T_base(TIME_S)
        return sweep(
            instant, rig.lidar, pose, seed=(0,),
            conditions=world.conditions, ground_semantics=renderer.ground.semantics,
        )  # fmt: skip

    rays, instant = camera_rays(rig.cameras, world), scene.at(TIME_S)
    sun = np.float32(world.conditions.sun_direction)
    starts = []
    for start, ahead in rays:
        hit = instant.cast(start, ahead)
        lit = (hit.actor != NOTHING) & (hit.normal @ sun > 0)
        at = start[lit] + ahead[lit] * hit.distance_m[lit, None] + 0.02 * hit.normal[lit]
        starts.append((at, np.tile(sun, (len(at), 1))))
    times = {n: t + TIME_S for n, t in exposure_times_s(rig, 0).items()}
    boxes = boxes_near(world, TIME_S)
    images = [view(c) for c in rig.cameras]
    measured('tree of what moves, for one exposure', lambda: scene._instant(TIME_S))
    measured('six views: rays', lambda: [instant.cast(*r) for r in rays])
    measured('six views: rays to the sun', lambda: [instant.blocked(*s, 250.0) for s in starts])
    measured('six views: image, semantics, depth', lambda: [view(c) for c in rig.cameras])
    measured('lidar sweep', points)
    measured('six JPEGs', lambda: [encode_jpeg(image) for image in images])
    measured('class grids, 200x200', lambda: class_grids(world, BevGrid(), TIME_S))
    measured(
        f'visibility of {len(boxes.actor)} objects',
        lambda: visibility(scene, rig, times, boxes, TIME_S),
    )

    def frame() -> None:
        scene._instants.clear()  # every frame of a drive has other instants
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(view, c) for c in rig.cameras] + [pool.submit(points)]
            [job.result() for job in jobs]

    measured('six views and a sweep, two threads', frame)


def against_warp(size: tuple[int, int], seed: int) -> None:
    """Cast the same rays against the same triangles with warp-lang, on the CPU."""
    import warp as wp

    @wp.kernel
    def cast(
        mesh: wp.uint64, o: wp.array(dtype=wp.vec3), d: wp.array(dtype=wp.vec3),
        out: wp.array(dtype=float),
    ):  # fmt: skip
        i = wp.tid()
        found = wp.mesh_query_ray(mesh, o[i], d[i], 3000.0)
        out[i] = found.t if found.result else -1.0

    world = make_world(seed=seed)
    scene = Scene(world)
    instant = scene.at(TIME_S)
    poses = world.poses(TIME_S)
    vertices = np.concatenate(
        [a.mesh.placed(p) for a, p in zip(world.actors, poses, strict=True)]
    ) - np.float32(scene._middle)
    counts = np.cumsum([0, *(len(a.mesh.vertices) for a in world.actors)])[:-1]
    triangles = np.concatenate(
        [a.mesh.triangles + n for a, n in zip(world.actors, counts, strict=True)]
    )
    mesh = wp.Mesh(
        wp.array(vertices, dtype=wp.vec3, device='cpu'),
        wp.array(triangles.ravel().astype(np.int32), dtype=int, device='cpu'),
    )
    rays = camera_rays(nuscenes_rig(size).cameras, world)
    starts, ahead = (np.concatenate(part).astype(np.float32) for part in zip(*rays, strict=True))
    local = starts - np.float32(scene._middle)
    arrays = [wp.array(a, dtype=wp.vec3, device='cpu') for a in (local, ahead)]
    out = wp.zeros(len(ahead), dtype=float, device='cpu')
    launch = lambda: wp.launch(cast, dim=len(ahead), inputs=[mesh.id, *arrays, out], device='cpu')  # noqa: E731
    launch()  # compiles
    print(f'\n{len(ahead)} rays (warp: without the ground)')
    ours = measured('embree', lambda: instant.cast(starts, ahead))
    theirs = measured('warp-lang, CPU', launch)
    print(f'warp takes {theirs / ours:.1f} times as long')


def drives(size: tuple[int, int], seconds: float) -> None:
    head = f'{"drive of":>10} {"processes":>10} {"wall s":>8} {"s/frame":>8} {"MB":>8}'
    print(f'\n{head}   (start included)')
    with tempfile.TemporaryDirectory() as folder:
        for workers in sorted({1, min(16, os.cpu_count() or 1)}):
            for image_truth in (True, False):
                config = DriveConfig(seconds=seconds, size_px=size, image_truth=image_truth)
                began = time.perf_counter()
                out = Path(folder) / f'{workers}{image_truth}'
                done = write_drive(out, config, workers=workers)
                wall = time.perf_counter() - began
                print(
                    f'{seconds:8g} s {workers:10} {wall:8.1f} {wall / done.frames:8.2f} '
                    f'{done.size_bytes / 1e6:8.1f}   '
                    f'{"with" if image_truth else "without"} semantics and depth'
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=size_px, default=(400, 224), metavar='WxH')
    parser.add_argument('--weather', default='clear')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--drive-seconds', type=float, default=4.0, help='0: no drives')
    parser.add_argument('--warp', action='store_true', help='only compare with warp-lang')
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.warp:
        against_warp(options.size, options.seed)
        return
    steps(options.size, options.weather, options.seed)
    if options.drive_seconds > 0:
        drives(options.size, options.drive_seconds)


if __name__ == '__main__':
    main()
