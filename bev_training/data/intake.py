"""Messages of a recording into the synchroniser, the transform tree and the sweep buffers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from bev_perception.errors import CalibrationError, MessageError
from bev_perception.messages import (
    camera_info_key,
    read_camera,
    read_pose,
    read_transform,
    stamp_ns,
)
from bev_perception.rig import CameraHistory
from bev_perception.sync import SyncedSet, ViewSynchronizer
from bev_perception.transforms import StampedTransform, TransformTree
from bev_training.data.beginning import Beginning
from bev_training.data.settings import ConvertConfig
from bev_training.data.sweep_buffer import StampedCloud, SweepBuffer
from bev_training.data.topics import RigTopics
from bev_training.data.video import VideoDecoder, video_stamp_ns

_INFO_NS = 250_000_000  # a CameraInfo that comes with every image comes at least so often

# What comes of a message: sets of images, and static transforms, which hold from then on.
Event: TypeAlias = SyncedSet[Any] | StampedTransform


class Intake:
    """Takes messages in the recording's order.

    Attributes:
        counts: what was left out or repaired, by name.
        problems: the first reason of each of `counts`, where there is one.
        sync: forms the sets.
        tree: moving transforms as they come; static ones are pushed by the caller.
        histories: calibrations by camera, in the rig's order.
        sweeps: by lidar.
        decoders: of cameras that send video.
        news: something came that a set may have waited for; the caller resets it.
    """

    def __init__(self, rig: RigTopics, config: ConvertConfig, beginning: Beginning) -> None:
        """Start with what is known before the first message."""
        self.config = config
        self.counts: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        names = tuple(camera.name for camera in rig.cameras)
        self.sync: ViewSynchronizer[Any] = ViewSynchronizer(config.sync_config(names))
        self.tree = TransformTree(history_s=10.0 + config.tf_timeout_s)
        self.histories = {name: CameraHistory(name) for name in names}
        held_s = config.tf_timeout_s + 0.3
        self.sweeps = {n: SweepBuffer(config.max_sweeps, held_s=held_s) for n in rig.lidars}
        self.news = False
        # A frame whose pose comes from the odometry topic, not from TF.
        self._odometry_child = beginning.odometry_child
        self._info_ns: dict[str, deque[int]] = {name: deque(maxlen=32) for name in names}
        self._image_ns = dict.fromkeys(names, 0)  # newest stamps
        self.decoders = {c.name: VideoDecoder(c.name) for c in rig.cameras if c.kind == 'video'}
        self._events: list[Event] = []
        self._handlers: dict[str, list[Callable[[Any, int], None]]] = {}
        for transform in beginning.statics:
            self.push_static(transform)
        for name, (at_ns, first) in beginning.cameras.items():
            self.histories[name].push(at_ns, first)
        for camera in rig.cameras:  # two cameras may share a CameraInfo topic
            self._on(camera.info, self._info(camera.name, rectified=camera.rectified))
            reader = self._video if camera.kind == 'video' else self._images
            self._on(camera.image, reader(camera.name))
        for name, topic in rig.lidars.items():
            self._on(topic, self._clouds(name))
        for topic in rig.tf:
            self._on(topic, self._transforms(static=False))
        for topic in rig.tf_static:
            self._on(topic, self._transforms(static=True))
        if rig.odometry:
            self._on(rig.odometry, self._odometry)

    def take(self, topic: str, bag_ns: int, message: Any) -> list[Event]:
        """Take a message; return what comes of it."""
        for handler in self._handlers[topic]:
            handler(message, bag_ns)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """Return what is left at the end of the recording."""
        for name, decoder in self.decoders.items():
            for at_ns, image in decoder.flush():
                self._push_image(name, at_ns, image)
            self.counts.update({k: v for k, v in decoder.counts.items() if v})
        return [*self._events, *self.sync.flush()]

    def note(self, what: str, error: Exception | None = None) -> None:
        """Count something that is left out or repaired."""
        self.counts[what] += 1
        if error is not None:
            self.problems.setdefault(what, str(error))

    def push_static(self, transform: StampedTransform) -> None:
        """Let a static transform hold from now on."""
        try:
            self.tree.push(transform, static=True)
        except MessageError as error:
            self.note('transforms_unusable', error)

    def may_lack_info(self, name: str, at_ns: int) -> bool:
        """Whether an image's CameraInfo may still come: drivers send one or the other first."""
        stamps = self._info_ns[name]
        return bool(stamps) and at_ns not in stamps and 0 < at_ns - stamps[-1] < _INFO_NS

    def _on(self, topic: str, handler: Callable[[Any, int], None]) -> None:
        self._handlers.setdefault(topic, []).append(handler)

    def _stamp(self, at_ns: int, bag_ns: int) -> int:
        """Return a header's stamp; the bag's time where a driver left it zero."""
        if at_ns > 0:
            return at_ns
        self.note('stamps_from_bag')
        return bag_ns

    def _info(self, name: str, *, rectified: bool) -> Callable[[Any, int], None]:
        history, stamps = self.histories[name], self._info_ns[name]
        last: tuple[Any, ...] | None = None

        def take(message: Any, bag_ns: int) -> None:
            nonlocal last
            # Without a stamp it holds for the images that come after it.
            at_ns = stamp_ns(message.header) or self._image_ns[name] + 1
            stamps.append(at_ns)
            self.news = True
            key = camera_info_key(message)
            if key == last and history.epoch == 1:  # the same as ever, as nearly always
                return
            try:
                camera = read_camera(message, name=name, rectified=rectified)
            except CalibrationError as error:
                self.note('camera_infos_unusable', error)
                return
            history.push(at_ns, camera)
            last = key

        return take

    def _images(self, name: str) -> Callable[[Any, int], None]:
        def take(message: Any, bag_ns: int) -> None:
            self.counts['images'] += 1
            self._push_image(name, self._stamp(stamp_ns(message.header), bag_ns), message)

        return take

    def _video(self, name: str) -> Callable[[Any, int], None]:
        decoder = self.decoders[name]

        def take(message: Any, bag_ns: int) -> None:
            self.counts['images'] += 1
            at_ns = self._stamp(video_stamp_ns(message), bag_ns)
            try:
                decoded = decoder.push(message, at_ns)
            except MessageError as error:
                self.note('images_damaged', error)
                return
            for decoded_ns, image in decoded:
                self._push_image(name, decoded_ns, image)

        return take

    def _push_image(self, name: str, at_ns: int, message: Any) -> None:
        self._image_ns[name] = max(self._image_ns[name], at_ns)
        self._events += self.sync.push(name, at_ns, message)

    def _clouds(self, name: str) -> Callable[[Any, int], None]:
        def take(message: Any, bag_ns: int) -> None:
            at_ns = self._stamp(stamp_ns(message.header), bag_ns)
            cloud = StampedCloud(lidar=name, stamp_ns=at_ns, message=message)
            if odd := self.sweeps[name].push(cloud):
                self.note(odd)
            self.news = True

        return take

    def _transforms(self, *, static: bool) -> Callable[[Any, int], None]:
        def take(message: Any, bag_ns: int) -> None:
            for item in message.transforms:
                try:
                    transform = read_transform(item)
                except MessageError as error:  # one that is wrong does not cost the others
                    self.note('transforms_unusable', error)
                    continue
                if static:
                    self._events.append(transform)
                elif transform.child != self._odometry_child:
                    self._push_moving(transform, bag_ns)

        return take

    def _odometry(self, message: Any, bag_ns: int) -> None:
        try:
            pose = read_pose(message, self.config.base_frame)
        except MessageError as error:
            self.note('odometry_unusable', error)
            return
        # The topic stands for the odometry frame, whatever name its header has for it.
        self._odometry_child = pose.child
        self._push_moving(replace(pose, parent=self.config.odom_frame), bag_ns)

    def _push_moving(self, transform: StampedTransform, bag_ns: int) -> None:
        at_ns = self._stamp(transform.stamp_ns, bag_ns)
        self.news = True
        try:
            self.tree.push(replace(transform, stamp_ns=at_ns), static=False)
        except MessageError as error:
            self.note('transforms_unusable', error)
