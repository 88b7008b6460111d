"""`sensor_msgs/Image`: every encoding, whichever class holds the message."""

from __future__ import annotations

import array
from types import SimpleNamespace as Plain

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bev_perception import messages
from bev_perception.errors import MessageError

from .makers import (
    BLUE,
    GREEN,
    MOSAICS,
    RED,
    VARIANTS,
    compressed,
    encode,
    header,
    hold,
    image,
    mosaic,
    noise,
    smooth,
    uniform,
)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('step', [None, 40])
def test_colours_by_encoding(variant, step):
    rgb = noise((4, 6, 3))
    alpha = noise((4, 6, 1), 1)
    for encoding, stored in {
        'rgb8': rgb,
        'bgr8': rgb[..., ::-1],
        '8UC3': rgb[..., ::-1],
        'rgba8': np.concatenate([rgb, alpha], -1),
        'bgra8': np.concatenate([rgb[..., ::-1], alpha], -1),
    }.items():
        msg = hold(variant, 'sensor_msgs/msg/Image', image(stored, encoding, step=step))
        got = messages.read_image(msg)
        assert got.dtype == np.uint8 and got.flags.c_contiguous and got.flags.writeable
        np.testing.assert_array_equal(got, rgb, err_msg=encoding)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_gray(variant, encoding):
    gray = noise((3, 5, 1))
    msg = hold(variant, 'sensor_msgs/msg/Image', image(gray, encoding, step=9))
    np.testing.assert_array_equal(messages.read_image(msg), gray.repeat(3, -1))


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('big', [0, 1])
@pytest.mark.parametrize('encoding', ['mono16', 'rgb16', 'bgr16'])
def test_sixteen_bits_keep_the_high_byte(variant, big, encoding):
    channels = 1 if encoding == 'mono16' else 3
    values = np.random.default_rng(3).integers(0, 65536, (3, 5, channels)).astype(np.uint16)
    stored = values.astype('>u2' if big else '<u2').view(np.uint8).reshape(3, 5, 2 * channels)
    msg = hold(variant, 'sensor_msgs/msg/Image', image(stored, encoding, step=34, big=big))
    expected = np.broadcast_to((values >> 8).astype(np.uint8), (3, 5, 3))
    expected = expected[..., ::-1] if encoding == 'bgr16' else expected
    np.testing.assert_array_equal(messages.read_image(msg), expected)


def test_byte_order_means_nothing_for_bytes():
    rgb = noise((2, 2, 3))
    np.testing.assert_array_equal(messages.read_image(image(rgb, 'rgb8', big=1)), rgb)


@pytest.mark.parametrize(
    'data_type', [bytes, bytearray, memoryview, list, lambda b: array.array('B', b)]
)
def test_any_kind_of_byte_field(data_type):
    rgb = noise((4, 6, 3))
    msg = image(rgb, 'rgb8')
    msg.data = data_type(msg.data)
    np.testing.assert_array_equal(messages.read_image(msg), rgb)
    msg = compressed(encode(rgb, '.png'))
    msg.data = data_type(msg.data)
    np.testing.assert_array_equal(messages.read_image(msg), rgb)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8', 'bayer_rggb8'])
def test_the_result_is_independent_of_the_message(encoding):
    msg = image(noise((4, 4, 3 if 'b8' in encoding or 'r8' in encoding else 1)), encoding)
    if encoding == 'bayer_rggb8':
        msg = image(noise((4, 4, 1)), encoding)
    msg.data = np.frombuffer(msg.data, np.uint8).copy()
    got = messages.read_image(msg)
    before = got.copy()
    msg.data[:] = 0
    np.testing.assert_array_equal(got, before)


@settings(max_examples=80, deadline=None)
@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
    padding=st.integers(0, 7),
    cut=st.booleans(),
)
def test_row_padding_never_shows(pixels, padding, cut):
    step = pixels.shape[1] * 3 + padding
    msg = image(pixels, 'rgb8', step=step)
    if cut and padding:  # writers may leave out the padding of the last row
        msg.data = msg.data[:-padding]
    np.testing.assert_array_equal(messages.read_image(msg), pixels)


@pytest.mark.parametrize('pattern', MOSAICS)
@pytest.mark.parametrize('colour', [RED, GREEN, BLUE])
def test_bayer_of_one_colour(pattern, colour):
    rgb = uniform(colour, 10, 12)
    got = messages.read_image(image(mosaic(rgb, pattern), f'{pattern}8', step=20))
    np.testing.assert_array_equal(got, rgb)


@pytest.mark.parametrize('pattern', MOSAICS)
def test_bayer_keeps_positions(pattern):
    rgb = np.empty((32, 48, 3), np.uint8)
    rgb[:16, :24], rgb[:16, 24:], rgb[16:, :24], rgb[16:, 24:] = RED, GREEN, BLUE, (90, 90, 90)
    got = messages.read_image(image(mosaic(rgb, pattern), f'{pattern}8')).astype(int)
    away = np.ones((32, 48), bool)  # bilinear colours mix within two pixels of an edge
    away[14:18] = away[:, 22:26] = False
    np.testing.assert_array_equal(got[away], rgb[away])


@pytest.mark.parametrize('pattern', MOSAICS)
def test_bayer_keeps_sampled_values(pattern):
    """Interpolation leaves what was measured: no shift by a pixel, no filter."""
    rgb = smooth(20, 24)
    raw = mosaic(rgb, pattern)
    got = messages.read_image(image(raw, f'{pattern}8'))
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_array_equal(mosaic(got, pattern)[inner], raw[inner])
    assert np.abs(got.astype(int) - rgb)[inner].mean() < 6


def test_bayer_sixteen_bits():
    rgb = uniform(RED)
    high = mosaic(rgb, 'bayer_grbg')
    stored = np.concatenate([noise(high.shape), high], -1)  # little-endian: low byte first
    np.testing.assert_array_equal(messages.read_image(image(stored, 'bayer_grbg16')), rgb)


# BT.601, video range: rows are Y, U, V
RGB_TO_YUV = [[0.257, 0.504, 0.098], [-0.148, -0.291, 0.439], [0.439, -0.368, -0.071]]


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
def test_yuv_against_the_standard(variant, encoding):
    rgb = smooth(12, 8).repeat(2, axis=1)  # two neighbours share their colour
    yuv = (rgb @ np.transpose(RGB_TO_YUV) + (16, 128, 128)).round().astype(np.uint8)
    u_or_v = np.where(np.arange(16) % 2, yuv[..., 2], yuv[..., 1])
    luma_first = encoding in ('yuv422_yuy2', 'yuyv')
    pair = (yuv[..., 0], u_or_v) if luma_first else (u_or_v, yuv[..., 0])
    msg = hold(variant, 'sensor_msgs/msg/Image', image(np.stack(pair, -1), encoding, step=40))
    assert np.abs(messages.read_image(msg).astype(int) - rgb).max() < 5


def test_yuv_by_hand():
    """BT.601 video range: Y 235 is white, 16 black; U and V sit at 128 in gray."""
    uyvy = np.array([[[128, 235], [128, 16]]], np.uint8)
    expected = [[[255] * 3, [0] * 3]]
    np.testing.assert_array_equal(messages.read_image(image(uyvy, 'yuv422')), expected)
    yuyv = uyvy[..., ::-1]
    np.testing.assert_array_equal(messages.read_image(image(yuyv, 'yuv422_yuy2')), expected)
    red = np.array([[[90, 81], [240, 81]]], np.uint8)  # U, Y, V, Y of full red
    got = messages.read_image(image(red, 'uyvy'))[0, 0]
    assert got[0] > 250 and got[1] < 5 and got[2] < 5


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'encoding': 'nv12'}, ['cam', "'nv12'", 'rgb8', 'bayer_rggb8', 'yuv422']),
        ({'encoding': ''}, ["''", 'known are']),
        ({'encoding': '16UC1'}, ["'16UC1'"]),
        ({'width': 0}, ['0x4']),
        ({'height': 0}, ['6x0']),
        ({'data': bytes(71)}, ['71 bytes', '6x4', '72 bytes needed']),
        ({'data': b''}, ['0 bytes']),
        ({'step': 17}, ['step 17', '6x4 rgb8', '3 bytes per pixel']),
        ({'step': 0}, ['step 0']),
        ({'height': 5}, ['6x5']),
        ({'encoding': 'yuv422', 'width': 5}, ['even width', '5']),
    ],
)
def test_bad_images_say_what_is_wrong(change, words):
    msg = image(noise((4, 6, 3)), 'rgb8')
    vars(msg).update(change)
    with pytest.raises(MessageError) as error:
        messages.read_image(msg)
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_other_messages_are_refused():
    with pytest.raises(MessageError, match='neither an Image nor a CompressedImage'):
        messages.read_image(Plain(header=header()))
