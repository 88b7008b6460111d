"""From messages to view sets: calibration over time, poses under motion and tilt, decoding."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace as Plain

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_perception.errors import CalibrationError, MessageError, TransformUnavailable
from bev_perception.geometry import rigid
from bev_perception.rig import CameraHistory, Frames, RigPoses, decode, locate
from bev_perception.transforms import StampedTransform, TransformTree

from .factories import STAMP_NS, look, make_camera, make_image

MS = 1_000_000
A, B, C = (make_camera(fov_deg=fov) for fov in (50, 60, 70))


# --- calibration over time -----------------------------------------------------------------------


def history(*pushes):
    made = CameraHistory('front')
    for stamp_ns, camera in pushes:
        made.push(stamp_ns, camera)
    return made


def test_nothing_has_arrived():
    with pytest.raises(CalibrationError, match='front: no CameraInfo'):
        CameraHistory('front').at(5)


def test_a_change_holds_from_its_stamp_on():
    seen = history((10, A), (20, A), (30, B))
    assert [seen.at(t) for t in (10, 15, 29, 30, 31, 10**18)] == [A, A, A, B, B, B]


def test_images_before_the_first_take_the_first():
    """The first images often beat the first CameraInfo."""
    assert history((10, A), (30, B)).at(3) is A


def test_epochs_count_changes_only():
    seen = CameraHistory('front')
    changed = [seen.push(t, camera) for t, camera in ((10, A), (20, A), (30, B), (40, B), (50, A))]
    assert changed == [True, False, True, False, True]
    assert seen.epoch == 3


def test_equal_values_are_no_change():
    seen = history((10, A))
    assert not seen.push(20, make_camera(fov_deg=50))


def test_stamps_of_zero():
    """Drivers that never stamp their CameraInfo: it holds always, and a later one replaces it."""
    seen = history((0, A))
    assert seen.at(STAMP_NS) is A
    assert not seen.push(0, A)
    assert seen.push(0, B) and seen.at(STAMP_NS) is B and seen.at(0) is B


def test_corrected_under_the_same_stamp():
    seen = history((10, A), (20, B))
    assert seen.push(20, C)
    assert seen.at(15) is A and seen.at(25) is C


def test_a_late_change_takes_its_place():
    seen = history((10, A), (30, B))
    assert seen.push(20, C)
    assert [seen.at(t) for t in (15, 20, 29, 30)] == [A, C, C, B]


def test_older_than_the_first():
    seen = history((10, B))
    assert seen.push(5, A)
    assert [seen.at(t) for t in (1, 5, 9, 10)] == [A, A, A, B]
    assert not seen.push(2, A)


@given(
    st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_lost_infos_in_stable_stretches_cost_nothing(cameras, lost):
    """Only the first CameraInfo after a change is needed."""
    every = history(*((10 * i, camera) for i, camera in enumerate(cameras)))
    kept = [
        (10 * i, camera)
        for i, camera in enumerate(cameras)
        if i == 0 or cameras[i - 1] != camera or not lost[i]
    ]
    some = history(*kept)
    for t in range(-5, 10 * len(cameras) + 5, 5):
        assert some.at(t) == every.at(t)
        assert every.at(t) == cameras[min(max(t // 10, 0), len(cameras) - 1)]


# --- poses ---------------------------------------------------------------------------------------


def tree(*, mount, poses, frame='front_optical'):
    """A static camera on base_link, which moves in odom."""
    made = TransformTree()
    edge = StampedTransform(parent='base_link', child=frame, stamp_ns=0, parent_T_child=mount)
    made.push(edge, static=True)
    for stamp_ns, pose in poses:
        made.push(
            StampedTransform(
                parent='odom', child='base_link', stamp_ns=stamp_ns, parent_T_child=pose
            ),
            static=False,
        )
    return made


def pose(x=0.0, y=0.0, yaw_deg=0.0, pitch_deg=0.0):
    """`odom_T_base`; pitch positive is nose down (about y, which points left)."""
    yaw, pitch = np.radians([yaw_deg, pitch_deg])
    odom_T_base = np.eye(4)
    odom_T_base[:3, :3] = (
        cv2.Rodrigues(np.array([0, 0, yaw]))[0] @ cv2.Rodrigues(np.array([0, pitch, 0]))[0]
    )
    odom_T_base[:3, 3] = (x, y, 0)
    return odom_T_base


MOUNT = look(0, 0, (1.5, 0.0, 1.2))


def test_exposed_earlier_while_driving():
    """10 m/s forward; the camera exposes 40 ms before the set's stamp.

    At its exposure the vehicle was 10 * 0.04 = 0.4 m further back, so the camera, mounted 1.5 m
    ahead of base, lies at 1.5 - 0.4 = 1.1 m in the ego frame at the set's stamp. Another one that
    exposes 20 ms after it lies at 1.5 + 0.2 = 1.7 m.
    """
    driving = tree(
        mount=MOUNT,
        poses=[(STAMP_NS + t * MS, pose(100 + 0.010 * t, 50)) for t in range(-100, 101, 50)],
    )
    exposures = {
        'front': ('front_optical', STAMP_NS - 40 * MS),
        'late': ('front_optical', STAMP_NS + 20 * MS),
    }
    got, _ = locate(STAMP_NS, exposures, driving, Frames())
    assert got.stamp_ns == STAMP_NS
    np.testing.assert_allclose(got.ego_T_cam['front'][:3, 3], (1.1, 0, 1.2), atol=1e-9)
    np.testing.assert_allclose(got.ego_T_cam['late'][:3, 3], (1.7, 0, 1.2), atol=1e-9)
    np.testing.assert_allclose(got.ego_T_cam['front'][:3, :3], MOUNT[:3, :3], atol=1e-12)
    np.testing.assert_allclose(got.base_T_ego, np.eye(4), atol=1e-12)


def test_exposed_earlier_while_turning():
    """Turning left at 50 deg/s on the spot: 40 ms earlier the camera looked 2 degrees further
    right, wherever in odom the vehicle stands.
    """
    turning = tree(
        mount=MOUNT,
        poses=[(STAMP_NS + t * MS, pose(-7, 3, 120 + 0.05 * t)) for t in range(-100, 101, 10)],
    )
    got, _ = locate(STAMP_NS, {'front': ('front_optical', STAMP_NS - 40 * MS)}, turning, Frames())
    expected = rigid.inverse(pose(yaw_deg=2)) @ MOUNT
    np.testing.assert_allclose(got.ego_T_cam['front'], expected, atol=1e-6)
    assert got.ego_T_cam['front'][1, 3] < 0  # it was further right


def test_braking_vehicle_is_levelled():
    """Nose down by 5 degrees: the ego frame stays level, and base_T_ego carries the tilt.

    The camera is 1.5 m ahead and 1.2 m up in base; in the level frame its height is
    1.2 cos 5 - 1.5 sin 5 = 1.0647 m, and it looks 5 degrees down.
    """
    braking = tree(
        mount=MOUNT,
        poses=[(STAMP_NS + t * MS, pose(8, 2, 30, pitch_deg=5)) for t in (-50, 50)],
    )
    got, _ = locate(STAMP_NS, {'front': ('front_optical', STAMP_NS)}, braking, Frames())
    ego_T_cam = got.ego_T_cam['front']
    assert ego_T_cam[2, 3] == pytest.approx(1.0647, abs=1e-4)
    np.testing.assert_allclose(ego_T_cam[:3, 2], look(0, 5)[:3, 2], atol=1e-9)
    np.testing.assert_allclose(got.base_T_ego @ ego_T_cam, MOUNT, atol=1e-9)
    np.testing.assert_allclose(got.base_T_ego[:3, 3], 0, atol=1e-12)
    # Up, seen from the nose-down body, leans backwards: towards minus x.
    up = got.base_T_ego[:3, 2]
    np.testing.assert_allclose(up, (-np.sin(np.radians(5)), 0, np.cos(np.radians(5))), atol=1e-9)


def test_motion_of_a_tilted_vehicle():
    """Nose down by 5 degrees, 10 m/s level in odom, exposed 40 ms early: the camera is 0.4 m
    further back along the level ego frame, and no higher or lower than standing still.
    """
    poses = [(STAMP_NS + t * MS, pose(0.010 * t, 2, 0, pitch_deg=5)) for t in (-50, 50)]
    tilted = tree(mount=MOUNT, poses=poses)
    exposures = {
        'now': ('front_optical', STAMP_NS),
        'early': ('front_optical', STAMP_NS - 40 * MS),
    }
    got = locate(STAMP_NS, exposures, tilted, Frames())[0].ego_T_cam
    np.testing.assert_allclose(got['early'][:3, 3] - got['now'][:3, 3], (-0.4, 0, 0), atol=1e-9)
    np.testing.assert_allclose(got['early'][:3, :3], got['now'][:3, :3], atol=1e-9)


def test_without_odometry_the_mount_is_the_pose():
    static = tree(mount=MOUNT, poses=[])
    exposures = {'front': ('front_optical', STAMP_NS - 40 * MS)}
    got, _ = locate(STAMP_NS, exposures, static, Frames(odom=''))
    np.testing.assert_array_equal(got.ego_T_cam['front'], MOUNT)
    np.testing.assert_array_equal(got.base_T_ego, np.eye(4))


def test_other_base_frame():
    """Poses refer to the named body frame."""
    made = tree(mount=MOUNT, poses=[])
    footprint = np.eye(4)
    footprint[2, 3] = 0.3
    made.push(
        StampedTransform(
            parent='base_footprint', child='base_link', stamp_ns=0, parent_T_child=footprint
        ),
        static=True,
    )
    frames = Frames(base='base_footprint', odom='')
    got, _ = locate(1, {'front': ('front_optical', 1)}, made, frames)
    np.testing.assert_allclose(got.ego_T_cam['front'][:3, 3], (1.5, 0, 1.5))


def test_unknown_frames_are_listed():
    made = tree(mount=MOUNT, poses=[(STAMP_NS, pose())])
    exposures = {'back': ('back_optical', STAMP_NS), 'front': ('front_optical', STAMP_NS)}
    got, problems = locate(STAMP_NS, exposures, made, Frames())
    assert set(got.ego_T_cam) == {'front'}  # the others are located all the same
    assert re.search(r"'back_optical'.*known frames: .*front_opt", str(problems['back']))
    with pytest.raises(TransformUnavailable, match="'map'"):
        locate(STAMP_NS, {}, made, Frames(odom='map'))


@pytest.mark.parametrize(('exposed_ms', 'may_arrive'), [(30, True), (-300, False)])
def test_no_pose_at_the_exposure(exposed_ms, may_arrive):
    """Nothing is extrapolated; a pose that may still come is told from one that is gone."""
    made = tree(mount=MOUNT, poses=[(STAMP_NS + t * MS, pose(t)) for t in (-200, 0)])
    exposure = {'front': ('front_optical', STAMP_NS + exposed_ms * MS)}
    got, problems = locate(STAMP_NS, exposure, made, Frames())
    assert not got.ego_T_cam
    assert problems['front'].may_arrive is may_arrive


# --- decoding ------------------------------------------------------------------------------------


def jpeg(seed, size_px=(64, 32)):
    image = make_image(size_px, seed)
    data = cv2.imencode('.jpg', image[..., ::-1])[1].tobytes()
    return Plain(header=Plain(frame_id=f'camera_{seed}'), format='jpeg', data=data)


NAMES = ('front_left', 'front', 'front_right')


@pytest.fixture
def rig():
    """Histories in the rig's order, poses, and messages in another order."""
    cameras = {name: history((0, make_camera(fov_deg=50 + i))) for i, name in enumerate(NAMES)}
    poses = RigPoses(
        stamp_ns=STAMP_NS,
        base_T_ego=pose(pitch_deg=2),
        ego_T_cam={name: look(50 - 50 * i) for i, name in enumerate(NAMES)},
    )
    images = {name: (STAMP_NS + i * MS, jpeg(i)) for i, name in reversed([*enumerate(NAMES)])}
    return images, poses, cameras


def test_views_come_in_the_rigs_order(rig):
    images, poses, cameras = rig
    view_set, errors = decode(images, poses, cameras)
    assert not errors and view_set.missing == () and view_set.stamp_ns == STAMP_NS
    assert tuple(view.name for view in view_set.views) == NAMES
    np.testing.assert_array_equal(view_set.base_T_ego, poses.base_T_ego)
    for i, view in enumerate(view_set.views):
        assert view.stamp_ns == STAMP_NS + i * MS
        assert view.camera == make_camera(fov_deg=50 + i)
        np.testing.assert_array_equal(view.ego_T_cam, look(50 - 50 * i))
        assert np.abs(view.image.astype(float) - make_image(seed=i)).mean() < 12


def test_a_broken_image_costs_one_camera(rig):
    images, poses, cameras = rig
    message = images['front'][1]
    message.data = message.data[: len(message.data) // 2]
    view_set, errors = decode(images, poses, cameras)
    assert [view.name for view in view_set.views] == ['front_left', 'front_right']
    assert view_set.missing == ('front',)
    assert list(errors) == ['front'] and isinstance(errors['front'], MessageError)


def test_absent_and_uncalibrated_cameras(rig):
    images, poses, cameras = rig
    del images['front_left']
    cameras['front_right'] = CameraHistory('front_right')
    view_set, errors = decode(images, poses, cameras)
    assert [view.name for view in view_set.views] == ['front']
    assert view_set.missing == ('front_left', 'front_right')  # absent is no error
    assert list(errors) == ['front_right']
    assert isinstance(errors['front_right'], CalibrationError)


def test_an_image_of_another_shape_is_refused(rig):
    images, poses, cameras = rig
    images['front'] = (STAMP_NS, jpeg(1, (64, 48)))
    view_set, errors = decode(images, poses, cameras)
    assert view_set.missing == ('front',)
    assert 'front: image is 64x48' in str(errors['front'])


def test_the_calibration_at_the_images_stamp_is_taken(rig):
    images, poses, cameras = rig
    cameras['front'].push(STAMP_NS + 2 * MS, A)  # 'front' was exposed at + 1 ms
    view_set, _ = decode(images, poses, cameras)
    assert view_set.views[1].camera == make_camera(fov_deg=51)
    cameras['front'].push(STAMP_NS + 1 * MS, B)
    view_set, _ = decode(images, poses, cameras)
    assert view_set.views[1].camera == B


def test_shrunk_decoding_scales_the_camera(rig):
    images, poses, cameras = rig
    large = make_camera((512, 256), fov_deg=50)
    images['front'] = (STAMP_NS, jpeg(1, (512, 256)))
    cameras['front'] = history((0, large))
    view_set, _ = decode(images, poses, cameras, at_least_px=(128, 64))
    front = view_set.views[1]
    assert front.image.shape == (64, 128, 3) and front.camera == large.resized((128, 64))


def test_threads_change_nothing(rig):
    images, poses, cameras = rig
    images['front'][1].data = b'\xff\xd8\xff broken'
    serial, errors = decode(images, poses, cameras)
    with ThreadPoolExecutor(3) as executor:
        for _ in range(5):
            parallel, other = decode(images, poses, cameras, executor=executor)
            assert list(other) == list(errors) == ['front']
            assert parallel.missing == serial.missing
            for a, b in zip(serial.views, parallel.views, strict=True):
                assert a.name == b.name and a.camera == b.camera and a.stamp_ns == b.stamp_ns
                np.testing.assert_array_equal(a.image, b.image)
                np.testing.assert_array_equal(a.ego_T_cam, b.ego_T_cam)
