"""What callers of a temporal network remember, and when they forget it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bev_perception.errors import ConfigError
from bev_perception.geometry import rigid
from bev_perception.memory import MAX_GAP_S, REASONS, Recollection, Whereabouts, break_between
from bev_perception.model.tensors import BevMemory
from test.factories import STAMP_NS, make_view_set

S = 10**9


def memory(value: float = 1.0) -> BevMemory:
    return BevMemory(
        features=torch.full((1, 8, 4, 4), value),
        valid=torch.ones(1, 4, 4, dtype=torch.bool),
        odom_T_ego=torch.eye(4, dtype=torch.float64)[None],
    )


def at(seconds: float, x_m: float = 0.0, *, yaw_rad: float = 0.0, **values) -> Whereabouts:
    quat = [0, 0, np.sin(yaw_rad / 2), np.cos(yaw_rad / 2)]
    pose = rigid.from_quat_xyzw(quat, [x_m, 0, 0])
    return Whereabouts(**{'stamp_ns': STAMP_NS + round(seconds * S), 'odom_T_ego': pose, **values})


def after(now: Whereabouts, then: Whereabouts | None = None) -> tuple[bool, dict[str, int]]:
    """Whether a memory of `then` is handed out, and the resets."""
    recollection, kept = Recollection(), memory()
    recollection.keep(kept, then or at(0))
    found = recollection.before(now)
    assert found is None or found is kept
    assert recollection.used == (found is kept)
    return found is kept, dict(recollection.resets)


def test_a_first_instant_has_no_memory_and_that_is_no_reset():
    recollection = Recollection()
    assert recollection.before(at(0)) is None
    assert dict(recollection.resets) == {} and recollection.used == 0


def test_a_memory_is_handed_on_from_instant_to_instant():
    recollection = Recollection()
    for i in range(30):  # for ever, as long as every one is close to the next
        found = recollection.before(at(i / 12, x_m=i))
        assert (found is None) == (i == 0)
        assert found is None or float(found.features[0, 0, 0, 0]) == i - 1
        recollection.keep(memory(i), at(i / 12, x_m=i))
    assert recollection.used == 29 and dict(recollection.resets) == {}


@pytest.mark.parametrize(
    ('now', 'reason'),
    [
        (at(-0.1), 'clock_jump'),
        (at(-100), 'clock_jump'),
        (at(0), 'clock_jump'),  # the same instant again
        (at(MAX_GAP_S + 0.01), 'gap'),
        (at(0.5, epoch=1), 'calibration'),
        (at(0.5, epoch=(0, 1)), 'calibration'),
        (at(0.1, x_m=50), 'odometry_jump'),
        (at(0.1, yaw_rad=2), 'odometry_jump'),
        (at(0.1, odom_T_ego=None), 'no_pose'),
    ],
)
def test_what_ends_a_memory_is_counted_by_reason(now, reason):
    assert reason in REASONS
    assert after(now) == (False, {reason: 1})
    assert break_between(at(0), now) == reason


@pytest.mark.parametrize('now', [at(MAX_GAP_S), at(0.001), at(0.5, x_m=20, yaw_rad=0.5)])
def test_what_a_vehicle_can_do_ends_no_memory(now):
    assert after(now) == (True, {})
    assert break_between(at(0), now) == ''


def test_epochs_of_any_kind_are_compared():
    assert after(at(0.1, epoch=(3, 'a')), at(0, epoch=(3, 'a'))) == (True, {})


def test_what_was_given_up_does_not_come_back():
    recollection = Recollection()
    recollection.keep(memory(), at(10))
    assert recollection.before(at(0)) is None  # a bag begins anew
    assert recollection.before(at(10.1)) is None
    assert dict(recollection.resets) == {'clock_jump': 1}


def test_an_instant_without_a_pose_leaves_nothing_to_the_next():
    recollection = Recollection()
    recollection.keep(memory(), at(0))
    nowhere = at(0.1, odom_T_ego=None)
    assert recollection.before(nowhere) is None
    recollection.keep(memory(), nowhere)
    assert recollection.before(at(0.2)) is None
    recollection.keep(memory(), at(0.2))
    assert recollection.before(at(0.3)) is not None
    assert dict(recollection.resets) == {'no_pose': 1}


def test_a_drive_without_poses_counts_every_instant():
    recollection = Recollection()
    for i in range(3):
        now = at(i / 10, odom_T_ego=None)
        assert recollection.before(now) is None
        recollection.keep(None, now)
    assert dict(recollection.resets) == {'no_pose': 3}


def test_a_network_that_says_nothing_to_remember_leaves_nothing():
    recollection = Recollection()
    recollection.keep(memory(), at(0))
    recollection.keep(None, at(0.1))
    assert recollection.before(at(0.2)) is None and dict(recollection.resets) == {}


def test_callers_forget_for_reasons_of_their_own():
    recollection = Recollection()
    recollection.keep(memory(), at(0))
    recollection.reset('new network')
    assert recollection.before(at(0.1)) is None
    assert dict(recollection.resets) == {'new network': 1}


def test_the_longest_gap_is_the_caller_s():
    recollection = Recollection(max_gap_s=0.2)
    recollection.keep(memory(), at(0))
    assert recollection.before(at(0.3)) is None and dict(recollection.resets) == {'gap': 1}
    for wrong in (0, -1, float('nan')):
        with pytest.raises(ConfigError, match='max_gap_s is'):
            Recollection(max_gap_s=wrong)


def test_whereabouts_are_those_of_a_view_set():
    pose = at(0, x_m=3).odom_T_ego
    found = Whereabouts.of(make_view_set(odom_T_ego=pose), epoch='e')
    assert (found.stamp_ns, found.epoch) == (STAMP_NS, 'e') and found.odom_T_ego is pose
