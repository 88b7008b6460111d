"""What is wrong with the stamps of a recording."""

from __future__ import annotations

from collections.abc import Iterator

from bev_training.inspection.bag_measurements import BagMeasured
from bev_training.inspection.findings import plural
from bev_training.inspection.topic_series import TopicTimes

_JITTER_SHARE = 0.3  # of the period
_OFFSET_S = 0.5
_DRIFT_S = 0.05
_APART_S = 0.2
_SILENT_S = 2.0
_SENSORS = ('camera', 'lidar')


def time_findings(m: BagMeasured) -> Iterator[tuple[str, str, str]]:
    """Yield (rule, topic, text) about every topic, and about their clocks together."""
    sensors = {
        topic: times
        for topic, times in m.times.items()
        if m.roles.get(topic, '').split(' ')[0] in _SENSORS
    }
    for topic, times in sensors.items():
        yield from _rate(topic, times)
    stamped = [*sensors, *(t for t, role in m.roles.items() if role == 'odometry')]
    yield from _silent({topic: m.times[topic] for topic in stamped})
    for topic in stamped:
        yield from _order(topic, m.times[topic])
        yield from _clock(topic, m.times[topic])
    offsets = {t: m.times[t].offset_s for t in stamped}
    known = {t: s for t, s in offsets.items() if s is not None}
    if len(known) > 1:
        first, last = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        if known[last] - known[first] > _APART_S:
            yield (
                'BAG018',
                last,
                f'its stamps lie {known[last] * 1e3:.0f} ms before recording time, those of '
                f'{first} {known[first] * 1e3:.0f} ms',
            )


def _rate(topic: str, t: TopicTimes) -> Iterator[tuple[str, str, str]]:
    if t.gaps:
        at_s, length_s = t.gaps[0]
        total_s = sum(length for _, length in t.gaps)
        yield (
            'BAG010',
            topic,
            f'{plural(len(t.gaps), "gap")} ({total_s:.2f} s together), the longest '
            f'{length_s:.2f} s at {at_s:.1f} s',
        )
    if t.period_s and t.jitter_s and t.jitter_s > _JITTER_SHARE * t.period_s:
        yield (
            'BAG011',
            topic,
            f'a tenth of all distances is off by more than {t.jitter_s * 1e3:.1f} ms from the '
            f'period of {t.period_s * 1e3:.1f} ms',
        )


def _silent(times: dict[str, TopicTimes]) -> Iterator[tuple[str, str, str]]:
    """Tell of sensors that begin long after, or end long before, the first or last of all."""
    recorded = {topic: t.recorded_s for topic, t in times.items() if t.recorded_s is not None}
    begin_s = min((first for first, _ in recorded.values()), default=0.0)
    end_s = max((last for _, last in recorded.values()), default=0.0)
    for topic, (first_s, last_s) in recorded.items():
        parts = []
        if first_s - begin_s > _SILENT_S:
            parts.append(f'its first message comes {first_s - begin_s:.1f} s after the others')
        if end_s - last_s > _SILENT_S:
            parts.append(f'its last message comes {end_s - last_s:.1f} s before the end')
        if parts:
            yield 'BAG019', topic, ', '.join(parts)


def _order(topic: str, t: TopicTimes) -> Iterator[tuple[str, str, str]]:
    if t.out_of_order:
        yield (
            'BAG012',
            topic,
            f'{t.out_of_order} of {plural(t.messages, "stamp")} before a newer one, by '
            f'{t.worst_back_s * 1e3:.1f} ms at most',
        )
    if t.duplicates:
        yield 'BAG013', topic, f'{t.duplicates} of {plural(t.messages, "stamp")} as the one before'
    if t.zero_stamps:
        yield 'BAG014', topic, f'{t.zero_stamps} of {plural(t.messages, "header stamp")} zero'


def _clock(topic: str, t: TopicTimes) -> Iterator[tuple[str, str, str]]:
    if t.jumps:
        yield 'BAG017', topic, f'{plural(t.jumps, "jump")} of the stamps'
    if t.offset_s is not None and abs(t.offset_s) > _OFFSET_S:
        way = 'before' if t.offset_s > 0 else 'after'
        yield (
            'BAG015',
            topic,
            f'stamps lie {abs(t.offset_s):.3f} s {way} recording time (median)',
        )
    # A jump moves the median too and has its own rule.
    if t.drift_s is not None and t.drift_s > _DRIFT_S and not t.jumps:
        yield 'BAG016', topic, f'the offset wanders by {t.drift_s * 1e3:.0f} ms'
