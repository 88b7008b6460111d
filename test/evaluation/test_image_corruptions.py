"""Corruptions of one image, against their formulas written out."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from bev_training.evaluation import image_corruptions, weather
from bev_training.evaluation.image_corruptions import (
    blur_along,
    brightness,
    color_quant,
    low_light,
    motion_blur,
)
from bev_training.evaluation.weather import fog, plasma, snow
from test.factories import make_image

OF_IMAGE = {f.__name__: f for f in (motion_blur, color_quant, brightness, low_light, fog, snow)}
# By name the table of parameters, one row per severity.
TABLES = {
    'motion_blur': (image_corruptions, '_BLUR_PX'),
    'color_quant': (image_corruptions, '_BITS'),
    'brightness': (image_corruptions, '_BRIGHTER'),
    'low_light': (image_corruptions, '_LOW_LIGHT'),
    'fog': (weather, '_FOG'),
    'snow': (weather, '_SNOW'),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize('name', OF_IMAGE)
def test_a_higher_severity_is_further_from_the_clean_image(name):
    away = np.zeros(3)
    for seed in range(6):
        image = (0.6 * make_image((400, 225), seed) + 20).astype(np.uint8)
        for severity in (1, 2, 3):
            change = OF_IMAGE[name](image, severity, rng(seed)) - image.astype(float)
            # Not its mean: middle and hard snow are equally bright, but not equally rough.
            away[severity - 1] += change.std()
    assert away[0] > 6 and (np.diff(away) > 0.03 * away[0]).all(), away


@pytest.mark.parametrize('name', OF_IMAGE)
def test_every_parameter_has_an_effect(name, monkeypatch):
    image = make_image((400, 225))
    module, table = TABLES[name]
    rows = getattr(module, table)
    assert len(rows) == 3
    for severity, row in enumerate(rows, 1):
        before = OF_IMAGE[name](image, severity, rng())
        parts = row if isinstance(row, tuple) else (row,)
        for i, value in enumerate(parts):
            other = value // 2 if isinstance(value, int) else 0.6 * value
            changed = (*parts[:i], other, *parts[i + 1 :])
            several = [*rows]
            several[severity - 1] = changed if isinstance(row, tuple) else changed[0]
            monkeypatch.setattr(module, table, several)
            after = OF_IMAGE[name](image, severity, rng())
            assert not np.array_equal(before, after), (severity, i, value)
        monkeypatch.setattr(module, table, rows)


@pytest.mark.parametrize('name', OF_IMAGE)
@pytest.mark.parametrize('severity', [1, 2, 3])
def test_a_scene_looks_the_same_however_far_its_image_was_shrunk_before(name, severity):
    full = cv2.resize(make_image((160, 90), 3), (1600, 900), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(full, (400, 225), interpolation=cv2.INTER_AREA)
    after = cv2.resize(
        OF_IMAGE[name](full, severity, rng()), (400, 225), interpolation=cv2.INTER_AREA
    )
    before = OF_IMAGE[name](small, severity, rng())
    change = difference(after, small)
    # Noise of the sensor is drawn per pixel, so there only its strength can be the same.
    if name == 'low_light':
        assert difference(cv2.blur(before, (25, 25)), cv2.blur(after, (25, 25))) < 4
        noise = [(x.astype(float) - cv2.GaussianBlur(x, (0, 0), 4)).std() for x in (before, after)]
        assert noise[0] == pytest.approx(noise[1], rel=0.2)
    else:
        assert difference(before, after) < 0.1 * change + 1, change


def test_a_blur_is_as_long_as_the_image_is_large():
    for width in (1600, 800, 400):
        image = np.zeros((width // 4, width), np.float32)
        image[width // 8, width // 2] = 1
        row = blur_along(image, 20, 15.0, 0.0)[width // 8]
        lit = np.flatnonzero(row > 1e-6)
        assert np.ptp(lit) == pytest.approx(40 * width / 1600, abs=1)
        assert lit.max() == width // 2  # and lies on one side of where the point was


@pytest.mark.parametrize('angle_deg', [-45.0, -20.0, 0.0, 33.0, -110.0])
def test_a_blur_equals_a_sum_of_moved_images(angle_deg):
    image = make_image((1600, 40)).astype(np.float32)
    radius, sigma = 12, 8.0
    weight = np.array([math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)])
    v, u = np.mgrid[0:40, 0:1600].astype(np.float32)
    wanted = np.zeros_like(image)
    for i, share in enumerate(weight / weight.sum()):
        dx = np.float32(i * math.cos(math.radians(angle_deg)))
        dy = np.float32(i * math.sin(math.radians(angle_deg)))
        wanted += share * cv2.remap(
            image, u + dx, v + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    # cv2.remap knows positions to 1/32 pixel.
    assert np.abs(blur_along(image, radius, sigma, angle_deg) - wanted).max() < 1.5


def test_few_colors_are_the_highest_bits():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for severity, bits in ((1, 4), (2, 3), (3, 2)):
        out = color_quant(image, severity, rng())
        step = 2 ** (8 - bits)
        np.testing.assert_array_equal(out, image // step * step)
        assert len(np.unique(out)) == 2**bits


@pytest.mark.parametrize(('severity', 'added'), [(1, 0.2), (2, 0.4), (3, 0.5)])
def test_brightness_is_the_value_of_hue_saturation_value(severity, added):
    image = make_image((96, 64))
    image[:8] = 0
    image[8:16] = [250, 10, 10]
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + added, 1)
    wanted = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    assert np.abs(brightness(image, severity, rng()) - wanted).max() < 0.6


@pytest.mark.parametrize(
    ('severity', 'bright', 'photons', 'sigma'),
    [(1, 0.4, 120, 0.018), (2, 0.3, 50, 0.026), (3, 0.2, 30, 0.038)],
)
def test_low_light_has_the_mean_and_the_noise_of_photons_and_amplifier(
    severity, bright, photons, sigma
):
    levels = np.linspace(20, 240, 8).round().astype(np.uint8)
    image = np.repeat(levels, 200)[None, :, None].repeat(60, 0).repeat(3, 2)
    out = low_light(image, severity, rng())
    chance = rng(1)
    for i, level in enumerate(levels):
        light = bright * ((float(level) - 20) / 220) ** 2
        counted = chance.poisson(np.full(36000, light * photons)) / photons
        wanted = np.clip(counted + chance.normal(0, sigma, 36000), 0, 1) * 255
        got = out[:, 200 * i : 200 * (i + 1)]
        # Of the darkest levels a part is cut at 0, where the two distributions differ a little.
        assert got.mean() == pytest.approx(wanted.mean(), abs=0.6), level
        assert got.std() == pytest.approx(wanted.std(), rel=0.1), level


def test_a_plasma_equals_the_one_made_cell_by_cell():
    levels, decay = 4, 1.5
    n, chance, height, spread = 2**levels, rng(), {(0, 0): 0.0}, 1.0
    step = n
    while step >= 2:
        half, m = step // 2, n // step

        def noise(m=m, spread=spread):
            return spread * (2 * chance.random((m, m), dtype=np.float32) - 1)

        at = {
            (y, x): (y * step, x * step) for y in range(m) for x in range(m)
        }  # number of a cell -> its corner
        draws = noise()
        for cell, (y, x) in at.items():
            around = [(y, x), (y, x + step), (y + step, x), (y + step, x + step)]
            height[y + half, x + half] = (
                sum(height[a % n, b % n] for a, b in around) / 4 + draws[cell]
            )
        for dy, dx in ((0, half), (half, 0)):
            draws = noise()
            for cell, (y, x) in at.items():
                v, u = y + dy, x + dx
                around = [(v - half, u), (v + half, u), (v, u - half), (v, u + half)]
                height[v, u] = sum(height[a % n, b % n] for a, b in around) / 4 + draws[cell]
        step, spread = half, spread / decay**2
    wanted = np.array([[height[y, x] for x in range(n)] for y in range(n)])
    wanted = (wanted - wanted.min()) / np.ptp(wanted)
    np.testing.assert_allclose(plasma(levels, decay, rng()), wanted, atol=1e-5)


@pytest.mark.parametrize(('severity', 'decay'), [(1, 2.0), (2, 1.5), (3, 1.4)])
def test_levels_of_a_plasma_that_fog_leaves_out_would_change_it_by_half_a_grey_level(
    severity, decay
):
    every, kept = plasma(11, decay, rng()), plasma(9, decay, rng())
    inner = cv2.warpAffine(  # between the nodes that both have
        kept, np.array([[0.25, 0, 0], [0, 0.25, 0]]), (2000, 2000),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )  # fmt: skip
    assert np.abs(every[:2000, :2000] - inner).mean() * 255 * 0.75 < 0.5


def test_fog_is_the_formula_of_its_cloud():
    image = make_image((1600, 40))
    cloud = plasma(9, 1.4, rng())
    haze = cv2.resize(cloud[:10, :400], (1600, 40), interpolation=cv2.INTER_LINEAR)
    highest = image.max() / 255
    wanted = (image / 255 + 3.0 * haze[..., None]) * highest / (highest + 3.0)
    assert np.abs(fog(image, 3, rng()) - 255 * wanted.clip(0, 1)).max() < 0.6


@pytest.mark.parametrize(
    ('severity', 'mean', 'spread', 'size', 'threshold', 'radius', 'sigma', 'blend'),
    [
        (1, 0.1, 0.3, 3, 0.5, 10, 4.0, 0.8),
        (2, 0.2, 0.3, 2, 0.5, 12, 4.0, 0.7),
        (3, 0.55, 0.3, 4, 0.9, 12, 8.0, 0.7),
    ],
)
def test_snow_is_the_formula_at_the_reference_size(
    severity, mean, spread, size, threshold, radius, sigma, blend
):
    image = make_image((1600, 36))
    chance = rng()
    angle_deg = chance.uniform(-135, -45)
    noise = mean + spread * chance.standard_normal((36 // size, -(-1600 // size)), np.float32)
    flakes = cv2.resize(noise, (1600, 36), interpolation=cv2.INTER_LINEAR)
    flakes = np.where(flakes > threshold, flakes, 0).clip(0, 1).astype(np.float32)
    flakes = np.round(255 * blur_along(flakes, radius, sigma, angle_deg)) / 255
    x = image / 255
    grey = x @ [0.299, 0.587, 0.114]
    x = blend * x + (1 - blend) * np.maximum(x, 1.5 * grey[..., None] + 0.5)
    wanted = 255 * (x + flakes[..., None] + np.rot90(flakes, 2)[..., None]).clip(0, 1)
    assert np.abs(snow(image, severity, rng()) - wanted).max() < 2


@pytest.mark.parametrize('name', OF_IMAGE)
@pytest.mark.parametrize('size_px', [(1, 1), (3, 2), (1, 40), (24, 36), (1700, 8)])
@pytest.mark.parametrize('grey', [0, 127, 255])
def test_images_of_any_size_and_of_one_color_stay_images(name, size_px, grey):
    image = np.full((*size_px[::-1], 3), grey, np.uint8)
    for severity in (1, 2, 3):
        out = OF_IMAGE[name](image, severity, rng())
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        assert (image == grey).all()
        if name == 'low_light':  # nothing is brighter than the darkest
            assert out.mean() < 15
    if name in ('motion_blur', 'fog') and grey == 0:
        assert not out.any()


@pytest.mark.parametrize('name', OF_IMAGE)
def test_an_image_whose_pixels_do_not_lie_in_a_row_is_taken_too(name):
    image = make_image((96, 64))
    odd = np.asfortranarray(image)[:, ::-1]
    odd.flags.writeable = False
    one = OF_IMAGE[name](odd, 2, rng())
    np.testing.assert_array_equal(one, OF_IMAGE[name](np.ascontiguousarray(odd), 2, rng()))
