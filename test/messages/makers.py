"""Messages as plain objects, and the same held by the classes of rclpy and of rosbags."""

from __future__ import annotations

import importlib
import re
from types import SimpleNamespace as Plain

import cv2
import numpy as np
import pytest
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_KILTED)
VARIANTS = ('plain', 'rosbags', 'rclpy', 'rosbags from rclpy', 'rclpy from rosbags')
RED, GREEN, BLUE = (200, 10, 20), (10, 200, 20), (20, 10, 200)


# One description, five ways to hold it.


def rosbags_message(kind, plain):
    """Build rosbags' class from a plain object; fields that it lacks get zeros."""
    values = {}
    for name, (node, detail) in TYPES.get_msgdef(kind).fields:
        given = getattr(plain, name, None)
        if node == Nodetype.NAME:
            values[name] = rosbags_message(detail, given or Plain())
        elif node == Nodetype.BASE:
            values[name] = given if given is not None else '' if detail[0] == 'string' else 0
        else:
            (inner, inner_detail), length = detail
            if inner == Nodetype.NAME:
                values[name] = [rosbags_message(inner_detail, item) for item in given or ()]
            else:
                given = np.zeros(length) if given is None else given
                given = np.frombuffer(given, np.uint8) if isinstance(given, bytes) else given
                values[name] = np.asarray(given, np.dtype(inner_detail[0]))
    return TYPES.types[kind](**values)


def rclpy_message(kind, plain):
    """Build rclpy's class from a plain object."""
    package, _, name = kind.split('/')
    message = getattr(importlib.import_module(f'{package}.msg'), name)()
    for field, spec in message.get_fields_and_field_types().items():
        value = getattr(plain, field, None)
        if value is None:
            continue
        nested = re.fullmatch(r'(?:sequence<)?(\w+)/(\w+)>?', spec)
        if nested:
            inner = f'{nested[1]}/msg/{nested[2]}'
            many = isinstance(value, list)
            items = [rclpy_message(inner, v) for v in (value if many else [value])]
            value = items if many else items[0]
        elif isinstance(value, np.ndarray):
            value = value.tolist()
        setattr(message, field, value)
    return message


def hold(variant, kind, plain):
    """Hold the message as `variant` says."""
    if 'rclpy' in variant:
        pytest.importorskip('rclpy')
        serialization = importlib.import_module('rclpy.serialization')
    if variant == 'plain':
        return plain
    if variant == 'rosbags':
        return rosbags_message(kind, plain)
    if variant == 'rclpy':
        return rclpy_message(kind, plain)
    if variant == 'rosbags from rclpy':
        cdr = serialization.serialize_message(rclpy_message(kind, plain))
        return TYPES.deserialize_cdr(cdr, kind)
    cdr = TYPES.serialize_cdr(rosbags_message(kind, plain), kind)
    return serialization.deserialize_message(bytes(cdr), type(rclpy_message(kind, Plain())))


def header(frame='cam', sec=12, nanosec=345):
    return Plain(stamp=Plain(sec=sec, nanosec=nanosec), frame_id=frame)


def image(pixels, encoding, *, step=None, big=0):
    """Describe an Image from (h, w, bytes per pixel) uint8, rows padded with 77 to `step`."""
    h, w, n = pixels.shape
    step = step or w * n
    rows = np.full((h, step), 77, np.uint8)
    rows[:, : w * n] = pixels.reshape(h, w * n)
    return Plain(
        header=header(),
        height=h,
        width=w,
        encoding=encoding,
        is_bigendian=big,
        step=step,
        data=rows.tobytes(),
    )


def compressed(data, fmt='jpeg'):
    return Plain(header=header(), format=fmt, data=bytes(data))


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(h, w, seed=0):
    """Colours that vary slowly, so that codecs keep them."""
    return cv2.resize(noise((5, 7, 3), seed), (w, h), interpolation=cv2.INTER_CUBIC)


def uniform(colour, h=8, w=8):
    return np.full((h, w, 3), colour, np.uint8)


def encode(rgb, ext='.jpg', *options):
    bgr = rgb[..., ::-1] if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb
    ok, data = cv2.imencode(ext, np.ascontiguousarray(bgr), list(options))
    assert ok
    return data.tobytes()


# Channel (0 red, 1 green, 2 blue) of each pixel of the 2x2 cell, as the name spells it.
MOSAICS = {
    'bayer_rggb': ((0, 1), (1, 2)),
    'bayer_bggr': ((2, 1), (1, 0)),
    'bayer_gbrg': ((1, 2), (0, 1)),
    'bayer_grbg': ((1, 0), (2, 1)),
}


def mosaic(rgb, pattern):
    """Keep one channel per pixel."""
    h, w, _ = rgb.shape
    channel = np.tile(np.array(MOSAICS[pattern]), (h // 2, w // 2))
    return np.take_along_axis(rgb, channel[..., None], -1)


NAN = float('nan')
