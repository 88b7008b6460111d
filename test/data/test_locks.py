"""Two runs on one output: one of them waits or is refused, whatever happened to the other."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from bev_perception.errors import BagError
from bev_training.data import locks
from bev_training.data.locks import LOCK, Held, drive_lock, output_lock, wait_for_writers

BOUND_S = 60.0


@pytest.fixture(params=['local', 'object store'])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locks, '_SETTLE_S', 0.05)
    monkeypatch.setattr(locks, '_PATIENCE_S', 0.1)
    return tmp_path / 'out' if request.param == 'local' else UPath(f'memory://lock{tmp_path}')


def test_a_second_run_is_refused(out: Path) -> None:
    with output_lock(out) as held:
        held.check()
        with pytest.raises(BagError) as error, output_lock(out):
            pytest.fail('two writers')
        who = f'process {os.getpid()} on {socket.gethostname()}'
        assert f'{out} is being written by another run ({who})' in str(error.value)
        assert '\n' not in str(error.value)
    with output_lock(out) as held:  # it is free again
        held.check()
    assert not (out / LOCK).exists()


def test_what_is_in_the_output_stays(out: Path) -> None:
    out.mkdir(parents=True)
    (out / 'drive').write_text('keep')
    with output_lock(out):
        assert (out / LOCK).exists()
    assert [path.name for path in out.iterdir()] == ['drive']


def test_a_failure_releases_it(out: Path) -> None:
    for error in (RuntimeError, OSError, KeyboardInterrupt):
        with pytest.raises(error), output_lock(out):
            raise error('of the work')
    assert not (out / LOCK).exists()


# On this machine


def test_a_new_folder_vanishes_where_it_stays_empty(tmp_path: Path) -> None:
    with output_lock(tmp_path / 'new' / 'out'):
        assert (tmp_path / 'new' / 'out').is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / 'out').mkdir()
    with output_lock(tmp_path / 'out'):
        (tmp_path / 'out' / 'drive').mkdir()
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['drive']


def test_a_file_that_was_left_behind_is_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text('{"pid": 1, "host": "gone", and more')
    with output_lock(tmp_path):
        content = json.loads((tmp_path / LOCK).read_text())
        assert content == {'host': socket.gethostname(), 'pid': os.getpid()}
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner removes it between our open and our lock."""
    flock, calls = locks.fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(locks.fcntl, 'flock', late)
    with output_lock(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / LOCK).stat().st_ino == os.fstat(calls[1]).st_ino
        monkeypatch.setattr(locks, '_PATIENCE_S', 0.0)
        with pytest.raises(BagError, match='is being written'), output_lock(tmp_path):
            pytest.fail('two writers')


def test_a_folder_that_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, calls = os.open, []

    def late(path: Path, *arguments: Any) -> int:
        if not calls:
            (tmp_path / 'out').rmdir()
        calls.append(path)
        return opened(path, *arguments)

    monkeypatch.setattr(locks.os, 'open', late)
    with output_lock(tmp_path / 'out'):
        assert len(calls) == 2 and (tmp_path / 'out' / LOCK).exists()


def holder(out: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its standard input ends."""
    code = (
        'import sys; from pathlib import Path; from bev_training.data.locks import output_lock\n'
        f'with output_lock(Path({str(out)!r})): print("held", flush=True); sys.stdin.read()'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == 'held\n'
    return process


def test_a_process_that_is_killed_holds_it_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, '_PATIENCE_S', 0.1)
    out = tmp_path / 'out'
    with holder(out) as process:
        try:
            match = rf'process {process.pid} on {socket.gethostname()}'
            with pytest.raises(BagError, match=match), output_lock(out):
                pytest.fail('two writers')
        finally:
            process.send_signal(signal.SIGKILL)
    assert (out / LOCK).exists()
    with output_lock(out):
        pass
    assert not (out / LOCK).exists()


def _hold(held: Held, until: Any) -> None:
    until.wait(BOUND_S)


def test_a_process_of_the_run_holds_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody begins while something of a run whose first process was killed still writes."""
    monkeypatch.setattr(locks, '_PATIENCE_S', 0.1)
    context = multiprocessing.get_context('spawn')
    until = context.Event()
    with ExitStack() as stack:
        held = stack.enter_context(output_lock(tmp_path))
        one = context.Process(target=_hold, args=(held, until))
        one.start()
        assert held._descriptor is not None
        os.close(held._descriptor)  # what the kernel does when the first process ends
        with pytest.raises(BagError, match='is being written'), output_lock(tmp_path):
            pytest.fail('two writers')
        until.set()
        one.join(BOUND_S)
        held_now = os.open(tmp_path / LOCK, os.O_RDWR)  # what the block will close
        locks.fcntl.flock(held_now, locks.fcntl.LOCK_EX | locks.fcntl.LOCK_NB)
        if held_now != held._descriptor:
            os.dup2(held_now, held._descriptor)
            os.close(held_now)


@pytest.mark.parametrize('reaped', [True, False])
def test_what_a_killed_process_has_started_is_waited_for(
    reaped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is only starting holds the lock, and learns late that its parent is gone."""
    monkeypatch.setattr(locks, '_PATIENCE_S', 0.1)
    code = (
        'import subprocess, sys; from pathlib import Path\n'
        'from bev_training.data.locks import output_lock\n'
        f'with output_lock(Path({str(tmp_path)!r})) as held:\n'
        '    child = subprocess.Popen(["sleep", "1000"], pass_fds=[held._descriptor])\n'
        '    print(child.pid, flush=True); sys.stdin.read()'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        said: list[str] = []

        def end(line: str) -> None:
            said.append(line)
            os.kill(child, signal.SIGKILL)

        try:
            process.kill()
            if reaped:
                process.wait(BOUND_S)
            with output_lock(tmp_path, end):
                pass
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    who = f'process {process.pid} on {socket.gethostname()}'
    assert said == [f'waiting for what {who} has started to end: {tmp_path}']


def test_what_killed_runs_have_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / '.scene-1.unfinished' / 'scene-1').mkdir(parents=True)
    (tmp_path / '.scene-1.unfinished' / 'scene-1' / 'scene-1.mcap').write_bytes(b'half')
    (tmp_path / '.scene-2.unfinished').mkdir()
    (tmp_path / '.mine.unfinished').mkdir()
    (tmp_path / '.mine.unfinished' / 'notes.txt').write_text('keep')
    with output_lock(tmp_path):
        assert sorted(p.name for p in tmp_path.iterdir()) == [LOCK, '.mine.unfinished']
    assert (tmp_path / '.mine.unfinished' / 'notes.txt').read_text() == 'keep'


def test_a_drive_has_one_writer(out: Path) -> None:
    out.mkdir(parents=True)
    with output_lock(out), drive_lock(out, 'a') as held, drive_lock(out, 'b'):
        held.check()
        with pytest.raises(BagError, match='is being written'), drive_lock(out, 'a', 0.0):
            pytest.fail('two writers')
    assert not out.exists() or not list(out.iterdir())


def test_writers_of_an_earlier_run_are_waited_for(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir(parents=True)
    said: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(drive_lock(out, 'a'))

        def end(line: str) -> None:
            said.append(line)
            stack.close()

        wait_for_writers(out, end)
    assert said == [f'waiting for the end of what an earlier run still writes: {out / "a"}']
    assert not out.exists() or not list(out.iterdir())
    monkeypatch.setattr(locks, '_ORPHANS_S', 0.1)
    with drive_lock(out, 'a'), pytest.raises(BagError, match='is being written by another run'):
        wait_for_writers(out)


def test_what_a_killed_writer_has_left_is_removed(out: Path) -> None:
    out.mkdir(parents=True)
    (out / '.a.bev-drive.lock').write_text('{"renewed_at": 0}')
    (out / 'a').write_text('keep')
    wait_for_writers(out, pytest.fail)
    assert [path.name for path in out.iterdir()] == ['a']


# In an object store


def refuse(*arguments: Any, **named: Any) -> Any:
    raise RuntimeError('ExpiredToken')


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locks, '_SETTLE_S', 0.05)
    monkeypatch.setattr(locks, '_RENEW_S', 0.05)
    return UPath(f'memory://lease{tmp_path}')


def renewed(bucket: Path) -> float:
    return json.loads((bucket / LOCK).read_text())['renewed_at']


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lease_is_renewed(bucket: Path) -> None:
    with output_lock(bucket) as held:
        for _ in range(3):
            before = renewed(bucket)
            until(lambda before=before: renewed(bucket) > before)
        held.check()
        with pytest.raises(BagError, match=r'if it was killed, try again in \d\d s'):
            locks._take(bucket, bucket / LOCK, 'other')


def test_a_lease_that_is_not_renewed_is_taken_over(bucket: Path) -> None:
    lease = {'owner': 'killed', 'host': 'there', 'pid': 1, 'renewed_at': time.time()}
    (bucket / LOCK).write_text(json.dumps(lease))
    with pytest.raises(BagError, match='is being written'), output_lock(bucket):
        pytest.fail('two writers')
    (bucket / LOCK).write_text(json.dumps({**lease, 'renewed_at': time.time() - 90}))
    with output_lock(bucket) as held:
        held.check()


def test_a_lease_that_cannot_be_removed_is_logged(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The work is done by then; errors of a store's client are no OSErrors."""
    with output_lock(bucket):
        monkeypatch.setattr(MemoryFileSystem, 'rm_file', refuse)
    assert 'lock cannot be removed, and holds for 90 s: ExpiredToken' in caplog.text


def test_a_store_that_refuses_is_one_line(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, '_open', refuse)
    match = r'^memory://.* cannot be written: RuntimeError: ExpiredToken$'
    with pytest.raises(BagError, match=match), output_lock(bucket):
        pytest.fail('without a lease')


def test_a_lease_that_was_lost_is_noticed(bucket: Path) -> None:
    with output_lock(bucket) as held:
        until(lambda: 'owner' in locks._holder(bucket / LOCK))
        other = {'owner': 'other', 'host': 'there', 'pid': 1, 'renewed_at': time.time()}
        until(lambda: (bucket / LOCK).write_text(json.dumps(other)) > 0 and bool(held.lost))
        with pytest.raises(BagError, match='taken over by process 1 on there'):
            held.check()
    assert locks._holder(bucket / LOCK)['owner'] == 'other'  # it is not ours to remove


def test_of_two_at_the_same_time_one_wins(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = time.sleep

    def other_comes_first(seconds: float) -> None:
        locks._write(bucket / LOCK, 'other')
        sleep(seconds)

    monkeypatch.setattr(locks.time, 'sleep', other_comes_first)
    with pytest.raises(BagError, match='is being written'):
        locks._take(bucket, bucket / LOCK, 'mine')


@pytest.mark.parametrize('content', ['', '{', '[]', '{}', 'null'])
def test_a_damaged_lease_is_nobodys(content: str, bucket: Path) -> None:
    bucket.mkdir(parents=True)
    (bucket / LOCK).write_text(content)
    with output_lock(bucket) as held:
        held.check()
