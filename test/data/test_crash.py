"""`kill -9` at any moment: what is there is whole, and the same command finishes it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bev_training import cli

from .small_bag import write_bag
from .stand_in import tree

BOUND_S = 100.0  # far above what it takes; without it a failure would hang
OPTIONS = ('--min-cameras', '3', '--every', 'all', '--shard-mb', '0.05', '--json')
# Also where the tests themselves run in the background, with SIGINT ignored.
START = (
    'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    'import sys; from bev_training.cli import main; sys.exit(main())'
)


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: where the recordings lie, its files, and how long it wrote."""

    bags: Path
    files: dict[str, bytes]
    seconds: float


def words(bags: Path, out: Path, format: str) -> list[str]:
    return ['convert', str(bags), str(out), *OPTIONS, '--format', format]


@contextmanager
def running(bags: Path, out: Path, format: str = 'drive') -> Iterator[subprocess.Popen[str]]:
    """The command with two processes, in a group of its own."""
    process = subprocess.Popen(
        [sys.executable, '-c', START, *words(bags, out, format), '--workers', '2'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def begun(out: Path) -> bool:
    """Whether something is written: more than the lock, in whichever format."""
    return out.is_dir() and any(path.is_dir() for path in out.iterdir())


def finish(bags: Path, out: Path, format: str = 'drive') -> None:
    """The same command again, in this process."""
    assert cli.main([*words(bags, out, format), '--workers', '1']) == 0


def whole(tmp: Path, format: str) -> Whole:
    for number in range(2):
        write_bag(tmp / 'bags' / f'drive{number}', raw=True, size_px=(96, 72), seconds=1.2)
    with running(tmp / 'bags', tmp / 'out', format) as process:
        until(lambda: begun(tmp / 'out'), process)
        began = time.monotonic()
        _, error = process.communicate(timeout=BOUND_S)
        assert process.returncode == 0, error
        seconds = time.monotonic() - began
    return Whole(tmp / 'bags', tree(tmp / 'out'), seconds)


@pytest.fixture(scope='module')
def drives(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    made = whole(tmp_path_factory.mktemp('drives'), 'drive')
    shards = [name for name in made.files if name.endswith('.tar')]
    assert len(shards) >= 10 and len(made.files) == len(shards) + 6  # nothing hidden stays
    return made


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole(tmp_path_factory.mktemp('scenes'), 'nuscenes')


def check_what_is_there(out: Path, made: Whole) -> None:
    """Every file under its final name is complete."""
    found = {n: d for n, d in tree(out).items() if not Path(n).name.startswith('.')}
    assert not {name for name, data in found.items() if made.files.get(name) != data}
    for name in found:
        if name.endswith('manifest.json'):  # it is the last one
            folder = name.split('/')[0]
            assert {n for n in found if n.startswith(f'{folder}/')} == {
                n for n in made.files if n.startswith(f'{folder}/')
            }


@pytest.mark.parametrize(
    'number', [pytest.param(n, marks=pytest.mark.slow) if n % 5 else n for n in range(30)]
)
def test_killed_at_any_moment(number: int, drives: Whole, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    late_s = random.Random(number).uniform(number, number + 1) / 30 * drives.seconds
    with running(drives.bags, out) as process:
        until(lambda: begun(out), process)
        time.sleep(late_s)
        with suppress(ProcessLookupError):  # it may have been faster this time
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(BOUND_S)
    check_what_is_there(out, drives)
    finish(drives.bags, out)
    assert tree(out) == drives.files


@pytest.mark.slow
@pytest.mark.parametrize('number', range(10))
def test_scenes_killed_at_any_moment(number: int, scenes: Whole, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    late_s = random.Random(number).uniform(number, number + 1) / 10 * scenes.seconds
    with running(scenes.bags, out, 'nuscenes') as process:
        until(lambda: begun(out), process)
        time.sleep(late_s)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(BOUND_S)
    finish(scenes.bags, out, 'nuscenes')
    assert tree(out) == scenes.files


@pytest.mark.slow
def test_killed_again_and_again(drives: Whole, tmp_path: Path) -> None:
    """Also while it repairs what the kill before has left."""
    out = tmp_path / 'out'
    for share in (0.3, 0.5, 0.1):
        with running(drives.bags, out) as process:
            until(lambda: (out / '.bev-convert.lock').exists() and begun(out), process)
            time.sleep(share * drives.seconds)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(BOUND_S)
        check_what_is_there(out, drives)
    finish(drives.bags, out)
    assert tree(out) == drives.files


def group_is_gone(process: subprocess.Popen[str]) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_when_only_the_first_process_is_killed_the_others_end(
    drives: Whole, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    with running(drives.bags, out) as process:
        until(lambda: list(out.glob('drive*/shards/0*.tar')), process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(BOUND_S)
        finish(drives.bags, out)  # at once: it waits until nobody else writes
        assert tree(out) == drives.files
        until(lambda: group_is_gone(process))
    assert tree(out) == drives.files


def test_a_second_run_is_refused(
    drives: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    with running(drives.bags, out) as process:
        until(lambda: begun(out), process)
        os.killpg(process.pid, signal.SIGSTOP)  # so that it does not end meanwhile
        assert cli.main([*words(drives.bags, out, 'drive'), '--workers', '1']) == 1
        error = capsys.readouterr().err
        os.killpg(process.pid, signal.SIGCONT)
        assert f'out is being written by another run (process {process.pid} on ' in error
        assert error.count('\n') == 1
        _, said = process.communicate(timeout=BOUND_S)
        assert process.returncode == 0, said
    assert tree(out) == drives.files


@pytest.mark.parametrize(
    'number', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_stopped_nothing_stays(number: signal.Signals, drives: Whole, tmp_path: Path) -> None:
    """As a terminal or a service manager does it: all processes at once."""
    out = tmp_path / 'new' / 'out'
    with running(drives.bags, out) as process:
        until(lambda: list(out.glob('drive*/shards/0*.tar')), process)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=BOUND_S)
        assert process.returncode == 130
        assert error == 'bev convert: stopping ...\nbev convert: stopped\n'
        until(lambda: group_is_gone(process))
    # A drive that was finished in that moment stays.
    left = tree(tmp_path)
    assert all(drives.files[name.removeprefix('new/out/')] == left[name] for name in left)
    assert len([name for name in left if name.endswith('manifest.json')]) == len(
        list(out.iterdir()) if out.exists() else []
    )
