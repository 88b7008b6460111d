"""Trigger cycles that are being filled: which cycle an item belongs to, by the rig's rhythm."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Generic, TypeVar

from bev_perception.sync_rhythm import CameraTrack, Rhythm

T = TypeVar('T')

_PREDICTED_WEIGHT = 3  # of a cycle's expected centre, in items
_PREDICT_CYCLES = 8  # further than this from a known cycle, its centre is not extrapolated
_FAST = 0.75  # a camera with a period below this share of the rig's has items to spare
_centre = attrgetter('centre_ns')


@dataclass(frozen=True)
class Item(Generic[T]):
    """One item of one camera."""

    camera: str
    stamp_ns: int  # from the header
    time_ns: int  # offset subtracted: what max_spread_s is about
    phase_ns: int  # measured lag subtracted too: what cycles are told apart by
    value: T


class Cycle(Generic[T]):
    """An open cycle: at most one item per camera, and where its centre is."""

    __slots__ = ('_base_ns', '_total_ns', '_weight', 'centre_ns', 'items')

    def __init__(self, centre_ns: int, weight: int) -> None:
        """Expect the centre at `centre_ns`, with the weight of that many items."""
        self.items: dict[str, Item[T]] = {}
        self.centre_ns = self._base_ns = centre_ns
        self._weight = weight
        self._total_ns = 0

    def put(self, item: Item[T]) -> None:
        """Add a camera's item."""
        self.items[item.camera] = item
        self._pull(item, 1)

    def take(self, camera: str) -> Item[T]:
        """Remove a camera's item."""
        item = self.items.pop(camera)
        self._pull(item, -1)
        return item

    @property
    def early_ns(self) -> int:
        """By how much the items lie before the centre that the cycle before predicted."""
        if not self.items or self._weight == len(self.items):
            return 0
        return -self._total_ns // len(self.items)

    def _pull(self, item: Item[T], weight: int) -> None:
        self._total_ns += weight * (item.phase_ns - self._base_ns)
        self._weight += weight
        self.centre_ns = self._base_ns + self._total_ns // max(1, self._weight)


class OpenCycles(Generic[T]):
    """The cycles between the newest closed one and the newest item."""

    def __init__(self, rhythm: Rhythm) -> None:
        self.open: list[Cycle[T]] = []  # oldest first
        self.closed_ns: int | None = None  # centre of the newest closed cycle
        self._rhythm = rhythm

    def expect_first(self, oldest_ns: int, phase_ns: int) -> None:
        """Say where cycles lie before there is one: at `phase_ns`, modulo the period."""
        if self.closed_ns is None:
            # As if a cycle shortly before the oldest item were known: it predicts the others.
            period_ns = self._rhythm.period_ns
            self.closed_ns = oldest_ns - (oldest_ns - phase_ns) % period_ns - 2 * period_ns

    def place(self, item: Item[T], track: CameraTrack) -> tuple[list[Cycle[T]], Item[T] | None]:
        """Put an item into its cycle and learn from it.

        Returns the cycles that changed, and an item that lost its place to a better one (maybe
        `item` itself). Neither: the cycle is closed, the item is late.
        """
        self._rhythm.measure_period()
        period_ns = self._rhythm.period_ns
        item = replace(item, phase_ns=item.time_ns - self._rhythm.lag_ns(track))
        centre_ns, predicted = self._nearest(item.phase_ns)
        own_ns = track.period_ns or period_ns
        if own_ns < _FAST * period_ns and abs(item.phase_ns - centre_ns) > own_ns / 2:
            return [], item  # between two cycles
        if predicted:
            self._rhythm.learn(track, item.time_ns - centre_ns)
        cycle = self._find(centre_ns)
        if cycle is None:
            if self._is_past(centre_ns):
                return [], None
            cycle = self._create(centre_ns, _PREDICTED_WEIGHT if predicted else 0)
        rejected = None
        if item.camera in cycle.items:
            held = cycle.take(item.camera)
            item, rejected = sorted((held, item), key=lambda e: abs(e.phase_ns - cycle.centre_ns))
        cycle.put(item)
        return [cycle], rejected

    def pop(self) -> Cycle[T]:
        """Close the oldest cycle."""
        cycle = self.open.pop(0)
        self._rhythm.follow(cycle.early_ns)
        if self.closed_ns is None or cycle.centre_ns > self.closed_ns:
            self.closed_ns = cycle.centre_ns
        return cycle

    def take_oldest(self, camera: str) -> Item[T]:
        """Remove a camera's oldest item."""
        cycle = next(c for c in self.open if camera in c.items)
        item = cycle.take(camera)
        if not cycle.items:
            self.open.remove(cycle)
        return item

    def _nearest(self, at_ns: int) -> tuple[int, bool]:
        """Return the centre of the cycle that a moment belongs to, and if others predict it."""
        i = bisect_left(self.open, at_ns, key=_centre)
        known = [cycle.centre_ns for cycle in self.open[max(0, i - 1) : i + 1]]
        if self.closed_ns is not None:
            known.append(self.closed_ns)
        if not known:
            return at_ns, False
        near_ns = min(known, key=lambda centre_ns: abs(at_ns - centre_ns))
        period_ns = self._rhythm.period_ns
        steps = (at_ns - near_ns + period_ns // 2) // period_ns
        predicted = abs(steps) <= _PREDICT_CYCLES
        return (near_ns + steps * period_ns if predicted else at_ns), predicted

    def _find(self, centre_ns: int) -> Cycle[T] | None:
        i = bisect_left(self.open, centre_ns, key=_centre)
        beside = self.open[max(0, i - 1) : i + 1]
        best = min(beside, key=lambda cycle: abs(cycle.centre_ns - centre_ns), default=None)
        if best is None or abs(best.centre_ns - centre_ns) > self._rhythm.period_ns // 2:
            return None
        return best

    def _is_past(self, centre_ns: int) -> bool:
        half_ns = self._rhythm.period_ns // 2
        return self.closed_ns is not None and centre_ns <= self.closed_ns + half_ns

    def _create(self, centre_ns: int, weight: int) -> Cycle[T]:
        cycle: Cycle[T] = Cycle(centre_ns, weight)
        insort(self.open, cycle, key=_centre)
        return cycle


def fitting(entries: list[Item[T]], max_spread_ns: int, anchor: str) -> list[Item[T]]:
    """Return most items within a spread, in time order, out of items in time order.

    Of equally many, those with the anchor camera; then the tightest; then the earliest.
    """
    windows = []
    end = 0
    for start, first in enumerate(entries):
        while end < len(entries) and entries[end].time_ns - first.time_ns <= max_spread_ns:
            end += 1
        window = entries[start:end]
        anchored = any(e.camera == anchor for e in window)
        width_ns = window[-1].time_ns - first.time_ns
        windows.append(((-len(window), not anchored, width_ns, first.time_ns), window))
    return min(windows, key=lambda rated: rated[0])[1]


def reference(entries: list[Item[T]], anchor: str) -> Item[T]:
    """Return the anchor camera's item, or else the one nearest the median."""
    for entry in entries:
        if entry.camera == anchor:
            return entry
    return sorted(entries, key=attrgetter('time_ns'))[(len(entries) - 1) // 2]
