"""Ctrl-C and SIGTERM during training: the step that runs is finished and saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether somebody wants the run to stop."""

    came = False


@contextmanager
def noticed(said: str) -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of being interrupted by them.

    Args:
        said: line for stderr when the first one comes; '' says nothing.
    """
    stop = Stop()
    owner = os.getpid()

    def note(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a data worker that was forked: the main process ends it
            return
        if said and not stop.came:
            os.write(2, f'\n{said}\n'.encode())
        stop.came = True

    if threading.current_thread() is not threading.main_thread():  # signals go to that one
        yield stop
        return
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (None, signal.SIG_IGN)  # as nohup has it
    }
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
