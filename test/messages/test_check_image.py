"""The size of an image without decoding it: what is refused there, decoding refuses as well."""

from __future__ import annotations

import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bev_perception import images, messages
from bev_perception.errors import MessageError

from .makers import VARIANTS, Plain, compressed, encode, header, hold, image, noise, smooth

RAW = dict(images._LAYOUTS)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('ext', ['.jpg', '.png'])
def test_size_of_a_compressed_image(variant, ext):
    msg = hold(variant, 'sensor_msgs/msg/CompressedImage', compressed(encode(smooth(45, 61), ext)))
    assert images.check_image(msg) == (61, 45)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('encoding', RAW)
def test_size_of_a_raw_image(variant, encoding):
    layout = RAW[encoding]
    pixels = noise((4, 6, layout.channels * layout.sample_bytes))
    msg = hold(variant, 'sensor_msgs/msg/Image', image(pixels, encoding, step=60))
    assert images.check_image(msg) == (6, 4)


@pytest.mark.parametrize(
    'change',
    [
        {'encoding': '16UC1'},
        {'encoding': '32FC1'},
        {'encoding': 'nonsense'},
        {'width': 0},
        {'height': 0},
        {'step': 11},
        {'data': b''},
        {'data': bytes(71)},
        {'height': 5},
        {'encoding': 'yuv422', 'width': 3},
    ],
)
def test_raw_images_are_refused_in_the_words_of_the_decoder(change):
    msg = image(noise((4, 6, 3)), 'rgb8')
    vars(msg).update(change)
    with pytest.raises(MessageError, match='cam: ') as checked:
        images.check_image(msg)
    with pytest.raises(MessageError) as decoded:
        messages.read_image(msg)
    assert str(checked.value) == str(decoded.value)


def png_header(**values):
    """A PNG with another size in its header, checksum included."""
    data = encode(noise((4, 6, 3)), '.png')
    size = struct.pack('>II', values.get('width', 6), values.get('height', 4))
    chunk = b'IHDR' + size + data[24:29]
    return data[:12] + chunk + struct.pack('>I', zlib.crc32(chunk)) + data[33:]


@pytest.mark.parametrize(
    ('data', 'fmt', 'words'),
    [
        (b'', 'jpeg', '0 bytes .* neither JPEG nor PNG'),
        (b'\0\0\0\1\x67\x42', 'h264', "'h264'.*neither"),
        (b'RIFF0000WEBP', 'webp', 'neither'),
        (b'\xff\xd8\xff', 'jpeg', 'no frame header'),
        (b'\xff\xd8\xff\xe0garbage garbage garbage', 'jpeg', 'no frame header'),
        (encode(smooth(24, 32)), '16UC1; compressedDepth png', 'depth'),
        (encode(smooth(24, 32))[:-2], 'jpeg', 'truncated JPEG: [0-9]{3,} bytes'),
        (encode(noise((4, 6, 3)), '.png')[:12], 'png', 'no IHDR'),
        (encode(noise((4, 6, 3)), '.png')[:-1], 'png', 'no IEND'),
        (png_header(width=0), 'png', 'size 0x4'),
    ],
)
def test_compressed_images_that_decoding_refuses_too(data, fmt, words):
    with pytest.raises(MessageError, match=f'cam: .*{words}'):
        images.check_image(compressed(data, fmt))
    with pytest.raises(MessageError, match='cam: '):
        messages.read_image(compressed(data, fmt))


@pytest.mark.parametrize('ext', ['.jpg', '.png'])
def test_every_cut_is_seen(ext):
    data = encode(noise((12, 16, 3)), ext)
    for keep in range(len(data)):
        with pytest.raises(MessageError):
            images.check_image(compressed(data[:keep]))


@pytest.mark.parametrize('tail', [bytes(100), b'\xff' * 7, b'\x11\x22', bytes(5000)])
@pytest.mark.parametrize('ext', ['.jpg', '.png'])
def test_padding_is_no_damage(ext, tail):
    data = encode(smooth(24, 32), ext) + tail
    assert images.check_image(compressed(data)) == (32, 24)
    assert messages.read_image(compressed(data)).shape == (24, 32, 3)


def test_the_end_of_a_thumbnail_is_not_the_end():
    thumbnail = encode(smooth(16, 16))
    data = encode(smooth(120, 160))
    app1 = b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail
    data = data[:2] + app1 + data[2:]
    assert images.check_image(compressed(data)) == (160, 120)
    with pytest.raises(MessageError, match='truncated JPEG'):
        images.check_image(compressed(data[:-300]))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), ext=st.sampled_from(['.jpg', '.png']))
def test_what_decodes_passes_with_the_same_size(at, bit, ext):
    """One flipped bit: never an error that decoding does not have, nor another size."""
    data = bytearray(encode(smooth(20, 28), ext))
    data[at % len(data)] ^= 1 << bit
    msg = compressed(bytes(data))
    try:
        pixels = messages.read_image(msg)
    except MessageError:
        return
    if ext == '.png' and images._PNG_END not in data:
        return  # OpenCV does not look at the last chunk's checksum
    assert images.check_image(msg) == (pixels.shape[1], pixels.shape[0])


def test_a_large_jpeg_is_not_read_through():
    """Its time does not grow with the data: a copy alone would take longer."""
    data = encode(noise((900, 1600, 3)), '.jpg', cv2.IMWRITE_JPEG_QUALITY, 95)
    msg = Plain(header=header(), format='jpeg', data=np.frombuffer(data * 1, np.uint8))
    best = min(_seconds(msg) for _ in range(50))
    assert len(data) > 1_000_000 and len(data) / best > 5e9


def _seconds(msg):
    start = time.perf_counter()
    images.check_image(msg)
    return time.perf_counter() - start
