"""Pictures of grids and of the ground, for people: forward is up, left is left."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import ImageRgb, Mask, Rigid
from bev_perception.views import ViewSet

_UNSEEN = np.array((60, 60, 66), np.float32)
_SEEN = np.array((22, 22, 26), np.float32)
# Painted in this order where classes overlap; unlisted classes take the spare colours.
COLORS: dict[str, tuple[int, int, int]] = {
    'drivable_area': (84, 110, 122),
    'carpark_area': (121, 85, 72),
    'walkway': (141, 110, 99),
    'ped_crossing': (255, 202, 40),
    'road_boundary': (236, 64, 122),
    'road_divider': (255, 112, 67),
    'lane_divider': (255, 241, 118),
    'divider': (255, 167, 38),
    'ped_crossing_line': (174, 213, 129),
    'vehicle': (66, 165, 245),
    'pedestrian': (206, 147, 216),
}
_SPARE = ((102, 187, 106), (171, 71, 188), (38, 198, 218), (239, 83, 80), (220, 231, 117))


def class_color(name: str, index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class."""
    return COLORS.get(name, _SPARE[index % len(_SPARE)])


def draw_bev(
    probability: npt.NDArray[np.float32], valid: Mask, classes: tuple[str, ...]
) -> ImageRgb:
    """Blend all classes into one picture, one pixel per cell.

    Args:
        probability: (class, y, x) in 0..1.
        valid: (y, x); cells that no camera sees are grey.
        classes: names of the channels.

    Returns:
        (x, y, 3): rows run from the farthest cell ahead to the farthest behind.
    """
    picture = np.where(valid[..., None], _SEEN, _UNSEEN)
    order = list(COLORS)
    ranked = sorted(
        range(len(classes)), key=lambda i: order.index(classes[i]) if classes[i] in order else 99
    )
    for i in ranked:
        alpha = (np.nan_to_num(probability[i]) * valid)[..., None]
        picture = picture * (1 - alpha) + np.array(class_color(classes[i], i), np.float32) * alpha
    return forward_up(picture.round().astype(np.uint8))


def forward_up(grid: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn a [y, x, ...] grid into a picture with x up and y left: the one place that flips."""
    return np.ascontiguousarray(grid.swapaxes(0, 1)[::-1, ::-1])


def draw_ground_mosaic(view_set: ViewSet, grid: BevGrid, px_per_m: float = 5.0) -> ImageRgb:
    """Project the images onto the ground plane (z = 0 of the ego frame) and average overlaps.

    The first thing to look at when a calibration is in doubt: lane lines must run straight and
    without a step from camera to camera. Things that stand up are smeared outwards.
    """
    columns = round((grid.x_range_m[1] - grid.x_range_m[0]) * px_per_m)
    rows = round((grid.y_range_m[1] - grid.y_range_m[0]) * px_per_m)
    total = np.zeros((rows, columns, 3), np.float32)
    count = np.zeros((rows, columns, 1), np.float32)
    for view in view_set.views:
        maps, seen = _ground_map(view.camera, view.ego_T_cam, grid, (rows, columns), px_per_m)
        # Replicated, or the outermost half pixel would darken towards the border's black.
        image = cv2.remap(
            view.image, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        total += image * seen
        count += seen
    mosaic = np.where(count > 0, total / np.maximum(count, 1), _UNSEEN)
    return forward_up(mosaic.round().astype(np.uint8))


def _ground_map(
    camera: Camera,
    ego_T_cam: Rigid,
    grid: BevGrid,
    shape: tuple[int, int],
    px_per_m: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the pixel of every ground point, (rows, columns, 2), and its weight (…, 1)."""
    y, x = np.indices(shape)
    points = np.stack(
        [
            grid.x_range_m[0] + (x + 0.5) / px_per_m,
            grid.y_range_m[0] + (y + 0.5) / px_per_m,
            np.zeros(shape),
        ],
        -1,
    )
    uv, seen = camera.project(rigid.transform_points(rigid.inverse(ego_T_cam), points))
    return uv.astype(np.float32), seen[..., None].astype(np.float32)
