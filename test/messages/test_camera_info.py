"""`sensor_msgs/CameraInfo`: raw and rectified cameras, lens models, roi and binning."""

from __future__ import annotations

from types import SimpleNamespace as Plain

import cv2
import numpy as np
import pytest

from bev_perception import messages
from bev_perception.errors import CalibrationError
from bev_perception.geometry.camera import Camera

from .makers import NAN, VARIANTS, header, hold

K = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
P = [400.0, 0.0, 300.0, 0.0, 0.0, 410.0, 220.0, 0.0, 0.0, 0.0, 1.0, 0.0]
D5 = [0.1, -0.2, 0.001, 0.002, 0.03]


def roi(x=0, y=0, w=0, h=0):
    return Plain(x_offset=x, y_offset=y, width=w, height=h, do_rectify=False)


def info(**changes):
    fields = {
        'header': header(),
        'height': 480,
        'width': 640,
        'distortion_model': 'plumb_bob',
        'd': D5,
        'k': K,
        'r': np.eye(3).ravel().tolist(),
        'p': P,
        'binning_x': 0,
        'binning_y': 0,
        'roi': roi(),
    }
    return Plain(**{**fields, **changes})


def read(plain, *, rectified=False, variant='plain'):
    msg = hold(variant, 'sensor_msgs/msg/CameraInfo', plain)
    return messages.read_camera(msg, name='front', rectified=rectified)


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_raw_camera_is_k_and_d(variant):
    expected = Camera(K=np.reshape(K, (3, 3)), size_px=(640, 480), model='plumb_bob', D=tuple(D5))
    assert read(info(), variant=variant) == expected


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_rectified_camera_is_p_and_r(variant):
    turn = cv2.Rodrigues(np.array([0.01, -0.02, 0.03]))[0]
    p = np.array(P)
    p[3] = -400.0 * 0.12  # right camera of a stereo pair, 12 cm
    camera = read(info(p=p.tolist(), r=turn.ravel().tolist()), rectified=True, variant=variant)
    assert camera.model == 'pinhole' and camera.size_px == (640, 480)
    np.testing.assert_array_equal(camera.K, p.reshape(3, 4)[:, :3])
    np.testing.assert_allclose(camera.rect_T_cam[:3, :3], turn, atol=1e-15)
    np.testing.assert_allclose(camera.rect_T_cam[:3, 3], [-0.12, 0, 0], atol=1e-15)
    point = np.array([0.3, -0.2, 5.0])
    uvw = p.reshape(3, 4) @ np.append(turn @ point, 1)  # the definition in CameraInfo.msg
    np.testing.assert_allclose(camera.project(point[None])[0][0], uvw[:2] / uvw[2], atol=1e-9)


def test_ros1_spells_the_matrices_in_upper_case():
    plain = info()
    for name in 'dkrp':
        setattr(plain, name.upper(), getattr(plain, name))
        delattr(plain, name)
    assert read(plain) == read(info())
    assert read(plain, rectified=True) == read(info(), rectified=True)


RATIONAL = [0.1, -0.2, 0.001, 0.002, 0.03, 0.2, -0.1, 0.01]


@pytest.mark.parametrize(
    ('name', 'd', 'model', 'expected'),
    [
        ('plumb_bob', D5, 'plumb_bob', D5),
        ('plumb_bob', D5[:4], 'plumb_bob', D5[:4]),
        ('plumb_bob', [0.0] * 5, 'plumb_bob', [0.0] * 5),
        ('plumb_bob', [], 'pinhole', []),
        ('radtan', D5[:4], 'plumb_bob', D5[:4]),
        ('rational_polynomial', RATIONAL, 'rational_polynomial', RATIONAL),
        ('rational_polynomial', [*RATIONAL, *[0.0] * 6], 'rational_polynomial', RATIONAL),
        ('equidistant', D5[:4], 'equidistant', D5[:4]),
        ('equidistant', [*D5[:4], 0.0], 'equidistant', D5[:4]),
        ('equidistant', [0.0] * 4, 'equidistant', [0.0] * 4),
        ('fisheye', D5[:4], 'equidistant', D5[:4]),
        ('KANNALA_BRANDT', D5[:4], 'equidistant', D5[:4]),
        ('', [], 'pinhole', []),
        ('', [0.0] * 5, 'pinhole', []),
        ('none', [], 'pinhole', []),
    ],
)
@pytest.mark.parametrize('variant', ['plain', 'rclpy', 'rosbags from rclpy'])
def test_lens_models(name, d, model, expected, variant):
    camera = read(info(distortion_model=name, d=d), variant=variant)
    assert (camera.model, list(camera.D)) == (model, expected)


@pytest.mark.parametrize('variant', ['plain', 'rosbags', 'rclpy'])
@pytest.mark.parametrize('rectified', [False, True])
def test_roi_then_binning(variant, rectified):
    """The ray through a published pixel is the ray through the centre of the pixels it sums."""
    full = read(info(), rectified=rectified)
    plain = info(roi=roi(100, 40, 300, 201), binning_x=2, binning_y=3)
    camera = read(plain, rectified=rectified, variant=variant)
    assert camera.size_px == (150, 67)
    # Pixel (7, 9) covers columns 100 + 14..15 and rows 40 + 27..29 of the full image.
    np.testing.assert_allclose(
        camera.unproject(np.array([7.0, 9.0])), full.unproject(np.array([114.5, 68.0])), atol=1e-9
    )


def test_binning_cuts_off_a_remainder():
    camera = read(info(binning_x=3, binning_y=1))
    assert camera.size_px == (213, 480)
    expected = read(info()).unproject(np.array([1.0, 5.0]))
    np.testing.assert_allclose(camera.unproject(np.array([0.0, 5.0])), expected, atol=1e-12)


@pytest.mark.parametrize('window', [roi(), roi(0, 0, 640, 480)])
@pytest.mark.parametrize('binning', [0, 1])
def test_the_full_image_in_every_spelling(window, binning):
    assert read(info(roi=window, binning_x=binning, binning_y=binning)) == read(info())


def test_a_roi_without_size_reaches_to_the_edge():
    assert read(info(roi=roi(40, 30))).size_px == (600, 450)


def but(values, index, value):
    return [*values[:index], value, *values[index + 1 :]]


@pytest.mark.parametrize(
    ('change', 'rectified', 'words'),
    [
        ({'k': [0.0] * 9}, False, ['uncalibrated', '0']),
        ({'p': [0.0] * 12}, True, ['uncalibrated', 'P']),
        ({'k': but(K, 2, NAN)}, False, ['K', 'nan', 'finite']),
        ({'k': but(K, 0, float('inf'))}, False, ['K', 'inf']),
        ({'p': but(P, 3, NAN)}, True, ['P', 'nan']),
        ({'p': but(P, 10, 0.0)}, True, ['P']),
        ({'r': [0.0] * 9}, True, ['R', 'rotation']),
        ({'r': [NAN] * 9}, True, ['R', 'nan']),
        ({'d': but(D5, 1, NAN)}, False, ['D', 'nan']),
        ({'d': D5[:3]}, False, ['plumb_bob', '3 coefficients', '4 or 5']),
        ({'d': RATIONAL}, False, ['plumb_bob', '8 coefficients']),
        ({'d': D5, 'distortion_model': 'equidistant'}, False, ['equidistant', '5 coefficients']),
        ({'d': [], 'distortion_model': 'equidistant'}, False, ['equidistant', '0 coefficients']),
        ({'d': D5, 'distortion_model': 'rational_polynomial'}, False, ['5 coefficients', '8']),
        ({'distortion_model': ''}, False, ["''", '0.1', 'plumb_bob']),
        ({'distortion_model': 'ftheta'}, False, ["'ftheta'", 'known are', 'equidistant']),
        ({'width': 0}, False, ['(0, 480)']),
        ({'height': 0}, True, ['(640, 0)']),
        ({'roi': roi(600, 0, 100, 100)}, False, ['roi 100x100', '(600, 0)', '640x480']),
        ({'roi': roi(640, 0)}, False, ['roi']),
        ({'binning_x': 1000}, False, ['binning 1000x1', '640x480']),
    ],
)
@pytest.mark.parametrize('variant', ['plain', 'rosbags', 'rclpy'])
def test_bad_calibrations_say_what_is_wrong(change, rectified, words, variant):
    with pytest.raises(CalibrationError) as error:
        read(info(**change), rectified=rectified, variant=variant)
    assert str(error.value).startswith('front: ') and '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)
