"""Colours in which previews show semantics, depth, heights and boxes."""

from __future__ import annotations

import cv2
import numpy as np

from bev_perception.shapes import AnyArray, ImageRgb
from bev_training.synthetic.categories import OBJECTS, SEMANTICS, VEHICLES

BOX_COLORS = {'vehicle': (255, 255, 255), 'pedestrian': (255, 96, 200), 'other': (255, 190, 60)}
_HEIGHT_M = (-1.0, 5.0)  # from blue to red
SEMANTIC_COLORS = {
    'sky': (120, 170, 220), 'road': (90, 90, 100), 'lane_marking': (250, 250, 250),
    'crosswalk': (255, 214, 90), 'sidewalk': (190, 150, 130), 'parking': (125, 105, 140),
    'terrain': (125, 150, 85), 'building': (140, 80, 60), 'vegetation': (50, 125, 50),
    'pole': (200, 200, 120), 'car': (50, 110, 240), 'truck': (30, 60, 160),
    'bus': (70, 190, 240), 'trailer': (80, 80, 200), 'motorcycle': (240, 100, 200),
    'bicycle': (170, 60, 200), 'pedestrian': (240, 50, 60), 'barrier': (255, 150, 50),
    'traffic_cone': (255, 90, 20),
}  # fmt: skip


def box_color(category: int) -> tuple[int, int, int]:
    """Return the RGB colour of boxes of a position in OBJECTS."""
    name = OBJECTS[category]
    return BOX_COLORS['vehicle' if name in VEHICLES else name if name in BOX_COLORS else 'other']


def color_height(z_m: AnyArray) -> AnyArray:
    """Return RGB (N, 3) uint8 of heights (N,) over the ground."""
    low, high = _HEIGHT_M
    shade = np.clip((z_m - low) / (high - low), 0, 1) * 255
    color = cv2.applyColorMap(shade.astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)
    return np.ascontiguousarray(color[:, 0, ::-1])


def color_semantics(semantics: AnyArray) -> ImageRgb:
    """Return a picture of (H, W) positions in SEMANTICS; UNSEEN is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(SEMANTICS)] = [SEMANTIC_COLORS[name] for name in SEMANTICS]
    return table[semantics]


def color_depth(depth_m: AnyArray) -> ImageRgb:
    """Return a picture of depth (H, W) in metres: logarithmic from 1 m to 100 m, the sky black."""
    share = np.log10(np.clip(depth_m, 1, 100)) / 2
    picture = cv2.applyColorMap((255 * (1 - share)).astype(np.uint8), cv2.COLORMAP_TURBO)
    picture[depth_m <= 0] = 0
    return np.ascontiguousarray(picture[..., ::-1])
