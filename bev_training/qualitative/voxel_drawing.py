"""Voxels as solid boxes in a perspective picture, and as a plane seen from above.

Boxes of a grid are painted from the farthest to the nearest. Along each axis, a box that is
farther from the camera can never hide one that is nearer, so sorting by these distances, one axis
after the other, is exact.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.geometry.grid import BevGrid
from bev_perception.pictures import forward_up
from bev_perception.shapes import AnyArray, Array, ImageRgb, Index, Points3, Rigid

PAPER = (23, 24, 28)
_NEAR_M = 0.2  # a side that reaches nearer to the camera is not drawn
_SHADES = (0.78, 0.62, 1.0)  # of sides across x, y and z
_FINER = 2  # pixels are painted so many times finer, and averaged
# Corners of the side across each axis, along the two other ones, in order around it.
_AROUND = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
_VEHICLE = np.array([(2.6, 0.0, 0), (-1.6, 1.2, 0), (-0.7, 0.0, 0), (-1.6, -1.2, 0)])
_BITS = 4  # of a pixel's fraction, for OpenCV


def draw_voxels(
    image: ImageRgb,
    camera: Camera,
    ego_T_cam: Rigid,
    centers_m: Points3,
    size_m: npt.ArrayLike,
    colors: npt.ArrayLike,
    *,
    opacity: float = 1.0,
) -> ImageRgb:
    """Paint boxes over an image.

    Args:
        image: (h, w, 3) of the camera; it is not changed.
        camera: a pinhole.
        ego_T_cam: (4, 4) its pose.
        centers_m: (n, 3) of boxes of one grid, ego frame.
        size_m: (3,) their edges along x, y and z.
        colors: (n, 3) RGB.
        opacity: 1 hides the image behind them.
    """
    height, width = image.shape[:2]
    corners, shades = _sides(
        centers_m, np.asarray(size_m, float), ego_T_cam[:3, 3], np.asarray(colors)
    )
    in_camera = rigid.transform_points(rigid.inverse(ego_T_cam), corners)
    kept = (in_camera[..., 2] > _NEAR_M).all(1)
    uvw = in_camera[kept] @ camera.K.T
    uv = uvw[..., :2] / uvw[..., 2:]
    touches = (uv.max(1) > -0.5).all(1) & (uv.min(1) < (width - 0.5, height - 0.5)).all(1)
    # OpenCV's coordinates have 32 bits, and a side close to the camera is huge.
    touches &= (np.abs(uv) < 20 * max(width, height)).all((1, 2))
    fine = cv2.resize(image, (width * _FINER, height * _FINER), interpolation=cv2.INTER_NEAREST)
    painted = fine.copy()
    points = ((uv[touches] + 0.5) * _FINER - 0.5) * 2**_BITS
    sides = zip(np.rint(points).astype(np.int32), shades[kept][touches].tolist(), strict=True)
    for side, shade in sides:
        cv2.fillConvexPoly(painted, side, shade, cv2.LINE_8, _BITS)
    mixed = cv2.addWeighted(painted, opacity, fine, 1 - opacity, 0)
    return np.asarray(cv2.resize(mixed, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _sides(
    centers_m: Points3, size_m: Array, eye_m: Array, colors: AnyArray
) -> tuple[Points3, AnyArray]:
    """Return the sides of boxes that face a place, the farthest first: corners (m, 4, 3) and
    colours (m, 3).
    """
    offset = centers_m - eye_m
    order = np.lexsort(tuple(-np.rint(np.abs(offset[:, axis]) * 1e6) for axis in (2, 1, 0)))
    centers, offset, colors = centers_m[order], offset[order], colors[order]
    corners = np.empty((len(centers), 3, 4, 3))
    shades = np.empty((len(centers), 3, 3), np.uint8)
    faces = np.empty((len(centers), 3), bool)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        side = np.zeros((4, 3))
        side[:, others] = _AROUND * size_m[others] / 2
        toward = -np.sign(offset[:, axis])
        corners[:, axis] = centers[:, None] + side
        corners[:, axis, :, axis] += (toward * size_m[axis] / 2)[:, None]
        shades[:, axis] = np.rint(colors * _SHADES[axis])
        faces[:, axis] = np.abs(offset[:, axis]) > size_m[axis] / 2
    return corners[faces], shades[faces]


def outside_view(radius_m: float, size_px: tuple[int, int]) -> tuple[Camera, Rigid]:
    """Return a camera behind and above the vehicle, and its `ego_T_cam`: it sees a circle of this
    radius around the vehicle, forward is up.
    """
    width, height = size_px
    pitch = np.radians(42.0)
    distance_m = 2.05 * radius_m
    focal_px = 0.8 * width * distance_m / (2 * radius_m)
    forward = np.array((np.cos(pitch), 0.0, -np.sin(pitch)))
    right, ego_T_cam = np.array((0.0, -1.0, 0.0)), np.eye(4)
    ego_T_cam[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    ego_T_cam[:3, 3] = -distance_m * forward
    K = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, 0.41 * height], [0, 0, 1]], float)
    return Camera(K=K, size_px=size_px), ego_T_cam


def draw_outside(
    centers_m: Points3,
    grid: BevGrid,
    colors: npt.ArrayLike,
    *,
    radius_m: float,
    size_px: tuple[int, int] = (1200, 800),
    marked_m: Array | None = None,
) -> ImageRgb:
    """Draw the voxels of a grid as they look from behind and above the vehicle, a red arrow.

    Args:
        centers_m: (n, 3) ego frame; those beyond `radius_m` are left out.
        grid: of the voxels.
        colors: (n, 3) RGB.
        radius_m: around the vehicle.
        size_px: of the picture.
        marked_m: (3,) a place to put a cross on.
    """
    camera, ego_T_cam = outside_view(radius_m, size_px)
    paper = np.full((size_px[1], size_px[0], 3), PAPER, np.uint8)
    rings_m = [r for r in (10, 20, 30, 40, 50) if r <= radius_m]
    for ring_m in rings_m:
        turn = np.linspace(0, 2 * np.pi, 241)
        circle = np.stack([np.cos(turn), np.sin(turn), np.zeros(241)], 1) * ring_m
        _polygon(paper, camera, ego_T_cam, circle, (58, 60, 68), closed=False)
    _polygon(paper, camera, ego_T_cam, _VEHICLE, (239, 83, 80))
    near = np.hypot(*centers_m[:, :2].T) <= radius_m
    size_m = (grid.cell_m, grid.cell_m, grid.z_cell_m)
    picture = draw_voxels(
        paper, camera, ego_T_cam, centers_m[near], size_m, np.asarray(colors)[near]
    )
    if marked_m is not None:
        _mark(picture, camera, ego_T_cam, marked_m)
    return picture


def draw_above(index_zyx: Index, grid: BevGrid, colors: AnyArray) -> ImageRgb:
    """Return a picture of the highest voxel of every column, one pixel each, x up."""
    picture = np.full((*grid.shape[1:], 3), PAPER, np.uint8)
    order = np.argsort(index_zyx[:, 0], kind='stable')  # of several, the last one stays
    _, y, x = index_zyx[order].T
    picture[y, x] = np.asarray(colors)[order]
    return forward_up(picture)


def _polygon(
    picture: ImageRgb,
    camera: Camera,
    ego_T_cam: Rigid,
    corners_m: Array,
    color: tuple[int, int, int],
    *,
    closed: bool = True,
) -> None:
    uvw = rigid.transform_points(rigid.inverse(ego_T_cam), corners_m) @ camera.K.T
    points = np.rint(uvw[:, :2] / uvw[:, 2:] * 2**_BITS).astype(np.int32)
    if closed:
        cv2.fillPoly(picture, [points], color, cv2.LINE_AA, _BITS)
    else:
        cv2.polylines(picture, [points], False, color, 1, cv2.LINE_AA, _BITS)


def _mark(picture: ImageRgb, camera: Camera, ego_T_cam: Rigid, at_m: Array) -> None:
    uv, seen = camera.project(rigid.transform_points(rigid.inverse(ego_T_cam), at_m[None]))
    if not seen[0]:
        return
    at = (round(float(uv[0, 0])), round(float(uv[0, 1])))
    for color, thickness in (((0, 0, 0), 5), ((66, 255, 140), 2)):
        cv2.circle(picture, at, 13, color, thickness, cv2.LINE_AA)
        cv2.drawMarker(picture, at, color, cv2.MARKER_CROSS, 11, thickness, cv2.LINE_AA)
