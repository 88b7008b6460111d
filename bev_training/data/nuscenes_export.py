"""Writes frames of recordings in nuScenes' format, without annotations.

A recording becomes one scene, or several where its time jumps. What the format cannot say is in
extra fields, which its devkit ignores: `camera_distortion` (as in the T4 format) and
`distortion_model` of a lens, and `format` of an image, which tells a Bayer mosaic.

Every sample has its lidars, so two samples may hold the same sweep. The second one's `sample_data`
names the first one's file and leads, by `prev` and `next`, to the sweeps before and after it, but
no other sweep leads to it: along these links times increase, and no sweep comes twice when the
devkit adds up those before a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.shapes import Rigid
from bev_perception.views import fit_size
from bev_training.data.frame import Calibration, Frame, FrameView, LidarSweep
from bev_training.data.nuscenes_files import (
    RecordFiles,
    read_scene,
    remove_recording,
    remove_unfinished,
    write_scene,
)
from bev_training.data.nuscenes_measurements import Measurements, point_columns, to_us
from bev_training.data.nuscenes_merge import merge_tables
from bev_training.data.nuscenes_scenes import SceneRecords
from bev_training.data.paths import remote
from bev_training.data.summary import DriveSummary
from bev_training.nuscenes_tables import camera_channel, lidar_channel

__all__ = ['NuscenesWriter', 'merge_tables', 'read_scene', 'read_summary']
_SAME = 1e-5  # metres and radians: poses of the same mounting, far from odom's origin
FORMAT = 1  # version of what scenes/NAME.json says
_NOTES = (
    'camera_intrinsic is K of the images as they are stored, which may be distorted: '
    'camera_distortion and distortion_model of calibrated_sensor hold the lens',
    'lidar files hold x, y, z, intensity and ring; what a sweep lacks is 0',
    'two samples may hold the same sweep: the second record of its file is in no chain of others',
)


class NuscenesWriter:
    """Writes one recording into a data set; a context manager.

    An exception inside the block removes what was written, and so does an end without `finish`.
    Several recordings may be written at once, by different processes.
    """

    def __init__(self, out: Path, name: str, *, cameras: tuple[str, ...]) -> None:
        """Prepare; nothing is written yet.

        Args:
            out: folder of the data set.
            name: of the recording, unique in the data set.
            cameras: of the rig, in its order.

        Raises:
            BagError: two cameras have the same channel.
        """
        self.out, self.name = out, name
        self._cameras = _channels({c: camera_channel(c) for c in cameras})
        self._lidars: dict[str, str] = {}
        self._finished = False
        self._calibrations: dict[int, Calibration] = {}
        self._last_sweep: dict[str, tuple[int, str]] = {}  # by lidar: stamp and file
        self._sweeps = self._images = 0
        self._first_ns = self._last_ns = 0

    def __enter__(self) -> NuscenesWriter:
        """Remove what a killed run left of this recording.

        Raises:
            BagError: the recording is there already, or the folder cannot be written.
        """
        if read_scene(self.out, self.name) is not None:
            raise BagError(f'{self.out} holds {self.name} already')
        with _writing(self.out):
            remove_unfinished(self.out, self.name)
            self._tables = RecordFiles(self.out, self.name)
        self._files = Measurements(self.out, self.name, self._tables)
        self._scenes = SceneRecords(self.name, self._tables)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove an unfinished recording."""
        if not self._finished:
            with _writing(self.out):
                self._tables.close()
                remove_recording(self.out, self.name)

    def add_calibration(self, calibration: Calibration) -> None:
        """Take in what holds for the frames of an epoch.

        Raises:
            BagError: two lidars have the same channel.
        """
        self._calibrations[calibration.epoch] = calibration
        self._lidars.update({name: lidar_channel(name) for name in calibration.lidars})
        _channels(self._lidars)

    def add(self, frame: Frame) -> None:
        """Write a frame: images and each lidar's last sweep as a sample, other sweeps as sweeps.

        Raises:
            BagError: there is no odometry, two measurements of a sensor have the same time in
                microseconds, or a file cannot be written.
            CalibrationError: an image's shape does not fit its camera.
        """
        odom_T_ego = frame.odom_T_ego
        if odom_T_ego is None or any(view.odom_T_base is None for view in frame.views):
            raise BagError(
                f'{self.name}: nuScenes format needs the vehicle pose and there is no odometry; '
                'give odom_frame or odometry_topic, or convert to format drive'
            )
        with _writing(self.out):
            self._first_ns = self._first_ns if self._scenes.samples else frame.stamp_ns
            self._last_ns = frame.stamp_ns
            sample = self._scenes.add(to_us(frame.stamp_ns), frame.sequence, odom_T_ego)
            for view in frame.views:
                self._add_view(frame, view, odom_T_ego, sample)
            last = {sweep.lidar: sweep for sweep in frame.sweeps}
            for sweep in frame.sweeps:
                is_key = last[sweep.lidar] is sweep
                self._add_sweep(frame, sweep, odom_T_ego, sample, is_key=is_key)

    def finish(self, facts: Mapping[str, Any], counts: Mapping[str, int]) -> DriveSummary:
        """Write the recording's tables and, last, scenes/NAME.json.

        Args:
            facts: go into it as they are.
            counts: what was left out or repaired, by name.

        Raises:
            BagError: there is no frame, or a file cannot be written.
        """
        if not self._scenes.samples:
            raise BagError(f'{self.name}: no frame to write')
        with _writing(self.out):
            self._scenes.finish()
            self._tables.finish()
            summary = DriveSummary(
                name=self.name,
                path=str(self.out),
                frames=self._scenes.samples,
                images=self._images,
                sweeps=self._sweeps,
                epochs=len(self._calibrations),
                seconds=(self._last_ns - self._first_ns) / 1e9,
                metres=self._scenes.metres,
                size_bytes=self._files.size_bytes + self._tables.size_bytes,
                counts=dict(counts),
            )
            numbers = {k: v for k, v in summary.as_json().items() if k not in ('path', 'counts')}
            manifest = {
                'format': 'nuscenes',
                'format_version': FORMAT,
                'name': self.name,
                'channels': {
                    c: name for name, c in (*self._cameras.items(), *self._lidars.items())
                },
                **facts,
                'notes': list(_NOTES),
                'counts': dict(counts),
                'summary': numbers,
                # Nothing waits until thousands of images are on the disk: they are counted before
                # a recording is taken as done, see `lost_files`.
                'files': {
                    'number': self._files.files + len(self._tables.counts),
                    'size_bytes': summary.size_bytes,
                },
                'tables': dict(sorted(self._tables.counts.items())),
            }
            write_scene(self.out, self.name, manifest)
        self._finished = True
        return summary

    def _add_view(self, frame: Frame, view: FrameView, odom_T_ego: Rigid, sample: str) -> None:
        assert view.odom_T_base is not None  # add() has refused it
        calibration = self._calibrations[frame.epoch].cameras[view.camera]
        channel, time_us = self._cameras[view.camera], to_us(view.stamp_ns)
        camera = fit_size(calibration.camera, view.image.size_px, view.camera)
        names: list[object] = [frame.epoch, *camera.size_px]
        base_T_cam = rigid.inverse(view.odom_T_base) @ odom_T_ego @ view.ego_T_cam
        mounted = calibration.base_T_cam
        if mounted is not None and _same(base_T_cam, mounted):
            base_T_cam = mounted  # without the rounding of poses
        else:  # it moves: every exposure has a calibration of its own
            names.append(time_us)
        sensor = self._files.sensor(
            channel,
            'camera',
            # Points of the rectified frame go through K alone, as in the format.
            base_T_cam @ rigid.inverse(camera.rect_T_cam),
            names,
            camera_intrinsic=camera.K.tolist(),
            camera_distortion=list(camera.D),
            distortion_model=camera.model,
        )
        file = self._files.write(channel, time_us, view.image.data, view.image.suffix, is_key=True)
        self._images += 1
        width, height = view.image.size_px
        self._files.add(
            (channel, sample, time_us),
            sensor,
            view.odom_T_base,
            fileformat=view.image.suffix,
            is_key_frame=True,
            height=height,
            width=width,
            filename=file,
            format=view.image.format,
        )

    def _add_sweep(
        self, frame: Frame, sweep: LidarSweep, odom_T_ego: Rigid, sample: str, *, is_key: bool
    ) -> None:
        calibration = self._calibrations[frame.epoch].lidars[sweep.lidar]
        channel, time_us = self._lidars[sweep.lidar], to_us(sweep.stamp_ns)
        names: list[object] = [frame.epoch]
        if calibration.base_T_lidar is not None:
            base_T_lidar = calibration.base_T_lidar
            odom_T_base = odom_T_ego @ sweep.ego_T_lidar @ rigid.inverse(base_T_lidar)
        else:  # it moves against a body of which only the pose at the frame's instant is known
            base_T_lidar = frame.base_T_ego @ sweep.ego_T_lidar
            odom_T_base = odom_T_ego @ rigid.inverse(frame.base_T_ego)
            names += [sample, time_us]
        sensor = self._files.sensor(channel, 'lidar', base_T_lidar, names)
        stamp_ns, file = self._last_sweep.get(sweep.lidar, (None, ''))
        again = stamp_ns == sweep.stamp_ns  # two frames may be nearest to the same sweep
        if not again:
            data = point_columns(sweep.points, calibration.fields).tobytes()
            file = self._files.write(channel, time_us, data, 'pcd.bin', is_key=is_key)
            self._last_sweep[sweep.lidar] = sweep.stamp_ns, file
            self._sweeps += 1
        self._files.add(
            (channel, sample, time_us),
            sensor,
            odom_T_base,
            again=again,
            fileformat='pcd',
            is_key_frame=is_key,
            height=0,
            width=0,
            filename=file,
        )


def read_summary(out: Path, name: str) -> DriveSummary | None:
    """Return the figures of a finished recording in a data set, None where there is none.

    Raises:
        BagError: its manifest cannot be read.
    """
    manifest = read_scene(out, name)
    if manifest is None:
        return None
    try:
        return DriveSummary(path=str(out), counts=manifest['counts'], **manifest['summary'])
    except (KeyError, TypeError) as error:
        raise BagError(f'{out}: the manifest of {name} is damaged: {error}') from error


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn errors of the file system into one line."""
    try:
        with remote(out, 'written'):
            yield
    except OSError as error:
        where = error.filename or out
        raise BagError(f'{where} cannot be written: {error.strerror or error}') from error


def _same(one: Rigid, two: Rigid) -> bool:
    return bool(np.abs(one - two).max() < _SAME)


def _channels(channels: dict[str, str]) -> dict[str, str]:
    """Return channels by sensor, none of which may come twice."""
    names: dict[str, str] = {}
    for name, channel in channels.items():
        if names.setdefault(channel, name) != name:
            raise BagError(
                f'{names[channel]!r} and {name!r} are both {channel} in nuScenes format'
            )
    return channels
