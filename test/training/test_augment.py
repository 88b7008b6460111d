"""Whatever augmentation does, a point of the scene stays on its pixels and in its cells."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_perception.errors import ConfigError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.preprocess import prepare, to_pinhole
from bev_perception.views import ViewSet
from bev_training.data.augment import augment, augment_decode_size_px, drop_cameras, vary_view
from bev_training.data.moves import ego_move, move_boxes, move_labels, move_points
from bev_training.data.photometric import color_matrix, vary_colors
from bev_training.data.sample import LabelGrids, read_sample
from bev_training.fit.settings import AugmentConfig
from test.factories import look, make_camera, make_image, make_view
from test.training.fake_source import make_fake_model, make_fake_source, under_box

NOTHING = AugmentConfig(
    resize=(1, 1), crop_share=0, brightness=0, contrast=0, saturation=0, hue_deg=0,
    flip_x=0, flip_y=0,
)  # fmt: skip
GEOMETRY = replace(NOTHING, resize=(0.7, 1.3), crop_share=0.3)
SYMMETRIC = BevGrid(x_range_m=(-8, 8), y_range_m=(-10, 10), cell_m=0.5, z_cells=1)
LENSES = {
    'pinhole': {},
    'plumb_bob': {'model': 'plumb_bob', 'D': (-0.2, 0.05, 0.001, -0.001, 0)},
    'equidistant': {'model': 'equidistant', 'D': (0.01, 0, 0, 0)},
    'rectified': {'rect_T_cam': look(3.0, 2.0) @ rigid.inverse(look())},
}
seeds = st.integers(0, 10_000)


def read(i=0, **values):
    return read_sample(make_fake_source(**values), i, points=True)


def where_image(size_px):
    """An image whose red and green tell where a pixel was: u and v over width and height."""
    u, v = np.meshgrid(np.arange(size_px[0]), np.arange(size_px[1]))
    red, green = 250 * (u + 0.5) / size_px[0], 250 * (v + 0.5) / size_px[1]
    return np.stack([red, green, np.full_like(red, 200)], -1).round().astype(np.uint8)


def value_at(image, uv):
    maps = np.asarray(uv, np.float32)[None]
    return cv2.remap(image.astype(np.float32), maps, None, cv2.INTER_LINEAR)[0]


def seen_points(view, count, seed):
    """Points that the view sees well inside its image, ego frame."""
    rng = np.random.default_rng(seed)
    uv = rng.uniform([6, 6], np.array(view.camera.size_px) - 7, (count, 2))
    rays = view.camera.unproject(uv) * rng.uniform(3, 30, (count, 1))
    return rigid.transform_points(view.ego_T_cam, rays)


@pytest.mark.parametrize('lens', LENSES)
def test_a_point_of_the_scene_stays_on_its_pixels(lens):
    size_px, checked = (320, 180), 0
    camera = make_camera(size_px, **LENSES[lens])
    view = make_view(camera, where_image(size_px), ego_T_cam=look(30, 5, (1, 0.5, 1.6)))
    config = replace(GEOMETRY, flip_x=0.5, flip_y=0.5, yaw_deg=90)
    model = make_fake_model(image_size_px=(160, 88))
    points = seen_points(view, 200, 0)
    cam_points = rigid.transform_points(rigid.inverse(view.ego_T_cam), points)
    uv, seen = camera.project(cam_points)
    assert seen.all()
    for seed in range(12):
        sample = replace(
            read(), view_set=ViewSet(stamp_ns=1, views=(view,)), points_m=points.astype('f4')
        )
        out = augment(sample, config, model, np.random.default_rng(seed))
        (new,) = out.view_set.views
        there = rigid.transform_points(rigid.inverse(new.ego_T_cam), out.points_m)
        new_uv, seen = new.camera.project(there)
        values = value_at(new.image, new_uv)
        inside = seen & (values[:, 2] > 199)  # black beyond the old image's rim
        checked += inside.sum()
        expected = 250 * (uv + 0.5) / size_px
        assert np.abs(values[inside, :2] - expected[inside]).max() < 2.5  # of 250 over 320 px
        assert np.abs((values[inside, :2] - expected[inside]).mean(0)).max() < 0.3
    assert checked > 600


def test_black_lies_only_beyond_the_rim_of_the_image():
    view = make_view(make_camera((320, 180)), where_image((320, 180)))
    config = replace(NOTHING, resize=(0.5, 0.5), crop_share=0.5)
    blacks = []
    for seed in range(10):
        new = vary_view(view, config, (160, 88), np.random.default_rng(seed))
        rays = new.camera.unproject(np.stack(np.meshgrid(range(160), range(88)), -1).astype(float))
        _, inside = view.camera.resized((80, 45)).project(rays)
        np.testing.assert_array_equal(new.image[..., 2] > 0, inside)
        blacks.append((~inside).mean())
    assert 0.7 < min(blacks) < max(blacks) < 1


@pytest.mark.parametrize('size_px', [(64, 48), (96, 32)])
def test_a_crop_that_is_moved_finds_what_the_network_does_not_see_otherwise(size_px):
    """The sky of a high image and the sides of a wide one are cut off, but they are there."""
    view = make_view(make_camera(size_px), where_image(size_px))
    # The part that is cut off at the top, or at each side, is 16 pixels.
    config, rows, columns = replace(NOTHING, crop_share=0.5), set(), set()
    for seed in range(40):
        new = vary_view(view, config, (64, 32), np.random.default_rng(seed))
        left, top = (view.camera.K - new.camera.K)[:2, 2].round().astype(int)
        whole = np.pad(view.image, ((16, 16), (16, 16), (0, 0)))
        expected = whole[16 + top : 48 + top, 16 + left : 80 + left]
        np.testing.assert_array_equal(new.image, expected)
        rows.add(top)
        columns.add(left)
    assert min(rows) >= size_px[1] - 32 - 16 and min(columns) >= (size_px[0] - 64) // 2 - 16
    assert max(rows) - min(rows) > 24 and max(columns) - min(columns) > 24


@pytest.mark.parametrize('size_px', [(64, 32), (97, 61), (193, 120), (50, 41), (31, 90)])
def test_zeros_leave_everything_as_it_was(size_px):
    sample, model = read(size_px=size_px), make_fake_model()
    out = augment(sample, NOTHING, model, np.random.default_rng(0))
    assert out.labels is sample.labels and out.boxes is sample.boxes
    assert out.points_m is sample.points_m
    assert out.view_set.missing == ()
    for old, new in zip(sample.view_set.views, out.view_set.views, strict=True):
        image, camera, ego_T_cam = to_pinhole(old, model.image_size_px)
        np.testing.assert_array_equal(new.image, image)
        np.testing.assert_array_equal(new.ego_T_cam, ego_T_cam)
        np.testing.assert_allclose(new.camera.K, camera.K, rtol=0, atol=1e-12)


@pytest.mark.parametrize('lens', LENSES)
def test_prepare_has_nothing_left_to_do(lens):
    model = make_fake_model()
    views = tuple(
        make_view(make_camera((97, 61), **LENSES[lens]), name=name) for name in ('front', 'back')
    )
    sample = replace(read(), view_set=ViewSet(stamp_ns=1, views=views))
    config = replace(GEOMETRY, brightness=0.3, flip_x=1)
    out = augment(sample, config, model, np.random.default_rng(1))
    inputs = prepare(out.view_set, model)
    for i, view in enumerate(out.view_set.views):
        assert view.camera.size_px == model.image_size_px
        pixels = ((inputs.images[0, i] * 0.5 + 0.5) * 255).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(pixels, view.image, atol=1e-3)
        np.testing.assert_allclose(inputs.K[0, i], view.camera.K, rtol=1e-6)
        np.testing.assert_allclose(inputs.ego_T_cam[0, i], view.ego_T_cam, atol=1e-6)


def test_each_camera_draws_its_own_size_and_crop():
    out = augment(read(), GEOMETRY, make_fake_model(), np.random.default_rng(0))
    assert len({view.camera.K[0, 0] for view in out.view_set.views}) == 6
    assert len({view.camera.K[1, 2] for view in out.view_set.views}) >= 4


@given(seeds, st.booleans(), st.booleans())
def test_points_in_positive_cells_stay_in_them_when_the_grid_is_mirrored(seed, flip_x, flip_y):
    source = make_fake_source(seed + 1, grid=SYMMETRIC)
    labels, points, boxes = source.labels(seed), source.points(seed), source.boxes(seed)
    new_T_old = ego_move(flip_x=flip_x, flip_y=flip_y)
    new, moved = move_labels(labels, SYMMETRIC, new_T_old), move_points(points, new_T_old)
    # A point on a border of cells belongs to the upper one on both sides.
    cells = (points.astype(float)[:, :2] - (-8, -10)) / 0.5
    clear = (np.abs(cells - cells.round()) > 1e-4).all(1)
    before, after = at_points(labels, points[clear]), at_points(new, moved[clear])
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert clear.sum() > 10 and new.known.all()
    for n in range(len(boxes.names)):
        turned = move_boxes(boxes, new_T_old)
        assert under_box(turned, n, moved[10 * n : 10 * n + 10, :2].astype(float)).all()
        np.testing.assert_array_equal(turned.size_m, boxes.size_m)


def at_points(labels, points, grid=SYMMETRIC):
    index, _ = grid.xyz_to_index(np.concatenate([points[:, :2], np.zeros((len(points), 1))], 1))
    inside = ((index[:, 1:] >= 0) & (index[:, 1:] < labels.known.shape)).all(1)
    _, y, x = index[inside].T
    return labels.positive[:, y, x], labels.hidden[:, y, x], labels.known[y, x]


@given(seeds, st.floats(-180, 180), st.booleans())
def test_a_turn_moves_cells_by_less_than_one(seed, yaw_deg, flip_x):
    """Middles of cells deep inside an area or outside of it keep their label."""
    source = make_fake_source(seed + 1, grid=SYMMETRIC)
    labels = source.labels(seed)
    new_T_old = ego_move(yaw_rad=np.radians(yaw_deg), flip_x=flip_x)
    new = move_labels(labels, SYMMETRIC, new_T_old)
    old_xy = np.pad(SYMMETRIC.cell_centers(), ((0, 0), (0, 0), (0, 1)))
    old = SYMMETRIC.xyz_to_index(old_xy)[0][..., 1:]
    index, _ = SYMMETRIC.xyz_to_index(rigid.transform_points(new_T_old, old_xy))
    y, x = np.moveaxis(index[..., 1:], -1, 0)
    inside = (y >= 0) & (y < 40) & (x >= 0) & (x < 32)
    kernel = np.ones((3, 3), np.uint8)
    for positive, moved in zip(labels.positive, new.positive, strict=True):
        same = cv2.erode(positive.astype('u1'), kernel) == cv2.dilate(
            positive.astype('u1'), kernel
        )
        pick = inside & same
        pick &= new.known[y.clip(0, 39), x.clip(0, 31)]
        assert pick.any()
        r, c = old[pick].T
        np.testing.assert_array_equal(moved[y[pick], x[pick]], positive[r, c])


def test_what_comes_from_outside_the_grid_is_unknown_after_a_turn():
    labels = make_fake_source(grid=SYMMETRIC).labels(0)
    new = move_labels(labels, SYMMETRIC, ego_move(yaw_rad=np.radians(90)))
    y = SYMMETRIC.cell_centers()[..., 1]
    np.testing.assert_array_equal(new.known, np.abs(y) < 8)  # x reaches as far as y did: 8 of 10 m
    assert not new.positive[:, ~new.known].any() and not new.hidden[:, ~new.known].any()
    # A quarter turn to the left: what was ahead (x) is now on the left (y).
    inner = labels.positive[:, 4:36, :]
    np.testing.assert_array_equal(new.positive[:, 4:36], inner.swapaxes(1, 2)[:, :, ::-1])


def test_a_grid_that_is_not_symmetric_is_mirrored_about_the_vehicle():
    grid = make_fake_model().grid  # x from -8 to 12
    labels = make_fake_source().labels(0)
    new = move_labels(labels, grid, ego_move(flip_x=True))
    np.testing.assert_array_equal(new.positive[..., :16], labels.positive[..., 15::-1])
    np.testing.assert_array_equal(new.known[:, 16:], False)
    assert not new.positive[..., 16:].any() and new.known[:, :16].all()


@given(seeds, st.sampled_from([(True, False), (False, True), (True, True)]))
def test_mirrored_twice_is_as_before(seed, flips):
    source = make_fake_source(seed + 1, grid=SYMMETRIC)
    move = ego_move(flip_x=flips[0], flip_y=flips[1])
    labels, boxes = source.labels(seed), source.boxes(seed)
    twice = move_labels(move_labels(labels, SYMMETRIC, move), SYMMETRIC, move)
    for name in ('positive', 'hidden', 'known'):
        np.testing.assert_array_equal(getattr(twice, name), getattr(labels, name))
    again = move_boxes(move_boxes(boxes, move), move)
    np.testing.assert_allclose(again.center_m, boxes.center_m)
    np.testing.assert_allclose(again.yaw_rad, boxes.yaw_rad)


def test_mirrored_left_and_right_is_numpys_flip():
    labels = make_fake_source(grid=SYMMETRIC).labels(0)
    new = move_labels(labels, SYMMETRIC, ego_move(flip_y=True))
    np.testing.assert_array_equal(new.positive, labels.positive[:, ::-1])


def test_a_box_turns_with_its_heading():
    boxes = replace(make_fake_source().boxes(0), yaw_rad=np.radians([30.0, -100.0]))
    turned = move_boxes(boxes, ego_move(yaw_rad=np.radians(20)))
    np.testing.assert_allclose(np.degrees(turned.yaw_rad), [50, -80])
    np.testing.assert_allclose(
        np.degrees(move_boxes(boxes, ego_move(flip_x=True)).yaw_rad), [150, -80]
    )
    np.testing.assert_allclose(
        np.degrees(move_boxes(boxes, ego_move(flip_y=True)).yaw_rad), [-30, 100]
    )


def test_the_vehicles_body_stays_where_it_was_seen_from_the_new_frame():
    sample = read()
    base_T_ego = look(5, 3)
    sample = replace(sample, view_set=replace(sample.view_set, base_T_ego=base_T_ego))
    config = replace(NOTHING, flip_y=1, yaw_deg=40)
    out = augment(sample, config, make_fake_model(), np.random.default_rng(3))
    for old, new in zip(sample.view_set.views, out.view_set.views, strict=True):
        np.testing.assert_allclose(
            out.view_set.base_T_ego @ new.ego_T_cam, base_T_ego @ old.ego_T_cam, atol=1e-12
        )


def test_chance_comes_from_the_generator_alone():
    config = AugmentConfig(yaw_deg=30, drop_camera=0.2, noise=0.05)

    def made(*seed):
        out = augment(read(), config, make_fake_model(), np.random.default_rng(seed))
        views = out.view_set.views
        images = b''.join(view.image.tobytes() for view in views)
        return images, out.labels.positive.tobytes(), b''.join(v.camera.key for v in views)

    assert made(1, 2) == made(1, 2)
    assert all(a != b for a, b in zip(made(1, 2), made(1, 3), strict=True))
    assert all(a != b for a, b in zip(made(1, 2), made(2, 2), strict=True))


@given(seeds, st.sampled_from([0.3, 0.9, 1.0]))
def test_one_camera_always_stays(seed, probability):
    view_set = read(count=1, missing={0: ('back',)}).view_set
    out = drop_cameras(view_set, probability, np.random.default_rng(seed))
    assert out.views
    names = [view.name for view in out.views]
    assert sorted([*names, *out.missing]) == sorted([*make_fake_source().cameras])
    assert out.missing[0] == 'back'
    if probability == 1:
        assert len(names) == 1


def test_cameras_are_lost_as_often_as_asked_for():
    view_set = read().view_set
    rng = np.random.default_rng(0)
    lost = sum(len(drop_cameras(view_set, 0.25, rng).missing) for _ in range(400))
    assert 0.22 < lost / 2400 < 0.28


def test_colours_follow_hand_computed_values():
    gray = np.full((2, 2, 3), 100, np.uint8)
    config = replace(NOTHING, brightness=0.5)
    factor = 1 + 0.5 * np.random.default_rng(0).uniform(-1, 1, 4)[0]
    bright = vary_colors(gray, config, np.random.default_rng(0))
    assert np.abs(bright - 100 * factor).max() <= 0.51
    # Half a turn of hue maps a colour to the opposite one of the same luma.
    luma = np.array([0.299, 0.587, 0.114])
    color = np.array([120.0, 80.0, 60.0])
    opposite = color_matrix(1, 1, np.pi) @ color
    np.testing.assert_allclose(opposite, 2 * luma @ color - color, atol=0.1)
    np.testing.assert_allclose(color_matrix(1, 0, 0.3) @ color, luma @ color, atol=0.05)
    for saturation, hue in ((1.3, 0.2), (0.7, -1)):
        np.testing.assert_allclose(color_matrix(1, saturation, hue) @ np.ones(3), 1, atol=1e-3)


def test_contrast_keeps_the_mean_and_spreads_the_rest():
    image = make_image((64, 32)) // 2 + 64
    out = vary_colors(image, replace(NOTHING, contrast=0.3), np.random.default_rng(4))
    factor = 1 + 0.3 * np.random.default_rng(4).uniform(-1, 1, 4)[1]
    luma = np.array([0.299, 0.587, 0.114])
    assert abs((out @ luma).mean() - (image @ luma).mean()) < 0.3
    assert (out @ luma).std() / (image @ luma).std() == pytest.approx(factor, abs=0.01)


def test_noise_has_the_drawn_strength_and_padding_stays_black():
    view = make_view(make_camera((64, 32)), np.full((32, 64, 3), 128, np.uint8))
    config = replace(NOTHING, resize=(0.5, 0.5), noise=0.1, contrast=0.5, brightness=0.5)
    new = vary_view(view, config, (64, 32), np.random.default_rng(0))
    assert (new.image == 0).all(-1).sum() == 64 * 32 * 3 / 4
    flat = vary_colors(view.image, replace(NOTHING, noise=0.1), np.random.default_rng(1))
    rng = np.random.default_rng(1)
    rng.uniform(-1, 1, 4)
    assert flat.std() == pytest.approx(rng.uniform(0, 25.5), rel=0.05)


def test_images_are_decoded_large_enough_for_the_largest_draw():
    model = make_fake_model()
    assert augment_decode_size_px(AugmentConfig(resize=(0.8, 1.25)), model) == (128, 64)
    assert augment_decode_size_px(AugmentConfig(resize=(0.8, 2.51)), model) == (161, 81)


def test_labels_keep_their_classes():
    labels = LabelGrids(
        classes=('a',),
        positive=np.zeros((1, 40, 32), bool),
        hidden=np.zeros((1, 40, 32), bool),
        known=np.zeros((40, 32), bool),
    )
    new = move_labels(labels, SYMMETRIC, ego_move(flip_x=True))
    assert new.classes == ('a',) and not new.known.any()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r'augment\.resize is \(1\.2, 0\.8\)'):
        AugmentConfig(resize=(1.2, 0.8))
