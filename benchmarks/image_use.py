"""How much a pretrained network's answers come from the images.

    python benchmarks/image_use.py FRAMES RUN [RUN ...] [--samples 80]

FRAMES are converted drives with a lidar, none of which the runs learned from; RUN is OUT of `bev
pretrain`. Every sample is scored with its own images and with those of another drive, whose
cameras are taken to stand alike. What stays is what can be told without looking: from where a
point lies. The more of the score goes, the more the network looks.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_training.data.batch import Batch
from bev_training.data.loader import eval_loader
from bev_training.data.sample import SampleSource
from bev_training.data.sources import open_source
from bev_training.fit.teaching import Teaching
from bev_training.qualitative.pretrained import load_run
from bev_training.teachers.load import load_teacher

APART = 4  # samples of a batch, from equally many parts of the data


def spread(source: SampleSource, count: int) -> list[int]:
    """Return samples such that those of a batch lie as far apart as can be."""
    part = len(source) // APART
    at = range(0, part, max(1, part * APART // count))
    return [start + k * part for start in at for k in range(APART)]


def with_others_images(batch: Batch) -> Batch:
    """Give every sample the images of the one before it; all else, also its targets, stays."""
    inputs = batch.inputs
    return replace(batch, inputs=replace(inputs, images=inputs.images.roll(1, 0)))


@torch.no_grad()
def scores(run: Path, frames: Path, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the scores of a run with the samples' own images, and with others'."""
    network, objective, config = load_run(run)
    config = replace(config, teacher=replace(config.teacher, cache=False))
    teaching = None
    if config.has_teacher:
        teaching = Teaching(teacher=load_teacher(config.teacher), cache=None)
    source = open_source(frames, classes=(), grid=config.model.grid)
    batches = eval_loader(
        source,
        spread(source, count),
        model=config.model,
        batch_size=APART,
        workers=0,
        pretraining=config,
    )
    names = objective.score_names
    own, other = (torch.zeros(len(names), 2, dtype=torch.float64) for _ in range(2))

    def counted(batch: Batch) -> Tensor:
        found = objective.scores(network.see(batch.inputs), batch)
        return torch.tensor([[float(value) for value in found[name]] for name in names])

    for plain in batches:
        batch = teaching.complete(plain) if teaching else plain
        own += counted(batch)
        other += counted(with_others_images(batch))
    values = [(total[:, 0] / total[:, 1]).tolist() for total in (own, other)]
    return dict(zip(names, values[0], strict=True)), dict(zip(names, values[1], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('frames', type=Path)
    parser.add_argument('runs', type=Path, nargs='+')
    parser.add_argument('--samples', type=int, default=80)
    chosen = parser.parse_args()
    for run in chosen.runs:
        own, other = scores(run, chosen.frames, chosen.samples)
        said = ', '.join(f'{name} {own[name]:.3f} -> {other[name]:.3f}' for name in own)
        print(f"{run.name}: own images -> another drive's: {said}", flush=True)


if __name__ == '__main__':
    main()
