"""Renders a drive slice by slice, in this process or in several, with the same result.

A slice is a second: whole periods of cameras, lidar and poses, and few enough images to wait in
memory until it is their turn to be written.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event

import cv2
import numpy as np
import simplejpeg

from bev_perception.errors import BevError
from bev_perception.shapes import AnyArray, ImageRgb
from bev_training.synthetic.frames import exposure_times_s, frame_count, render_frame
from bev_training.synthetic.lidar import sweep
from bev_training.synthetic.render import Renderer
from bev_training.synthetic.rig import CAMERA_HZ, LIDAR_HZ
from bev_training.synthetic.settings import DriveConfig

SLICE_S = 1
JPEG_QUALITY = 90


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice:
    """What the sensors saw in one second.

    Attributes:
        images: (time_s, camera name, JPEG or raw image).
        sweeps: (time_s, points).
        truth: arrays by name, first axis = frames.
    """

    number: int
    images: list[tuple[float, str, bytes | ImageRgb]]
    sweeps: list[tuple[float, AnyArray]]
    truth: dict[str, AnyArray]


class SliceRenderer:
    """Renders the slices of a drive, in any order, until `stopped` says so."""

    def __init__(self, config: DriveConfig, stopped: Callable[[], bool] = bool) -> None:
        self.config = config
        self.stopped = stopped
        self.world = config.world()
        self.rig = config.rig()
        self.renderer = Renderer(self.world)

    def render(self, number: int) -> Slice:
        """Return one slice."""
        config = self.config
        images: list[tuple[float, str, bytes | ImageRgb]] = []
        truth: dict[str, list[AnyArray]] = {'grids': [], 'odom_T_base': [], 'vehicles': []}
        stamps = []
        for frame in _numbers(number, CAMERA_HZ, config.seconds):
            if self.stopped():
                raise InterruptedError
            times = exposure_times_s(self.rig, frame, seed=config.seed, jitter_s=config.jitter_s)
            made = render_frame(
                self.world, self.rig, times, grid=config.grid, renderer=self.renderer
            )
            for name, image in made.images.items():
                images.append((times[name], name, image if config.raw else encode_jpeg(image)))
            stamps.append(config.stamp_ns(made.truth_time_s))
            truth['grids'].append(made.grids)
            truth['odom_T_base'].append(self.world.odom_T_base(made.truth_time_s))
            truth['vehicles'].append(made.vehicles)
        sweeps = []
        for turn in _numbers(number, LIDAR_HZ, config.seconds):
            time_s = turn / LIDAR_HZ
            pose = self.world.odom_T_base(time_s)
            sweeps.append((time_s, sweep(self.world, self.rig.lidar, pose, time_s)))
        arrays = {name: np.array(rows) for name, rows in truth.items()}
        arrays['stamps_ns'] = np.array(stamps, np.int64)
        return Slice(number=number, images=images, sweeps=sweeps, truth=arrays)


def slice_count(config: DriveConfig) -> int:
    """Return the number of slices of a drive."""
    return math.ceil(frame_count(config.seconds) / (CAMERA_HZ * SLICE_S))


def rendered(config: DriveConfig, workers: int) -> Generator[Slice, None, None]:
    """Yield the slices of a drive in order.

    Args:
        config: the drive.
        workers: processes; with one, everything happens in this process.

    Raises:
        BevError: a process died.
    """
    count = slice_count(config)
    if min(workers, count) < 2:
        renderer = SliceRenderer(config)
        for number in range(count):
            yield renderer.render(number)
        return
    context = multiprocessing.get_context('spawn')  # safe beside the caller's threads
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(workers, count), mp_context=context, initializer=_start, initargs=(config, stop)
    )
    waiting: deque[Future[Slice]] = deque()
    try:
        for number in range(count):
            waiting.append(pool.submit(_render, number))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise BevError('a rendering process died; is there enough memory?') from error
    finally:
        stop.set()  # nobody waits for what is still being rendered
        pool.shutdown(wait=True, cancel_futures=True)


_worker: SliceRenderer  # of this process


def _start(config: DriveConfig, stop: Event) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us
    cv2.setNumThreads(1)
    _worker = SliceRenderer(config, stop.is_set)


def _render(number: int) -> Slice:
    return _worker.render(number)


def _numbers(number: int, hz: int, seconds: float) -> range:
    """Return which periods of a sensor fall into a slice."""
    first = number * SLICE_S * hz
    return range(first, min(first + SLICE_S * hz, frame_count(seconds, hz)))


def encode_jpeg(image: ImageRgb) -> bytes:
    """Return a JPEG as a camera driver would make it."""
    return bytes(simplejpeg.encode_jpeg(image, JPEG_QUALITY, 'RGB', '420'))
