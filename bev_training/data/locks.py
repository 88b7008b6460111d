"""One writer at a time for an output.

On this machine, a kernel lock on a hidden file: it ends with the processes that hold it, also by
`kill -9`. In an object store, which has no locks, a lease: an object that is renewed as long as
its writer lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.data.paths import is_local
from bev_training.folders import entries, existing_folder

LOCK = '.bev-convert.lock'  # in the output, as long as somebody writes
_PATIENCE_S = 1.0  # the processes of a run that was killed need a moment to end
_RENEW_S = 20.0
_STALE_S = 90.0
_SETTLE_S = 1.0  # until what another one wrote at the same time is seen


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
def output_lock(out: Path) -> Iterator[Held]:
    """Hold the only right to write below a folder.

    A local folder is made if need be; if it was new and is empty at the end, it vanishes. On a
    network file system this is as good as its `flock` (NFS: version 4).

    A lease in an object store keeps two runs apart that start seconds from each other, not more:
    it is taken over when it has not been renewed for 90 s by the clocks of the two machines, so
    these must agree to a few seconds, and a machine that sleeps for longer than that writes on
    until it looks again, at most 20 s later.

    Args:
        out: the folder.

    Raises:
        BagError: somebody else holds it, naming the process and its machine; or it cannot be
            written.
    """
    with _local_lock(out) if is_local(out) else _lease(out) as held:
        yield held


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
def _local_lock(out: Path) -> Iterator[Held]:
    path = out / LOCK
    entries(out)  # says what is wrong with it
    with ExitStack() as stack:
        try:
            stack.enter_context(existing_folder(out))
            descriptor = _locked(out, path)
        except OSError as error:
            raise BagError(f'{out} cannot be written: {error.strerror or error}') from error
        try:
            yield Held(descriptor)
        finally:
            # Removed while it is held: whoever has opened it by now finds that it is gone.
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _locked(out: Path, path: Path) -> int:
    """Return the open, locked file; it is the one at `path`."""
    give_up = time.monotonic() + _PATIENCE_S
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
            if time.monotonic() > give_up:
                holder = _parsed(os.read(descriptor, 4096))
                os.close(descriptor)
                raise _refusal(out, holder) from None
            time.sleep(0.05)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


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
def _lease(out: Path) -> Iterator[Held]:
    path, owner = out / LOCK, uuid.uuid4().hex
    held, ended = Held(), threading.Event()
    try:
        _take(out, path, owner)
    except BagError:
        raise
    except Exception as error:  # the clients of object stores have errors of their own
        raise BagError(f'{out} cannot be written: {error}') from error
    renewing = threading.Thread(target=_renew, args=(out, path, owner, held, ended), daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        ended.set()
        renewing.join()
        if _holder(path).get('owner') == owner:
            path.unlink()


def _take(out: Path, path: Path, owner: str) -> None:
    holder = _holder(path)
    left_s = _STALE_S - (time.time() - holder.get('renewed_at', 0.0))
    if left_s > 0:
        more = f'; if it was killed, try again in {left_s:.0f} s'
        raise _refusal(out, holder, more)
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
        except Exception as error:  # see _lease
            if time.monotonic() - renewed > _STALE_S:
                held.lost = f'{out}: its lock could not be renewed for {_STALE_S:.0f} s: {error}'
                return
