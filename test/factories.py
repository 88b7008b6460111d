"""Tiny valid objects for tests: cameras, rigs, view sets, network configs and checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from bev_perception.geometry.camera import Camera
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_perception.model.bevformer import DeformableAttention
from bev_perception.model.config import AttentionConfig, ModelConfig
from bev_perception.model.lift_table import lift_with_table
from bev_perception.model.tensors import BevInputs, FeatureVolume
from bev_perception.views import CameraView, ViewSet

# name -> yaw in degrees, in the default rig's order; together they look all around.
YAWS_DEG = {
    'front_left': 55.0,
    'front': 0.0,
    'front_right': -55.0,
    'back_left': 110.0,
    'back': 180.0,
    'back_right': -110.0,
}
STAMP_NS = 1_700_000_000_000_000_000


def make_camera(size_px: tuple[int, int] = (64, 32), *, fov_deg: float = 70.0, **values) -> Camera:
    """A camera that sees `fov_deg` horizontally, its axis in the image's centre; pinhole unless
    `model` and `D` say otherwise.
    """
    width, height = size_px
    f = width / 2 / np.tan(np.radians(fov_deg / 2))
    K = [[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]]
    return Camera(**{'K': np.array(K), 'size_px': size_px, **values})


def look(
    yaw_deg: float = 0.0, pitch_deg: float = 0.0, at=(0.0, 0.0, 1.5), roll_deg: float = 0.0
) -> np.ndarray:
    """`ego_T_cam` of a camera that looks along yaw (positive to the left), pitch positive down."""
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    R_yaw = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
    R_pitch = [[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]]
    R_roll = [[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]]
    body_R_optical = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # z forward, x right, y down
    ego_T_cam = np.eye(4)
    ego_T_cam[:3, :3] = np.array(R_yaw) @ R_pitch @ R_roll @ np.array(body_R_optical)
    ego_T_cam[:3, 3] = at
    return ego_T_cam


def make_rig(
    names=tuple(YAWS_DEG), size_px: tuple[int, int] = (64, 32), **values
) -> dict[str, tuple[Camera, np.ndarray]]:
    """Camera and `ego_T_cam` by name: half a metre around (1, 0), 1.5 m up, 5 degrees down."""
    rig = {}
    for name in names:
        yaw = np.radians(YAWS_DEG[name])
        at = (1 + 0.5 * np.cos(yaw), 0.5 * np.sin(yaw), 1.5)
        rig[name] = (make_camera(size_px, **values), look(YAWS_DEG[name], 5.0, at))
    return rig


def make_image(size_px: tuple[int, int] = (64, 32), seed: int = 0) -> np.ndarray:
    """A natural-looking image: smooth gradients, edges and a little texture."""
    return _image(tuple(size_px), seed).copy()


@functools.lru_cache(maxsize=16)  # a tiny training asks for the same ones hundreds of times
def _image(size_px: tuple[int, int], seed: int) -> np.ndarray:
    width, height = size_px
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[0:height, 0:width]
    image = np.zeros((height, width, 3))
    for c in range(3):
        for _ in range(6):
            fu, fv, phase = *rng.uniform(-6, 6, 2), rng.uniform(0, 6.3)
            image[..., c] += np.cos(2 * np.pi * (fu * u / width + fv * v / height) + phase)
        for _ in range(4):
            a, b, at = *rng.normal(size=2), rng.uniform(0.2, 0.8)
            image[..., c] += 1.5 * (a * (u / width - at) + b * (v / height - at) > 0)
    image = 128 + 28 * image + rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def make_view(
    camera: Camera | None = None, image: np.ndarray | None = None, **values
) -> CameraView:
    """One view; without an image a natural-looking one."""
    camera = camera or make_camera()
    fields = {'name': 'front', 'ego_T_cam': look(), 'stamp_ns': STAMP_NS, **values}
    image = make_image(camera.size_px) if image is None else image
    return CameraView(camera=camera, image=image, **fields)


def make_view_set(
    rig: Mapping[str, tuple[Camera, np.ndarray]] | None = None, *, missing=(), **values
) -> ViewSet:
    """The rig's images, a different one per camera."""
    rig = make_rig() if rig is None else rig
    views = tuple(
        make_view(
            camera, make_image(camera.size_px, seed), name=name, ego_T_cam=np.array(ego_T_cam)
        )
        for seed, (name, (camera, ego_T_cam)) in enumerate(rig.items())
        if name not in missing
    )
    return ViewSet(stamp_ns=STAMP_NS, views=views, missing=tuple(missing), **values)


def make_config(**values) -> ModelConfig:
    """A network that runs in milliseconds: 64x32 images, 20 x 16 cells of 1 m, 2 heights; of
    BEVFormer, 2 layers.
    """
    grid = BevGrid(x_range_m=(-8, 12), y_range_m=(-8, 8), z_range_m=(-1, 3), cell_m=1, z_cells=2)
    tiny = {'grid': grid, 'image_size_px': (64, 32), 'channels': 8, 'backbone': 'resnet18'}
    if values.get('network') == 'bevformer':
        tiny['attention'] = AttentionConfig(layers=2, heads=2, points=4, hidden=16)
    return ModelConfig(**{**tiny, **values})


def make_model(config: ModelConfig | None = None, seed: int = 0) -> BevModel:
    """A random network in evaluation mode: batch statistics are not the initial ones, and cells
    do not all look at the same places.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BevModel(config or make_config())
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, 0, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.1)
            elif isinstance(module, DeformableAttention):
                torch.nn.init.normal_(module.sampling_offsets.weight, 0, 0.3)
                torch.nn.init.normal_(module.attention_weights.weight, 0, 0.3)
    return model.eval()


def lift_features(model: BevModel, inputs: BevInputs) -> FeatureVolume:
    """What SimpleBEV's network puts into its volume."""
    table = model.project(inputs).table
    features = lift_with_table(model.image_features(inputs), table)
    return FeatureVolume(features=features, valid=table.valid)


def write_checkpoint(path: Path, config: ModelConfig | None = None, seed: int = 0) -> Path:
    """Write a random network's checkpoint."""
    checkpoint.save(path, make_model(config, seed), {'trained_on': 'nothing (random weights)'})
    return path
