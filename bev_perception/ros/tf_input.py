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
from bev_perception.messages import read_transform
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
        for item in message.transforms:  # one that is wrong does not cost the others
            try:
                with self._changed:
                    self.tree.push(read_transform(item), static=static)
            except BevError as error:
                self._on_error(topic, error)
        with self._changed:
            self._changed.notify_all()

    def locate(
        self,
        stamp_ns: int,
        exposures: Mapping[str, tuple[str, int]],
        frames: Frames,
        timeout_s: float,
    ) -> tuple[RigPoses, dict[str, TransformUnavailable]]:
        """Return the cameras' poses and what is missing; wait for what may still arrive.

        Raises:
            TransformUnavailable: the vehicle's own pose did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                left = deadline - time.monotonic()
                try:
                    poses, problems = locate(stamp_ns, exposures, self.tree, frames)
                    if left <= 0 or not any(p.may_arrive for p in problems.values()):
                        return poses, problems
                except TransformUnavailable as error:
                    if left <= 0 or not error.may_arrive:
                        raise
                self._changed.wait(left)
