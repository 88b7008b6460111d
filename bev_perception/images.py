"""Pixels of `sensor_msgs/Image` and `sensor_msgs/CompressedImage` as RGB arrays.

Messages are read by attribute, so rclpy's and rosbags' classes both work. Results are C-contiguous
(h, w, 3) uint8 RGB arrays of their own; they never share memory with the message.
"""

from __future__ import annotations

import importlib
import re
import struct
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.errors import MessageError
from bev_perception.shapes import ImageRgb

try:  # faster and stricter than OpenCV; a plain ROS installation may lack it
    _simplejpeg: Any = importlib.import_module('simplejpeg')
except ImportError:
    _simplejpeg = None


class _Layout(NamedTuple):
    """How one pixel lies in memory: samples, their size, and OpenCV's conversion to RGB."""

    channels: int
    sample_bytes: int
    to_rgb: int | None


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row:
# its "BG" is ROS's "rggb".
_BAYER = {
    'bayer_rggb': cv2.COLOR_BayerBG2RGB,
    'bayer_bggr': cv2.COLOR_BayerRG2RGB,
    'bayer_gbrg': cv2.COLOR_BayerGR2RGB,
    'bayer_grbg': cv2.COLOR_BayerGB2RGB,
}
# sensor_msgs/image_encodings.hpp. 16UC1 and 32FC1 are left out on purpose: they hold depth.
_LAYOUTS = {
    'rgb8': _Layout(3, 1, None),
    'bgr8': _Layout(3, 1, cv2.COLOR_BGR2RGB),
    'rgba8': _Layout(4, 1, cv2.COLOR_RGBA2RGB),
    'bgra8': _Layout(4, 1, cv2.COLOR_BGRA2RGB),
    'mono8': _Layout(1, 1, cv2.COLOR_GRAY2RGB),
    '8UC1': _Layout(1, 1, cv2.COLOR_GRAY2RGB),
    '8UC3': _Layout(3, 1, cv2.COLOR_BGR2RGB),
    'rgb16': _Layout(3, 2, None),
    'bgr16': _Layout(3, 2, cv2.COLOR_BGR2RGB),
    'mono16': _Layout(1, 2, cv2.COLOR_GRAY2RGB),
    'yuv422': _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': _Layout(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    'yuyv': _Layout(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    **{f'{pattern}8': _Layout(1, 1, code) for pattern, code in _BAYER.items()},
    **{f'{pattern}16': _Layout(1, 2, code) for pattern, code in _BAYER.items()},
}

_KEEP_PIXELS = cv2.IMREAD_IGNORE_ORIENTATION  # an Exif rotation would break the calibration
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
_REDUCED |= {1: cv2.IMREAD_COLOR, 8: cv2.IMREAD_REDUCED_COLOR_8}
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_JPEG_MAGIC, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'
_PNG_END = b'IEND\xaeB`\x82'  # type and checksum of the last chunk, which is empty
_STRAY_BYTES = re.compile(r'(\d+) extraneous bytes before marker')
_MAX_STRAY_BYTES = 16


def byte_array(data: Any) -> npt.NDArray[np.uint8]:
    """View a message's `uint8[]` (array.array, bytes, memoryview, array or list) as (n,) uint8."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    if isinstance(data, (list, tuple)):
        return np.array(data, np.uint8)
    return np.frombuffer(data, np.uint8)


def decode_raw(msg: Any) -> ImageRgb:
    """Convert a `sensor_msgs/Image`; 16-bit samples keep their high byte.

    Raises:
        MessageError: unknown encoding, or sizes that do not fit each other.
    """
    data = byte_array(msg.data)
    layout = _raw_layout(msg, data)
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    samples = np.ndarray(
        (height, width, layout.channels, layout.sample_bytes),
        np.uint8,
        buffer=data,
        strides=(step, layout.channels * layout.sample_bytes, layout.sample_bytes, 1),
    )
    pixels = samples[..., 0 if msg.is_bigendian else -1]  # the high byte, or the only one
    if layout.to_rgb is None:
        return np.array(pixels, order='C')
    return _convert(pixels, layout.to_rgb)


def check_image(msg: Any) -> tuple[int, int]:
    """Tell an image's size without decoding it, and refuse what is plainly no whole image.

    What passes may still have damage inside, which only `messages.read_image` sees.

    Args:
        msg: `sensor_msgs/Image` or `sensor_msgs/CompressedImage` (JPEG, PNG).

    Returns:
        (width, height), pixels.

    Raises:
        MessageError: unknown encoding or codec, a depth image, sizes that do not fit each other,
            a header without a size, truncated data.
    """
    data = byte_array(msg.data)
    if hasattr(msg, 'encoding'):
        _raw_layout(msg, data)
        return int(msg.width), int(msg.height)
    _refuse_depth(msg)
    try:
        if data[:3].tobytes() == _JPEG_MAGIC:
            size_px, _ = _jpeg_header(data.data)
            if data[-2:].tobytes() != _JPEG_END:  # spares a copy of the data
                _refuse_truncated_jpeg(data.tobytes())
            return size_px
        if data[:8].tobytes() == _PNG_MAGIC:
            return _png_size(data)
    except MessageError as error:
        raise MessageError(f'{_name(msg)}: {error}') from None
    raise _unknown_codec(msg, data.tobytes())


def _raw_layout(msg: Any, data: npt.NDArray[np.uint8]) -> _Layout:
    """Check that a raw image's size, step, encoding and data fit each other."""
    where = _name(msg)
    layout = _LAYOUTS.get(msg.encoding)
    if layout is None:
        known = ', '.join(_LAYOUTS)
        raise MessageError(f'{where}: encoding {msg.encoding!r} is unknown; known are {known}')
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height < 1 or width < 1:
        raise MessageError(f'{where}: image size is {width}x{height}')
    if layout.channels == 2 and width % 2:
        raise MessageError(f'{where}: {msg.encoding} needs an even width, it is {width}')
    pixel_bytes = layout.channels * layout.sample_bytes
    needed = step * (height - 1) + width * pixel_bytes
    if step < width * pixel_bytes or data.size < needed:
        raise MessageError(
            f'{where}: {data.size} bytes with step {step} cannot hold {width}x{height} '
            f'{msg.encoding} of {pixel_bytes} bytes per pixel ({needed} bytes needed)'
        )
    return layout


def decode_compressed(msg: Any, at_least_px: tuple[int, int] | None = None) -> ImageRgb:
    """Decode a `sensor_msgs/CompressedImage` that holds a JPEG or PNG.

    The codec is taken from the data: drivers disagree on how to spell `format`.

    Args:
        msg: the message.
        at_least_px: (width, height) the caller needs. A JPEG is decoded at 1/2, 1/4 or 1/8 of its
            size where that stays at least so large and divides width and height evenly, so that
            `Camera.resized` describes the result exactly. PNGs come in full size.

    Raises:
        MessageError: another codec, a depth image, or damaged data.
    """
    # 'bayer_rggb8; jpeg compressed ' names the raw image's encoding first.
    pattern = msg.format.split(';')[0].strip().rstrip('0123456789')
    _refuse_depth(msg)
    data = msg.data if isinstance(msg.data, bytes) else byte_array(msg.data).tobytes()
    try:
        if data.startswith(_JPEG_MAGIC):
            size_px, channels = _jpeg_header(data)
            if channels == 1 and pattern in _BAYER:
                return _demosaic(data, pattern)
            return _decode_jpeg(data, size_px, at_least_px)
        if data.startswith(_PNG_MAGIC):
            # Byte 25 of the header chunk is the colour type, 0 is gray.
            if data[25:26] == b'\0' and pattern in _BAYER:
                return _demosaic(data, pattern)
            return _convert(_decode_cv2(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    except MessageError as error:
        raise MessageError(f'{_name(msg)}: {error}') from None
    raise _unknown_codec(msg, data)


def _name(msg: Any) -> str:
    """Name a message in errors: by its frame, the only name that an image carries."""
    return msg.header.frame_id or 'image without frame_id'


def _refuse_depth(msg: Any) -> None:
    if 'compresseddepth' in msg.format.lower():
        raise MessageError(
            f'{_name(msg)}: format {msg.format!r} is a depth image, not a colour image'
        )


def _unknown_codec(msg: Any, data: bytes) -> MessageError:
    return MessageError(
        f'{_name(msg)}: format {msg.format!r} with {len(data)} bytes starting '
        f'{data[:8].hex(" ")!r} is neither JPEG nor PNG'
    )


def _convert(pixels: npt.NDArray[np.uint8], code: int) -> ImageRgb:
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _demosaic(data: bytes, pattern: str) -> ImageRgb:
    """Decode a compressed Bayer mosaic, which image_transport stores as a gray image."""
    return _convert(_decode_cv2(data, cv2.IMREAD_GRAYSCALE), _BAYER[pattern])


def _decode_cv2(data: bytes, flags: int) -> npt.NDArray[np.uint8]:
    """Decode to BGR or gray; 16-bit samples keep their high byte, alpha is dropped."""
    if data.startswith(b'\xff\xd8'):
        _refuse_truncated_jpeg(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | _KEEP_PIXELS)
    except cv2.error as error:
        raise MessageError(f'damaged image of {len(data)} bytes: {error.err}') from None
    if pixels is None:
        raise MessageError(f'damaged image of {len(data)} bytes: OpenCV cannot decode it')
    return np.asarray(pixels, np.uint8)


def _decode_jpeg(
    data: bytes, size_px: tuple[int, int], at_least_px: tuple[int, int] | None
) -> ImageRgb:
    factor = _shrink_factor(size_px, at_least_px)
    if _simplejpeg is None:
        return _convert(_decode_cv2(data, _REDUCED[factor]), cv2.COLOR_BGR2RGB)
    _refuse_truncated_jpeg(data)
    width, height = size_px[0] // factor, size_px[1] // factor
    # The decoder takes the smallest of its scales n/8 that reaches this size: exactly 1/factor.
    options = {'min_width': width, 'min_height': height} if factor > 1 else {}
    try:
        rgb: ImageRgb = _simplejpeg.decode_jpeg(data, 'RGB', **options)
    except ValueError as error:
        # Some USB cameras leave a few stray bytes between markers, which harms nothing; damage in
        # the picture itself desynchronises the decoder and skips many more.
        stray = _STRAY_BYTES.search(str(error))
        if stray is None or int(stray[1]) > _MAX_STRAY_BYTES:
            raise MessageError(f'damaged JPEG of {len(data)} bytes: {error}') from None
        rgb = _simplejpeg.decode_jpeg(data, 'RGB', strict=False, **options)
    return rgb


def _shrink_factor(size_px: tuple[int, int], at_least_px: tuple[int, int] | None) -> int:
    """Return the largest of 8, 4, 2, 1 that divides the size and leaves at least `at_least_px`."""
    if at_least_px is None:
        return 1
    fits = (
        factor
        for factor in (8, 4, 2)
        if all(
            have % factor == 0 and have // factor >= max(want, 1)
            for have, want in zip(size_px, at_least_px, strict=True)
        )
    )
    return next(fits, 1)


def _jpeg_header(data: bytes | memoryview) -> tuple[tuple[int, int], int]:
    """Read ((width, height), number of colour channels) from a JPEG's frame header.

    Source: ITU-T T.81, B.2.2.
    """
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, channels = struct.unpack_from('>HHB', data, at + 5)
            if not height or not width:
                raise MessageError(f'JPEG of size {width}x{height}')
            return (width, height), channels
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    raise MessageError(f'damaged JPEG of {len(data)} bytes: it has no frame header')


def _png_size(data: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Read (width, height) from a PNG's first chunk, and see that the last one arrived."""
    head = data[:24].tobytes()
    if len(head) < 24 or head[12:16] != b'IHDR':
        raise MessageError(f'damaged image of {data.size} bytes: the PNG has no IHDR chunk')
    width, height = struct.unpack_from('>II', head, 16)
    if not width or not height:
        raise MessageError(f'PNG of size {width}x{height}')
    if data[-len(_PNG_END) :].tobytes() != _PNG_END and _PNG_END not in data.tobytes():
        raise MessageError(f'damaged image of {data.size} bytes: the PNG has no IEND chunk')
    return width, height


def _refuse_truncated_jpeg(data: bytes) -> None:
    """Refuse a JPEG without its end marker: decoders may fill the missing part with gray.

    Within picture data 0xFF is never followed by these marker codes, so an end marker after the
    last scan header (padding may follow it) means that the whole picture arrived.
    """
    end = data.rfind(_JPEG_END)
    if end >= 0 and data.find(b'\xff\xda', end) < 0:
        return
    raise MessageError(f'truncated JPEG: {len(data)} bytes without an end marker')
