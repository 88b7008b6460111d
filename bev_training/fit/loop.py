"""A training run, from samples to a folder of results; see `fit`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from bev_perception.errors import BevError
from bev_training.data.batch import Batch
from bev_training.data.loader import eval_loader, train_loader
from bev_training.data.sample import SampleSource
from bev_training.fit import out_folder, ranks
from bev_training.fit.keep import keep_network, keep_objective, keep_picture, keep_state
from bev_training.fit.prepare import Run, Say, prepare, reproducible
from bev_training.fit.settings import TrainConfig
from bev_training.fit.state import undisturbed
from bev_training.fit.stop import Stop, noticed
from bev_training.fit.table import RunTable
from bev_training.fit.validate import (
    describe,
    mean_iou,
    score_columns,
    score_row,
    scores_json,
    validate,
)
from bev_training.fit.validate_pretraining import validate_pretraining
from bev_training.objectives.pretraining import PretrainingObjective

if TYPE_CHECKING:
    from bev_training.fit.run_data import Progress


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run came to.

    Attributes:
        out: its folder.
        rank: number of this process; 0 speaks for all.
        steps: optimiser steps of the run.
        seconds: that this call took.
        scores: of the last validation, as JSON; None without one.
        best: mean IoU of the best validation and its step; None without one.
    """

    out: Path
    rank: int
    steps: int
    seconds: float
    scores: dict[str, Any] | None
    best: tuple[float, int] | None


def fit(
    config: TrainConfig,
    out: Path | str,
    *,
    init: Path | None = None,
    resume: bool = False,
    train: SampleSource | None = None,
    val: SampleSource | None = None,
    command: str = '',
    say: Say = lambda line: None,
    progress: Progress | None = None,
    bar: bool = False,
) -> FitResult:
    """Train a network; OUT gets checkpoints, settings, a table and a picture.

    The same call with `resume` goes on where a run was stopped: on a CPU to the same bits, on a
    GPU with the same samples and the float noise that it has from run to run.

    With several processes, rank 0 runs the command line of this program again for each other one,
    unless torchrun or SLURM started them.

    Args:
        config: the run.
        out: new or empty folder; with `resume`, that of a run.
        init: checkpoint to start from, instead of the backbone's weights alone.
        resume: go on with what is in OUT.
        train: samples to learn from; None opens those of `config.data`.
        val: samples to be scored on; without `train`, those of `config.data` are opened.
        command: what was called, for the checkpoint's card.
        say: called with lines that tell what happens, on rank 0.
        progress: called with (what, done, total) while data are opened.
        bar: show a progress bar, on rank 0.

    Raises:
        BevError: samples, settings or OUT cannot be used, or the loss is no number any more; one
            line. The newest OUT/last.ckpt stays.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the step that ran is in OUT/last.ckpt.
    """
    began = time.monotonic()
    fabric = ranks.start(config)
    with ranks.together(fabric), reproducible(fabric.device):
        run = prepare(
            fabric,
            config,
            Path(out),
            init=init,
            resume=resume,
            train=train,
            val=val,
            command=command,
            say=say,
            progress=progress,
        )
        _train(run, bar)
        keep_network(run, out_folder.FINAL)
        keep_objective(run)
        keep_picture(run)
    return FitResult(
        out=run.out,
        rank=fabric.global_rank,
        steps=run.steps,
        seconds=time.monotonic() - began,
        scores=run.state.scores,
        best=run.state.best,
    )


def _train(run: Run, bar: bool) -> None:
    """Take all steps that are left."""
    config, state = run.config, run.state
    said = f'{config.verb}: stopping after this step ...' if run.first else ''
    with ExitStack() as stack:
        stop = stack.enter_context(noticed(said))
        table = _open_table(run, stack)
        shown = stack.enter_context(
            tqdm(
                total=run.steps,
                initial=state.step,
                unit='step',
                desc=config.verb,
                disable=not (bar and run.first),
                smoothing=0.05,
            )
        )
        if state.pending is not None:
            if run.val is not None:
                _validate(run, table, state.pending, stop)
            else:
                _note(run, table, state.pending)
                keep_state(run, pending=None)
        loader = train_loader(
            run.source,
            run.indices,
            config=config,
            first_step=state.step,
            steps=run.steps,
            rank=run.fabric.global_rank,
            world=run.fabric.world_size,
            teacher_cache=run.learner.cache,
        )
        batches = undisturbed(iter(loader))
        while state.step < run.steps:
            began = time.monotonic()
            try:
                step = run.learner.step(batches, state.step + 1, stop)
            except BevError:
                if stop.came:  # the processes that read may have been stopped, too
                    raise KeyboardInterrupt from None
                raise
            state.step += 1
            row = {**step.values, 'samples_per_s': 0.0}
            row['samples_per_s'] = run.samples_per_step / max(time.monotonic() - began, 1e-9)
            shown.set_postfix_str(
                f'loss {row["loss"]:.4g}, {row["samples_per_s"]:.3g} samples/s', refresh=False
            )
            shown.update()
            _after_step(run, table, row, stop, stopped=step.stopped)
            if step.stopped:
                raise KeyboardInterrupt


def _after_step(
    run: Run, table: RunTable | None, row: dict[str, float], stop: Stop, *, stopped: bool
) -> None:
    """Validate, note and save what is due."""
    config, step = run.config, run.state.step
    last = step == run.steps
    if run.val is not None and (last or _due(step, config.validate_every)):
        keep_state(run, pending=row)  # a validation may take longer than one is given to stop
        if not stopped:
            _validate(run, table, row, stop)
        return
    _note(run, table, row)
    if last or stopped or _due(step, config.save_every):
        keep_state(run, pending=None)


def _validate(run: Run, table: RunTable | None, row: dict[str, float], stop: Stop) -> None:
    """Score the network as it is, and note and save that.

    Raises:
        KeyboardInterrupt: it was stopped; the run will go on with this validation.
    """
    config, fabric = run.config, run.fabric
    assert run.val is not None
    batches = eval_loader(
        run.val,
        run.val_indices,
        model=config.model,
        batch_size=config.batch_size,
        workers=config.data.workers,
        rank=fabric.global_rank,
        world=fabric.world_size,
        pretraining=config if config.objectives.pretraining else None,
        teacher_cache=run.learner.cache,
    )
    found = _scored(run, undisturbed(iter(batches)), stop)
    _note(run, table, {**row, **found})
    keep_state(run, pending=None)
    keep_picture(run)


def _scored(run: Run, batches: Iterator[Batch], stop: Stop) -> dict[str, float]:
    """Score the network, say and keep what came out, and return it as columns of the table.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    config, state, learner = run.config, run.state, run.learner
    if config.objectives.pretraining:
        found = validate_pretraining(run.fabric, learner, batches, stop)
        if found is None:
            raise KeyboardInterrupt
        state.scores = {'step': state.step, **{k: round(v, 6) for k, v in found.items()}}
        said = ', '.join(f'{name} {value:.3f}' for name, value in found.items())
        run.say(f'step {state.step}: {said or "nothing to score"}')
        return {f'val_{name}': value for name, value in found.items()}
    scores = validate(run.fabric, learner.kept, batches, stop)
    if scores is None:
        raise KeyboardInterrupt
    visibility = config.data.visibility
    state.scores = scores_json(scores, visibility, state.step)
    mean = mean_iou(scores, visibility)
    if state.best is None or mean > state.best[0]:
        state.best = (mean, state.step)
        keep_network(run, out_folder.BEST)
    run.say(f'step {state.step}: {describe(scores, visibility)}')
    return score_row(scores, visibility)


def _note(run: Run, table: RunTable | None, row: dict[str, float]) -> None:
    """Add a row to the table, which rank 0 has."""
    if table is not None:
        with out_folder.writing(run.out):
            table.add(run.state.step, row)


def _open_table(run: Run, stack: ExitStack) -> RunTable | None:
    tables: list[RunTable] = []

    def open_table() -> None:
        done = run.state.step - (run.state.pending is not None)
        columns = (*run.learner.columns, 'samples_per_s', *_score_columns(run))
        with out_folder.writing(run.out):
            table = stack.enter_context(RunTable(run.out, columns, steps_done=done))
        if not table.on_board:
            run.say(f'TensorBoard is not installed: {table.path} alone has the figures')
        tables.append(table)

    ranks.on_rank_zero(run.fabric, open_table)
    return tables[0] if tables else None


def _score_columns(run: Run) -> tuple[str, ...]:
    if run.val is None:
        return ()
    if isinstance(run.learner.objective, PretrainingObjective):
        return tuple(f'val_{name}' for name in run.learner.objective.score_names)
    return score_columns(run.config.model.classes)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
