"""The town as nuScenes' map expansion: the devkit's own map class is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from shapely import LineString, MultiPolygon, Point

from bev_training.nuscenes_tables import dumped
from bev_training.synthetic.nuscenes_format.arcs import arc_chain
from bev_training.synthetic.nuscenes_format.map_json import map_expansion
from bev_training.synthetic.nuscenes_format.map_mask import PIXELS_PER_M, drivable_mask
from bev_training.synthetic.town.make import make_town
from bev_training.synthetic.town.town import Town

map_api = pytest.importorskip(
    'nuscenes.map_expansion.map_api', reason='needs requirements/nuscenes.txt'
)
NAME = 'singapore-onenorth'


@pytest.fixture(scope='module')
def town() -> Town:
    return make_town(5, blocks=(3, 3))


@pytest.fixture(scope='module')
def layers(town: Town) -> dict[str, Any]:
    return map_expansion(town, seed=1, name=NAME)


@pytest.fixture(scope='module')
def root(layers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('map')
    (root / 'maps/expansion').mkdir(parents=True)
    (root / f'maps/expansion/{NAME}.json').write_text(dumped(layers))
    return root


@pytest.fixture(scope='module')
def nusc_map(root: Path) -> Any:
    return map_api.NuScenesMap(str(root), NAME)


@pytest.fixture(scope='module')
def lane_tokens(town: Town, layers: dict[str, Any]) -> list[str]:
    """Return the token of every lane of the town, by the order of the layers."""
    lanes, connectors = (
        iter(record['token'] for record in layers[name]) for name in ('lane', 'lane_connector')
    )
    return [next(lanes if lane.road >= 0 else connectors) for lane in town.lanes]


def test_polygons_survive_the_devkit(town: Town, nusc_map: Any) -> None:
    expected = {
        'road_segment': (*town.road_areas, *town.intersections),
        'ped_crossing': town.crossings,
        'stop_line': town.stop_lines,
        'carpark_area': town.carparks,
    }
    for layer, areas in expected.items():
        records = getattr(nusc_map, layer)
        assert len(records) == len(areas) > 0, layer
        for record, area in zip(records, areas, strict=True):
            got = nusc_map.extract_polygon(record['polygon_token'])
            assert got.is_valid
            # outlines keep 5 mm, and nothing is counted that touches in a line only
            assert got.symmetric_difference(area).area < 0.006 * area.length + 1e-6
    for layer, area in (('drivable_area', town.drivable_area), ('walkway', town.walkway)):
        tokens = [
            token
            for record in getattr(nusc_map, layer)
            for token in record.get('polygon_tokens', [record.get('polygon_token')])
        ]
        got = MultiPolygon([nusc_map.extract_polygon(token) for token in tokens])
        assert got.is_valid
        assert got.symmetric_difference(area).area < 0.006 * area.length


@pytest.mark.parametrize('layer', ['drivable_area', 'walkway', 'ped_crossing', 'carpark_area'])
def test_masks_agree_with_the_areas(layer: str, town: Town, nusc_map: Any) -> None:
    areas = {
        'drivable_area': town.drivable_area,
        'walkway': town.walkway,
        'ped_crossing': shapely.union_all(town.crossings),
        'carpark_area': shapely.union_all(town.carparks),
    }
    area = areas[layer]
    middle = np.asarray(
        (town.carparks[0] if layer == 'carpark_area' else town.crossings[0]).centroid.coords[0]
    )
    size_m, cell_m, angle = 50.0, 0.1, 33.0  # small cells: the devkit's masks are half a cell fat
    got = mask_at(nusc_map, layer, middle, angle, size_m, cell_m)
    centres = cell_centres(middle, angle, size_m, cell_m)
    wanted = shapely.contains_xy(area, centres[..., 0], centres[..., 1])
    assert 0.002 < wanted.mean() < 0.99
    differs = got != wanted
    assert differs.mean() < 0.01
    away = shapely.distance(area.boundary, shapely.points(centres[differs]))
    assert (away < 1.42 * cell_m).all()  # the devkit rounds corners to whole cells


def test_lanes_are_found_where_they_are(town: Town, nusc_map: Any, lane_tokens: list[str]) -> None:
    roads = [number for number, lane in enumerate(town.lanes) if lane.road >= 0]
    for number in roads[::5]:
        lane = town.lanes[number]
        x, y = lane.line[len(lane.line) // 2]
        found = nusc_map.layers_on_point(x, y)
        assert found['lane'] == lane_tokens[number]
        assert found['drivable_area']
        assert found['road_segment'] == nusc_map.road_segment[lane.road]['token']
        assert found['road_block']
        assert not found['walkway']
        assert nusc_map.get_closest_lane(x, y, radius=2) == lane_tokens[number]


def test_connectors_are_found_in_intersections(
    town: Town, nusc_map: Any, lane_tokens: list[str]
) -> None:
    straight = next(
        number for number, lane in enumerate(town.lanes) if lane.road < 0 and lane.turn == 'right'
    )
    line = town.lanes[straight].line
    x, y = line[len(line) // 2]
    found = nusc_map.layers_on_point(x, y, ['road_segment', 'lane'])
    assert nusc_map.get('road_segment', found['road_segment'])['is_intersection']
    assert found['lane'] == ''
    near = nusc_map.get_records_in_radius(x, y, 1.0, ['lane_connector'])['lane_connector']
    assert lane_tokens[straight] in near


def test_arcs_follow_the_centre_lines(town: Town, nusc_map: Any, lane_tokens: list[str]) -> None:
    poses = nusc_map.discretize_lanes(lane_tokens, 0.5)
    for lane, token in zip(town.lanes, lane_tokens, strict=True):
        points = np.array(poses[token])
        line, arcs = LineString(lane.line), LineString(points[:, :2])
        assert max(line.distance(Point(point)) for point in points[:, :2]) < 0.05
        assert max(arcs.distance(Point(point)) for point in lane.line) < 0.05
        np.testing.assert_allclose(points[[0, -1], :2], lane.line[[0, -1]], atol=1e-6)
        ahead = lane.line[-1] - lane.line[-2]
        wanted = np.arctan2(ahead[1], ahead[0])
        assert abs((points[-1, 2] - wanted + np.pi) % (2 * np.pi) - np.pi) < 0.1


def test_arcs_of_a_circle_and_of_a_straight_line() -> None:
    angle = np.linspace(0, np.pi / 2, 60)
    right = np.stack([np.sin(angle), np.cos(angle)], -1) * 9
    pieces = arc_chain(right)
    assert {piece['shape'] for piece in pieces} == {'RSL'}
    assert [piece['radius'] for piece in pieces] == pytest.approx([9] * len(pieces), rel=1e-3)
    assert sum(sum(piece['segment_length']) for piece in pieces) == pytest.approx(
        9 * np.pi / 2, rel=1e-4
    )
    (piece,) = arc_chain(np.linspace((1, 2), (31, 42), 101))
    assert piece['segment_length'] == pytest.approx([0, 50, 0])
    assert piece['start_pose'] == pytest.approx([1, 2, np.arctan2(4, 3)])


def test_lanes_continue_as_in_the_town(town: Town, nusc_map: Any, lane_tokens: list[str]) -> None:
    for lane, token in zip(town.lanes, lane_tokens, strict=True):
        wanted = [lane_tokens[number] for number in lane.successors]
        assert nusc_map.get_outgoing_lane_ids(token) == wanted
        for successor in wanted:
            assert token in nusc_map.get_incoming_lane_ids(successor)
            ends = nusc_map.get_arcline_path(token)[-1]['end_pose']
            begins = nusc_map.get_arcline_path(successor)[0]['start_pose']
            assert ends[:2] == pytest.approx(begins[:2], abs=1e-6)


def test_neighbours_share_the_nodes_of_their_edge(
    town: Town, layers: dict[str, Any], lane_tokens: list[str]
) -> None:
    polygons = {record['token']: record for record in layers['polygon']}
    lines = {record['token']: set(record['node_tokens']) for record in layers['line']}
    nodes = {
        record['token']: set(polygons[record['polygon_token']]['exterior_node_tokens'])
        for name in ('lane', 'lane_connector')
        for record in layers[name]
    }
    edges = {record['token']: lines[record['to_edge_line_token']] for record in layers['lane']}
    shared = [
        edges[token] <= nodes[lane_tokens[lane.successors[0]]]
        for lane, token in zip(town.lanes, lane_tokens, strict=True)
        if lane.road >= 0 and lane.successors
    ]
    assert len(shared) > 10
    assert np.mean(shared) > 0.9  # a connector too tight for its width is drawn differently


def test_devkit_finds_what_comes_after_a_lane(
    town: Town, nusc_map: Any, lane_tokens: list[str]
) -> None:
    found = []
    for lane in town.lanes:
        if lane.road < 0 or not lane.successors:
            continue
        x, y = lane.line[len(lane.line) // 2]
        after = nusc_map.get_next_roads(x, y)['road_segment']
        node = town.lanes[lane.successors[0]].node
        found.append(after == [nusc_map.road_segment[len(town.roads) + node]['token']])
    assert np.mean(found) > 0.9


def test_lines_keep_their_course(town: Town, nusc_map: Any) -> None:
    for layer, lines in (
        ('road_divider', town.road_dividers),
        ('lane_divider', town.lane_dividers),
    ):
        records = getattr(nusc_map, layer)
        assert len(records) == len(lines) > 0
        for record, line in zip(records, lines, strict=True):
            got = nusc_map.extract_line(record['line_token'])
            assert got.hausdorff_distance(LineString(line)) < 0.01
    kinds = {
        segment['segment_type']
        for record in nusc_map.lane_divider
        for segment in record['lane_divider_segments']
    }
    assert kinds == {'DOUBLE_DASHED_WHITE'}
    sides = {
        segment['segment_type']
        for record in nusc_map.lane
        for segment in record['left_lane_divider_segments']
    }
    assert sides == {'SINGLE_SOLID_WHITE', 'DOUBLE_DASHED_WHITE', 'DOUBLE_SOLID_WHITE'}


def test_every_reference_resolves(nusc_map: Any) -> None:
    for line in nusc_map.stop_line:
        assert len(line['cue']) == (1 if line['stop_line_type'] == 'PED_CROSSING' else 0)
        nusc_map.get('road_block', line['road_block_token'])
    for crossing in nusc_map.ped_crossing:
        nusc_map.get('road_segment', crossing['road_segment_token'])
    for block in nusc_map.road_block:
        assert not nusc_map.get('road_segment', block['road_segment_token'])['is_intersection']
    for segment in nusc_map.road_segment:
        nusc_map.get('drivable_area', segment['drivable_area_token'])
    for divider in nusc_map.road_divider:
        nusc_map.get('road_segment', divider['road_segment_token'])
    for lane in nusc_map.lane:
        for side in ('left', 'right'):
            assert len(lane[f'{side}_lane_divider_segment_nodes']) > 1
        for end in ('from', 'to'):
            assert nusc_map.extract_line(lane[f'{end}_edge_line_token']).length == pytest.approx(
                3.3, abs=1
            )


def test_tokens_differ_between_maps_and_stay_between_runs(town: Town, root: Path) -> None:
    text = (root / f'maps/expansion/{NAME}.json').read_text()
    assert dumped(map_expansion(town, seed=1, name=NAME)) == text
    other = map_expansion(town, seed=1, name='boston-seaport')
    tokens = {record['token'] for record in json.loads(text)['node']}
    assert len(tokens) == len(other['node'])
    assert not tokens & {record['token'] for record in other['node']}


def test_picture_of_the_drivable_area(town: Town, tmp_path: Path) -> None:
    map_mask = pytest.importorskip('nuscenes.utils.map_mask')
    mask = drivable_mask(town.drivable_area, town.size_m)
    assert mask.shape == tuple(int(np.ceil(edge * PIXELS_PER_M)) for edge in town.size_m[::-1])
    cv2.imwrite(str(tmp_path / 'mask.png'), mask)
    reader = map_mask.MapMask(str(tmp_path / 'mask.png'))
    x, y = np.random.default_rng(3).uniform(5, np.array(town.size_m) - 5, (20_000, 2)).T
    shapely.prepare(town.drivable_area)
    wanted = shapely.contains_xy(town.drivable_area, x, y)
    assert 0.02 < wanted.mean() < 0.6
    differs = reader.is_on_mask(x, y) != wanted
    edge = shapely.distance(town.drivable_area.boundary, shapely.points(x[differs], y[differs]))
    assert differs.mean() < 0.01
    assert (edge < 0.15).all()


def mask_at(
    nusc_map: Any, layer: str, middle: np.ndarray, angle_deg: float, size_m: float, cell_m: float
) -> np.ndarray:
    """Return the devkit's mask (y, x), moved so that its pixels are the cells' centres."""
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x, y = middle + turn @ (cell_m / 2, cell_m / 2)
    cells = round(size_m / cell_m)
    mask = nusc_map.get_map_mask((x, y, size_m, size_m), angle_deg, [layer], (cells, cells))
    return np.asarray(mask[0] > 0)


def cell_centres(middle: np.ndarray, angle_deg: float, size_m: float, cell_m: float) -> np.ndarray:
    """Return (y, x, 2) in the map."""
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    steps = (np.arange(round(size_m / cell_m)) + 0.5) * cell_m - size_m / 2
    return np.stack(np.meshgrid(steps, steps), -1) @ turn.T + middle
