"""Areas, lines and objects of a map as flat arrays, and the cells of a grid that they cover.

A cell belongs to a layer if its centre lies inside one of the layer's polygons, or near enough to
one of its lines (`label_classes.line_half_width_m`). Both the synthetic town and nuScenes' maps
are labelled this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, Index, Mask, Rigid
from bev_training.data.label_classes import line_half_width_m
from bev_training.rasterise import filled, near_lines

_PIECE_M = 1.0  # lines are cut into pieces of at most this length


@dataclass(frozen=True, eq=False, kw_only=True)
class Outlines:
    """Areas and lines as flat arrays in one frame, such as the map's.

    Attributes:
        layers: names.
        edges: (E, 2, 2) of areas; outlines counter-clockwise, holes clockwise.
        edge_layer: (E,) positions in `layers`.
        edge_area: (E,) which area an edge belongs to, a row of `area_box_m`.
        pieces: (P, 2, 2) of lines.
        piece_ends: (P, 2) whether the line ends there.
        piece_layer: (P,) positions in `layers`.
        area_box_m: (A, 4) low x, low y, high x, high y of each area.
    """

    layers: tuple[str, ...]
    edges: Array
    edge_layer: Index
    edge_area: Index
    pieces: Array
    piece_ends: Mask
    piece_layer: Index
    area_box_m: Array

    def with_rings(self, corners: Array, layer: AnyArray) -> Outlines:
        """Return the same with more areas, such as the footprints of objects.

        Args:
            corners: (N, K, 2) of N areas without holes, counter-clockwise, in the same frame.
            layer: (N,) positions in `layers`.
        """
        count, sides = corners.shape[:2]
        box = np.concatenate([corners.min(1), corners.max(1)], axis=1) if count else corners[:, 0]
        return Outlines(
            layers=self.layers,
            edges=np.concatenate([self.edges, ring_edges(corners)]),
            edge_layer=np.concatenate([self.edge_layer, np.repeat(layer, sides)]),
            edge_area=np.concatenate(
                [self.edge_area, np.repeat(np.arange(count), sides) + len(self.area_box_m)]
            ),
            pieces=self.pieces,
            piece_ends=self.piece_ends,
            piece_layer=self.piece_layer,
            area_box_m=np.concatenate([self.area_box_m, box.reshape(-1, 4)]),
        )

    def near(self, map_T_ego: Rigid, grid: BevGrid) -> Outlines:
        """Return what may reach the cells of a grid; `rasterised` of it gives the same.

        Args:
            map_T_ego: (4, 4) pose of the grid's frame in the frame of the outlines.
            grid: the cells.
        """
        corners = _corners(grid) @ map_T_ego[:2, :2].T + map_T_ego[:2, 3]
        low, high = corners.min(0), corners.max(0)
        box = self.area_box_m
        kept = ((box[:, :2] <= high) & (box[:, 2:] >= low)).all(1)
        edge = kept[self.edge_area]
        width = line_half_width_m(grid)
        least, most = self.pieces.min(1) - width, self.pieces.max(1) + width
        piece = ((least <= high) & (most >= low)).all(1)
        return Outlines(
            layers=self.layers,
            edges=self.edges[edge],
            edge_layer=self.edge_layer[edge],
            edge_area=(np.cumsum(kept) - 1)[self.edge_area[edge]],
            pieces=self.pieces[piece],
            piece_ends=self.piece_ends[piece],
            piece_layer=self.piece_layer[piece],
            area_box_m=box[kept],
        )

    def rasterised(self, map_T_ego: Rigid, grid: BevGrid) -> Mask:
        """Return (layers, Y, X) bool.

        Args:
            map_T_ego: (4, 4) pose of the grid's frame in the frame of the outlines, upright in
                it: only the turn about z and the shift in x and y are looked at.
            grid: the cells.
        """
        turn, shift = map_T_ego[:2, :2], map_T_ego[:2, 3]

        def in_ego(segments: Array) -> Array:  # one large product: many small ones are slow
            points: Array = (segments.reshape(-1, 2) - shift) @ turn
            return points.reshape(-1, 2, 2)

        inside = filled(in_ego(self.edges), self.edge_layer, len(self.layers), grid)
        inside |= near_lines(
            in_ego(self.pieces),
            self.piece_ends,
            self.piece_layer,
            len(self.layers),
            line_half_width_m(grid),
            grid,
        )
        return inside


def outlines(
    layers: Sequence[str],
    *,
    areas: Mapping[str, Iterable[Any]] | None = None,
    lines: Mapping[str, Iterable[Array]] | None = None,
) -> Outlines:
    """Flatten a map.

    Args:
        layers: names in the order of the masks that are wanted; those without anything stay
            empty.
        areas: by layer, shapely polygons or multipolygons, of any orientation; they may overlap.
        lines: by layer, polylines (M, 2), metres; closed where the last point is the first.

    Raises:
        ValueError: a layer of `areas` or `lines` is not in `layers`.
    """
    edges, edge_layer = [np.zeros((0, 2, 2))], [np.zeros(0, np.int64)]
    edge_area, boxes = [np.zeros(0, np.int64)], list[tuple[float, ...]]()
    for name, shapes in (areas or {}).items():
        layer = layers.index(name)
        for polygon in shapely.get_parts([*shapes]):
            if polygon.is_empty:
                continue
            oriented = shapely.orient_polygons(polygon)
            rings = (np.asarray(r.coords) for r in (oriented.exterior, *oriented.interiors))
            sides = [np.stack([ring[:-1, :2], ring[1:, :2]], 1) for ring in rings]
            count = sum(len(side) for side in sides)
            edges += sides
            edge_layer.append(np.full(count, layer))
            edge_area.append(np.full(count, len(boxes)))
            boxes.append(polygon.bounds)
    pieces, ends, piece_layer = [np.zeros((0, 2, 2))], [np.zeros((0, 2), bool)], [np.zeros(0, int)]
    for name, polylines in (lines or {}).items():
        layer = layers.index(name)
        for line in polylines:
            cut = _cut(np.asarray(line, float)) if len(line) > 1 else line
            if len(cut) < 2:
                continue
            pieces.append(np.stack([cut[:-1], cut[1:]], 1))
            end = np.zeros((len(cut) - 1, 2), bool)
            if np.linalg.norm(cut[0] - cut[-1]) > 1e-6:
                end[0, 0] = end[-1, 1] = True
            ends.append(end)
            piece_layer.append(np.full(len(end), layer))
    return Outlines(
        layers=tuple(layers),
        edges=np.concatenate(edges),
        edge_layer=np.concatenate(edge_layer),
        edge_area=np.concatenate(edge_area),
        pieces=np.concatenate(pieces),
        piece_ends=np.concatenate(ends),
        piece_layer=np.concatenate(piece_layer),
        area_box_m=np.array(boxes, float).reshape(-1, 4),
    )


def crossing_lines(polygon: Any) -> list[Array]:
    """Return the two longest edges of a pedestrian crossing, (2, 2) each: where it is walked
    along, as HDMapNet draws it.

    Args:
        polygon: a shapely polygon.
    """
    ring = np.asarray(polygon.exterior.coords)[:, :2]
    longest = np.argsort(np.linalg.norm(np.diff(ring, axis=0), axis=1), kind='stable')[-2:]
    return [ring[i : i + 2] for i in sorted(longest)]


def box_corners(center_m: Array, size_m: Array, yaw_rad: Array) -> Array:
    """Return (N, 4, 2), the footprints of boxes seen from above, counter-clockwise.

    Args:
        center_m: (N, 2) or (N, 3) middle, metres.
        size_m: (N, 2) or (N, 3) length along the heading, width.
        yaw_rad: (N,) heading, 0 along x, positive to the left.
    """
    signs = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)]) / 2
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    turn = np.moveaxis(np.array([[c, s], [-s, c]]), -1, 0)  # (N, 2, 2), for rows from the left
    corners: Array = (signs * size_m[:, None, :2]) @ turn + center_m[:, None, :2]
    return corners


def box_bottoms(dst_T_box: Rigid, size_m: Array) -> Array:
    """Return (..., 4, 2), the bottoms of boxes seen from above, counter-clockwise.

    Args:
        dst_T_box: (..., 4, 4) poses of their middles; they may stand on a slope.
        size_m: (..., 3) length, width, height.
    """
    signs = np.array([(1, -1, -1), (1, 1, -1), (-1, 1, -1), (-1, -1, -1)]) / 2
    return rigid.transform_points(dst_T_box, signs * size_m[..., None, :])[..., :2]


def ring_edges(corners: Array) -> Array:
    """Return the sides (N * K, 2, 2) of N rings of K corners (N, K, 2), each one closed."""
    return np.stack([corners, np.roll(corners, -1, axis=1)], axis=2).reshape(-1, 2, 2)


def _corners(grid: BevGrid) -> Array:
    return np.array([(x, y) for x in grid.x_range_m for y in grid.y_range_m])


def _cut(line: Array) -> Array:
    """Return a line (M, 2) with additional points, so that no piece is longer than _PIECE_M."""
    gaps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    line, gaps = line[np.concatenate([[True], gaps > 1e-9])], gaps[gaps > 1e-9]
    parts = np.maximum(np.ceil(gaps / _PIECE_M - 1e-9), 1).astype(int)
    piece = np.repeat(np.arange(len(gaps)), parts)
    start = np.cumsum(parts) - parts
    share = (np.arange(len(piece)) - start[piece]) / parts[piece]
    points = line[:-1][piece] + share[:, None] * np.diff(line, axis=0)[piece]
    return np.concatenate([points, line[-1:]])
