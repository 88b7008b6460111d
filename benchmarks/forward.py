"""Time the network's path on this machine: python benchmarks/forward.py [--seconds 30].

Stages of one set of six 1600x900 images on the default config, and what each fast form saves over
its plain one. All variants run in turn in one process, so that a busy machine slows all alike;
the ratios (medians of the pairs of each round) are worth more than the milliseconds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.geometry.camera import Camera
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig
from bev_perception.model.fold import folded
from bev_perception.model.lift import lift
from bev_perception.model.lift_table import build_table, lift_with_table
from bev_perception.predictor import Predictor
from bev_perception.preprocess import prepare
from bev_perception.views import CameraView, ViewSet

YAWS_DEG = (55, 0, -55, 110, 180, -110)
PAIRS = (  # (plain, fast)
    ('lift, grid_sample', 'lift, table'),
    ('lift, grid_sample', 'table + lift'),
    ('encoder, plain', 'encoder, folded'),
    ('bev_net + head, InstanceNorm2d', 'bev_net + head, plain'),
    ('bev_net + head, plain', 'bev_net + head, folded'),
    ('forward, plain', 'predict'),
)


def make_view_set(size_px: tuple[int, int] = (1600, 900)) -> ViewSet:
    """Six cameras of 65 degrees around the vehicle, 1.5 m up."""
    width, height = size_px
    f = width / 2 / np.tan(np.radians(32.5))
    K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    rng = np.random.default_rng(0)
    views = []
    for i, yaw in enumerate(np.radians(YAWS_DEG)):
        c, s = np.cos(yaw), np.sin(yaw)
        views.append(
            CameraView(
                name=str(i),
                image=rng.integers(0, 255, (height, width, 3), np.uint8),
                camera=Camera(K=K, size_px=size_px),
                ego_T_cam=np.array([[s, 0, c, c], [-c, 0, s, s], [0, -1, 0, 1.5], [0, 0, 0, 1]]),
                stamp_ns=1,
            )
        )
    return ViewSet(stamp_ns=1, views=tuple(views))


def with_torch_norm(model: BevModel) -> BevModel:
    """Return a copy with `nn.InstanceNorm2d` in place of this package's form of it."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, torch.nn.InstanceNorm2d(child.num_channels))
    return model


def make_stages(config: ModelConfig) -> Mapping[str, Callable[[], object]]:
    """Return the stages by name."""
    torch.manual_seed(0)
    model, view_set = BevModel(config).eval(), make_view_set()
    cl = torch.channels_last
    # The plain network in its best memory format, so that only the named difference is timed.
    plain = copy.deepcopy(model).to(memory_format=cl)
    fast = folded(model).to(memory_format=cl)
    slow_norm = with_torch_norm(plain)
    predictor = Predictor(model, device='cpu')
    inputs = prepare(view_set, config)
    images = inputs.images[0].contiguous(memory_format=cl)
    width, height = config.image_size_px
    with torch.inference_mode():
        features = fast.encoder(images)

    def table():
        return build_table(
            inputs.K[0],
            inputs.ego_T_cam[0],
            inputs.live[0],
            grid=config.grid,
            size_px=config.image_size_px,
            feature_px=(width // 8, height // 8),
        )

    kept = table()
    volume = lift_with_table(features[None], kept)

    def sampled():
        args = (inputs.K, inputs.ego_T_cam, inputs.live)
        return lift(features[None], *args, grid=config.grid, size_px=config.image_size_px)

    return {
        'prepare': lambda: prepare(view_set, config),
        'table': table,
        'lift, table': lambda: lift_with_table(features[None], kept),
        'table + lift': lambda: lift_with_table(features[None], table()),
        'lift, grid_sample': sampled,
        'encoder, plain': lambda: plain.encoder(images),
        'encoder, folded': lambda: fast.encoder(images),
        'bev_net + head, InstanceNorm2d': lambda: slow_norm.head(slow_norm.bev_net(volume)),
        'bev_net + head, plain': lambda: plain.head(plain.bev_net(volume)),
        'bev_net + head, folded': lambda: fast.head(fast.bev_net(volume)),
        'predict': lambda: predictor.predict(inputs),
        'forward, plain': lambda: plain(inputs),
    }


def measure(stages: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Run all stages in turn until the time is up; return milliseconds by stage."""
    times: dict[str, list[float]] = {name: [] for name in stages}
    end = time.perf_counter() + seconds
    with torch.inference_mode():
        for stage in stages.values():  # warm up
            stage()
        while time.perf_counter() < end or len(times['predict']) < 3:
            for name, stage in stages.items():
                start = time.perf_counter()
                stage()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=30)
    seconds = parser.parse_args().seconds
    times = measure(make_stages(ModelConfig()), seconds)
    rounds = len(times['predict'])
    print(f'{torch.get_num_threads()} threads, {rounds} rounds, milliseconds: median (fastest)')
    for name, values in times.items():
        print(f'  {name:32} {statistics.median(values):8.1f} ({min(values):.1f})')
    print('times faster, median of the rounds')
    for slow, fast in PAIRS:
        ratio = statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))
        print(f'  {fast:32} {ratio:6.2f} x {slow}')


if __name__ == '__main__':
    main()
