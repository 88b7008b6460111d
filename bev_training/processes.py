"""Several processes that work for this one, and that end with it whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

import cv2

from bev_perception.errors import BevError

# Spawned: safe beside the caller's threads.
CONTEXT = multiprocessing.get_context('spawn')
_LOOK_S = 0.2  # how often progress is collected
_GRACE_S = 3.0  # for what is half done when nobody waits for it any more
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BevError):
    """Nobody wants the rest of the work any more."""


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
        raise BevError('one of the processes died; is there enough memory?') from error
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


def each_apart(
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    count: int,
    look: Callable[[], None],
) -> Generator[tuple[int, Any], None, None]:
    """Call a function with each of these arguments, every time in a new process.

    What happens to one process is nothing to the others, and what it held is given back. Signals,
    `stopped()` and the caller's own end are as with `processes`. To be used with
    `contextlib.closing`, which ends the processes.

    Args:
        function: of a module's top level; it returns what went wrong, and raises nothing.
        calls: arguments; they and the results are pickled.
        count: processes at once.
        look: called several times a second.

    Yields:
        (number of the call, its result), as they come; a BevError as the result where the process
        died.
    """
    stop = CONTEXT.Event()
    waiting = deque(enumerate(calls))
    running: dict[int, tuple[BaseProcess, connection.Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < count:
                number, arguments = waiting.popleft()
                results, give = CONTEXT.Pipe(duplex=False)
                one = CONTEXT.Process(target=_call, args=(stop, give, function, arguments))
                with _undisturbed():
                    one.start()
                    running[number] = one, results
                give.close()  # so that the end of the process is the end of the pipe
            connection.wait([results for _, results in running.values()], timeout=_LOOK_S)
            look()
            for number in [n for n, (_, results) in running.items() if results.poll()]:
                yield number, _result(*running.pop(number))
    finally:
        stop.set()
        _end_each([one for one, _ in running.values()])


def _call(
    stop: Event,
    give: connection.Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    _begin(stop, lambda: None, ())
    give.send(function(*arguments))


def _result(one: BaseProcess, results: connection.Connection) -> Any:
    """Return what a process sent before it ended, or how it died."""
    with results:
        try:
            result = results.recv()
        except EOFError:
            one.join()
            code = one.exitcode or 0
            if code < 0:
                return BevError(
                    f'its process was killed (signal {-code}); is there enough memory?'
                )
            return BevError(f'its process died (exit code {code})')
    one.join()
    return result


def _end_each(started: list[BaseProcess]) -> None:
    """Wait until these processes have ended, and end them if that takes long."""
    deadline = time.monotonic() + _GRACE_S
    try:
        for one in started:
            one.join(max(0.0, deadline - time.monotonic()))
    finally:
        for one in started:
            one.kill()
            one.join()


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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _stop = stop
    start(*arguments)


def _end_with_parent() -> None:
    """Wait until the parent process is gone, whatever ended it, and end this one too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
