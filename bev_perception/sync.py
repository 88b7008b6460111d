"""One set of images per trigger cycle of a camera rig, from header stamps alone.

`ViewSynchronizer` is a pure state machine: no clock, no threads, no ROS. What it returns depends
on nothing but the sequence of pushes, so a node and a bag converter form the same sets.
It measures the rig's period and each camera's place in the cycle (`sync_rhythm`), sorts every item
into its cycle (`sync_cycles`), and lets a cycle go as soon as nothing more can come.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeVar

from bev_perception import sync_stats
from bev_perception.errors import ConfigError, SyncError
from bev_perception.sync_cycles import Cycle, Item, OpenCycles, fitting, reference
from bev_perception.sync_rhythm import CameraTrack, Rhythm, gaps
from bev_perception.sync_stats import SyncRecorder, SyncStats

__all__ = ['SyncConfig', 'SyncStats', 'SyncedSet', 'ViewSynchronizer']

T = TypeVar('T')

_DEAD_AFTER = 5  # consecutive sets without a camera, after which it is not waited for
_SURE_SPREAD_NS = 8_000_000  # a set this tight cannot mix cycles of up to 60 Hz
_PENDING_HZ = 60  # items per camera that are kept: 8 + what comes within timeout_s at this rate


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Settings of the synchroniser; ConfigError at construction where one is out of range.

    Attributes:
        max_spread_s: no set is wider than this, after `offsets_s` are subtracted.
        timeout_s: how long on the stamp axis an incomplete set waits for the missing cameras.
        min_cameras: smaller sets are not emitted.
        offsets_s: nominal exposure time of a camera after the trigger; 0 for cameras not named.
        anchor: camera whose stamp is the set's stamp; '' = the camera nearest the median.
        jump_s: stamps of one camera that go back by more than this start everything anew.
    """

    cameras: tuple[str, ...]
    max_spread_s: float = 0.05
    timeout_s: float = 0.15
    min_cameras: int = 1
    offsets_s: Mapping[str, float] = field(default_factory=dict)
    anchor: str = ''
    jump_s: float = 0.5

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) < len(self.cameras) or '' in self.cameras:
            raise ConfigError(
                f'cameras: {self.cameras} must be at least one name, each once, none empty'
            )
        for name in ('max_spread_s', 'timeout_s', 'jump_s'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f'{name}: {value} must be a number >= 0')
        if not 1 <= self.min_cameras <= len(self.cameras):
            raise ConfigError(
                f'min_cameras: {self.min_cameras} must be 1..{len(self.cameras)} (the cameras)'
            )
        if self.anchor and self.anchor not in self.cameras:
            raise ConfigError(f'anchor: {self.anchor!r} must be one of {list(self.cameras)}')
        for camera, offset_s in self.offsets_s.items():
            if camera not in self.cameras:
                raise ConfigError(f'offsets_s: {camera!r} must be one of {list(self.cameras)}')
            if not abs(offset_s) < 1:
                raise ConfigError(f'offsets_s[{camera}]: {offset_s} must be between -1 and 1')


@dataclass(frozen=True)
class SyncedSet(Generic[T]):
    """Items of one trigger cycle.

    Attributes:
        stamp_ns: header stamp of the reference item; strictly increasing from set to set.
        items: camera -> (stamp_ns, item), in the order of `SyncConfig.cameras`.
        missing: cameras without an item, in the same order.
        spread_s: newest minus oldest stamp after offsets are subtracted.
    """

    stamp_ns: int
    items: dict[str, tuple[int, T]]
    missing: tuple[str, ...]
    spread_s: float

    @property
    def complete(self) -> bool:
        """Every camera of the rig is in the set."""
        return not self.missing


class ViewSynchronizer(Generic[T]):
    """Forms sets of items from per-camera streams that arrive late, shuffled or not at all.

    A complete set leaves with the push that completes it. A partial one leaves as soon as every
    missing camera has delivered a later item, is known to be silent or is not due, or when the
    newest stamp is `timeout_s` past it. Items held: at most 8 + 60 * timeout_s per camera.
    """

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self._offset_ns = {c: round(config.offsets_s.get(c, 0) * 1e9) for c in config.cameras}
        self._max_spread_ns = round(config.max_spread_s * 1e9)
        self._timeout_ns = round(config.timeout_s * 1e9)
        self._jump_ns = round(config.jump_s * 1e9)
        self._max_pending = 8 + math.ceil(config.timeout_s * _PENDING_HZ)
        self._recorder = SyncRecorder(config.cameras)
        self._last_stamp_ns = 0
        self._stale_ns = 0
        self._clear()

    def push(self, camera: str, stamp_ns: int, item: T) -> list[SyncedSet[T]]:
        """Take one item; return the sets that it lets go, in time order.

        Raises SyncError for a camera that is not in the rig and for a stamp that is not positive.
        """
        if camera not in self._tracks:
            raise SyncError(f'{camera}: unknown camera; known are {list(self.config.cameras)}')
        if stamp_ns <= 0:
            raise SyncError(f'{camera}: stamp {stamp_ns} ns must be positive (never filled in?)')
        self._recorder.received[camera] += 1
        time_ns = stamp_ns - self._offset_ns[camera]
        if self._is_stale(time_ns):
            self._recorder.drop(camera, sync_stats.STALE)
            return []
        newest_ns = self._tracks[camera].newest_ns
        if newest_ns is not None and time_ns < newest_ns - self._jump_ns:
            self._jump()
        if not self._hear(camera, time_ns):
            self._recorder.duplicates[camera] += 1
            return []
        entry = Item(camera, stamp_ns, time_ns, time_ns, item)
        if self._starting is not None:
            return self._start_with(entry)
        touched = self._sort_in(entry)
        if not touched and self._late_in_a_row >= 2 * len(self._tracks):
            # Nothing fits any more although the rig is alive: the clocks went back one by one.
            self._recorder.late[camera] -= 1
            self._jump()
            self._hear(camera, time_ns)
            return self._start_with(entry)
        return self._advance(touched)

    def flush(self) -> list[SyncedSet[T]]:
        """Return what is left, as at the end of a bag."""
        out = [] if self._starting is None else self._end_start()
        while self._cycles.open:
            out += self._close()
        return out

    def reset(self) -> None:
        """Forget everything but the counters, as after a jump of the stamps."""
        pending = [e for cycle in self._cycles.open for e in cycle.items.values()]
        for entry in pending + (self._starting or []):
            self._recorder.drop(entry.camera, sync_stats.RESET)
        self._recorder.resets += 1
        self._last_stamp_ns = 0
        self._clear()

    def stats(self) -> SyncStats:
        """Return counts since construction and what the last 1000 sets looked like."""
        pending = {camera: track.pending for camera, track in self._tracks.items()}
        return self._recorder.snapshot(
            pending, self._rhythm.period_ns if self._rhythm.measured else None
        )

    # -- stamps ---------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._tracks = {camera: CameraTrack() for camera in self.config.cameras}
        self._rhythm = Rhythm(self._tracks, 2 * max(self._max_spread_ns, _SURE_SPREAD_NS))
        self._starting: list[Item[T]] | None = []  # items from before the rhythm is known
        self._cycles: OpenCycles[T] = OpenCycles(self._rhythm)
        self._ready: Cycle[T] | None = None  # newest open cycle that lacks nothing
        self._slack_ns = 0  # how far back recent items came within one camera
        self._pushes = 0
        self._late_in_a_row = 0
        self._stale_left = 0

    def _jump(self) -> None:
        self._stale_ns = self._now_ns()
        self.reset()
        self._stale_left = 4 * len(self._tracks)

    def _is_stale(self, time_ns: int) -> bool:
        """Tell the last items of the old pass, overtaken by the first of the new one.

        Only a few are expected, and only at once: anything else near the old time is a jump ahead.
        """
        if not self._stale_left:
            return False
        heard = [t.recent_ns for t in self._tracks.values() if t.recent_ns]
        newest_ns = max(stamps[-1] for stamps in heard)
        if newest_ns - min(stamps[0] for stamps in heard) > self._jump_ns:
            self._stale_left = 0
            return False
        stale = time_ns > newest_ns + self._jump_ns and (
            abs(time_ns - self._stale_ns) <= self._jump_ns
        )
        self._stale_left -= stale
        return stale

    def _hear(self, camera: str, time_ns: int) -> bool:
        """Note that a camera is alive; False for a stamp that it delivered before."""
        track = self._tracks[camera]
        newest_ns = track.newest_ns
        if not track.add(time_ns):
            return False
        self._pushes += 1
        track.heard_at = self._pushes
        if self._now_ns() - time_ns <= self._timeout_ns:
            track.misses = 0  # one that is always later than the timeout is not worth waiting for
        self._slack_ns -= self._slack_ns >> 10  # forgotten within some ten seconds
        if newest_ns is not None and time_ns < newest_ns:
            self._slack_ns = max(self._slack_ns, newest_ns - time_ns)
        return True

    def _now_ns(self) -> int:
        """Newest stamp of the rig; one camera whose clock runs ahead of all others is ignored."""
        recent = self._pushes - 2 * len(self._tracks)
        newest = sorted(
            track.recent_ns[-1]
            for track in self._tracks.values()
            if track.recent_ns and track.heard_at >= recent
        )
        ahead = len(newest) > 1 and newest[-1] - newest[-2] > self._jump_ns
        return newest[-2] if ahead else newest[-1]

    # -- the first few cycles -------------------------------------------------------------------

    def _start_with(self, entry: Item[T]) -> list[SyncedSet[T]]:
        """Hold items until the rhythm can be told; a tight complete set need not wait."""
        assert self._starting is not None
        insort(self._starting, entry, key=attrgetter('time_ns'))
        self._tracks[entry.camera].pending += 1
        stamps = [track.recent_ns for track in self._tracks.values() if track.recent_ns]
        periods = sum(len(s) - 1 for s in stamps)
        span_ns = max(s[-1] for s in stamps) - min(s[0] for s in stamps)
        n = len(self._tracks)
        full = self._tracks[entry.camera].pending >= self._max_pending
        if periods >= 8 * n or span_ns > 2 * self._timeout_ns or full:
            return self._end_start()
        sure_ns = min((g // 4 for s in stamps for g in gaps(s)), default=_SURE_SPREAD_NS)
        first = self._starting[:n]
        if len({e.camera for e in first}) == n and first[-1].time_ns - first[0].time_ns <= min(
            sure_ns, self._max_spread_ns
        ):
            del self._starting[:n]
            cycle: Cycle[T] = Cycle(first[0].phase_ns, 0)
            for e in first:
                cycle.put(e)
            self._cycles.open = [cycle]
            return self._close()
        return []

    def _end_start(self) -> list[SyncedSet[T]]:
        """Measure the rhythm and sort the held items by it."""
        held, self._starting = self._starting or [], None
        if self._rhythm.measure_period() and held:
            self._cycles.expect_first(held[0].time_ns, self._rhythm.start())
        for entry in held:
            self._tracks[entry.camera].pending -= 1
            self._sort_in(entry)
        out: list[SyncedSet[T]] = []
        for cycle in list(self._cycles.open):
            out += self._advance([cycle])
        return out

    # -- from item to set -----------------------------------------------------------------------

    def _sort_in(self, entry: Item[T]) -> list[Cycle[T]]:
        """Put an item into its cycle; return the cycles touched, none where it found no place."""
        track = self._tracks[entry.camera]
        if track.pending >= self._max_pending:
            self._discard([self._cycles.take_oldest(entry.camera)], sync_stats.OVERFLOW)
        track.pending += 1
        touched, rejected = self._cycles.place(entry, track)
        if touched or rejected is not None:
            self._late_in_a_row = 0
        else:
            track.pending -= 1
            self._recorder.late[entry.camera] += 1
            closed_ns = self._cycles.closed_ns
            far = closed_ns is not None and closed_ns - entry.time_ns > self._jump_ns
            self._late_in_a_row = self._late_in_a_row + 1 if far else 0
        if rejected is not None:
            self._discard([rejected], sync_stats.SURPLUS)
        return touched

    def _discard(self, entries: Sequence[Item[T]], reason: str) -> None:
        for entry in entries:
            self._tracks[entry.camera].pending -= 1
            self._recorder.drop(entry.camera, reason)

    def _advance(self, touched: Sequence[Cycle[T]]) -> list[SyncedSet[T]]:
        """Let go what a push has finished, oldest first.

        A ready cycle takes all older ones with it, unless one that is still too small for a set
        may yet grow: then it is worth waiting for.
        """
        for cycle in touched:
            newer = self._ready is None or cycle.centre_ns > self._ready.centre_ns
            if newer and cycle in self._cycles.open and self._is_ready(cycle):
                self._ready = cycle
        out: list[SyncedSet[T]] = []
        now_ns = self._now_ns()
        while self._cycles.open:
            oldest = self._cycles.open[0]
            enough = oldest is self._ready or len(oldest.items) >= self.config.min_cameras
            if not (self._ready and enough) and not self._is_finished(oldest, now_ns):
                break
            out += self._close()
        return out

    def _is_due(self, track: CameraTrack, cycle: Cycle[T]) -> bool:
        """Whether a camera should be in a cycle: not silent, not slow and between two items."""
        if track.misses >= _DEAD_AFTER:
            return False
        own_ns, newest_ns = track.period_ns, track.newest_ns
        if own_ns is None or newest_ns is None or own_ns <= 1.5 * self._rhythm.period_ns:
            return True
        since_ns = cycle.centre_ns - (newest_ns - self._rhythm.lag_ns(track))
        return not 0 < since_ns < 0.75 * own_ns

    def _is_ready(self, cycle: Cycle[T]) -> bool:
        return not any(
            camera not in cycle.items and self._is_due(track, cycle)
            for camera, track in self._tracks.items()
        )

    def _is_finished(self, cycle: Cycle[T], now_ns: int) -> bool:
        """Nothing more can be expected for this cycle."""
        if (
            now_ns - reference(list(cycle.items.values()), self.config.anchor).time_ns
            > self._timeout_ns
        ):
            return True
        passed_ns = cycle.centre_ns + self._rhythm.period_ns // 2 + self._slack_ns
        for camera, track in self._tracks.items():
            if camera not in cycle.items and self._is_due(track, cycle):
                newest_ns = track.newest_ns
                if newest_ns is None or newest_ns - self._rhythm.lag_ns(track) <= passed_ns:
                    return False
        return True

    def _close(self) -> list[SyncedSet[T]]:
        """Take the oldest cycle out; its set, unless it is too small."""
        cycle = self._cycles.pop()
        if cycle is self._ready:
            self._ready = None
        for camera, track in self._tracks.items():
            if camera not in cycle.items and self._is_due(track, cycle):
                track.misses += 1
        self._rhythm.recut()
        entries = sorted(cycle.items.values(), key=attrgetter('time_ns'))
        if len(entries) > 1:
            self._recorder.measure(
                {e.camera: e.stamp_ns - cycle.centre_ns for e in entries},
                entries[-1].time_ns - entries[0].time_ns,
            )
        kept = fitting(entries, self._max_spread_ns, self.config.anchor)
        self._discard([e for e in entries if e not in kept], sync_stats.TOO_WIDE)
        if len(kept) < self.config.min_cameras:
            self._discard(kept, sync_stats.TOO_FEW)
            return []
        later = [e for e in kept if e.stamp_ns > self._last_stamp_ns]
        if not later:
            self._discard(kept, sync_stats.OUT_OF_ORDER)
            return []
        return [self._emit(kept, reference(later, self.config.anchor).stamp_ns)]

    def _emit(self, kept: Sequence[Item[T]], stamp_ns: int) -> SyncedSet[T]:
        self._last_stamp_ns = stamp_ns
        by_camera = {e.camera: e for e in kept}
        items: dict[str, tuple[int, T]] = {}
        for camera in self.config.cameras:
            if camera in by_camera:
                items[camera] = (by_camera[camera].stamp_ns, by_camera[camera].value)
                self._tracks[camera].pending -= 1
        missing = tuple(camera for camera in self.config.cameras if camera not in items)
        spread_ns = kept[-1].time_ns - kept[0].time_ns
        self._recorder.emit(tuple(items), missing, spread_ns)
        return SyncedSet(stamp_ns, items, missing, spread_ns / 1e9)
