"""Time of an evaluation against the network's own forward.

python benchmarks/evaluation.py CKPT DATA [--samples 8] [--rounds 3] [--threads 0] [--device auto]

Per sample: the network alone on prepared inputs, against the whole of `evaluate` with baselines,
which also reads, decodes, prepares, looks at labels, counts, and projects images on the ground.
Both run the same samples in turn, so that a busy machine slows both alike. Below that, what the
parts take by themselves.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.model.checkpoint import load
from bev_perception.predictor import Predictor
from bev_perception.preprocess import decode_size_px, prepare
from bev_training.data.sources import open_source
from bev_training.evaluation.baselines import Baselines
from bev_training.evaluation.evaluate import evaluate, evenly_spaced
from bev_training.evaluation.ground import GroundColors
from bev_training.metrics import PooledScores


class Timer:
    """Keeps milliseconds by name."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}

    def __call__(self, name: str, call, *given):
        """Call something and keep how long it took."""
        began = time.perf_counter()
        found = call(*given)
        self.taken.setdefault(name, []).append(1e3 * (time.perf_counter() - began))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('data')
    parser.add_argument('--samples', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=0, help='of torch (its own choice)')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--split', default='')
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    loaded = load(chosen.checkpoint)
    config = loaded.model.config
    source = open_source(chosen.data, classes=config.classes, grid=config.grid, split=chosen.split)
    indices = evenly_spaced(len(source), chosen.samples)
    predictor = Predictor(loaded.model, device=chosen.device)
    timer, prepared = Timer(), []
    pooled = PooledScores(config.classes, config.grid)
    simple = Baselines(config.classes, config.grid, [source.scenes[i] for i in indices])
    colors = GroundColors(config)

    def read(i: int):
        return source.view_set(i, at_least_px=decode_size_px(config))

    for i in indices:
        view_set = timer('read and decode', read, i)
        inputs = timer('prepare', prepare, view_set, config)
        labels = timer('labels', source.labels, i)
        tints = timer('ground colours', colors, inputs)
        said = predictor.predict(inputs)
        timer('scores', pooled.update, said.classes, labels, said.valid)
        timer('baselines, counts', simple.add, labels, said.valid, tints)
        prepared.append(inputs)
    timer('baselines, result', simple.result)

    ratios, alone, whole = [], [], []
    for _ in range(chosen.rounds):
        began = time.perf_counter()
        for inputs in prepared:
            predictor.predict(inputs)
        forward_s = time.perf_counter() - began
        done = evaluate(loaded, source, limit=chosen.samples, device=chosen.device, baselines=True)
        alone.append(1e3 * forward_s / len(indices))
        whole.append(1e3 * done.seconds / len(indices))
        ratios.append(done.seconds / forward_s)
    print(
        f'{len(indices)} samples of {config.network}, {config.backbone}, on {predictor.device}, '
        f'{torch.get_num_threads()} threads of torch; medians of {chosen.rounds} rounds'
    )
    print(f'forward alone         {statistics.median(alone):8.1f} ms a sample')
    print(f'evaluation            {statistics.median(whole):8.1f} ms a sample')
    print(
        f'ratio                 {statistics.median(ratios):8.2f}  {[round(r, 2) for r in ratios]}'
    )
    for name, taken in timer.taken.items():
        print(f'  {name:20}{statistics.median(taken):8.1f} ms')


if __name__ == '__main__':
    main()
