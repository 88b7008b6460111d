"""Stand-in for the ROS package cv_bridge: 8-bit images between sensor_msgs/Image and numpy.

Only on the path of the environment that `make` sets up, and behind any real cv_bridge. Signatures,
memory sharing and refusals are those of the ROS package, for the encodings below.
"""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np

# encoding -> (channels, name in OpenCV's conversion codes; None: no colour meaning)
_ENCODINGS: dict[str, tuple[int, str | None]] = {
    'mono8': (1, 'GRAY'),
    'bgr8': (3, 'BGR'),
    'rgb8': (3, 'RGB'),
    'bgra8': (4, 'BGRA'),
    'rgba8': (4, 'RGBA'),
    '8UC1': (1, None),
    '8UC3': (3, None),
}


class CvBridgeError(TypeError):
    """An image and an encoding do not fit together."""


class CvBridge:
    """Converter between sensor_msgs/Image and numpy arrays, (H, W) or (H, W, channels) uint8."""

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = 'passthrough') -> np.ndarray:
        """Pixels of `img_msg`, in the channel order of `desired_encoding`.

        'passthrough' gives the message's own memory; anything else a copy.

        Raises:
            CvBridgeError: unknown encoding, too little data, or a conversion that makes no sense.
        """
        channels, _ = _known(img_msg.encoding)
        height, width, step = img_msg.height, img_msg.width, img_msg.step
        data = np.frombuffer(img_msg.data, np.uint8)
        if step < width * channels or data.size < height * step:
            size = f'{width} x {height} {img_msg.encoding}'
            raise CvBridgeError(f'{data.size} bytes with step {step} cannot be {size}')
        rows = data[: height * step].reshape(height, step)[:, : width * channels]
        image = rows if channels == 1 else rows.reshape(height, width, channels)
        if desired_encoding == 'passthrough':
            return image
        return _converted(image, img_msg.encoding, desired_encoding)

    def cv2_to_imgmsg(
        self, cvim: np.ndarray, encoding: str = 'passthrough', header: Any = None
    ) -> Any:
        """Message of the array `cvim`, unconverted; `encoding` says what its channels are.

        Raises:
            TypeError: not a numpy array.
            CvBridgeError: unknown encoding, or one that the array does not fit.
        """
        from sensor_msgs.msg import Image

        if not isinstance(cvim, np.ndarray):
            raise TypeError(f'Your input type is not a numpy array but {type(cvim).__name__}')
        channels = 1 if cvim.ndim == 2 else cvim.shape[2] if cvim.ndim == 3 else 0
        if encoding == 'passthrough':
            encoding = f'8UC{channels}'
        if cvim.dtype != np.uint8 or _known(encoding)[0] != channels:
            raise CvBridgeError(
                f'encoding specified as {encoding}, but image is {cvim.dtype} {cvim.shape}'
            )
        msg = Image() if header is None else Image(header=header)
        msg.height, msg.width = cvim.shape[:2]
        msg.encoding = encoding
        msg.step = msg.width * channels
        # the message's setter checks an ndarray element by element, and takes an array as it is
        msg.data = array.array('B', cvim.tobytes())
        return msg


def _known(encoding: str) -> tuple[int, str | None]:
    try:
        return _ENCODINGS[encoding]
    except KeyError:
        names = ', '.join(_ENCODINGS)
        raise CvBridgeError(f'Unrecognized image encoding [{encoding}]; known: {names}') from None


def _converted(image: np.ndarray, source: str, target: str) -> np.ndarray:
    source_channels, source_color = _known(source)
    target_channels, target_color = _known(target)
    if source_color is None and target_color is not None:
        raise CvBridgeError(f'[{source}] is not a color format. but [{target}] is.')
    if source_color is None or target_color is None:
        if source_channels != target_channels:
            raise CvBridgeError(f'[{source}] and [{target}] differ in the number of channels')
        return image.copy()
    if source_color == target_color:
        return image.copy()
    return cv2.cvtColor(image, getattr(cv2, f'COLOR_{source_color}2{target_color}'))
