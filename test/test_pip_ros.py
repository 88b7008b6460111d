"""The stand-ins for message_filters and cv_bridge, over real messages and a real subscription."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip('rclpy')

STAND_INS = Path(__file__).resolve().parents[1] / 'pip_ros' / 'python'


def load(name: str) -> ModuleType:
    """The stand-in itself, also where a real package of that name is importable."""
    spec = importlib.util.spec_from_file_location(f'stand_in_{name}', STAND_INS / f'{name}.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


message_filters = load('message_filters')
cv_bridge = load('cv_bridge')
bridge = cv_bridge.CvBridge()

COLORS = {
    'mono8': np.full((2, 3), 40, np.uint8),
    'bgr8': np.tile(np.array([10, 20, 30], np.uint8), (2, 3, 1)),
    'rgb8': np.tile(np.array([30, 20, 10], np.uint8), (2, 3, 1)),
    'bgra8': np.tile(np.array([10, 20, 30, 255], np.uint8), (2, 3, 1)),
    'rgba8': np.tile(np.array([30, 20, 10, 255], np.uint8), (2, 3, 1)),
}


def test_filter_calls_back_in_order_with_extra_arguments():
    calls = []
    source = message_filters.SimpleFilter()
    assert source.registerCallback(lambda *a: calls.append(a), 'x', 'y') == 0
    assert source.registerCallback(lambda *a: calls.append(a)) == 1
    source.signalMessage('m1', 'm2')
    assert calls == [('m1', 'm2', 'x', 'y'), ('m1', 'm2')]
    assert set(source.callbacks) == {0, 1}


class RecordingNode:
    """Stands for a node: keeps how a subscription was asked for."""

    def create_subscription(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        return np.arange(3)  # anything with attributes of its own


def test_subscriber_passes_keywords_on_and_serves_the_subscription():
    node = RecordingNode()
    subscriber = message_filters.Subscriber(node, str, 'camera', raw=True, callback_group='g')
    assert node.args == (str, 'camera', subscriber.callback)
    assert node.kwargs == {'qos_profile': 10, 'raw': True, 'callback_group': 'g'}
    assert (subscriber.getTopic(), subscriber.topic, subscriber.node) == ('camera', 'camera', node)
    assert subscriber.size == subscriber.sub.size == 3
    with pytest.raises(TypeError):
        message_filters.Subscriber(node, str, 'camera', 10)


def test_subscriber_over_dds():
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile
    from std_msgs.msg import Int32

    context = rclpy.Context()
    context.init()
    node = rclpy.create_node('stand_in', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        got = []
        profile = QoSProfile(depth=5)
        subscriber = message_filters.Subscriber(node, Int32, 'numbers', qos_profile=profile)
        subscriber.registerCallback(lambda msg, tag: got.append((msg.data, tag)), 'tag')
        assert subscriber.topic_name == '/numbers'  # the subscription's own attribute
        publisher = node.create_publisher(Int32, 'numbers', 5)
        deadline = time.monotonic() + 20
        while not got and time.monotonic() < deadline:
            publisher.publish(Int32(data=7))
            executor.spin_once(timeout_sec=0.1)
        assert got[0] == (7, 'tag')
    finally:
        executor.shutdown()
        node.destroy_node()
        context.shutdown()


@pytest.mark.parametrize('source', COLORS)
@pytest.mark.parametrize('target', COLORS)
def test_every_color_encoding_reads_as_every_other(source, target):
    msg = bridge.cv2_to_imgmsg(COLORS[source], source)
    image = bridge.imgmsg_to_cv2(msg, target)
    assert image.shape == COLORS[target].shape
    if source == target:
        np.testing.assert_array_equal(image, COLORS[source])
    elif source == 'mono8':
        assert (image.reshape(6, -1)[:, :3] == 40).all()
    elif target == 'mono8':
        assert (image == round(0.299 * 30 + 0.587 * 20 + 0.114 * 10)).all()
    else:
        np.testing.assert_array_equal(image, COLORS[target])


def test_passthrough_shares_memory_and_a_named_encoding_copies():
    msg = bridge.cv2_to_imgmsg(COLORS['bgr8'], 'bgr8')
    bridge.imgmsg_to_cv2(msg)[0, 0] = 99
    assert list(msg.data[:3]) == [99, 99, 99]
    bridge.imgmsg_to_cv2(msg, 'bgr8')[0, 0] = 1
    assert list(msg.data[:3]) == [99, 99, 99]


@pytest.mark.parametrize('encoding', ['mono8', 'bgr8', 'rgba8'])
def test_padded_rows(encoding):
    image = np.random.default_rng(0).integers(
        0, 256, (4, 5) + COLORS[encoding].shape[2:], np.uint8
    )
    msg = bridge.cv2_to_imgmsg(image, encoding)
    padded = np.pad(image.reshape(4, -1), ((0, 0), (0, 3)))
    msg.step, msg.data = padded.shape[1], padded.tobytes()
    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(msg), image)
    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(msg, encoding), image)


def test_message_fields():
    from std_msgs.msg import Header

    msg = bridge.cv2_to_imgmsg(COLORS['rgb8'], 'rgb8', Header(frame_id='camera'))
    assert (msg.height, msg.width, msg.step, msg.encoding) == (2, 3, 9, 'rgb8')
    assert (msg.header.frame_id, msg.is_bigendian, len(msg.data)) == ('camera', 0, 18)
    assert bridge.cv2_to_imgmsg(COLORS['rgb8']).encoding == '8UC3'
    assert bridge.cv2_to_imgmsg(COLORS['mono8']).encoding == '8UC1'


def test_a_large_image_is_set_without_an_element_wise_check():
    image = np.zeros((900, 1600, 3), np.uint8)
    began = time.process_time()
    bridge.cv2_to_imgmsg(image, 'bgr8')
    assert time.process_time() - began < 0.1  # an ndarray as data takes three times that and more


def test_refusals():
    three = bridge.cv2_to_imgmsg(COLORS['bgr8'])
    with pytest.raises(cv_bridge.CvBridgeError, match='not a color format'):
        bridge.imgmsg_to_cv2(three, 'bgr8')
    with pytest.raises(cv_bridge.CvBridgeError, match='number of channels'):
        bridge.imgmsg_to_cv2(three, '8UC1')
    with pytest.raises(cv_bridge.CvBridgeError, match='nv12'):
        bridge.imgmsg_to_cv2(three, 'nv12')
    with pytest.raises(cv_bridge.CvBridgeError, match='mono8'):
        bridge.cv2_to_imgmsg(COLORS['bgr8'], 'mono8')
    with pytest.raises(cv_bridge.CvBridgeError, match='float32'):
        bridge.cv2_to_imgmsg(COLORS['bgr8'].astype(np.float32), 'bgr8')
    with pytest.raises(TypeError, match='list'):
        bridge.cv2_to_imgmsg([[1]])
    three.data = three.data[:-1]
    with pytest.raises(TypeError, match='17 bytes'):
        bridge.imgmsg_to_cv2(three)


def test_tf2_msgs_has_the_type_hash_of_every_ros_distribution():
    pytest.importorskip('tf2_msgs')
    from ament_index_python.packages import get_package_share_directory

    description = Path(get_package_share_directory('tf2_msgs'), 'msg', 'TFMessage.json')
    hashes = json.loads(description.read_text())['type_hashes']
    assert {
        'type_name': 'tf2_msgs/msg/TFMessage',
        'hash_string': 'RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087',
    } in hashes


def test_stand_ins_come_last_on_the_path():
    paths = [Path(p).resolve() for p in sys.path if p]
    if STAND_INS not in paths:
        pytest.skip('the stand-ins are not installed here')
    site = [i for i, p in enumerate(paths) if p.name in ('site-packages', 'dist-packages')]
    assert paths.index(STAND_INS) > max(site)
