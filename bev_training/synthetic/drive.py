"""Writes a synthetic drive: a rosbag2 with cameras, lidar and poses, and the truth beside it.

    OUT/bag/        rosbag2, storage mcap
    OUT/truth.npz   class grids and objects' boxes at every frame, see `stored_truth`
    OUT/truth/      semantics/CAMERA/STAMP_NS.png (8 bit) and depth/CAMERA/STAMP_NS.png (16 bit)
    OUT/drive.json  the settings that made it

The same settings give the same bytes, whatever the number of processes. See docs/synthetic.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import BagError, ConfigError
from bev_training.folders import whole_folder
from bev_training.processes import Stopped
from bev_training.synthetic import bag
from bev_training.synthetic.frames import frame_count
from bev_training.synthetic.settings import DEPTH_PER_M, IMAGE_TRUTH, DriveConfig
from bev_training.synthetic.slices import rendered
from bev_training.synthetic.stored_truth import Truth, load_truth
from bev_training.synthetic.truth import CLASSES

__all__ = ['DriveConfig', 'DriveSummary', 'Truth', 'load_truth', 'write_drive']

MAX_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class DriveSummary:
    """What was written: `frames` of all cameras, messages, bytes, and the weather."""

    path: Path
    weather: str
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
    stopped: Callable[[], bool] = bool,
) -> DriveSummary:
    """Write a drive into a folder that does not exist yet or is empty.

    Args:
        out: the folder. It appears whole at the end, or not at all.
        config: the settings.
        workers: processes that render; None takes one per core, up to 16.
        progress: called with the number of frames that were just written.
        stopped: asked in all that this process does itself: between its steps, and before every
            frame.

    Raises:
        ConfigError: a setting is out of its range.
        BagError: the folder is not empty or cannot be written.
        Stopped: `stopped` said so.
    """
    workers = worker_count(workers)
    rig = config.rig_or_default()
    with whole_folder(out) as work:
        world = config.world()
        if stopped():
            raise Stopped('writing was stopped')
        truth = _image_truth_folders(work, config) if config.image_truth else None
        slices = rendered(config, world, workers, truth=truth, stopped=stopped)
        with closing(slices):  # stops the processes on errors too
            messages, arrays = bag.write(work / 'bag', config, world, slices, progress)
        stored: dict[str, Any] = {'classes': np.array(CLASSES), **arrays}
        np.savez_compressed(work / 'truth.npz', **stored)
        frames = frame_count(config.seconds, rig.camera_hz)
        counts = {
            'frames': frames,
            'images': frames * len(rig.cameras),
            'sweeps': frame_count(config.seconds, rig.lidar.hz) if rig.lidar else 0,
            'messages': messages,
        }
        described = {
            **config.as_json(),
            'weather': world.conditions.weather,
            **counts,
            'epoch_ns': config.epoch_ns,
            'depth_per_m': DEPTH_PER_M,
        }
        (work / 'drive.json').write_text(json.dumps(described, indent=1) + '\n')
        size = _size_bytes(work)
    return DriveSummary(path=out, weather=world.conditions.weather, size_bytes=size, **counts)


def read_summary(drive: Path) -> DriveSummary:
    """Return what was said of a drive when it was written.

    Raises:
        BagError: its drive.json is missing or damaged.
    """
    names = ('weather', 'frames', 'images', 'sweeps', 'messages')
    try:
        described = json.loads((drive / 'drive.json').read_text())
        known = {name: described[name] for name in names}
        return DriveSummary(path=drive, size_bytes=_size_bytes(drive), **known)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BagError(f'{drive}/drive.json cannot be read: {error}') from error


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def worker_count(asked: int | None) -> int:
    """Return the number of processes to use.

    Raises:
        ConfigError: less than one.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f'workers is {asked}; it must be at least 1')
    return asked or min(MAX_WORKERS, os.cpu_count() or 1)


def _image_truth_folders(work: Path, config: DriveConfig) -> Path:
    truth = work / 'truth'
    for kind in IMAGE_TRUTH:
        for camera in config.rig_or_default().cameras:
            (truth / kind / camera.name).mkdir(parents=True)
    return truth
