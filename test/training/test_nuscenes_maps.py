"""Outlines of nuScenes' maps: shapes by hand; `test_nuscenes_samples` has whole maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from shapely import Polygon, box

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_training.data import nuscenes_maps
from bev_training.data.label_classes import CLASSES
from bev_training.data.nuscenes_maps import MAP_CLASSES, NearbyMap, cut_up, map_file, rims
from bev_training.outlines import outlines

GRID = BevGrid(x_range_m=(0, 5), y_range_m=(0, 5), cell_m=1.0)


class TinyMap:
    """What is used of `NuScenesMap`, filled by hand."""

    def __init__(self, **layers: list[Any]) -> None:
        """Each layer is a list of shapes; drivable_area a list of lists of polygons."""
        self.shapes: dict[str, Any] = {}
        for name in (
            'drivable_area', 'walkway', 'ped_crossing', 'carpark_area', 'road_segment', 'lane',
            'road_divider', 'lane_divider',
        ):  # fmt: skip
            setattr(self, name, [self._record(name, n) for n in layers.get(name, [])])

    def _record(self, layer: str, shape: Any) -> dict[str, Any]:
        if layer == 'drivable_area':
            return {'polygon_tokens': [self._token(each) for each in shape]}
        return {('line' if 'divider' in layer else 'polygon') + '_token': self._token(shape)}

    def _token(self, shape: Any) -> str:
        self.shapes[str(len(self.shapes))] = shape
        return str(len(self.shapes) - 1)

    def get(self, layer: str, token: str) -> dict[str, Any]:
        shape = self.shapes[token]
        if layer == 'line':
            return {'node_tokens': list(range(len(shape)))}
        return {'exterior_node_tokens': list(range(len(shape.exterior.coords)))}

    def extract_polygon(self, token: str) -> Polygon:
        return self.shapes[token]

    def extract_line(self, token: str) -> Any:
        from shapely import LineString

        return LineString(self.shapes[token])  # as the devkit's: fails with a single point


def masks(tiny: Any) -> dict[str, np.ndarray]:
    found = nuscenes_maps._outlined(tiny, CLASSES).rasterised(np.eye(4), GRID)
    return dict(zip(CLASSES, found.astype(int), strict=True))


def test_every_polygon_of_a_drivable_area_counts() -> None:
    hole = Polygon(box(0, 0, 3, 3).exterior.coords, [box(1, 1, 2, 2).exterior.coords])
    got = masks(TinyMap(drivable_area=[[hole, box(4, 4, 5, 5)], [box(0, 4, 1, 5)]]))
    assert got['drivable_area'].tolist() == [
        [1, 1, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 1],
    ]
    assert not any(mask.any() for name, mask in got.items() if name != 'drivable_area')


def test_polygon_that_crosses_itself_is_repaired() -> None:
    bow = Polygon([(0, 0), (5, 5), (5, 0), (0, 5)])
    assert not bow.is_valid
    got = masks(TinyMap(walkway=[bow]))['walkway']
    assert got[2, 0] == got[2, 4] == 1  # both wings, of which one is turned around
    assert got[0, 2] == got[4, 2] == 0


def test_rim_of_the_road_is_that_of_segments_and_lanes_together() -> None:
    tiny = TinyMap(
        road_segment=[box(-9, 1.1, 2.5, 3.9)], lane=[box(2.5, 1.1, 9, 3.9), box(1, 2, 3, 3)]
    )
    assert masks(tiny)['road_boundary'].tolist() == [
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],  # no rim where one is joined to the other
        [1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
    ]


def test_dividers_are_both_kinds_and_single_points_are_left_out() -> None:
    tiny = TinyMap(
        road_divider=[[(-1, 0.5), (6, 0.5)], [(3, 3)]], lane_divider=[[(-1, 3.5), (6, 3.5)], []]
    )
    got = masks(tiny)
    assert got['road_divider'].sum(1).tolist() == [5, 0, 0, 0, 0]
    assert got['lane_divider'].sum(1).tolist() == [0, 0, 0, 5, 0]
    np.testing.assert_array_equal(got['divider'], got['road_divider'] | got['lane_divider'])


def test_rims_are_closed_and_have_holes() -> None:
    ring = Polygon(box(0, 0, 9, 9).exterior.coords, [box(1, 1, 2, 2).exterior.coords])
    lines = rims(ring)
    assert len(lines) == 2
    assert all((line[0] == line[-1]).all() for line in lines)


def test_large_areas_are_cut_up_without_a_gap() -> None:
    rng = np.random.default_rng(4)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 300))
    radius = rng.uniform(200, 400, 300)
    star = Polygon(np.stack([np.cos(angle), np.sin(angle)], -1) * radius[:, None] + (700, -900))
    land = star.difference(box(650, -1000, 760, -850))
    parts = cut_up(land)
    assert len(parts) > 30
    for part in parts:
        x0, y0, x1, y1 = part.bounds
        assert max(x1 - x0, y1 - y0) <= 100
    assert sum(part.area for part in parts) == pytest.approx(land.area, rel=1e-9)
    grid = BevGrid(cell_m=0.5)
    whole, small = (outlines(('land',), areas={'land': each}) for each in ([land], parts))
    for _ in range(20):
        pose = upright(rng.uniform(-np.pi, np.pi), rng.uniform(-350, 350, 2) + (700, -900))
        wanted = whole.rasterised(pose, grid)
        np.testing.assert_array_equal(small.near(pose, grid).rasterised(pose, grid), wanted)


def test_nearby_map_is_the_whole_map() -> None:
    rng = np.random.default_rng(5)
    corners = rng.uniform(-400, 400, (80, 1, 2)) + rng.uniform(-30, 30, (80, 3, 2))
    town = outlines(
        ('area', 'line'),
        areas={'area': [Polygon(each) for each in corners]},
        lines={'line': list(rng.uniform(-400, 400, (20, 4, 2)))},
    )
    grid = BevGrid(x_range_m=(-20, 60), y_range_m=(-25, 25), cell_m=0.5)
    nearby, at, filled = NearbyMap(town, grid), np.zeros(2), 0
    for step in range(60):  # small steps, and jumps
        at = at + rng.normal(0, 15, 2) if step % 12 else rng.uniform(-350, 350, 2)
        pose = upright(rng.uniform(-np.pi, np.pi), at)
        wanted = town.rasterised(pose, grid)
        np.testing.assert_array_equal(nearby.rasterised(pose), wanted)
        filled += wanted.any((1, 2)).sum()
    assert filled > 60


def upright(yaw_rad: float, at_m: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    pose[:2, :2], pose[:2, 3] = [[c, -s], [s, c]], at_m
    return pose


def test_missing_map_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='unzip it into') as caught:
        map_file(tmp_path, 'boston-seaport')
    assert str(tmp_path / 'maps/expansion/boston-seaport.json') in str(caught.value)
    assert 'v1.3' in str(caught.value)


def test_reading_maps_leaves_the_style_of_plots_alone() -> None:
    pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')
    before = dict(mpl.rcParams)
    assert nuscenes_maps._devkit().__name__ == 'NuScenesMap'
    assert {k: v for k, v in mpl.rcParams.items() if before[k] != v} == {}


def test_map_classes_are_all_but_the_objects() -> None:
    assert set(CLASSES) - set(MAP_CLASSES) == {'vehicle', 'pedestrian'}
    empty = outlines(MAP_CLASSES)
    assert not empty.rasterised(np.eye(4), GRID).any()
