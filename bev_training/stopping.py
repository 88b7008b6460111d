"""What a command does on Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def stoppable(name: str, *, last: bool) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and ignore those that follow: they
    must not disturb the removal of what is half written.

    Args:
        name: of the command, for the line that says that it stops.
        last: the process ends afterwards; it then goes on to ignore both if one of them came.
    """
    said = f'{name}: stopping ...\n'
    if sys.stderr.isatty():
        said = f'\n{said}'  # below the progress bar
    came = False

    def stop(number: int, frame: object) -> NoReturn:
        nonlocal came
        came = True
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        os.write(2, said.encode())  # print() fails when it is interrupted by itself
        raise KeyboardInterrupt

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (None, signal.SIG_IGN)  # as nohup has it
    }
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        if not (came and last):
            for each, handler in before.items():
                signal.signal(each, handler)
