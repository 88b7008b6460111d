"""The tables that describe no scene: names of categories and attributes, levels, sensors."""

from __future__ import annotations

from itertools import pairwise

from bev_training.nuscenes_tables import Tables, token_of
from bev_training.synthetic.categories import OBJECTS

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
