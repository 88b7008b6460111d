"""Camera topics → synchronised sets, as a message_filters filter around `sync.ViewSynchronizer`.

CameraInfo is calibration, not a frame: it feeds a history per camera instead of being one more
thing to synchronise, so a lost CameraInfo costs no image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import message_filters
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bev_perception.errors import BevError
from bev_perception.messages import read_camera, stamp_ns
from bev_perception.rig import CameraHistory
from bev_perception.ros.params import BevNodeParams
from bev_perception.sync import SyncConfig, ViewSynchronizer


@dataclass(frozen=True, eq=False, kw_only=True)
class Arrival:
    """An image message and when it came (monotonic clock, nanoseconds)."""

    message: Any
    arrived_ns: int


class RigSynchronizer(message_filters.SimpleFilter):  # type: ignore[misc]
    """Passes on `SyncedSet[Arrival]`s of the images of a rig.

    Callbacks get one argument, the set, on the executor's thread; they should only store it.
    """

    def __init__(
        self,
        filters: dict[str, tuple[Any, Any]],
        config: SyncConfig,
        *,
        rectified: bool,
        topics: dict[str, tuple[str, str]],
        on_error: Callable[[str, BevError], None],
        on_image: Callable[[str], None] = lambda name: None,
        on_calibration: Callable[[str, CameraHistory], None] = lambda name, history: None,
    ) -> None:
        """Connect to an image filter and a CameraInfo filter per camera.

        Args:
            filters: (image filter, CameraInfo filter) by camera name.
            config: synchroniser settings.
            rectified: whether images are rectified.
            topics: (image topic, CameraInfo topic) by camera name, for errors.
            on_error: called with the topic and what was wrong with a message.
            on_image: called with the camera's name for every image that arrives.
            on_calibration: called when a camera's calibration changed.
        """
        super().__init__()
        self.sync: ViewSynchronizer[Arrival] = ViewSynchronizer(config)
        self.cameras = {name: CameraHistory(name) for name in config.cameras}
        self._rectified = rectified
        self._topics = topics
        self._on_error = on_error
        self._on_image = on_image
        self._on_calibration = on_calibration
        for name, (images, infos) in filters.items():
            images.registerCallback(self._image, name)
            infos.registerCallback(self._info, name)

    def _image(self, message: Any, name: str) -> None:
        self._on_image(name)
        arrival = Arrival(message=message, arrived_ns=time.monotonic_ns())
        try:
            sets = self.sync.push(name, stamp_ns(message.header), arrival)
        except BevError as error:
            self._on_error(self._topics[name][0], error)
            return
        for synced in sets:
            self.signalMessage(synced)

    def _info(self, message: Any, name: str) -> None:
        try:
            camera = read_camera(message, name=name, rectified=self._rectified)
        except BevError as error:
            self._on_error(self._topics[name][1], error)
            return
        history = self.cameras[name]
        if history.push(stamp_ns(message.header), camera):
            self._on_calibration(name, history)


def subscribe(
    node: Node, params: BevNodeParams
) -> dict[str, tuple[message_filters.Subscriber, message_filters.Subscriber]]:
    """Subscribe to a rig's images and CameraInfos with sensor-data QoS."""
    kind = CompressedImage if params.image_transport == 'compressed' else Image
    filters = {}
    for name in params.cameras:
        image_topic, info_topic = params.topics(name)
        filters[name] = tuple(
            message_filters.Subscriber(node, type_, topic, qos_profile=qos_profile_sensor_data)
            for type_, topic in ((kind, image_topic), (CameraInfo, info_topic))
        )
    return filters
