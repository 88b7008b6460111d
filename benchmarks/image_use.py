"""How much a pretrained network's answers come from the images.

    python benchmarks/image_use.py FRAMES RUN [RUN ...] [--samples 80]

FRAMES are converted drives with a lidar, none of which the runs learned from; RUN is OUT of `bev
pretrain`. Every sample is scored with its own images and with those of another drive, whose
cameras are taken to stand alike. What stays is what can be told without looking: from where a
point lies. The more of the score goes, the more the network looks.

The last figures are of the plane of features that goes on to fine-tuning: how much of its variance
over cells and samples comes with the images. 0 is a plane that is the same whatever they show.
Untrained is the same network with random weights behind the same backbone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.model.bev_model import BevModel
from bev_perception.model.tensors import BevPlane
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


class Planes:
    """Sums over the planes that a network makes of the same samples with two sets of images."""

    def __init__(self, channels: int) -> None:
        self.cells, self.apart = 0, 0.0
        self.sums, self.squares = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, own: Tensor, other: Tensor) -> None:
        """Count two planes (b, c, y, x)."""
        own, other = own.double(), other.double()
        self.apart += float((own - other).square().sum())
        self.sums += own.sum((0, 2, 3))
        self.squares += own.square().sum((0, 2, 3))
        self.cells += own[:, 0].numel()

    def share(self) -> float:
        """Return how much of the variance is between images: two draws of a variable are apart by
        twice its variance, squared and on average.
        """
        whole = float((self.squares - self.sums**2 / self.cells).sum())
        return self.apart / 2 / whole


@torch.no_grad()
def scores(
    run: Path, frames: Path, count: int
) -> tuple[dict[str, float], dict[str, float], float, float]:
    """Return the scores of a run with the samples' own images, those with others', and the share
    of the features' variance that comes with the images, of the run and untrained.
    """
    network, objective, config = load_run(run)
    torch.manual_seed(config.seed)
    untrained = BevModel(network.config).eval()
    untrained.encoder.trunk.load_state_dict(network.encoder.trunk.state_dict())
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

    def counted(plane: BevPlane, batch: Batch) -> Tensor:
        found = objective.scores(plane, batch)
        return torch.tensor([[float(value) for value in found[name]] for name in names])

    planes, first = (Planes(config.model.channels) for _ in range(2))
    for plain in batches:
        batch = teaching.complete(plain) if teaching else plain
        others = with_others_images(batch)
        seen, not_seen = network.see(batch.inputs), network.see(others.inputs)
        own += counted(seen, batch)
        other += counted(not_seen, batch)
        planes.add(seen.features, not_seen.features)
        first.add(untrained.see(batch.inputs).features, untrained.see(others.inputs).features)
    with_own, with_other = (
        dict(zip(names, (total[:, 0] / total[:, 1]).tolist(), strict=True))
        for total in (own, other)
    )
    return with_own, with_other, planes.share(), first.share()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('frames', type=Path)
    parser.add_argument('runs', type=Path, nargs='+')
    parser.add_argument('--samples', type=int, default=80)
    chosen = parser.parse_args()
    for run in chosen.runs:
        own, other, share, untrained = scores(run, chosen.frames, chosen.samples)
        said = ', '.join(f'{name} {own[name]:.3f} -> {other[name]:.3f}' for name in own)
        print(
            f"{run.name}: own images -> another drive's: {said}; "
            f'{100 * share:.1f} % of the features come with the images '
            f'({100 * untrained:.1f} % untrained)',
            flush=True,
        )


if __name__ == '__main__':
    main()
