"""Samples per second of the loader against what a training step takes, and its memory.

python benchmarks/loader.py [--data FRAMES] [--workers 2] [--seconds 40]

FRAMES is a folder of converted drives with labels (`bev convert`, `bev label`); without one, a
synthetic drive is made in a temporary folder. The loader does all that it does in training: read,
decode, augment by the default settings, prepare, stack. The step is forward and backward of the
default network at batch 1. Both take turns: on one core in processor time, which a busy machine
lengthens little, then on all cores; ratios are medians over the rounds. Memory is what the reading
processes hold for themselves while the data set is listed once, 10 and 100 times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig
from bev_training.data.batch import Batch
from bev_training.data.loader import train_loader
from bev_training.data.sources import open_source
from bev_training.data.truth_labels import label_drives
from bev_training.fit.settings import DataConfig, TrainConfig

REPOSITORY = Path(__file__).resolve().parents[1]
ROUND_SAMPLES = 16


def make_frames(work: Path) -> Path:
    """Make a labelled drive of 24 frames with images of 800x450."""
    bev = [sys.executable, '-m', 'bev_training.cli']
    rig = REPOSITORY / 'config' / 'rigs' / 'nuscenes_2hz.yaml'
    synth = ['synth', work / 'drive', '--seconds', '12', '--rig', rig, '--size', '800x450']
    for command in (
        [*synth, '--no-image-truth'],
        ['convert', work / 'drive', work / 'frames', '--every', 'all'],
    ):
        subprocess.run([*bev, *map(str, command)], check=True, cwd=REPOSITORY)
    outcome = label_drives(work / 'frames', [work / 'drive'])
    assert len(outcome.done) == 1, outcome
    return work / 'frames'


def open_frames(frames: Path, config: ModelConfig):
    return open_source(frames, classes=config.classes, grid=config.grid)


def endless(frames: Path, workers: int) -> Iterator[Batch]:
    """Yield batches of one sample without end, as a run does."""
    config = TrainConfig(batch_size=1, data=DataConfig(workers=workers))
    source = open_frames(frames, config.model)
    loader = train_loader(source, range(len(source)), config=config, first_step=0, steps=10**9)
    return iter(loader)


def measure(frames: Path, workers: int, seconds: float) -> None:
    torch.manual_seed(0)
    model, loader = BevModel(ModelConfig()).train(), endless(frames, workers)
    batch = next(loader)

    def step() -> float:
        start = time.perf_counter()
        logits = model(batch.inputs).logits
        F.binary_cross_entropy_with_logits(logits, batch.targets.positive.float()).backward()
        model.zero_grad()
        return time.perf_counter() - start

    def load() -> float:
        for _ in islice(loader, 2 * workers):  # what was ready
            pass
        start = time.perf_counter()
        for _ in islice(loader, ROUND_SAMPLES):
            pass
        return (time.perf_counter() - start) / ROUND_SAMPLES

    step(), load()
    steps, loads = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(steps) < 3:
        loads.append(load())
        time.sleep(0.5)  # until the processes have read ahead what they may
        steps.append(step())
    loader.close()
    ratio = statistics.median(a / b for a, b in zip(steps, loads, strict=True))
    print(f'{workers} processes, {torch.get_num_threads()} threads, {len(steps)} rounds, medians')
    print(f'  loader {1 / statistics.median(loads):8.2f} samples/s')
    print(f'  step   {1 / statistics.median(steps):8.2f} samples/s, batch 1')
    print(f'  the loader gives {ratio:.1f} times what the step takes')


def measure_one_core(frames: Path, rounds: int = 3) -> None:
    """Compare processor time, which other programs do not lengthen by their turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    torch.manual_seed(0)
    model, loader = BevModel(ModelConfig()).train(), endless(frames, 0)
    batch = next(loader)
    steps, loads = [], []
    for _ in range(rounds + 1):
        start = time.process_time()
        for _ in islice(loader, ROUND_SAMPLES):
            pass
        between = time.process_time()
        logits = model(batch.inputs).logits
        F.binary_cross_entropy_with_logits(logits, batch.targets.positive.float()).backward()
        model.zero_grad()
        steps.append(time.process_time() - between)
        loads.append((between - start) / ROUND_SAMPLES)
    torch.set_num_threads(threads)
    ratio = statistics.median(a / b for a, b in zip(steps[1:], loads[1:], strict=True))
    print(f'on one core, {rounds} rounds, medians of processor time')
    print(f'  loader {1e3 * statistics.median(loads[1:]):8.1f} ms per sample')
    print(f'  step   {1e3 * statistics.median(steps[1:]):8.1f} ms per sample, batch 1')
    print(f'  the step takes {ratio:.1f} times what the loader takes')


def readers() -> list[int]:
    """Return the reading processes: children of the server that this process started."""
    parents = {}
    for status in Path('/proc').glob('[0-9]*/stat'):
        try:
            parents[int(status.parent.name)] = int(
                status.read_text().rpartition(')')[2].split()[1]
            )
        except FileNotFoundError:  # it has ended
            continue
    mine = {pid for pid, parent in parents.items() if parent == os.getpid()}
    return [pid for pid, parent in parents.items() if parent in mine]


def private_mib(pid: int) -> float:
    """Return the memory that a process shares with nobody, written since its start."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith('Private_Dirty')) / 1024


def measure_memory(frames: Path, work: Path, workers: int) -> None:
    print('memory of each reading process after 96 samples, of its own')
    drives = [path.parent for path in sorted(frames.glob('**/manifest.json'))]
    first = None
    for times in (1, 10, 100):
        listed = work / f'listed-{times}'
        listed.mkdir()
        for i in range(times):
            for drive in drives:
                (listed / f'{drive.name}-{i:04d}').symlink_to(drive.resolve())
        count = len(open_frames(listed, ModelConfig()))
        loader = endless(listed, workers)
        for _ in islice(loader, 96):
            pass
        mib = statistics.mean(private_mib(pid) for pid in readers())
        loader.close()
        first = first or mib
        print(f'  {count:7d} samples {mib:8.1f} MiB  {mib / first:5.2f} x')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, help='converted drives with labels')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1)
    parser.add_argument('--seconds', type=float, default=40)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        frames = chosen.data or make_frames(work)
        measure_one_core(frames)
        measure(frames, chosen.workers, chosen.seconds)
        measure_memory(frames, work, chosen.workers)


if __name__ == '__main__':
    main()
