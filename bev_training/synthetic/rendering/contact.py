"""How much of the sky's light reaches the ground beside and below things."""

from __future__ import annotations

import cv2
import numpy as np

from bev_perception.shapes import AnyArray, Array
from bev_training.synthetic.rendering.texture import sample
from bev_training.synthetic.world import World

_CELL_M = 0.15
_SIDE = 512  # cells of the window around the camera
_BLUR = 2.2  # cells
_STRENGTH = {'building': 130, 'vegetation': 0, 'pole': 0}  # others: 200 of 255


class Contact:
    """Soft darkness around the footprints of a world's actors."""

    def __init__(self, world: World) -> None:
        half = np.array([actor.mesh.size_m[:2] for actor in world.actors]).reshape(-1, 2) / 2
        signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
        self._corners = half[:, None] * signs
        self._reach_m = np.linalg.norm(half, axis=1)
        self._strength = np.array([_STRENGTH.get(a.category, 200) for a in world.actors])

    def open_sky(self, poses: Array, xy: AnyArray, eye: Array) -> AnyArray:
        """Return (N,) 0..1: the share of the sky's light that reaches ground at (N, 2).

        Args:
            poses: (A, 4, 4) map_T_actor.
            xy: (N, 2) places in the map.
            eye: the camera; only what is near it counts.
        """
        low = np.round(eye[:2] / _CELL_M) * _CELL_M - _SIDE * _CELL_M / 2
        away = np.linalg.norm(poses[:, :2, 3] - eye[:2], axis=1) - self._reach_m
        near = np.flatnonzero((away < _SIDE * _CELL_M / 2) & (self._strength > 0))
        shade = np.zeros((_SIDE, _SIDE), np.uint8)
        for i in near:
            outline = self._corners[i] @ poses[i, :2, :2].T + poses[i, :2, 3] - low
            points = np.round(outline / _CELL_M * 16).astype(np.int32)
            cv2.fillConvexPoly(shade, points, int(self._strength[i]), shift=4)
        shade = cv2.GaussianBlur(shade, None, _BLUR)
        x, y = xy.T
        scale = np.float32(1 / _CELL_M)
        dark = sample(shade, (x - np.float32(low[0])) * scale, (y - np.float32(low[1])) * scale)
        return 1 - dark * np.float32(1 / 255)
