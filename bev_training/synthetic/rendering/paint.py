"""Markings on the ground: exact edges nearby, a filtered picture far away."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import shapely

from bev_perception.shapes import AnyArray
from bev_training.synthetic.rendering.color import linear
from bev_training.synthetic.rendering.texture import sample
from bev_training.synthetic.town.town import Marking

CELL_M = 0.2  # of rasters of the town
FINE = 4  # these are painted so many times finer, then averaged
_BIN_M = 1.0
_REACH_M = 0.4  # a bin also lists the markings so close to it
_BAND = 256  # rows of a raster that are painted at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class Footprint:
    """What a pixel covers of the ground.

    Attributes:
        along_m: (N,) extent in the direction of view.
        across_m: (N,) extent across it.
        view: (N, 2) unit direction of view in the map's plane.
    """

    along_m: AnyArray
    across_m: AnyArray
    view: AnyArray


class Paint:
    """All markings of a town."""

    def __init__(self, markings: tuple[Marking, ...], size_m: tuple[float, float]) -> None:
        corners = np.stack([m.polygon for m in markings] or [np.zeros((4, 2))]).astype(float)
        edge = np.roll(corners, -1, 1) - corners
        turn = (corners * np.roll(corners, -1, 1)[..., ::-1] * [1, -1]).sum((1, 2))
        inward = np.stack([-edge[..., 1], edge[..., 0]], -1) * np.sign(turn)[:, None, None]
        inward /= np.maximum(np.linalg.norm(inward, axis=-1, keepdims=True), 1e-9)
        offset = (inward * corners).sum(-1)
        self._planes = np.concatenate([inward, offset[..., None]], -1).astype(np.float32)
        self.is_line = np.array([m.kind == 'line' for m in markings] or [False])
        self._color = linear(np.array([m.color for m in markings] or [(0, 0, 0)]))
        self._bins(corners, size_m)
        shrunk = shapely.buffer(shapely.polygons(corners), -CELL_M / FINE / 2, join_style='mitre')
        values = np.hstack([255 * self._color, np.full((len(shrunk), 1), 255)]).tolist()
        shapes = list(zip(shrunk.tolist(), values, strict=True))
        finer, self._far = raster(shapes, size_m, 4), []
        for _ in range(2):  # the finest is never looked up: edges are exact there
            finer = cv2.resize(finer, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            self._far.append(finer)

    def _bins(self, corners: AnyArray, size_m: tuple[float, float]) -> None:
        """Fill the table of markings near each bin."""
        low = np.floor((corners.min(1) - _REACH_M) / _BIN_M).astype(int)
        n = np.floor((corners.max(1) + _REACH_M) / _BIN_M).astype(int) - low + 1
        count = n[:, 0] * n[:, 1]
        of = np.repeat(np.arange(len(n)), count)
        nth = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
        at = low[of] + np.stack([nth % n[of, 0], nth // n[of, 0]], -1)
        middle = (at + 0.5) * _BIN_M
        planes = self._planes[of].astype(float)
        inside = (planes[..., :2] * middle[:, None]).sum(-1) - planes[..., 2]
        shape = np.ceil(np.asarray(size_m) / _BIN_M).astype(int) + 1
        near = (inside > -(0.71 * _BIN_M + _REACH_M)).all(1)
        near &= ((at >= 0) & (at < shape)).all(1)
        of, at = of[near], at[near]
        flat = at[:, 1] * shape[0] + at[:, 0]
        order = np.argsort(flat, kind='stable')
        of, flat = of[order], flat[order]
        bins, first, counts = np.unique(flat, return_index=True, return_counts=True)
        self._table = np.full((len(bins), max(counts.max(initial=1), 1)), -1, np.int32)
        row = np.repeat(np.arange(len(bins)), counts)
        self._table[row, np.arange(len(of)) - np.repeat(first, counts)] = of
        self._bin = np.full((shape[1], shape[0]), -1, np.int32)
        self._bin.ravel()[bins] = np.arange(len(bins))

    def near(self, x: AnyArray, y: AnyArray, pixel: Footprint) -> tuple:
        """Return which points (M,) lie near paint, its cover there, colour, and what is hit.

        Returns:
            (M,) positions; (M,) share of the pixel that is painted; (M, 3) linear colour;
            (M,) number of the marking at the very point, -1 if none.
        """
        rows, columns = self._bin.shape
        ix, iy = (x * (1 / _BIN_M)).astype(np.int32), (y * (1 / _BIN_M)).astype(np.int32)
        inside = (x >= 0) & (y >= 0) & (ix < columns) & (iy < rows)
        found = self._bin[np.where(inside, iy, 0), np.where(inside, ix, 0)]
        at = np.flatnonzero(inside & (found >= 0))
        bins = found[at]
        cover = np.zeros(len(at), np.float32)
        marking = np.full(len(at), -1, np.int32)
        strongest = np.zeros(len(at), np.int32)
        for candidates in self._table[bins].T:
            some = np.flatnonzero(candidates >= 0)
            which, to = candidates[some], at[some]
            planes = self._planes[which]
            nx, ny = planes[..., 0], planes[..., 1]
            inner = nx * x[to, None] + ny * y[to, None] - planes[..., 2]
            vx, vy = pixel.view[to].T[..., None]
            half = np.abs(nx * vx + ny * vy) * pixel.along_m[to, None]
            half += np.abs(nx * vy - ny * vx) * pixel.across_m[to, None]
            half *= 0.5
            np.maximum(half, 1e-4, out=half)
            part = np.minimum(inner / half, 1)
            part = np.clip((part[:, :2] + part[:, 2:]) / 2, 0, 1).prod(1)
            more = part > cover[some]
            cover[some[more]] = part[more]
            strongest[some[more]] = which[more]
            hit = (inner > 0).all(1)
            # a line over a crosswalk's bar counts as a line
            hit &= (marking[some] < 0) | self.is_line[which]
            marking[some[hit]] = which[hit]
        return at, cover, self._color[strongest], marking

    def far(self, x: AnyArray, y: AnyArray, pixel: Footprint) -> AnyArray:
        """Return (N, 4) float32 colour times cover, and cover, for pixels of large footprints."""
        result = np.zeros((len(x), 4), np.float32)
        level = np.log2(np.maximum(pixel.along_m, 1e-3) / (6 * CELL_M))
        level = np.clip(level.round(), 0, len(self._far) - 1).astype(np.int8)
        for number, image in enumerate(self._far):
            at = np.flatnonzero(level == number)
            scale = 1 / (CELL_M * 2 ** (number + 1))
            for tap in (-1 / 3, 0, 1 / 3):
                away = pixel.along_m[at] * np.float32(tap)
                u = (x[at] + away * pixel.view[at, 0]) * scale - 0.5
                v = (y[at] + away * pixel.view[at, 1]) * scale - 0.5
                result[at] += sample(image, u, v)
        result *= np.float32(1 / (3 * 255))
        return result


def raster(shapes: list[tuple], size_m: tuple[float, float], channels: int) -> AnyArray:
    """Return (h, w, channels) uint8: (polygon, values) painted in order, averaged over cells.

    Row 0 covers y from 0 to CELL_M. Polygons should be half a fine cell too small, because
    OpenCV paints every fine cell that the outline touches.
    """
    columns, rows = (int(np.ceil(extent / CELL_M)) for extent in size_m)
    result = np.zeros((rows, columns, channels), np.uint8)
    rings = [(bounds(p), p, value) for p, value in shapes if not p.is_empty]
    scale = FINE / CELL_M
    for top in range(0, rows, _BAND):
        count = min(_BAND, rows - top)
        low, high = top * CELL_M - 1, (top + count) * CELL_M + 1
        here = [(p, value) for (y0, y1), p, value in rings if y1 >= low and y0 <= high]
        if not here:
            continue
        fine = np.zeros((count * FINE, columns * FINE, channels), np.uint8)
        for polygon, value in here:
            parts = getattr(polygon, 'geoms', [polygon])
            for part in parts:
                outlines = [part.exterior, *part.interiors]
                points = [
                    np.round(
                        ((np.asarray(o.coords)[:, :2] - (0, top * CELL_M)) * scale - 0.5) * 256
                    ).astype(np.int32)
                    for o in outlines
                ]
                cv2.fillPoly(fine, points, value, shift=8)
        result[top : top + count] = cv2.resize(
            fine, (columns, count), interpolation=cv2.INTER_AREA
        ).reshape(count, columns, channels)
    return result


def bounds(polygon: shapely.Polygon) -> tuple[float, float]:
    """Return the smallest and largest y."""
    _, low, _, high = polygon.bounds
    return low, high
