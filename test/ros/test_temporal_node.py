"""A network that remembers, in the node and over DDS: what it says is what the core says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from sensor_msgs.msg import CompressedImage  # noqa: E402

from bev_perception.geometry import rigid  # noqa: E402
from bev_perception.messages import read_image  # noqa: E402
from bev_perception.model import checkpoint  # noqa: E402
from bev_perception.model.config import AttentionConfig  # noqa: E402
from bev_perception.occupancy import to_cells  # noqa: E402
from bev_perception.predictor import Predictor  # noqa: E402
from bev_perception.views import CameraView, ViewSet  # noqa: E402
from test.factories import make_model  # noqa: E402

from .harness import (  # noqa: E402
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
PERIOD = S // 5


@pytest.fixture(scope='module')
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that hold what was seen before to be as important as what is seen."""
    attention = AttentionConfig(layers=1, heads=2, points=2, hidden=16, temporal=True)
    model = make_model(replace(tiny_config(), network='bevformer', attention=attention))
    path = tmp_path_factory.mktemp('weights') / 'temporal.safetensors'
    checkpoint.save(path, model, {'trained_on': 'nothing (a test)'})
    return path


@pytest.fixture(scope='module')
def running(
    temporal: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NodeProcess, RigPublisher]]:
    log = tmp_path_factory.mktemp('node') / 'log'
    with NodeProcess(log, checkpoint=str(temporal)) as node, RigPublisher() as rig:
        rig.wait_connected()
        rig.send_static()
        yield node, rig


def cells_of(weights: Path, steps: list[int]) -> np.ndarray:
    """Vehicle cells at the last of several sets, which the core alone sees one after the other."""
    pitch = np.radians(3)  # of `drive`, which goes along x
    base_T_ego = rigid.from_quat_xyzw([0, -np.sin(pitch / 2), 0, np.cos(pitch / 2)], [0, 0, 0])
    predictor, memory = Predictor(checkpoint.load(weights).model, device='cpu'), None
    for step in steps:
        seconds = 1 + step * PERIOD / S
        views = tuple(
            CameraView(
                name=name,
                image=read_image(
                    CompressedImage(format='jpeg', data=image_bytes(name, step)), (320, 176)
                ),
                camera=camera(),
                ego_T_cam=rigid.inverse(base_T_ego) @ base_T_cam(name),
                stamp_ns=T0,
            )
            for name in YAWS_DEG
        )
        odom_T_ego = rigid.from_quat_xyzw([0, 0, 0, 1], [10 * seconds, 0, 0])
        said = predictor(ViewSet(stamp_ns=T0, views=views, odom_T_ego=odom_T_ego), memory)
        memory = said.memory
    return to_cells(said.classes, said.valid)[1]


def published(rig: RigPublisher, start_ns: int, step: int) -> np.ndarray:
    """Send a set and return the vehicle cells that the node makes of it."""
    stamp = start_ns + S + step * PERIOD
    rig.send_set(step, stamp)
    message = rig.wait(lambda: rig.grid_at('vehicle', stamp), f'grid of set {step}')
    return np.array(message.data).reshape(tiny_config().grid.shape[1:])


def send_images(rig: RigPublisher, stamp_ns: int, step: int) -> None:
    """Send a set without CameraInfo."""
    for name in YAWS_DEG:
        rig.send_image(name, stamp_ns, image_bytes(name, step))


def close(cells: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal but for roundings of a probability half way between two percents."""
    difference = np.abs(cells.astype(int) - wanted.astype(int))
    return bool(difference.max() <= 2 and (difference > 0).mean() < 0.02)


def test_the_node_remembers_and_forgets_as_the_core_does(running, temporal: Path) -> None:
    _, rig = running
    start = T0 + 100 * S
    drive(rig, start)
    steps = [0, 1, 2]
    found = [published(rig, start, step) for step in steps]
    for last in steps:
        assert close(found[last], cells_of(temporal, steps[: last + 1])), last
    assert not close(found[2], cells_of(temporal, [2]))  # it does matter
    rig.wait(lambda: rig.values().get('memory_used') == '2', 'memory in diagnostics')

    # 2.6 s later nothing of it holds any more
    drive(rig, start + 4 * S)
    assert close(published(rig, start + 3 * S, 2), cells_of(temporal, [2]))
    rig.wait(lambda: rig.values().get('memory_reset: gap') == '1', 'reset in diagnostics')

    # a bag that starts over: the clock goes back
    start = T0 + 50 * S
    drive(rig, start)
    rig.wait(lambda: rig.values().get('tf_clock_jumps') == '1', 'poses of the new clock')
    assert close(published(rig, start, 0), cells_of(temporal, [0]))
    assert close(published(rig, start, 1), cells_of(temporal, [0, 1]))
    values = rig.wait(
        lambda: rig.values().get('memory_used') == '3' and rig.values(), 'second memory'
    )
    assert values['memory_reset: clock_jump'] == '1'
    assert values['memory_reset: no_pose'] == values['memory_reset: odometry_jump'] == '0'

    # a camera that is calibrated anew
    stamp = start + S + 6 * PERIOD
    K = camera().K.copy()
    K[0, 0] += 0.5
    rig.send_info('front', stamp, k=K.flatten())
    rig.wait(lambda: rig.values().get('calibration_epochs') == '5', 'new calibration')
    send_images(rig, stamp, 2)
    rig.wait(lambda: rig.values().get('memory_reset: calibration') == '1', 'reset')

    send_images(rig, start + 29 * S // 10, 0)
    rig.wait(lambda: rig.values().get('memory_used') == '4', 'memory of the new calibration')

    # once more from the start: the same change at the same stamp, of which CameraInfo is known
    drive(rig, start)
    send_images(rig, start + S + PERIOD, 1)
    rig.wait(lambda: rig.values().get('memory_reset: clock_jump') == '2', 'second jump')
    send_images(rig, stamp, 2)
    rig.wait(lambda: rig.values().get('memory_reset: calibration') == '2', 'second reset')
    values = rig.values()
    assert (values['calibration_epochs'], values['memory_used']) == ('5', '4')


def test_without_an_odometry_frame_it_does_not_start(temporal: Path, tmp_path: Path) -> None:
    with NodeProcess(tmp_path / 'log', checkpoint=str(temporal), odom_frame='""') as node:
        with RigPublisher() as rig:
            rig.wait(
                lambda: rig.status() and 'odom_frame is empty, but' in rig.status().message,
                'refusal in diagnostics',
            )
        said = [line for line in node.text().splitlines() if 'odom_frame' in line]
        assert len(said) == 1 and 'cannot configure: odom_frame is empty' in said[0]
        assert str(temporal) in said[0] and 'Traceback' not in node.text()
