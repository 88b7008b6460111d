"""Converted drives, read back: any frame by number, and the view set that the node would build."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bev_perception.errors import BagError, MessageError
from bev_perception.memory import Whereabouts
from bev_perception.rig import CameraHistory, RigPoses, decode
from bev_perception.views import ViewSet
from bev_training.data.drive_folder import is_unfinished
from bev_training.data.drive_index import INDEX, Index, matrix, row_frame
from bev_training.data.drive_manifest import (
    CALIBRATION,
    MANIFEST,
    read_calibrations,
    read_manifest,
)
from bev_training.data.frame import Calibration, Frame
from bev_training.data.paths import is_local, remote, to_path
from bev_training.data.shards import read_npy, read_spans


def find_drives(path: Path | str) -> list[Path]:
    """Return the finished drives of a path or URL, sorted: itself, or those directly in it.

    Raises:
        BagError: there is none, or it cannot be read.
    """
    path = to_path(path)
    if _is_finished(path):
        return [path]
    with remote(path):
        if not path.exists():
            raise BagError(f'{path} does not exist')
    unfinished = unfinished_drives(path)
    if unfinished == [path]:
        raise BagError(_unfinished(path))
    found = [folder for folder in _folders(path) if _is_finished(folder)]
    if not found and unfinished:
        raise BagError(_unfinished(unfinished[0]))
    if not found:
        raise BagError(f'{path} holds no converted drive (a folder with {MANIFEST})')
    return found


def unfinished_drives(path: Path) -> list[Path]:
    """Return the drives of a path whose conversion was cut off, sorted: itself, or those in it.

    Raises:
        BagError: it cannot be read.
    """
    try:
        with remote(path):
            if is_unfinished(path):
                return [path]
            return [folder for folder in _folders(path) if is_unfinished(folder)]
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error


class Drive:
    """A finished drive. Can be pickled, and used from several threads and after a fork.

    Attributes:
        folder: where it lies.
        manifest: manifest.json; `manifest['facts']` is what the conversion says of its source.
        cameras: names, in the rig's order.
        lidars: names.
        calibrations: by epoch.
    """

    def __init__(self, folder: Path | str) -> None:
        """Open it; frames are read when they are asked for.

        Raises:
            BagError: it is unfinished, damaged, of another version, or no drive.
        """
        self.folder = to_path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            find_drives(self.folder)  # says why, unless it is a folder of drives
            raise BagError(f'{self.folder} is a folder of drives, not a drive')
        self.manifest: dict[str, Any] = manifest
        self.cameras: tuple[str, ...] = tuple(manifest['cameras'])
        self.lidars: tuple[str, ...] = tuple(manifest['lidars'])
        self.calibrations: tuple[Calibration, ...] = read_calibrations(self.folder / CALIBRATION)
        self._open()
        if len(self._index) != manifest['totals']['frames']:
            raise BagError(
                f'{self.folder / INDEX} has {len(self._index)} frames, {MANIFEST} says '
                f'{manifest["totals"]["frames"]}; convert the recording again'
            )

    def __len__(self) -> int:
        return len(self._index)

    def __reduce__(self) -> tuple[Any, ...]:
        return Drive, (self.folder,)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @cached_property
    def stamps_ns(self) -> tuple[int, ...]:
        """Instants of all frames.

        Raises:
            BagError: the index is damaged.
        """
        return tuple(self._index.column('stamp_ns'))

    @cached_property
    def sequences(self) -> tuple[int, ...]:
        """Sequences of all frames.

        Raises:
            BagError: the index is damaged.
        """
        return tuple(self._index.column('sequence'))

    @cached_property
    def point_counts(self) -> tuple[int, ...]:
        """Lidar points of all frames, of all their sweeps together.

        Raises:
            BagError: the index is damaged.
        """
        return tuple(sum(s['points'] for s in sweeps) for sweeps in self._index.column('sweeps'))

    def links(self, i: int) -> tuple[int | None, int | None]:
        """Return the numbers of the frames before and after, None where there is no neighbour.

        Raises:
            IndexError: there is no such frame.
            BagError: the index is damaged.
        """
        row = self.row(i)
        return row['previous'], row['next']

    def row(self, i: int) -> dict[str, Any]:
        """Return a frame's row of the index; see `drive_index.SCHEMA`.

        Raises:
            IndexError: there is no such frame.
            BagError: the index is damaged.
        """
        if self._process != os.getpid() and not is_local(self.folder):
            self._open()  # a connection cannot be shared with the process before the fork
        return self._index.row(i)

    def whereabouts(self, i: int) -> Whereabouts:
        """Return when and where a frame was taken.

        Raises:
            IndexError: there is no such frame.
            BagError: the index is damaged.
        """
        row = self.row(i)
        return Whereabouts(
            stamp_ns=row['stamp_ns'],
            odom_T_ego=None if row['odom_T_ego'] is None else matrix(row['odom_T_ego']),
            epoch=(row['sequence'], row['epoch']),
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all frames.

        Raises:
            BagError: the index is damaged.
        """
        return self._index.rows()

    def frame(self, i: int, *, images: bool = True, sweeps: bool = True) -> Frame:
        """Read a frame.

        Args:
            i: its number, from 0.
            images: False leaves `EncodedImage.data` empty.
            sweeps: False leaves `LidarSweep.points` without rows.

        Raises:
            IndexError: there is no such frame.
            BagError: its shard or the index is missing or damaged.
        """
        row = self.row(i)
        members = [*(row['views'] if images else ()), *(row['clouds'] if sweeps else ())]
        spans = [(member['offset'], member['size_bytes']) for member in members]
        shard = self.folder / row['shard']
        parts = iter(read_spans(shard, spans))
        pictures = {view['camera']: next(parts) for view in row['views'] if images}
        try:
            clouds = {c['lidar']: read_npy(next(parts)) for c in row['clouds'] if sweeps}
        except ValueError as error:
            raise BagError(f'{shard}: frame {row["key"]} has a damaged cloud: {error}') from error
        lidars = self.calibrations[row['epoch']].lidars
        columns = {name: len(each.fields) for name, each in lidars.items()}
        return row_frame(row, self.cameras, pictures, clouds, columns)

    def view_set(
        self,
        i: int,
        *,
        at_least_px: tuple[int, int] | None = None,
        executor: Executor | None = None,
    ) -> ViewSet:
        """Read a frame's images, decoded on the same path as the node's.

        As there, an image that cannot be decoded or does not fit its camera is `missing`.

        Args:
            i: number of the frame, from 0.
            at_least_px: (width, height) that a JPEG may be shrunk to while decoding.
            executor: threads to decode on.

        Raises:
            IndexError: there is no such frame.
            BagError: its shard or the index is missing or damaged.
            MessageError: no image is left.
        """
        frame = self.frame(i, sweeps=False)
        calibration = self.calibrations[frame.epoch]
        messages = {
            view.camera: (
                view.stamp_ns,
                SimpleNamespace(
                    header=SimpleNamespace(frame_id=calibration.cameras[view.camera].frame_id),
                    format=view.image.format,
                    data=view.image.data,
                ),
            )
            for view in frame.views
        }
        poses = RigPoses(
            stamp_ns=frame.stamp_ns,
            base_T_ego=frame.base_T_ego,
            odom_T_ego=frame.odom_T_ego,
            ego_T_cam={view.camera: view.ego_T_cam for view in frame.views},
        )
        view_set, problems = decode(
            messages,
            poses,
            self._histories[frame.epoch],
            at_least_px=at_least_px,
            executor=executor,
        )
        if problems and not view_set.views:
            camera, problem = next(iter(problems.items()))
            raise MessageError(f'{self.folder}: frame {i:06d}, camera {camera}: {problem}')
        return view_set

    def check(
        self, *, decode: bool = False, progress: Callable[[float], None] = lambda share: None
    ) -> Iterator[tuple[str, str]]:
        """Yield (code, text) of what is wrong with it; see `drive_check.check_drive`."""
        from bev_training.data.drive_check import check_drive

        return check_drive(self.folder, decode=decode, progress=progress)

    @cached_property
    def _histories(self) -> list[dict[str, CameraHistory]]:
        """By epoch, the cameras as `decode` wants them."""
        return [
            {
                name: _constant(name, calibration.from_stamp_ns, each.camera)
                for name, each in calibration.cameras.items()
            }
            for calibration in self.calibrations
        ]

    def _open(self) -> None:
        if not is_local(self.folder):
            self.folder = to_path(str(self.folder))
        self._index, self._process = Index(self.folder / INDEX, self.cameras), os.getpid()


def _constant(name: str, stamp_ns: int, camera: Any) -> CameraHistory:
    history = CameraHistory(name)
    history.push(stamp_ns, camera)
    return history


def _is_finished(folder: Path) -> bool:
    manifest = folder / MANIFEST
    with remote(folder):  # where `is_file` would say no of a store that does not answer
        return manifest.is_file() if is_local(manifest) else manifest.exists()


def _folders(path: Path) -> list[Path]:
    try:
        with remote(path):
            return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error


def _unfinished(folder: Path) -> str:
    return f'{folder} is unfinished: run the same bev convert again'
