"""Time a pretraining step against a supervised one: python benchmarks/pretraining_step.py

    [--pretrain town_occfeat] [--finetune town_small] [--data FRAMES] [--batch N] [--repeats 5]

The same network on the same samples, as two recipes train it: loss, gradients, clipping and
optimiser. What they need is in memory: images, labels, lidar targets and the teacher's features
(its weights do not change the time; those of a ViT are random here). Both take turns in one
process, so that a busy machine slows both alike; the ratio (median over the rounds) is worth more
than the seconds. FRAMES is a folder of converted drives with labels and a lidar; without one, a
synthetic drive is made in a temporary folder. A batch is one forward pass of the first recipe,
unless N says otherwise; averages of weights are left out.

At the size of the paper (a step of one sample takes about 8 s on one core):

  ... --pretrain occfeat_nuscenes --finetune nuscenes_vehicle_100pct --batch 1 --repeats 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.loader import make_frames
from benchmarks.teacher_cache import with_random_weights
from bev_perception.model.bev_model import BevModel
from bev_training.data.loader import train_loader
from bev_training.data.sources import open_source
from bev_training.fit import ranks
from bev_training.fit.learner import Learner
from bev_training.fit.prepare import reproducible
from bev_training.fit.recipes import find_recipe, read_recipe
from bev_training.fit.settings import TrainConfig
from bev_training.fit.stop import Stop
from bev_training.fit.teaching import Teaching
from bev_training.teachers.dinov2 import VITS
from bev_training.teachers.load import load_teacher

BATCHES = 2  # that a recipe's steps take in turn
Step = Callable[[], dict[str, float]]


def settings_of(recipe: str, changed: list[str], device: str, batch: int) -> TrainConfig:
    pairs = [tuple(text.split('=', 1)) for text in changed]
    config = read_recipe(find_recipe(recipe), pairs)
    return replace(
        config,
        data=replace(config.data, workers=0, labels_percent=100),
        weights='random',
        steps=10_000,  # of a schedule that nobody finishes
        accumulate=1,
        batch_size=batch or config.batch_size,
        ema_decay=0,
        accelerator=device,
    )


def teaching_of(config: TrainConfig, device: torch.device, work: Path) -> Teaching | None:
    if not config.has_teacher:
        return None
    if config.teacher.name in VITS:
        teacher = with_random_weights(config.teacher, work)
    else:
        teacher = load_teacher(config.teacher)
    return Teaching(teacher=teacher.to(device), cache=None)


def make_step(config: TrainConfig, frames: Path, work: Path) -> Step:
    """Return a function that takes a step of training and returns what it gave."""
    torch.manual_seed(0)
    fabric = ranks.start(config)
    teaching = teaching_of(config, fabric.device, work)
    model = config.model
    source = open_source(frames, classes=model.classes, grid=model.grid)
    loader = train_loader(
        source, range(len(source)), config=replace(config, seed=0), first_step=0, steps=BATCHES
    )
    batches = [batch.to(fabric.device) for batch in loader]
    if teaching:
        batches = [teaching.complete(batch) for batch in batches]
    learner = Learner(fabric, BevModel(model), config, steps=config.steps, teaching=teaching)
    stream, stop, number = cycle(batches), Stop(), iter(range(1, config.steps))
    return lambda: learner.step(stream, next(number), stop).values


def same_network(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether two recipes differ in the network's heads alone."""
    headless = [
        replace(config.model, classes=(), obstacle_classes=(), center_offset=False)
        for config in (one, other)
    ]
    return headless[0] == headless[1]


def report(configs: dict[str, TrainConfig], frames: Path, repeats: int, work: Path) -> None:
    (pretrain, config), (finetune, _) = configs.items()
    steps = {name: make_step(each, frames, work) for name, each in configs.items()}
    first = {name: step() for name, step in steps.items()}  # warm up
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()  # gives figures, and so waits for the device
            times[name].append(time.perf_counter() - start)
    model = config.model
    z, y, x = model.grid.shape
    print(
        f'{model.network}, {model.backbone}, {model.channels} channels, '
        f'{model.image_size_px[0]} x {model.image_size_px[1]} px to {z} x {y} x {x} voxels, '
        f'batch {config.batch_size}, {config.precision}, {torch.get_num_threads()} threads, '
        f'{repeats} rounds'
    )
    for name, values in times.items():
        terms = ', '.join(
            f'{term} {value:.4g}'
            for term, value in first[name].items()
            if term not in ('lr', 'grad_norm')
        )
        print(
            f'  {name:24} {statistics.median(values):7.2f} s ({min(values):.2f} the fastest); '
            f'first step: {terms}'
        )
    pairs = zip(times[pretrain], times[finetune], strict=True)
    ratios = sorted(before / after for before, after in pairs)
    print(
        f'  a step of {pretrain} costs {statistics.median(ratios):.2f} times one of {finetune} '
        f'({ratios[0]:.2f} to {ratios[-1]:.2f})',
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--pretrain', default='town_occfeat', metavar='RECIPE')
    parser.add_argument('--finetune', default='town_small', metavar='RECIPE')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', help='of both')
    parser.add_argument('--data', type=Path, help='folder of converted drives with labels')
    parser.add_argument('--batch', type=int, default=0)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    chosen = parser.parse_args()
    one = settings_of(chosen.pretrain, chosen.set, chosen.device, chosen.batch)
    other = settings_of(chosen.finetune, chosen.set, chosen.device, one.batch_size)
    if not same_network(one, other):
        raise SystemExit(f'{chosen.pretrain} and {chosen.finetune} train different networks')
    with tempfile.TemporaryDirectory() as folder, reproducible(torch.device(chosen.device)):
        work = Path(folder)
        frames = chosen.data or make_frames(work)
        report({chosen.pretrain: one, chosen.finetune: other}, frames, chosen.repeats, work)


if __name__ == '__main__':
    main()
