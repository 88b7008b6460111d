"""A small data set in nuScenes' format, and what its tests compare it with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.nuscenes_format import NuscenesConfig
from bev_training.synthetic.nuscenes_format.config import ScenePlan
from bev_training.synthetic.rendering.renderer import Renderer, View
from bev_training.synthetic.rig import Rig, RigCamera, nuscenes_rig
from bev_training.synthetic.world import World

SIZE_PX = (160, 90)


def small_rig(size_px: tuple[int, int] = SIZE_PX) -> Rig:
    rig = nuscenes_rig(size_px)
    assert rig.lidar is not None
    return replace(rig, lidar=replace(rig.lidar, azimuths=540, hz=10), camera_hz=6)


CONFIG = NuscenesConfig(
    scenes=2, seconds=1.5, seed=7, weather='clear', rig=small_rig(), towns=2, speed_mps=8.0
)
TINY = replace(CONFIG, seconds=0.6, rig=small_rig((64, 36)), sweeps=False)


def world_of(config: NuscenesConfig, plan: ScenePlan) -> World:
    return make_world(
        seed=plan.seed,
        seconds=config.seconds,
        speed_mps=config.speed_mps,
        weather=config.weather,
        town_seed=plan.town_seed,
    )


def time_of(plan: ScenePlan, record: dict[str, Any]) -> float:
    return float((record['timestamp'] - plan.start_us) / 1e6)


def camera_of(rig: Rig, channel: str) -> RigCamera:
    return next(c for c in rig.cameras if f'CAM_{c.name.upper()}' == channel)


def seen_by(
    renderer: Renderer, plan: ScenePlan, record: dict[str, Any], size_px: tuple[int, int] = SIZE_PX
) -> tuple[RigCamera, np.ndarray, View]:
    """Return the camera of a sample_data, its pose map_T_cam, and what it sees."""
    each, time_s = camera_of(small_rig(size_px), record['channel']), time_of(plan, record)
    map_T_cam = renderer.scene.world.map_T_base(time_s) @ each.base_T_cam
    return each, map_T_cam, renderer.view(each.camera, map_T_cam, time_s)


def depth_at(view: View, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth (N,) at pixels (N, 2), and the actor there (-9 where there are two)."""
    seen = np.where(view.depth_m > 0, view.depth_m, np.inf).astype(np.float32)
    low = np.floor(uv).astype(int)
    corners = [(low + step).T for step in ((0, 0), (0, 1), (1, 0), (1, 1))]
    what = np.stack([view.actors[v, u] for u, v in corners])
    # inverse depth is linear on planes
    inverse = cv2.remap(1 / seen, *uv.T.astype(np.float32)[:, None], cv2.INTER_LINEAR)[0]
    return 1 / np.maximum(inverse, 1e-9), np.where((what == what[0]).all(0), what[0], -9)


def chain(nusc: Any, table: str, token: str) -> list[dict[str, Any]]:
    records = []
    while token:
        record = nusc.get(table, token)
        assert record['prev'] == (records[-1]['token'] if records else '')
        records.append(record)
        token = record['next']
    return records


def judged_submission(nusc: Any, split: str, folder: Path) -> Any:
    """Return the devkit's DetectionEval of a split's own annotations as detections."""
    from nuscenes.eval.detection.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.eval.detection.utils import category_to_detection_name
    from nuscenes.utils.splits import get_scenes_of_split

    scenes = get_scenes_of_split(split, nusc)

    results: dict[str, list[dict[str, Any]]] = {}
    for sample in nusc.sample:
        if nusc.get('scene', sample['scene_token'])['name'] not in scenes:
            continue
        results[sample['token']] = []
        for token in sample['anns']:
            record = nusc.get('sample_annotation', token)
            if not record['num_lidar_pts']:
                continue  # the devkit drops these from the truth
            name = category_to_detection_name(record['category_name'])
            attributes = [nusc.get('attribute', a)['name'] for a in record['attribute_tokens']]
            results[sample['token']].append(
                {
                    'sample_token': sample['token'],
                    **{key: record[key] for key in ('translation', 'size', 'rotation')},
                    'velocity': np.nan_to_num(nusc.box_velocity(token)[:2]).tolist(),
                    'detection_name': name,
                    'detection_score': 0.9,
                    'attribute_name': attributes[0] if attributes else '',
                }
            )
    meta = {f'use_{name}': name == 'lidar' for name in ('camera', 'lidar', 'radar', 'map')}
    submission = {'meta': {**meta, 'use_external': False}, 'results': results}
    file = folder / 'results.json'
    file.write_text(json.dumps(submission))
    config = config_factory('detection_cvpr_2019')
    return DetectionEval(nusc, config, str(file), split, str(folder), verbose=False)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }
