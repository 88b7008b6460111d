"""The launch files and their parameter files.

What can be checked without `launch` is checked everywhere. The launch tests start the installed
package (colcon build, setup.bash sourced) and compare the values of the published grids.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import unittest
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='rclpy is not installed')

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from bev_perception.geometry import rigid
from bev_perception.model import checkpoint
from bev_perception.resources import SHIPPED_WEIGHTS, weights_path
from bev_perception.ros.bag_player import parse_play_options
from bev_perception.ros.params import BevNodeParams, ros_name

from .harness import (
    CLASSES,
    SIZE_PX,
    YAWS_DEG,
    RigPublisher,
    base_T_cam,
    camera,
    header,
    image_bytes,
    tiny_checkpoint,
    transform,
)
from .test_bev_node import close, drive, expected

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = ('bev.launch.py', 'replay.launch.py')
S = 10**9
START = 1_700_000_000 * S
PACKAGES = ('launch_ros', 'launch_testing', 'ros2launch')


def missing() -> str:
    """Why the launch tests cannot run here; empty if they can."""
    # Not `launch` itself: the folder of that name in the checkout can be imported.
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            return f'{name} is not installed (it comes with a ROS distribution, not from PyPI)'
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        if (Path(prefix) / 'lib' / 'bev_perception' / 'bev_node').is_file():
            return ''
    return 'bev_perception is not installed: colcon build, then source install/setup.bash'


launched = pytest.mark.skipif(bool(missing()), reason=missing() or 'runs')


# Everywhere --------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', LAUNCH_FILES)
def test_launch_file_compiles(name: str) -> None:
    tree = ast.parse((ROOT / 'launch' / name).read_text())
    compile(tree, name, 'exec')
    assert 'generate_launch_description' in {getattr(node, 'name', '') for node in tree.body}


def strings(name: str) -> set[str]:
    """Every text in a launch file."""
    nodes = ast.walk(ast.parse((ROOT / 'launch' / name).read_text()))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_replay_gives_the_player_options_that_it_has() -> None:
    options = {text for text in strings('replay.launch.py') if re.fullmatch(r'--[a-z-]+', text)}
    assert options == {'--rate', '--start-offset', '--clock', '--wait-for-subscribers', '--loop'}
    words = [w for o in sorted(options) for w in ([o] if o == '--loop' else [o, '1'])]
    assert parse_play_options(['drive', *words]).times == 0


def flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Parameters of a file by their full names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        found |= flat(value, f'{name}.') if isinstance(value, dict) else {name: value}
    return found


def parameters(name: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / 'config' / name).read_text())
    assert list(document) == ['/**']
    return flat(document['/**']['ros__parameters'])


def test_bev_node_yaml_holds_every_parameter_with_its_default() -> None:
    defaults = {ros_name(f.name): f.default for f in dataclasses.fields(BevNodeParams)}
    # A file cannot hold an empty list (ROS reads no value), so those are there as comments.
    written = {name: value for name, value in defaults.items() if value != ()}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in written.items()}
    assert parameters('bev_node.yaml') == plain
    text = (ROOT / 'config' / 'bev_node.yaml').read_text()
    for name in defaults.keys() - written.keys():
        assert re.search(rf'^ +# {name.split(".")[-1]}: \[', text, re.MULTILINE), name


def test_nuscenes_yaml_gives_the_topics_of_the_converters() -> None:
    values = {k.replace('.', '_'): v for k, v in parameters('nuscenes.yaml').items()}
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    read = BevNodeParams(**lists)
    assert read.topics('CAM_BACK') == ('/CAM_BACK/image_rect_compressed', '/CAM_BACK/camera_info')
    offsets = dict(zip(read.cameras, read.sync_offsets_s, strict=True))
    assert sorted(offsets, key=offsets.__getitem__) == [
        'CAM_FRONT_LEFT',
        'CAM_FRONT',
        'CAM_FRONT_RIGHT',
        'CAM_BACK_RIGHT',
        'CAM_BACK',
        'CAM_BACK_LEFT',
    ]


def test_rviz_shows_topics_that_the_node_publishes() -> None:
    document = yaml.safe_load((ROOT / 'config' / 'bev.rviz').read_text())
    displays = document['Visualization Manager']['Displays']
    shown = {d['Topic']['Value']: d['Class'] for d in displays if 'Topic' in d}
    classes = checkpoint.load(weights_path(SHIPPED_WEIGHTS)).model.config.classes
    grids = {f'bev_node/grid/{name}' for name in (*classes, 'combined')}
    pictures = {'bev_node/bev_image', 'bev_node/ground_mosaic'}
    assert shown == dict.fromkeys(grids, 'rviz_default_plugins/Map') | dict.fromkeys(
        pictures, 'rviz_default_plugins/Image'
    )
    assert document['Visualization Manager']['Global Options']['Fixed Frame'] == 'base_link'


# With launch -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    """Parameters under the node's own name, where they would beat a plain `-p`."""
    path = tmp_path / 'params.yaml'
    values = {'cameras': list(YAWS_DEG), 'device': 'cpu', 'autostart': True, 'checkpoint': 'none'}
    path.write_text(yaml.safe_dump({'bev_node': {'ros__parameters': values}}))
    return path


def check_grids(rig: RigPublisher, weights: Path, stamp_ns: int, step: int) -> None:
    """The grids of a set are those that the core alone computes."""
    got = {
        name: rig.wait(lambda n=name: rig.grid_at(n, stamp_ns), f'grid {name}') for name in CLASSES
    }
    cells, valid, _ = expected(weights, {name: image_bytes(name, step) for name in YAWS_DEG})
    for i, name in enumerate(CLASSES):
        data = np.array(got[name].data).reshape(valid.shape)
        np.testing.assert_array_equal(data < 0, ~valid)
        assert close(data, cells[i]), name


def launch_test(weights: Path, params_file: Path) -> SimpleNamespace:
    """A launch_testing module: what to start, what to test while it runs and after it."""
    import launch_testing
    from launch import LaunchDescription
    from launch.actions import IncludeLaunchDescription
    from launch_testing.actions import ReadyToTest
    from launch_testing.asserts import assertExitCodes

    def generate_test_description() -> LaunchDescription:
        node = IncludeLaunchDescription(
            str(ROOT / 'launch' / 'bev.launch.py'),
            launch_arguments={'params_file': str(params_file), 'checkpoint': str(weights)}.items(),
        )
        return LaunchDescription([node, ReadyToTest()])

    class WhileRunning(unittest.TestCase):
        def test_values(self) -> None:
            with RigPublisher() as rig:
                rig.wait_connected()
                rig.send_static()
                drive(rig, START)
                rig.send_set(1, START + S)
                check_grids(rig, weights, START + S, 1)

    @launch_testing.post_shutdown_test()
    class Afterwards(unittest.TestCase):
        def test_exit_codes(self, proc_info: Any) -> None:
            assertExitCodes(proc_info)

    return SimpleNamespace(
        __name__='bev_launch',
        generate_test_description=generate_test_description,
        WhileRunning=WhileRunning,
        Afterwards=Afterwards,
    )


@launched
def test_bev_launch(weights: Path, params_file: Path) -> None:
    from launch_testing.loader import LoadTestsFromPythonModule
    from launch_testing_ros.test_runner import LaunchTestRunner

    runs = LoadTestsFromPythonModule(launch_test(weights, params_file))
    ((_, result),) = LaunchTestRunner(runs).run().items()
    assert result.testsRun == 2
    assert result.wasSuccessful(), [text for _, text in result.failures + result.errors]


class Launch:
    """`ros2 launch` as users start it."""

    def __init__(self, log: Path, name: str, **arguments: object) -> None:
        ros2 = shutil.which('ros2')
        assert ros2, 'ros2 is not on PATH'
        self.log = log
        with log.open('wb') as file:
            self.process = subprocess.Popen(
                [ros2, 'launch', 'bev_perception', name]
                + [f'{key}:={value}' for key, value in arguments.items()],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def exit_code(self) -> int:
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            pytest.fail(f'still running:\n{self.text()}')


def drive_messages() -> Iterator[tuple[str, int, Any]]:
    """The drive of the test rig as (topic, time, message): 1.5 s, nose down by 3 degrees."""
    mounts = [
        transform('base_link', f'camera_{n}_optical_frame', 0, base_T_cam(n)) for n in YAWS_DEG
    ]
    yield '/tf_static', START, TFMessage(transforms=mounts)
    half = np.radians(3) / 2
    for i in range(31):
        t = START + i * S // 20
        pose = rigid.from_quat_xyzw([0, np.sin(half), 0, np.cos(half)], [0.5 * i, 0, 0])
        yield '/tf', t, TFMessage(transforms=[transform('odom', 'base_link', t, pose)])
        if i % 4 or not 0 < i < 28:
            continue
        for name in YAWS_DEG:
            stamped = header(f'camera_{name}_optical_frame', t)
            K = camera().K.flatten()
            info = CameraInfo(header=stamped, width=SIZE_PX[0], height=SIZE_PX[1], k=K)
            yield f'/camera/{name}/camera_info', t, info
            image = CompressedImage(header=stamped, format='jpeg', data=image_bytes(name, i))
            yield f'/camera/{name}/image_raw/compressed', t, image


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bag') / 'drive'
    store = get_typestore(Stores.ROS2_KILTED)
    connections = {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, time_ns, message in drive_messages():
            if topic not in connections:
                kind = type(message)
                name = f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'
                connections[topic] = writer.add_connection(topic, name, typestore=store)
            writer.write(connections[topic], time_ns, serialize_message(message))
    return path


@launched
def test_replay_launch(weights: Path, params_file: Path, bag: Path, tmp_path: Path) -> None:
    arguments = {'bag': bag, 'checkpoint': weights, 'params_file': params_file}
    log = tmp_path / 'log'
    with RigPublisher() as rig, Launch(log, 'replay.launch.py', **arguments) as launch:
        for i in (8, 16, 24):
            check_grids(rig, weights, START + i * S // 20, i)
        assert launch.exit_code() == 0, launch.text()
        assert 'played' in launch.text()


@launched
def test_replay_ends_with_the_reason_when_the_node_cannot_start(
    params_file: Path, bag: Path, tmp_path: Path
) -> None:
    arguments = {'bag': bag, 'params_file': params_file, 'checkpoint': tmp_path / 'none'}
    with Launch(tmp_path / 'log', 'replay.launch.py', **arguments) as launch:
        assert launch.exit_code() == 1
    assert 'cannot configure' in launch.text()
    assert 'bag_player' not in launch.text()


@launched
def test_ctrl_c_ends_everything_cleanly(weights: Path, params_file: Path, tmp_path: Path) -> None:
    arguments = {'checkpoint': weights, 'params_file': params_file}
    log = tmp_path / 'log'
    with RigPublisher() as rig, Launch(log, 'bev.launch.py', **arguments) as launch:
        rig.wait_connected()
        # A terminal sends it to launch and to the node; launch passes it on once more.
        os.killpg(launch.process.pid, signal.SIGINT)
        assert launch.exit_code() == 0, launch.text()
        assert 'process has finished cleanly' in launch.text()
