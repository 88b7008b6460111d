"""All parts of a run, opened and checked before its first step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bev_perception.model.bev_model import BevModel
from bev_training.data.paths import write_whole
from bev_training.data.sample import SampleSource
from bev_training.data.subsets import choose_labels, write_subset
from bev_training.fit import out_folder, ranks, run_data
from bev_training.fit.card import code_version, labels_said
from bev_training.fit.learner import Learner
from bev_training.fit.recipes import as_yaml
from bev_training.fit.schedule import count_steps
from bev_training.fit.settings import TrainConfig
from bev_training.fit.state import RunState, labels_digest, load_state, restore_random_states
from bev_training.fit.teaching import open_teaching

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run.

    Attributes:
        fabric: its processes.
        config: its settings.
        out: its folder.
        command: what was called.
        say: called with lines that tell what happens; does nothing on ranks above 0.
        source: samples to learn from.
        val: samples to be scored on.
        indices: those of `source` to learn from: the labelled ones; without labels, those with
            lidar points.
        val_indices: likewise of `val`; all of it where there are labels.
        labels: how many those are, in words.
        digest: tells them from others.
        steps: optimiser steps.
        learner: what learns; `learner.teaching` is what it learns features from, if it does.
        state: where the run is; changed in place.
    """

    fabric: Fabric
    config: TrainConfig
    out: Path
    command: str
    say: Say
    source: SampleSource
    val: SampleSource | None
    indices: list[int]
    val_indices: Sequence[int]
    labels: str
    digest: str
    steps: int
    learner: Learner
    state: RunState

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.fabric.global_rank == 0

    @property
    def samples_per_step(self) -> int:
        """Samples of an optimiser step, of all processes together."""
        config = self.config
        return config.batch_size * config.accumulate * self.fabric.world_size


def prepare(
    fabric: Fabric,
    config: TrainConfig,
    out: Path,
    *,
    init: Path | None,
    resume: bool,
    train: SampleSource | None,
    val: SampleSource | None,
    command: str,
    say: Say,
    progress: run_data.Progress | None,
) -> Run:
    """Open everything, then write the settings; arguments as of `loop.fit`.

    Raises:
        BevError: something cannot be used; one line.
    """
    first, world = fabric.global_rank == 0, fabric.world_size
    progress = progress if first else None
    going_on = ranks.on_rank_zero(fabric, lambda: out_folder.begin(out, resume=resume))
    if train is None:
        source = ranks.rank_zero_first(fabric, lambda: run_data.open_train(config, progress))
        val = ranks.rank_zero_first(fabric, lambda: run_data.open_val(config, progress))
    else:
        source = train
    if val is not None:
        run_data.check_val(val, config)
    ranks.rank_zero_first(fabric, lambda: run_data.check_poses(source, val, config))
    indices = ranks.rank_zero_first(
        fabric,
        lambda: run_data.worth_learning(
            source, choose_labels(source, config.data), config, config.data.train
        ),
    )
    val_indices: Sequence[int] = ()
    if val is not None:
        held_out = val
        val_indices = ranks.rank_zero_first(
            fabric,
            lambda: run_data.worth_learning(
                held_out, range(len(held_out)), config, config.data.val or config.data.train
            ),
        )
    digest = labels_digest([source.keys[i] for i in indices])
    steps = count_steps(config, len(indices), world)
    said = say if first else lambda line: None
    teaching = open_teaching(fabric, config)
    # Only now: other data and another teacher draw other numbers, or none.
    _seed(config.seed)
    network = BevModel(config.model)
    teacher = teaching.teacher.digest if teaching is not None else ''
    if going_on:
        state = ranks.rank_zero_first(
            fabric, lambda: load_state(out / out_folder.STATE, config, digest, world, teacher)
        )
    else:
        origin = ranks.rank_zero_first(fabric, lambda: _start_weights(network, config, init))
        state = RunState(origin=origin, teacher=teacher)
    # What may be refused comes before what may take an hour.
    if teaching is not None:
        teaching.prepare(fabric, source, indices, val, val_indices, said, progress)
    learner = Learner(fabric, network, config, steps=steps, teaching=teaching)
    if going_on:
        learner.load(state.weights)
        state.weights = {}  # as much memory again
        restore_random_states(state.rng[fabric.global_rank])
    code = ranks.on_rank_zero(fabric, code_version)
    if not state.code.endswith(code):
        state.code = f'{state.code}, then {code}' if state.code else code
    run = Run(
        fabric=fabric,
        config=config,
        out=out,
        command=command,
        say=said,
        source=source,
        val=val,
        indices=indices,
        val_indices=val_indices,
        labels=labels_said(config, len(indices), run_data.count_worth_learning(source, config)),
        digest=digest,
        steps=steps,
        learner=learner,
        state=state,
    )
    ranks.on_rank_zero(fabric, lambda: _write_settings(run))
    _tell(run, going_on)
    return run


def _start_weights(network: BevModel, config: TrainConfig, init: Path | None) -> list[str]:
    """Load what a run starts from, and say what that was."""
    if init is not None:
        from bev_training.fit.initial import initialise

        return initialise(network, init).lines()
    from bev_training.weights import load_backbone

    return [load_backbone(network, config.weights)]


def _write_settings(run: Run) -> None:
    with out_folder.writing(run.out):
        write_whole(run.out / out_folder.CONFIG, as_yaml(run.config).encode())
        write_subset(run.out / out_folder.LABELS, run.source, run.indices, run.config.data)


def _tell(run: Run, going_on: bool) -> None:
    """Say what is about to happen."""
    config, model, world = run.config, run.config.model, run.fabric.world_size
    val = f'{len(run.val_indices)} samples' if run.val is not None else 'none'
    run.say(f'samples: {run.labels}; validation: {val}')
    for name, source in (('training', run.source), ('validation', run.val)):
        for note in run_data.notes(source, config) if source is not None else ():
            run.say(f'{name}: {note}')
    weights = list(run.learner.network.parameters())
    every = sum(p.numel() for p in weights)
    learning = sum(p.numel() for p in weights if p.requires_grad)
    _, y, x = model.grid.shape
    run.say(
        f'network: {model.backbone}, {every / 1e6:.2f} M weights, '
        f'{"all" if learning == every else f"{learning / 1e6:.2f} M"} of them learn; '
        f'{model.image_size_px[0]}x{model.image_size_px[1]} px to {x}x{y} cells of '
        f'{model.grid.cell_m:g} m; {", ".join(model.classes) or _objectives_said(config)}'
    )
    for line in run.state.origin:
        run.say(f'weights: {line}')
    if model.center_offset and not (config.loss.center and config.loss.offset):
        run.say('loss.center or loss.offset is 0: that head stays as it is')
    epochs = run.steps * run.samples_per_step / len(run.indices)
    run.say(
        f'running: {run.fabric.device.type}, {world} process{"es" if world > 1 else ""}, '
        f'{config.precision}; {run.steps} steps of {run.samples_per_step} samples, '
        f'{epochs:.3g} epochs'
    )
    if going_on:
        run.say(f'going on after step {run.state.step}')


def _objectives_said(config: TrainConfig) -> str:
    """Return what is learned without labels."""
    names = (name for name, weight in vars(config.objectives).items() if weight)
    return f'pretraining with {" and ".join(names)}'


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (other packages may draw from it)
    torch.manual_seed(seed)


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Take the same order of sums each time; on a GPU that would cost more than it gives."""
    if device.type != 'cpu':
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a pass over memory, for nothing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
