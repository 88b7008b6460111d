"""Reads back what a synthetic drive shows at chosen instants: only from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_perception.messages import (
    frame_id,
    points_xyz,
    read_image,
    read_points,
    read_transforms,
    stamp_ns,
)
from bev_perception.shapes import AnyArray, Array, ImageRgb, Mask, Rigid
from bev_perception.transforms import TransformTree
from bev_training import messages
from bev_training.data.bag_reader import read_messages
from bev_training.synthetic.stored_truth import Truth, image_truth
from bev_training.synthetic.world import Boxes

_TF = ('/tf', '/tf_static')
_LIDAR = '/lidar/points'


@dataclass(frozen=True, eq=False, kw_only=True)
class Shown:
    """A drive at one instant.

    Attributes:
        stamp_ns: of the truth.
        images: by camera name, nearest in time.
        image_stamps_ns: theirs.
        points_ego: (N, 3) lidar points in the gravity-aligned ego frame, or None without lidar.
        intensity: (N,) of the points.
        grids: (C, Y, X) bool.
        corners_ego: (B, 4, 2) the boxes' bottoms, counter-clockwise from the front right.
        category: (B,) positions in `categories.OBJECTS`.
    """

    stamp_ns: int
    images: dict[str, ImageRgb]
    image_stamps_ns: dict[str, int]
    points_ego: AnyArray | None
    intensity: AnyArray | None
    grids: Mask
    corners_ego: Array
    category: AnyArray


def show(drive: Path, truth: Truth, frames: Sequence[int]) -> list[Shown]:
    """Return what a drive shows at some of its frames.

    Args:
        drive: folder.
        truth: of the drive.
        frames: positions in `truth.stamps_ns`.

    Raises:
        BevError: the bag cannot be read or lacks something.
    """
    config = truth.config
    rig = config.rig_or_default()
    wanted = truth.stamps_ns[list(frames)]
    cameras = {messages.image_topic(c.name, raw=config.raw): c.name for c in rig.cameras}
    topics = [*cameras, *([_LIDAR] if rig.lidar else [])]
    tree = transforms_of(drive)
    nearest: dict[tuple[str, int], Any] = {}
    best_ns = {topic: np.full(len(wanted), np.iinfo(np.int64).max) for topic in topics}
    for topic, _, message in read_messages(drive / 'bag', topics):
        gaps_ns = np.abs(wanted - stamp_ns(message.header))
        for i in np.flatnonzero(gaps_ns < best_ns[topic]).tolist():
            nearest[topic, i], best_ns[topic][i] = message, gaps_ns[i]
    shown = []
    for i, stamp in enumerate(wanted.tolist()):
        absent = [topic for topic in topics if (topic, i) not in nearest]
        if absent:
            raise BagError(f'{drive / "bag"} has no message on {absent[0]}')
        found = {name: nearest[topic, i] for topic, name in cameras.items()}
        map_T_base = tree.lookup('map', 'base_link', stamp)
        ego_T_map = rigid.inverse(map_T_base @ rigid.level(map_T_base))
        points = intensity = None
        if rig.lidar:
            points, intensity = _points(tree, nearest[_LIDAR, i], ego_T_map)
        boxes = truth.boxes(frames[i])
        shown.append(
            Shown(
                stamp_ns=stamp,
                images={name: read_image(message) for name, message in found.items()},
                image_stamps_ns={name: stamp_ns(m.header) for name, m in found.items()},
                points_ego=points,
                intensity=intensity,
                grids=truth.grids[frames[i]],
                corners_ego=_corners(boxes, ego_T_map),
                category=boxes.category,
            )
        )
    return shown


def transforms_of(drive: Path) -> TransformTree:
    """Return all transforms in a drive's bag.

    Raises:
        BevError: the bag cannot be read.
    """
    tree = TransformTree(history_s=1e6)
    for topic, _, message in read_messages(drive / 'bag', _TF):
        for transform in read_transforms(message):
            tree.push(transform, static=topic == '/tf_static')
    return tree


def _points(tree: TransformTree, message: Any, ego_T_map: Rigid) -> tuple[AnyArray, AnyArray]:
    """Return a sweep's points in ego, and their intensity."""
    fields = read_points(message)
    map_T_lidar = tree.lookup('map', frame_id(message.header), stamp_ns(message.header))
    points = rigid.transform_points(ego_T_map @ map_T_lidar, points_xyz(fields).astype(float))
    return points, fields['intensity']


def _corners(boxes: Boxes, ego_T_map: Rigid) -> Array:
    signs = np.array([(1, -1, -1), (1, 1, -1), (-1, 1, -1), (-1, -1, -1)]) / 2
    corners = rigid.transform_points(boxes.map_T_box, signs * boxes.size_m[:, None, :])
    return rigid.transform_points(ego_T_map, corners)[..., :2]


def image_truth_of(drive: Path, shown: Shown) -> dict[str, tuple[AnyArray, AnyArray]]:
    """Return semantics (H, W) uint8 and depth (H, W) in metres of an instant, by camera name.

    Raises:
        BagError: a file is missing or damaged.
    """
    return {
        camera: image_truth(drive, camera, stamp)
        for camera, stamp in shown.image_stamps_ns.items()
    }
