"""What becomes of odd recordings: jumps, restarts, calibrations that change, messages that lag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bev_perception.geometry import rigid
from bev_training import messages
from bev_training.data.bag_inputs import BagSource
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.data.settings import ConvertConfig, KeyFrames
from test.data.small_bag import CAMERAS, Entry, SmallDrive, changed, write_entries
from test.factories import STAMP_NS, make_camera

S, MS = 10**9, 10**6
CAMERA_NS, POSE_NS = 30 * MS, MS  # from the stamp to the bag, as `small_bag` records


def config(**values) -> ConvertConfig:
    given = {'cameras': CAMERAS, 'every': KeyFrames(), 'min_cameras': 3, **values}
    return ConvertConfig(**given)


def convert(tmp_path: Path, entries: list[Entry], **values) -> Drive:
    entries = sorted(entries, key=lambda entry: entry.time_ns)
    bag = write_entries(tmp_path / 'bag', entries)
    convert_bag(BagSource(name='bag', path=bag), tmp_path / 'out', config(**values))
    return Drive(tmp_path / 'out')


def counts(drive: Drive) -> dict[str, int]:
    return drive.manifest['counts']


def frames(drive: Drive) -> list:
    return [drive.frame(i, images=False, sweeps=False) for i in range(len(drive))]


def with_tf(drive: SmallDrive, pose: Callable[[float], np.ndarray]) -> list[Entry]:
    """The drive with another odom -> base_link."""
    out = []
    for entry in drive.entries():
        if entry.topic == '/tf':
            stamp = entry.time_ns - POSE_NS
            at = pose((stamp - drive.start_ns) / S)
            data = messages.transforms(stamp, {('odom', 'base_link'): at})
            entry = changed(entry, data=data)
        out.append(entry)
    return out


# --- odometry -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Restarted(SmallDrive):
    """The odometry begins anew at 1.001 s, between two exposures of a set."""

    def odom_T_base(self, time_s: float) -> np.ndarray:
        pose = super().odom_T_base(time_s)
        pose[0, 3] += 500 if time_s < 1.001 else -10
        return pose


@pytest.mark.parametrize('every', ['all', '4m'])
def test_an_odometry_that_restarts_leaves_no_pose_between(tmp_path, every):
    drive = Restarted(seconds=2.0, turn_radps=0.0)
    stored = convert(tmp_path, drive.entries(), every=KeyFrames.parse(every))
    for frame in frames(stored):
        x_m = frame.odom_T_ego[0, 3]
        assert x_m > 499 or x_m < 11
        assert all(abs(view.ego_T_cam[0, 3]) < 3 for view in frame.views)
        assert all(abs(sweep.ego_T_lidar[0, 3]) < 6 for sweep in frame.sweeps)
    sequences = {frame.sequence: frame.odom_T_ego[0, 3] > 100 for frame in frames(stored)}
    assert sequences == {0: True, 1: False}
    assert counts(stored)['odometry_jumps'] >= 1


@pytest.mark.parametrize('turn', [False, True], ids=['back', 'about'])
def test_a_jump_that_no_vehicle_makes_ends_a_sequence(tmp_path, turn):
    drive = SmallDrive(seconds=2.0, speed_mps=2.0, turn_radps=0.0, lidar=False)

    def pose(time_s: float) -> np.ndarray:
        moved = drive.odom_T_base(time_s)
        if time_s > 1.04:
            if turn:
                moved[:3, :3] = moved[:3, :3] @ np.diag([-1.0, -1.0, 1.0])
            else:
                moved[0, 3] -= 12.0
        return moved

    stored = convert(tmp_path, with_tf(drive, pose))
    assert [frame.sequence for frame in frames(stored)][9:12] == [0, 0, 1]
    assert counts(stored)['odometry_jumps'] == 1


def test_the_odometry_topic_counts_from_the_first_frame_on(tmp_path):
    """TF says something else, and begins earlier."""
    drive = SmallDrive(turn_radps=0.0)

    def beside(time_s: float) -> np.ndarray:
        pose = drive.odom_T_base(time_s)
        pose[1, 3] += 3
        return pose

    late = STAMP_NS + S // 2
    entries = [e for e in with_tf(drive, beside) if e.topic != '/odom' or e.time_ns > late]
    stored = convert(tmp_path, entries, odometry_topic='/odom')
    assert len(stored) == 5
    assert all(abs(frame.odom_T_ego[1, 3]) < 0.1 for frame in frames(stored))


def test_one_pose_that_points_up_costs_one_set(tmp_path):
    drive = SmallDrive(lidar=False, odometry=False)
    up = rigid.from_quat_xyzw([0, -np.sqrt(0.5), 0, np.sqrt(0.5)], [0, 0, 0])

    def pose(time_s: float) -> np.ndarray:
        return up if 0.49 < time_s < 0.53 else drive.odom_T_base(time_s)

    stored = convert(tmp_path, with_tf(drive, pose))
    assert len(stored) >= 8
    assert counts(stored)['sets_without_pose'] >= 1


# --- transforms ---------------------------------------------------------------------------------


def test_one_bad_transform_costs_no_other(tmp_path):
    """A wheel's joint that is not a number, in the same message as the pose of the vehicle."""
    entries = []
    for entry in SmallDrive(odometry=False).entries():
        if entry.topic == '/tf':
            stamp = entry.time_ns - POSE_NS
            pose = SmallDrive().odom_T_base((stamp - STAMP_NS) / S)
            wheel = np.eye(4)
            wheel[0, 3] = np.nan
            both = {('base_link', 'wheel'): wheel, ('odom', 'base_link'): pose}
            entry = changed(entry, data=messages.transforms(stamp, both))
        entries.append(entry)
    stored = convert(tmp_path, entries)
    assert len(stored) == 10
    assert counts(stored)['transforms_unusable'] > 50


def test_contradicting_static_transforms_are_counted(tmp_path):
    entries = SmallDrive().entries()
    at = entries[0].time_ns
    loop = {('base_link', 'imu'): np.eye(4), ('imu', 'base_link'): np.eye(4)}
    entries.append(changed(entries[0], data=messages.transforms(at, loop)))
    stored = convert(tmp_path, entries)
    assert len(stored) == 10
    assert counts(stored)['transforms_unusable'] >= 1


@pytest.mark.parametrize('lidar_dies', [False, True])
def test_a_mounting_that_changes_does_not_reach_back(tmp_path, lidar_dies):
    drive = SmallDrive(seconds=3.0, odometry=False)
    change = STAMP_NS + 2 * S
    entries = [
        e
        for e in drive.entries()
        if not (lidar_dies and e.topic == '/lidar/points' and e.time_ns > STAMP_NS + S)
    ]
    moved = drive.rig()['front'][1].copy()
    moved[0, 3] += 5
    data = messages.transforms(change, {('base_link', 'front_optical'): moved})
    entries.append(Entry(change, '/tf_static', messages.TF, data, latched=True))
    stored = convert(tmp_path, entries)
    first = next(frame for frame in frames(stored) if frame.epoch == 1)
    assert abs(first.stamp_ns - change) < 150 * MS
    last = [frame for frame in frames(stored) if frame.epoch == 0][-1]
    before, after = (f.views[1].ego_T_cam[0, 3] for f in (last, first))
    assert after - before == pytest.approx(5, abs=0.05)


def test_transforms_of_offline_localisation(tmp_path):
    """Recorded 1.3 s after the images: a longer wait takes them, and the error tells of it."""
    entries = [
        changed(e, time_ns=e.time_ns + 1300 * MS) if e.topic == '/tf' else e
        for e in SmallDrive(seconds=2.0, odometry=False, lidar=False).entries()
    ]
    stored = convert(tmp_path, entries, tf_timeout_s=2.0)
    assert len(stored) == 20


def test_a_camera_whose_transform_comes_later_is_missing_until_then(tmp_path):
    """Extrinsics in /tf, as ROS 1 drivers send them; one camera's begin a second late."""
    drive = SmallDrive(lidar=False, odometry=False, seconds=4.0)
    entries = [e for e in drive.entries() if e.topic != '/tf_static']
    for name, (_, pose) in drive.rig().items():
        for step in range(-5, 60):
            at = STAMP_NS + step * 100 * MS
            if name == 'front_right' and step < 25:
                continue
            data = messages.transforms(at + 50 * MS, {('base_link', f'{name}_optical'): pose})
            entries.append(Entry(at, '/tf', messages.TF, data))
    stored = convert(tmp_path, entries, min_cameras=2)
    assert frames(stored)[0].missing == ('front_right',)
    assert frames(stored)[-1].missing == ()
    assert counts(stored)['images_without_pose'] > 5


# --- calibration --------------------------------------------------------------------------------


@pytest.mark.parametrize('info_first', [True, False])
def test_each_image_has_the_calibration_of_its_own_info(tmp_path, info_first):
    """Whether a driver sends the image or its CameraInfo first; without anything to wait for."""
    drive, half = SmallDrive(lidar=False), STAMP_NS + S // 2
    entries = []
    for entry in drive.entries():
        if entry.topic.endswith('camera_info'):
            name, stamp = entry.topic.split('/')[2], entry.time_ns - CAMERA_NS
            fov_deg = 70.0 if stamp < half else 80.0
            camera = make_camera(drive.size_px, fov_deg=fov_deg)
            data = messages.camera_info(f'{name}_optical', stamp, camera)
            entry = changed(entry, data=data)
            if not info_first:
                entry = changed(entry, time_ns=entry.time_ns + 2 * MS)
        entries.append(entry)
    stored = convert(tmp_path, entries)
    assert len(stored.calibrations) == 2
    assert [frame.epoch for frame in frames(stored)] == [0] * 5 + [1] * 5


def test_infos_without_stamps_hold_for_the_images_after_them(tmp_path):
    """In a bag whose clock is an hour ahead of the headers'."""
    drive, half = SmallDrive(lidar=False), STAMP_NS + S // 2
    entries = []
    for entry in drive.entries():
        if entry.topic.endswith('camera_info'):
            name, stamp = entry.topic.split('/')[2], entry.time_ns - CAMERA_NS
            camera = make_camera(drive.size_px, fov_deg=70.0 if stamp < half else 80.0)
            data = messages.camera_info(f'{name}_optical', 0, camera)
            entry = changed(entry, data=data)
        entries.append(changed(entry, time_ns=entry.time_ns + 3600 * S))
    stored = convert(tmp_path, entries)
    assert len(stored.calibrations) == 2
    wanted = make_camera(drive.size_px, fov_deg=80.0)
    assert stored.calibrations[-1].cameras['front'].camera == wanted
    assert frames(stored)[4].epoch == 0 and frames(stored)[5].epoch == 1


def test_a_frame_id_that_changes_is_another_calibration(tmp_path):
    drive, half = SmallDrive(lidar=False), STAMP_NS + S // 2
    entries = []
    other = drive.rig()['front'][1].copy()
    other[0, 3] += 1.5
    for entry in drive.entries():
        stamp = entry.time_ns - CAMERA_NS
        if entry.topic == '/camera/front/image_raw/compressed' and stamp >= half:
            number = round((stamp - 5 * MS - STAMP_NS) / 100 / MS)
            data = messages.compressed_image('front_new', stamp, drive.jpeg('front', number))
            entry = changed(entry, data=data)
        entries.append(entry)
    at = entries[0].time_ns
    data = messages.transforms(at, {('base_link', 'front_new'): other})
    entries.append(Entry(at, '/tf_static', messages.TF, data, latched=True))
    stored = convert(tmp_path, entries)
    assert [frame.epoch for frame in frames(stored)] == [0] * 5 + [1] * 5
    for frame in frames(stored):
        mount = stored.calibrations[frame.epoch].cameras['front'].base_T_cam
        seen = frame.base_T_ego @ frame.views[1].ego_T_cam
        assert np.abs(seen - mount)[:3, 3].max() < 0.1  # and the way between the exposures


# --- sets ---------------------------------------------------------------------------------------


def test_a_damaged_image_does_not_change_the_sets_stamp(tmp_path):
    """The node only finds out when it decodes; the set is formed before."""
    entries = []
    for entry in SmallDrive(lidar=False).entries():
        if (
            entry.topic == '/camera/front/image_raw/compressed'
            and entry.time_ns < STAMP_NS + S // 2
        ):
            entry = changed(entry, data=entry.data[:-200] + bytes(200))
        entries.append(entry)
    stored = convert(tmp_path, entries, min_cameras=2)
    stamps = [frame.stamp_ns for frame in frames(stored)]
    assert stamps == [SmallDrive().exposure_ns('front', i) for i in range(10)]
    assert frames(stored)[0].missing == ('front',)


def test_a_damaged_set_leaves_its_place_to_the_next(tmp_path):
    entries, drive = [], SmallDrive(lidar=False, seconds=2.0)
    for entry in drive.entries():
        if entry.topic == '/camera/front/image_raw/compressed':
            number = round((entry.time_ns - CAMERA_NS - 5 * MS - STAMP_NS) / 100 / MS)
            if number == 4:
                entry = changed(entry, data=entry.data[:-200] + bytes(200))
        entries.append(entry)
    stored = convert(tmp_path, entries, every=KeyFrames(metres=2.0))
    numbers = [(f.stamp_ns - 5 * MS - STAMP_NS) // 100 // MS for f in frames(stored)]
    assert numbers[:4] == [0, 2, 5, 7]


def test_a_lidar_that_dies_costs_no_frame_and_no_wait(tmp_path):
    entries = [
        e
        for e in SmallDrive(seconds=3.0).entries()
        if e.topic != '/lidar/points' or e.time_ns < STAMP_NS + S
    ]
    stored = convert(tmp_path, entries)
    assert len(stored) == 30
    assert counts(stored)['frames_without_sweep'] in range(17, 21)


def test_a_privacy_function_sees_the_images_in_order_and_keeps_its_buffer(tmp_path):
    (tmp_path / 'blur.py').write_text(
        'import time\n'
        'import numpy as np\n'
        'state = {"stamp": 0, "buffer": None}\n'
        'def hide(image, camera, stamp_ns):\n'
        '    assert stamp_ns >= state["stamp"], "out of order"\n'
        '    state["stamp"] = stamp_ns\n'
        '    if state["buffer"] is None:\n'
        '        state["buffer"] = np.empty_like(image)\n'
        '    state["buffer"][:] = image\n'
        '    time.sleep(0.001)\n'
        '    state["buffer"][:] = 7\n'
        '    return state["buffer"]\n'
    )
    drive = SmallDrive(raw=True, lidar=False)
    stored = convert(tmp_path, drive.entries(), privacy=f'{tmp_path / "blur.py"}:hide')
    assert len(stored) == 10
    for i in range(len(stored)):
        assert all((view.image == 7).all() for view in stored.view_set(i).views)
