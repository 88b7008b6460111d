"""The boxes of a sample: what is near the vehicle and was seen by a camera or by the lidar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.shapes import Array, Index, Points3
from bev_training.nuscenes_tables import Record, link, pose_record, token_of
from bev_training.synthetic.categories import OBJECTS
from bev_training.synthetic.frames import boxes_near, selected
from bev_training.synthetic.nuscenes_format.tables import CATEGORY, VISIBILITY_STEPS
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import Rig
from bev_training.synthetic.visibility import visibility
from bev_training.synthetic.world import Boxes

WITHIN_M = 80.0
_STANDS_MPS = 0.2
_CYCLES = ('motorcycle', 'bicycle')


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotated:
    """The objects of a sample.

    Attributes:
        boxes: of them.
        points: (B,) how many points of the sample's sweep lie in each box.
        visibility: (B,) 0..1.
    """

    boxes: Boxes
    points: Index
    visibility: Array


def annotate(
    scene: Scene, rig: Rig, times_s: dict[str, float], time_s: float, points_map: Points3
) -> Annotated:
    """Return what is within WITHIN_M of the vehicle and seen by a camera or met by the lidar.

    Args:
        scene: what is there.
        rig: the sensors.
        times_s: exposure of each camera.
        time_s: of the sample.
        points_map: (P, 3) of the sample's sweep.
    """
    boxes = boxes_near(scene.world, time_s, WITHIN_M)
    inside = points_inside(boxes, points_map)
    seen = visibility(scene, rig, times_s, boxes, time_s)
    kept = np.flatnonzero((inside > 0) | (seen > 0))
    return Annotated(
        boxes=selected(boxes, kept), points=inside[kept], visibility=np.asarray(seen)[kept]
    )


def points_inside(boxes: Boxes, points_map: Points3) -> Index:
    """Return (B,) how many of the points (P, 3) lie in each box; borders belong to it."""
    count = np.zeros(len(boxes.actor), np.int64)
    order = np.argsort(points_map[:, 0], kind='stable')  # a box needs to see one strip only
    points = points_map[order]
    reach = np.linalg.norm(boxes.size_m, axis=1) / 2
    low = np.searchsorted(points[:, 0], boxes.map_T_box[:, 0, 3] - reach)
    high = np.searchsorted(points[:, 0], boxes.map_T_box[:, 0, 3] + reach)
    box_T_map = rigid.inverse(boxes.map_T_box)
    for number, (first, last) in enumerate(zip(low, high, strict=True)):
        near = rigid.transform_points(box_T_map[number], points[first:last])
        count[number] = (np.abs(near) <= boxes.size_m[number] / 2).all(1).sum()
    return count


def annotation_records(
    seen: Annotated, *, seed: int, scene_name: str, sample_token: str, sample: int
) -> list[Record]:
    """Return the records of a sample; `prev` and `next` are for `link_instances` to fill."""
    boxes = seen.boxes
    speed = np.linalg.norm(boxes.velocity_mps, axis=1)
    level = np.searchsorted(VISIBILITY_STEPS, seen.visibility, side='right') + 1
    records = []
    for i, actor in enumerate(boxes.actor.tolist()):
        name = OBJECTS[int(boxes.category[i])]
        attribute = attribute_of(name, float(speed[i]), parked=bool(boxes.parked[i]))
        length, width, height = boxes.size_m[i].tolist()
        pose = pose_record(boxes.map_T_box[i])
        records.append(
            {
                'token': token_of(seed, 'sample_annotation', scene_name, actor, sample),
                'sample_token': sample_token,
                'instance_token': token_of(seed, 'instance', scene_name, actor),
                'visibility_token': str(int(level[i])),
                'attribute_tokens': [token_of(seed, 'attribute', attribute)] if attribute else [],
                'translation': pose['translation'],
                'size': [width, length, height],
                'rotation': pose['rotation'],
                'prev': '',
                'next': '',
                'num_lidar_pts': int(seen.points[i]),
                'num_radar_pts': 0,
            }
        )
    return records


def link_instances(annotations: list[Record], categories: dict[str, str]) -> list[Record]:
    """Link the annotations of each instance, in their order, and return the instances.

    Args:
        annotations: of a scene, in the order of time.
        categories: category token of every instance token.
    """
    chains: dict[str, list[Record]] = {}
    for record in annotations:
        chains.setdefault(record['instance_token'], []).append(record)
    for chain in chains.values():
        link(chain)
    return [
        {
            'token': token,
            'category_token': categories[token],
            'nbr_annotations': len(chain),
            'first_annotation_token': chain[0]['token'],
            'last_annotation_token': chain[-1]['token'],
        }
        for token, chain in chains.items()
    ]


def category_token(seed: int, category: int) -> str:
    """Return the token of a position in `categories.OBJECTS`."""
    return token_of(seed, 'category', CATEGORY[OBJECTS[category]])


def attribute_of(name: str, speed_mps: float, *, parked: bool) -> str:
    """Return nuScenes' attribute of an object, '' where its category has none."""
    moving = speed_mps > _STANDS_MPS
    if name in _CYCLES:
        return 'cycle.without_rider' if parked else 'cycle.with_rider'
    if name == 'pedestrian':
        return 'pedestrian.moving' if moving else 'pedestrian.standing'
    if name in ('barrier', 'traffic_cone'):
        return ''
    if moving:
        return 'vehicle.moving'
    return 'vehicle.parked' if parked else 'vehicle.stopped'
