"""Time BEVFormer's layers on this machine: python benchmarks/bevformer.py [--repeats 3].

The same layers, weights, cameras and features twice: with every cell sampled in every image by
grid_sample and then masked (the plain form), and over the pairs of a cell and a camera that sees
it (the fast form). Both run in turn in one process, so that a busy machine slows both alike; the
ratios (medians over the rounds) are worth more than the seconds. Peak memory is that of a process
that does only this. simple_bev's own size is
`--cells 200 --channels 128 --heights 8 --layers 6`; its plain form wants some 30 GiB to train.
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
from unittest import mock

import torch
from training_step import make_inputs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.geometry.grid import BevGrid
from bev_perception.model import bevformer, deformable
from bev_perception.model.anchors import build_anchors
from bev_perception.model.backbone import STRIDE
from bev_perception.model.config import AttentionConfig, ModelConfig

FORMS = {'plain': deformable.attend_plain, 'fast': deformable.attend}
WORK = ('forward', 'step')
SIDE_M = 100.0


def make_work(form: str, chosen: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Return the forward pass and the training step, which return a number of their results."""
    config = ModelConfig(
        network='bevformer',
        grid=BevGrid(cell_m=SIDE_M / chosen.cells, z_range_m=(-4, 6), z_cells=chosen.heights),
        channels=chosen.channels,
        attention=AttentionConfig(layers=chosen.layers, temporal=chosen.temporal, dropout=0),
    )
    torch.manual_seed(0)
    net = bevformer.BevFormer(config)
    inputs = make_inputs(config, chosen.batch)
    width, height = (side // STRIDE for side in config.image_size_px)
    shape = (*inputs.live.shape, config.channels, height, width)
    features = torch.randn(shape, generator=torch.manual_seed(1)).requires_grad_()
    anchors = build_anchors(
        inputs.K,
        inputs.ego_T_cam,
        inputs.live,
        grid=config.grid,
        size_px=config.image_size_px,
        feature_px=(width, height),
    )

    def run() -> torch.Tensor:
        with mock.patch.object(bevformer, 'attend', FORMS[form]):
            return net(features, anchors)

    def forward() -> float:
        with torch.inference_mode():
            return run().abs().sum().item()

    def step() -> float:
        net.zero_grad()
        features.grad = None
        run().pow(3).mean().backward()
        return features.grad.abs().sum().item()

    return {'forward': forward, 'step': step}


def peak_mib(form: str, work: str) -> float:
    """Return the peak memory of a process that does the work twice."""
    script = [sys.executable, __file__, *sys.argv[1:], '--memory-of', form, work]
    return json.loads(subprocess.run(script, capture_output=True, check=True).stdout)


def report(chosen: argparse.Namespace) -> None:
    works = {form: make_work(form, chosen) for form in FORMS}
    print(
        f'{chosen.cells} x {chosen.cells} cells, {chosen.heights} heights, {chosen.channels} '
        f'channels, {chosen.layers} layers, batch {chosen.batch}, '
        f'{torch.get_num_threads()} threads, {chosen.repeats} rounds'
    )
    for work in WORK:
        first = {form: works[form][work]() for form in FORMS}  # warm up
        if abs(first['plain'] - first['fast']) > 1e-3 * first['plain']:
            raise SystemExit(f'{work}: the two forms are not the same network: {first}')
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(chosen.repeats):
            for form in FORMS:
                start = time.perf_counter()
                works[form][work]()
                times[form].append(time.perf_counter() - start)
        memory = {form: peak_mib(form, work) for form in FORMS}
        for form, values in times.items():
            print(
                f'  {work:8} {form:6} {statistics.median(values):7.3f} s '
                f'({min(values):.3f} the fastest), {memory[form]:6.0f} MiB'
            )
        pairs = zip(times['plain'], times['fast'], strict=True)
        ratio = statistics.median(slow / fast for slow, fast in pairs)
        less = memory['plain'] / memory['fast']
        print(f'  {work}: {ratio:.2f} times faster with 1/{less:.2f} of the memory', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cells', type=int, default=100)
    parser.add_argument('--heights', type=int, default=4)
    parser.add_argument('--channels', type=int, default=64)
    parser.add_argument('--layers', type=int, default=2)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--temporal', action='store_true')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--memory-of', nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not chosen.memory_of:
        report(chosen)
        return
    form, work = chosen.memory_of
    run = make_work(form, chosen)[work]
    for _ in range(2):
        run()
    # Not getrusage's figure: a child starts with its parent's.
    status = Path('/proc/self/status').read_text()
    print(int(status.split('VmHWM:')[1].split()[0]) / 1024)


if __name__ == '__main__':
    main()
