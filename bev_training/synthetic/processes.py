"""Several processes that work for this one, and that end with it whatever happens."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

import cv2

from bev_perception.errors import BevError

# Spawned: safe beside the caller's threads.
CONTEXT = multiprocessing.get_context('spawn')
_LOOK_S = 0.2  # how often progress is collected
_GRACE_S = 3.0  # for what is half done when nobody waits for it any more
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def processes(
    count: int, start: Callable[..., None], *arguments: Any
) -> Iterator[Callable[..., Future[Any]]]:
    """Give a function that runs another one in one of `count` processes, as `Executor.submit`.

    At the end of the block, `stopped()` is True in every process; those that have not ended a
    little later are killed. Signals are for the caller: the processes ignore SIGINT and SIGTERM,
    which a terminal or a service manager sends to all of them.

    Args:
        count: processes.
        start: called in every process first, with `arguments`. It must not fail.
        arguments: of `start`.

    Raises:
        BevError: a process died.
    """
    stop = CONTEXT.Event()
    pool = ProcessPoolExecutor(
        count, mp_context=CONTEXT, initializer=_begin, initargs=(stop, start, arguments)
    )

    def submit(function: Callable[..., Any], *given: Any) -> Future[Any]:
        with _undisturbed():
            return pool.submit(function, *given)

    grace_s = _GRACE_S
    try:
        yield submit
    except BrokenProcessPool as error:
        grace_s = 0.0  # the others wait for work that never comes
        raise BevError('a rendering process died; is there enough memory?') from error
    finally:
        stop.set()
        _end(pool, grace_s)


def wait_for(futures: Iterable[Future[Any]], count: Any, report: Callable[[int], None]) -> None:
    """Wait until all is done, or until something fails.

    Args:
        futures: what is being done.
        count: a `CONTEXT.Value` in which the processes count their steps.
        report: called with the steps since the last call.

    Raises:
        Exception: what went wrong in a process.
    """
    waiting, shown = set(futures), 0
    while waiting:
        done, waiting = wait(waiting, timeout=_LOOK_S, return_when=FIRST_EXCEPTION)
        now = count.value
        if now > shown:
            report(now - shown)
            shown = now
        for future in done:
            future.result()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay SIGINT and SIGTERM while a process is started.

    The new process inherits what is blocked, so it hears no signal before it ignores them. The
    handlers are replaced because signals that this thread blocks reach another one.
    """
    came: list[int] = []
    handlers = {}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        if threading.current_thread() is threading.main_thread():  # where handlers run
            handlers = {n: signal.getsignal(n) for n in _SIGNALS if signal.getsignal(n)}
            for number in handlers:
                signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for first in came[:1]:
            signal.raise_signal(first)


def _end(pool: ProcessPoolExecutor, grace_s: float) -> None:
    """Wait until all processes of a pool have ended, and end them if that takes long."""
    started = list((pool._processes or {}).values())

    def kill() -> None:
        for process in started:
            process.kill()

    late = threading.Timer(grace_s, kill)
    late.start()
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except BaseException:  # Ctrl-C while waiting
        kill()
        raise
    finally:
        late.cancel()


_stop: Event  # of this process


def stopped() -> bool:
    """Whether nobody waits any more for what this process does."""
    return _stop.is_set()


def _begin(stop: Event, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    global _stop
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    cv2.setNumThreads(1)
    _stop = stop
    start(*arguments)
