"""What a recording of a scene was made from, told by the recording itself: so that it is kept only
where it would become the same again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from bev_perception.errors import BagError
from bev_training.data.nuscenes_reader import SceneContent

NOTE = 'bev_nuscenes_source'  # in custom_data of metadata.yaml
_FORMAT = 1  # changes when the same scene becomes another recording
_METADATA = 'metadata.yaml'
_INFORMATION = 'rosbag2_bagfile_information'
_END = b'\x89MCAP0\r\n'  # of a whole mcap file


def source_of(scene: SceneContent, version: str, sizes: Sequence[int]) -> str:
    """Return a text that tells a scene's records and files apart from others; contents of files
    only by their sizes.

    Args:
        scene: what has files.
        version: name of the folder of tables.
        sizes: bytes of the files, in the scene's order.
    """
    digest = hashlib.sha256()
    for each, size in zip(scene.measured, sizes, strict=True):
        sensor = each.sensor
        record = (
            each.time_us, each.file, size, each.size_px, each.format,
            each.pose.time_us, each.pose.values,
            sensor.channel, sensor.modality, sensor.base_T_sensor.tolist(),
            sensor.K, sensor.model, sensor.D,
        )  # fmt: skip
        digest.update(json.dumps(record).encode())
    source = {
        'format': _FORMAT,
        'scene': scene.name,
        'version': version,
        'files': len(scene.measured),
        'size_bytes': sum(sizes),
        'sha256': digest.hexdigest(),
    }
    return json.dumps(source)


def is_done(recording: Path, source: str) -> bool:
    """Whether a recording is there, made from this source; False also if it was cut short.

    Raises:
        BagError: something else is there.
        OSError: it cannot be read.
    """
    if not recording.exists() or (recording.is_dir() and not any(recording.iterdir())):
        return False
    noted = _noted(recording)
    if noted is None:
        raise BagError(f'{recording} exists and is no recording of a nuScenes-format scene')
    if noted != source:
        raise BagError(
            f'{recording} was made from another data set, or from other files or tables of it; '
            'remove it, or choose another OUT'
        )
    return _is_whole(recording / f'{recording.name}.mcap')


def _noted(recording: Path) -> str | None:
    path = recording / _METADATA
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        noted = content[_INFORMATION]['custom_data'][NOTE]
    except (yaml.YAMLError, ValueError, KeyError, TypeError):  # somebody else's, or damaged
        return None
    return str(noted)


def _is_whole(mcap: Path) -> bool:
    """Whether a file is there and has its end, so that it was not cut short."""
    if not mcap.is_file() or mcap.stat().st_size < len(_END):
        return False
    with mcap.open('rb') as file:
        file.seek(-len(_END), os.SEEK_END)
        return file.read() == _END
