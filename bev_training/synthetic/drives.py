"""Writes several synthetic drives, one process per drive where there are enough of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError, ConfigError
from bev_training.folders import entries, hidden_folder
from bev_training.processes import CONTEXT, processes, stopped, wait_for
from bev_training.synthetic.drive import DriveSummary, read_summary, worker_count, write_drive
from bev_training.synthetic.limits import MAX_SEED
from bev_training.synthetic.settings import DriveConfig


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
    if config.seed + count - 1 > MAX_SEED:
        raise ConfigError(
            f'drives is {count}; seed {config.seed} and those after it, to {MAX_SEED}, are '
            f'{MAX_SEED - config.seed + 1}'
        )
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

    Drives that are there already, of the same settings, are kept: so an interrupted call is
    finished by the same call again.

    Args:
        out: a folder that does not exist yet, is empty or holds only such drives.
        config: the settings; every drive has its own seed, see `drive_configs`.
        count: number of drives.
        workers: processes; None takes one per core, up to 16.
        progress: called with the number of frames that were just written, or found.

    Raises:
        ConfigError: a setting is out of its range.
        BagError: the folder holds something else or cannot be written.
    """
    workers = worker_count(workers)
    report = progress or (lambda frames: None)
    wanted = {drive_name(number): one for number, one in enumerate(drive_configs(config, count))}
    found = _found(out, wanted)
    for summary in found.values():
        report(summary.frames)
    left = {name: one for name, one in wanted.items() if name not in found}
    if workers == 1 or len(left) < workers:
        for name, one in left.items():
            found[name] = write_drive(out / name, one, workers=workers, progress=progress)
    else:
        try:
            found |= _in_processes(out, left, workers, report)
        except OSError as error:
            raise BagError(f'{out} cannot be written: {error.strerror or error}') from error
    return [found[name] for name in wanted]


def _found(out: Path, wanted: dict[str, DriveConfig]) -> dict[str, DriveSummary]:
    """Return the wanted drives that are in a folder, in which nothing else may be."""
    found = {}
    for path in entries(out):
        if path.name not in wanted or not wanted[path.name].is_of(path):
            raise BagError(
                f'{out} exists and is not an empty folder: {path.name} is no drive of these '
                'settings'
            )
        found[path.name] = read_summary(path)
    return found


def _in_processes(
    out: Path,
    configs: dict[str, DriveConfig],
    workers: int,
    report: Callable[[int], None],
) -> dict[str, DriveSummary]:
    frames = CONTEXT.Value('q', 0)
    # What a process that is killed leaves behind vanishes with the hidden folder.
    with hidden_folder(out) as work, processes(workers, _start, frames) as submit:
        futures: dict[str, Future[DriveSummary]] = {
            name: submit(_write, work / name, out / name, one) for name, one in configs.items()
        }
        wait_for(futures.values(), frames, report)
        return {name: future.result() for name, future in futures.items()}


_frames: Any  # counter that the processes share


def _start(frames: Any) -> None:
    global _frames
    _frames = frames


def _write(work: Path, out: Path, config: DriveConfig) -> DriveSummary:
    done = write_drive(work, config, workers=1, progress=_count, stopped=stopped)
    work.rename(out)
    return replace(done, path=out)


def _count(frames: int) -> None:
    with _frames.get_lock():
        _frames.value += frames
