"""A bag sent to the node over DDS and the same bag converted: equal view sets, bit for bit."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402

from bev_perception.preprocess import decode_size_px  # noqa: E402
from bev_perception.ros import bev_node, worker  # noqa: E402
from bev_perception.ros.bag_topics import message_type  # noqa: E402
from bev_perception.ros.params import BevNodeParams  # noqa: E402
from bev_perception.views import ViewSet  # noqa: E402
from bev_training.data.bag_inputs import BagSource  # noqa: E402
from bev_training.data.convert import convert_bag  # noqa: E402
from bev_training.data.drives import Drive  # noqa: E402
from bev_training.data.settings import ConvertConfig, KeyFrames  # noqa: E402
from test.data.small_bag import CAMERAS, Entry, SmallDrive, write_entries  # noqa: E402

from .harness import TIMEOUT_S, tiny_config  # noqa: E402

RELIABLE = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
USED = ('/camera/', '/tf')


def send(entries: list[Entry]) -> None:
    """Publish recorded bytes in order and at their pace."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('recording', context=context)
    publishers = {}
    for entry in entries:
        if entry.topic not in publishers:
            profile = LATCHED if entry.latched else RELIABLE
            publishers[entry.topic] = node.create_publisher(
                message_type(entry.type), entry.topic, profile
            )
    deadline = time.monotonic() + TIMEOUT_S
    while any(not p.get_subscription_count() for p in publishers.values()):
        assert time.monotonic() < deadline, 'the node did not subscribe'
        time.sleep(0.05)
    time.sleep(1.0)  # our half of the match is not the node's
    began, first_ns = time.monotonic(), entries[0].time_ns
    for entry in entries:
        wait_s = (entry.time_ns - first_ns) / 1e9 - (time.monotonic() - began)
        time.sleep(max(wait_s, 0.0))
        publishers[entry.topic].publish(entry.data)
    time.sleep(1.0)
    node.destroy_node()
    rclpy.shutdown(context=context)


def seen_by_the_node(
    weights: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch, *, raw: bool
) -> dict[int, ViewSet]:
    """View sets that the node builds, by stamp."""
    seen: dict[int, ViewSet] = {}
    prepare = worker.prepare

    def record(view_set, config):
        seen[view_set.stamp_ns] = view_set
        return prepare(view_set, config)

    monkeypatch.setattr(worker, 'prepare', record)
    context = rclpy.Context()
    rclpy.init(context=context)
    given = {
        'cameras': list(CAMERAS),
        'checkpoint': str(weights),
        'device': 'cpu',
        'image_transport': 'raw' if raw else 'compressed',
        'sync.min_cameras': 3,
    }
    node = bev_node.BevNode(
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        send(entries)
    finally:
        executor.shutdown()
        thread.join()
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)
        del executor, node
        gc.collect()  # a node refers to itself; its participant would stay for later tests to meet
    return seen


@pytest.mark.parametrize('raw', [False, True], ids=['jpeg', 'raw'])
def test_node_and_data_set_hold_the_same_view_sets(weights, tmp_path, monkeypatch, raw):
    drive = SmallDrive(raw=raw, seconds=1.5, hz=5.0, size_px=(640, 352))
    entries = [entry for entry in drive.entries() if entry.topic.startswith(USED)]
    bag = write_entries(tmp_path / 'bag', entries)
    live = seen_by_the_node(weights, entries, monkeypatch, raw=raw)
    config = ConvertConfig(cameras=CAMERAS, every=KeyFrames(), min_cameras=3)
    convert_bag(BagSource(name='bag', path=bag), tmp_path / 'out', config)
    stored = Drive(tmp_path / 'out')

    assert len(stored) >= 7
    first = stored.view_set(0, at_least_px=decode_size_px(tiny_config()))
    assert first.stamp_ns in live
    assert len(live) >= 4
    for i in range(len(stored)):
        ours = stored.view_set(i, at_least_px=decode_size_px(tiny_config()))
        if ours.stamp_ns in live:
            assert_equal(ours, live[ours.stamp_ns])


def assert_equal(ours: ViewSet, theirs: ViewSet) -> None:
    assert [v.name for v in ours.views] == [v.name for v in theirs.views] == list(CAMERAS)
    assert ours.missing == theirs.missing == ()
    np.testing.assert_array_equal(ours.base_T_ego, theirs.base_T_ego)
    assert ours.odom_T_ego is not None
    np.testing.assert_array_equal(ours.odom_T_ego, theirs.odom_T_ego)
    for one, other in zip(ours.views, theirs.views, strict=True):
        assert one.stamp_ns == other.stamp_ns
        assert one.camera == other.camera
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.ego_T_cam, other.ego_T_cam)


def test_defaults_of_node_and_converter_are_the_same():
    node, ours = BevNodeParams(), ConvertConfig()
    for name in ('max_spread_s', 'timeout_s', 'min_cameras', 'anchor'):
        assert getattr(ours, name) == getattr(node, f'sync_{name}'), name
    for name in ('base_frame', 'odom_frame', 'image_geometry'):
        assert getattr(ours, name) == getattr(node, name), name
