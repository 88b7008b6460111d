"""Writes a synthetic drive: a rosbag2 with six cameras, lidar and poses, and the truth beside it.

    OUT/bag/        rosbag2, storage mcap
    OUT/truth.npz   class grids and vehicle boxes at every stamp of the front camera
    OUT/drive.json  the settings that made it

The same settings give the same bytes, whatever the number of processes. See docs/synthetic.md.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import BagError, ConfigError
from bev_training.synthetic import bag
from bev_training.synthetic.frames import frame_count
from bev_training.synthetic.rig import LIDAR_HZ
from bev_training.synthetic.settings import DriveConfig
from bev_training.synthetic.slices import rendered
from bev_training.synthetic.stored_truth import Truth, load_truth
from bev_training.synthetic.truth import CLASSES

__all__ = ['DriveConfig', 'DriveSummary', 'Truth', 'load_truth', 'write_drive']


@dataclass(frozen=True, kw_only=True)
class DriveSummary:
    """What was written: `frames` of all cameras, messages, bytes."""

    path: Path
    frames: int
    images: int
    sweeps: int
    messages: int
    size_bytes: int


def write_drive(
    out: Path,
    config: DriveConfig,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> DriveSummary:
    """Write a drive into a folder that does not exist yet or is empty.

    Args:
        out: the folder. It appears whole at the end, or not at all.
        config: the settings.
        workers: processes that render; None takes one per core, up to 16.
        progress: called with the number of frames that were just written.

    Raises:
        ConfigError: a setting is out of its range.
        BagError: the folder is not empty or cannot be written.
    """
    config.world()  # wrong settings fail before anything is written
    cameras = len(config.rig().cameras)
    if workers is not None and workers < 1:
        raise ConfigError(f'workers is {workers}; it must be at least 1')
    workers = workers or min(16, os.cpu_count() or 1)
    with _whole_folder(out) as work:
        with closing(rendered(config, workers)) as slices:  # stops the processes on errors too
            messages, truth = bag.write(work / 'bag', config, slices, progress)
        arrays: dict[str, Any] = {'classes': np.array(CLASSES), **truth}
        np.savez_compressed(work / 'truth.npz', **arrays)
        frames = frame_count(config.seconds)
        counts = {'frames': frames, 'sweeps': frame_count(config.seconds, LIDAR_HZ)}
        described = {
            **config.as_json(),
            **counts,
            'messages': messages,
            'epoch_ns': config.epoch_ns,
        }
        (work / 'drive.json').write_text(json.dumps(described, indent=1) + '\n')
        size = sum(path.stat().st_size for path in work.rglob('*') if path.is_file())
    return DriveSummary(
        path=out, images=frames * cameras, messages=messages, size_bytes=size, **counts
    )


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary sibling of `out` that takes its name at the end, or vanishes."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BagError(f'{out} exists and is not an empty folder')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    except OSError as error:
        raise BagError(f'{out} cannot be written: {error.strerror}') from error
    try:
        work.chmod(0o755)
        yield work
        if out.exists():
            out.rmdir()
        work.rename(out)
    except OSError as error:
        raise BagError(f'{out} cannot be written: {error.strerror or error}') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
