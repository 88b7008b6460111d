"""Pictures of voxels' features: colours, likeness, boxes; from arrays alone."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from bev_perception.errors import BevError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.geometry.grid import BevGrid
from bev_training.qualitative.color_mapping import fit_mapping
from bev_training.qualitative.drawing import choose_samples, choose_voxels
from bev_training.qualitative.sample_voxels import SampleVoxels
from bev_training.qualitative.sheets import draw_features, draw_overview, draw_similarity
from bev_training.qualitative.similarity import (
    car_voxel,
    nearest_voxel,
    road_voxel,
    similarity,
    similarity_colors,
)
from bev_training.qualitative.voxel_drawing import PAPER, draw_above, draw_outside, draw_voxels
from test.factories import look, make_camera, make_view_set
from test.training.fake_source import make_fake_source

GRID = BevGrid(x_range_m=(-12, 12), y_range_m=(-12, 12), z_range_m=(-1, 3), cell_m=0.5, z_cells=4)


def features(count: int = 200, channels: int = 12, seed: int = 0) -> np.ndarray:
    """Three kinds of things, each with a direction of its own and a little noise."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).normal(size=(3, channels)) * 3
    return kinds[np.arange(count) % 3] + rng.normal(0, 0.2, (count, channels))


def box(x: float, y: float, z: float, size=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Indices of the voxels of a box from its lower corner."""
    low, _ = GRID.xyz_to_index(np.array((x, y, z)))
    high, _ = GRID.xyz_to_index(np.array((x, y, z)) + size)
    return np.array(
        [*itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True)))]
    )


def street() -> np.ndarray:
    """Ground around the vehicle, a tall wall, a post, a car at (6, 4) and a farther one."""
    return np.concatenate(
        [
            box(-8, -8, 0, (15.5, 15.5, 0)),
            box(-8, 9, 0, (15, 0.4, 2.9)),  # a wall, up to the grid's top
            box(5, -4, 1, (0.4, 0.4, 0)),  # as high as a car, but half a metre long
            box(4, 3, 1, (4, 1.6, 0)),
            box(-10, -7, 1, (4, 1.6, 0)),
        ]
    )


def sample(key: str = 'drive/000003', **values) -> SampleVoxels:
    index = np.unique(street(), axis=0)
    return SampleVoxels(
        **{
            'key': key,
            'view_set': make_view_set(),
            'grid': GRID,
            'index_zyx': index,
            'features': features(len(index)),
            'probability': np.ones(len(index)),
            'points_m': GRID.index_to_xyz(index).astype(np.float32),
            **values,
        }
    )


def test_alike_features_have_alike_colours_in_other_scenes_too():
    mapping = fit_mapping(features())
    other = mapping.colors(features(seed=1)).astype(float)
    here = mapping.colors(features()).astype(float)
    means = np.stack([[scene[kind::3].mean(0) for kind in range(3)] for scene in (here, other)])
    assert np.abs(means[0] - means[1]).max() < 12  # the same kind, in two scenes
    apart = np.linalg.norm(means[0][:, None] - means[0][None], axis=-1)
    assert apart[np.triu_indices(3, 1)].min() > 100


def test_the_length_of_features_does_not_change_colours():
    whole = features()
    mapping = fit_mapping(whole)
    scales = np.random.default_rng(3).uniform(0.1, 40, (len(whole), 1))
    assert np.array_equal(mapping.colors(whole), mapping.colors(whole * scales))
    assert np.array_equal(fit_mapping(whole * scales).colors(whole), mapping.colors(whole))


def test_colours_are_the_principal_components_of_unit_features():
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(300, 6)) * (9, 4, 2, 0.2, 0.1, 0.1)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    _, singular, axes = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    mapping = fit_mapping(whole)
    assert np.allclose(np.abs((mapping.axes * axes[:3]).sum(1)), 1)
    assert np.allclose(mapping.explained, (singular**2 / (singular**2).sum())[:3])
    assert (np.take_along_axis(mapping.axes, np.abs(mapping.axes).argmax(1)[:, None], 1) > 0).all()
    along = (unit - unit.mean(0)) @ mapping.axes.T
    red = mapping.colors(whole)[:, 0]
    order = np.argsort(along[:, 0])
    assert (np.diff(red[order].astype(int)) >= 0).all() and red.min() == 0 and red.max() == 255


def test_directions_without_a_difference_stay_grey():
    flat = np.zeros((50, 5))
    flat[:, 0] = 1
    flat[:, 1] = np.linspace(-0.1, 0.1, 50)
    colors = fit_mapping(flat).colors(flat)
    assert np.ptp(colors[:, 0]) == 255 and (colors[:, 2] == 128).all()
    assert (fit_mapping(np.ones((1, 4))).colors(np.ones((1, 4))) == 128).all()


@pytest.mark.parametrize('bad', [np.zeros((0, 5)), np.ones((4, 2)), np.full((4, 5), np.nan)])
def test_features_that_have_no_colours_are_refused(bad):
    with pytest.raises(BevError, match='features'):
        fit_mapping(bad)


def test_likeness_is_the_cosine():
    given = np.array([[2.0, 0, 0], [0, 3, 0], [-1, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert np.allclose(similarity(given, np.array([5.0, 0, 0])), [1, 0, -1, 0.5**0.5, 0])


def test_colours_of_likeness_rise_from_dark_to_bright():
    colors = similarity_colors(np.array([-1, 0.2, 0.5, 0.8, 1.0]), 0.2).astype(int)
    brightness = colors.sum(1)
    assert (np.diff(brightness[1:]) > 0).all() and brightness[0] == brightness[1]
    assert similarity_colors(np.empty(0), 0.0).shape == (0, 3)


def test_the_nearest_voxel_to_a_place_is_found_or_said_to_be_missing():
    centers = np.array([[8.0, 0, 0], [10, 3, 0.5], [-4, 0, 0]])
    assert nearest_voxel(centers, (9.5, 2.8, 0.9)) == 1
    with pytest.raises(
        BevError, match=r'voxel 20,0,0: .*within 2 m; the nearest lies at 10,3,0.5'
    ):
        nearest_voxel(centers, (20, 0, 0))
    with pytest.raises(BevError, match='no occupied voxel at all'):
        nearest_voxel(centers[:0], (0, 0, 0))


def test_a_car_is_told_from_walls_posts_and_ground():
    index = np.unique(street(), axis=0)
    centers = GRID.index_to_xyz(index)
    x, y, z = centers[car_voxel(index, GRID)]
    assert 4 <= x <= 8.5 and 3 <= y <= 5 and z == 1.5  # its top, of the nearer one
    assert np.allclose(centers[road_voxel(centers)][:2], (7.75, 0.25), atol=0.51)


def test_where_nothing_is_like_a_car_there_is_none():
    ground_and_wall = np.concatenate(
        [box(-8, -8, 0, (15.5, 15.5, 0)), box(-8, 9, 0, (15, 0, 2.9))]
    )
    assert car_voxel(ground_and_wall, GRID) is None
    assert car_voxel(ground_and_wall[:0], GRID) is None
    assert car_voxel(box(1, -1, 1, (2, 1, 0)), GRID) is None  # the vehicle itself
    alone = sample(index_zyx=ground_and_wall, features=features(len(ground_and_wall)))
    assert [voxel.name for voxel in choose_voxels(alone, ())] == ['on the road']


def test_chosen_voxels_carry_the_feature_of_the_voxel_nearest_to_a_place():
    whole = sample()
    (voxel,) = choose_voxels(whole, [(6.0, 4.0, 1.4)])
    assert np.linalg.norm(voxel.center_m - (6, 4, 1.4)) < 0.5
    assert np.array_equal(voxel.feature, whole.features[voxel.row])
    assert np.array_equal(voxel.center_m, whole.centers_m[voxel.row])


def ray_traced(
    camera: Camera, ego_T_cam: np.ndarray, centers: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """(h, w) which box each pixel's ray meets first, -1 for none: the slow reference."""
    width, height = camera.size_px
    uv = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(float)
    rays = camera.unproject(uv) @ ego_T_cam[:3, :3].T
    eye = ego_T_cam[:3, 3]
    nearest = np.full((height, width), np.inf)
    found = np.full((height, width), -1)
    for i, center in enumerate(centers):
        with np.errstate(divide='ignore', invalid='ignore'):
            a = (center - size / 2 - eye) / rays
            b = (center + size / 2 - eye) / rays
        enter = np.nanmax(np.minimum(a, b), -1)
        leave = np.nanmin(np.maximum(a, b), -1)
        hit = (enter <= leave) & (enter > 0) & (enter < nearest)
        nearest[hit], found[hit] = enter[hit], i
    return found


@pytest.mark.parametrize(
    'ego_T_cam', [look(0, 12, (-6, 0.3, 5)), look(200, 30, (8, 4, 7)), look(70, 0, (0.1, -7, 1.2))]
)
def test_boxes_hide_each_other_as_rays_say(ego_T_cam):
    rng = np.random.default_rng(1)
    index = np.argwhere(rng.random((3, 14, 14)) < 0.25) + (1, 17, 17)
    centers, size = GRID.index_to_xyz(index), np.array((0.5, 0.5, 1.0))
    camera = make_camera((160, 100), fov_deg=80)
    met = ray_traced(camera, ego_T_cam, centers, size)
    paper = np.zeros((100, 160, 3), np.uint8)
    hue = rng.permutation(len(index)) * 179 // len(index)
    hsv = np.stack([hue, np.full(len(hue), 255), np.full(len(hue), 255)], -1).astype(np.uint8)
    colors = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    picture = draw_voxels(paper, camera, ego_T_cam, centers, size, colors)
    drawn = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    # Pixels whose neighbours meet the same box: edges are mixed.
    inner = np.stack([np.roll(met, (a, b), (0, 1)) == met for a in (-1, 0, 1) for b in (-1, 0, 1)])
    inner = inner.all(0)
    inner[[0, -1]] = inner[:, [0, -1]] = False
    hit = inner & (met >= 0)
    assert hit.sum() > 500
    off = np.abs(drawn[hit][:, 0].astype(int) - hue[met[hit]])
    assert (np.minimum(off, 180 - off) <= 1).mean() > 0.995
    assert not picture[inner & (met < 0)].any() or (picture[inner & (met < 0)] == 0).mean() > 0.99


def test_boxes_let_the_image_shine_through_and_leave_it_unchanged():
    camera, ego_T_cam = make_camera((64, 48)), look(0, 0, (0, 0, 0.5))
    image = np.full((48, 64, 3), 200, np.uint8)
    ahead, behind = np.array([[6.25, 0.25, 0.5]]), np.array([[-6.25, 0.25, 0.5]])
    drawn = draw_voxels(image, camera, ego_T_cam, ahead, (2, 2, 1), [(0, 0, 0)], opacity=0.5)
    assert (image == 200).all() and (drawn == 100).all(-1).sum() > 50
    assert (drawn[0] == 200).all()
    assert (draw_voxels(image, camera, ego_T_cam, behind, (2, 2, 1), [(0, 0, 0)]) == 200).all()
    nothing = np.empty((0, 3))
    assert (draw_voxels(image, camera, ego_T_cam, nothing, (1, 1, 1), nothing) == 200).all()


def test_from_above_the_highest_voxel_shows_and_forward_is_up():
    index = np.array([[0, 3, 40], [2, 3, 40], [1, 3, 40], [0, 44, 5]])
    colors = np.array([[10, 0, 0], [20, 0, 0], [30, 0, 0], [40, 0, 0]], np.uint8)
    picture = draw_above(index, GRID, colors)
    assert picture.shape == (48, 48, 3)
    assert picture[47 - 40, 47 - 3, 0] == 20 and picture[47 - 5, 47 - 44, 0] == 40
    assert (picture.reshape(-1, 3) == PAPER).all(1).sum() == 48 * 48 - 2


def test_from_outside_what_is_ahead_is_above_what_is_behind_and_left_is_left():
    def middle(x: float, y: float) -> np.ndarray:
        picture = draw_outside(
            np.array([[x, y, 0.5]]), GRID, [(0, 0, 255)], radius_m=12, size_px=(300, 200)
        )
        # The sides are shades of blue; nothing else is.
        blue = (picture[..., 2] > 120) & (picture[..., 0] < 20)
        assert blue.any()
        return np.argwhere(blue).mean(0)

    assert middle(8, 0)[0] < middle(-8, 0)[0] - 40
    assert middle(0, 6)[1] < 150 < middle(0, -6)[1]
    far = draw_outside(np.array([[30.0, 0, 0]]), GRID, [(0, 0, 255)], radius_m=12)
    assert not ((far[..., 2] > 120) & (far[..., 0] < 20)).any()  # beyond the circle


def test_sheets_show_their_voxels(tmp_path):
    first = sample()
    second = sample('drive/000009', taught=features(len(first.index_zyx), seed=5))
    mapping = fit_mapping(first.features)
    draw_features(tmp_path / 'a.png', first, mapping, radius_m=12, notes='a note')
    draw_features(tmp_path / 'b.png', second, mapping, radius_m=12, notes='a note')
    chosen = choose_voxels(first, ())
    draw_similarity(tmp_path / 'c.png', first, chosen, own=True, radius_m=12, notes='')
    draw_similarity(tmp_path / 'd.png', second, chosen, own=False, radius_m=12, notes='')
    draw_overview(tmp_path / 'e.png', [first, second], mapping, radius_m=12)
    pictures = {p.stem: cv2.imread(str(p)).astype(int) for p in sorted(tmp_path.iterdir())}
    assert all(picture.shape[1] == 1620 for picture in pictures.values())
    assert pictures['b'].shape[0] > 1.4 * pictures['a'].shape[0]  # the teacher's stand below
    paper = np.array(PAPER[::-1])
    for picture in pictures.values():
        assert 0.2 < (np.abs(picture - paper).max(-1) > 20).mean() < 0.95
    mark = np.array((140, 255, 66))  # BGR, of the chosen voxel
    marked = {k: (np.abs(p - mark).max(-1) < 40).sum() for k, p in pictures.items()}
    assert marked['c'] > 2 * marked['d'] + 100


def test_samples_are_chosen_by_name_or_evenly():
    source = make_fake_source(12)
    assert choose_samples(source, (), 3) == [2, 6, 10]
    assert choose_samples(source, (), 40) == list(range(12))
    assert choose_samples(source, ('scene-0001/000005', 'scene-0000/000000'), 2) == [5, 0]
    with pytest.raises(BevError, match=r'--sample x: no such sample; the first is scene-0000/0'):
        choose_samples(source, ('x',), 2)


def test_the_view_from_outside_is_a_proper_camera():
    from bev_training.qualitative.voxel_drawing import outside_view

    camera, ego_T_cam = outside_view(30.0, (1200, 760))
    R = ego_T_cam[:3, :3]
    assert np.allclose(R @ R.T, np.eye(3)) and np.linalg.det(R) > 0
    uv, seen = camera.project(rigid.transform_points(rigid.inverse(ego_T_cam), np.zeros((1, 3))))
    assert seen[0] and abs(uv[0, 0] - 599.5) < 1e-6
