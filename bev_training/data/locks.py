"""One writer at a time for an output.

On this machine, a kernel lock on a hidden file: it ends with the processes that hold it, also by
`kill -9`. In an object store, which has no locks, a lease: an object that is renewed as long as
its writer lives.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.data.paths import inside, is_local, remote
from bev_training.folders import entries, existing_folder, remove_killed

LOCK = '.bev-convert.lock'  # in the output, as long as somebody writes
_DRIVE_LOCK = re.compile(r'\.(.+)\.bev-drive\.lock')
_PATIENCE_S = 1.0  # the processes of a run that has just ended need a moment
DRIVE_PATIENCE_S = 30.0
_ORPHANS_S = 30.0  # those of a run that was killed may be starting yet
_LOOK_S = 0.05
_RENEW_S = 20.0
_STALE_S = 90.0
_SETTLE_S = 1.0  # until what another one wrote at the same time is seen
_log = logging.getLogger(__name__)
_Say = Callable[[str], None]


class Held:
    """A lock that this process holds. Pickled to a new process, it is held by that one too."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self.lost = ''  # why, once it is lost

    def check(self) -> None:
        """Raise where the lock was lost, which only a lease can be.

        Raises:
            BagError: somebody else writes now.
        """
        if self.lost:
            raise BagError(self.lost)

    def __reduce__(self) -> tuple[Any, ...]:
        copy = None if self._descriptor is None else DupFd(self._descriptor)
        return _held_too, (copy,)


def _held_too(copy: Any) -> Held:
    return Held(None if copy is None else copy.detach())


@contextmanager
def output_lock(out: Path, say: _Say = lambda line: None) -> Iterator[Held]:
    """Hold the only right to write below a folder.

    A local folder is made if need be; if it was new and is empty at the end, it vanishes. On a
    network file system this is as good as its `flock` (NFS: version 4). Where the process that
    held it was killed, but others of its run have not ended yet, they are waited for.

    A lease in an object store keeps two runs apart that start seconds from each other, not more:
    it is taken over when it has not been renewed for 90 s by the clocks of the two machines, so
    these must agree to a few seconds, and a machine that sleeps for longer than that writes on
    until it looks again, at most 20 s later.

    Args:
        out: the folder.
        say: called with a line when there is something to wait for.

    Raises:
        BagError: somebody else holds it, naming the process and its machine; or it cannot be
            written.
    """
    path = out / LOCK
    if is_local(out):
        entries(out)  # says what is wrong with it
    with _local_lock(out, path, say=say) if is_local(out) else _lease(out, path) as held:
        try:
            if is_local(out):
                remove_killed(out)
        except OSError as error:
            raise BagError(f'{error.filename or out}: {error.strerror or error}') from error
        yield held


@contextmanager
def drive_lock(out: Path, name: str, patience_s: float = DRIVE_PATIENCE_S) -> Iterator[Held]:
    """Hold the only right to write one drive of an output. Processes on other machines cannot
    share the lock of the output, and outlive the run that started them.

    Args:
        out: the output; it exists.
        name: of the drive.
        patience_s: how long to wait for a lock of a local output.

    Raises:
        BagError: as `output_lock`.
    """
    path = out / f'.{name}.bev-drive.lock'
    local = is_local(out)
    with _local_lock(out, path, patience_s) if local else _lease(out, path) as held:
        yield held


def wait_for_writers(out: Path, say: _Say = lambda line: None) -> None:
    """Wait until no process of an earlier run holds a `drive_lock`, and remove what is left of
    them. Only for the holder of the output's lock.

    Raises:
        BagError: one still writes after 30 s.
        OSError: the output cannot be read.
    """
    for path in inside(out):
        match = _DRIVE_LOCK.fullmatch(path.name)
        if match:
            _wait_for_writer(out, path, match[1], say)


def _wait_for_writer(out: Path, path: Path, name: str, say: _Say) -> None:
    give_up, said = time.monotonic() + _ORPHANS_S, False
    while True:
        try:
            if not is_local(path):
                _refuse_fresh(out, path)
                path.unlink(missing_ok=True)
                return
            with _local_lock(out, path, 0.0):
                return
        except BagError:
            if time.monotonic() > give_up:
                raise
        if not said:
            say(f'waiting for the end of what an earlier run still writes: {out / name}')
            said = True
        time.sleep(_LOOK_S)


def _myself() -> dict[str, Any]:
    return {'host': socket.gethostname(), 'pid': os.getpid()}


def _who(holder: Any) -> str:
    known = holder if isinstance(holder, dict) else {}
    return f'process {known.get("pid", "?")} on {known.get("host", "?")}'


def _refusal(out: Path, holder: Any, more: str = '') -> BagError:
    return BagError(
        f'{out} is being written by another run ({_who(holder)}); wait for its end{more}'
    )


@contextmanager
def _local_lock(
    out: Path, path: Path, patience_s: float | None = None, say: _Say | None = None
) -> Iterator[Held]:
    with ExitStack() as stack:
        try:
            stack.enter_context(existing_folder(out))
            wait_s = _PATIENCE_S if patience_s is None else patience_s
            descriptor = _locked(out, path, wait_s, say)
        except OSError as error:
            raise BagError(f'{out} cannot be written: {error.strerror or error}') from error
        try:
            yield Held(descriptor)
        finally:
            # Removed while it is held: whoever has opened it by now finds that it is gone.
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _locked(out: Path, path: Path, patience_s: float, say: _Say | None) -> int:
    """Return the open, locked file; it is the one at `path`.

    With `say`, a holder that was killed is waited for longer: its processes are about to end.
    """
    began, said = time.monotonic(), False
    while True:
        out.mkdir(parents=True, exist_ok=True)  # a run that has just ended may have removed it
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(_myself()).encode())
                return descriptor
        except BlockingIOError:
            holder = _parsed(os.read(descriptor, 4096))
            waited_s = time.monotonic() - began
            killed = say is not None and waited_s > patience_s and _was_killed(holder)
            if waited_s > (_ORPHANS_S if killed else patience_s):
                os.close(descriptor)
                raise _refusal(out, holder) from None
            if killed and say is not None and not said:
                say(f'waiting for what {_who(holder)} has started to end: {out}')
                said = True
            time.sleep(_LOOK_S)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _was_killed(holder: Any) -> bool:
    """Whether the process that a lock names was of this machine, and is gone."""
    if not isinstance(holder, dict) or holder.get('host') != socket.gethostname():
        return False
    try:
        os.kill(holder['pid'], 0)
        # Dead, but not taken note of by its parent.
        return Path(f'/proc/{holder["pid"]}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, OverflowError, IndexError):
        return False


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:  # its writer has only just opened it
        return None


@contextmanager
def _lease(out: Path, path: Path) -> Iterator[Held]:
    owner = uuid.uuid4().hex
    held, ended = Held(), threading.Event()
    try:
        with remote(out, 'written'):
            _take(out, path, owner)
    except OSError as error:
        raise BagError(f'{out} cannot be written: {error.strerror or error}') from error
    renewing = threading.Thread(target=_renew, args=(out, path, owner, held, ended), daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        ended.set()
        renewing.join()
        _give_back(path, owner)


def _give_back(path: Path, owner: str) -> None:
    """Remove our lease. Where that fails it ends by itself, and the work is done all the same."""
    try:
        if _holder(path).get('owner') == owner:
            path.unlink()
    except Exception as error:  # see paths.remote
        _log.warning('%s cannot be removed, and holds for %.0f s: %s', path, _STALE_S, error)


def _refuse_fresh(out: Path, path: Path) -> None:
    """Raise BagError where somebody holds a lease."""
    holder = _holder(path)
    left_s = _STALE_S - (time.time() - holder.get('renewed_at', 0.0))
    if left_s > 0:
        raise _refusal(out, holder, f'; if it was killed, try again in {left_s:.0f} s')


def _take(out: Path, path: Path, owner: str) -> None:
    _refuse_fresh(out, path)
    _write(path, owner)
    time.sleep(_SETTLE_S)  # two that write at the same time: the later one wins
    holder = _holder(path)
    if holder.get('owner') != owner:
        raise _refusal(out, holder)


def _write(path: Path, owner: str) -> None:
    content = {'owner': owner, **_myself(), 'renewed_at': time.time()}
    path.write_text(json.dumps(content))


def _holder(path: Path) -> dict[str, Any]:
    """Return what a lease says; nothing where there is none."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _renew(out: Path, path: Path, owner: str, held: Held, ended: threading.Event) -> None:
    """Renew a lease until the end, or until it is somebody else's."""
    renewed = time.monotonic()
    while not ended.wait(_RENEW_S):
        try:
            holder = _holder(path)
            if holder.get('owner') == owner:
                _write(path, owner)
                renewed = time.monotonic()
                continue
            other = f'was taken over by {_who(holder)}' if holder else 'is gone'
            held.lost = f'{out}: its lock {other}; the conversion cannot go on'
            return
        except Exception as error:  # see paths.remote
            if time.monotonic() - renewed > _STALE_S:
                held.lost = f'{out}: its lock could not be renewed for {_STALE_S:.0f} s: {error}'
                return
