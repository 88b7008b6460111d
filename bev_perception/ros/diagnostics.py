"""What the node tells of itself: counters and latencies in, `/diagnostics` out."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from bev_perception.sync import SyncStats

_KEPT = 500  # latencies in the percentiles


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

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._last_error: dict[str, str] = {}
        self._newest_error = ''
        self._stages: dict[str, deque[float]] = {}
        self._missing: tuple[str, ...] = ()
        self._reported: Counter[str] = Counter()
        self._state = 'unconfigured'

    def set_state(self, state: str) -> None:
        """Note the lifecycle state."""
        with self._lock:
            self._state = state

    def count(self, what: str, n: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[what] += n

    def error(self, where: str, message: str) -> None:
        """Count an error and keep its text."""
        with self._lock:
            self._errors[where] += 1
            self._last_error[where] = message
            self._newest_error = f'{where}: {message}'

    def missing(self, cameras: tuple[str, ...]) -> None:
        """Note which cameras the last set lacked."""
        with self._lock:
            self._missing = cameras

    def took(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        with self._lock:
            self._stages.setdefault(stage, deque(maxlen=_KEPT)).append(seconds * 1e3)

    def report(
        self, name: str, stamp: Time, period_s: float, setup: Setup | None, sync: SyncStats | None
    ) -> DiagnosticArray:
        """Make the message; rates are those since the last report."""
        with self._lock:
            recent = self._counts - self._reported
            self._reported = self._counts.copy()
            level, text = self._judge(recent, period_s, setup)
            values = {
                **{key: str(self._counts[key]) for key in sorted(self._counts)},
                'grids_hz': f'{recent["grids_published"] / period_s:.2f}',
                **_percentiles(self._stages),
            }
            errors = {
                f'{k} ({self._errors[k]})': self._last_error[k] for k in sorted(self._errors)
            }
        array = DiagnosticArray()
        array.header.stamp = stamp
        array.status = [_status(name, level, text, values | dict(setup.facts if setup else {}))]
        if sync is not None:
            array.status.append(_sync_status(f'{name}: sync', sync))
        error_level = DiagnosticStatus.WARN if errors else DiagnosticStatus.OK
        summary = f'{sum(self._errors.values())} messages or sets could not be used'
        array.status.append(_status(f'{name}: errors', error_level, summary, errors))
        return array

    def _judge(
        self, recent: Counter[str], period_s: float, setup: Setup | None
    ) -> tuple[bytes, str]:
        """Return level and one line that says what to do about it."""
        if self._state != 'active' or setup is None:
            why = '; '.join(self._last_error[k] for k in sorted(self._errors) if k == 'configure')
            level = DiagnosticStatus.ERROR if why else DiagnosticStatus.WARN
            return level, f'{self._state}{": " + why if why else ""}'
        silent = [t for c, t in setup.topics.items() if not recent[f'images_{c}']]
        if len(silent) == len(setup.topics):
            return DiagnosticStatus.ERROR, f'no images on {", ".join(setup.topics.values())}'
        if not recent['grids_published']:
            why = self._newest_error or 'no set of enough cameras'
            return DiagnosticStatus.ERROR, f'nothing published; {why}'
        rate = f'{recent["grids_published"] / period_s:.1f} Hz'
        if silent:
            return DiagnosticStatus.WARN, f'{rate}; no images on {", ".join(silent)}'
        if self._missing:
            return DiagnosticStatus.WARN, f'{rate}; last set lacked {", ".join(self._missing)}'
        return DiagnosticStatus.OK, rate


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
