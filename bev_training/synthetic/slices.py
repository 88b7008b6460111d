"""Renders a drive slice by slice, in this process or in several, with the same result.

A slice is a second: whole periods of cameras, lidar and poses, and few enough images to wait in
memory until it is their turn to be written. Semantics and depth go straight to their files.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from bev_perception.shapes import AnyArray, ImageRgb
from bev_training.processes import Stopped, processes
from bev_training.processes import stopped as processes_stopped
from bev_training.synthetic.frames import Frame, exposure_times_s, frame_count, render_frame
from bev_training.synthetic.lidar import sweep
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.settings import DriveConfig
from bev_training.synthetic.stored_truth import encode_depth
from bev_training.synthetic.world import World

SLICE_S = 1
JPEG_QUALITY = 90


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice:
    """What the sensors saw in one second.

    Attributes:
        number: its place in the drive.
        images: (time_s, camera name, JPEG or raw image).
        sweeps: (time_s, points).
        truth: arrays by name, see `stored_truth`; their first axis is frames or boxes. Empty
            where no frame begins in this second.
    """

    number: int
    images: list[tuple[float, str, bytes | ImageRgb]]
    sweeps: list[tuple[float, AnyArray]]
    truth: dict[str, AnyArray]


class SliceRenderer:
    """Renders the slices of a drive, in any order, until `stopped` says so."""

    def __init__(
        self,
        config: DriveConfig,
        world: World,
        truth: Path | None = None,
        stopped: Callable[[], bool] = bool,
    ) -> None:
        """Build the scene.

        Args:
            config: the drive.
            world: of the drive.
            truth: folder that takes the images' truth; it has a folder per kind and camera.
            stopped: asked before the scene is built and before every frame.

        Raises:
            Stopped: `stopped` said so.
        """
        self.config = config
        self.truth = truth
        self.stopped = stopped
        self.world = world
        self.rig = config.rig_or_default()
        self._check()
        self.scene = Scene(world)
        self._check()
        self.renderer = Renderer(self.scene)

    def render(self, number: int) -> Slice:
        """Return one slice.

        Raises:
            Stopped: `stopped` said so.
        """
        images: list[tuple[float, str, bytes | ImageRgb]] = []
        frames: list[dict[str, AnyArray]] = []
        for frame in _numbers(number, self.rig.camera_hz, self.config.seconds):
            made = self._frame(frame)
            for name, image in made.images.items():
                coded = image if self.config.raw else encode_jpeg(image)
                images.append((made.times_s[name], name, coded))
            frames.append(_stored(self.config, self.world, frame, made))
        truth = joined(frames)
        return Slice(number=number, images=images, sweeps=self._sweeps(number), truth=truth)

    def _frame(self, number: int) -> Frame:
        """Render one cycle of the cameras, and write its semantics and depth."""
        self._check()
        config = self.config
        times = exposure_times_s(self.rig, number, seed=config.seed, jitter_s=config.jitter_s)
        made = render_frame(self.renderer, self.rig, times, grid=config.grid, noise_seed=(number,))
        if self.truth:
            for name, time_s in times.items():
                file = f'{name}/{config.stamp_ns(time_s)}.png'
                write_png(self.truth / 'semantics' / file, made.semantics[name])
                write_png(self.truth / 'depth' / file, encode_depth(made.depth_m[name]))
        return made

    def _sweeps(self, number: int) -> list[tuple[float, AnyArray]]:
        lidar = self.rig.lidar
        sweeps: list[tuple[float, AnyArray]] = []
        if lidar is None:
            return sweeps
        for turn in _numbers(number, lidar.hz, self.config.seconds):
            self._check()
            time_s = turn / lidar.hz
            points = sweep(
                self.scene.at(time_s),
                lidar,
                self.world.map_T_base(time_s),
                seed=(self.config.seed, turn),
                conditions=self.world.conditions,
                ground_semantics=self.renderer.ground.semantics,  # making another takes seconds
            )
            sweeps.append((time_s, points))
        return sweeps

    def _check(self) -> None:
        if self.stopped():
            raise Stopped('rendering was stopped')


def _stored(config: DriveConfig, world: World, number: int, made: Frame) -> dict[str, AnyArray]:
    """Return what truth.npz keeps of a frame."""
    boxes, count = made.boxes, len(made.boxes.actor)
    return {
        'stamps_ns': np.array([config.stamp_ns(made.truth_time_s)], np.int64),
        'grids': made.grids[None],
        'odom_T_base': world.odom_T_base(made.truth_time_s)[None],
        'box_frame': np.full(count, number, np.int32),
        'box_actor': boxes.actor.astype(np.int32),
        'box_category': boxes.category.astype(np.uint8),
        'box_pose': boxes.map_T_box,
        'box_size_m': boxes.size_m,
        'box_velocity_mps': boxes.velocity_mps,
        'box_visibility': made.visibility.astype(np.float32),
        'box_parked': boxes.parked,
    }


def joined(parts: Iterable[dict[str, AnyArray]]) -> dict[str, AnyArray]:
    """Concatenate the arrays of frames or slices, by name."""
    filled = [part for part in parts if part]
    if not filled:
        return {}
    return {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}


def slice_count(config: DriveConfig) -> int:
    """Return the number of slices of a drive."""
    rig = config.rig_or_default()
    rates = {rig.camera_hz, rig.lidar.hz if rig.lidar else rig.camera_hz}
    return max(math.ceil(frame_count(config.seconds, hz) / (hz * SLICE_S)) for hz in rates)


def rendered(
    config: DriveConfig,
    world: World,
    workers: int,
    *,
    truth: Path | None = None,
    stopped: Callable[[], bool] = bool,
) -> Generator[Slice, None, None]:
    """Yield the slices of a drive in order.

    Args:
        config: the drive.
        world: of the drive.
        workers: processes; with one, everything happens in this process.
        truth: folder that takes the images' truth; None writes none.
        stopped: asked before every frame that this process renders.

    Raises:
        BevError: a process died.
    """
    count = slice_count(config)
    if min(workers, count) < 2:
        renderer = SliceRenderer(config, world, truth, stopped)
        for number in range(count):
            yield renderer.render(number)
        return
    waiting: deque[Future[Slice]] = deque()
    with processes(min(workers, count), _start, config, truth) as submit:
        for number in range(count):
            waiting.append(submit(_render, number))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_job: tuple[DriveConfig, Path | None]  # of this process
_renderer: SliceRenderer | None = None  # of this process, once it has something to render


def _start(config: DriveConfig, truth: Path | None) -> None:
    global _job
    _job = config, truth


def _render(number: int) -> Slice:
    global _renderer
    if _renderer is None:
        config, truth = _job
        _renderer = SliceRenderer(config, config.world(), truth, processes_stopped)
    return _renderer.render(number)


def _numbers(number: int, hz: int, seconds: float) -> range:
    """Return which periods of a sensor fall into a slice."""
    first = number * SLICE_S * hz
    return range(first, min(first + SLICE_S * hz, frame_count(seconds, hz)))


def encode_jpeg(image: ImageRgb) -> bytes:
    """Return a JPEG as a camera driver would make it."""
    return bytes(simplejpeg.encode_jpeg(image, JPEG_QUALITY, 'RGB', '420'))


def write_png(path: Path, image: AnyArray) -> None:
    """Write a PNG of one channel.

    Raises:
        OSError: it cannot be written.
    """
    done, data = cv2.imencode('.png', image)
    assert done
    path.write_bytes(data.tobytes())
