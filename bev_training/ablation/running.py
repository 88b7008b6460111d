"""Runs the trainings of a grid, several at a time, and goes on where it was stopped.

Each training is a process of its own (`bev pretrain`, `bev finetune`) with a folder, a recipe and
a log: OUT/finetune/NAME/, NAME.yaml and NAME.log. What has its final network is done.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bev_perception.errors import BagError, BevError
from bev_training.ablation.plan import Plan, Run
from bev_training.data.paths import write_whole
from bev_training.fit.recipes import as_yaml

BEV = (sys.executable, '-m', 'bev_training.cli')
FINAL, STATE = 'final.safetensors', 'last.ckpt'
_LOCK = '.bev-ablate.lock'
_LOOK_S = 0.1
_GRACE_S = 300.0  # for the step that runs to be finished and saved


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run.

    Attributes:
        folder: of the run.
        scores: as `fit.validate.scores_json` has them; None unless it is done.
        failed: why it is not done; '' where it is.
    """

    folder: Path
    scores: dict[str, Any] | None
    failed: str = ''


@contextmanager
def held(out: Path) -> Iterator[int]:
    """Hold the only right to train below a folder, which is made; gives what holds it.

    Processes that inherit it hold it, too: trainings whose `bev ablate` was killed go on, and
    nobody may write into their folders meanwhile.

    Raises:
        BagError: somebody holds it, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BagError(f'{out} cannot be written: {error.strerror}') from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise BagError(
            f'{out} is in use by another `bev ablate`, or by trainings that one has left behind; '
            'wait for their end'
        ) from error
    finally:
        os.close(descriptor)


def outcome(out: Path, run: Run) -> Outcome | None:
    """Return what a run came to; None where it is not done.

    Raises:
        BevError: its network cannot be read.
    """
    folder = place(out, run)
    path = folder / FINAL
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework='np') as file:
            card = json.loads((file.metadata() or {})['card'])
        scores = json.loads(card['scores'])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise BevError(f'{path} is no network of a run: {error}; remove {folder}') from error
    if run.verb == 'finetune' and not (scores or {}).get('classes'):
        raise BevError(f'{path} holds no scores; remove {folder}')
    return Outcome(folder=folder, scores=scores)


def place(out: Path, run: Run) -> Path:
    """Return the folder of a run: that of its digest, whatever the run is called now."""
    there = sorted(p for p in (out / run.verb).glob(f'*-{run.digest}') if p.is_dir())
    return there[0] if there else out / run.name


def finished(plan: Plan, out: Path) -> dict[str, Outcome]:
    """Return what the runs came to that are done, by digest.

    Raises:
        BevError: a network cannot be read.
    """
    each = ((digest, outcome(out, run)) for digest, run in plan.runs.items())
    return {digest: done for digest, done in each if done is not None}


def run_all(
    plan: Plan,
    out: Path,
    done: Mapping[str, Outcome],
    *,
    jobs: int,
    lock: int,
    tell: Callable[[Run, Outcome], None],
    bev: Sequence[str],
) -> None:
    """Do all runs that are not done.

    One that fails is told, as are those that would have started from it; the others go on.

    Args:
        plan: the runs.
        out: the grid's folder.
        done: what `finished` gave.
        jobs: how many at once; with several, each has one thread, and its share of the GPUs.
        lock: what `held` gave.
        tell: called with a run when it is done, or has failed.
        bev: the command.

    Raises:
        BevError: something cannot be written, or what is there cannot be read.
        KeyboardInterrupt: the runs have been stopped, and have saved where they were.
    """
    found = dict(done)
    waiting = [run for run in plan.runs.values() if run.digest not in found]
    running: dict[int, _Running] = {}  # by slot
    try:
        while waiting or running:
            for run in [run for run in waiting if run.start and _failed(found, run.start)]:
                waiting.remove(run)
                failed = f'its pretraining failed: {run.start.said if run.start else ""}'
                found[run.digest] = Outcome(folder=place(out, run), scores=None, failed=failed)
                tell(run, found[run.digest])
            for slot in set(range(jobs)) - set(running):
                ready = (run for run in waiting if not run.start or run.start.digest in found)
                if chosen := next(ready, None):
                    waiting.remove(chosen)
                    mine = _environment(slot, jobs)
                    running[slot] = _start(chosen, out, found, mine, lock, bev)
            for slot, each in [*running.items()]:
                if (code := each.process.poll()) is not None:
                    del running[slot]
                    found[each.run.digest] = _ended(each, out, code)
                    tell(each.run, found[each.run.digest])
            time.sleep(_LOOK_S if running else 0)
    finally:
        _stop([each.process for each in running.values()])


@dataclass(frozen=True, kw_only=True)
class _Running:
    run: Run
    process: subprocess.Popen[bytes]
    log: Path


def _failed(found: Mapping[str, Outcome], run: Run) -> bool:
    return run.digest in found and bool(found[run.digest].failed)


def _start(
    run: Run,
    out: Path,
    found: Mapping[str, Outcome],
    environment: Mapping[str, str],
    lock: int,
    bev: Sequence[str],
) -> _Running:
    folder = place(out, run)
    recipe, log = (folder.with_name(f'{folder.name}{end}') for end in ('.yaml', '.log'))
    command = [*bev, run.verb, '--config', str(recipe), '--out', str(folder), '--resume']
    if run.start:
        command += ['--init', str(found[run.start.digest].folder / FINAL)]
    try:
        write_whole(recipe, f'# {run.said}\n{as_yaml(run.config)}'.encode())
        with log.open('ab') as file:
            file.write(f'$ {shlex.join(["bev", *command[len(bev) :]])}\n'.encode())
            file.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=(lock,),
            )
    except OSError as error:
        raise BevError(f'{error.filename or folder}: {error.strerror or error}') from error
    return _Running(run=run, process=process, log=log)


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """Return what a run's process is given on top of this one's environment."""
    given = {'TQDM_MININTERVAL': '10', 'PYTHONUNBUFFERED': '1'}  # for logs
    if jobs > 1:
        given['OMP_NUM_THREADS'] = '1'
        gpus = _gpus()
        if len(gpus) > 1:
            mine = gpus[slot::jobs] or [gpus[slot % len(gpus)]]
            given['CUDA_VISIBLE_DEVICES'] = ','.join(mine)
    return given


def _gpus() -> list[str]:
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        return [name for name in named.split(',') if name]
    import torch  # 2 s

    return [str(number) for number in range(torch.cuda.device_count())]


def _ended(each: _Running, out: Path, code: int) -> Outcome:
    """Return what a process came to that has ended; what it does not need any more is removed."""
    folder = place(out, each.run)
    try:
        done = outcome(out, each.run)
    except BevError as error:
        return Outcome(folder=folder, scores=None, failed=str(error))
    if done:  # whatever failed after that, such as a picture
        (folder / STATE).unlink(missing_ok=True)  # twice the network's size; nobody goes on here
        return done
    said = each.log.read_text(errors='replace').strip().splitlines()
    reason = said[-1].rpartition('\r')[2].strip() if len(said) > 1 else ''
    if code < 0:
        reason = f'killed (signal {-code}); is there enough memory?'
    reason = reason or f'exit code {code}'
    return Outcome(folder=folder, scores=None, failed=f'{reason} (log: {each.log})')


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes: each finishes its step and saves it, within reason."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
