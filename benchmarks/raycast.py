"""Speed of ray casting and shading: six views of a town, one thread and two.

python benchmarks/raycast.py [--size 400 224] [--weather clear]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import NOTHING, Scene
from bev_training.synthetic.rig import RigCamera, nuscenes_rig

TIME_S = 3.0


def measured(name: str, work: Callable[[], object], repeats: int = 5) -> None:
    """Print CPU and wall-clock milliseconds of one call; the best of several."""
    cpu, wall = [], []
    for _ in range(repeats):
        before = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - before[0])
        wall.append(time.perf_counter() - before[1])
    print(f'{name:42} {1e3 * min(cpu):8.1f} {1e3 * min(wall):8.1f}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, nargs=2, default=(400, 224), metavar=('W', 'H'))
    parser.add_argument('--weather', default='clear')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(1)

    world = make_world(seed=options.seed, seconds=8, speed_mps=8, weather=options.weather)
    triangles = sum(len(actor.mesh.triangles) for actor in world.actors)
    print(f'{len(world.actors)} actors, {triangles} triangles, {len(world.movers)} movers')
    print(f'{"step":42} {"CPU ms":>8} {"wall ms":>8}')
    measured('scene: static tree', lambda: Scene(world), 1)
    scene = Scene(world)
    measured('renderer: ground, sky', lambda: Renderer(scene), 1)
    renderer = Renderer(scene)
    cameras = nuscenes_rig(tuple(options.size)).cameras

    def pose(c: RigCamera) -> np.ndarray:
        return world.map_T_base(TIME_S + c.offset_s) @ c.base_T_cam

    def view(c: RigCamera) -> object:
        return renderer.view(c.camera, pose(c), TIME_S + c.offset_s)

    rays = []
    for c in cameras:
        u, v = np.meshgrid(*(np.arange(n) for n in c.camera.size_px))
        ahead = c.camera.unproject(np.stack([u, v], -1).reshape(-1, 2)) @ pose(c)[:3, :3].T
        rays.append((np.tile(pose(c)[:3, 3], (len(ahead), 1)), ahead.astype(np.float32)))
    instants = [scene.at(TIME_S + c.offset_s) for c in cameras]
    hits = [i.cast(*r) for i, r in zip(instants, rays, strict=True)]
    sun = np.float32(world.conditions.sun_direction)
    starts = []
    for (start, ahead), hit in zip(rays, hits, strict=True):
        lit = (hit.actor != NOTHING) & (hit.normal @ sun > 0)
        at = start[lit] + ahead[lit] * hit.distance_m[lit, None] + 0.02 * hit.normal[lit]
        starts.append((at, np.tile(sun, (len(at), 1))))
    measured('one set of movers', lambda: scene._instant(TIME_S))
    measured('cast, six views', lambda: [i.cast(*r) for i, r in zip(instants, rays, strict=True)])
    measured(
        'shadows, six views',
        lambda: [i.blocked(*s, 250.0) for i, s in zip(instants, starts, strict=True)],
    )
    measured('six views with everything', lambda: [view(c) for c in cameras])
    with ThreadPoolExecutor(2) as pool:
        measured('six views with everything, two threads', lambda: list(pool.map(view, cameras)))


if __name__ == '__main__':
    main()
