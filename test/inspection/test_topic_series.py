"""Stamps of a topic, against what was put in."""

from __future__ import annotations

import numpy as np
import pytest

from bev_training.inspection.topic_series import Samples, TopicSeries

ORIGIN = 1_700_000_000_000_000_000
MS = 1_000_000


def series(header_ms, delay_ms=10, **values) -> TopicSeries:
    delays = np.broadcast_to(delay_ms, len(header_ms))
    one = TopicSeries(ORIGIN, **values)
    for header, delay in zip(header_ms, delays, strict=True):
        at = ORIGIN + round(header * MS)
        one.add(at + round(delay * MS), at, 1000)
    return one


def test_a_steady_topic():
    t = series(np.arange(100) * 50).times()
    assert t.messages == 100
    assert t.period_s == 0.05
    assert t.jitter_s == 0
    assert t.gaps == ()
    assert t.worst_gap_s == 0.05
    assert (t.first_s, t.last_s) == (0, 4.95)
    assert (t.offset_s, t.offset_min_s, t.offset_max_s, t.drift_s) == (0.01, 0.01, 0.01, 0)
    assert t.bytes_per_s == pytest.approx(100 * 1000 / 4.95)
    assert t.as_json()['hz'] == 20


def test_gaps_are_longer_than_three_periods():
    at = np.delete(np.arange(200) * 10, [50, 51, *range(100, 110)])
    t = series(at).times()
    assert t.gaps == ((0.99, 0.11),)
    assert (t.worst_gap_at_s, t.worst_gap_s) == (0.99, 0.11)
    assert t.jitter_s == 0  # lost messages are no jitter


def test_order_duplicates_and_jumps_are_told_apart():
    t = series([0, 10, 30, 20, 40, 40, 50]).times()
    assert (t.out_of_order, t.duplicates, t.jumps) == (1, 1, 0)
    assert t.worst_back_s == 0.01
    one = series([0, 10, 20])
    for i in range(3):  # the header clock goes back, recording time does not
        one.add(ORIGIN + (30 + 10 * i) * MS, ORIGIN - 5000 * MS + 10 * i * MS)
    assert one.times().jumps == 1
    ahead = series([0, 10, 20])
    ahead.add(ORIGIN + 30 * MS, ORIGIN + 9000 * MS)
    assert (ahead.times().jumps, ahead.times().gaps) == (1, ())
    silent = series([0, 10, 20, 9000])  # recording time goes along: nothing came
    assert (silent.times().jumps, len(silent.times().gaps)) == (0, 1)


def test_zero_stamps_take_recording_time():
    one = series([0, 10, 20])
    one.add(ORIGIN + 30 * MS, 0)
    t = one.times()
    assert (t.zero_stamps, t.jumps, t.worst_gap_s) == (1, 0, 0.01)
    bare = TopicSeries(ORIGIN)
    for i in range(4):
        bare.add(ORIGIN + i * 10 * MS, None)
    assert bare.times().offset_s is None
    assert bare.times().zero_stamps == 0


def test_drift_is_seen_through_noise():
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 40, 5000)
    steady = series(np.arange(5000) * 10, 10 + noise).times()
    drifting = series(np.arange(5000) * 10, 10 + noise + np.linspace(0, 100, 5000)).times()
    assert steady.drift_s is not None
    assert steady.drift_s < 0.01
    assert drifting.drift_s == pytest.approx(0.09, abs=0.01)


def test_memory_is_bounded_and_the_median_stays():
    one = TopicSeries(ORIGIN, kept=64)
    for i in range(50_000):
        at = ORIGIN + i * 10 * MS
        one.add(at + 5 * MS, at)
    assert len(one.offsets.rows) < 128
    assert len(one._largest) <= 256
    t = one.times()
    assert (t.period_s, t.offset_s) == (0.01, 0.005)
    assert t.messages == 50_000


def test_samples_are_evenly_thinned():
    samples = Samples(8)
    for i in range(1000):
        samples.add(i, -i)
    rows = samples.rows
    assert 8 <= len(rows) < 16
    assert len(set(np.diff(rows[:, 0]))) == 1
    assert rows[0, 0] == 0
    assert (rows[:, 1] == -rows[:, 0]).all()


def test_nothing_and_one_message():
    assert TopicSeries(ORIGIN).times().messages == 0
    t = series([5]).times()
    assert (t.messages, t.period_s, t.offset_s, t.drift_s) == (1, None, 0.01, None)
