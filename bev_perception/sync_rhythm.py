"""A camera rig's rhythm, measured from stamps: its period, and each camera's place in the cycle.

A rig fires its cameras once per cycle. Which cycle an image belongs to cannot be read off one
stamp: cameras of one cycle may lie 60 ms apart while cycles are 83 ms apart. It can be read off
the pattern that repeats: the period, and per camera the lag behind the rig's centre.
Stamps here are integers in nanoseconds from which the nominal offset is already subtracted.
"""

from __future__ import annotations

import cmath
import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise
from statistics import median_low

_HISTORY = 32  # stamps kept per camera: a change of rate is followed within half as many cycles
_GAIN_FLOOR = 1 / 64  # weight of the newest sample of a lag once many were seen
_TOLERANCE = 0.2  # share by which the period may differ from the cameras' own median
_PERIOD_GAIN = 1 / 16  # of a cycle's surprise, to the period
_DOUBT = 0.5  # a lag is believed beyond this share of the period, divided by sqrt(samples)
_RECUT = 0.15  # share of the period by which another cut of the cycle must be tighter


class CameraTrack:
    """What is known about one camera since the last reset."""

    __slots__ = (
        '_period_ns',
        'heard_at',
        'lag_ns',
        'misses',
        'newest_ns',
        'pending',
        'recent_ns',
        'samples',
    )

    def __init__(self) -> None:
        self.recent_ns: list[int] = []
        self.newest_ns: int | None = None
        self.lag_ns = 0.0
        self.samples = 0
        self.misses = 0
        self.heard_at = 0
        self.pending = 0
        self._period_ns: int | None = None

    def add(self, stamp_ns: int) -> bool:
        """Take one stamp in any order; False if the camera delivered this very stamp before."""
        at = bisect_left(self.recent_ns, stamp_ns)
        if at < len(self.recent_ns) and self.recent_ns[at] == stamp_ns:
            return False
        self.recent_ns.insert(at, stamp_ns)
        if len(self.recent_ns) > _HISTORY:
            del self.recent_ns[0]
        self.newest_ns = self.recent_ns[-1]
        self._period_ns = None
        return True

    @property
    def period_ns(self) -> int | None:
        """Median distance of neighbouring stamps; None before the second stamp."""
        if self._period_ns is None and len(self.recent_ns) > 1:
            self._period_ns = median_low(gaps(self.recent_ns))
        return self._period_ns


class Rhythm:
    """Period of the rig and lags of its cameras."""

    def __init__(self, tracks: dict[str, CameraTrack], fallback_period_ns: int) -> None:
        self._tracks = tracks
        self._fallback_ns = fallback_period_ns
        self.period_ns = fallback_period_ns
        self.measured = False

    def measure_period(self) -> bool:
        """Check the period against the cameras' own periods; False while no camera has one."""
        periods = [p for p in (track.period_ns for track in self._tracks.values()) if p]
        if periods:
            # The lower median: neither a half-rate nor a double-rate camera sets the rig's pace.
            rough_ns = median_low(periods)
            if not self.measured or abs(self.period_ns - rough_ns) > _TOLERANCE * rough_ns:
                self.period_ns = rough_ns
        self.measured = bool(periods)
        return self.measured

    def follow(self, early_ns: int) -> None:
        """Correct the period after a cycle came `early_ns` before the moment that it predicted."""
        if self.measured:
            self.period_ns -= round(_PERIOD_GAIN * early_ns)

    def lag_ns(self, track: CameraTrack) -> int:
        """Return a camera's lag: as much of the measured one as the samples support."""
        if not track.samples:
            return 0
        doubt_ns = _DOUBT * self.period_ns / math.sqrt(track.samples)
        excess_ns = abs(track.lag_ns) - doubt_ns
        return round(math.copysign(excess_ns, track.lag_ns)) if excess_ns > 0 else 0

    def learn(self, track: CameraTrack, lag_ns: int) -> None:
        """Take one measured distance of a camera's stamp from the centre of its cycle."""
        track.samples += 1
        track.lag_ns += (lag_ns - track.lag_ns) * max(1 / track.samples, _GAIN_FLOOR)

    def start(self) -> int:
        """Measure period and lags from the first few stamps; return the cycles' phase."""
        heard = [track for track in self._tracks.values() if track.recent_ns]
        streams = [track.recent_ns for track in heard]
        # Of few stamps the mean distance is better than the median: jitter cancels out.
        rough_ns = median_low([(s[-1] - s[0]) // (len(s) - 1) for s in streams if len(s) > 1])
        period_ns = self.period_ns = best_period(streams, rough_ns)
        first = min(heard, key=lambda track: track.recent_ns[0])
        phases = [circular_mean(track.recent_ns, period_ns) for track in heard]
        origin = cycle_start(phases, phases[heard.index(first)], period_ns)
        for track, phase in zip(heard, phases, strict=True):
            track.lag_ns = (phase - origin) % period_ns
            track.samples = len(track.recent_ns)
        self._recentre()
        return circular_mean(
            (s - self.lag_ns(track) for track in heard for s in track.recent_ns), period_ns
        )

    def recut(self) -> None:
        """Move cameras by a whole cycle if that groups the rig clearly tighter."""
        ordered = sorted((t for t in self._tracks.values() if t.samples), key=lambda t: t.lag_ns)
        if len(ordered) < 2:
            return
        steps = gaps([track.lag_ns for track in ordered])
        widest = max(range(len(steps)), key=steps.__getitem__)
        around = self.period_ns - (ordered[-1].lag_ns - ordered[0].lag_ns)
        if steps[widest] - around > _RECUT * self.period_ns:
            for track in ordered[widest + 1 :]:
                track.lag_ns -= self.period_ns
        self._recentre()

    def _recentre(self) -> None:
        """Lags are relative to the median camera; without this the common part would wander."""
        known = [track for track in self._tracks.values() if track.samples]
        middle_ns = median_low([track.lag_ns for track in known])
        for track in known:
            track.lag_ns -= middle_ns


def gaps(ordered: list[int] | list[float]) -> list[int]:
    """Differences of neighbours."""
    return [round(b - a) for a, b in pairwise(ordered)]


def best_period(streams: list[list[int]], rough_ns: int) -> int:
    """Period near a rough one at which every camera's stamps fall on one phase most sharply."""
    origin_ns = min(stamps[0] for stamps in streams)

    def sharpness(period_ns: int) -> float:
        turn = 2 * math.pi / period_ns
        phasors = [sum(cmath.exp(1j * turn * (s - origin_ns)) for s in c) for c in streams]
        # Few stamps of one camera fit many periods: one phase of all is the likelier explanation.
        return abs(sum(phasors)) + sum(map(abs, phasors))

    # a percent per step: after ten cycles that is a tenth of a cycle
    return max((max(1, rough_ns * share // 100) for share in range(70, 131)), key=sharpness)


def circular_mean(stamps_ns: Iterable[int], period_ns: int) -> int:
    """Mean phase of stamps in a period, in [0, period_ns)."""
    angles = [2 * math.pi * (s % period_ns) / period_ns for s in stamps_ns]
    mean = math.atan2(sum(map(math.sin, angles)), sum(map(math.cos, angles)))
    return round(mean / (2 * math.pi) * period_ns) % period_ns


def cycle_start(phases: list[int], first: int, period_ns: int) -> int:
    """Phase at which a cycle begins: after the widest gap between the cameras' phases.

    Where several gaps are about as wide, the one before the camera heard first (`first`, one of
    `phases`) wins: a drive more often starts with a whole cycle than inside one.
    """
    ordered = sorted(phases)
    before = [(p - ordered[i - 1]) % period_ns for i, p in enumerate(ordered)]
    if max(before) == 0:
        return first
    wide = max(before) - _RECUT * period_ns
    at = ordered.index(first)
    while before[at] < max(wide, 1):
        at -= 1
    return ordered[at]
