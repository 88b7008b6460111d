"""The privacy hook: loading by name, and that a blurred box tells nothing."""

from __future__ import annotations

import hashlib
import json
import sys

import cv2
import numpy as np
import pytest

from bev_perception.errors import ConfigError
from bev_training.data import privacy
from test.factories import STAMP_NS, make_image

GOOD = """
from dataclasses import dataclass

@dataclass
class Settings:
    value: int = 7

def anonymise(image, camera, stamp_ns):
    image[:] = Settings().value
    return image

NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'my_privacy.py'
    path.write_text(GOOD)
    return path


def plate(text, size_px=(240, 60)):
    """Dark letters on white, as a number plate fills its box."""
    image = np.full((60, 240, 3), 235, np.uint8)
    cv2.putText(image, text, (8, 46), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (20, 20, 20), 4)
    return cv2.resize(image, size_px, interpolation=cv2.INTER_AREA)


def test_a_function_of_a_file(file):
    function = privacy.load_function(f'{file}:anonymise')
    assert (function(make_image(), 'front', 0) == 7).all()


def test_a_file_beside_the_working_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert callable(privacy.load_function('my_privacy.py:anonymise'))


def test_two_files_of_one_name_do_not_mix(file, tmp_path):
    other = tmp_path / 'other' / 'my_privacy.py'
    other.parent.mkdir()
    other.write_text(GOOD.replace('= 7', '= 9'))
    first, second = (privacy.load_function(f'{p}:anonymise') for p in (file, other))
    assert first(make_image(), 'front', 0)[0, 0, 0] == 7
    assert second(make_image(), 'front', 0)[0, 0, 0] == 9


def test_a_function_of_a_package(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.delitem(sys.modules, 'my_privacy', raising=False)
    function = privacy.load_function('my_privacy:anonymise')
    assert function(make_image(), 'front', 0)[0, 0, 0] == 7
    assert privacy.source_sha256('my_privacy:anonymise') == privacy.source_sha256(f'{file}:x')
    monkeypatch.delitem(sys.modules, 'my_privacy')


def test_the_hash_follows_the_file(file):
    name = f'{file}:anonymise'
    before = privacy.source_sha256(name)
    assert before == hashlib.sha256(GOOD.encode()).hexdigest()
    file.write_text(GOOD + '# changed\n')
    assert privacy.source_sha256(name) != before
    assert privacy.source_sha256('builtins:print') == ''


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('anonymise', r'must be like'),
        ('module:', r'must be like'),
        (':function', r'must be like'),
        ('no_such_package.module:function', r'ModuleNotFoundError: No module named'),
        ('{folder}/absent.py:anonymise', r'there is no file .*absent\.py'),
        ('{folder}/my_privacy.py:absent', r"has no 'absent'; it has \['Settings', 'anonymise'"),
        ('{folder}/my_privacy.py:NUMBER', r'is a int, not a function'),
        ('{folder}/my_privacy:anonymise', r'there is no file'),
        ('{folder}/broken.py:f', r'SyntaxError'),
        ('{folder}/failing.py:f', r'RuntimeError: no weights found in x'),
        ('{folder}/leaving.py:f', r'SystemExit'),
        ('{folder}/lacking.py:f', r"No module named 'no_such_detector'"),
    ],
)
def test_what_cannot_be_loaded_gets_one_line(name, words, file):
    folder = file.parent
    (folder / 'broken.py').write_text('def f(:')
    (folder / 'failing.py').write_text("raise RuntimeError('no weights\\nfound in x')")
    (folder / 'leaving.py').write_text('raise SystemExit(3)')
    (folder / 'lacking.py').write_text('import no_such_detector')
    with pytest.raises(ConfigError, match=words) as caught:
        privacy.load_function(name.format(folder=folder))
    assert '\n' not in str(caught.value) and 'privacy' in str(caught.value)


def correlation(a, b):
    a, b = (v.astype(float) - v.mean() for v in (a, b))
    return abs((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum() + 1e-9))


@pytest.mark.parametrize('size_px', [(480, 120), (240, 60), (120, 30), (60, 40), (24, 8)])
def test_letters_in_a_box_are_gone(size_px):
    """Plates whose letters differ become nearly the same picture, without edges."""
    first, second = plate('AB 12345', size_px), plate('XY 98067', size_px)
    box = (0, 0, *size_px)
    blurred = [privacy.blur_boxes(image, [box]) for image in (first, second)]
    assert np.abs(first.astype(int) - second).mean() > 20  # they did differ
    assert np.abs(blurred[0].astype(int) - blurred[1]).mean() < 12
    sigma = size_px[1] / 8  # finer than this lie the strokes
    for before, after in zip((first, second), blurred, strict=True):
        fine = [v.astype(float) - cv2.GaussianBlur(v, (0, 0), sigma) for v in (before, after)]
        assert np.abs(fine[1]).mean() < 0.05 * np.abs(fine[0]).mean()


def test_trying_out_texts_does_not_find_the_right_one():
    """Blurring every guess and comparing: several fit as well as the truth."""
    box = (0, 0, 240, 60)
    truth = privacy.blur_boxes(plate('AB 12345'), [box])
    guesses = [privacy.blur_boxes(plate(f'AB {n}'), [box]) for n in range(12000, 12400, 5)]
    same = [np.abs(guess.astype(int) - truth).max() <= 16 for guess in guesses]
    assert sum(same) > 10


def test_sharpening_brings_no_letters_back():
    image = plate('AB 12345')
    blurred = privacy.blur_boxes(image, [(0, 0, 240, 60)])[..., 0].astype(float)
    sharpened = blurred.copy()
    for _ in range(10):
        sharpened += blurred - cv2.GaussianBlur(sharpened, (0, 0), 10)
    fine = image[..., 0] - cv2.GaussianBlur(image[..., 0].astype(float), (0, 0), 6)
    assert correlation(fine, sharpened) < 0.3


def test_outside_a_box_nothing_changes():
    image = make_image((96, 64))
    before = image.copy()
    result = privacy.blur_boxes(image, [(10.6, 5, 29.2, 25)])
    np.testing.assert_array_equal(image, before)  # the caller's own is left alone
    inside = np.zeros(image.shape[:2], bool)
    inside[5:25, 10:30] = True  # rounded outwards
    np.testing.assert_array_equal(result[~inside], before[~inside])
    assert (result[inside] != before[inside]).any(-1).mean() > 0.9


@pytest.mark.parametrize(
    'box', [(-20, -20, 10, 10), (90, 60, 500, 500), (3, 3, 4, 4), (3, 3, 5, 40), (0, 0, 96, 64)]
)
def test_boxes_at_the_edge_and_tiny_ones(box):
    image = make_image((96, 64))
    result = privacy.blur_boxes(image, [box])
    assert result.shape == image.shape and result.dtype == np.uint8


@pytest.mark.parametrize('box', [(10, 10, 10, 20), (20, 20, 10, 10), (200, 200, 300, 300)])
def test_boxes_without_pixels_change_nothing(box):
    image = make_image((96, 64))
    np.testing.assert_array_equal(privacy.blur_boxes(image, [box]), image)


@pytest.mark.parametrize('box', [(1, 2, 3), (1, 2, 3, float('nan')), (0, 0, float('inf'), 1)])
def test_boxes_that_are_none(box):
    with pytest.raises(ConfigError, match=r'must be left, top, right, bottom'):
        privacy.blur_boxes(make_image(), [box])


def test_boxes_from_a_file(tmp_path):
    path = tmp_path / 'boxes.json'
    boxes = {'back': [[0, 0, 20, 20]], 'front': {str(STAMP_NS): [[5, 5, 30, 30]], '7': []}}
    path.write_text(json.dumps(boxes))
    blur = privacy.blur_from_file(path)
    image = make_image((96, 64))
    for stamp_ns in (1, 2):
        np.testing.assert_array_equal(
            blur(image, 'back', stamp_ns), privacy.blur_boxes(image, [(0, 0, 20, 20)])
        )
    expected = privacy.blur_boxes(image, [(5, 5, 30, 30)])
    np.testing.assert_array_equal(blur(image, 'front', STAMP_NS), expected)
    np.testing.assert_array_equal(blur(image, 'front', 7), image)
    for camera, stamp_ns in (('front', 8), ('left', 7)):  # never taken for an image without boxes
        with pytest.raises(ConfigError, match=f'no boxes for {camera} at {stamp_ns}'):
            blur(image, camera, stamp_ns)


@pytest.mark.parametrize('text', ['{', '[]', None])
def test_a_list_of_boxes_that_cannot_be_read(tmp_path, text):
    path = tmp_path / 'boxes.json'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r'boxes\.json'):
        privacy.blur_from_file(path)


def test_the_documented_example_works(tmp_path, monkeypatch):
    (tmp_path / 'boxes.json').write_text('{"front": [[0, 0, 30, 30]]}')
    (tmp_path / 'my_privacy.py').write_text(
        'from bev_training.data.privacy import blur_from_file\n'
        "anonymise = blur_from_file('boxes.json')\n"
    )
    monkeypatch.chdir(tmp_path)
    function = privacy.load_function('my_privacy.py:anonymise')
    image = make_image((96, 64))
    assert (function(image, 'front', 0) != image).any()
