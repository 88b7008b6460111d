"""When each sensor of a scene measures, and which measurements make up a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bev_perception.errors import ConfigError
from bev_training.nuscenes_tables import LIDAR_CHANNEL, camera_channel
from bev_training.synthetic.frames import exposure_times_s, frame_count
from bev_training.synthetic.nuscenes_format.config import KEY_HZ, lidar_of
from bev_training.synthetic.rig import Rig


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One measurement of one sensor.

    Attributes:
        channel: of nuScenes, such as CAM_FRONT.
        modality: of the sensor.
        camera: position in the rig's cameras, -1 for the lidar.
        time_us: since the start of the drive.
        is_key: whether it belongs to a sample's moment.
        sample: number of its sample: the next one, after the last key frame the last one.
    """

    channel: str
    modality: Literal['camera', 'lidar']
    camera: int
    time_us: int
    is_key: bool
    sample: int

    @property
    def time_s(self) -> float:
        """Time since the start of the drive."""
        return self.time_us / 1e6


def channels(rig: Rig) -> dict[str, str]:
    """Return the modality of every channel."""
    return {**{camera_channel(c.name): 'camera' for c in rig.cameras}, LIDAR_CHANNEL: 'lidar'}


def plan_shots(rig: Rig, seconds: float, *, sweeps: bool = True) -> tuple[tuple[Shot, ...], ...]:
    """Return the measurements of every sample.

    Samples are taken at the lidar's sweep nearest to every half second. A camera's key frame is
    its exposure nearest to that. Chains of one channel run through all samples in order.

    Args:
        rig: the sensors.
        seconds: length of the scene.
        sweeps: also what is no key frame.

    Raises:
        ConfigError: a camera does not expose once per sample.
    """
    lidar = lidar_of(rig)
    sweep_us = np.rint(np.arange(frame_count(seconds, lidar.hz)) / lidar.hz * 1e6).astype(np.int64)
    numbers = np.arange(len(sweep_us) * KEY_HZ // lidar.hz + 2)
    keys = np.rint(numbers * lidar.hz / KEY_HZ).astype(int)
    keys = keys[keys < len(sweep_us)]
    exposures = [
        exposure_times_s(rig, frame) for frame in range(frame_count(seconds, rig.camera_hz))
    ]
    shots: list[list[Shot]] = [[] for _ in keys]

    def add(channel: str, camera: int, times_us: np.ndarray, key: np.ndarray) -> None:
        owner = np.minimum(np.searchsorted(key, np.arange(len(times_us))), len(key) - 1)
        for number, (time_us, sample) in enumerate(
            zip(times_us.tolist(), owner.tolist(), strict=True)
        ):
            is_key = bool(key[sample] == number)
            if is_key or sweeps:
                shots[sample].append(
                    Shot(
                        channel=channel,
                        modality='lidar' if camera < 0 else 'camera',
                        camera=camera,
                        time_us=time_us,
                        is_key=is_key,
                        sample=sample,
                    )
                )

    for camera, each in enumerate(rig.cameras):
        times_us = np.rint([times[each.name] * 1e6 for times in exposures]).astype(np.int64)
        key = np.abs(times_us - sweep_us[keys][:, None]).argmin(1)
        if (np.diff(key) < 1).any():
            raise ConfigError(
                f'camera {each.name!r} exposes {len(times_us)} times at {rig.camera_hz} Hz, not '
                f'once for each of {len(keys)} key frames; camera_hz must be higher'
            )
        add(camera_channel(each.name), camera, times_us, key)
    add(LIDAR_CHANNEL, -1, sweep_us, keys)
    return tuple(tuple(sample) for sample in shots)
