"""Writes the drive data set: shards and index as frames come, the manifest last of all.

A drive without a manifest is unfinished, and is begun anew by the next writer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bev_perception.errors import BagError
from bev_training.data import drive_folder
from bev_training.data.drive_index import IndexWriter, frame_row, numbers
from bev_training.data.drive_manifest import (
    CALIBRATION,
    MANIFEST,
    calibration_bytes,
    json_bytes,
    make_manifest,
    read_manifest,
    summary_of,
)
from bev_training.data.file_writer import FileWriter, writing
from bev_training.data.frame import Calibration, Frame
from bev_training.data.paths import sync_folder
from bev_training.data.shard_entry import entry_bytes
from bev_training.data.shards import (
    Member,
    Placed,
    ShardWriter,
    check_names,
    key_of,
    npy_chunks,
)
from bev_training.data.summary import DriveSummary


class DriveWriter:
    """Writes one drive. A context manager: what is not finished when it ends is removed."""

    def __init__(self, folder: Path, *, cameras: tuple[str, ...], shard_bytes: int) -> None:
        """Touch nothing yet.

        Args:
            folder: of the drive.
            cameras: of the rig, in its order.
            shard_bytes: a shard ends with the frame that reaches this size.

        Raises:
            BagError: a camera's name cannot be part of a file's name.
        """
        check_names(cameras, 'camera')
        self._folder, self._cameras, self._shard_bytes = folder, cameras, shard_bytes
        self._calibrations: list[Calibration] = []
        self._lidars: list[str] = []
        self._last: Frame | None = None
        self._frames = self._images = self._sweeps = 0
        self._first_ns = 0
        self._metres = 0.0
        self._sealing = self._finished = False

    def __enter__(self) -> DriveWriter:
        """Make the folder ready.

        Raises:
            BagError: it holds a finished drive or something else, or cannot be written.
        """
        with writing(self._folder):
            drive_folder.prepare(self._folder)
        try:
            self._plain = FileWriter(self._folder)
            self._index = IndexWriter(self._plain, self._cameras)
            self._files = FileWriter(self._folder, hash_later=True)
            self._shards = ShardWriter(self._files, self._shard_bytes)
        except BaseException:
            drive_folder.clear(self._folder)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove a drive that is not finished; files of others stay.

        Raises:
            BagError: it cannot be removed.
        """
        self._files.close()
        if not self._finished:
            self._files.abort()
            self._index.abort()
            with writing(self._folder):
                # A manifest that we did not write: our lease was lost, and another run was faster.
                if self._sealing or not (self._folder / MANIFEST).exists():
                    drive_folder.clear(self._folder)

    def add_calibration(self, calibration: Calibration) -> None:
        """Take in the calibration of the frames that follow.

        Raises:
            BagError: it is of another rig or not the next epoch, or holds something unusable.
        """
        where, epoch = f'{self._folder}: calibration {calibration.epoch}', calibration.epoch
        if epoch != len(self._calibrations):
            raise BagError(f'{where} comes after {len(self._calibrations)} others')
        if tuple(calibration.cameras) != self._cameras:
            raise BagError(f'{where} is of {list(calibration.cameras)}, not {self._cameras}')
        new = [name for name in calibration.lidars if name not in self._lidars]
        check_names([*self._lidars, *new], 'lidar')
        for lidar in calibration.lidars.values():
            if lidar.fields[:3] != ('x', 'y', 'z'):
                raise BagError(f'{where}: columns {lidar.fields} do not begin with x, y, z')
        mounts = {
            **{name: each.base_T_cam for name, each in calibration.cameras.items()},
            **{name: each.base_T_lidar for name, each in calibration.lidars.items()},
        }
        _check_poses(where, mounts)
        self._lidars += new
        self._calibrations.append(calibration)

    def add(self, frame: Frame) -> None:
        """Append a frame; its arrays and bytes must not change any more.

        Raises:
            BagError: it does not follow the last one or does not fit the drive, or something
                could not be written.
        """
        self._check(frame)
        key = key_of(self._frames)
        calibration = self._calibrations[frame.epoch]
        lidars = [n for n in self._lidars if any(s.lidar == n for s in frame.sweeps)]
        members = [
            Member(name=f'{key}.{view.camera}.{view.image.suffix}', chunks=(view.image.data,))
            for view in frame.views
        ]
        for name in lidars:
            parts = [sweep.points for sweep in frame.sweeps if sweep.lidar == name]
            columns = len(calibration.lidars[name].fields)
            members.append(Member(name=f'{key}.{name}.npy', chunks=npy_chunks(parts, columns)))
        members.append(Member(name=f'{key}.json', chunks=(entry_bytes(key, frame),)))
        shard, placed = self._shards.add(members)
        seen = len(frame.views)
        images: dict[str, Placed] = {
            view.camera: where for view, where in zip(frame.views, placed[:seen], strict=True)
        }
        clouds = dict(zip(lidars, placed[seen:-1], strict=True))
        self._index.add(frame_row(self._frames, frame, self._cameras, shard, images, clouds))
        self._count(frame)

    def finish(self, facts: Mapping[str, Any], counts: Mapping[str, int]) -> DriveSummary:
        """Complete the drive: from now on it stays.

        Args:
            facts: what manifest.json says of the source, the settings and the program.
            counts: by name, what was left out or repaired.

        Raises:
            BagError: there is no frame, or something could not be written; or another run, which
                took over the lock of the output, has finished this drive.
        """
        if self._last is None:
            raise BagError(f'{self._folder}: no frame was given, so there is no drive to finish')
        with writing(self._folder):
            if (self._folder / MANIFEST).exists():
                raise BagError(f'{self._folder} was finished by another run meanwhile')
        self._shards.end()
        self._index.finish()
        self._plain.begin(CALIBRATION)
        self._plain.write([calibration_bytes(self._calibrations)])
        self._plain.end()
        files = [file.as_json() for file in (*self._plain.files[::-1], *self._files.files)]
        manifest = make_manifest(
            cameras=self._cameras,
            lidars=self._lidars,
            facts=facts,
            counts=counts,
            totals={
                'frames': self._frames,
                'images': self._images,
                'sweeps': self._sweeps,
                'epochs': len(self._calibrations),
                'seconds': (self._last.stamp_ns - self._first_ns) / 1e9,
                'metres': self._metres,
            },
            stamps_ns=(self._first_ns, self._last.stamp_ns),
            shards=self._shards.shards,
            files=files,
        )
        data = json_bytes(manifest)
        self._sealing = True
        self._plain.begin(MANIFEST, durable=True)
        self._plain.write([data])
        self._plain.end()
        with writing(self._folder):
            sync_folder(self._folder)
        self._finished = True
        return summary_of(self._folder, manifest)

    def _check(self, frame: Frame) -> None:
        where = f'{self._folder}: frame {key_of(self._frames)}'
        last = self._last
        if (
            last is not None
            and frame.sequence == last.sequence
            and frame.stamp_ns <= last.stamp_ns
        ):
            raise BagError(f'{where} at {frame.stamp_ns} ns is not later than {last.stamp_ns} ns')
        if last is not None and frame.sequence < last.sequence:
            raise BagError(f'{where}: sequence {frame.sequence} comes after {last.sequence}')
        if not 0 <= frame.epoch < len(self._calibrations):
            raise BagError(
                f'{where} is of epoch {frame.epoch}; only {len(self._calibrations)} are known'
            )
        seen = [view.camera for view in frame.views]
        if seen != [name for name in self._cameras if name in seen]:
            raise BagError(f'{where}: views are {seen}, the rig is {self._cameras}')
        if frame.missing != tuple(name for name in self._cameras if name not in seen):
            raise BagError(f'{where}: missing is {frame.missing}, but views are {seen}')
        lidars = self._calibrations[frame.epoch].lidars
        for sweep in frame.sweeps:
            if sweep.lidar not in lidars:
                raise BagError(f'{where}: lidar {sweep.lidar!r} has no calibration')
            wanted = len(lidars[sweep.lidar].fields)
            if sweep.points.ndim != 2 or sweep.points.shape[1] != wanted:
                shape = sweep.points.shape
                raise BagError(f'{where}: {sweep.lidar} has {shape} points, not (n, {wanted})')
        for view in frame.views:
            if view.image.suffix not in ('jpg', 'png'):
                raise BagError(f'{where}: {view.camera} is a {view.image.suffix!r}, not jpg, png')
        _check_poses(
            where,
            {
                'odom_T_ego': frame.odom_T_ego,
                'base_T_ego': frame.base_T_ego,
                **{f'ego_T_{view.camera}': view.ego_T_cam for view in frame.views},
                **{f'odom_T_base of {view.camera}': view.odom_T_base for view in frame.views},
                **{f'ego_T_{i} (sweep)': s.ego_T_lidar for i, s in enumerate(frame.sweeps)},
            },
        )

    def _count(self, frame: Frame) -> None:
        last = self._last
        if last is None:
            self._first_ns = frame.stamp_ns
        elif (
            last.sequence == frame.sequence
            and last.odom_T_ego is not None
            and frame.odom_T_ego is not None
        ):
            here, before = frame.odom_T_ego[:3, 3], last.odom_T_ego[:3, 3]
            self._metres += math.dist(here.tolist(), before.tolist())
        self._frames += 1
        self._images += len(frame.views)
        self._sweeps += len(frame.sweeps)
        self._last = frame


def read_summary(folder: Path) -> DriveSummary | None:
    """Return a finished drive in numbers, None where there is none.

    Raises:
        BagError: its manifest is damaged or of another version.
    """
    manifest = read_manifest(folder)
    return None if manifest is None else summary_of(folder, manifest)


def _check_poses(where: str, poses: Mapping[str, Any]) -> None:
    """Refuse poses that are no finite (4, 4)."""
    given = {name: np.asarray(pose) for name, pose in poses.items() if pose is not None}
    for name, pose in given.items():
        if pose.shape != (4, 4):
            raise BagError(f'{where}: {name} has shape {pose.shape}, not (4, 4)')
    if given and not np.isfinite(np.stack(list(given.values()))).all():
        bad = next(name for name, pose in given.items() if not np.isfinite(pose).all())
        raise BagError(f'{where}: {bad} is not finite: {numbers(given[bad])}')
