"""Time stamps of one topic: rates, gaps, order and clocks, in memory that does not grow."""

from __future__ import annotations

import heapq
from array import array
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bev_perception.shapes import Array

KEPT = 4096  # samples of a distribution
_KEPT_GAPS = 256
JUMP_NS = 500_000_000  # as the synchroniser's and the transform tree's
GAP_PERIODS = 3.0
_WINDOWS, _WINDOW_SAMPLES = 10, 3


class Samples:
    """Rows of numbers, evenly thinned out so that at most `2 * kept` are held."""

    def __init__(self, kept: int = KEPT) -> None:
        self._limit = 2 * kept
        self._stride = 1
        self._seen = 0
        self._columns = 0
        self._values = array('d')  # row by row: a list of tuples takes ten times as much

    def add(self, *row: float) -> None:
        """Take in a row; every n-th stays."""
        if self._seen % self._stride == 0:
            self._columns = len(row)
            self._values.extend(row)
            if len(self._values) == self._limit * self._columns:
                self._values = array('d', self.rows[::2].tobytes())
                self._stride *= 2
        self._seen += 1

    @property
    def rows(self) -> Array:
        """What is held, (n, columns); (0, 0) where nothing came."""
        return np.array(self._values, np.float64).reshape(-1, self._columns or 1)[
            :, : self._columns
        ]


@dataclass(frozen=True, kw_only=True)
class TopicTimes:
    """What the stamps of a topic look like; seconds, None where there are too few messages.

    Attributes:
        messages: number of them.
        first_s: stamp of the first one, from the start of the recording.
        last_s: of the newest.
        recorded_s: when the first and the last message were recorded.
        period_s: median distance of neighbouring stamps.
        jitter_s: 90th percentile of the deviation from it, or from a multiple where messages lack.
        worst_gap_s: longest distance of neighbours.
        worst_gap_at_s: where it begins.
        gaps: distances of more than 3 periods, longest first: (begin, length).
        out_of_order: stamps before the newest.
        worst_back_s: how far at most.
        duplicates: stamps equal to the one before.
        zero_stamps: header stamps never filled in.
        jumps: steps of the header clock by more than 0.5 s.
        offset_s: recording time minus header stamp: median, or None without header stamps.
        offset_min_s: least.
        offset_max_s: largest.
        drift_s: how far it wanders, over tenths of the recording; of small offsets (10th
            percentile), for a busy network delays some messages, a clock all of them.
        bytes_per_s: of the payload.
    """

    messages: int
    first_s: float | None = None
    last_s: float | None = None
    recorded_s: tuple[float, float] | None = None
    period_s: float | None = None
    jitter_s: float | None = None
    worst_gap_s: float | None = None
    worst_gap_at_s: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()
    out_of_order: int = 0
    worst_back_s: float = 0.0
    duplicates: int = 0
    zero_stamps: int = 0
    jumps: int = 0
    offset_s: float | None = None
    offset_min_s: float | None = None
    offset_max_s: float | None = None
    drift_s: float | None = None
    bytes_per_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values, with the rate."""
        values = {k: _rounded(v) for k, v in asdict(self).items()}
        values['recorded_s'] = self.recorded_s and [_rounded(v) for v in self.recorded_s]
        values['gaps'] = [[_rounded(v) for v in gap] for gap in self.gaps]
        values['hz'] = round(1 / self.period_s, 3) if self.period_s else None
        return values


class TopicSeries:
    """Stamps of one topic as they come."""

    def __init__(self, origin_ns: int, kept: int = KEPT) -> None:
        """Start empty; times are told from `origin_ns` on, distributions from `kept` samples."""
        self._origin_ns = origin_ns
        self.count = 0
        self._size_bytes = 0
        self._first_ns: int | None = None
        self._newest_ns: int | None = None
        self._bag_ns = self._first_bag_ns = 0
        self._steps = Samples(kept)
        self._largest: list[tuple[int, int]] = []  # heap of (step, begin)
        self._out_of_order = self._worst_back_ns = self._duplicates = 0
        self._zero_stamps = self._jumps = 0
        self._least_ns: int | None = None
        self._most_ns: int | None = None
        self.offsets = Samples(kept)  # (seconds from the origin, offset in seconds)

    def add(self, bag_ns: int, header_ns: int | None, size_bytes: int = 0) -> None:
        """Take in one message.

        Args:
            bag_ns: when it was recorded.
            header_ns: its header stamp; None for a type without header, 0 was never filled in.
            size_bytes: of the payload.
        """
        if not self.count:
            self._first_bag_ns = bag_ns
        self.count += 1
        self._size_bytes += size_bytes
        if header_ns:
            offset_ns = bag_ns - header_ns
            self._least_ns = (
                offset_ns if self._least_ns is None else min(self._least_ns, offset_ns)
            )
            self._most_ns = offset_ns if self._most_ns is None else max(self._most_ns, offset_ns)
            self.offsets.add((bag_ns - self._origin_ns) / 1e9, offset_ns / 1e9)
        elif header_ns == 0:
            self._zero_stamps += 1
        self._step(header_ns or bag_ns, bag_ns)
        self._bag_ns = bag_ns

    def _step(self, stamp_ns: int, bag_ns: int) -> None:
        if self._newest_ns is None:
            self._first_ns = self._newest_ns = stamp_ns
            return
        step_ns = stamp_ns - self._newest_ns
        ahead = step_ns > JUMP_NS and step_ns - (bag_ns - self._bag_ns) > JUMP_NS
        if step_ns < -JUMP_NS or ahead:
            self._jumps += 1
        elif step_ns == 0:
            self._duplicates += 1
        elif step_ns < 0:
            self._out_of_order += 1
            self._worst_back_ns = max(self._worst_back_ns, -step_ns)
            return
        else:
            self._steps.add(step_ns)
            largest = heapq.heappush if len(self._largest) < _KEPT_GAPS else heapq.heappushpop
            largest(self._largest, (step_ns, self._newest_ns))
        self._newest_ns = stamp_ns

    def times(self) -> TopicTimes:
        """Return what was seen so far."""
        if self._newest_ns is None or self._first_ns is None:
            return TopicTimes(messages=0)
        span_s = (self._newest_ns - self._first_ns) / 1e9
        described: dict[str, Any] = {}
        if self._largest:
            steps = self._steps.rows[:, 0]
            period_ns = float(np.median(steps))
            step_ns, begin_ns = max(self._largest)
            long = [
                g for g in sorted(self._largest, reverse=True) if g[0] > GAP_PERIODS * period_ns
            ]
            described = {
                'period_s': period_ns / 1e9,
                'jitter_s': float(np.percentile(_off_beat(steps, period_ns), 90)) / 1e9,
                'worst_gap_s': step_ns / 1e9,
                'worst_gap_at_s': self._seconds(begin_ns),
                'gaps': tuple((self._seconds(begin), step / 1e9) for step, begin in long),
            }
        if self._least_ns is not None and self._most_ns is not None:
            offsets = self.offsets.rows[:, 1]
            described |= {
                'offset_s': float(np.median(offsets)),
                'offset_min_s': self._least_ns / 1e9,
                'offset_max_s': self._most_ns / 1e9,
                'drift_s': _drift(offsets),
            }
        return TopicTimes(
            messages=self.count,
            first_s=self._seconds(self._first_ns),
            last_s=self._seconds(self._newest_ns),
            recorded_s=(self._seconds(self._first_bag_ns), self._seconds(self._bag_ns)),
            out_of_order=self._out_of_order,
            worst_back_s=self._worst_back_ns / 1e9,
            duplicates=self._duplicates,
            zero_stamps=self._zero_stamps,
            jumps=self._jumps,
            bytes_per_s=self._size_bytes / span_s if span_s > 0 and self._size_bytes else None,
            **described,
        )

    def _seconds(self, stamp_ns: int) -> float:
        return (stamp_ns - self._origin_ns) / 1e9


def _off_beat(steps: Array, period: float) -> Array:
    """Distance of steps from the nearest multiple of the period, at least one."""
    return np.asarray(np.abs(steps - np.maximum(np.round(steps / period), 1) * period))


def _drift(offsets: Array) -> float | None:
    if len(offsets) < _WINDOWS * _WINDOW_SAMPLES:
        return None
    low = [float(np.percentile(w, 10)) for w in np.array_split(offsets, _WINDOWS)]
    return max(low) - min(low)


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
