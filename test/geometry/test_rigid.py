"""Rigid transforms: group axioms as properties, orientation and `level` as worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_perception.errors import CalibrationError
from bev_perception.geometry import rigid

EXACT = 1e-12
HALF = np.sqrt(0.5)


def axis_angle(axis, angle_rad, translation=(0.0, 0.0, 0.0)):
    """Rodrigues' formula: an independent way to a rotation."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    T = np.eye(4)
    T[:3, :3] += np.sin(angle_rad) * cross + (1 - np.cos(angle_rad)) * cross @ cross
    T[:3, 3] = translation
    return T


coordinates = st.floats(-1, 1)
axes = st.tuples(coordinates, coordinates, coordinates).filter(
    lambda axis: np.linalg.norm(axis) > 1e-3
)
translations = st.tuples(*[st.floats(-100, 100)] * 3)
# The ends of the range are where formulas break: no turn, nearly none, half a turn, nearly.
angles = st.one_of(
    st.floats(-np.pi, np.pi),
    st.sampled_from([0.0, 1e-300, 1e-16, 1e-9, 1e-6]),
    st.sampled_from([np.pi, np.pi - 1e-9, np.pi - 1e-6, -np.pi + 1e-12]),
)
rigids = st.builds(axis_angle, axes, angles, translations)


def assert_rigid(T):
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=EXACT)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1)
    np.testing.assert_array_equal(T[3], (0, 0, 0, 1))


# --- group axioms -------------------------------------------------------------------------------


@given(rigids, rigids, rigids)
def test_composition_is_associative_and_stays_rigid(a, b, c):
    np.testing.assert_allclose((a @ b) @ c, a @ (b @ c), atol=1e-10)
    assert_rigid(a @ b)


@given(rigids)
def test_inverse_undoes_on_both_sides(a):
    np.testing.assert_allclose(rigid.inverse(a) @ a, np.eye(4), atol=EXACT * 100)
    np.testing.assert_allclose(a @ rigid.inverse(a), np.eye(4), atol=EXACT * 100)
    np.testing.assert_allclose(rigid.inverse(rigid.inverse(a)), a, atol=EXACT * 100)


@given(rigids, rigids)
def test_inverse_of_a_product_is_the_product_of_inverses_reversed(a, b):
    np.testing.assert_allclose(
        rigid.inverse(a @ b), rigid.inverse(b) @ rigid.inverse(a), atol=1e-10
    )


@given(rigids, rigids, translations)
def test_points_map_as_the_product_says(a, b, point):
    points = np.array([point, (0, 0, 0)])
    once = rigid.transform_points(a @ b, points)
    np.testing.assert_allclose(
        once, rigid.transform_points(a, rigid.transform_points(b, points)), atol=1e-10
    )
    homogeneous = (a @ b @ np.array([*point, 1.0]))[:3]
    np.testing.assert_allclose(once[0], homogeneous, atol=1e-10)


# --- quaternions --------------------------------------------------------------------------------


@given(rigids)
def test_quaternion_round_trip(a):
    q = rigid.to_quat_xyzw(a)
    assert np.linalg.norm(q) == pytest.approx(1, abs=EXACT)
    assert q[3] >= 0
    np.testing.assert_allclose(rigid.from_quat_xyzw(q, a[:3, 3]), a, atol=EXACT)


@given(axes, st.floats(0, np.pi))
def test_quaternion_is_axis_times_sine_and_cosine_of_half_the_angle(axis, angle):
    unit = np.array(axis) / np.linalg.norm(axis)
    expected = np.array([*(np.sin(angle / 2) * unit), np.cos(angle / 2)])
    np.testing.assert_allclose(
        rigid.from_quat_xyzw(expected, (1, 2, 3)), axis_angle(axis, angle, (1, 2, 3)), atol=EXACT
    )
    got = rigid.to_quat_xyzw(axis_angle(axis, angle))
    # At half a turn q and -q have the same w = 0, and either may come back.
    if np.pi - angle < 1e-6 and got @ expected < 0:
        got = -got
    np.testing.assert_allclose(got, expected, atol=1e-10)


def test_quaternion_order_is_xyzw_and_yaw_turns_forward_to_left():
    # 90 degrees about z: x, y, z, w = 0, 0, sin 45, cos 45. Forward (1, 0, 0) becomes left.
    T = rigid.from_quat_xyzw((0, 0, HALF, HALF), (10, 20, 30))
    np.testing.assert_allclose(rigid.transform_points(T, np.array([[1.0, 0, 0]])), [[10, 21, 30]])
    np.testing.assert_allclose(rigid.to_quat_xyzw(T), (0, 0, HALF, HALF), atol=EXACT)


def test_optical_frame_of_a_forward_camera():
    # REP-103: optical x right, y down, z forward; the quaternion every URDF uses is
    # (-0.5, 0.5, -0.5, 0.5). Optical z must be body forward, x body right, y body down.
    body_T_optical = rigid.from_quat_xyzw((-0.5, 0.5, -0.5, 0.5), (0, 0, 0))
    np.testing.assert_allclose(
        rigid.transform_points(body_T_optical, np.eye(3)),
        [[0, -1, 0], [0, 0, -1], [1, 0, 0]],
        atol=EXACT,
    )


def test_quaternion_of_any_length_is_normalised():
    np.testing.assert_allclose(
        rigid.from_quat_xyzw((0, 0, 3, 3), (0, 0, 0)),
        rigid.from_quat_xyzw((0, 0, HALF, HALF), (0, 0, 0)),
        atol=EXACT,
    )


@pytest.mark.parametrize(
    ('quat', 'translation'),
    [
        ((0, 0, 0, 0), (0, 0, 0)),
        ((0, 0, 0, np.nan), (0, 0, 0)),
        ((0, 0, np.inf, 1), (0, 0, 0)),
        ((0, 0, 0, 1), (0, np.nan, 0)),
    ],
)
def test_what_is_no_rigid_transform_is_refused(quat, translation):
    with pytest.raises(CalibrationError, match='not a rigid transform'):
        rigid.from_quat_xyzw(quat, translation)


def test_leading_axes_broadcast():
    quats = np.array([[0, 0, 0, 1], [0, 0, 1, 0], [HALF, 0, 0, HALF]], float)
    stack = rigid.from_quat_xyzw(quats[:, None], np.arange(6.0).reshape(2, 3))
    assert stack.shape == (3, 2, 4, 4)
    for i in range(3):
        for j in range(2):
            one = rigid.from_quat_xyzw(quats[i], (3 * j, 3 * j + 1, 3 * j + 2))
            np.testing.assert_allclose(stack[i, j], one, atol=EXACT)
            np.testing.assert_allclose(
                rigid.to_quat_xyzw(stack)[i, j], rigid.to_quat_xyzw(one), atol=EXACT
            )
            np.testing.assert_allclose(rigid.inverse(stack)[i, j], rigid.inverse(one), atol=EXACT)
    points = np.arange(3.0 * 2 * 5 * 3).reshape(3, 2, 5, 3)
    moved = rigid.transform_points(stack, points)
    assert moved.shape == points.shape
    np.testing.assert_allclose(
        moved[2, 1], rigid.transform_points(stack[2, 1], points[2, 1]), atol=EXACT
    )


# --- interpolation ------------------------------------------------------------------------------


@given(rigids, rigids)
def test_interpolation_hits_both_ends(a, b):
    np.testing.assert_allclose(rigid.interpolate(a, b, 0.0), a, atol=EXACT * 100)
    np.testing.assert_allclose(rigid.interpolate(a, b, 1.0), b, atol=EXACT * 100)


@given(rigids, rigids, st.floats(0, 1))
def test_interpolation_stays_rigid_and_on_the_straight_line(a, b, alpha):
    between = rigid.interpolate(a, b, alpha)
    assert_rigid(between)
    np.testing.assert_allclose(
        between[:3, 3], (1 - alpha) * a[:3, 3] + alpha * b[:3, 3], atol=1e-10
    )


# Half a turn between the ends has two shortest arcs, so properties that compare two paths leave
# a little room below it.
short_turns = st.builds(
    axis_angle, axes, st.one_of(st.floats(-3.1, 3.1), st.just(1e-9)), translations
)


@given(rigids, rigids, short_turns, st.floats(0, 1))
def test_interpolation_is_equivariant_under_left_multiplication(world, a, turn, alpha):
    b = a @ turn
    np.testing.assert_allclose(
        rigid.interpolate(world @ a, world @ b, alpha),
        world @ rigid.interpolate(a, b, alpha),
        atol=1e-9,
    )


@given(rigids, short_turns, st.floats(0, 1))
def test_interpolation_backwards_is_the_same_path(a, turn, alpha):
    b = a @ turn
    np.testing.assert_allclose(
        rigid.interpolate(a, b, alpha), rigid.interpolate(b, a, 1 - alpha), atol=1e-9
    )


@given(axes, st.floats(-3.1, 3.1), st.floats(0, 1))
def test_interpolation_turns_at_constant_speed_about_one_axis(axis, angle, alpha):
    between = rigid.interpolate(np.eye(4), axis_angle(axis, angle), alpha)
    np.testing.assert_allclose(between, axis_angle(axis, alpha * angle), atol=1e-10)


def test_interpolation_by_hand():
    # From heading 170 to heading -170 degrees the short way is through 180, 20 degrees in all:
    # a quarter of it is 175 degrees. x runs from 0 to 8, a quarter is 2.
    up = (0, 0, 1)
    a = axis_angle(up, np.radians(170), (0, 0, 0))
    b = axis_angle(up, np.radians(-170), (8, 0, 4))
    np.testing.assert_allclose(
        rigid.interpolate(a, b, 0.25), axis_angle(up, np.radians(175), (2, 0, 1)), atol=EXACT
    )


# --- level: the gravity-aligned ego frame -------------------------------------------------------


def attitude(yaw, pitch, roll, translation=(0.0, 0.0, 0.0)):
    """odom_T_base from yaw about z, then pitch about y, then roll about x (REP-103)."""
    T = axis_angle((0, 0, 1), yaw) @ axis_angle((0, 1, 0), pitch) @ axis_angle((1, 0, 0), roll)
    T[:3, 3] = translation
    return T


attitudes = st.builds(
    attitude,
    st.floats(-np.pi, np.pi),
    st.floats(-1.5, 1.5),
    st.floats(-np.pi, np.pi),
    translations,
)


@given(attitudes)
def test_level_ego_is_upright_with_the_body_s_heading_and_origin(odom_T_base):
    base_T_ego = rigid.level(odom_T_base)
    odom_T_ego = odom_T_base @ base_T_ego
    assert_rigid(base_T_ego)
    np.testing.assert_allclose(odom_T_ego[:3, 2], (0, 0, 1), atol=EXACT)  # z is up
    np.testing.assert_allclose(odom_T_ego[:3, 3], odom_T_base[:3, 3], atol=EXACT)
    ego_forward, body_forward = odom_T_ego[:2, 0], odom_T_base[:2, 0]
    assert ego_forward @ body_forward == pytest.approx(np.linalg.norm(body_forward))


@given(st.floats(-np.pi, np.pi), translations)
def test_level_is_identity_on_level_ground(yaw, translation):
    odom_T_base = attitude(yaw, 0, 0, translation)
    np.testing.assert_allclose(rigid.level(odom_T_base), np.eye(4), atol=EXACT)


@given(attitudes)
def test_level_is_idempotent(odom_T_base):
    odom_T_ego = odom_T_base @ rigid.level(odom_T_base)
    np.testing.assert_allclose(rigid.level(odom_T_ego), np.eye(4), atol=1e-10)


def test_level_of_a_braking_car_by_hand():
    # Positive pitch about y (left) turns the nose down: braking. With pitch 30 degrees the body's
    # x axis points to (cos 30, 0, -sin 30) in odom. A point 10 m ahead on the level lies ABOVE
    # the body's nose direction: in base it is (10 cos 30, 0, 10 sin 30) = (8.66, 0, 5).
    # Heading is odom's +y here, which must not matter.
    odom_T_base = attitude(np.radians(90), np.radians(30), 0, (7, 8, 9))
    ahead_base = rigid.transform_points(rigid.level(odom_T_base), np.array([[10.0, 0, 0]]))
    np.testing.assert_allclose(ahead_base, [[8.660254037844386, 0, 5]], atol=1e-9)
    # In odom that point is 10 m along +y of the origin (7, 8, 9), at the same height.
    np.testing.assert_allclose(
        rigid.transform_points(odom_T_base, ahead_base), [[7, 18, 9]], atol=1e-9
    )


def test_level_of_a_leaning_car_by_hand():
    # Roll 90 degrees about x (forward): left points up. Ego's left (0, 1, 0) is horizontal, and
    # in base it is -z: base z = ego -y, since z (was up) has turned to the right.
    base_T_ego = rigid.level(attitude(0, 0, np.radians(90)))
    np.testing.assert_allclose(base_T_ego[:3, 1], (0, 0, -1), atol=EXACT)
    np.testing.assert_allclose(base_T_ego[:3, 2], (0, 1, 0), atol=EXACT)


@pytest.mark.parametrize('pitch_deg', [90, -90])
def test_level_refuses_a_body_without_a_heading(pitch_deg):
    with pytest.raises(CalibrationError, match='no heading'):
        rigid.level(attitude(0.3, np.radians(pitch_deg), 0))


# --- one pose at a time: the fast path against the general one -----------------------------------


@given(rigids)
def test_one_pose_is_built_as_in_a_stack(a):
    quat, translation = rigid.to_quat_xyzw(a), a[:3, 3]
    stack = rigid.from_quat_xyzw(quat[None], translation[None])[0]
    np.testing.assert_allclose(rigid.from_quat_xyzw(quat, translation), stack, atol=1e-15)


@given(rigids)
def test_one_quaternion_is_read_as_in_a_stack(a):
    np.testing.assert_allclose(
        rigid._one_quat_xyzw(a[:3, :3]), rigid.to_quat_xyzw(a[None])[0], atol=1e-14
    )
