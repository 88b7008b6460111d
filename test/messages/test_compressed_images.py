"""`sensor_msgs/CompressedImage`: codecs, sizes, and damage that must not pass for an image."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bev_perception import images, messages
from bev_perception.errors import MessageError

from .makers import (
    BLUE,
    GREEN,
    MOSAICS,
    RED,
    VARIANTS,
    compressed,
    encode,
    hold,
    image,
    mosaic,
    noise,
    smooth,
    uniform,
)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize(
    'fmt',
    ['jpeg', 'jpg', 'rgb8; jpeg compressed bgr8', 'bgr8; jpeg compressed bgr8', '', 'png', 'h264'],
)
def test_jpeg_whatever_the_format_says(variant, fmt, decoder):
    rgb = uniform(RED, 32, 48)
    msg = hold(variant, 'sensor_msgs/msg/CompressedImage', compressed(encode(rgb), fmt))
    got = messages.read_image(msg)
    assert got.shape == (32, 48, 3) and got.flags.c_contiguous and got.flags.writeable
    assert np.abs(got.astype(int) - rgb).max() < 8


def test_jpeg_decoders_agree():
    data = encode(smooth(45, 61))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(messages.read_image(compressed(data)), expected)


@pytest.mark.parametrize(
    'options',
    [(cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)],
)
def test_jpeg_flavours(options, decoder):
    rgb = smooth(40, 64)
    got = messages.read_image(compressed(encode(rgb, '.jpg', *options)))
    assert np.abs(got.astype(int) - rgb).mean() < 4


def test_gray_jpeg(decoder):
    gray = smooth(40, 64)[..., 0]
    got = messages.read_image(compressed(encode(gray), 'mono8; jpeg compressed '))
    assert (got == got[..., :1]).all() and np.abs(got[..., 0].astype(int) - gray).mean() < 4


def exif(data, orientation):
    """Insert an Exif orientation into a JPEG."""
    tag = struct.pack('<HHIHH', 0x112, 3, 1, orientation, 0)
    body = b'Exif\0\0II*\0' + struct.pack('<IH', 8, 1) + tag + struct.pack('<I', 0)
    return data[:2] + b'\xff\xe1' + struct.pack('>H', len(body) + 2) + body + data[2:]


def test_exif_orientation_does_not_turn_the_image(decoder):
    data = encode(smooth(40, 64))
    expected = messages.read_image(compressed(data))
    turned = exif(data, 6)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (64, 40, 3)
    np.testing.assert_array_equal(messages.read_image(compressed(turned)), expected)


@pytest.mark.parametrize(
    ('size_px', 'at_least_px', 'expected_px'),
    [
        ((640, 480), None, (640, 480)),
        ((640, 480), (640, 480), (640, 480)),
        ((640, 480), (641, 1), (640, 480)),
        ((640, 480), (321, 240), (640, 480)),  # not 400x300, which is 5/8
        ((640, 480), (320, 241), (640, 480)),
        ((640, 480), (320, 240), (320, 240)),
        ((640, 480), (161, 100), (320, 240)),
        ((640, 480), (160, 120), (160, 120)),
        ((640, 480), (80, 60), (80, 60)),
        ((640, 480), (1, 1), (80, 60)),
        ((640, 480), (0, 0), (80, 60)),
        ((1600, 900), (200, 112), (400, 225)),  # 900 / 8 is no whole number
        ((1936, 1216), (200, 100), (242, 152)),
        ((1936, 1208), (400, 200), (484, 302)),
        ((636, 476), (1, 1), (159, 119)),
        ((634, 474), (1, 1), (317, 237)),
        ((633, 475), (1, 1), (633, 475)),
        ((8, 8), (1, 1), (1, 1)),
        ((2, 2), (1, 1), (1, 1)),
    ],
)
def test_jpeg_shrinks_by_whole_factors_only(size_px, at_least_px, expected_px, decoder):
    data = encode(smooth(size_px[1], size_px[0]))
    got = messages.read_image(compressed(data), at_least_px)
    assert (got.shape[1], got.shape[0]) == expected_px


@pytest.mark.parametrize('factor', [2, 4, 8])
def test_a_shrunk_jpeg_lies_where_resized_cameras_expect_it(factor, decoder):
    """A shrunk pixel is the mean of its block: the half-pixel convention of Camera.resized."""
    rgb = smooth(240, 320)
    data = encode(rgb, '.jpg', cv2.IMWRITE_JPEG_QUALITY, 95)
    got = messages.read_image(compressed(data), (320 // factor, 240 // factor))
    full = messages.read_image(compressed(data)).astype(float)
    blocks = full.reshape(240 // factor, factor, 320 // factor, factor, 3).mean((1, 3))
    assert np.abs(got - blocks).mean() < 1


def test_raw_and_png_ignore_the_wanted_size():
    rgb = noise((16, 16, 3))
    for msg in (image(rgb, 'rgb8'), compressed(encode(rgb, '.png'))):
        np.testing.assert_array_equal(messages.read_image(msg, (1, 1)), rgb)


@pytest.mark.parametrize('variant', VARIANTS)
def test_png(variant):
    rgb = noise((6, 5, 3))
    msg = compressed(encode(rgb, '.png'), 'bgr8; png compressed bgr8')
    msg = hold(variant, 'sensor_msgs/msg/CompressedImage', msg)
    np.testing.assert_array_equal(messages.read_image(msg), rgb)


def test_png_kinds():
    rgb, alpha = noise((6, 5, 3)), noise((6, 5, 1), 1)
    bgra = np.concatenate([rgb[..., ::-1], alpha], -1)
    np.testing.assert_array_equal(messages.read_image(compressed(encode(bgra, '.png'))), rgb)
    gray = rgb[..., 0]
    expected = rgb[..., :1].repeat(3, -1)
    np.testing.assert_array_equal(messages.read_image(compressed(encode(gray, '.png'))), expected)
    low = noise((6, 5, 3), 2).astype(np.uint16)
    deep = rgb.astype(np.uint16) * 256 + low
    np.testing.assert_array_equal(messages.read_image(compressed(encode(deep, '.png'))), rgb)
    got = messages.read_image(compressed(encode(deep[..., 0], '.png')))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('pattern', MOSAICS)
@pytest.mark.parametrize('colour', [RED, GREEN, BLUE])
def test_compressed_bayer_mosaics_get_their_colours(pattern, colour, decoder):
    """image_transport compresses a Bayer image as the gray mosaic that it is."""
    rgb = uniform(colour, 16, 24)
    raw = mosaic(rgb, pattern)[..., 0]
    png = compressed(encode(raw, '.png'), f'{pattern}8; png compressed ')
    np.testing.assert_array_equal(messages.read_image(png), rgb)
    deep = compressed(encode(raw.astype(np.uint16) << 8, '.png'), f'{pattern}16; png compressed ')
    np.testing.assert_array_equal(messages.read_image(deep), rgb)
    data = encode(raw, '.jpg', cv2.IMWRITE_JPEG_QUALITY, 100)
    jpeg = compressed(data, f'{pattern}8; jpeg compressed ')
    assert np.abs(messages.read_image(jpeg, (1, 1)).astype(int) - rgb).max() < 8
    # Compressed after its colours were restored, the format names the mosaic all the same.
    colour_png = compressed(encode(rgb, '.png'), f'{pattern}8; png compressed bgr8')
    np.testing.assert_array_equal(messages.read_image(colour_png), rgb)
    colour_jpeg = compressed(encode(rgb), f'{pattern}8; jpeg compressed bgr8')
    assert np.abs(messages.read_image(colour_jpeg).astype(int) - rgb).max() < 8


@pytest.mark.parametrize('options', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
@pytest.mark.parametrize('at_least_px', [None, (1, 1)])
def test_a_truncated_jpeg_is_never_half_an_image(options, at_least_px, decoder):
    data = encode(smooth(120, 160), '.jpg', *options)
    for keep in sorted({*range(0, len(data), 97), 3, 4, 20, *range(len(data) - 12, len(data))}):
        with pytest.raises(MessageError, match='cam: '):
            messages.read_image(compressed(data[:keep]), at_least_px)


def test_a_truncated_jpeg_with_a_thumbnail(decoder):
    """The end marker of an embedded thumbnail does not count."""
    thumbnail = encode(smooth(16, 16))
    data = encode(smooth(120, 160))
    app1 = b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail
    data = data[:2] + app1 + data[2:]
    assert messages.read_image(compressed(data)).shape == (120, 160, 3)
    with pytest.raises(MessageError, match='truncated JPEG'):
        messages.read_image(compressed(data[:-300]))


def test_padding_after_a_jpeg_is_fine(decoder):
    data = encode(smooth(24, 32))
    expected = messages.read_image(compressed(data))
    for tail in (bytes(100), b'\xff' * 7, b'\x11\x22'):
        np.testing.assert_array_equal(messages.read_image(compressed(data + tail)), expected)


def test_a_few_stray_bytes_are_fine(decoder):
    """Some USB cameras add bytes before a marker; every decoder warns, the picture is whole."""
    data = encode(smooth(24, 32))
    expected = messages.read_image(compressed(data))
    stray = data[:-2] + bytes(range(1, 13)) + data[-2:]
    if decoder == 'simplejpeg':
        with pytest.raises(ValueError, match='extraneous bytes'):
            images._simplejpeg.decode_jpeg(stray)
    np.testing.assert_array_equal(messages.read_image(compressed(stray)), expected)
    half = messages.read_image(compressed(stray), (16, 12))
    assert half.shape == (12, 16, 3)


def test_a_jpeg_with_a_hole_is_refused():
    pytest.importorskip('simplejpeg')  # OpenCV decodes it without a word
    data = encode(noise((120, 160, 3)))
    half = len(data) // 2
    for broken in (
        data[:half] + data[half + 2000 :],
        data[:half] + bytes(2000) + data[half + 2000 :],
        data[:half] + b'\xff\xd9',
    ):
        with pytest.raises(MessageError, match='damaged JPEG'):
            messages.read_image(compressed(broken))


@pytest.mark.parametrize('cut', [9, 20, 30, 60, -4, -20])
def test_a_truncated_png_is_refused(cut):
    data = encode(noise((60, 80, 3)), '.png')
    with pytest.raises(MessageError, match='cam: damaged image'):
        messages.read_image(compressed(data[:cut]))


@pytest.mark.parametrize(
    ('data', 'fmt', 'words'),
    [
        (b'', 'jpeg', ['0 bytes', "'jpeg'", 'neither JPEG nor PNG']),
        (b'\0\0\0\1\x67\x42', 'h264', ["'h264'", '00 00 00 01']),
        (b'RIFF0000WEBP', 'webp', ["'webp'"]),
        (b'\xff\xd8\xff\xe0garbage garbage garbage', 'jpeg', ['damaged JPEG']),
        (b'\xff\xd8\xff\xd9', 'jpeg', ['damaged JPEG']),
        (bytes(12) + b'\x89PNG', '16UC1; compressedDepth png', ['compressedDepth', 'depth']),
        (b'\x89PNG\r\n\x1a\n', 'png', ['damaged image']),
    ],
)
def test_bad_compressed_images_say_what_is_wrong(data, fmt, words, decoder):
    with pytest.raises(MessageError) as error:
        messages.read_image(compressed(data, fmt))
    assert '\n' not in str(error.value)
    for word in ['cam', *words]:
        assert word in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b'', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n']))
def test_random_bytes_never_crash(data, magic):
    try:
        got = messages.read_image(compressed(magic + data))
    except MessageError:
        return
    assert got.ndim == 3
