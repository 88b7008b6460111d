"""The transform tree: chains, time, refusals, clock jumps, epochs, and random trees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_perception.errors import ConfigError, MessageError, TransformUnavailable
from bev_perception.geometry import rigid
from bev_perception.transforms import StampedTransform, TransformTree

S = 1_000_000_000
T0 = 1_700_000_000 * S  # float seconds would lose 0.2 us here


def pose(x=0.0, y=0.0, z=0.0, yaw_deg=0.0):
    half = np.radians(yaw_deg) / 2
    return rigid.from_quat_xyzw((0, 0, np.sin(half), np.cos(half)), (x, y, z))


def push(tree, parent, child, parent_T_child, stamp_ns=None):
    """Static where no stamp is given."""
    transform = StampedTransform(
        parent=parent, child=child, stamp_ns=stamp_ns or 0, parent_T_child=parent_T_child
    )
    tree.push(transform, static=stamp_ns is None)


@pytest.fixture
def car():
    """odom -> base_link moves forward at 10 m/s from T0 to T0 + 1 s; a camera is fixed on it."""
    tree = TransformTree()
    push(tree, 'base_link', 'camera', pose(1, 0, 1.5, yaw_deg=90))
    push(tree, 'odom', 'base_link', pose(0), T0)
    push(tree, 'odom', 'base_link', pose(10), T0 + S)
    return tree


# --- chains -------------------------------------------------------------------------------------


def test_static_chain_by_hand():
    # b is 2 m ahead of a and faces a's left; c is 1 m ahead of b. So c is at (2, 1, 0) in a.
    # Seen from c, which faces a's left too, a lies 1 m behind and 2 m to the left: (-1, 2, 0).
    tree = TransformTree()
    push(tree, 'a', 'b', pose(2, yaw_deg=90))
    push(tree, 'b', 'c', pose(1))
    np.testing.assert_allclose(tree.lookup('a', 'c', T0), pose(2, 1, yaw_deg=90), atol=1e-12)
    np.testing.assert_allclose(tree.lookup('c', 'a', T0)[:3, 3], (-1, 2, 0), atol=1e-12)


def test_chain_through_a_moving_frame_is_the_product_in_order(car):
    odom_T_base, base_T_cam = pose(2.5), pose(1, 0, 1.5, yaw_deg=90)
    at = T0 + S // 4
    np.testing.assert_allclose(
        car.lookup('odom', 'camera', at), odom_T_base @ base_T_cam, atol=1e-12
    )
    np.testing.assert_allclose(
        car.lookup('camera', 'odom', at),
        np.linalg.inv(base_T_cam) @ np.linalg.inv(odom_T_base),
        atol=1e-12,
    )


def test_siblings_meet_at_their_common_parent_even_if_it_does_not_move_yet():
    tree = TransformTree()
    push(tree, 'base', 'left', pose(0, 1))
    push(tree, 'base', 'right', pose(0, -1))
    push(tree, 'odom', 'base', pose(0), T0)
    # Ten minutes after odom's last pose: the way from left to right does not pass odom.
    np.testing.assert_allclose(tree.lookup('right', 'left', T0 + 600 * S), pose(0, 2))


def test_a_frame_seen_from_itself_is_identity_at_any_time(car):
    np.testing.assert_array_equal(car.lookup('camera', 'camera', 0), np.eye(4))
    np.testing.assert_array_equal(car.lookup('odom', 'odom', 0), np.eye(4))


def test_results_are_the_caller_s_own(car):
    for target, source in (('odom', 'base_link'), ('base_link', 'camera'), ('camera', 'camera')):
        got = car.lookup(target, source, T0)
        kept = got.copy()
        got[:] = 7
        np.testing.assert_array_equal(car.lookup(target, source, T0), kept)


def test_frames_are_listed_sorted(car):
    assert car.frames == ('base_link', 'camera', 'odom')
    assert TransformTree().frames == ()


# --- time ---------------------------------------------------------------------------------------


def test_interpolation_by_hand():
    # From heading 0 to 40 degrees and (0, 0) to (8, 4) in 1 s: after 0.25 s 10 degrees, (2, 1).
    tree = TransformTree()
    push(tree, 'odom', 'base', pose(0), T0)
    push(tree, 'odom', 'base', pose(8, 4, yaw_deg=40), T0 + S)
    np.testing.assert_allclose(
        tree.lookup('odom', 'base', T0 + S // 4), pose(2, 1, yaw_deg=10), atol=1e-12
    )


def test_interpolation_uses_the_two_samples_around_the_stamp():
    tree = TransformTree()
    for second, x in enumerate((0, 1, 10, 100)):
        push(tree, 'odom', 'base', pose(x), T0 + second * S)
    for seconds, x in ((0, 0), (0.5, 0.5), (1, 1), (1.5, 5.5), (2, 10), (2.5, 55), (3, 100)):
        got = tree.lookup('odom', 'base', T0 + int(seconds * S))
        assert got[0, 3] == pytest.approx(x), seconds


def test_stamps_are_compared_to_the_nanosecond():
    tree = TransformTree()
    push(tree, 'odom', 'base', pose(0), T0)
    push(tree, 'odom', 'base', pose(4), T0 + 4)
    assert tree.lookup('odom', 'base', T0 + 1)[0, 3] == pytest.approx(1)
    with pytest.raises(TransformUnavailable):
        tree.lookup('odom', 'base', T0 + 5)


@pytest.mark.parametrize(
    ('late_s', 'message', 'may_arrive'),
    [
        (1.25, r"'odom' -> 'base_link': \d+ ns is 0.250 s after the newest pose", True),
        (-0.5, r"'odom' -> 'base_link': \d+ ns is 0.500 s before the oldest pose", False),
    ],
)
def test_nothing_is_extrapolated(car, late_s, message, may_arrive):
    for target, source in (('odom', 'camera'), ('camera', 'odom')):
        with pytest.raises(TransformUnavailable, match=message) as caught:
            car.lookup(target, source, T0 + int(late_s * S))
        assert caught.value.may_arrive == may_arrive


def test_one_sample_holds_at_its_own_instant_only():
    tree = TransformTree()
    push(tree, 'odom', 'base', pose(3), T0)
    np.testing.assert_array_equal(tree.lookup('odom', 'base', T0), pose(3))
    for stamp in (T0 - 1, T0 + 1):
        with pytest.raises(TransformUnavailable):
            tree.lookup('odom', 'base', stamp)


def test_static_transforms_hold_at_any_time(car):
    for stamp in (0, T0, 2**62):
        np.testing.assert_array_equal(
            car.lookup('base_link', 'camera', stamp), pose(1, 0, 1.5, yaw_deg=90)
        )


def test_samples_out_of_order_are_sorted_in():
    tree = TransformTree(jump_s=0.5)
    for offset_ms in (0, 400, 200, 300, 100, 500):  # never back by more than 0.2 s
        push(tree, 'odom', 'base', pose(offset_ms**2 / 1e4), T0 + offset_ms * S // 1000)
    assert tree.jumps == 0
    for offset_ms in (0, 100, 200, 300, 400, 500):
        got = tree.lookup('odom', 'base', T0 + offset_ms * S // 1000)
        assert got[0, 3] == pytest.approx(offset_ms**2 / 1e4)
    # Between 200 and 300 ms: the mean of 4 and 9.
    assert tree.lookup('odom', 'base', T0 + S // 4)[0, 3] == pytest.approx(6.5)


def test_a_sample_of_a_known_stamp_replaces_it():
    tree = TransformTree()
    for x in (1, 2):
        push(tree, 'odom', 'base', pose(x), T0)
        push(tree, 'odom', 'base', pose(x + 10), T0 + S // 10)
    assert tree.jumps == 0
    assert tree.lookup('odom', 'base', T0)[0, 3] == 2
    assert tree.lookup('odom', 'base', T0 + S // 10)[0, 3] == 12


def test_history_is_bounded():
    tree = TransformTree(history_s=2.0)
    for i in range(1000):
        push(tree, 'odom', 'base', pose(i), T0 + i * S // 10)
    newest = T0 + 999 * S // 10
    assert tree.lookup('odom', 'base', newest - 2 * S)[0, 3] == pytest.approx(979)
    with pytest.raises(TransformUnavailable, match=r'0\.001 s before the oldest pose'):
        tree.lookup('odom', 'base', newest - 2 * S - S // 1000)
    assert len(tree._edges['base'].stamps_ns) == len(tree._edges['base'].poses) == 21


# --- clock jumps --------------------------------------------------------------------------------


def test_clock_jump_starts_a_frame_anew_and_is_counted(car):
    push(car, 'map', 'odom', pose(100), T0)
    push(car, 'map', 'odom', pose(100), T0 + S)
    epoch = car.static_epoch
    push(car, 'odom', 'base_link', pose(0), T0 - 60 * S)  # a bag starts over
    assert car.jumps == 1
    assert car.static_epoch == epoch
    np.testing.assert_array_equal(
        car.lookup('base_link', 'camera', T0 - 60 * S), pose(1, 0, 1.5, yaw_deg=90)
    )
    np.testing.assert_array_equal(car.lookup('odom', 'base_link', T0 - 60 * S), pose(0))
    with pytest.raises(TransformUnavailable, match='after the newest pose'):
        car.lookup('odom', 'base_link', T0)  # the old time is gone
    with pytest.raises(TransformUnavailable, match=r"'map' -> 'odom'.* before the oldest pose"):
        car.lookup('map', 'base_link', T0 - 60 * S)  # of this frame nothing new is known yet
    push(car, 'map', 'odom', pose(100), T0 - 60 * S)
    assert car.jumps == 2
    np.testing.assert_array_equal(car.lookup('map', 'base_link', T0 - 60 * S), pose(100))


def test_one_odd_stamp_does_not_blind_other_frames(car):
    push(car, 'base_link', 'wheel', pose(1), T0)
    push(car, 'base_link', 'wheel', pose(1), 0)  # never filled in
    np.testing.assert_array_equal(car.lookup('odom', 'base_link', T0), pose(0))


@pytest.mark.parametrize(('back_ns', 'jumps'), [(S // 2, 0), (S // 2 + 1, 1)])
def test_clock_jump_is_more_than_jump_s(car, back_ns, jumps):
    push(car, 'odom', 'base_link', pose(5), T0 + S - back_ns)
    assert car.jumps == jumps


def test_slow_and_fast_frames_do_not_look_like_a_jump():
    tree = TransformTree(jump_s=0.5)
    push(tree, 'odom', 'base', pose(0), T0 + 3 * S)
    push(tree, 'map', 'odom', pose(0), T0)  # another frame may lag as it likes
    assert tree.jumps == 0


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('target', 'source'), [('lidar', 'odom'), ('odom', 'lidar'), ('lidar', 'lidar')]
)
def test_unknown_frame_lists_the_known_ones(car, target, source):
    with pytest.raises(
        TransformUnavailable,
        match=r"frame 'lidar' is not in TF; known frames: base_link, camera, odom$",
    ) as caught:
        car.lookup(target, source, T0)
    assert not caught.value.may_arrive


def test_lookup_in_an_empty_tree_says_so():
    with pytest.raises(TransformUnavailable, match='no transform has arrived yet'):
        TransformTree().lookup('odom', 'base', T0)


def test_long_lists_of_frames_are_cut():
    tree = TransformTree()
    for i in range(60):
        push(tree, 'base', f'link_{i:02d}', pose(i))
    with pytest.raises(TransformUnavailable, match=r'link_38 and 21 more$'):
        tree.lookup('base', 'nowhere', T0)


def test_two_trees_are_named_by_their_roots(car):
    push(car, 'world', 'tower', pose(1))
    push(car, 'tower', 'lamp', pose(1))
    with pytest.raises(
        TransformUnavailable,
        match="'camera' and 'lamp' are in two trees, with roots 'odom' and 'world'; known frames:",
    ):
        car.lookup('camera', 'lamp', T0)


@pytest.mark.parametrize(
    ('parent', 'child'), [('camera', 'odom'), ('camera', 'base_link'), ('odom', 'odom')]
)
@pytest.mark.parametrize('stamp_ns', [None, T0])
def test_loops_are_refused_and_change_nothing(car, parent, child, stamp_ns):
    before, epoch = car.lookup('odom', 'camera', T0 + 1), car.static_epoch
    with pytest.raises(MessageError, match=f"TF '{parent}' -> '{child}' would close a loop"):
        push(car, parent, child, pose(1), stamp_ns)
    np.testing.assert_array_equal(car.lookup('odom', 'camera', T0 + 1), before)
    assert car.static_epoch == epoch


@pytest.mark.parametrize('values', [{'history_s': 0}, {'history_s': -1}, {'jump_s': 0}])
def test_settings_must_be_positive(values):
    with pytest.raises(ConfigError, match='must be positive'):
        TransformTree(**values)


# --- epochs and re-parenting --------------------------------------------------------------------


def test_epoch_grows_with_real_changes_of_static_transforms_only(car):
    mount = pose(1, 0, 1.5, yaw_deg=90)
    assert car.static_epoch == 1
    push(car, 'base_link', 'camera', mount)  # latched again
    push(car, 'base_link', 'camera', mount + 1e-12)  # another publisher's rounding
    push(car, 'odom', 'base_link', pose(20), T0 + 2 * S)  # moving
    assert car.static_epoch == 1
    push(car, 'base_link', 'camera', pose(1, 0, 1.501, yaw_deg=90))  # recalibrated by 1 mm
    assert car.static_epoch == 2
    assert car.lookup('base_link', 'camera', T0)[2, 3] == 1.501
    push(car, 'base_link', 'lidar', pose(0, 0, 2))  # a new one
    assert car.static_epoch == 3
    push(car, 'lidar', 'camera', pose(1, 0, 1.501, yaw_deg=90))  # same pose, other parent
    assert car.static_epoch == 4


def test_slow_drift_of_a_static_transform_is_noticed():
    tree = TransformTree()
    for i in range(100):
        push(tree, 'base', 'camera', pose(i * 1e-10))
    assert tree.static_epoch > 1
    assert tree.lookup('base', 'camera', T0)[0, 3] == pytest.approx(99e-10, abs=1.1e-9)


def test_a_static_frame_that_starts_to_move_is_a_change(car):
    push(car, 'base_link', 'camera', pose(1), T0)
    assert car.static_epoch == 2
    np.testing.assert_array_equal(car.lookup('base_link', 'camera', T0), pose(1))
    with pytest.raises(TransformUnavailable):
        car.lookup('base_link', 'camera', T0 + 1)
    push(car, 'base_link', 'camera', pose(1))
    assert car.static_epoch == 3
    np.testing.assert_array_equal(car.lookup('base_link', 'camera', T0 + 1), pose(1))


def test_a_moving_frame_with_a_new_parent_starts_over(car):
    push(car, 'map', 'base_link', pose(50), T0 + S)
    assert car.static_epoch == 1
    np.testing.assert_array_equal(car.lookup('map', 'base_link', T0 + S), pose(50))
    with pytest.raises(TransformUnavailable):
        car.lookup('map', 'base_link', T0 + S // 2)  # poses in odom are not poses in map
    with pytest.raises(TransformUnavailable, match="'odom' is not in TF"):
        car.lookup('odom', 'base_link', T0)


def test_a_new_root_above_the_tree_joins_it(car):
    push(car, 'map', 'odom', pose(0, 5))
    np.testing.assert_allclose(car.lookup('map', 'base_link', T0 + S // 2), pose(5, 5))


# --- random trees against the definition --------------------------------------------------------


def turning(axis, angle_rad, velocity, seconds):
    """A pose that turns and moves at constant speed from the identity."""
    half = angle_rad * seconds / 2
    unit = np.array(axis) / np.linalg.norm(axis)
    return rigid.from_quat_xyzw(
        (*(np.sin(half) * unit), np.cos(half)), np.array(velocity) * seconds
    )


numbers = st.floats(-2, 2)
triples = st.tuples(numbers, numbers, numbers)
links = st.tuples(
    st.integers(0, 10**6),  # picks the parent
    st.booleans(),  # static
    triples.filter(lambda axis: np.linalg.norm(axis) > 0.1),
    st.floats(-3, 3),
    triples,
)


@given(st.lists(links, min_size=1, max_size=9), st.randoms(), st.floats(0, 1))
def test_random_trees_agree_with_the_product_of_all_matrices(drawn, random, seconds):
    # Frame 0 is the root; frame i hangs below any earlier one, so there is no loop.
    edges = [(pick % (i + 1), i + 1, *rest) for i, (pick, *rest) in enumerate(drawn)]
    stamp_ns = T0 + int(seconds * S)
    root_T = {0: np.eye(4)}
    for parent, child, static, axis, angle, velocity in edges:
        at = 1.0 if static else (stamp_ns - T0) / S
        root_T[child] = root_T[parent] @ turning(axis, angle, velocity, at)
    samples = [
        (f'f{parent}', f'f{child}', turning(*motion, at), None if static else T0 + int(at * S))
        for parent, child, static, *motion in edges
        for at in ((1.0,) if static else (0.0, 1.0))
    ]
    random.shuffle(samples)  # the order in which frames become known must not matter
    tree = TransformTree(jump_s=2)
    for sample in samples:
        push(tree, *sample)
    assert tree.jumps == 0
    for target in root_T:
        for source in root_T:
            np.testing.assert_allclose(
                tree.lookup(f'f{target}', f'f{source}', stamp_ns),
                np.linalg.inv(root_T[target]) @ root_T[source],
                atol=1e-9,
            )


# --- samples that are missing -------------------------------------------------------------------


def sampled(seconds) -> TransformTree:
    tree = TransformTree(history_s=100)
    for at_s in seconds:
        pose = np.eye(4)
        pose[0, 3] = at_s
        tree.push(
            StampedTransform(
                parent='odom',
                child='base',
                stamp_ns=10**9 + round(at_s * 1e9),
                parent_T_child=pose,
            ),
            static=False,
        )
    return tree


def at_s(tree: TransformTree, seconds: float) -> float:
    return float(tree.lookup('odom', 'base', 10**9 + round(seconds * 1e9))[0, 3])


def test_a_gap_among_frequent_samples_is_not_bridged():
    times = [*np.arange(0, 1, 0.02), *np.arange(1.9, 3, 0.02)]
    tree = sampled(times)
    with pytest.raises(
        TransformUnavailable, match=r'no pose came for 0.920 s, which usually .*0.020'
    ):
        at_s(tree, 1.5)
    assert at_s(tree, 0.51) == pytest.approx(0.51)
    assert at_s(tree, 1.91) == pytest.approx(1.91)


@pytest.mark.parametrize('period_s', [0.02, 0.1, 1.0])
def test_what_is_a_gap_follows_from_the_rate(period_s):
    tree = sampled([i * period_s for i in range(20)])
    assert at_s(tree, 5.5 * period_s) == pytest.approx(5.5 * period_s)
    few = sampled([i * period_s for i in range(20) if i not in (5, 6)])  # some are lost
    assert at_s(few, 5.5 * period_s) == pytest.approx(5.5 * period_s)
