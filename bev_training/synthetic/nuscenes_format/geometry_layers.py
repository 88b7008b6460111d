"""The geometric layers of nuScenes' map: nodes, lines and polygons that other layers point to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import shapely
from shapely import MultiPolygon, Polygon

from bev_perception.shapes import Array
from bev_training.nuscenes_tables import Record, token_of

_DIGITS = 4  # of coordinates; points that agree in them are the same node
_SAME_M = 1e-6
_NEAR_M = 0.01
_SPARE_M = 0.005  # points that bend an outline less than this are left out


class GeometryLayers:
    """Collects nodes, lines and polygons, and hands out their tokens.

    Neighbours share the nodes of their common edges, as the devkit's `get_next_roads` wants it.
    """

    def __init__(self, seed: int, name: str) -> None:
        """Begin with nothing; `seed` and `name` (of the map) make the tokens differ."""
        self._key = (seed, name)
        self._nodes: dict[tuple[float, float], str] = {}
        self._lines: list[Record] = []
        self._polygons: list[Record] = []

    def layers(self) -> dict[str, list[Record]]:
        """Return the three layers."""
        nodes = [{'token': token, 'x': x, 'y': y} for (x, y), token in self._nodes.items()]
        return {'node': nodes, 'line': self._lines, 'polygon': self._polygons}

    def token(self, *names: object) -> str:
        """Return the token of something of this map."""
        return token_of(self._key[0], 'map', self._key[1], *names)

    def nodes(self, points: npt.ArrayLike) -> list[str]:
        """Return the nodes at points (N, 2)."""
        tokens = []
        for x, y in np.round(np.asarray(points, float)[:, :2], _DIGITS).tolist():
            place = (x + 0.0, y + 0.0)  # -0.0 becomes 0.0
            if place not in self._nodes:
                self._nodes[place] = self.token('node', len(self._nodes))
            tokens.append(self._nodes[place])
        return tokens

    def line(self, points: npt.ArrayLike) -> str:
        """Add a line (N, 2) and return its token."""
        token = self.token('line', len(self._lines))
        self._lines.append({'token': token, 'node_tokens': self.nodes(points)})
        return token

    def polygon(self, polygon: Polygon) -> str:
        """Add a polygon and return its token."""
        token = self.token('polygon', len(self._polygons))
        holes = [{'node_tokens': self.nodes(ring.coords[:-1])} for ring in polygon.interiors]
        exterior = self.nodes(polygon.exterior.coords[:-1])
        self._polygons.append({'token': token, 'exterior_node_tokens': exterior, 'holes': holes})
        return token


def parts(areas: Polygon | MultiPolygon | Iterable[Polygon]) -> list[Polygon]:
    """Return polygons, largest first, without points that do not matter.

    The order matters: the devkit paints them one after the other, and the hole of a later one
    would erase what lies inside of it.
    """
    if isinstance(areas, Polygon):
        areas = [areas]
    each = areas.geoms if isinstance(areas, MultiPolygon) else areas
    slim = [spare(polygon) for polygon in each]
    return sorted(slim, key=lambda polygon: -Polygon(polygon.exterior).area)


def spare(polygon: Polygon) -> Polygon:
    """Return a polygon without points that do not matter, if it stays valid."""
    slim = polygon.simplify(_SPARE_M)
    fine = isinstance(slim, Polygon) and slim.is_valid and not slim.is_empty
    return shapely.orient_polygons(slim if fine else polygon)


def with_corners(polygon: Polygon, corners: Array) -> Polygon:
    """Return a polygon whose outline also has those points (N, 2) as nodes that lie on it."""
    ring = np.asarray(polygon.exterior.coords)[:-1, :2]
    near = corners[shapely.distance(polygon.exterior, shapely.points(corners)) < _NEAR_M]
    if not len(near):
        return polygon
    apart = np.linalg.norm(ring[:, None] - near[None], axis=-1).min(1) > _NEAR_M
    points = np.concatenate([ring[apart], near])
    along = shapely.line_locate_point(polygon.exterior, shapely.points(points))
    richer = Polygon(distinct(points[np.argsort(along, kind='stable')]), polygon.interiors)
    return richer if richer.is_valid else polygon


def slim_line(line: Array) -> Array:
    """Return a line (N, 2) without points that do not matter; both ends stay."""
    return np.asarray(shapely.LineString(line).simplify(_SPARE_M).coords)


def distinct(line: Array) -> Array:
    """Return a line (N, 2) without points that repeat the one before."""
    gaps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    return np.asarray(line[np.concatenate([[True], gaps > _SAME_M])])


def beside(line: Array, left_m: float) -> Array:
    """Return a line moved to its left, with mitred corners.

    Args:
        line: (N, 2), without repeated points.
        left_m: how far; negative moves to the right.
    """
    ahead = np.diff(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    left = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
    before, after = np.concatenate([left[:1], left]), np.concatenate([left, left[-1:]])
    mitre = (before + after) / np.maximum(1 + (before * after).sum(1), 0.2)[:, None]
    return np.asarray(line + left_m * mitre)
