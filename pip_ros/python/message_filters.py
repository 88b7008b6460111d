"""Stand-in for the ROS package message_filters: the two classes that this project's node uses.

Only on the path of the environment that `make` sets up, and behind any real message_filters. Names
and behaviour are those of the ROS package, so the node's code is the same on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class SimpleFilter:
    """Something that puts messages out to registered callbacks."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
        """Have `cb(*messages, *args)` called for every output; returns the connection's number."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg: Any) -> None:
        """Put `msg` out: call every registered callback, in the order of registration."""
        for cb, args in self.callbacks.values():
            cb(*msg, *args)


class Subscriber(SimpleFilter):
    """A subscription as a filter; keyword arguments are those of `Node.create_subscription`.

    `qos_profile` is keyword-only, as in the ROS package up to Jazzy. Attributes that are not
    found here are those of the subscription itself.
    """

    def __init__(
        self, node: Any, msg_type: Any, topic: str, /, *, qos_profile: Any = 10, **kwargs: Any
    ) -> None:
        super().__init__()
        self.node = node
        self.topic = topic
        self.sub = node.create_subscription(
            msg_type, topic, self.callback, qos_profile=qos_profile, **kwargs
        )

    def callback(self, msg: Any) -> None:
        """Receive one message from the subscription."""
        self.signalMessage(msg)

    def getTopic(self) -> str:
        """Name of the topic as it was given."""
        return self.topic

    def __getattr__(self, key: str) -> Any:
        if key == 'sub':  # not set yet: the constructor failed
            raise AttributeError(key)
        return getattr(self.sub, key)
