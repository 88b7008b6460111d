"""Sheets of images and grids, for any number of cameras and classes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.label_classes import CLASSES
from bev_training.data.sample import LabelGrids
from bev_training.picture import draw_sheet
from test.factories import make_image

GRID = BevGrid(x_range_m=(-10, 10), y_range_m=(-10, 10), cell_m=1)
RIG = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')


def draw(path, cameras, classes, *, truth: bool = True, notes=('a note',)):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 99, (len(classes), 20, 20)).astype(np.int8)
    cells[:, 15:] = -1
    positive = rng.random(cells.shape) < 0.4
    labels = LabelGrids(
        classes=tuple(classes),
        positive=positive,
        hidden=positive & (rng.random(cells.shape) < 0.1),
        known=rng.random((20, 20)) < 0.95,
    )
    draw_sheet(
        path,
        images={name: make_image((160, 90), i) for i, name in enumerate(cameras)},
        cells=cells,
        labels=labels if truth else None,
        classes=classes,
        grid=GRID,
        notes=notes,
    )
    return cv2.imread(str(path))


def share_of_paper(picture) -> float:
    return float((np.abs(picture.astype(int) - picture[0, 0]).max(-1) < 3).mean())


@pytest.mark.parametrize(
    ('cameras', 'classes', 'truth', 'height'),
    [
        (RIG, CLASSES[:3], True, 1098),  # two rows of images, two of grids
        (('front', 'left', 'rear', 'right'), CLASSES[:1], True, 1098),
        (RIG[:2], CLASSES[:2], False, 805),  # those that are missing have their places
        (RIG, CLASSES[:5], True, 1683),  # two rows of images, four of grids
        ((), CLASSES[:3], True, 587),
        (tuple(f'camera_{i}' for i in range(7)), CLASSES, True, 2524),  # 3 rows; 13 panels in 3
    ],
)
def test_everything_has_its_place(tmp_path, cameras, classes, truth, height) -> None:
    picture = draw(tmp_path / 'new' / 'a.png', cameras, classes, truth=truth)
    assert picture.shape[1] == 1440 and abs(picture.shape[0] - height) <= 3
    assert share_of_paper(picture) < 0.75
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.png']


@pytest.mark.parametrize(('classes', 'truth'), [(3, True), (5, True), (3, False)])
def test_text_stays_on_the_sheet(tmp_path, classes, truth) -> None:
    notes = [
        'Frames in: 432 images in 72 sets; grids out: 47 of each class',
        'Latency, arrival of the stamped image to publication: p50 118 ms, p95 160 ms (network '
        'alone 96 ms)',
        'Sets dropped: 25 while the network was busy (the newest is taken), 0 unusable',
        f'IoU where a camera sees: {", ".join(f"{name} 0.55" for name in CLASSES[:classes])}',
        'Trained on: 50 synthetic drives of `bev synth` and nothing real (1800 steps; the encoder '
        'is from ImageNet)',
    ]
    picture = draw(tmp_path / 'a.png', (), CLASSES[:classes], truth=truth, notes=notes)
    assert share_of_paper(picture[:, -8:]) == share_of_paper(picture[-8:]) == 1


def test_a_camera_without_an_image_says_so(tmp_path) -> None:
    whole = draw(tmp_path / 'a.png', RIG, CLASSES[:1])
    names = tuple(name.upper() for name in RIG if name != 'front')
    part = draw(tmp_path / 'b.png', tuple(f'CAM_{name}' for name in names), CLASSES[:1])
    assert whole.shape == part.shape
    front = slice(30, 240), slice(540, 900)  # in the middle of the upper row
    assert share_of_paper(whole[front]) < 0.1 < 0.9 < share_of_paper(part[front])


def test_a_place_that_cannot_be_written_is_one_line(tmp_path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match=r'file/a.png cannot be written') as error:
        draw(tmp_path / 'file' / 'a.png', RIG[:1], CLASSES[:1])
    assert '\n' not in str(error.value)
