"""The picture of a sample: what it must show can be found in its pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from bev_training.data.augment import augment
from bev_training.data.sample import read_sample
from bev_training.data.sample_picture import box_corners, draw_sample
from bev_training.fit.settings import AugmentConfig
from test.training.fake_source import make_fake_model, make_fake_source


def test_corners_are_those_of_the_box():
    boxes = make_fake_source().boxes(0)
    for corners, center, size, yaw in zip(
        box_corners(boxes), boxes.center_m, boxes.size_m, boxes.yaw_rad, strict=True
    ):
        np.testing.assert_allclose(corners.mean(0), center)
        c, s = np.cos(yaw), np.sin(yaw)
        local = (corners - center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        np.testing.assert_allclose(np.abs(local), np.tile(size / 2, (8, 1)))
        assert len({tuple(np.sign(corner)) for corner in local}) == 8


def test_a_sample_becomes_one_picture(tmp_path):
    source = make_fake_source(1, missing={0: ('back',)})
    sample = read_sample(source, 0, points=True)
    path = tmp_path / 'sample.png'
    draw_sample(path, sample, source.grid, ['a note'])
    picture = cv2.imread(str(path))
    assert picture.shape[1] == 1350
    orange, violet = np.array([0x4D, 0xB7, 0xFF]), np.array([194, 87, 126])  # BGR
    assert (np.abs(picture.astype(int) - orange).max(-1) < 40).sum() > 100  # boxes
    assert (np.abs(picture.astype(int) - violet).max(-1) < 3).sum() > 100  # hidden cells
    assert [p.name for p in tmp_path.iterdir()] == ['sample.png']


def test_an_augmented_sample_shows_its_lidar_in_the_images_and_in_the_grid(tmp_path):
    source, model = make_fake_source(1), make_fake_model()
    sample = augment(
        read_sample(source, 0, points=True),
        AugmentConfig(yaw_deg=180, drop_camera=0),
        model,
        np.random.default_rng(0),
    )
    pictures = []
    for points in (sample.points_m, sample.points_m[:0]):
        draw_sample(tmp_path / 'a.png', replace(sample, points_m=points), source.grid)
        pictures.append(cv2.imread(str(tmp_path / 'a.png')))
    rows = (pictures[0] != pictures[1]).any((1, 2)).nonzero()[0] / len(pictures[0])
    images_end = 5.9 / (5.9 + 4.4)  # of two rows of images above the grids
    assert (rows < images_end).sum() > 5 and (rows > images_end).sum() > 5


def test_a_sample_without_points_boxes_or_cameras_can_be_drawn(tmp_path):
    source = make_fake_source(1, missing={0: tuple(make_fake_source().cameras[1:])})
    sample = read_sample(source, 0)
    draw_sample(tmp_path / 'sample.png', sample, source.grid)
    assert (tmp_path / 'sample.png').stat().st_size > 10_000
