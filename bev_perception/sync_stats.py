"""Counters of the synchroniser, and the settings that they suggest."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

KEPT = 1000  # newest sets that the distributions describe

# Reasons in SyncStats.dropped
TOO_FEW = 'too_few'  # its set had fewer than min_cameras items
TOO_WIDE = 'too_wide'  # further than max_spread_s from the rest of its set
SURPLUS = 'surplus'  # a second item of one camera in one cycle
OUT_OF_ORDER = 'out_of_order'  # its set would have gone back in time
OVERFLOW = 'overflow'  # the camera had too many items pending
RESET = 'reset'  # pending while the stamps jumped back or reset() was called
STALE = 'stale'  # from before a jump, delivered after it


@dataclass(frozen=True, kw_only=True)
class CameraCounts:
    """One camera since construction: received is the sum of the five counts after it."""

    received: int
    in_sets: int
    late: int
    duplicates: int
    dropped: int
    pending: int
    missing: int  # sets emitted without this camera


@dataclass(frozen=True, kw_only=True)
class SyncStats:
    """Counts since construction; distributions over the last 1000 sets.

    `spread_p*_s` describe the emitted sets and are None before the first one. The suggestions are
    None or empty until something was measured.
    """

    complete: int
    partial: int
    late: int  # items that came after their set had left
    duplicates: int
    dropped: Mapping[str, int]  # items that were in no set, by reason
    pending: int
    resets: int
    cameras: Mapping[str, CameraCounts]
    period_s: float | None
    spread_p50_s: float | None
    spread_p95_s: float | None
    spread_p99_s: float | None
    suggested_max_spread_s: float | None  # with the offsets_s now in force
    suggested_offsets_s: Mapping[str, float]  # smallest one is 0


class SyncRecorder:
    """What `SyncStats` is made of; memory does not grow with time."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self.complete = 0
        self.partial = 0
        self.resets = 0
        self.received: Counter[str] = Counter()
        self.in_sets: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._dropped_of: Counter[str] = Counter()
        self._spreads_ns: deque[int] = deque(maxlen=KEPT)
        self._widths_ns: deque[int] = deque(maxlen=KEPT)
        self._offsets_ns: dict[str, deque[int]] = {name: deque(maxlen=KEPT) for name in cameras}

    def drop(self, camera: str, reason: str) -> None:
        """Count an item that is in no set."""
        self._dropped[reason] += 1
        self._dropped_of[camera] += 1

    def emit(self, cameras: Sequence[str], missing: Sequence[str], spread_ns: int) -> None:
        """Count a set."""
        self.in_sets.update(cameras)
        self.missing.update(missing)
        self.partial += bool(missing)
        self.complete += not missing
        self._spreads_ns.append(spread_ns)

    def measure(self, offsets_ns: Mapping[str, int], width_ns: int) -> None:
        """Note one trigger cycle: each camera's raw offset from its centre, and its full width."""
        self._widths_ns.append(width_ns)
        for camera, offset_ns in offsets_ns.items():
            self._offsets_ns[camera].append(offset_ns)

    def snapshot(self, pending: Mapping[str, int], period_ns: int | None) -> SyncStats:
        """Return the counts, and what follows from the newest sets."""
        spreads = sorted(self._spreads_ns)
        width_ns = _rank(sorted(self._widths_ns), 0.99)
        return SyncStats(
            complete=self.complete,
            partial=self.partial,
            late=self.late.total(),
            duplicates=self.duplicates.total(),
            dropped=dict(self._dropped),
            pending=sum(pending.values()),
            resets=self.resets,
            cameras={name: self._camera(name, held) for name, held in pending.items()},
            period_s=None if period_ns is None else period_ns / 1e9,
            spread_p50_s=_seconds(_rank(spreads, 0.5)),
            spread_p95_s=_seconds(_rank(spreads, 0.95)),
            spread_p99_s=_seconds(_rank(spreads, 0.99)),
            # a tenth on top, whole milliseconds: rare wide sets beyond the 99th percentile
            suggested_max_spread_s=(
                None if width_ns is None else max(1, math.ceil(width_ns * 1.1e-6)) / 1e3
            ),
            suggested_offsets_s=self._suggested_offsets(),
        )

    def _camera(self, name: str, pending: int) -> CameraCounts:
        return CameraCounts(
            received=self.received[name],
            in_sets=self.in_sets[name],
            late=self.late[name],
            duplicates=self.duplicates[name],
            dropped=self._dropped_of[name],
            pending=pending,
            missing=self.missing[name],
        )

    def _suggested_offsets(self) -> dict[str, float]:
        middle = {c: median_low(seen) for c, seen in self._offsets_ns.items() if seen}
        least = min(middle.values(), default=0)
        return {camera: round((value - least) / 1e9, 4) for camera, value in middle.items()}


def _rank(ordered: Sequence[int], share: float) -> int | None:
    """Nearest-rank percentile."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _seconds(value_ns: int | None) -> float | None:
    return None if value_ns is None else value_ns / 1e9
