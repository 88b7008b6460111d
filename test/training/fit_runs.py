"""Tiny training runs for tests, and what they leave behind."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bev_perception.views import ViewSet
from bev_training.fit.loop import FitResult, fit
from bev_training.fit.settings import DataConfig, OptimizerConfig, TrainConfig
from test.training.fake_source import FakeSource, make_fake_model, make_fake_source


@pytest.fixture(autouse=True, scope='module')
def one_thread() -> Iterator[None]:
    """Tiny tensors are faster without more, and tests share the machine. Import it to use it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_run_config(model=None, **values) -> TrainConfig:
    """Two steps of two samples, in this process, from random weights."""
    tiny = {
        'data': DataConfig(workers=0),
        'optimizer': OptimizerConfig(lr=1e-3),
        'weights': 'random',
        'steps': 2,
        'batch_size': 2,
        'accelerator': 'cpu',
    }
    return TrainConfig(model=model or make_fake_model(), **{**tiny, **values})


def run(config: TrainConfig, out: Path, samples: int = 6, **values) -> FitResult:
    """Train on a fake source."""
    return fit(config, out, **{'train': make_fake_source(samples), **values})


def rows_of(out: Path) -> list[dict[str, str]]:
    """The table, without the column that differs from run to run."""
    with (out / 'metrics.csv').open() as file:
        return [
            {k: v for k, v in row.items() if k != 'samples_per_s'} for row in csv.DictReader(file)
        ]


def losses_of(out: Path) -> list[float]:
    return [float(row['loss']) for row in rows_of(out)]


def weights_of(out: Path, name: str = 'final') -> dict[str, torch.Tensor]:
    return load_file(out / f'{name}.safetensors')


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def share_of_close_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Of all weights together: AdamW's first steps are as large for a gradient of mere float
    noise as for any other, so some few weights differ between equal runs.
    """
    close = [torch.isclose(a[name], b[name], atol=1e-5, rtol=1e-3).flatten() for name in a]
    return torch.cat(close).float().mean().item()


@dataclass(frozen=True, kw_only=True)
class HookedSource(FakeSource):
    """Calls something when its n-th image set is read, counted from 1."""

    hooks: dict = field(default_factory=dict)
    read: list = field(default_factory=list)

    def view_set(self, i: int, *, at_least_px: tuple[int, int] | None = None) -> ViewSet:
        self.read.append(i)
        if len(self.read) in self.hooks:
            self.hooks[len(self.read)]()
        return super().view_set(i, at_least_px=at_least_px)


def hooked(count: int, hooks: dict) -> HookedSource:
    return HookedSource(count=count, hooks=hooks)
