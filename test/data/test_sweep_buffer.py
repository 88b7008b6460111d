"""Which lidar sweeps go into which frame."""

from __future__ import annotations

import numpy as np
import pytest

from bev_training.data.sweep_buffer import StampedCloud, SweepBuffer

MS = 10**6
T0 = 1_700_000_000 * 1000 * MS


def filled(max_sweeps: int, stamps_ms) -> SweepBuffer:
    buffer = SweepBuffer(max_sweeps)
    for ms in stamps_ms:
        buffer.push(StampedCloud(lidar='lidar', stamp_ns=T0 + int(ms) * MS, message=None))
    return buffer


def taken(buffer: SweepBuffer, at_ms: float) -> list[int]:
    return [(cloud.stamp_ns - T0) // MS for cloud in buffer.take(T0 + round(at_ms * MS))]


def test_the_nearest_and_those_since_the_last_frame():
    buffer = filled(10, range(0, 1000, 50))
    assert taken(buffer, 102) == [0, 50, 100]
    assert taken(buffer, 330) == [150, 200, 250, 300, 350]


def test_at_most_so_many():
    buffer = filled(3, range(0, 1000, 50))
    assert taken(buffer, 900) == [800, 850, 900]
    assert taken(filled(1, range(0, 1000, 50)), 900) == [900]


def test_two_frames_between_two_sweeps_share_one():
    buffer = filled(10, range(0, 1000, 100))
    assert taken(buffer, 400)[-1] == 400
    assert taken(buffer, 440) == [400]


def test_nothing_is_near():
    buffer = filled(10, [0, 50])
    assert taken(buffer, 500) == []
    assert taken(SweepBuffer(10), 0) == []


def test_a_live_lidar_is_waited_for_and_a_dead_one_is_not():
    assert SweepBuffer(10).may_lack(T0)
    buffer = filled(10, [0, 50])
    assert not buffer.may_lack(T0 + 50 * MS)
    assert buffer.may_lack(T0 + 51 * MS)
    assert buffer.may_lack(T0 + 500 * MS)
    assert not buffer.may_lack(T0 + 600 * MS)


def test_order_of_arrival_does_not_matter():
    rng = np.random.default_rng(1)
    stamps = np.arange(0, 1000, 50)
    mixed = np.concatenate([rng.permutation(part) for part in stamps.reshape(-1, 4)])
    assert taken(filled(5, mixed), 975) == taken(filled(5, stamps), 975)


@pytest.mark.parametrize('hz', [10, 20])
def test_memory_is_bounded(hz):
    buffer = filled(10, range(0, 3_600_000, 1000 // hz))
    assert len(buffer._clouds) <= 10 + 1.5 * hz


def test_a_clock_that_goes_back_starts_anew():
    buffer = filled(10, [*range(10_000, 11_000, 50), *range(0, 500, 50)])
    assert taken(buffer, 450) == list(range(0, 500, 50))
