"""What is looked up before the first frame, and what is said where it cannot be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, CalibrationError
from bev_training import messages
from bev_training.data.bag_reader import Recording
from bev_training.data.beginning import Beginning, read_beginning
from bev_training.data.settings import ConvertConfig
from bev_training.data.topics import choose_topics
from test.data.small_bag import Entry, SmallDrive, write_entries
from test.factories import STAMP_NS, make_camera

INFO = '/camera/front/camera_info'
DRIVE = SmallDrive(seconds=0.5, cameras=('front', 'back'))


def begin(path: Path, entries: Sequence[Entry], **values) -> Beginning:
    write_entries(path, sorted(entries, key=lambda entry: entry.time_ns))
    with Recording(path) as recording:
        rig = choose_topics(recording, ConvertConfig(**values))
        return read_beginning(recording, rig, 'base_link')


def info(stamp_ns: int, *, focal_px: float = 50.0) -> bytes:
    camera = make_camera((64, 48))
    data = messages.camera_info('front_optical', stamp_ns, camera)
    message = messages.TYPESTORE.deserialize_cdr(data, messages.CAMERA_INFO)
    message.k = np.array(message.k)
    message.k[[0, 4]] = focal_px
    return bytes(messages.TYPESTORE.serialize_cdr(message, messages.CAMERA_INFO))


def with_infos(entries: Sequence[Entry], datas: Sequence[bytes]) -> list[Entry]:
    """Replace the first CameraInfos of the front camera."""
    out, datas = list(entries), list(datas)
    for i, entry in enumerate(out):
        if entry.topic == INFO and datas:
            out[i] = replace(entry, data=datas.pop(0))
    assert not datas
    return out


def test_a_drive(tmp_path: Path) -> None:
    found = begin(tmp_path / 'bag', DRIVE.entries())
    assert list(found.cameras) == ['back', 'front']
    for name, (stamp_ns, camera) in found.cameras.items():
        assert stamp_ns == DRIVE.exposure_ns(name, 0)
        np.testing.assert_array_equal(camera.K, DRIVE.rig()[name][0].K)
    mounts = {s.child: s.parent_T_child for s in found.statics}
    assert sorted(mounts) == ['back_optical', 'front_optical', 'lidar_top']
    np.testing.assert_allclose(mounts['front_optical'], DRIVE.rig()['front'][1], atol=1e-12)
    assert found.camera_frames == {'front': 'front_optical', 'back': 'back_optical'}
    assert found.lidar_frames == {'lidar': 'lidar_top'}
    assert found.lidar_fields['lidar'][:5] == ('x', 'y', 'z', 'intensity', 'ring')


def test_first_value_of_a_static_transform(tmp_path: Path) -> None:
    """It counts from the beginning wherever it lies; later values are left to their time."""
    entries = list(DRIVE.entries())
    static = next(i for i, e in enumerate(entries) if e.topic == '/tf_static')
    late = replace(entries.pop(static), time_ns=entries[-1].time_ns + 5)
    moved = np.eye(4)
    moved[0, 3] = 7.0
    data = messages.transforms(0, {('base_link', 'front_optical'): moved})
    entries += [late, replace(late, time_ns=late.time_ns + 5, data=data)]
    mounts = {s.child: s.parent_T_child for s in begin(tmp_path / 'bag', entries).statics}
    np.testing.assert_allclose(mounts['front_optical'], DRIVE.rig()['front'][1], atol=1e-12)


def test_a_calibration_without_a_stamp_holds_from_the_start(tmp_path: Path) -> None:
    entries = with_infos(DRIVE.entries(), [info(0)])
    assert begin(tmp_path / 'bag', entries).cameras['front'][0] == 0


def test_calibration_that_comes_late(tmp_path: Path) -> None:
    """Zeros, and a message that is cut off, are passed over."""
    good = info(STAMP_NS + 7)
    bad = [info(1, focal_px=0.0), good[:-40], info(2, focal_px=0.0), good]
    found = begin(tmp_path / 'bag', with_infos(DRIVE.entries(), bad))
    assert found.cameras['front'][0] == STAMP_NS + 7


def test_no_calibration(tmp_path: Path) -> None:
    entries = with_infos(DRIVE.entries(), [info(STAMP_NS, focal_px=0.0)] * 5)
    with pytest.raises(CalibrationError, match=rf'1: {INFO}: front: .*uncalibrated'):
        begin(tmp_path / '1', entries)
    entries = with_infos(DRIVE.entries(), [b'\0\1\0\0'] * 5)
    with pytest.raises(BagError, match=f'no message of {INFO} can be read: Could not deserialize'):
        begin(tmp_path / '2', entries)


def test_clouds_without_fields(tmp_path: Path) -> None:
    """A driver's first, empty sweep does not tell the columns."""
    entries = DRIVE.entries()
    empty = np.zeros(0, [('intensity', '<f4')])
    data = messages.point_cloud('lidar_top', STAMP_NS, empty)
    at = [i for i, e in enumerate(entries) if e.topic == '/lidar/points']
    entries[at[0]] = replace(entries[at[0]], data=data)
    found = begin(tmp_path / '1', entries)
    assert found.lidar_fields['lidar'][:3] == ('x', 'y', 'z')
    for i in at:
        entries[i] = replace(entries[i], data=data)
    with pytest.raises(BagError, match=r'/lidar/points: .*x'):
        begin(tmp_path / '2', entries)


def test_only_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read does not grow with the recording's length."""
    import rosbags.rosbag2.storage_mcap as storage

    seen: list[int] = []
    original = storage.decompress

    def watched(data: bytes, *rest: object) -> bytes:
        seen.append(len(data))
        return original(data, *rest)

    monkeypatch.setattr(storage, 'decompress', watched)
    counts = []
    for seconds in (1.0, 3.0):
        drive = SmallDrive(seconds=seconds, cameras=('front',), points=20_000)
        seen.clear()
        begin(tmp_path / f'{seconds}', drive.entries())
        counts.append(sum(seen))
    assert counts[1] < 1.5 * counts[0]


def test_real_recording(shared_data: Path) -> None:
    from bev_training.data.frame_trees import transforms_of

    path = shared_data / 'bag_hrp2_pcl_tf_ros1'
    with Recording(path / 'watercan.bag') as ros1, Recording(path / 'ros2_mcap') as ros2:
        assert ros1.topics['/tf'].type == ros2.topics['/tf'].type == 'tf2_msgs/msg/TFMessage'
        pairs = [
            {(t.parent, t.child) for t in transforms_of(recording, ['/tf'])}
            for recording in (ros1, ros2)
        ]
    assert len(pairs[1]) == 80 and pairs[1] <= pairs[0]
