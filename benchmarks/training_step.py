"""Time a training step on this machine: python benchmarks/training_step.py [--repeats 3].

The same network, weights, batch and loss twice: with the lift as simple_bev writes it (every voxel
sampled in every camera, the mean over samples that are not zero), and through the sparse table.
Both run in turn in one process, so that a busy machine slows both alike; the ratio (median over
the rounds) is worth more than the seconds. Peak memory is that of a process that does only this.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig
from bev_perception.model.lift import project, voxel_centers
from bev_perception.model.tensors import BevInputs, BevPrediction, FeatureVolume

YAWS_DEG = (55, 0, -55, 110, 180, -110)
SETTINGS = {
    'simple_bev': ModelConfig(
        backbone='efficientnet_b0',
        channels=128,
        grid=BevGrid(z_range_m=(-4.5, 5.5), z_cells=8),
        classes=('vehicle',),
        center_offset=True,
    ),
    'default': ModelConfig(),
}


def make_inputs(config: ModelConfig, batch: int) -> BevInputs:
    """Six cameras of 65 degrees around the vehicle, 1.5 m up; images of noise."""
    width, height = config.image_size_px
    f = width / 2 / np.tan(np.radians(32.5))
    K = torch.tensor([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    yaw = torch.deg2rad(torch.tensor(YAWS_DEG, dtype=torch.float64))
    c, s, no, one = yaw.cos(), yaw.sin(), torch.zeros(6), torch.ones(6)
    rows = [[s, no, c, c], [-c, no, s, s], [no, -one, no, 1.5 * one], [no, no, no, one]]
    poses = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return BevInputs(
        images=torch.randn(batch, 6, 3, height, width, generator=torch.manual_seed(0)),
        K=K.float().expand(batch, 6, 3, 3),
        ego_T_cam=poses.float().expand(batch, 6, 4, 4),
        live=torch.ones(batch, 6, dtype=torch.bool),
    )


def lift_every_camera(features: Tensor, inputs: BevInputs, config: ModelConfig) -> FeatureVolume:
    """The reference: one volume per camera from a 3D grid_sample, then an elementwise mean."""
    b, n, c = features.shape[:3]
    points = voxel_centers(config.grid, features.device)
    uv, seen = project(points, inputs.K, inputs.ego_T_cam, config.image_size_px)
    at = 2 * (uv + 0.5) / torch.tensor(config.image_size_px) - 1
    at = torch.cat([at, torch.zeros_like(at[..., :1])], -1)
    volumes = F.grid_sample(
        features.reshape(b * n, c, 1, *features.shape[3:]),
        at.reshape(b * n, *config.grid.shape, 3),
        padding_mode='border',
        align_corners=False,
    )
    seen = (seen & inputs.live[..., None]).reshape(b, n, 1, *config.grid.shape)
    volumes = volumes.reshape(b, n, c, *config.grid.shape) * seen
    mask = (volumes.abs() > 0).float()
    mean = (volumes * mask).sum(1) / (1e-6 + mask.sum(1))
    return FeatureVolume(features=mean, valid=seen.any(1)[:, 0])


def forward_reference(model: BevModel, inputs: BevInputs) -> BevPrediction:
    volume = lift_every_camera(model.image_features(inputs), inputs, model.config)
    heads = model.heads(model.bev_net(volume.features))
    return BevPrediction(valid=volume.valid.any(1), **heads)


FORMS: dict[str, Callable[[BevModel, BevInputs], BevPrediction]] = {
    'reference': forward_reference,
    'table': lambda model, inputs: model(inputs),
}


def make_step(setting: str, form: str, batch: int) -> Callable[[], float]:
    """Return a function that does one step of training and returns the loss."""
    config = SETTINGS[setting]
    torch.manual_seed(0)
    model = BevModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs, forward = make_inputs(config, batch), FORMS[form]
    _, y, x = config.grid.shape
    noise = torch.rand(batch, 1, y, x, generator=torch.manual_seed(1))
    truth = (noise < 0.1).float()

    def step() -> float:
        out = forward(model, inputs)
        loss = F.binary_cross_entropy_with_logits(out.logits, truth.expand_as(out.logits))
        if out.center is not None and out.offset is not None:
            loss = loss + F.mse_loss(out.center.sigmoid(), noise)
            loss = loss + F.l1_loss(out.offset * truth, (noise * truth).expand_as(out.offset))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def peak_mib(setting: str, form: str, batch: int) -> float:
    """Return the peak memory of a process that does two steps."""
    script = [sys.executable, __file__, '--memory-of', form, '--settings', setting]
    done = subprocess.run([*script, '--batch', str(batch)], capture_output=True, check=True)
    return json.loads(done.stdout)


def report(setting: str, batch: int, repeats: int) -> None:
    steps = {form: make_step(setting, form, batch) for form in FORMS}
    losses = {form: step() for form, step in steps.items()}  # warm up
    if abs(losses['reference'] - losses['table']) > 1e-3 * losses['reference']:
        raise SystemExit(f'{setting}: the two forms are not the same network: {losses}')
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form, step in steps.items():
            start = time.perf_counter()
            step()
            times[form].append(time.perf_counter() - start)
    del steps
    memory = {form: peak_mib(setting, form, batch) for form in FORMS}
    print(f'{setting}, batch {batch}, {torch.get_num_threads()} threads, {repeats} rounds')
    for form, values in times.items():
        print(
            f'  {form:10} {statistics.median(values):7.2f} s ({min(values):.2f} the fastest), '
            f'{memory[form]:6.0f} MiB, first loss {losses[form]:.5f}'
        )
    pairs = zip(times['reference'], times['table'], strict=True)
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    less = memory['reference'] / memory['table']
    print(f'  the table is {ratio:.2f} times faster with 1/{less:.2f} of the memory', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--memory-of', choices=FORMS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory_of:
        step = make_step(chosen.settings[0], chosen.memory_of, chosen.batch)
        for _ in range(2):
            step()
        # Not getrusage's figure: a child starts with its parent's.
        status = Path('/proc/self/status').read_text()
        print(int(status.split('VmHWM:')[1].split()[0]) / 1024)
        return
    for setting in chosen.settings:
        report(setting, chosen.batch, chosen.repeats)


if __name__ == '__main__':
    main()
