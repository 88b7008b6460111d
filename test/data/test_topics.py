"""Which topics a recording is converted from, and what is said where they are not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, ConfigError
from bev_perception.topics import is_rectified
from bev_training import messages
from bev_training.data.bag_reader import Recording
from bev_training.data.settings import ConvertConfig, KeyFrames
from bev_training.data.topics import RigTopics, choose_topics
from test.data.small_bag import Entry, SmallDrive, write_entries
from test.factories import STAMP_NS, look, make_camera, make_image

SIX = ('back', 'back_left', 'back_right', 'front', 'front_left', 'front_right')
SHORT = {'seconds': 0.2, 'hz': 10.0}


def choose(path: Path, entries: Sequence[Entry], **values) -> RigTopics:
    write_entries(path / 'bag', sorted(entries, key=lambda entry: entry.time_ns))
    with Recording(path / 'bag') as recording:
        return choose_topics(recording, ConvertConfig(**values))


def drive(**values) -> list[Entry]:
    return SmallDrive(**{**SHORT, **values}).entries()


def renamed(entries: Sequence[Entry], change: Callable[[str], str]) -> list[Entry]:
    return [replace(entry, topic=change(entry.topic)) for entry in entries]


def without(entries: Sequence[Entry], *topics: str) -> list[Entry]:
    return [entry for entry in entries if entry.topic not in topics]


def raw(topic: str, frame: str = 'front_optical') -> Entry:
    data = messages.raw_image(frame, STAMP_NS, make_image((64, 48)))
    return Entry(STAMP_NS + 1, topic, messages.IMAGE, data)


def cameras(rig: RigTopics) -> dict[str, str]:
    return {camera.name: camera.image for camera in rig.cameras}


def tf(poses: Sequence[tuple[str, str]], topic: str, at_ns: int = STAMP_NS) -> Entry:
    data = messages.transforms(at_ns, dict.fromkeys(poses, np.eye(4)))
    return Entry(at_ns, topic, messages.TF, data, latched=topic.endswith('static'))


# -- cameras ------------------------------------------------------------------------------------


def test_six_cameras_in_the_order_of_the_rig(tmp_path: Path) -> None:
    rig = choose(tmp_path, drive(cameras=SIX))
    assert [c.name for c in rig.cameras] == [
        'front_left', 'front', 'front_right', 'back_left', 'back', 'back_right',
    ]  # fmt: skip
    front = rig.cameras[1]
    assert front.image == '/camera/front/image_raw/compressed'
    assert front.info == '/camera/front/camera_info'
    assert (front.kind, front.rectified) == ('compressed', False)
    assert rig.lidars == {'lidar': '/lidar/points'}
    assert (rig.tf, rig.tf_static, rig.odometry) == (('/tf',), ('/tf_static',), '')
    assert len(rig.all) == len(set(rig.all)) == 6 * 2 + 3


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [
        (
            '/sensing/camera/camera{}/image_rect_color/compressed',
            ['camera0', 'camera1', 'camera2'],
        ),
        ('/CAM_{}/image_rect_compressed', ['CAM_0', 'CAM_1', 'CAM_2']),
        ('/c{}/camera/image_raw', ['c0', 'c1', 'c2']),
        ('/robot/cam-{}/driver/image', ['cam_0', 'cam_1', 'cam_2']),
        ('/camera{}/image_color/compressed', ['camera0', 'camera1', 'camera2']),
    ],
)
def test_names_of_other_peoples_topics(pattern: str, names: list[str], tmp_path: Path) -> None:
    place = pattern.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'

    def change(topic: str) -> str:
        for number, name in enumerate(('front_left', 'front', 'front_right')):
            if topic == f'/camera/{name}/camera_info':
                return place.format(number)
            if topic == f'/camera/{name}/image_raw/compressed':
                return pattern.format(number)
        return topic

    rig = choose(tmp_path, renamed(drive(), change))
    assert [c.name for c in rig.cameras] == names
    assert [c.image for c in rig.cameras] == [pattern.format(n) for n in range(3)]
    assert [c.info for c in rig.cameras] == [place.format(n) for n in range(3)]
    assert all(c.rectified == ('rect' in pattern) for c in rig.cameras)


def test_a_single_camera_has_a_name(tmp_path: Path) -> None:
    entries = drive(cameras=('front',))
    assert list(cameras(choose(tmp_path / '1', entries))) == ['front']
    plain = renamed(entries, lambda topic: topic.replace('/camera/front', ''))
    assert cameras(choose(tmp_path / '2', plain)) == {'camera': '/image_raw/compressed'}


def test_one_topic_per_camera(tmp_path: Path) -> None:
    """Compressed before raw, own colours before gray; no depth, no masks."""
    entries = drive(cameras=('front',))
    below = '/camera/front/'
    others = [raw(below + name) for name in ('image_raw', 'image_rect', 'image_mono', 'road_mask')]
    assert cameras(choose(tmp_path / '1', entries + others)) == {
        'front': below + 'image_raw/compressed'
    }
    entries = without(entries, below + 'image_raw/compressed')
    assert cameras(choose(tmp_path / '2', entries + others)) == {'front': below + 'image_raw'}
    assert cameras(choose(tmp_path / '3', entries + others[1:])) == {'front': below + 'image_rect'}
    assert cameras(choose(tmp_path / '4', entries + others[2:])) == {'front': below + 'image_mono'}
    with pytest.raises(BagError, match='no camera found; the recording has the image topics'):
        choose(tmp_path / '5', entries + others[3:])


def test_depth_is_no_camera(tmp_path: Path) -> None:
    """By its name, or by its encoding where the name does not tell."""
    typed = messages.TYPESTORE.deserialize_cdr(raw('/x').data, messages.IMAGE)
    typed.encoding, typed.step, typed.data = '16UC1', 128, typed.data[: 128 * 48]
    data = bytes(messages.TYPESTORE.serialize_cdr(typed, messages.IMAGE))
    entries = drive(cameras=('front',))
    depth = [replace(raw(f'/{name}/image'), data=data) for name in ('aligned', 'depth')]
    infos = [
        replace(next(e for e in entries if e.topic.endswith('info')), topic=f'/{n}/camera_info')
        for n in ('aligned', 'depth')
    ]
    assert list(cameras(choose(tmp_path, entries + depth + infos))) == ['front']


def test_chosen_cameras(tmp_path: Path) -> None:
    entries = drive(cameras=SIX)
    rig = choose(tmp_path / '1', entries, cameras=('back', 'front'), min_cameras=1)
    assert list(cameras(rig)) == ['back', 'front']
    with pytest.raises(BagError, match=r"no images of camera 'roof'; it has front_left, front,"):
        choose(tmp_path / '2', entries, cameras=('front', 'roof'))


def test_template(tmp_path: Path) -> None:
    entries = drive()
    template = '/camera/{camera}/image_raw'
    compressed = {
        n: f'/camera/{n}/image_raw/compressed' for n in ('front', 'front_left', 'front_right')
    }
    assert cameras(choose(tmp_path / '1', entries, image_topic=template)) == compressed
    exact = f'{template}/compressed'
    assert cameras(choose(tmp_path / '2', entries, image_topic=exact)) == compressed
    both = [*entries, raw('/camera/front/image_raw')]
    rig = choose(tmp_path / '3', both, image_topic=template, cameras=('front_left', 'front'))
    assert cameras(rig) == {
        'front_left': compressed['front_left'],
        'front': '/camera/front/image_raw',
    }
    with pytest.raises(BagError, match=r"'roof' on /camera/roof/image_raw; the recording has the"):
        choose(tmp_path / '4', entries, image_topic=template, cameras=('front', 'roof'))
    with pytest.raises(BagError, match=r"no topic fits image_topic '/c/\{camera\}'; .* the image"):
        choose(tmp_path / '5', entries, image_topic='/c/{camera}')
    with pytest.raises(
        BagError, match=r"no CameraInfo of camera 'front' on /info/front; .*front_"
    ):
        choose(tmp_path / '6', entries, image_topic=template, camera_info_topic='/info/{camera}')


def test_topics_by_name(tmp_path: Path) -> None:
    entries = renamed(drive(), lambda t: t.replace('/camera/front/camera_info', '/calibration'))
    image = '/camera/front/image_raw/compressed'
    rig = choose(
        tmp_path / '1',
        entries,
        image_topics={'middle': image},
        camera_info_topics={'middle': '/calibration'},
    )
    assert [(c.name, c.image, c.info) for c in rig.cameras] == [('middle', image, '/calibration')]
    with pytest.raises(BagError, match=f'no CameraInfo topic lies beside {image}'):
        choose(tmp_path / '2', entries, image_topics={'middle': image})
    with pytest.raises(
        BagError, match=r"'middle' on /tf; the recording has the image topics /cam"
    ):
        choose(tmp_path / '3', entries, image_topics={'middle': '/tf'})


def test_geometry_of_images(tmp_path: Path) -> None:
    """The same rule as the node's parameter, for the topic with or without its transport."""
    assert is_rectified('/camera/{camera}/image_rect_color')
    assert is_rectified('/camera/{camera}/image_rect/compressed')
    assert is_rectified('/camera/rect/image')
    assert not is_rectified('/camera/{camera}/image_raw')
    assert not is_rectified('/rect/camera/image_raw')
    assert not is_rectified('/camera/direct_front/image')
    rig = choose(tmp_path, drive(), image_geometry='rectified')
    assert all(camera.rectified for camera in rig.cameras)


def test_no_cameras(tmp_path: Path) -> None:
    entries = drive(cameras=('front',))
    image, info = '/camera/front/image_raw/compressed', '/camera/front/camera_info'
    with pytest.raises(BagError, match=r'no camera found; the recording has no image topic; its'):
        choose(tmp_path / '1', without(entries, image))
    with pytest.raises(BagError, match=f'no CameraInfo topic lies beside {image}'):
        choose(tmp_path / '2', without(entries, info))


# -- frames -------------------------------------------------------------------------------------


def test_camera_that_tf_does_not_know(tmp_path: Path) -> None:
    entries = [*without(drive(cameras=('front',)), '/tf_static')]
    entries.append(tf([('base_link', 'lidar_top'), ('world', 'front_lens')], '/tf_static'))
    match = (
        r"camera 'front' \(/camera/front/.*\) is in frame 'front_optical', which TF does not "
        r"connect with base_frame 'base_link'; the trees of TF are odom \(base_link, lidar_top\)"
    )
    with pytest.raises(BagError, match=match):
        choose(tmp_path / '1', entries)
    entries[-1] = tf([('base_link', 'front_optical')], '/tf_static')
    with pytest.raises(BagError, match=r"lidar 'lidar' .*'lidar_top'.*--no-lidar goes without"):
        choose(tmp_path / '2', entries)
    rig = choose(tmp_path / '3', entries, lidars={})
    assert rig.lidars == {}


def test_camera_on_a_moving_mount(tmp_path: Path) -> None:
    entries = [*without(drive(cameras=('front',), lidar=False), '/tf_static')]
    entries.append(tf([('base_link', 'mast')], '/tf_static'))
    entries += [tf([('mast', 'front_optical')], '/tf', STAMP_NS + n * 10**7) for n in range(5)]
    assert list(cameras(choose(tmp_path, entries))) == ['front']


def test_empty_frame(tmp_path: Path) -> None:
    entries = drive(cameras=('front',))
    topic = '/camera/front/image_raw/compressed'
    data = messages.compressed_image('', STAMP_NS, b'x')
    entries = [replace(e, data=data) if e.topic == topic else e for e in entries]
    with pytest.raises(BagError, match=f'messages of {topic} have an empty frame_id'):
        choose(tmp_path, entries)


def test_two_cameras_in_one_frame(tmp_path: Path) -> None:
    entries = [
        replace(e, data=messages.compressed_image('front_optical', STAMP_NS, b'x'))
        if e.topic.endswith('compressed')
        else e
        for e in drive(lidar=False)
    ]
    assert len(choose(tmp_path, entries).cameras) == 3


def test_tf_in_a_namespace(tmp_path: Path) -> None:
    inside = renamed(drive(), lambda t: t.replace('/tf', '/robot/tf'))
    rig = choose(tmp_path / '1', inside)
    assert (rig.tf, rig.tf_static) == (('/robot/tf',), ('/robot/tf_static',))
    rig = choose(tmp_path / '2', [*inside, *(e for e in drive() if '/tf' in e.topic)])
    assert (rig.tf, rig.tf_static) == (('/tf',), ('/tf_static',))


# -- ego pose -----------------------------------------------------------------------------------


def odometry(topic: str, child: str = 'base_link', at_ns: int = STAMP_NS) -> Entry:
    data = messages.odometry(at_ns, np.eye(4), np.eye(4), 1.0)
    typed = messages.TYPESTORE.deserialize_cdr(data, messages.ODOMETRY)
    typed.child_frame_id = child
    data = bytes(messages.TYPESTORE.serialize_cdr(typed, messages.ODOMETRY))
    return Entry(at_ns, topic, messages.ODOMETRY, data)


def test_odometry_where_tf_has_no_pose(tmp_path: Path) -> None:
    assert choose(tmp_path / '1', drive(tf=False)).odometry == '/odom'
    assert choose(tmp_path / '2', drive()).odometry == ''
    assert choose(tmp_path / '3', drive(), odometry_topic='/odom').odometry == '/odom'
    rig = choose(
        tmp_path / '4', drive(tf=False, odometry=False), odom_frame='', every=KeyFrames(seconds=1)
    )
    assert rig.odometry == ''


def test_odometry_of_a_frame_above_the_base(tmp_path: Path) -> None:
    entries = drive(tf=False, odometry=False)
    entries += [tf([('footprint', 'base_link')], '/tf_static', STAMP_NS - 10**8)]
    assert choose(tmp_path / '1', [*entries, odometry('/o', 'footprint')]).odometry == '/o'
    below = [*entries, odometry('/o', 'front_optical')]
    with pytest.raises(BagError, match=r"/o \(pose of 'front_optical' in 'odom'\)\. --odom-frame"):
        choose(tmp_path / '2', below)
    match = r"/o gives the pose of 'front_optical', which is neither base_frame 'base_link' nor"
    with pytest.raises(BagError, match=match):
        choose(tmp_path / '3', below, odometry_topic='/o')


def test_no_ego_pose(tmp_path: Path) -> None:
    match = (
        r"no path from odom_frame 'map' to base_frame 'base_link': the trees of TF are odom "
        r'\(back, .*no Odometry topic\. --odom-frame and --base-frame'
    )
    entries = drive(odometry=False)
    entries += [tf([('base_link', 'back')], '/tf_static', STAMP_NS - 10**8)]
    with pytest.raises(BagError, match=match):
        choose(tmp_path / '1', entries, odom_frame='map')
    entries = [*drive(tf=False), odometry('/other')]
    with pytest.raises(
        BagError, match=r"/odom \(pose of 'base_link' in 'odom'\), /other \(pose of"
    ):
        choose(tmp_path / '2', entries)
    with pytest.raises(BagError, match=r'has no topic /absent; Odometry and poses are on /odom'):
        choose(tmp_path / '3', drive(), odometry_topic='/absent')
    with pytest.raises(BagError, match=r'has tf2_msgs/msg/TFMessage on /tf; Odometry and poses'):
        choose(tmp_path / '4', drive(), odometry_topic='/tf')
    with pytest.raises(BagError, match=r"frame 'front_optical', which TF does not connect.*no fr"):
        entries = without(drive(tf=False), '/tf_static')
        choose(tmp_path / '5', entries, odom_frame='', every=KeyFrames(seconds=1))


def test_localisation_that_starts_late(tmp_path: Path) -> None:
    """Found although thousands of other transforms come first."""
    entries = drive(tf=False, odometry=False, cameras=('front',), lidar=False)
    start = entries[-1].time_ns
    wheels = tf([('base_link', 'wheel')], '/tf')
    entries += [replace(wheels, time_ns=start + n * 10**6) for n in range(8_000)]
    pose = tf([('odom', 'base_link')], '/tf')
    entries += [replace(pose, time_ns=start + n * 10**6) for n in range(7_000, 8_000)]
    assert choose(tmp_path, entries).odometry == ''


# -- lidars -------------------------------------------------------------------------------------


def test_lidars(tmp_path: Path) -> None:
    entries = drive()
    more = [*entries, *(replace(e, topic='/rear/points') for e in entries if 'lidar/' in e.topic)]
    with pytest.raises(ConfigError, match=r'topics /lidar/points, /rear/points; --lidar NAME=TOP'):
        choose(tmp_path / '1', more)
    assert choose(tmp_path / '2', more, max_sweeps=0).lidars == {}
    assert choose(tmp_path / '3', more, lidars={}).lidars == {}
    both = {'top': '/lidar/points', 'rear': '/rear/points'}
    assert choose(tmp_path / '4', more, lidars=both).lidars == both
    with pytest.raises(BagError, match=r"'top' on /tf; PointCloud2 topics are /lidar/points"):
        choose(tmp_path / '5', entries, lidars={'top': '/tf'})
    assert choose(tmp_path / '6', drive(lidar=False)).lidars == {}


def test_other_calibration_namespace(tmp_path: Path) -> None:
    """A camera that another one's namespace holds gets a longer name."""
    entries = drive(cameras=('front',), lidar=False)
    zoom = '/camera/front/zoom'
    info = messages.camera_info('zoom_optical', STAMP_NS, make_camera((64, 48)))
    entries += [
        Entry(STAMP_NS, f'{zoom}/camera_info', messages.CAMERA_INFO, info),
        raw(f'{zoom}/image_raw', 'front_optical'),
    ]
    rig = choose(tmp_path, entries)
    assert list(cameras(rig)) == ['front', 'front_zoom']


def test_real_recordings(shared_data: Path) -> None:
    """No cameras, or no transforms: each says what there is."""

    def problem(name: str, **values) -> str:
        with Recording(shared_data / name) as recording, pytest.raises(BagError) as caught:
            choose_topics(recording, ConvertConfig(**values))
        assert '\n' not in str(caught.value)
        return str(caught.value)

    without_motion = {'odom_frame': '', 'every': KeyFrames(seconds=1)}
    for name in ('bag_vehicle_odom_gnss_imu', 'bag_vehicle_odom_gnss_imu_mcap'):
        assert 'no camera found; the recording has no image topic' in problem(name)
    for name in ('aruco_images.bag', 'ros2_mcap', 'ros2_sqlite3'):
        text = problem(f'bag_raspicam_ros1/{name}', **without_motion)
        assert "camera 'raspicam_node'" in text and 'TF has no frames' in text
        assert "'odom' to base_frame" in problem(f'bag_raspicam_ros1/{name}')


def test_mount_poses_do_not_matter(tmp_path: Path) -> None:
    """Only names are looked at; a rotation that is none does not end the choice."""
    entries = drive(cameras=('front',))
    bad = messages.TYPESTORE.deserialize_cdr(
        messages.transforms(0, {('base_link', 'x'): look()}), messages.TF
    )
    bad.transforms[0].transform.rotation.w = 9.0
    data = bytes(messages.TYPESTORE.serialize_cdr(bad, messages.TF))
    entries.insert(0, Entry(entries[0].time_ns, '/tf_static', messages.TF, data, latched=True))
    assert list(cameras(choose(tmp_path, entries))) == ['front']


def test_odometry_in_another_frame_than_was_asked_for(tmp_path: Path) -> None:
    """The default takes it, a frame that was named does not: it may be a slip."""
    entries = drive(tf=False)
    with pytest.raises(BagError, match=r"odom_frame 'world'.*\(pose of 'base_link' in 'odom'\)"):
        choose(tmp_path / '1', entries, odom_frame='world')
    assert choose(tmp_path / '2', entries).odometry == '/odom'


def test_slips_in_names_of_cameras(tmp_path: Path) -> None:
    infos = {'frnt': '/camera/front/camera_info'}
    with pytest.raises(BagError, match="camera_info_topics names camera 'frnt'; there are"):
        choose(tmp_path / '1', drive(), camera_info_topics=infos)
    with pytest.raises(BagError, match="offsets_s names camera 'frnt'; there are"):
        choose(tmp_path / '2', drive(), offsets_s={'frnt': 0.01})
