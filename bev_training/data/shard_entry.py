"""`000123.json` of a frame: what a reader of the shard alone needs besides calibration.json."""

from __future__ import annotations

import json
from typing import Any

from bev_training.data.drive_index import numbers
from bev_training.data.frame import Frame


def entry_bytes(key: str, frame: Frame) -> bytes:
    """Return the JSON of a frame; poses are 16 numbers, row by row."""
    lidars: dict[str, list[dict[str, Any]]] = {}
    for sweep in frame.sweeps:
        lidars.setdefault(sweep.lidar, []).append(
            {
                'stamp_ns': sweep.stamp_ns,
                'points': len(sweep.points),
                'ego_T_lidar': numbers(sweep.ego_T_lidar),
            }
        )
    value = {
        'key': key,
        'stamp_ns': frame.stamp_ns,
        'epoch': frame.epoch,
        'sequence': frame.sequence,
        'odom_T_ego': numbers(frame.odom_T_ego),
        'base_T_ego': numbers(frame.base_T_ego),
        'cameras': {
            view.camera: {
                'stamp_ns': view.stamp_ns,
                'format': view.image.format,
                'ego_T_cam': numbers(view.ego_T_cam),
                'odom_T_base': numbers(view.odom_T_base),
            }
            for view in frame.views
        },
        'lidars': lidars,
    }
    return json.dumps(value, separators=(',', ':'), allow_nan=False).encode()
