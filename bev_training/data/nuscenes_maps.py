"""nuScenes' map expansion as outlines: areas and lines, read through the devkit's `NuScenesMap`.

Only its tables and `extract_polygon`/`extract_line` are used: its masks round to whole pixels, and
those of lines fail with shapely 2. https://www.nuscenes.org/nuscenes#download, "Map expansion".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from bev_perception.errors import BagError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import Array, Mask, Rigid
from bev_training.data.label_classes import AREAS, LINES
from bev_training.outlines import Outlines, crossing_lines, outlines

MAP_CLASSES = (*AREAS, *LINES)
_VERSION = 'v1.3'
_AREA_M = 100.0  # larger areas are cut up, so that what is far from a grid can be left out
_MARGIN_M = 60.0  # around what was asked for last


class NearbyMap:
    """A map for one grid after the other along a way: what is near the last one is looked through
    first, as a city is large.
    """

    def __init__(self, outlined: Outlines, grid: BevGrid) -> None:
        """Start nowhere.

        Args:
            outlined: the map.
            grid: the cells.
        """
        self._outlined, self._grid = outlined, grid
        x, y = grid.x_range_m, grid.y_range_m
        reach_m = max(math.hypot(a, b) for a in x for b in y) + _MARGIN_M
        edge_m = math.ceil(reach_m / grid.cell_m) * grid.cell_m
        # its middle circle holds the grid from everywhere within the margin, however it is turned
        self._larger = replace(grid, x_range_m=(-edge_m, edge_m), y_range_m=(-edge_m, edge_m))
        self._around, self._at = outlined, np.full(2, np.inf)

    def rasterised(self, odom_T_ego: Rigid) -> Mask:
        """Return (layers, Y, X) as `Outlines.rasterised` of the whole map does."""
        at = odom_T_ego[:2, 3]
        if not np.linalg.norm(at - self._at) < _MARGIN_M:
            self._around, self._at = self._outlined.near(odom_T_ego, self._larger), at.copy()
        return self._around.near(odom_T_ego, self._grid).rasterised(odom_T_ego, self._grid)


def map_file(dataroot: Path, location: str) -> Path:
    """Return where the map of a location lies.

    Raises:
        BagError: it is not there.
    """
    path = dataroot / 'maps' / 'expansion' / f'{location}.json'
    if not location or not path.is_file():
        raise BagError(
            f'{path} is missing: map classes need the map expansion {_VERSION} (from '
            f'https://www.nuscenes.org/nuscenes#download); unzip it into {dataroot / "maps"}'
        )
    return path


def read_map(dataroot: Path, location: str, layers: Sequence[str]) -> Outlines:
    """Return areas and lines of a location, in the frame of the map, metres.

    Polygons that cross themselves are repaired. `road_boundary` is the rim of the union of
    road_segment and lane, and `ped_crossing_line` the two longest edges of each crossing, as in
    HDMapNet; `divider` is road_divider and lane_divider.

    Args:
        dataroot: folder of the data set.
        location: of the map.
        layers: in the order of the masks that are wanted; others than MAP_CLASSES stay empty.

    Raises:
        BagError: the map is missing, damaged or older than version 1.3.
        ConfigError: the devkit is not installed.
    """
    path = map_file(dataroot, location)
    try:
        nusc_map = _devkit()(str(dataroot), location)
        return _outlined(nusc_map, layers)
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error
    except KeyError as error:
        raise BagError(f'{path}: a record lacks {error}, or names what is in no layer') from error
    except (BagError, ConfigError):
        raise
    except Exception as error:  # of an old version, the devkit raises nothing more precise
        raise BagError(f'{path} cannot be used: {" ".join(str(error).split())}') from error


def _outlined(nusc_map: Any, layers: Sequence[str]) -> Outlines:
    crossings = list(_areas(nusc_map, 'ped_crossing'))
    areas = {
        'drivable_area': list(_areas(nusc_map, 'drivable_area')),
        'walkway': list(_areas(nusc_map, 'walkway')),
        'ped_crossing': crossings,
        'carpark_area': list(_areas(nusc_map, 'carpark_area')),
    }
    dividers = {name: list(_lines(nusc_map, name)) for name in ('road_divider', 'lane_divider')}
    roads = [*_areas(nusc_map, 'road_segment'), *_areas(nusc_map, 'lane')]
    lines = {
        **dividers,
        'divider': [line for each in dividers.values() for line in each],
        'road_boundary': rims(shapely.union_all(roads)),
        'ped_crossing_line': [side for area in crossings for side in crossing_lines(area)],
    }
    return outlines(
        layers,
        areas={
            name: [part for polygon in each for part in cut_up(polygon)]
            for name, each in areas.items()
            if name in layers
        },
        lines={name: each for name, each in lines.items() if name in layers},
    )


def rims(area: Any) -> list[Array]:
    """Return outlines and holes of polygons as closed lines (M, 2)."""
    polygons = (part for part in shapely.get_parts(area) if part.geom_type == 'Polygon')
    return [
        np.asarray(ring.coords)[:, :2]
        for polygon in polygons
        for ring in (polygon.exterior, *polygon.interiors)
    ]


def _areas(nusc_map: Any, layer: str) -> Iterator[Any]:
    """Yield the polygons of a layer; a record of drivable_area has several."""
    for record in getattr(nusc_map, layer):
        tokens = (
            record['polygon_tokens'] if layer == 'drivable_area' else [record['polygon_token']]
        )
        for token in tokens:
            if len(nusc_map.get('polygon', token)['exterior_node_tokens']) < 3:
                continue
            yield from _valid(nusc_map.extract_polygon(token))


def _valid(polygon: Any) -> Iterable[Any]:
    return _polygons(polygon if polygon.is_valid else shapely.make_valid(polygon))


def cut_up(polygon: Any) -> list[Any]:
    """Return parts of a polygon, none longer or wider than 100 m."""
    x0, y0, x1, y1 = polygon.bounds
    if max(x1 - x0, y1 - y0) <= _AREA_M:
        return [polygon]
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    wide = x1 - x0 > y1 - y0
    halves = (
        shapely.box(x0, y0, x if wide else x1, y1 if wide else y),
        shapely.box(x if wide else x0, y0 if wide else y, x1, y1),
    )
    parts = (part for half in halves for part in _polygons(polygon.intersection(half)))
    return [small for part in parts for small in cut_up(part)]


def _polygons(shape: Any) -> list[Any]:
    """Return the polygons of a shape; what has no area is left out."""
    found = []
    for part in shapely.get_parts(shape):
        if part.geom_type == 'Polygon':
            found += [] if part.is_empty else [part]
        elif part.geom_type == 'MultiPolygon':
            found += _polygons(part)
    return found


def _lines(nusc_map: Any, layer: str) -> Iterator[Array]:
    """Yield the lines of a layer, (M, 2)."""
    for record in getattr(nusc_map, layer):
        token = record['line_token']
        # shapely 2 makes no line of a single node, which some records have
        if len(nusc_map.get('line', token)['node_tokens']) > 1:
            yield np.asarray(nusc_map.extract_line(token).coords)[:, :2]


def _devkit() -> Any:
    """Return NuScenesMap. Its import would change the style of matplotlib's pictures."""
    try:
        import matplotlib

        with matplotlib.rc_context():
            from nuscenes.map_expansion.map_api import NuScenesMap
    except ImportError as error:
        raise ConfigError(
            f'nuScenes-format maps need its devkit ({error}); make env-train installs it'
        ) from error
    return NuScenesMap
