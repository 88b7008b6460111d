"""Writes several synthetic drives, one process per drive where there are enough of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.context import SpawnContext
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError, BevError, ConfigError
from bev_training.synthetic.drive import DriveSummary, worker_count, write_drive
from bev_training.synthetic.settings import DriveConfig
from bev_training.synthetic.slices import be_worker

_LOOK_S = 0.5  # how often the processes' progress is collected


def drive_name(number: int) -> str:
    """Return the folder's name of one of several drives."""
    return f'drive-{number:04d}'


def drive_configs(config: DriveConfig, count: int) -> list[DriveConfig]:
    """Return the settings of several drives: seeds `config.seed`, `config.seed` + 1, ...

    Raises:
        ConfigError: the count is below one, or a seed is too large.
    """
    if count < 1:
        raise ConfigError(f'drives is {count}; it must be at least 1')
    return [replace(config, seed=config.seed + number) for number in range(count)]


def write_drives(
    out: Path,
    config: DriveConfig,
    count: int,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[DriveSummary]:
    """Write `out`/drive-0000 and so on. Each appears whole; those before an error stay.

    Args:
        out: a folder that does not exist yet or is empty.
        config: the settings; every drive has its own seed, see `drive_configs`.
        count: number of drives.
        workers: processes; None takes one per core, up to 16.
        progress: called with the number of frames that were just written.

    Raises:
        ConfigError: a setting is out of its range.
        BagError: the folder is not empty or cannot be written.
    """
    workers = worker_count(workers)
    configs = drive_configs(config, count)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BagError(f'{out} exists and is not an empty folder')
    paths = [out / drive_name(number) for number in range(count)]
    if workers == 1 or count < workers:
        return [
            write_drive(path, one, workers=workers, progress=progress)
            for path, one in zip(paths, configs, strict=True)
        ]
    context = multiprocessing.get_context('spawn')
    return _in_processes(context, paths, configs, workers, progress or (lambda frames: None))


def _in_processes(
    context: SpawnContext,
    paths: list[Path],
    configs: list[DriveConfig],
    workers: int,
    progress: Callable[[int], None],
) -> list[DriveSummary]:
    stop, frames = context.Event(), context.Value('q', 0)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(stop, frames)
    )
    shown = 0

    def show() -> None:
        nonlocal shown
        now = frames.value
        progress(now - shown)
        shown = now

    try:
        waiting: set[Future[DriveSummary]]
        futures = [pool.submit(_write, *each) for each in zip(paths, configs, strict=True)]
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=_LOOK_S, return_when=FIRST_EXCEPTION)
            show()
            for future in done:
                future.result()
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise BevError('a rendering process died; is there enough memory?') from error
    finally:
        stop.set()  # drives that are half done are given up
        pool.shutdown(wait=True, cancel_futures=True)


_stop: Event  # of this process's pool
_frames: Any  # counter that the pool's processes share


def _start(stop: Event, frames: Any) -> None:
    global _stop, _frames
    be_worker()
    _stop, _frames = stop, frames


def _write(path: Path, config: DriveConfig) -> DriveSummary:
    return write_drive(path, config, workers=1, progress=_count, stopped=_stop.is_set)


def _count(frames: int) -> None:
    with _frames.get_lock():
        _frames.value += frames
