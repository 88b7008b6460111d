"""/tf and /tf_static → our transform tree, which the worker thread can wait on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from tf2_msgs.msg import TFMessage

from bev_perception.errors import BevError, TransformUnavailable
from bev_perception.messages import read_transforms
from bev_perception.rig import Frames, RigPoses, locate
from bev_perception.transforms import TransformTree


class TfInput:
    """Feeds a `TransformTree` on the executor's thread; lookups come from any thread."""

    def __init__(
        self,
        node: Node,
        *,
        on_message: Callable[[str], None],
        on_error: Callable[[str, BevError], None],
    ) -> None:
        """Subscribe with tf2's QoS; the callbacks get the topic."""
        self.tree = TransformTree()
        self._changed = threading.Condition()
        self._on_message = on_message
        self._on_error = on_error
        moving = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        static = QoSProfile(
            depth=100,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        self.subscriptions = [
            node.create_subscription(TFMessage, '/tf', self._moving, moving),
            node.create_subscription(TFMessage, '/tf_static', self._static, static),
        ]

    def _moving(self, message: Any) -> None:
        self._push('/tf', message, static=False)

    def _static(self, message: Any) -> None:
        self._push('/tf_static', message, static=True)

    def _push(self, topic: str, message: Any, *, static: bool) -> None:
        self._on_message(topic)
        try:
            transforms = read_transforms(message)
            with self._changed:
                for transform in transforms:
                    self.tree.push(transform, static=static)
                self._changed.notify_all()
        except BevError as error:
            self._on_error(topic, error)

    def locate(
        self,
        stamp_ns: int,
        exposures: Mapping[str, tuple[str, int]],
        frames: Frames,
        timeout_s: float,
    ) -> RigPoses:
        """Return the cameras' poses; wait for transforms that may still arrive.

        Raises:
            TransformUnavailable: they did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                try:
                    return locate(stamp_ns, exposures, self.tree, frames)
                except TransformUnavailable as error:
                    left = deadline - time.monotonic()
                    if not error.may_arrive or left <= 0:
                        raise
                self._changed.wait(left)

    @property
    def static_epoch(self) -> int:
        """How often static transforms changed so far."""
        return self.tree.static_epoch
