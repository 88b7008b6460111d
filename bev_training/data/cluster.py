"""The work list of a conversion on a Ray cluster (extra `cluster`)."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bev_perception.errors import BevError
from bev_training.data.existing import summary_of
from bev_training.data.paths import is_local
from bev_training.data.summary import DriveSummary

if TYPE_CHECKING:
    from bev_training.data.jobs import Results, Task

_LOOK_S = 0.2
_BEGUN, _STEP = 1e-9, 0.01  # shares of a task
_GRACE_S = 5.0  # for what is half done when the conversion is stopped
_LOCAL_STORE_BYTES = 80_000_000  # results are small


def on_ray(
    tasks: Sequence[Task], workers: int | None, shares: Any, look: Callable[[], None]
) -> Results:
    """Run every task on a cluster: that of RAY_ADDRESS, the one this machine is part of, or a new
    one of this machine alone.

    Recordings and output must be seen under the same paths by every machine, and the same
    packages be installed there. A worker that dies takes nothing but its own recording with it.

    Args:
        tasks: what to do.
        workers: tasks at once; None takes what the cluster offers (a CPU each).
        shares: of every task, set to how much of it is done; above 0 once it has begun.
        look: called several times a second.

    Yields:
        (number of the task, its result), as they come; a str says why it failed.

    Raises:
        BevError: Ray is not installed, or cannot be reached.
    """
    ray = _ray()
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, workers)
    running: dict[Any, int] = {}
    told = None
    try:
        told = ray.remote(num_cpus=0)(_Shares).remote()
        news = told.news.remote()
        remote = ray.remote(num_cpus=1, max_retries=0)(_run_there)
        waiting = deque(enumerate(tasks))
        while waiting or running:
            while waiting and (workers is None or len(running) < workers):
                number, task = waiting.popleft()
                running[remote.remote(_absolute(task), os.getcwd(), told, number)] = number
            ended, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)
            if ray.wait([news], timeout=0)[0]:
                with suppress(ray.exceptions.RayError):  # a picture of the work, not the work
                    for number, share in ray.get(news).items():
                        shares[number] = share
                    news = told.news.remote()
            look()
            for one in ended:
                number = running.pop(one)
                yield number, _result(ray, one, tasks[number])
    finally:
        _cancel(ray, list(running))
        if told is not None:
            ray.kill(told)
        if begun:
            ray.shutdown()


def _ray() -> Any:
    # Read when Ray is imported: nothing is reported to its makers, and it says nothing of GPUs.
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')
    try:
        import ray
    except ImportError as error:
        raise BevError(
            '--executor ray needs Ray, which is not installed: pip install "ray==2.60.*"'
        ) from error
    return ray


def _connect(ray: Any, workers: int | None) -> None:
    quiet = {'logging_level': logging.ERROR, 'log_to_driver': False}
    try:
        try:
            ray.init(
                num_cpus=workers or os.cpu_count() or 1,
                object_store_memory=_LOCAL_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
        except ValueError:  # there is a cluster, which has its own
            ray.init(**quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BevError(f'Ray cannot be reached: {" ".join(str(error).split())}') from error


def _absolute(task: Task) -> Task:
    """Return a task for a process that works in another folder."""
    source, out = task.source, task.out
    if is_local(source.path):
        files = tuple(file.absolute() for file in source.files)
        source = replace(source, path=source.path.absolute(), files=files)
    return replace(task, source=source, out=out.absolute() if is_local(out) else out)


class _Shares:
    """An actor: what tasks tell of how far they are, for the process that waits for them."""

    def __init__(self) -> None:
        self._shares: dict[int, float] = {}

    def tell(self, number: int, share: float) -> None:
        self._shares[number] = share

    def news(self) -> dict[int, float]:
        return self._shares


def _run_there(task: Task, folder: str, told: Any, number: int) -> DriveSummary | str:
    """Run on a machine of the cluster; in the caller's folder, where that machine has it."""
    if os.path.isdir(folder):
        os.chdir(folder)
    said = _BEGUN
    told.tell.remote(number, said)

    def report(share: float) -> None:
        nonlocal said
        if share - said >= _STEP:
            told.tell.remote(number, share)
            said = share

    return task.run(report, bool)


def _result(ray: Any, reference: Any, task: Task) -> DriveSummary | str:
    try:
        result: DriveSummary | str = ray.get(reference)
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition('\n')[0]
        return f'its Ray worker failed: {type(error).__name__}: {first}'
    if isinstance(result, DriveSummary) and not summary_of(task.out, result.name, task.format):
        return (
            f'a machine of the cluster wrote it, but it is not in {task.out} of this one; OUT '
            'must lie where all machines see it'
        )
    return result


def _cancel(ray: Any, references: list[Any]) -> None:
    """Stop what runs: first so that it tidies up, then for good."""
    for force in (False, True):
        if references:
            for one in references:
                with suppress(ray.exceptions.RayError):
                    ray.cancel(one, force=force)
            _, references = ray.wait(references, num_returns=len(references), timeout=_GRACE_S)
