"""Damaged recordings, and what a conversion makes of them: files that were cut off or overwritten,
and valid files whose messages hold nonsense. The same seed gives the same damage.
"""

from __future__ import annotations

import hashlib
import random
import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from bev_perception.errors import BevError
from bev_training import messages
from bev_training.data.bag_inputs import BagSource
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.data.settings import ConvertConfig, KeyFrames
from test.data.small_bag import CAMERAS, Entry, SmallDrive, changed, write_entries

STORAGES: dict[str, dict[str, str]] = {
    'mcap': {},
    'mcap chunks': {'compression': 'storage'},
    'mcap messages': {'compression': 'message'},
    'mcap file': {'compression': 'file'},
    'db3': {'storage': 'sqlite3'},
    'ros1': {},
}
FILE_KINDS = ('cut', 'bytes', 'block', 'length', 'unindexed', 'no metadata')
MESSAGE_KINDS = ('payload', 'fields', 'strings', 'times', 'twice', 'stamps')
KINDS = FILE_KINDS + MESSAGE_KINDS
CONFIG = ConvertConfig(cameras=CAMERAS, every=KeyFrames(), min_cameras=2)
_OF_KIND = {'cut': (0,), 'bytes': (1, 2), 'block': (3, 4, 5, 7), 'length': (6,)}
_NUMBERS = (0, 1, 7, 2**16, 10**9, 2**31 - 1, 2**31, 2**32 - 65, 2**32 - 1)
_MCAP_END = b'\x02\x14\0\0\0\0\0\0\0' + bytes(20) + b'\x89MCAP0\r\n'  # footer without summary
_LAST_ROS1_NS = (2**32 - 1) * 10**9
_LOSSES = ('frames', 'views', 'sweeps')
# What a count grows by when nothing is wrong: it tells of no loss.
_PLAIN_COUNTS = frozenset(('images', 'sets', 'sets_complete', 'sets_between'))


def mutate(data: bytes, seed: int) -> bytes:
    """Return a damaged copy: cut off, bits flipped, a block zeroed, doubled or lost, a length
    field made absurd. The same seed gives the same damage.
    """
    rng = random.Random(seed)
    out = bytearray(data)
    kind = seed % 8
    # Most of a file is payload: half of the hits go to its ends, where headers and indexes are.
    spans = [(0, len(out)), (0, min(4096, len(out))), (max(len(out) - 4096, 0), len(out))]
    start, stop = spans[rng.randrange(3)] if rng.random() < 0.75 else spans[0]

    def place() -> int:
        return rng.randrange(start, stop)

    if kind == 0:
        return bytes(out[: place()])
    if kind in (1, 2):  # one bit, or many
        for _ in range(1 if kind == 1 else rng.randrange(2, 200)):
            out[place()] ^= 1 << rng.randrange(8)
    elif kind == 3:
        at, length = place(), rng.choice((8, 64, 512, 4096))
        out[at : at + length] = bytes(len(out[at : at + length]))
    elif kind == 4:
        at, length = place(), rng.choice((1, 64, 4096))
        out[at:at] = out[at : at + length]
    elif kind == 5:
        at, length = place(), rng.choice((1, 64, 4096))
        del out[at : at + length]
    elif kind == 6:
        at = place()
        size = rng.choice((4, 8))
        value = rng.choice((2**31 - 1, 2**32 - 1, 2**34, 2**40, 2**63 - 1, 2**64 - 1))
        out[at : at + size] = (value % 256**size).to_bytes(size, 'little')
    else:
        at = place()
        out[at : at + 64] = rng.randbytes(len(out[at : at + 64]))
    return bytes(out)


def without_summary(data: bytes) -> bytes:
    """Return an mcap file as a recorder leaves it that closes it without writing an index."""
    summary_start = struct.unpack('<Q', data[-28:-20])[0]
    return data[:summary_start] + _MCAP_END


def spoil(entries: Sequence[Entry], kind: str, rng: random.Random) -> list[Entry]:
    """Return messages of which some hold nonsense.

    Args:
        entries: what was recorded.
        kind: 'payload' (random bytes anywhere), 'fields' (absurd numbers near the beginning:
            sizes, lengths, stamps), 'strings' (frame and type names), 'times' (bag times), 'twice'
            (messages repeated) or 'stamps' (header stamps far away, negative, zero).
        rng: decides.
    """
    out = list(entries)
    topics = sorted({entry.topic for entry in out})
    hit = [i for i, e in enumerate(out) if e.topic == rng.choice(topics)] or list(range(len(out)))
    if rng.random() < 0.4:
        hit = list(range(len(out)))
    share = rng.choice((1, 3, len(hit)))  # one message, some, or a whole topic
    chosen = sorted(rng.sample(hit, min(share, len(hit))))
    if kind == 'twice':
        return sorted([*out, *(out[i] for i in chosen)], key=lambda entry: entry.time_ns)
    if kind == 'times':
        times = [out[i].time_ns for i in chosen]
        if rng.random() < 0.5:
            rng.shuffle(times)
        else:
            times = [rng.choice((0, 1, t + 10**9 * 3600, 2**62)) for t in times]
        for i, at in zip(chosen, times, strict=True):
            out[i] = changed(out[i], time_ns=at)
        return sorted(out, key=lambda entry: entry.time_ns)
    for i in chosen:
        out[i] = changed(out[i], data=_SPOIL[kind](out[i], rng))
    return out


def _payload(entry: Entry, rng: random.Random) -> bytes:
    data = bytearray(entry.data)
    for _ in range(rng.randrange(1, 5)):
        reach = rng.choice((40, 160, len(data)))
        at = rng.randrange(4, min(reach, len(data)))
        new = rng.randbytes(rng.choice((1, 1, 4, 8)))
        data[at : at + len(new)] = new[: len(data) - at]
    return bytes(data)


def _fields(entry: Entry, rng: random.Random) -> bytes:
    data = bytearray(entry.data)
    for _ in range(rng.randrange(1, 3)):
        at = 4 + 4 * rng.randrange(min(len(data) - 4, 200) // 4)
        data[at : at + 4] = struct.pack('<I', rng.choice(_NUMBERS))
    return bytes(data)


def _strings(entry: Entry, rng: random.Random) -> bytes:
    data = bytearray(entry.data)
    names = (
        b'optical',
        b'lidar_top',
        b'base_link',
        b'odom',
        b'jpeg',
        b'rgb8',
        b'plumb',
        b'intens',
    )
    found = [at for name in names if (at := data.find(name)) >= 0]
    if found:
        at = rng.choice(found)
        new = rng.choice(
            (rng.randbytes(4), b'\n\r\n\t', b'\0\0\0\0', b'\xff\xfe\xff\xfe', b'/../')
        )
        data[at : at + 4] = new
    return bytes(data)


def _stamps(entry: Entry, rng: random.Random) -> bytes:
    data = bytearray(entry.data)
    at = 8 if entry.type == messages.TF else 4
    sec, nanosec = struct.unpack_from('<iI', data, at)
    sec, nanosec = rng.choice(
        (
            (0, 0),
            (-5, 0),
            (-(2**31), 2**32 - 1),
            (2**31 - 1, 2**32 - 1),
            (sec + 3600, nanosec),
            (sec - 3600, nanosec),
            (sec, (nanosec + 20_000_000) % 10**9),
            (sec, 2**32 - 1),
        )
    )
    struct.pack_into('<iI', data, at, sec, nanosec)
    return bytes(data)


_SPOIL = {'payload': _payload, 'fields': _fields, 'strings': _strings, 'stamps': _stamps}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One damaged recording."""

    storage: str
    kind: str
    raw: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a conversion made of it.

    Attributes:
        verdict: 'whole' (as without damage), 'told' (less or other content, and a count says so),
            'content' (the same frames, images and sweeps, but other bytes or numbers in them:
            nothing in the recording tells), 'refused' (one clear line), 'SILENT' (less, and no
            count says so), 'TRACEBACK',
            'HALF' (something was left behind), 'CHECK' (what was written is not sound).
        differs: what is other than without damage: 'frames', 'images', 'poses', ...
        text: the error, or the counts.
        seconds: of wall time.
    """

    verdict: str
    differs: tuple[str, ...] = ()
    text: str = ''
    seconds: float = 0.0


def cases(count: int, seed: int) -> list[Case]:
    """Return so many cases, all storages and kinds in turn."""
    places = [(s, k, raw) for k in KINDS for s in STORAGES for raw in (False, True)]
    places = [(s, k, r) for s, k, r in places if k != 'unindexed' or s[:4] == 'mcap']
    places = [(s, k, r) for s, k, r in places if k != 'no metadata' or s != 'ros1']
    # In steps without a common divisor: a few cases are already a mixture of all.
    step = next(
        n for n in range(71, 200, 2) if all(len(places) % d or n % d for d in (2, 3, 5, 7))
    )
    return [
        Case(storage=s, kind=k, raw=r, seed=seed + i)
        for i in range(count)
        for s, k, r in [places[i * step % len(places)]]
    ]


@cache
def _entries(raw: bool) -> tuple[Entry, ...]:
    return tuple(SmallDrive(seconds=0.5, raw=raw).entries())


def _write(path: Path, entries: Sequence[Entry], storage: str) -> Path:
    if storage != 'ros1':
        return write_entries(path, entries, **STORAGES[storage])
    entries = [changed(entry, time_ns=min(entry.time_ns, _LAST_ROS1_NS)) for entry in entries]
    return write_entries(path.with_suffix('.bag'), entries)


def _is_ros1(entry: Entry) -> bool:
    """Whether a message can be put into the other serialisation."""
    try:
        messages.TYPESTORE.cdr_to_ros1(entry.data, entry.type)
    except Exception:  # whatever the bytes lead it to
        return False
    return True


@dataclass
class Workbench:
    """A folder in which damaged recordings are made and converted, one after the other."""

    folder: Path
    _whole: dict[tuple[str, bool], Path] = field(default_factory=dict)
    _wanted: dict[bool, tuple[dict[str, Any], Mapping[str, int]]] = field(default_factory=dict)
    _rigs: dict[bool, tuple[str, ...]] = field(default_factory=dict)  # the lidars

    def attempt(self, case: Case, *, decode: bool = False) -> Outcome:
        """Make a damaged recording, convert it and judge the result."""
        out = self.folder / 'out'
        path = self._damaged(case)
        began = time.monotonic()
        try:
            convert_bag(BagSource(name='bag', path=path), out, CONFIG)
        except BevError as error:
            text = str(error)
            clear = text and text.isprintable() and len(text) < 1500
            verdict = 'HALF' if out.exists() else 'refused' if clear else 'TRACEBACK'
            return Outcome(verdict=verdict, text=repr(text), seconds=time.monotonic() - began)
        except Exception as error:  # this is what is looked for
            text = f'{type(error).__name__}: {error}'
            return Outcome(verdict='TRACEBACK', text=text, seconds=time.monotonic() - began)
        seconds = time.monotonic() - began
        try:
            drive = Drive(out)
            problems = list(drive.check(decode=decode))
            if problems:
                return Outcome(verdict='CHECK', text=str(problems[:3]), seconds=seconds)
            wanted, usual = self._reference(case.raw)
            content = contents(drive)
            differs = tuple(name for name in wanted if content[name] != wanted[name])
            counts = Counter(drive.manifest['counts'])
            told = {
                n: c for n, c in counts.items() if n not in _PLAIN_COUNTS and c != usual.get(n)
            }
            if drive.lidars != self._rigs[case.raw]:  # its type is no lidar's any more
                told['lidars'] = len(drive.lidars)  # as the manifest's topics say
            lost = any(len(content[name]) < len(wanted[name]) for name in _LOSSES)
            silent = 'SILENT' if lost else 'content'
            verdict = 'whole' if not differs else 'told' if told else silent
            return Outcome(verdict=verdict, differs=differs, text=str(told), seconds=seconds)
        finally:
            remove(out)

    def _reference(self, raw: bool) -> tuple[dict[str, Any], Mapping[str, int]]:
        if raw not in self._wanted:
            out = self.folder / f'reference {raw}'
            path = self._undamaged('mcap', raw)
            convert_bag(BagSource(name='bag', path=path), out, CONFIG)
            drive = Drive(out)
            self._wanted[raw] = contents(drive), drive.manifest['counts']
            self._rigs[raw] = drive.lidars
        return self._wanted[raw]

    def _undamaged(self, storage: str, raw: bool) -> Path:
        if (storage, raw) not in self._whole:
            path = self.folder / f'whole {storage} {raw}'
            self._whole[storage, raw] = _write(path, _entries(raw), storage)
        return self._whole[storage, raw]

    def _damaged(self, case: Case) -> Path:
        rng = random.Random(case.seed)
        path = self.folder / 'bag'
        remove(path)
        remove(path.with_suffix('.bag'))
        if case.kind in MESSAGE_KINDS:
            whole_entries = _entries(case.raw)
            entries = spoil(whole_entries, case.kind, rng)
            if case.storage == 'ros1' and len(entries) == len(whole_entries):
                pairs = zip(whole_entries, entries, strict=True)
                entries = [two if _is_ros1(two) else one for one, two in pairs]
            return _write(path, entries, case.storage)
        whole = self._undamaged(case.storage, case.raw)
        if case.storage == 'ros1':
            files = {path.with_suffix('.bag'): whole.read_bytes()}
        else:
            path.mkdir()
            files = {path / file.name: file.read_bytes() for file in sorted(whole.iterdir())}
        storage = next(file for file in files if file.name != 'metadata.yaml')
        if case.kind == 'no metadata':
            files.pop(path / 'metadata.yaml')
            if rng.random() < 0.5:
                files[storage] = mutate(files[storage], case.seed)
        elif case.kind == 'unindexed':
            if case.storage != 'mcap file':
                files[storage] = without_summary(files[storage])
            if rng.random() < 0.5:
                files[storage] = mutate(files[storage], 8 * case.seed + rng.choice((1, 2, 3, 5)))
        else:
            kind = rng.choice(_OF_KIND[case.kind])
            files[storage] = mutate(files[storage], 8 * case.seed + kind)
        for file, data in files.items():
            file.write_bytes(data)
        return path if path.is_dir() else path.with_suffix('.bag')


def contents(drive: Drive) -> dict[str, Any]:
    """Return what a drive holds, by aspect, for comparison."""
    frames = [drive.frame(i) for i in range(len(drive))]
    views = [view for frame in frames for view in frame.views]
    sweeps = [sweep for frame in frames for sweep in frame.sweeps]
    return {
        'frames': [frame.stamp_ns for frame in frames],
        'links': [(frame.sequence, frame.epoch) for frame in frames],
        'views': [(view.camera, view.stamp_ns) for view in views],
        'images': [_hash(view.image.data) for view in views],
        'poses': [
            *(_numbers(frame.odom_T_ego, frame.base_T_ego) for frame in frames),
            *(_numbers(view.ego_T_cam, view.odom_T_base) for view in views),
        ],
        'sweeps': [(sweep.lidar, sweep.stamp_ns) for sweep in sweeps],
        'points': [_hash(sweep.points.tobytes()) for sweep in sweeps],
        'calibrations': [repr(replace(c, from_stamp_ns=0)) for c in drive.calibrations],
    }


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _numbers(*poses: Any) -> list[Any]:
    return [None if pose is None else pose.round(9).tolist() for pose in poses]


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        for item in path.iterdir():
            remove(item)
        path.rmdir()
    elif path.exists():
        path.unlink()
