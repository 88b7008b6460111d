"""The ground as pictures: square patches of the plane z = 0, painted on demand and kept.

Three sizes follow the vehicle, fine ones close by and coarse ones far out. Patches lie at fixed
places and show the same ground, so an image depends only on its time, not on earlier images.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import cv2
import numpy as np

from bev_perception.shapes import AnyArray, Array, ImageRgb
from bev_training.synthetic.world import World

# cell_m, half side, distance between patches; a patch reaches half - between / 2 around any point.
LEVELS = ((0.02, 20.0, 8.0), (0.04, 64.0, 24.0), (0.16, 256.0, 64.0))
SUN = np.array([0.45, -0.52, 0.73]) / np.linalg.norm([0.45, -0.52, 0.73])
SHADOW = 0.60  # brightness of ground out of the sun
GRASS = (0.33, 0.42, 0.19)
_DRY = (0.52, 0.50, 0.28)
_CONCRETE = (0.62, 0.61, 0.58)
_KERB = (0.74, 0.73, 0.70)
_ASPHALT = (0.335, 0.34, 0.35)
_KEPT = (3, 2, 2)  # patches per level
_NOISE_SIDE = 256
_AA_GROWTH_PX = 0.7  # by which OpenCV's smooth polygons exceed their outline


@dataclass(frozen=True, eq=False, kw_only=True)
class Patch:
    """A picture of the ground.

    Attributes:
        images: the picture and its halved copies; row = y, column = x, both rising.
        corner_m: (x, y) in odom of the outer corner of pixel (0, 0).
        cell_m: edge of a pixel of the first image.
    """

    images: tuple[ImageRgb, ...]
    corner_m: tuple[float, float]
    cell_m: float

    def odom_T_pixel(self, level: int) -> Array:
        """Return (3, 3) from (column, row, 1) of an image to (x, y, 1) in odom."""
        cell = self.cell_m * 2**level
        x, y = self.corner_m
        return np.array([[cell, 0, x + cell / 2], [0, cell, y + cell / 2], [0, 0, 1]])


@dataclass(eq=False, kw_only=True)
class Ground:
    """Paints and keeps the patches of one world."""

    world: World
    _patches: dict[int, OrderedDict[tuple[int, int], Patch]] = field(default_factory=dict)
    _shapes: _Shapes | None = None

    def patch(self, level: int, xy_m: Array) -> Patch:
        """Return the patch of a level that lies closest around a point of odom."""
        cell, half, between = LEVELS[level]
        place = (round(float(xy_m[0]) / between), round(float(xy_m[1]) / between))
        kept = self._patches.setdefault(level, OrderedDict())
        if place not in kept:
            self._shapes = self._shapes or _Shapes.of(self.world)
            corner = (place[0] * between - half, place[1] * between - half)
            kept[place] = _paint(self._shapes, corner, cell, round(2 * half / cell))
            if len(kept) > _KEPT[level]:
                kept.popitem(last=False)
        kept.move_to_end(place)
        return kept[place]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Shapes:
    """The polygons of a world in painting order, with their bounding boxes."""

    layers: tuple[tuple[tuple[float, float, float], float, list[Array]], ...]
    shadows: list[Array]
    noise: tuple[AnyArray, ...]

    @classmethod
    def of(cls, world: World) -> _Shapes:
        kerbs = [_grown(road, 0.18) for road in world.roads]
        layers = [
            (_CONCRETE, 0.05, list(world.sidewalks)),
            (_KERB, 0.03, kerbs),
            (_ASPHALT, 0.11, list(world.roads)),
        ]
        for color in dict.fromkeys(paint.color for paint in world.paints):
            same = [paint.polygon for paint in world.paints if paint.color == color]
            layers.append((color, 0.05, same))
        standing = [actor for actor in world.actors if actor.lane is None]
        shadows = [shadow(actor.shape.faces, actor.pose) for actor in standing]
        rng = np.random.default_rng(world.seed + 1)
        tile = [
            rng.standard_normal((_NOISE_SIDE, _NOISE_SIDE)).astype(np.float32) for _ in range(6)
        ]
        return cls(layers=tuple(layers), shadows=shadows, noise=tuple(tile))


def shadow(faces: Array, pose: Array) -> Array:
    """Return the convex polygon (M, 2) of odom that a shape at (x, y, yaw) shades."""
    points = faces.reshape(-1, 3)
    c, s = np.cos(pose[2]), np.sin(pose[2])
    xy = points[:, :2] @ np.array([[c, s], [-s, c]]) + pose[:2]
    cast = xy - points[:, 2:] * (SUN[:2] / SUN[2])
    hull = cv2.convexHull(cast.astype(np.float32))
    return np.asarray(hull, np.float64).reshape(-1, 2)


def _grown(polygon: Array, by: float) -> Array:
    """Return a counter-clockwise polygon with its edges moved outwards, metres."""
    edges = np.roll(polygon, -1, 0) - polygon
    normals = np.stack([edges[:, 1], -edges[:, 0]], -1) / np.linalg.norm(edges, axis=1)[:, None]
    before = np.roll(normals, 1, 0)
    return polygon + by * (normals + before) / (1 + (normals * before).sum(1))[:, None]


def _paint(shapes: _Shapes, corner: tuple[float, float], cell: float, side: int) -> Patch:
    """Paint a square of ground: flat colours, then one brightness per pixel."""
    fine, coarse = _noise(shapes.noise, corner, cell, side)
    blend = np.clip(115 + 107 * coarse, 0, 255).astype(np.uint8)
    steps = np.linspace(0, 1, 256)[:, None]
    meadow = 255 * (np.array(GRASS) * (1 - steps) + np.array(_DRY) * steps) + 0.5
    image = cv2.LUT(cv2.merge([blend] * 3), meadow.astype(np.uint8)[None])
    grain = np.full((side, side), round(255 * 0.10), np.uint8)
    for color, roughness, polygons in shapes.layers:
        _fill(image, polygons, tuple(255 * c for c in color), corner, cell)
        _fill(grain, polygons, 255 * roughness, corner, cell)
    shade = np.zeros((side, side), np.uint8)
    _fill(shade, shapes.shadows, 255 * (1 - SHADOW), corner, cell)
    shade = cv2.GaussianBlur(shade, (0, 0), max(0.10 / cell, 0.5))
    cv2.addWeighted(fine, 0.65 / 255, coarse, 0.25 / 255, 0, fine)
    gain = cv2.multiply(grain, fine, scale=128, dtype=cv2.CV_32F)  # 128 is a brightness of 1
    gain = cv2.convertScaleAbs(gain, beta=128)
    gain = cv2.multiply(gain, cv2.bitwise_not(shade), scale=1 / 255)
    levels = [cv2.multiply(image, cv2.merge([gain] * 3), scale=1 / 128)]
    for _ in range(2):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return Patch(images=tuple(levels), corner_m=corner, cell_m=cell)


def _fill(
    image: ImageRgb,
    polygons: list[Array],
    color: float | tuple[float, ...],
    corner: tuple[float, float],
    cell: float,
) -> None:
    """Paint polygons (M, 2) in odom onto a picture of the ground, with smooth edges."""
    low, side = np.array(corner), image.shape[0]
    for polygon in polygons:
        if (polygon.max(0) < low).any() or (polygon.min(0) > low + side * cell).any():
            continue
        fitting = _grown(polygon, -min(_AA_GROWTH_PX * cell, 0.05))
        points = ((fitting - low) / cell - 0.5) * 16
        fixed = np.clip(points, -(2**24), 2**24).round().astype(np.int32)
        if len(fixed) == 4:  # exact to a few hundredths of a pixel, unlike the general function
            cv2.fillConvexPoly(image, fixed.reshape(-1, 1, 2), color, cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(image, [fixed.reshape(-1, 1, 2)], color, cv2.LINE_AA, 4)


def _noise(
    tiles: tuple[AnyArray, ...], corner: tuple[float, float], cell: float, side: int
) -> tuple[AnyArray, AnyArray]:
    """Return (side, side) noise of unit size: fine grain and wide blotches, fixed to odom."""
    result = []
    for chosen, steps in ((tiles[:3], (0.04, 0.11, 0.31)), (tiles[3:], (0.9, 2.7, 8.3))):
        total = np.zeros((side, side), np.float32)
        for tile, step in zip(chosen, steps, strict=True):
            if step < 1.5 * cell:  # averages out within a pixel
                continue
            # Coarse noise needs no fine sampling: interpolating it again is quicker.
            coarser = max(q for q in (1, 2, 4, 8) if q == 1 or q * cell <= step)
            scale = cell * coarser / step
            shift = [(c / step + scale / 2) % _NOISE_SIDE for c in corner]
            matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
            part = cv2.warpAffine(
                tile, matrix, (side // coarser, side // coarser),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_WRAP,
            )  # fmt: skip
            total += cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR)
        result.append(total * np.float32(0.75))
    return result[0], result[1]
