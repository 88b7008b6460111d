"""The relational tables: tokens, the parts that are the same for all scenes, and their files."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from bev_training.synthetic.categories import OBJECTS

Record = dict[str, Any]
Tables = dict[str, list[Record]]

TABLES = (
    'attribute', 'calibrated_sensor', 'category', 'ego_pose', 'instance', 'log', 'map', 'sample',
    'sample_annotation', 'sample_data', 'scene', 'sensor', 'visibility',
)  # fmt: skip
CATEGORY = {
    'car': 'vehicle.car',
    'truck': 'vehicle.truck',
    'bus': 'vehicle.bus.rigid',
    'trailer': 'vehicle.trailer',
    'motorcycle': 'vehicle.motorcycle',
    'bicycle': 'vehicle.bicycle',
    'pedestrian': 'human.pedestrian.adult',
    'barrier': 'movable_object.barrier',
    'traffic_cone': 'movable_object.trafficcone',
}
ATTRIBUTES = {
    'vehicle.moving': 'It drives.',
    'vehicle.stopped': 'It stands, with somebody at the wheel.',
    'vehicle.parked': 'Nobody drives it.',
    'cycle.with_rider': 'Somebody rides it.',
    'cycle.without_rider': 'Nobody rides it.',
    'pedestrian.moving': 'The person walks.',
    'pedestrian.standing': 'The person stands.',
}
VISIBILITY_STEPS = (0.4, 0.6, 0.8)  # upper ends of the levels 1, 2 and 3
_PERCENT = ('0', *(f'{100 * step:.0f}' for step in VISIBILITY_STEPS), '100')


def token_of(seed: int, *names: object) -> str:
    """Return 32 hexadecimal digits, the same for the same names, in no visible order."""
    key = '/'.join(str(name) for name in (seed, *names))
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def fixed_tables(seed: int, channels: dict[str, str]) -> Tables:
    """Return the tables that describe no scene.

    Args:
        seed: of the data set.
        channels: modality ('camera' or 'lidar') of every channel.
    """
    return {
        'category': [
            {
                'token': token_of(seed, 'category', CATEGORY[name]),
                'name': CATEGORY[name],
                'description': f'Synthetic {name.replace("_", " ")}.',
            }
            for name in OBJECTS
        ],
        'attribute': [
            {'token': token_of(seed, 'attribute', name), 'name': name, 'description': text}
            for name, text in ATTRIBUTES.items()
        ],
        'sensor': [
            {'token': token_of(seed, 'sensor', name), 'channel': name, 'modality': modality}
            for name, modality in channels.items()
        ],
        'visibility': [
            {
                'token': str(level),
                'level': f'v{low}-{high}',
                'description': f'{low} to {high} percent of what faces the cameras is seen',
            }
            for level, (low, high) in enumerate(pairwise(_PERCENT), 1)
        ],
    }


def merge(into: Tables, more: Tables) -> None:
    """Append the records of some tables to others."""
    for name, records in more.items():
        into.setdefault(name, []).extend(records)


def write_tables(folder: Path, tables: Tables) -> None:
    """Write every table that the format has; those that are missing become empty."""
    for name in TABLES:
        (folder / f'{name}.json').write_text(dumped(tables.get(name, [])))


def dumped(value: object) -> str:
    """Return JSON, a record per line where the value is a list."""
    if isinstance(value, list) and value:
        return '[\n' + ',\n'.join(json.dumps(each, allow_nan=False) for each in value) + '\n]\n'
    return json.dumps(value, allow_nan=False) + '\n'
