"""Recordings at the edge of what vehicles record: conversions that just work, or say why."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rosbags.rosbag2
from rosbags.rosbag2 import StoragePlugin

from bev_perception.errors import BagError
from bev_perception.geometry import rigid
from bev_training import messages
from bev_training.data.bag_inputs import find_bags
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.data.settings import ConvertConfig, KeyFrames
from test.data.small_bag import Entry, SmallDrive, changed, write_bag, write_entries
from test.factories import STAMP_NS

S, MS = 10**9, 10**6
ALL = ConvertConfig(every=KeyFrames())


def convert(bag: Path, config: ConvertConfig = ALL) -> Drive:
    (source,) = find_bags([bag])
    out = bag.with_name(f'{bag.name}.drive')
    convert_bag(source, out, config)
    drive = Drive(out)
    assert not list(drive.check(decode=True))
    return drive


def recorded(path: Path, entries: list[Entry]) -> Drive:
    return convert(write_entries(path, sorted(entries, key=lambda entry: entry.time_ns)))


def of_topic(entries: list[Entry], topic: str) -> list[int]:
    return [i for i, entry in enumerate(entries) if entry.topic == topic]


def counts(drive: Drive) -> dict[str, int]:
    return drive.manifest['counts']


# --- little is there ----------------------------------------------------------------------------


def test_no_message_at_all(tmp_path: Path) -> None:
    plugin = StoragePlugin.MCAP
    with rosbags.rosbag2.Writer(tmp_path / 'bag', version=9, storage_plugin=plugin):
        pass
    with pytest.raises(BagError, match=r'camera found; the recording has no message$'):
        convert(tmp_path / 'bag')


def test_transforms_alone(tmp_path: Path) -> None:
    entries = [e for e in SmallDrive().entries() if e.topic == '/tf']
    with pytest.raises(BagError, match=r'no image topic; its topics are /tf$'):
        recorded(tmp_path / 'bag', entries)


def test_one_set(tmp_path: Path) -> None:
    drive = convert(write_bag(tmp_path / 'bag', seconds=0.1))
    assert len(drive) == 1
    assert drive.links(0) == (None, None)


def test_a_parked_vehicle_gives_one_frame(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', seconds=5, speed_mps=0.0, turn_radps=0.0)
    assert len(convert(bag, ConvertConfig())) == 1


# --- sensors that differ, start late or die -----------------------------------------------------


@pytest.mark.parametrize(('rates', 'sets'), [((10, 30, 10), 30), ((15, 12, 15), 36)])
def test_cameras_of_different_rates(tmp_path: Path, rates: tuple[int, ...], sets: int) -> None:
    drive = SmallDrive(seconds=3)
    entries = [e for e in drive.entries() if not e.topic.startswith('/camera')]
    for name, hz in zip(drive.cameras, rates, strict=True):
        frame, camera = f'{name}_optical', drive.rig()[name][0]
        for number in range(3 * hz):
            stamp = STAMP_NS + round(number / hz * S)
            info = messages.camera_info(frame, stamp, camera)
            image = messages.compressed_image(frame, stamp, drive.jpeg(name, number))
            at, topic = stamp + 30 * MS, f'/camera/{name}'
            entries.append(Entry(at, f'{topic}/camera_info', messages.CAMERA_INFO, info))
            entries.append(
                Entry(at, messages.image_topic(name, raw=False), messages.COMPRESSED, image)
            )
    assert len(recorded(tmp_path / 'bag', entries)) == sets


@pytest.mark.parametrize('late', [False, True])
def test_a_lidar_that_is_there_half_of_the_time(tmp_path: Path, late: bool) -> None:
    middle = STAMP_NS + S
    entries = [
        e
        for e in SmallDrive(seconds=2).entries()
        if e.topic != '/lidar/points' or (e.time_ns > middle) == late
    ]
    drive = recorded(tmp_path / 'bag', entries)
    assert len(drive) == 20
    assert 7 <= counts(drive)['frames_without_sweep'] <= 10
    with_sweeps = [bool(drive.frame(i, images=False).sweeps) for i in range(20)]
    assert with_sweeps == sorted(with_sweeps, reverse=not late)


def test_a_camera_that_dies(tmp_path: Path) -> None:
    entries = [
        e
        for e in SmallDrive(seconds=2).entries()
        if not e.topic.startswith('/camera/front/') or e.time_ns < STAMP_NS + S
    ]
    bag = write_entries(tmp_path / 'bag', entries)
    drive = convert(bag, ConvertConfig(every=KeyFrames(), min_cameras=2))
    missing = [drive.frame(i, images=False).missing for i in range(len(drive))]
    assert missing == [()] * 10 + [('front',)] * 10


# --- transforms ---------------------------------------------------------------------------------


def moving(entries: list[Entry], keep: Callable[[int], bool]) -> list[Entry]:
    return [e for e in entries if e.topic != '/tf' or keep(e.time_ns - STAMP_NS)]


def test_transforms_start_late_and_end_early(tmp_path: Path) -> None:
    entries = SmallDrive(seconds=6, odometry=False).entries()
    entries = moving(entries, lambda at: 2 * S < at < 5 * S)
    drive = recorded(tmp_path / 'bag', entries)
    assert len(drive) == 30
    assert counts(drive)['sets_without_pose'] == 30


def test_transforms_at_1000_hz(tmp_path: Path) -> None:
    drive = SmallDrive(seconds=1.5, odometry=False, tf=False)
    entries = drive.entries()
    for step in range(-50, 1600):
        stamp, pose = STAMP_NS + step * MS, drive.odom_T_base(step / 1000)
        data = messages.transforms(stamp, {('odom', 'base_link'): pose})
        entries.append(Entry(stamp + MS, '/tf', messages.TF, data))
    assert len(recorded(tmp_path / 'bag', entries)) == 15


def test_map_moves_above_odom(tmp_path: Path) -> None:
    """Jumps of localisation do not reach the poses."""
    usual = convert(write_bag(tmp_path / 'usual', odometry=False))
    entries = SmallDrive(odometry=False).entries()
    for step in range(12):
        stamp, pose = STAMP_NS + step * 100 * MS, np.eye(4)
        pose[:3, 3] = 100.0 + step % 3, 5.0, 0.0
        data = messages.transforms(stamp, {('map', 'odom'): pose})
        entries.append(Entry(stamp + MS, '/tf', messages.TF, data))
    drive = recorded(tmp_path / 'bag', entries)
    for i in range(len(usual)):
        one, two = usual.frame(i, images=False), drive.frame(i, images=False)
        np.testing.assert_array_equal(one.odom_T_ego, two.odom_T_ego)


@pytest.mark.parametrize('topic', [False, True])
def test_base_footprint_between_odom_and_base_link(tmp_path: Path, topic: bool) -> None:
    small = SmallDrive(odometry=topic, tf=False)
    foot_T_base = np.eye(4)
    foot_T_base[2, 3] = 0.3
    entries = small.entries()
    for i in of_topic(entries, '/odom'):
        entries[i] = changed(
            entries[i], data=entries[i].data.replace(b'base_link\0', b'base_foot\0')
        )
    static = messages.transforms(STAMP_NS - S, {('base_foot', 'base_link'): foot_T_base})
    entries.append(Entry(STAMP_NS - S, '/tf_static', messages.TF, static, latched=True))
    for step in range(-5, 60) if not topic else ():
        stamp, pose = STAMP_NS + step * 20 * MS, small.odom_T_base(step / 50)
        data = messages.transforms(stamp, {('odom', 'base_foot'): pose})
        entries.append(Entry(stamp + MS, '/tf', messages.TF, data))
    drive = recorded(tmp_path / 'bag', entries)
    assert len(drive) == 10
    frame = drive.frame(3, images=False)
    expected = small.odom_T_base((frame.stamp_ns - STAMP_NS) / 1e9) @ foot_T_base
    odom_T_base = frame.odom_T_ego @ rigid.inverse(frame.base_T_ego)
    np.testing.assert_allclose(odom_T_base, expected, atol=1e-3)


# --- names, images, clouds ----------------------------------------------------------------------


def test_two_recordings_of_one_name(tmp_path: Path) -> None:
    for folder in 'ab':
        write_bag(tmp_path / folder / 'rec', seconds=0.1)
    assert [source.name for source in find_bags([tmp_path])] == ['a_rec', 'b_rec']


def test_both_raw_and_compressed_are_recorded(tmp_path: Path) -> None:
    raw = [e for e in SmallDrive(raw=True).entries() if e.type == messages.IMAGE]
    drive = recorded(tmp_path / 'bag', [*SmallDrive().entries(), *raw])
    assert len(drive.cameras) == 3
    assert {v.image.suffix for v in drive.frame(0).views} == {'jpg'}


@pytest.mark.parametrize('encoding', ['mono8', 'bayer_rggb8'])
def test_cameras_of_one_channel(tmp_path: Path, encoding: str) -> None:
    def one_channel(entry: Entry) -> Entry:
        if entry.type != messages.IMAGE:
            return entry
        message = messages.TYPESTORE.deserialize_cdr(entry.data, entry.type)
        message.encoding, message.step = encoding, message.width
        message.data = np.ascontiguousarray(message.data[1::3])
        return changed(entry, data=bytes(messages.TYPESTORE.serialize_cdr(message, entry.type)))

    entries = [one_channel(e) for e in SmallDrive(raw=True, seconds=0.3).entries()]
    drive = recorded(tmp_path / 'bag', entries)
    image = drive.view_set(0).views[0].image
    assert (image == image[..., :1]).all() == (encoding == 'mono8')


def test_an_organised_cloud_with_points_that_are_not_there(tmp_path: Path) -> None:
    def organised(entry: Entry) -> Entry:
        if entry.type != messages.POINT_CLOUD:
            return entry
        message = messages.TYPESTORE.deserialize_cdr(entry.data, entry.type)
        message.height, message.width = 5, message.width // 5
        message.row_step, message.is_dense = message.width * message.point_step, False
        message.data = message.data.copy()
        message.data[: 7 * message.point_step] = 0xFF  # NaN
        return changed(entry, data=bytes(messages.TYPESTORE.serialize_cdr(message, entry.type)))

    entries = [organised(e) for e in SmallDrive(seconds=0.3).entries()]
    drive = recorded(tmp_path / 'bag', entries)
    assert {len(s.points) for s in drive.frame(1).sweeps} == {43}


def test_rectified_topics_take_p(tmp_path: Path) -> None:
    def rectified(entry: Entry) -> Entry:
        if entry.type == messages.COMPRESSED:
            return changed(entry, topic=entry.topic.replace('image_raw', 'image_rect_color'))
        if entry.type != messages.CAMERA_INFO:
            return entry
        message = messages.TYPESTORE.deserialize_cdr(entry.data, entry.type)
        message.d = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
        message.p = message.p.copy()
        message.p[[0, 5]] = 40.0
        return changed(entry, data=bytes(messages.TYPESTORE.serialize_cdr(message, entry.type)))

    drive = recorded(tmp_path / 'bag', [rectified(e) for e in SmallDrive().entries()])
    camera = drive.calibrations[0].cameras['front'].camera
    assert camera.model == 'pinhole'
    assert camera.K[0, 0] == camera.K[1, 1] == 40.0
    assert drive.manifest['facts']['topics']['rectified'] == list(drive.cameras)


@pytest.mark.parametrize('once', [False, True])
def test_camera_infos_with_zero_stamps_or_only_once(tmp_path: Path, once: bool) -> None:
    entries, seen = [], set()
    for entry in SmallDrive().entries():
        if entry.type == messages.CAMERA_INFO:
            if once and entry.topic in seen:
                continue
            seen.add(entry.topic)
            entry = changed(entry, data=entry.data[:4] + bytes(8) + entry.data[12:])
        entries.append(entry)
    drive = recorded(tmp_path / 'bag', entries)
    assert (len(drive), len(drive.calibrations)) == (10, 1)


# --- time ---------------------------------------------------------------------------------------


def test_a_pause_of_half_a_minute(tmp_path: Path) -> None:
    later = SmallDrive(start_ns=STAMP_NS + 31 * S).entries()
    entries = [*SmallDrive().entries(), *(e for e in later if not e.latched)]
    drive = recorded(tmp_path / 'bag', entries)
    assert list(drive.sequences) == [0] * 10 + [1] * 10
    assert drive.links(9)[1] is None


def simulated(start_ns: int, bag_ns: int) -> list[Entry]:
    """A drive whose simulation's clock starts at `start_ns`; nothing is published before."""
    out = []
    for entry in SmallDrive(seconds=2).entries():
        at = 8 if entry.type == messages.TF else 4
        sec, nanosec = struct.unpack_from('<iI', entry.data, at)
        stamp = sec * S + nanosec - STAMP_NS + start_ns
        if stamp < 0 and not entry.latched:
            continue
        data = bytearray(entry.data)
        struct.pack_into('<iI', data, at, *divmod(max(stamp, 0), S))
        time_ns = max(entry.time_ns - STAMP_NS, 0) + bag_ns
        out.append(changed(entry, data=bytes(data), time_ns=time_ns))
    return out


@pytest.mark.parametrize('bag_ns', [0, STAMP_NS])
@pytest.mark.parametrize('start_ns', [0, 50 * MS])
def test_a_simulation_from_zero(tmp_path: Path, start_ns: int, bag_ns: int) -> None:
    """A stamp of exactly 0 is one that nobody filled in: at most the first set is lost by it."""
    drive = recorded(tmp_path / 'bag', simulated(start_ns, bag_ns))
    assert len(drive) >= (20 if start_ns else 19)
    assert ('stamps_from_bag' in counts(drive)) == (start_ns == 0)
    assert drive.frame(len(drive) - 1).stamp_ns < 3 * S


def test_video_through_the_whole_conversion(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip('av')
    from bev_training.data.video import FFMPEG, FOXGLOVE
    from test.data import small_video

    small = SmallDrive(seconds=2, size_px=(96, 64))
    packets = small_video.packets(small_video.moving_images(20))
    entries, numbers = [], dict.fromkeys(small.cameras, -1)
    for entry in small.entries():
        if entry.type == messages.COMPRESSED:
            name = entry.topic.split('/')[2]
            numbers[name] += 1
            number = numbers[name]
            stamp, frame = small.exposure_ns(name, number), f'{name}_optical'
            if (name, number) == ('front_left', 13):  # lost on the way
                continue
            kind = FFMPEG if name == 'front' else FOXGLOVE
            pack = small_video.ffmpeg_packet if kind == FFMPEG else small_video.foxglove_video
            topic = f'/camera/{name}/image_raw/{"ffmpeg" if kind == FFMPEG else "h264"}'
            data = pack(packets[number], stamp, frame)
            entry = changed(entry, topic=topic, type=kind, data=data)
        entries.append(entry)
    monkeypatch.setattr(messages, 'TYPESTORE', small_video.TYPES)
    bag = write_entries(tmp_path / 'bag', entries)
    drive = convert(bag, ConvertConfig(every=KeyFrames(), min_cameras=2))
    assert len(drive) == 20
    assert [i for i in range(20) if drive.frame(i).missing] == list(range(13, 20))
    assert counts(drive)['video_gaps'] == 1
    assert counts(drive)['video_waiting'] == 6
