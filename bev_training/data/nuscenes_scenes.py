"""Scenes and samples of a recording in nuScenes' format."""

from __future__ import annotations

import math

from bev_perception.shapes import Rigid
from bev_training.data.nuscenes_files import RecordFiles
from bev_training.nuscenes_tables import Record, day_of, token_of


class SceneRecords:
    """Writes the records of scenes and samples: a scene ends where time or odometry jumps.

    The first scene is called like the recording, others NAME+2, NAME+3, ...

    Attributes:
        samples: how many.
        metres: straight lines from sample to sample of a scene.
    """

    def __init__(self, name: str, tables: RecordFiles) -> None:
        """Start before the first scene.

        Args:
            name: of the recording.
            tables: takes the records.
        """
        self.samples = 0
        self.metres = 0.0
        self._name, self._tables = name, tables
        self._log = token_of('log', name)
        self._first_us = 0
        self._scene: Record = {}
        self._sequence: int | None = None
        self._scenes = 0
        self._last_pose: Rigid | None = None

    def add(self, time_us: int, sequence: int, odom_T_ego: Rigid) -> str:
        """Write a sample; return its token.

        Args:
            time_us: of it.
            sequence: another one begins a scene.
            odom_T_ego: where the vehicle is.

        Raises:
            OSError: a record cannot be written.
        """
        if sequence != self._sequence:
            self._end()
            self._begin(sequence)
        if not self.samples:
            self._first_us = time_us
        if self._last_pose is not None:
            self.metres += math.dist(odom_T_ego[:3, 3], self._last_pose[:3, 3])
        self._last_pose = odom_T_ego
        token = token_of('sample', self._name, self.samples)
        self.samples += 1
        scene = self._scene
        scene['nbr_samples'] += 1
        scene['first_sample_token'] = scene['first_sample_token'] or token
        scene['last_sample_token'] = token
        record = {'token': token, 'timestamp': time_us, 'scene_token': scene['token']}
        self._tables.chain('sample', record)
        return token

    def finish(self) -> None:
        """Write the last scene, and the log of all.

        Raises:
            OSError: a record cannot be written.
        """
        self._end()
        record = {
            'token': self._log,
            'logfile': self._name,
            'vehicle': '',
            'date_captured': day_of(self._first_us),
            'location': '',
        }
        self._tables.add('log', record)

    def _begin(self, sequence: int) -> None:
        self._sequence, self._last_pose = sequence, None
        self._scenes += 1
        self._scene = {
            'token': token_of('scene', self._name, self._scenes),
            'log_token': self._log,
            'nbr_samples': 0,
            'first_sample_token': '',
            'last_sample_token': '',
            'name': self._name + (f'+{self._scenes}' if self._scenes > 1 else ''),
            'description': f'part {self._scenes} of {self._name}',
        }

    def _end(self) -> None:
        self._tables.end_chains()
        if self._scene:
            self._tables.add('scene', self._scene)
