"""Time OccFeat's head on this machine: python benchmarks/occfeat_head.py [--repeats 3].

The loss of the pretraining head and its gradients, twice: all features of all voxels, layer by
layer as the paper writes it, and the form that training uses. Both run in turn in one process, so
that a busy machine slows both alike; the ratio (median over the rounds) is worth more than the
seconds. Memory is the peak of a process that does only this, less what it had before.
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

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_training.objectives.unsplat import UnsplatHead

LAMBDA = 0.01


def dense_loss(head: UnsplatHead, plane: Tensor, occupied: Tensor, target: Tensor) -> Tensor:
    """The reference."""
    logits, features = head.dense(plane)
    assert features is not None
    at = occupied.nonzero().unbind(1)
    chosen = features[at[0], :, at[1], at[2], at[3]]
    bce = F.binary_cross_entropy_with_logits(logits, occupied.float())
    return bce - LAMBDA * F.cosine_similarity(chosen, target).mean()


def fast_loss(head: UnsplatHead, plane: Tensor, occupied: Tensor, target: Tensor) -> Tensor:
    rows = head.rows(plane)
    known = torch.ones(len(plane), dtype=torch.bool, device=plane.device)
    bce = head.occupancy_bce(rows, occupied, known) / len(plane)
    chosen = head.features_at(rows, occupied.nonzero())
    return bce - LAMBDA * F.cosine_similarity(chosen, target).mean()


FORMS: dict[str, Callable[[UnsplatHead, Tensor, Tensor, Tensor], Tensor]] = {
    'dense': dense_loss,
    'fast': fast_loss,
}


def make_step(form: str, sizes: argparse.Namespace) -> Callable[[], float]:
    """Return a function that makes the gradients once and returns the loss."""
    z, y, x = sizes.voxels
    torch.manual_seed(0)
    device = torch.device(sizes.device)
    head = UnsplatHead(sizes.channels, z, sizes.features).to(device)
    make = torch.Generator().manual_seed(1)
    plane = torch.randn(sizes.batch, sizes.channels, y, x, generator=make)
    plane = plane.to(device, memory_format=torch.channels_last).requires_grad_()
    occupied = torch.rand(sizes.batch, z, y, x, generator=make) < sizes.occupied
    target = torch.randn(int(occupied.sum()), sizes.features, generator=make).to(device)
    occupied, loss_of = occupied.to(device), FORMS[form]

    def step() -> float:
        head.zero_grad()
        plane.grad = None
        loss = loss_of(head, plane, occupied, target)
        loss.backward()
        return loss.item()  # and waits for the device

    return step


def peak_mib(form: str, sizes: argparse.Namespace) -> float:
    """Return by how much a step raises the peak memory of a process that does only this."""
    given = [str(value) for value in sizes.voxels]
    options = ['--memory-of', form, '--voxels', *given]
    for name in ('channels', 'features', 'occupied', 'batch', 'device'):
        options += [f'--{name}', str(getattr(sizes, name))]
    script = [sys.executable, __file__, *options]
    return json.loads(subprocess.run(script, capture_output=True, check=True).stdout)


def print_peak(form: str, sizes: argparse.Namespace) -> None:
    step = make_step(form, sizes)
    on_cpu = sizes.device == 'cpu'
    if on_cpu:  # libraries load some of themselves at their first call
        small = argparse.Namespace(**{**vars(sizes), 'voxels': [1, 8, 8], 'batch': 1})
        make_step(form, small)()
    before = resident_mib('VmRSS') if on_cpu else torch.cuda.memory_allocated() / 2**20
    step()
    after = resident_mib('VmHWM') if on_cpu else torch.cuda.max_memory_allocated() / 2**20
    print(after - before)


def resident_mib(field: str) -> float:
    # Not getrusage's figure: a child starts with its parent's.
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{field}:')[1].split()[0]) / 1024


def report(sizes: argparse.Namespace) -> None:
    steps = {form: make_step(form, sizes) for form in FORMS}
    losses = {form: step() for form, step in steps.items()}  # warm up
    if abs(losses['dense'] - losses['fast']) > 1e-4 * abs(losses['dense']):
        raise SystemExit(f'the two forms are not the same head: {losses}')
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(sizes.repeats):
        for form, step in steps.items():
            start = time.perf_counter()
            step()
            times[form].append(time.perf_counter() - start)
    del steps
    memory = {form: peak_mib(form, sizes) for form in FORMS}
    z, y, x = sizes.voxels
    print(
        f'batch {sizes.batch}, {sizes.channels} channels, {z} x {y} x {x} voxels, '
        f'{100 * sizes.occupied:g} % occupied, {sizes.features} features, {sizes.device}, '
        f'{torch.get_num_threads()} threads, {sizes.repeats} rounds'
    )
    for form, values in times.items():
        print(
            f'  {form:6} {statistics.median(values):7.3f} s ({min(values):.3f} the fastest), '
            f'{memory[form]:7.0f} MiB, loss {losses[form]:.6f}'
        )
    pairs = zip(times['dense'], times['fast'], strict=True)
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    less = memory['dense'] / max(memory['fast'], 0.1)
    print(f'  features of {100 * sizes.occupied:g} % of the voxels: 1/{1 / sizes.occupied:.0f}')
    print(f'  fast is {ratio:.1f} times faster with 1/{less:.0f} of the memory', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--channels', type=int, default=128)
    parser.add_argument('--voxels', type=int, nargs=3, default=[8, 200, 200], metavar='N')
    parser.add_argument('--features', type=int, default=384)
    parser.add_argument('--occupied', type=float, default=0.0125, help='share of the voxels')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--memory-of', choices=FORMS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory_of:
        print_peak(chosen.memory_of, chosen)
    else:
        report(chosen)


if __name__ == '__main__':
    main()
