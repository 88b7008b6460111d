"""The rig synchroniser as a message_filters filter, and the node's account of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
message_filters = pytest.importorskip('message_filters', reason='message_filters is missing')

from builtin_interfaces.msg import Time  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from bev_perception.errors import BevError  # noqa: E402
from bev_perception.ros.camera_input import RigSynchronizer  # noqa: E402
from bev_perception.ros.diagnostics import Health, Setup  # noqa: E402
from bev_perception.sync import SyncConfig  # noqa: E402

NAMES = ('left', 'right')
T0 = 1_700_000_000 * 10**9
PERIOD = 10**8


def header(stamp_ns: int, frame: str = 'cam') -> Header:
    sec, nanosec = divmod(stamp_ns, 10**9)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame)


def info(stamp_ns: int, focal: float = 100.0) -> CameraInfo:
    K = [focal, 0.0, 31.5, 0.0, focal, 17.5, 0.0, 0.0, 1.0]
    return CameraInfo(header=header(stamp_ns), width=64, height=36, k=K)


class Rig:
    """A synchroniser fed by hand."""

    def __init__(self, **settings: Any) -> None:
        self.filters = {
            name: (message_filters.SimpleFilter(), message_filters.SimpleFilter())
            for name in NAMES
        }
        self.errors: list[tuple[str, BevError]] = []
        self.images: list[str] = []
        self.sets: list[Any] = []
        self.changed: list[str] = []
        self.synchronizer = RigSynchronizer(
            self.filters,
            SyncConfig(cameras=NAMES, **settings),
            rectified=False,
            topics={name: (f'/{name}/image', f'/{name}/info') for name in NAMES},
            on_error=lambda topic, error: self.errors.append((topic, error)),
            on_image=self.images.append,
            on_calibration=lambda name, history: self.changed.append(name),
        )
        self.synchronizer.registerCallback(self.sets.append)

    def image(self, name: str, stamp_ns: int) -> CompressedImage:
        message = CompressedImage(header=header(stamp_ns))
        self.filters[name][0].signalMessage(message)
        return message


def test_images_make_sets_without_waiting_for_camera_info() -> None:
    rig = Rig()
    sent = {name: rig.image(name, T0) for name in NAMES}
    (synced,) = rig.sets
    assert synced.stamp_ns == T0 and synced.complete
    for name in NAMES:
        stamp, arrival = synced.items[name]
        assert stamp == T0
        assert arrival.message is sent[name]
        assert arrival.arrived_ns > 0
    assert rig.images == list(NAMES)


def test_camera_info_feeds_the_history() -> None:
    rig = Rig()
    for step in range(3):
        rig.filters['left'][1].signalMessage(info(T0 + step * PERIOD))
    rig.filters['left'][1].signalMessage(info(T0 + 3 * PERIOD, focal=120.0))
    assert rig.changed == ['left', 'left']  # the first one, and the change
    history = rig.synchronizer.cameras['left']
    assert history.at(T0 + 2 * PERIOD).K[0, 0] == 100
    assert history.at(T0 + 9 * PERIOD).K[0, 0] == 120


def test_what_is_wrong_is_reported_with_its_topic() -> None:
    rig = Rig()
    rig.image('left', 0)
    rig.filters['right'][1].signalMessage(info(T0, focal=0.0))
    (image_topic, image_error), (info_topic, info_error) = rig.errors
    assert image_topic == '/left/image' and 'left' in str(image_error)
    assert info_topic == '/right/info' and 'K[0,0] is 0' in str(info_error)


SETUP = Setup(topics={name: f'/{name}/image' for name in NAMES}, facts={'device': 'cpu'})


class FakeClock:
    """Time that only the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def judge(health: Health) -> tuple[bytes, str]:
    status = health.report('bev_node', Time(), SETUP, None).status[0]
    return status.level, status.message


def test_diagnostics_say_what_to_do(clock: FakeClock) -> None:
    health = Health(clock)
    assert judge(health) == (b'\x01', 'unconfigured')
    health.set_state('unconfigured', 'no weights: /x does not exist')
    assert judge(health) == (b'\x02', 'unconfigured: no weights: /x does not exist')
    health.set_state('inactive')
    assert judge(health) == (b'\x01', 'inactive')
    health.set_state('active')
    assert judge(health) == (b'\x01', 'active, no grid yet')
    clock.now += 4
    assert judge(health) == (b'\x02', 'no images on /left/image, /right/image')
    health.count('images_left')
    health.error('set', "frame 'odom' is not in TF")
    assert judge(health) == (b'\x02', "nothing published; set: frame 'odom' is not in TF")
    clock.now += 2
    health.count('images_left')
    health.count('grids_published', 5)
    assert judge(health) == (b'\x01', '2.5 Hz; no images on /right/image')
    for name in NAMES:
        health.count(f'images_{name}')
    clock.now += 1
    health.count('grids_published', 4)
    assert judge(health) == (b'\x00', '4.0 Hz')
    clock.now += 1
    health.count('grids_published')
    health.missing(('right',))
    assert judge(health) == (b'\x01', '1.0 Hz; last set lacked right')
    health.missing(())
    for name in NAMES:
        health.count(f'images_{name}')
    clock.now += 2  # one slow run of the network is no fault
    assert judge(health)[0] == b'\x00'
    for name in NAMES:
        health.count(f'images_{name}')
    clock.now += 2
    assert judge(health) == (b'\x02', 'nothing published; no set of enough cameras for 3 s')


def test_diagnostics_recover(clock: FakeClock) -> None:
    health = Health(clock)
    health.set_state('active')
    health.error('/left/image', 'truncated')
    assert [s.level for s in health.report('n', Time(), SETUP, None).status] == [b'\x02', b'\x01']
    for name in NAMES:
        health.count(f'images_{name}')
    health.count('grids_published')
    clock.now += 1
    first, errors = health.report('n', Time(), SETUP, None).status
    assert (first.level, errors.level) == (b'\x00', b'\x00')
    assert errors.message == '1 messages or sets could not be used, 0 of them just now'


def test_diagnostics_count_and_time(clock: FakeClock) -> None:
    health = Health(clock)
    health.count('sets_in', 3)
    for seconds in np.linspace(0.01, 0.02, 101):
        health.took('infer', float(seconds))
    health.error('/left/image', 'truncated')
    health.error('/left/image', 'truncated again')
    report = health.report('bev_node', Time(sec=7), SETUP, None)
    assert report.header.stamp.sec == 7
    first, errors = report.status
    values = {kv.key: kv.value for kv in first.values}
    assert values['sets_in'] == '3' and values['device'] == 'cpu'
    assert (values['infer_ms p50'], values['infer_ms p95']) == ('15.0', '19.5')
    assert [(kv.key, kv.value) for kv in errors.values] == [('/left/image (2)', 'truncated again')]
    assert errors.level == b'\x01'


def test_sync_counts_reach_diagnostics() -> None:
    rig = Rig()
    for name in NAMES:
        rig.image(name, T0)
    stats = rig.synchronizer.sync.stats()
    report = Health().report('bev_node', Time(), SETUP, stats)
    status = SimpleNamespace(**{s.name.split(': ')[-1]: s for s in report.status}).sync
    values = {kv.key: kv.value for kv in status.values}
    assert values['complete'] == '1' and values['partial'] == '0'
    assert status.message == '1 complete, 0 partial sets'
