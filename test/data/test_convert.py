"""One recording becomes one drive: what is stored, what is left out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, CalibrationError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_training import messages
from bev_training.data.bag_inputs import BagSource
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.data.settings import ConvertConfig, KeyFrames
from bev_training.processes import Stopped
from test.data.small_bag import CAMERAS, SmallDrive, changed, write_bag, write_entries
from test.factories import STAMP_NS, make_camera

S = 10**9
ALL = KeyFrames()


def config(**values) -> ConvertConfig:
    return ConvertConfig(**{'cameras': CAMERAS, 'every': ALL, 'min_cameras': 3, **values})


def convert(bag: Path, settings: ConvertConfig | None = None) -> Drive:
    out = bag.with_name(f'{bag.name}.drive')
    convert_bag(BagSource(name='bag', path=bag), out, settings or config())
    return Drive(out)


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


# --- what is stored -----------------------------------------------------------------------------


def test_frames_hold_the_recording(tmp_path):
    drive = SmallDrive(cameras=CAMERAS)
    stored = convert(write_entries(tmp_path / 'bag', drive.entries()))
    assert stored.cameras == CAMERAS
    assert len(stored) == 10
    for number in range(len(stored)):
        frame = stored.frame(number)
        stamps = [drive.exposure_ns(name, number) for name in CAMERAS]
        assert [view.stamp_ns for view in frame.views] == stamps
        assert frame.stamp_ns == stamps[1]  # the middle one
        assert frame.spread_s == pytest.approx(0.01)
        assert [view.image.data for view in frame.views] == [
            drive.jpeg(name, number) for name in CAMERAS
        ]
        seconds = (frame.stamp_ns - drive.start_ns) / 1e9
        odom_T_base = drive.odom_T_base(seconds)
        np.testing.assert_allclose(
            frame.odom_T_ego @ rigid.inverse(frame.base_T_ego), odom_T_base, atol=1e-3
        )
        np.testing.assert_allclose(frame.odom_T_ego[2, :3], [0, 0, 1], atol=1e-12)
        for view in frame.views:
            exposed = drive.odom_T_base((view.stamp_ns - drive.start_ns) / 1e9)
            np.testing.assert_allclose(view.odom_T_base, exposed, atol=1e-3)
            odom_T_cam = exposed @ drive.rig()[view.camera][1]
            np.testing.assert_allclose(frame.odom_T_ego @ view.ego_T_cam, odom_T_cam, atol=1e-3)


def test_sweeps_are_ready_to_be_put_into_one_cloud(tmp_path):
    """Points that stand still come to lie where they were, whenever they were seen."""
    drive = SmallDrive(seconds=2.0)
    landmark = np.array([[30.0, 5.0, 1.0]])
    base_T_lidar = np.eye(4)
    base_T_lidar[2, 3] = 1.8

    def cloud(number: int) -> np.ndarray:
        points = drive.sweep(number)
        odom_T_lidar = drive.odom_T_base(number / 20) @ base_T_lidar
        seen = rigid.transform_points(rigid.inverse(odom_T_lidar), landmark)[0]
        points['x'][0], points['y'][0], points['z'][0] = seen
        return points

    entries = []
    for entry in drive.entries():
        if entry.topic == '/lidar/points':
            number = round((entry.time_ns - 40_000_000 - drive.start_ns) / S * 20)
            stamp = drive.start_ns + round(number / 20 * 1e9)
            entry = changed(entry, data=messages.point_cloud('lidar_top', stamp, cloud(number)))
        entries.append(entry)
    stored = convert(write_entries(tmp_path / 'bag', entries), config(every=KeyFrames(metres=4.0)))
    assert stored.calibrations[0].lidars['lidar'].fields == ('x', 'y', 'z', 'intensity', 'ring')
    counts = []
    for number in range(len(stored)):
        frame = stored.frame(number)
        counts.append(len(frame.sweeps))
        for sweep in frame.sweeps:
            ego = rigid.transform_points(sweep.ego_T_lidar, sweep.points[:1, :3].astype(float))
            odom = rigid.transform_points(frame.odom_T_ego, ego)
            np.testing.assert_allclose(odom, landmark, atol=0.01)
        assert abs(frame.sweeps[-1].stamp_ns - frame.stamp_ns) <= 25_000_000
    assert counts[1:] == [8] * (len(counts) - 1)  # 0.4 s at 20 Hz


@pytest.mark.parametrize(
    'storage',
    [
        {},
        {'storage': 'sqlite3'},
        {'compression': 'file'},
        {'compression': 'message'},
        {'compression': 'storage'},
        {'storage': 'sqlite3', 'compression': 'file'},
        {'storage': 'sqlite3', 'compression': 'message'},
        {'ros1': True},
    ],
    ids=str,
)
def test_every_storage_gives_the_same_frames(tmp_path, storage):
    plain = convert(write_bag(tmp_path / 'plain', seconds=0.5))
    ros1 = storage.pop('ros1', False)
    other = convert(write_bag(tmp_path / ('x.bag' if ros1 else 'x'), seconds=0.5, **storage))
    assert len(plain) == len(other) == 5
    one, two = tree_bytes(plain.folder), tree_bytes(other.folder)
    assert one.keys() == two.keys()
    for name in one:
        if name != 'manifest.json':  # it tells the source
            assert one[name] == two[name], name


def test_raw_images_are_stored_without_loss(tmp_path):
    drive = SmallDrive(raw=True, seconds=0.3)
    stored = convert(write_entries(tmp_path / 'bag', drive.entries()))
    assert stored.manifest['facts']['images']['raw_images'] == 'png'
    for number in range(3):
        for view in stored.view_set(number).views:
            np.testing.assert_array_equal(view.image, drive.image(view.name, number))


def test_odometry_instead_of_tf(tmp_path):
    with_tf = convert(write_bag(tmp_path / 'tf', odometry=False))
    with_topic = convert(write_bag(tmp_path / 'odom', tf=False))
    assert with_topic.manifest['facts']['topics']['odometry'] == '/odom'
    for i in range(len(with_tf)):
        one, two = with_tf.frame(i), with_topic.frame(i)
        np.testing.assert_allclose(one.odom_T_ego, two.odom_T_ego, atol=1e-9)


def test_without_odometry(tmp_path):
    bag = write_bag(tmp_path / 'bag', tf=False, odometry=False)
    stored = convert(bag, config(odom_frame='', every=KeyFrames(seconds=0.2)))
    assert len(stored) == 5
    frame = stored.frame(2)
    assert frame.odom_T_ego is None
    assert all(view.odom_T_base is None for view in frame.views)
    np.testing.assert_array_equal(frame.base_T_ego, np.eye(4))
    assert len(frame.sweeps) == 1  # older ones are in no known place


def test_key_frames_by_distance_and_their_links(tmp_path):
    stored = convert(write_bag(tmp_path / 'bag', seconds=2.0), ConvertConfig(min_cameras=3))
    assert len(stored) == 10  # 20 m
    assert stored.links(0) == (None, 1)
    assert stored.links(4) == (3, 5)
    assert stored.links(9) == (8, None)
    counts = stored.manifest['counts']
    assert counts['sets'] == 20
    assert counts['sets_between'] == 10


def test_incomplete_sets_are_kept_with_a_mask(tmp_path):
    drop = [('front', 3), ('front', 4), ('front_left', 4)]
    bag = write_bag(tmp_path / 'bag', drop=drop)
    stored = convert(bag, config(min_cameras=2))
    assert len(stored) == 9
    assert stored.frame(3).missing == ('front',)
    assert [view.camera for view in stored.frame(3).views] == ['front_left', 'front_right']
    assert len(convert(write_bag(tmp_path / 'strict', drop=drop))) == 8


def test_a_new_calibration_starts_an_epoch(tmp_path):
    drive, half = SmallDrive(), STAMP_NS + S // 2
    entries = []
    for entry in drive.entries():
        stamp = entry.time_ns - 30_000_000
        if entry.topic == '/camera/front/camera_info' and stamp >= half:
            other = make_camera(drive.size_px, fov_deg=71.0)
            info = messages.camera_info('front_optical', stamp, other)
            entry = changed(entry, data=info)
        entries.append(entry)
    moved = np.eye(4)
    moved[0, 3] = 3.0
    at = STAMP_NS + 8 * S // 10
    static = entries[0]
    data = messages.transforms(at, {('base_link', 'lidar_top'): moved})
    entries.append(changed(static, time_ns=at, data=data))
    entries.sort(key=lambda entry: entry.time_ns)
    stored = convert(write_entries(tmp_path / 'bag', entries))
    epochs = [stored.frame(i).epoch for i in range(len(stored))]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1, 2}
    assert epochs.index(1) == 5
    zero, one, two = stored.calibrations
    assert zero.cameras['front'].camera != one.cameras['front'].camera
    assert one.cameras['front'].camera == two.cameras['front'].camera
    assert zero.cameras['front_left'].camera == two.cameras['front_left'].camera
    assert two.lidars['lidar'].base_T_lidar[0, 3] == 3.0
    assert one.lidars['lidar'].base_T_lidar[0, 3] == 0.0


def test_zero_stamps_take_the_bags_time_and_are_counted(tmp_path):
    drive = SmallDrive(lidar=False)
    entries = []
    for entry in drive.entries():
        if entry.topic.endswith('compressed'):
            name = entry.topic.split('/')[2]
            number = round((entry.time_ns - 30_000_000 - drive.start_ns) // (S // 10))
            data = messages.compressed_image(f'{name}_optical', 0, drive.jpeg(name, number))
            entry = changed(entry, data=data)
        entries.append(entry)
    stored = convert(write_entries(tmp_path / 'bag', entries))
    assert stored.manifest['counts']['stamps_from_bag'] == 30
    assert stored.frame(0).views[0].stamp_ns == drive.start_ns + 30_000_000


def test_transforms_that_come_late_are_waited_for(tmp_path):
    """By 0.3 s, which a live node would not wait."""
    drive = SmallDrive()
    entries = [
        changed(e, time_ns=e.time_ns + 300_000_000) if e.topic == '/tf' else e
        for e in drive.entries()
    ]
    entries.sort(key=lambda entry: entry.time_ns)
    late = convert(write_entries(tmp_path / 'late', entries))
    usual = convert(write_bag(tmp_path / 'usual'))
    assert len(late) == len(usual)
    np.testing.assert_array_equal(late.frame(5).odom_T_ego, usual.frame(5).odom_T_ego)


def test_the_clock_goes_back(tmp_path):
    """A recorder that saw a simulation restart: both passes are kept, as two sequences."""
    first = SmallDrive().entries()
    again = [changed(e, time_ns=e.time_ns + 2 * S) for e in first if not e.latched]
    stored = convert(write_entries(tmp_path / 'bag', [*first, *again]))
    sequences = [stored.frame(i, images=False, sweeps=False).sequence for i in range(len(stored))]
    assert sequences == [0] * 10 + [1] * 10
    assert stored.manifest['counts']['clock_jumps'] == 1


def test_damaged_images_cost_one_camera_and_are_counted(tmp_path):
    entries, hit = [], 0
    for entry in SmallDrive().entries():
        if entry.topic == '/camera/front/image_raw/compressed' and hit < 2:
            entry, hit = changed(entry, data=entry.data[:-200] + bytes(200)), hit + 1
        entries.append(entry)
    stored = convert(write_entries(tmp_path / 'bag', entries), config(min_cameras=2))
    assert stored.frame(0).missing == ('front',)
    assert stored.manifest['counts']['images_damaged'] == 2


# --- what is refused, in one line, with nothing left behind -------------------------------------


def refused(bag: Path, settings: ConvertConfig, kind: type[BevError] = BagError) -> str:
    out = bag.with_name('refused')
    with pytest.raises(kind) as caught:
        convert_bag(BagSource(name='bag', path=bag), out, settings)
    assert not out.exists()
    text = str(caught.value)
    assert '\n' not in text
    return text


def test_calibration_of_another_size(tmp_path):
    entries = []
    for entry in SmallDrive(seconds=0.3).entries():
        if entry.topic == '/camera/front/camera_info':
            wrong = Camera(K=np.diag([50.0, 50.0, 1.0]), size_px=(64, 64))
            stamp = entry.time_ns - 30_000_000
            entry = changed(entry, data=messages.camera_info('front_optical', stamp, wrong))
        entries.append(entry)
    text = refused(write_entries(tmp_path / 'bag', entries), config(), CalibrationError)
    assert 'front: image is 64x48 but CameraInfo describes 64x64' in text


def test_no_set_is_large_enough(tmp_path):
    drop = [('front', i) for i in range(10)]
    text = refused(write_bag(tmp_path / 'bag', drop=drop), config())
    assert 'front' in text or 'no set of 3 images' in text


def test_images_far_apart(tmp_path):
    text = refused(write_bag(tmp_path / 'bag'), config(max_spread_s=0.001))
    assert 'no set of 3 images within 0.001 s' in text


def test_transforms_end_before_the_images(tmp_path):
    entries = [
        e
        for e in SmallDrive(odometry=False).entries()
        if e.topic != '/tf' or e.time_ns < STAMP_NS - S // 20
    ]
    text = refused(write_entries(tmp_path / 'bag', entries), config())
    assert 'after the newest pose' in text


def test_stopping_leaves_nothing(tmp_path):
    bag = write_bag(tmp_path / 'bag')
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 20

    with pytest.raises(Stopped):
        convert_bag(BagSource(name='bag', path=bag), tmp_path / 'out', config(), stopped=stop)
    assert not (tmp_path / 'out').exists()


def test_progress_grows_to_one(tmp_path):
    seen: list[float] = []
    source = BagSource(name='bag', path=write_bag(tmp_path / 'bag'))
    convert_bag(source, tmp_path / 'out', config(), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 10


def test_the_same_again_gives_the_same_bytes(tmp_path):
    source = BagSource(name='bag', path=write_bag(tmp_path / 'bag', raw=True, seconds=0.5))
    for out in ('one', 'two'):
        convert_bag(source, tmp_path / out, config())
    assert tree_bytes(tmp_path / 'one') == tree_bytes(tmp_path / 'two')
    manifest = json.loads((tmp_path / 'one' / 'manifest.json').read_text())
    assert manifest['facts']['settings'] == config().as_json()
    assert manifest['facts']['source']['name'] == 'bag'
