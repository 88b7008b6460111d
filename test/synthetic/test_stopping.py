"""Ctrl-C and SIGTERM, as a terminal or a service manager sends them: to all processes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

BOUND_S = 120.0  # far above what it takes; without it a failure would hang
# Also where the tests themselves run in the background, with SIGINT ignored.
START = (
    'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    'import sys; from bev_training.cli import main; sys.exit(main())'
)


def children(pid: int) -> list[str]:
    return Path(f'/proc/{pid}/task/{pid}/children').read_text().split()


@pytest.mark.parametrize(
    ('words', 'signals'),
    [
        (['--seconds', '20', '--workers', '1'], [signal.SIGINT, signal.SIGTERM]),
        (['--seconds', '20'], [signal.SIGINT, signal.SIGINT]),
        (['--seconds', '20', '--drives', '2'], [signal.SIGTERM]),
        pytest.param(
            ['--seconds', '20', '--drives', '2'],
            [signal.SIGINT, signal.SIGINT, signal.SIGTERM],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ['--seconds', '5', '--format', 'nuscenes', '--scenes', '2'],
            [signal.SIGTERM, signal.SIGINT],
            marks=pytest.mark.slow,
        ),
    ],
    ids=['alone', 'drive', 'drives', 'drives again and again', 'nuscenes'],
)
def test_nothing_stays_when_all_processes_are_told_to_stop(
    words: list[str], signals: list[signal.Signals], tmp_path: Path
) -> None:
    words = ['synth', str(tmp_path / 'new' / 'out'), '--workers', '2', '--size', '160x90', *words]
    process = subprocess.Popen(
        [sys.executable, '-c', START, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + BOUND_S
        wanted = 0 if '1' in words else 3  # two, and Python's own for semaphores
        while len(children(process.pid)) < wanted or not list(tmp_path.glob('**/.unfinished-*')):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.0)
        for number in signals:
            with suppress(ProcessLookupError):  # it may have ended already
                os.killpg(process.pid, number)
            time.sleep(0.05)
        _, error = process.communicate(timeout=BOUND_S)
        assert process.returncode == 130
        assert error.count('bev synth: stopping ...\n') == 1
        assert error.endswith('bev synth: stopped\n') and 'Traceback' not in error
        assert not sorted(tmp_path.rglob('*'))
        deadline = time.monotonic() + 10
        with pytest.raises(ProcessLookupError):  # nobody of the group is left
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
