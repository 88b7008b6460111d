"""What the node tells of itself: counters and latencies in, `/diagnostics` out."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from bev_perception.sync import SyncStats

_KEPT = 500  # latencies in the percentiles
_SILENT_S = 3.0  # without images or grids, after which it is called a fault


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What does not change while the node is configured, for people who read diagnostics.

    Attributes:
        topics: image topic by camera name.
        facts: key and value pairs (checkpoint, device, ...).
    """

    topics: Mapping[str, str]
    facts: Mapping[str, str]


class Health:
    """Counts what happens; every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at zero.

        Args:
            clock: seconds that never jump, whatever ROS time does.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last: dict[str, float] = {}  # when each counter grew last
        self._errors: Counter[str] = Counter()
        self._last_error: dict[str, str] = {}
        self._newest_error = (-math.inf, '')
        self._stages: dict[str, deque[float]] = {}
        self._missing: tuple[str, ...] = ()
        self._state, self._state_since, self._state_why = 'unconfigured', clock(), ''
        self._reported: Counter[str] = Counter()
        self._reported_errors = 0
        self._reported_at = clock()

    def set_state(self, state: str, why: str = '') -> None:
        """Note the lifecycle state, and why it is not what was wanted."""
        with self._lock:
            self._state, self._state_since, self._state_why = state, self._clock(), why
            self._newest_error = (-math.inf, '')

    def count(self, what: str, n: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[what] += n
            self._last[what] = self._clock()

    def error(self, where: str, message: str) -> None:
        """Count an error and keep its text."""
        with self._lock:
            self._errors[where] += 1
            self._last_error[where] = message
            self._newest_error = (self._clock(), f'{where}: {message}')

    def missing(self, cameras: tuple[str, ...]) -> None:
        """Note which cameras the last set lacked."""
        with self._lock:
            self._missing = cameras

    def took(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        with self._lock:
            self._stages.setdefault(stage, deque(maxlen=_KEPT)).append(seconds * 1e3)

    def report(
        self,
        name: str,
        stamp: Time,
        setup: Setup | None,
        sync: SyncStats | None,
        extra: Mapping[str, str] = MappingProxyType({}),
    ) -> DiagnosticArray:
        """Make the message; rates are those since the last report, `extra` values are added."""
        with self._lock:
            now = self._clock()
            grids = self._counts['grids_published'] - self._reported['grids_published']
            rate_hz = grids / max(now - self._reported_at, 1e-3)
            errors = sum(self._errors.values())
            new_errors = errors - self._reported_errors
            self._reported, self._reported_at = self._counts.copy(), now
            self._reported_errors = errors
            level, text = self._judge(now, rate_hz, setup)
            values = {
                **{key: str(self._counts[key]) for key in sorted(self._counts)},
                'grids_hz': f'{rate_hz:.2f}',
                **_percentiles(self._stages),
                **extra,
            }
            listed = {
                f'{k} ({self._errors[k]})': self._last_error[k] for k in sorted(self._errors)
            }
        array = DiagnosticArray()
        array.header.stamp = stamp
        array.status = [_status(name, level, text, values | dict(setup.facts if setup else {}))]
        if sync is not None:
            array.status.append(_sync_status(f'{name}: sync', sync))
        error_level = DiagnosticStatus.WARN if new_errors else DiagnosticStatus.OK
        summary = f'{errors} messages or sets could not be used, {new_errors} of them just now'
        array.status.append(_status(f'{name}: errors', error_level, summary, listed))
        return array

    def _judge(self, now: float, rate_hz: float, setup: Setup | None) -> tuple[bytes, str]:
        """Return level and one line that says what to do about it."""
        if self._state != 'active' or setup is None:
            level = DiagnosticStatus.ERROR if self._state_why else DiagnosticStatus.WARN
            return level, ': '.join(filter(None, (self._state, self._state_why)))

        def silent_for(what: str) -> float:
            return now - max(self._last.get(what, -math.inf), self._state_since)

        silent = [t for c, t in setup.topics.items() if silent_for(f'images_{c}') > _SILENT_S]
        if len(silent) == len(setup.topics):
            return DiagnosticStatus.ERROR, f'no images on {", ".join(setup.topics.values())}'
        error_at, error = self._newest_error
        fresh = now - error_at < _SILENT_S
        published = self._last.get('grids_published', -math.inf) >= self._state_since
        if silent_for('grids_published') > _SILENT_S or (fresh and not published):
            why = error if fresh else f'no set of enough cameras for {_SILENT_S:g} s'
            return DiagnosticStatus.ERROR, f'nothing published; {why}'
        if not published:
            return DiagnosticStatus.WARN, 'active, no grid yet'
        if silent:
            return DiagnosticStatus.WARN, f'{rate_hz:.1f} Hz; no images on {", ".join(silent)}'
        if self._missing:
            missing = ', '.join(self._missing)
            return DiagnosticStatus.WARN, f'{rate_hz:.1f} Hz; last set lacked {missing}'
        return DiagnosticStatus.OK, f'{rate_hz:.1f} Hz'


def _percentiles(stages: Mapping[str, deque[float]]) -> dict[str, str]:
    out = {}
    for stage, values in stages.items():
        p50, p95 = np.percentile(values, (50, 95))
        out[f'{stage}_ms p50'], out[f'{stage}_ms p95'] = f'{p50:.1f}', f'{p95:.1f}'
    return out


def _sync_status(name: str, stats: SyncStats) -> DiagnosticStatus:
    dropped = sum(stats.dropped.values())
    values = {
        'complete': str(stats.complete),
        'partial': str(stats.partial),
        'late': str(stats.late),
        'duplicates': str(stats.duplicates),
        **{f'dropped: {reason}': str(n) for reason, n in sorted(stats.dropped.items())},
        **{f'missing: {camera}': str(c.missing) for camera, c in stats.cameras.items()},
        'clock_jumps': str(stats.resets),
        'spread_s p50/p95/p99': ' / '.join(
            _seconds(s) for s in (stats.spread_p50_s, stats.spread_p95_s, stats.spread_p99_s)
        ),
        'suggested sync.max_spread_s': _seconds(stats.suggested_max_spread_s),
        'suggested sync.offsets_s': ', '.join(
            _seconds(stats.suggested_offsets_s.get(camera)) for camera in stats.cameras
        ),
    }
    # A set in two that is no set at all points at the settings, not at a lossy network.
    level = DiagnosticStatus.OK
    if dropped + stats.late > len(stats.cameras) * (stats.complete + stats.partial):
        level = DiagnosticStatus.WARN
    return _status(name, level, f'{stats.complete} complete, {stats.partial} partial sets', values)


def _seconds(value: float | None) -> str:
    return 'unknown' if value is None else f'{value:.4f}'


def _status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id='',
        values=[KeyValue(key=k, value=v) for k, v in values.items()],
    )
