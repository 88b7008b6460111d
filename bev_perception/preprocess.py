"""ViewSet → BevInputs: shrink, rectify, crop, normalise; the intrinsics follow every step.

Live node, bag converter and training all come through here. An image is scaled by one factor so
that it covers the network's image, then cropped: from the top (sky), and evenly from the sides.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bev_perception.errors import SyncError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.model.config import ModelConfig
from bev_perception.model.tensors import BevInputs
from bev_perception.shapes import ImageRgb, Rigid
from bev_perception.views import CameraView, ViewSet


def decode_size_px(config: ModelConfig) -> tuple[int, int]:
    """Return the size (width, height) below which an image must not be decoded.

    Twice the network's: a JPEG decoder that shrinks by 2, 4 or 8 saves most of its time, and the
    area filter that follows hides the difference to a full decode.
    """
    width, height = config.image_size_px
    return 2 * width, 2 * height


def prepare(view_set: ViewSet, config: ModelConfig) -> BevInputs:
    """Make the network's inputs of one view set (batch 1, only the cameras that are there).

    Raises:
        SyncError: the set holds no image.
    """
    if not view_set.views:
        raise SyncError(f'the set at {view_set.stamp_ns} ns holds no image')
    width, height = config.image_size_px
    n = len(view_set.views)
    pixels = np.empty((n, height, width, 3), np.uint8)
    K = np.empty((n, 3, 3))
    ego_T_cam = np.empty((n, 4, 4))
    for i, view in enumerate(view_set.views):
        pixels[i], camera, ego_T_cam[i] = to_pinhole(view, config.image_size_px)
        K[i] = camera.K
    return BevInputs(
        images=torch.from_numpy(_normalise(pixels, config))[None],
        K=torch.from_numpy(K).float()[None],
        ego_T_cam=torch.from_numpy(ego_T_cam).float()[None],
        live=torch.ones(1, n, dtype=torch.bool),
        odom_T_ego=torch.from_numpy(
            np.full((4, 4), np.nan) if view_set.odom_T_ego is None else view_set.odom_T_ego.copy()
        )[None],
    )


def to_pinhole(view: CameraView, size_px: tuple[int, int]) -> tuple[ImageRgb, Camera, Rigid]:
    """Return the view as a pinhole image of `size_px`: pixels, camera, `ego_T_cam`.

    Lens distortion is removed with the same focal length, so a lens wider than a pinhole can
    show loses its rim; a rectified image's rotation and baseline move into the pose.
    """
    plan = _plan(view.camera, size_px)
    image = view.image
    if plan.scaled_px != view.camera.size_px:
        shrinks = plan.scaled_px[0] < view.camera.size_px[0]
        image = cv2.resize(
            image, plan.scaled_px, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    if plan.maps is None:
        image = image[plan.top : plan.top + size_px[1], plan.left : plan.left + size_px[0]]
    else:
        image = cv2.remap(image, *plan.maps, cv2.INTER_LINEAR)
    ego_T_cam = view.ego_T_cam @ rigid.inverse(view.camera.rect_T_cam)
    return np.asarray(image, np.uint8), plan.camera, ego_T_cam


class _Plan:
    """How images of one camera become pinhole images of one size (kept per camera)."""

    def __init__(self, camera: Camera, size_px: tuple[int, int]) -> None:
        width, height = size_px
        scale = max(width / camera.size_px[0], height / camera.size_px[1])
        # Rounding may fall short by a pixel of what the crop needs.
        self.scaled_px = (
            max(width, round(camera.size_px[0] * scale)),
            max(height, round(camera.size_px[1] * scale)),
        )
        self.left = (self.scaled_px[0] - width) // 2
        self.top = self.scaled_px[1] - height
        scaled = camera.resized(self.scaled_px)
        flat = scaled.pinhole().cropped(self.left, self.top, width, height)
        self.camera = Camera(K=flat.K, size_px=size_px)
        # rect_T_cam goes into the pose, so the maps know nothing of it.
        lens = replace(scaled, rect_T_cam=np.eye(4))
        self.maps = None if camera.is_pinhole else _maps(lens, self.camera)


def _maps(source: Camera, target: Camera) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]]:
    """Where each pixel of the pinhole target lies in the distorted source, in OpenCV's form."""
    width, height = target.size_px
    uv = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
    at, inside = source.project(target.unproject(uv))
    at[~inside] = -10  # outside the lens: black
    fixed, fraction = cv2.convertMaps(
        at[..., 0].astype(np.float32), at[..., 1].astype(np.float32), cv2.CV_16SC2
    )
    return fixed, fraction


@lru_cache(maxsize=64)
def _plan(camera: Camera, size_px: tuple[int, int]) -> _Plan:
    return _Plan(camera, size_px)


def _normalise(pixels: npt.NDArray[np.uint8], config: ModelConfig) -> npt.NDArray[np.float32]:
    """(n, h, w, 3) uint8 → (n, 3, h, w) float32, ((x / 255) - mean) / std."""
    mean, std = np.array(config.mean), np.array(config.std)
    scale = (1 / (255 * std)).astype(np.float32)
    bias = (-mean / std).astype(np.float32)
    out = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), np.float32)
    for c in range(3):  # one pass per plane; a broadcast over the last axis costs three times this
        np.multiply(pixels[..., c], scale[c], out=out[:, c])
        out[:, c] += bias[c]
    return out
