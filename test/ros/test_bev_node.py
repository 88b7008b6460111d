"""The node as a process, over DDS: published values, not arrival, are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from nav_msgs.msg import OccupancyGrid  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402

from bev_perception.geometry import rigid  # noqa: E402
from bev_perception.messages import read_image  # noqa: E402
from bev_perception.model import checkpoint  # noqa: E402
from bev_perception.occupancy import to_cells  # noqa: E402
from bev_perception.predictor import Predictor  # noqa: E402
from bev_perception.views import CameraView, ViewSet  # noqa: E402

from .harness import (  # noqa: E402
    CLASSES,
    YAWS_DEG,
    NodeProcess,
    RigPublisher,
    base_T_cam,
    camera,
    drive,
    image_bytes,
    tiny_config,
)

S = 10**9
T0 = 1_700_000_000 * S
PERIOD = S // 10


@pytest.fixture(scope='module')
def running(
    weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NodeProcess, RigPublisher]]:
    """One node that several tests feed, each at times of its own."""
    log = tmp_path_factory.mktemp('node') / 'log'
    with NodeProcess(log, checkpoint=str(weights)) as node, RigPublisher() as rig:
        rig.wait_connected()
        rig.send_static()
        yield node, rig


def expected(
    weights: Path, images: dict[str, bytes], level: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, coverage and base_T_ego for simultaneous exposures, by the core alone."""
    pitch = np.radians(3)
    base_T_ego = np.eye(4)
    if level:  # undo the pitch of `drive`
        base_T_ego = rigid.from_quat_xyzw([0, -np.sin(pitch / 2), 0, np.cos(pitch / 2)], [0, 0, 0])

    views = tuple(
        CameraView(
            name=name,
            image=read_image(CompressedImage(format='jpeg', data=data), (320, 176)),
            camera=camera(),
            ego_T_cam=rigid.inverse(base_T_ego) @ base_T_cam(name),
            stamp_ns=T0,
        )
        for name, data in images.items()
    )
    predictor = Predictor(checkpoint.load(weights).model, device='cpu')
    result = predictor(ViewSet(stamp_ns=T0, views=views))
    return to_cells(result.classes, result.valid), result.valid, base_T_ego


def coverage(names: tuple[str, ...], base_T_ego: np.ndarray) -> np.ndarray:
    """Cells of which some voxel centre lies inside a camera's image: a loop over cameras."""
    grid = tiny_config().grid
    seen = np.zeros(grid.shape, bool)
    # The network's image is the top-cropped, halved one: 320x180 -> 160x90 -> rows 2..89.
    cropped = camera().resized((160, 90)).cropped(0, 2, 160, 88)
    for name in names:
        ego_T_cam = rigid.inverse(base_T_ego) @ base_T_cam(name)
        points = rigid.transform_points(
            rigid.inverse(ego_T_cam), grid.voxel_centers().reshape(-1, 3)
        )
        seen |= cropped.project(points)[1].reshape(grid.shape)
    return seen.any(0)


def close(cells: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal but for roundings of a probability half way between two percents."""
    difference = np.abs(cells.astype(int) - wanted.astype(int))
    return bool(difference.max() <= 2 and (difference > 0).mean() < 0.01)


def test_values_frame_stamp_and_coverage(running, weights: Path) -> None:
    _, rig = running
    start = T0 + 100 * S
    drive(rig, start)
    stamp = start + S
    rig.send_set(1, stamp)
    got = {
        name: rig.wait(lambda n=name: rig.grid_at(n, stamp), f'grid {name}')
        for name in (*CLASSES, 'combined')
    }
    cells, valid, base_T_ego = expected(weights, {n: image_bytes(n, 1) for n in YAWS_DEG})
    assert 0.5 < valid.mean() < 1
    np.testing.assert_array_equal(valid, coverage(tuple(YAWS_DEG), base_T_ego))
    grid = tiny_config().grid
    for i, name in enumerate(CLASSES):
        message = got[name]
        assert message.header.frame_id == 'base_link'
        assert message.info.resolution == pytest.approx(0.5)
        assert (message.info.height, message.info.width) == grid.shape[1:]
        data = np.array(message.data).reshape(grid.shape[1:])
        np.testing.assert_array_equal(data < 0, ~valid)
        assert close(data, cells[i]), name
    assert list(got['combined'].data) == list(got['vehicle'].data)  # the one obstacle class
    # The grid is level while the body is pitched, so its pose in base_link is tilted back.
    origin = got['vehicle'].info.origin
    corner = base_T_ego @ [-8, -10, 0, 1]
    assert (origin.position.x, origin.position.y, origin.position.z) == pytest.approx(corner[:3])
    quat = [getattr(origin.orientation, axis) for axis in 'xyzw']
    assert quat == pytest.approx(rigid.to_quat_xyzw(base_T_ego).tolist())


def test_motion_between_exposures_is_undone(running, weights: Path) -> None:
    """A camera exposed 50 ms early at 10 m/s sits half a metre behind."""
    _, rig = running
    start = T0 + 200 * S
    drive(rig, start)
    stamps = dict.fromkeys(YAWS_DEG, start + S)
    stamps['back'] -= 50_000_000
    for name, stamp in stamps.items():
        rig.send_info(name, stamp)
        rig.send_image(name, stamp, image_bytes(name, 1))
    message = rig.wait(lambda: rig.grid_at('vehicle', start + S), 'grid')
    data = np.array(message.data).reshape(tiny_config().grid.shape[1:])
    still, _, base_T_ego = expected(weights, {n: image_bytes(n, 1) for n in YAWS_DEG})
    grid = tiny_config().grid
    moved = base_T_cam('back')
    moved[0, 3] -= 0.5 * np.cos(np.radians(3))  # odom's x axis in the pitched body frame
    moved[2, 3] -= 0.5 * np.sin(np.radians(3))
    seen = coverage(('front', 'left', 'right'), base_T_ego)
    cropped = camera().resized((160, 90)).cropped(0, 2, 160, 88)
    points = rigid.transform_points(
        rigid.inverse(rigid.inverse(base_T_ego) @ moved), grid.voxel_centers().reshape(-1, 3)
    )
    seen |= cropped.project(points)[1].reshape(grid.shape).any(0)
    np.testing.assert_array_equal(data >= 0, seen)
    assert not np.array_equal(data >= 0, still[0] >= 0)


def test_dead_camera_shrinks_coverage_and_is_named(running, weights: Path) -> None:
    _, rig = running
    start = T0 + 300 * S
    drive(rig, start, seconds=9)  # the node keeps ten
    names = ('front', 'back', 'right')
    step = 0

    def partial() -> OccupancyGrid | None:
        nonlocal step
        step += 1
        rig.send_set(step, start + S + step * PERIOD, without=('left',))
        grids = rig.grids.get('vehicle', [])
        return grids[-1] if grids and grids[-1].header.stamp.sec >= start // S else None

    message = rig.wait(partial, 'partial set')
    data = np.array(message.data).reshape(tiny_config().grid.shape[1:])
    _, _, base_T_ego = expected(weights, {n: image_bytes(n, 1) for n in names})
    np.testing.assert_array_equal(data >= 0, coverage(names, base_T_ego))
    topic = '/camera/left/image_raw/compressed'
    rig.wait(
        lambda: partial() and topic in rig.status().message and rig.status().level == b'\x01',
        'warning that names the topic',
    )


def test_broken_jpeg_costs_one_camera(running) -> None:
    node, rig = running
    start = T0 + 400 * S
    drive(rig, start)
    stamp = start + S
    for name in YAWS_DEG:
        data = image_bytes(name, 5)
        rig.send_info(name, stamp)
        rig.send_image(name, stamp, data[: len(data) // 2] if name == 'right' else data)
    rig.wait(lambda: rig.grid_at('vehicle', stamp), 'grid of the other three')
    topic = '/camera/right/image_raw/compressed'
    rig.wait(lambda: any(topic in k for k in rig.values(': errors')), 'error that names the topic')
    assert topic in node.text()


@pytest.mark.parametrize(
    ('what', 'text'),
    [
        ('uncalibrated', 'K[0,0] is 0'),
        ('frame', "frame 'nowhere' is not in TF; known frames: base_link, camera_back"),
        ('stamp', 'stamp'),
    ],
)
def test_bad_input_is_named_and_survived(running, what: str, text: str) -> None:
    node, rig = running
    start = T0 + (500 + 10 * len(what)) * S
    drive(rig, start)
    stamp = start + S
    if what == 'uncalibrated':
        rig.send_info('front', stamp, k=np.zeros(9))
    elif what == 'stamp':
        rig.send_image('front', 0, image_bytes('front', 1))
    else:
        for name in YAWS_DEG:
            rig.send_info(name, stamp)
            rig.send_image(name, stamp, image_bytes(name, 1), frame='nowhere')
    rig.wait(lambda: any(text in v for v in rig.values(': errors').values()), text)
    assert node.process.poll() is None
    rig.send_set(1, stamp + S)
    rig.wait(lambda: rig.grid_at('vehicle', stamp + S), 'grid after the bad input')


def test_looping_bag(running) -> None:
    """Stamps that start over give grids again, the first set included."""
    _, rig = running
    for start in (T0 + 60 * S, T0 + 50 * S):  # earlier than every other test
        drive(rig, start)
        rig.send_set(1, start + S)
        rig.wait(lambda at=start + S: rig.grid_at('vehicle', at), 'grid after the jump')


def test_pictures(running) -> None:
    _, rig = running
    rig.subscribe_image('bev_image')
    start = T0 + 700 * S
    drive(rig, start)

    def send() -> bool:
        send.step += 1
        rig.send_set(send.step, start + send.step * PERIOD)
        return bool(rig.images.get('bev_image'))

    send.step = 0
    rig.wait(send, 'bev_image')
    picture = rig.images['bev_image'][0]
    _, rows, columns = tiny_config().grid.shape
    assert (picture.width, picture.height, picture.encoding) == (rows, columns, 'rgb8')
