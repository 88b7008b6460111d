"""What tells the images of a sample from all others, without decoding them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np

from bev_perception.geometry.camera import Camera
from bev_perception.shapes import AnyArray, Rigid

# Name, encoded image, `format` of its CompressedImage, camera, ego_T_cam.
EncodedView = tuple[str, bytes | memoryview, str, Camera, Rigid]


def image_fingerprint(views: Iterable[EncodedView]) -> str:
    """Return 32 hexadecimal digits: a digest of encoded images, their cameras and poses."""
    digest = hashlib.blake2b(digest_size=16)
    for name, data, format, camera, ego_T_cam in views:
        head = [name, format, len(data), camera.model, camera.size_px, list(camera.D)]
        digest.update(json.dumps(head).encode())
        digest.update(_bytes(camera.K) + _bytes(camera.rect_T_cam) + _bytes(ego_T_cam))
        digest.update(data)
    return digest.hexdigest()


def _bytes(matrix: AnyArray) -> bytes:
    return np.ascontiguousarray(matrix, '<f8').tobytes()
