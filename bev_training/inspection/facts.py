"""Measurements as plain values: what `--json` prints and what the reports show."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from bev_training.inspection.bag_measurements import BagMeasured
from bev_training.inspection.calibration_checks import view_deg
from bev_training.inspection.drive_measurements import DriveMeasured
from bev_training.inspection.suggestions import enough

_ORDER = ('camera', 'info', 'lidar', 'odometry', 'tf', 'tf_static')


def bag_facts(m: BagMeasured) -> dict[str, Any]:
    """Return what was measured in a recording."""
    return {
        'storage': m.storage,
        'size_bytes': m.size_bytes,
        'seconds': round(m.seconds, 3),
        'messages': m.messages,
        'quick': m.quick,
        'topics': _topics(m),
        'cameras': {name: _camera(m, name) for name in m.cameras},
        'lidars': {
            name: {
                'sweeps': lidar.sweeps,
                'empty': lidar.empty,
                'damaged': lidar.damaged,
                'points': lidar.points,
                'finite_share': _round(lidar.finite_share),
                'fields': list(lidar.fields),
                'other_fields': lidar.other_fields,
                'connected': name not in m.unconnected,
            }
            for name, lidar in m.lidars.items()
        },
        'poses': [
            {
                'name': edge.name,
                **edge.times.as_json(),
                'jumps': edge.jumps,
                'worst_jump_m': round(edge.worst_jump_m, 3),
            }
            for edge in m.poses
        ],
        'sync': _sync(m),
        'frames': {
            'every': str(m.config.every),
            'frames': m.frames,
            'sets': m.sets,
            'metres': round(m.metres, 2),
            'epochs': m.epochs,
            'stopped_by': ('BAG040' if m.refused else 'BAG006') if m.ended else '',
            'stopped_at_s': round(m.ended_at_s, 3) if m.ended else None,
            'left_out': {k: v for k, v in sorted(m.counts.items()) if k not in _PLAIN and v},
        },
    }


_PLAIN = ('sets', 'images')


def _topics(m: BagMeasured) -> list[dict[str, Any]]:
    rows = []
    for name, info in m.topics.items():
        times = m.times.get(name)
        known = {} if times is None else times.as_json()
        if m.roles.get(name) in ('tf', 'tf_static'):  # of many publishers: no rhythm
            known = {'bytes_per_s': known['bytes_per_s']}
        rows.append(
            {
                'topic': name,
                'type': info.type,
                'role': m.roles.get(name, ''),
                'messages': info.messages,
                **{k: v for k, v in known.items() if k != 'messages'},
            }
        )

    def key(row: dict[str, Any]) -> tuple[int, str]:
        kind = row['role'].split(' ')[0]
        return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), row['topic'])

    return sorted(rows, key=key)


def _camera(m: BagMeasured, name: str) -> dict[str, Any]:
    meter = m.cameras[name]
    pose = m.base_T_cam.get(name)
    camera = meter.camera
    return {
        'sizes_px': [[*size] for size, _ in meter.sizes.most_common()],
        'formats': dict(meter.formats),
        'damaged': meter.damaged,
        'video': dict(meter.video),
        'connected': name not in m.unconnected,
        'at_m': None if pose is None else [round(float(v), 4) for v in pose[:3, 3]],
        'calibration': None
        if camera is None
        else {
            'size_px': [*camera.size_px],
            'model': camera.model,
            'fx_fy_cx_cy_px': [
                round(float(v), 3)
                for v in (camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2])
            ],
            'view_deg': round(view_deg(camera), 1),
            'changes': meter.changes,
        },
    }


def _sync(m: BagMeasured) -> dict[str, Any] | None:
    if m.sync is None:
        return None
    values = asdict(m.sync)
    values['cameras'] = {name: asdict(c) for name, c in m.sync.cameras.items()}
    values['settings'] = {
        'max_spread_s': m.config.max_spread_s,
        'min_cameras': min(m.config.min_cameras, len(m.sync.cameras)),
        'timeout_s': m.config.timeout_s,
    }
    suggested = [one.as_json() for one in m.suggestions]
    return {**values, 'settings_fit': enough(m.sync) and not suggested, 'suggested': suggested}


def drive_facts(m: DriveMeasured) -> dict[str, Any]:
    """Return what was measured in a drive."""
    seconds, steps = m.steps
    moved = np.linalg.norm(steps, axis=-1)
    linked = m.linked & (seconds > 0)
    speeds = moved[linked] / seconds[linked] if linked.any() else np.zeros(0)
    speeds = speeds[np.isfinite(speeds)]
    return {
        'version': m.manifest['version'],
        'source': m.manifest['facts'].get('source'),
        'counts': m.manifest['counts'],
        'size_bytes': m.size_bytes,
        'quick': m.quick,
        'frames': len(m.stamps_ns),
        'seconds': round(m.seconds, 3),
        'metres': round(float(np.nansum(np.where(m.linked, moved, 0))), 2),
        'sequences': len(set(m.sequences)),
        'epochs': len(m.calibrations),
        'cameras': {
            name: {
                'images': m.images.get(name, 0),
                'images_with_lidar': m.hit.get(name, 0),
                'images_projected': m.projected.get(name, 0),
            }
            for name in m.cameras
        },
        'sweeps': sum(m.sweeps),
        'points_seen_share': _round(m.points_seen / m.points) if m.points else None,
        'speed_mps': {
            'median': _round(float(np.median(speeds))) if len(speeds) else None,
            'max': _round(float(speeds.max())) if len(speeds) else None,
        },
        'spread_s': {
            'median': _round(float(np.median(m.spreads_s))) if len(m.spreads_s) else None,
            'max': _round(float(m.spreads_s.max())) if len(m.spreads_s) else None,
        },
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
