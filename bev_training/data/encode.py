"""Images as they are stored: recorded bytes untouched, others encoded once."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from bev_perception.errors import BagError, ConfigError
from bev_perception.images import byte_array, check_image
from bev_perception.messages import read_image
from bev_perception.shapes import ImageRgb
from bev_training.data.frame import EncodedImage
from bev_training.data.privacy import load_function, source_sha256

try:  # a third faster than OpenCV
    _simplejpeg: Any = importlib.import_module('simplejpeg')
except ImportError:
    _simplejpeg = None

_PRIVACY_QUALITY = 95  # of a JPEG that went through the privacy function
_FULL_COLOUR_FROM = 95  # JPEG quality from which colour keeps its full resolution (4:4:4)
# Of zlib's strategies and PNG's filters the fastest on camera images that is no larger than the
# default (1600x900: 40 ms and 1.5 to 2.2 MB; OpenCV's default takes 65 ms).
_PNG_OPTIONS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, 'IMWRITE_PNG_FILTER'):  # OpenCV 4.11
    _PNG_OPTIONS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]


class ImageEncoder:
    """Turns image messages into what is stored; may be used by several threads at once.

    Compressed images keep their bytes. Raw ones (and pictures of a video) become RGB and then a
    PNG, or a JPEG where a quality is given. With a privacy function every image is decoded, given
    to it and encoded again: as JPEG of the given quality; without one, JPEGs as JPEG 95 and all
    others as PNG.

    Attributes:
        described: what was done to the images, plain values for the manifest.
    """

    def __init__(self, *, jpeg_quality: int | None, privacy: str = '') -> None:
        """Load the function.

        Args:
            jpeg_quality: 1..100; None = lossless PNG.
            privacy: name for `privacy.load_function`; '' = none.

        Raises:
            ConfigError: the function cannot be loaded.
        """
        self._quality = jpeg_quality
        self._name = privacy
        self._function = load_function(privacy) if privacy else None
        # One call at a time: users' detectors are seldom made for threads, and a race here would
        # publish a face.
        self._calling = threading.Lock()
        encoded = 'png' if jpeg_quality is None else f'jpeg {jpeg_quality}'
        compressed = 'as recorded'
        if privacy:
            kept_kind = f'jpeg {_PRIVACY_QUALITY} or png, as recorded,'
            compressed = f'{kept_kind if jpeg_quality is None else encoded} after privacy'
            encoded += ' after privacy'
        self.described: dict[str, Any] = {
            'raw_images': encoded,
            'compressed_images': compressed,
            'privacy': privacy,
            'privacy_sha256': source_sha256(privacy) if privacy else '',
        }

    def takes_long(self, messages: Iterable[Any]) -> bool:
        """Whether some of the messages have to be encoded, not only handed on."""
        return self._function is not None or any(hasattr(m, 'encoding') for m in messages)

    @property
    def in_order(self) -> bool:
        """Whether images must be given in the order of the recording: a function sees them."""
        return self._function is not None

    def encode(self, message: Any, *, camera: str, stamp_ns: int) -> EncodedImage:
        """Return a picture as it is stored.

        Args:
            message: Image or CompressedImage, or a picture from `video.VideoDecoder`.
            camera: its name, for the privacy function and errors.
            stamp_ns: exposure.

        Raises:
            MessageError: the image cannot be read.
            BagError: the privacy function failed.
            ConfigError: the privacy function returned another shape or type.
        """
        was_jpeg = False
        if not hasattr(message, 'encoding'):
            size_px = check_image(message)
            data = byte_array(message.data).data  # a view, not a copy
            was_jpeg = data[:2] == b'\xff\xd8'
            if self._function is None:
                suffix = 'jpg' if was_jpeg else 'png'
                return EncodedImage(
                    data=data, suffix=suffix, size_px=size_px, format=str(message.format)
                )
        image = read_image(message)
        if self._function is not None:
            image = self._anonymised(image, camera, stamp_ns)
        quality = self._quality
        if quality is None and was_jpeg:
            quality = _PRIVACY_QUALITY
        return encode_png(image) if quality is None else encode_jpeg(image, quality)

    def _anonymised(self, image: ImageRgb, camera: str, stamp_ns: int) -> ImageRgb:
        assert self._function is not None
        shape = image.shape
        where = f'privacy function {self._name!r}, camera {camera}, stamp {stamp_ns}'
        try:
            with self._calling:
                result: Any = self._function(image, camera, stamp_ns)
                if isinstance(result, np.ndarray):
                    result = np.array(result, order='C')  # it may be a buffer that is used again
        except (Exception, SystemExit) as error:
            text = ' '.join(str(error).split())
            raise BagError(f'{where}: {type(error).__name__}: {text}') from error
        if not isinstance(result, np.ndarray):
            raise ConfigError(f'{where}: it returned {type(result).__name__}, not an image')
        if result.shape != shape or result.dtype != np.uint8:
            raise ConfigError(
                f'{where}: it returned {result.dtype} {result.shape}; it must be uint8 {shape}'
            )
        return result


def encode_png(image: ImageRgb) -> EncodedImage:
    """Encode (h, w, 3) uint8 RGB without loss."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _encoded(cv2.imencode('.png', bgr, _PNG_OPTIONS)[1].tobytes(), 'png', image)


def encode_jpeg(image: ImageRgb, quality: int) -> EncodedImage:
    """Encode (h, w, 3) uint8 RGB as JPEG of quality 1..100.

    From 95 on colour keeps its full resolution (4:4:4), for thin lines and lamps; below it is
    halved (4:2:0).
    """
    full_colour = quality >= _FULL_COLOUR_FROM
    if _simplejpeg is not None:
        data = _simplejpeg.encode_jpeg(
            image,
            quality=quality,
            colorspace='RGB',
            colorsubsampling='444' if full_colour else '420',
            fastdct=False,
        )
        return _encoded(data, 'jpg', image)
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_colour else None
    sampling = sampling or cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _encoded(cv2.imencode('.jpg', bgr, options)[1].tobytes(), 'jpg', image)


def _encoded(data: bytes, suffix: str, image: ImageRgb) -> EncodedImage:
    # The format names no Bayer pattern: colours are restored already.
    size_px = (image.shape[1], image.shape[0])
    return EncodedImage(
        data=data, suffix=suffix, size_px=size_px, format='jpeg' if suffix == 'jpg' else 'png'
    )
