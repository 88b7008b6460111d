"""Reading bags: what comes out, and one clear line for what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bev_perception.errors import BagError
from bev_perception.messages import read_camera, read_image
from bev_training.data.bag_reader import read_messages
from bev_training.synthetic.drive import write_drive
from bev_training.synthetic.settings import DriveConfig


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drive = tmp_path_factory.mktemp('drive') / 'drive'
    write_drive(drive, DriveConfig(seconds=0.25, size_px=(320, 180)), workers=1)
    return drive / 'bag'


def test_chosen_topics_in_order(bag: Path) -> None:
    topics = ['/camera/front/image_raw/compressed', '/camera/front/camera_info']
    found = list(read_messages(bag, topics))
    assert {topic for topic, _, _ in found} == set(topics)
    times = [time for _, time, _ in found]
    assert times == sorted(times)
    images = [message for topic, _, message in found if topic == topics[0]]
    assert read_image(images[0]).shape == (180, 320, 3)
    infos = [message for topic, _, message in found if topic == topics[1]]
    assert read_camera(infos[0], name='front', rectified=False).size_px == (320, 180)


def test_all_topics(bag: Path) -> None:
    assert '/tf_static' in {topic for topic, _, _ in read_messages(bag)}


def test_what_cannot_be_read(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(BagError, match='nowhere does not exist'):
        list(read_messages(tmp_path / 'nowhere'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BagError, match='empty'):
        list(read_messages(tmp_path / 'empty'))
    with pytest.raises(BagError, match='has no topic /absent; it has'):
        list(read_messages(bag, ['/absent']))


def test_real_recordings(shared_data: Path) -> None:
    """The same image out of ROS 1, rosbag2 mcap and rosbag2 sqlite3."""
    folder = shared_data / 'bag_raspicam_ros1'
    images = []
    for name in ('aruco_images.bag', 'ros2_mcap', 'ros2_sqlite3'):
        for _, _, message in read_messages(folder / name):
            if hasattr(message, 'format'):
                images.append(read_image(message))
    assert len(images) == 3
    assert all((image == images[0]).all() for image in images)
