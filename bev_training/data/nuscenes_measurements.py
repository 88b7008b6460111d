"""Images and lidar sweeps in nuScenes' format: their files, and the records that describe them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bev_perception.errors import BagError
from bev_perception.shapes import Rigid
from bev_training.data.nuscenes_files import RecordFiles, data_file, write_data
from bev_training.nuscenes_tables import POINT_FIELDS, pose_record, token_of


class Measurements:
    """Writes what the sensors of one recording measured.

    Attributes:
        files: how many files.
        size_bytes: of them.
    """

    def __init__(self, out: Path, name: str, tables: RecordFiles) -> None:
        """Start empty.

        Args:
            out: the data set.
            name: of the recording.
            tables: takes the records.
        """
        self.files = self.size_bytes = 0
        self._out, self._name, self._tables = out, name, tables
        self._made: set[str] = set()  # tokens of sensors and calibrated sensors
        self._newest_us: dict[str, int] = {}  # by channel

    def sensor(
        self, channel: str, modality: str, base_T_sensor: Rigid, names: list[object], **lens: Any
    ) -> str:
        """Return the token of a sensor in its place; its records are written if they are new.

        Args:
            channel: of the sensor.
            modality: 'camera' or 'lidar'.
            base_T_sensor: where it is mounted.
            names: tell the places of a sensor apart.
            lens: more fields of the record, of a camera.

        Raises:
            OSError: a record cannot be written.
        """
        sensor = token_of('sensor', channel)
        if sensor not in self._made:
            self._made.add(sensor)
            record = {'token': sensor, 'channel': channel, 'modality': modality}
            self._tables.add('sensor', record)
        token = token_of('calibrated_sensor', self._name, channel, *names)
        if token not in self._made:
            self._made.add(token)
            record = {'token': token, 'sensor_token': sensor, **pose_record(base_T_sensor)}
            lens = lens or {'camera_intrinsic': [], 'camera_distortion': []}
            self._tables.add('calibrated_sensor', {**record, **lens})
        return token

    def write(
        self, channel: str, time_us: int, data: bytes | memoryview, suffix: str, *, is_key: bool
    ) -> str:
        """Write a measurement's file and return its name.

        Raises:
            BagError: the sensor has measured at this time already.
            OSError: it cannot be written.
        """
        file = data_file(self._name, channel, time_us, suffix, is_key=is_key)
        newest_us = self._newest_us.get(channel, -1)
        # After a clock that went back, a time may come again.
        if time_us <= newest_us and (time_us == newest_us or (self._out / file).exists()):
            raise BagError(
                f'{self._name}: {channel} measures twice at {time_us} us; '
                'nuScenes format needs different times, convert to format drive'
            )
        self._newest_us[channel] = max(newest_us, time_us)
        write_data(self._out / file, data)
        self.files += 1
        self.size_bytes += len(data)
        return file

    def add(
        self,
        key: tuple[str, str, int],
        sensor: str,
        odom_T_base: Rigid,
        *,
        again: bool = False,
        **fields: Any,
    ) -> None:
        """Write the records of a measurement.

        Args:
            key: channel, token of the sample, time in microseconds.
            sensor: token of the calibrated sensor.
            odom_T_base: the vehicle at that time.
            again: it is the newest one of its sensor, for another sample. `prev` and `next` of
                others then pass this record by, so that their times increase.
            fields: more of the record.

        Raises:
            OSError: a record cannot be written.
        """
        channel, sample, time_us = key
        token = token_of('sample_data', self._name, *key)
        pose = {'token': token, 'timestamp': time_us, **pose_record(odom_T_base)}
        self._tables.add('ego_pose', pose)
        record = {
            'token': token,
            'sample_token': sample,
            'ego_pose_token': token,
            'calibrated_sensor_token': sensor,
            'timestamp': time_us,
            'is_valid': True,
            **fields,
        }
        (self._tables.beside if again else self._tables.chain)('sample_data', record, channel)


def to_us(stamp_ns: int) -> int:
    """Return the nearest microsecond."""
    return (stamp_ns + 500) // 1000


def point_columns(
    points: npt.NDArray[np.float32], fields: tuple[str, ...]
) -> npt.NDArray[np.float32]:
    """Return (n, 5), POINT_FIELDS of a sweep with columns `fields`; what it lacks is 0."""
    out = np.zeros((len(points), len(POINT_FIELDS)), '<f4')
    for column, name in enumerate(POINT_FIELDS):
        if name in fields:
            out[:, column] = np.nan_to_num(points[:, fields.index(name)])
    return out
