"""A sample, varied for training, before any tensor exists: images, cameras and ground together.

Every image becomes a pinhole image of the network's size, so that `preprocess.prepare` has nothing
left to do; cameras follow every step, so a point of the scene stays on its pixels. Flips and turns
of the grid move the ego frame and leave the images as they are (Harley et al., "Simple-BEV", 2023,
section 3; resize and crop as in Philion and Fidler, "Lift, Splat, Shoot", 2020, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from bev_perception.model.config import ModelConfig
from bev_perception.preprocess import decode_size_px, to_pinhole
from bev_perception.views import CameraView, ViewSet
from bev_training.data.moves import (
    ego_move,
    move_boxes,
    move_labels,
    move_points,
    move_sweep,
    move_views,
)
from bev_training.data.photometric import vary_colors
from bev_training.data.sample import Sample
from bev_training.fit.settings import AugmentConfig


def augment(
    sample: Sample, config: AugmentConfig, model: ModelConfig, rng: np.random.Generator
) -> Sample:
    """Return a varied sample.

    Args:
        sample: as it was read; its labels lie in `model.grid`.
        config: how much is varied. With zeros, the images are what `to_pinhole` makes of them and
            the rest is unchanged.
        model: gives the grid and the images' size.
        rng: the only source of chance.
    """
    return augment_sequence(sample, (), config, model, rng)[0]


def augment_sequence(
    sample: Sample,
    before: Sequence[ViewSet],
    config: AugmentConfig,
    model: ModelConfig,
    rng: np.random.Generator,
) -> tuple[Sample, list[ViewSet]]:
    """Do what `augment` does, also to the instants before a sample.

    All instants are mirrored and turned alike, so the vehicle's way between them fits; every image
    has draws of its own for the rest, and every instant loses cameras of its own.

    Returns:
        The sample, the same as without the others, and the others.
    """
    flip_x, flip_y, turn = rng.random(3)
    new_T_old = ego_move(
        flip_x=flip_x < config.flip_x,
        flip_y=flip_y < config.flip_y,
        yaw_rad=math.radians((2 * turn - 1) * config.yaw_deg),
    )
    # The sample first: what comes before it changes none of its draws.
    now, *earlier = (_vary_views(each, config, model, rng) for each in (sample.view_set, *before))
    if np.array_equal(new_T_old, np.eye(4)):
        return replace(sample, view_set=now), earlier
    moved = replace(
        sample,
        view_set=move_views(now, new_T_old),
        labels=move_labels(sample.labels, model.grid, new_T_old),
        boxes=move_boxes(sample.boxes, new_T_old),
        points_m=move_points(sample.points_m, new_T_old),
        sweeps=tuple(move_sweep(sweep, new_T_old) for sweep in sample.sweeps),
        ego_T_read=new_T_old @ sample.ego_T_read,
    )
    return moved, [move_views(each, new_T_old) for each in earlier]


def augment_decode_size_px(config: AugmentConfig, model: ModelConfig) -> tuple[int, int]:
    """Return the size (width, height) below which an image must not be decoded for `augment`.

    The node's, unless the largest draw needs more pixels. That is enough: nuScenes' images decoded
    at half their size differ from full ones by 0.5 gray levels at 400 px, by 0.6 at 480 px.
    """
    width, height = (math.ceil(config.resize[1] * side) for side in model.image_size_px)
    at_least = decode_size_px(model)
    return max(width, at_least[0]), max(height, at_least[1])


def _vary_views(
    view_set: ViewSet, config: AugmentConfig, model: ModelConfig, rng: np.random.Generator
) -> ViewSet:
    view_set = drop_cameras(view_set, config.drop_camera, rng)
    views = tuple(vary_view(view, config, model.image_size_px, rng) for view in view_set.views)
    return replace(view_set, views=views)


def drop_cameras(view_set: ViewSet, probability: float, rng: np.random.Generator) -> ViewSet:
    """Lose each camera with a probability; where all would go, the luckiest one stays."""
    draws = rng.random(len(view_set.views))
    lost = (draws < probability) & (np.arange(len(draws)) != draws.argmax() if len(draws) else 0)
    if not lost.any():
        return view_set
    pairs = list(zip(view_set.views, lost, strict=True))
    return replace(
        view_set,
        views=tuple(view for view, gone in pairs if not gone),
        missing=(*view_set.missing, *(view.name for view, gone in pairs if gone)),
    )


def vary_view(
    view: CameraView, config: AugmentConfig, size_px: tuple[int, int], rng: np.random.Generator
) -> CameraView:
    """Return the view resized, cropped to `size_px` (black beyond its rim), in other colours."""
    width, height = size_px
    factor = rng.uniform(*config.resize)
    most = int(config.crop_share * height)
    shift_u, shift_v = rng.integers(-most, most + 1, 2).tolist()
    full_px, scaled_px = view.camera.size_px, _scaled(size_px, factor)
    if not view.camera.is_pinhole:
        # Maps of a lens are kept per size: one size for all draws, or each would make its own.
        view = _pinhole(view, _covering(full_px, _scaled(size_px, max(1.0, config.resize[1]))))
    # The whole image is kept, so that a crop finds the sky that `to_pinhole` cuts off.
    have_width, have_height = _covering(full_px, scaled_px)
    view = _resized(_pinhole(view, view.camera.size_px), (have_width, have_height))
    left = (have_width - scaled_px[0]) // 2 + (scaled_px[0] - width) // 2 + shift_u
    top = have_height - scaled_px[1] + (scaled_px[1] - height) // 2 + shift_v
    # Part of the image that stays, in its own pixels.
    u0, u1 = (int(np.clip(u, 0, have_width)) for u in (left, left + width))
    v0, v1 = (int(np.clip(v, 0, have_height)) for v in (top, top + height))
    part = vary_colors(np.ascontiguousarray(view.image[v0:v1, u0:u1]), config, rng)
    if part.shape[1::-1] != size_px:
        image = np.zeros((height, width, 3), np.uint8)
        image[v0 - top : v1 - top, u0 - left : u1 - left] = part
    else:
        image = part
    return replace(view, image=image, camera=view.camera.cropped(left, top, width, height))


def _pinhole(view: CameraView, size_px: tuple[int, int]) -> CameraView:
    image, camera, ego_T_cam = to_pinhole(view, size_px)
    return replace(view, image=image, camera=camera, ego_T_cam=ego_T_cam)


def _resized(view: CameraView, size_px: tuple[int, int]) -> CameraView:
    if size_px == view.camera.size_px:
        return view
    shrinks = size_px[0] < view.camera.size_px[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(view.image, size_px, interpolation=how), np.uint8)
    return replace(view, image=image, camera=view.camera.resized(size_px))


def _covering(have_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image of `have_px` scaled to cover `size_px`, as `to_pinhole` does."""
    scale = max(size_px[0] / have_px[0], size_px[1] / have_px[1])
    width, height = (round(side * scale) for side in have_px)
    return max(size_px[0], width), max(size_px[1], height)


def _scaled(size_px: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor))
