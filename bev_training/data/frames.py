"""Messages of a recording → the sets of images that become frames: synchronise, choose, locate.

Everything that decides goes through the core (`sync`, `transforms`, `rig`), as in the node.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bev_perception.errors import CalibrationError, MessageError, TransformUnavailable
from bev_perception.images import check_image
from bev_perception.messages import (
    camera_info_key,
    frame_id,
    read_camera,
    read_pose,
    read_transforms,
    stamp_ns,
)
from bev_perception.rig import CameraHistory, Frames, RigPoses, locate
from bev_perception.shapes import Rigid
from bev_perception.sync import SyncedSet, ViewSynchronizer
from bev_perception.transforms import StampedTransform, TransformTree
from bev_perception.views import fit_size
from bev_training.data.beginning import Beginning
from bev_training.data.frame import Calibration
from bev_training.data.key_frames import KeyFrameRule
from bev_training.data.rig_calibration import CalibrationTracker
from bev_training.data.settings import ConvertConfig
from bev_training.data.sweep_buffer import StampedCloud, SweepBuffer
from bev_training.data.topics import RigTopics
from bev_training.data.video import VideoDecoder, video_stamp_ns

_WAIT_NS = 1_000_000_000  # of recording time, for transforms and sweeps that come after the images


@dataclass(frozen=True, eq=False, kw_only=True)
class LocatedSet:
    """A key frame whose images are still messages.

    Attributes:
        stamp_ns: the instant.
        images: stamp and message (Image or CompressedImage) by camera, in the rig's order.
        missing: cameras without an image or a pose.
        poses: of the cameras.
        clouds: the lidar sweeps, oldest first, with `ego_T_lidar`.
        calibration: that holds.
        sequence: see `Frame`.
        spread_s: see `Frame`.
    """

    stamp_ns: int
    images: Mapping[str, tuple[int, Any]]
    missing: tuple[str, ...]
    poses: RigPoses
    clouds: tuple[tuple[StampedCloud, Rigid], ...]
    calibration: Calibration
    sequence: int
    spread_s: float


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A set that may lack transforms or sweeps that are still to come."""

    synced: SyncedSet[Any]
    since_ns: int  # bag time


class FrameSelector:
    """Takes messages in the recording's order and gives the sets that become frames.

    Attributes:
        counts: what was left out or repaired, by name.
        problems: the first reason of each of `counts`, where there is one.
    """

    def __init__(self, rig: RigTopics, config: ConvertConfig, beginning: Beginning) -> None:
        """Start with what is known before the first message."""
        self.rig, self.config = rig, config
        self.counts: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        names = tuple(camera.name for camera in rig.cameras)
        self.frames = Frames(base=config.base_frame, odom=config.odom_frame)
        self.sync: ViewSynchronizer[Any] = ViewSynchronizer(config.sync_config(names))
        self.tree = TransformTree(history_s=10.0 + _WAIT_NS / 1e9)
        self.histories = {name: CameraHistory(name) for name in names}
        for transform in beginning.statics:
            self.tree.push(transform, static=True)
        for name, (at_ns, first) in beginning.cameras.items():
            self.histories[name].push(at_ns, first)
        self._calibrations = CalibrationTracker(beginning, self.tree, config.base_frame)
        self._rule = KeyFrameRule(config.every)
        self._sweeps = {name: SweepBuffer(config.max_sweeps) for name in rig.lidars}
        self._waiting: deque[_Waiting] = deque()
        self._decoders = {c.name: VideoDecoder(c.name) for c in rig.cameras if c.kind == 'video'}
        self._news = False  # a set, a transform or a sweep came since the sets were last looked at
        self._handlers: dict[str, Callable[[Any, int], None]] = {}
        for camera in rig.cameras:
            self._on(camera.info, self._info(camera.name, rectified=camera.rectified))
            reader = self._video if camera.kind == 'video' else self._images
            self._on(camera.image, reader(camera.name))
        for name, topic in rig.lidars.items():
            self._on(topic, self._cloud(name))
        for topic in rig.tf:
            self._on(topic, self._transforms(static=False))
        for topic in rig.tf_static:
            self._on(topic, self._transforms(static=True))
        if rig.odometry:
            self._on(rig.odometry, self._odometry)

    def push(self, topic: str, bag_ns: int, message: Any) -> list[LocatedSet]:
        """Take a message; return the key frames that it completes.

        Raises:
            CalibrationError: an image does not fit its CameraInfo.
        """
        self._handlers[topic](message, bag_ns)
        if not self._waiting:
            return []
        if not self._news and bag_ns - self._waiting[0].since_ns <= _WAIT_NS:
            return []  # nothing came that the first set waits for
        self._news = False
        return list(self._ready(bag_ns))

    def finish(self) -> list[LocatedSet]:
        """Return what is left at the end of the recording.

        Raises:
            CalibrationError: an image does not fit its CameraInfo.
        """
        for name, decoder in self._decoders.items():
            for at_ns, image in decoder.flush():
                self._image(name, at_ns, image, (image.width, image.height), 0)
            self.counts.update({k: v for k, v in decoder.counts.items() if v})
        for synced in self.sync.flush():
            self._waiting.append(_Waiting(synced, 0))
        return list(self._ready(None))

    # -- messages -------------------------------------------------------------------------------

    def _on(self, topic: str, handler: Callable[[Any, int], None]) -> None:
        """Let several readers share a topic, as two cameras with one CameraInfo."""
        before = self._handlers.get(topic)
        if before is None:
            self._handlers[topic] = handler
            return

        def both(message: Any, bag_ns: int) -> None:
            before(message, bag_ns)
            handler(message, bag_ns)

        self._handlers[topic] = both

    def note(self, what: str, error: Exception | None = None) -> None:
        """Count something that is left out or repaired."""
        self.counts[what] += 1
        if error is not None:
            self.problems.setdefault(what, str(error))

    def _stamp(self, message: Any, bag_ns: int) -> int:
        """Return the header's stamp; the bag's time where a driver left it zero."""
        at_ns = stamp_ns(message.header)
        if at_ns > 0:
            return at_ns
        self.note('stamps_from_bag')
        return bag_ns

    def _info(self, name: str, *, rectified: bool) -> Callable[[Any, int], None]:
        history = self.histories[name]
        last: tuple[Any, ...] | None = None

        def take(message: Any, bag_ns: int) -> None:
            nonlocal last
            key = camera_info_key(message)
            if key == last and history.epoch == 1:  # the same as ever, as nearly always
                return
            try:
                camera = read_camera(message, name=name, rectified=rectified)
            except CalibrationError as error:
                self.note('camera_infos_unusable', error)
                return
            at_ns = stamp_ns(message.header)
            history.push(at_ns if at_ns > 0 else bag_ns, camera)
            last = key

        return take

    def _images(self, name: str) -> Callable[[Any, int], None]:
        def take(message: Any, bag_ns: int) -> None:
            self.counts['images'] += 1
            try:
                size_px = check_image(message)
            except MessageError as error:
                self.note('images_damaged', error)
                return
            self._image(name, self._stamp(message, bag_ns), message, size_px, bag_ns)

        return take

    def _video(self, name: str) -> Callable[[Any, int], None]:
        decoder = self._decoders[name]

        def take(message: Any, bag_ns: int) -> None:
            self.counts['images'] += 1
            at_ns = video_stamp_ns(message)
            if at_ns <= 0:
                self.note('stamps_from_bag')
                at_ns = bag_ns
            try:
                decoded = decoder.push(message, at_ns)
            except MessageError as error:
                self.note('images_damaged', error)
                return
            for decoded_ns, image in decoded:
                self._image(name, decoded_ns, image, (image.width, image.height), bag_ns)

        return take

    def _image(
        self, name: str, at_ns: int, message: Any, size_px: tuple[int, int], bag_ns: int
    ) -> None:
        fit_size(self.histories[name].at(at_ns), size_px, name)
        for synced in self.sync.push(name, at_ns, message):
            self._waiting.append(_Waiting(synced, bag_ns))
            self._news = True

    def _cloud(self, name: str) -> Callable[[Any, int], None]:
        def take(message: Any, bag_ns: int) -> None:
            at_ns = self._stamp(message, bag_ns)
            self._sweeps[name].push(StampedCloud(lidar=name, stamp_ns=at_ns, message=message))
            self._news = True

        return take

    def _transforms(self, *, static: bool) -> Callable[[Any, int], None]:
        def take(message: Any, bag_ns: int) -> None:
            try:
                transforms = read_transforms(message)
            except MessageError as error:
                self.note('transforms_unusable', error)
                return
            for transform in transforms:
                if transform.child != self._odometry_child:
                    self._push(transform, bag_ns, static=static)

        return take

    def _odometry(self, message: Any, bag_ns: int) -> None:
        try:
            pose = read_pose(message, self.config.base_frame)
        except MessageError as error:
            self.note('odometry_unusable', error)
            return
        # The topic stands for the odometry frame, whatever name its header has for it.
        moved = StampedTransform(
            parent=self.config.odom_frame,
            child=pose.child,
            stamp_ns=pose.stamp_ns,
            parent_T_child=pose.parent_T_child,
        )
        self._odometry_child = pose.child
        self._push(moved, bag_ns, static=False)

    _odometry_child = ''  # a frame whose pose comes from the odometry topic, not from TF

    def _push(self, transform: StampedTransform, bag_ns: int, *, static: bool) -> None:
        if transform.stamp_ns <= 0 and not static:
            self.note('stamps_from_bag')
            transform = StampedTransform(
                parent=transform.parent,
                child=transform.child,
                stamp_ns=bag_ns,
                parent_T_child=transform.parent_T_child,
            )
        self._news = True
        try:
            self.tree.push(transform, static=static)
        except MessageError as error:
            self.note('transforms_unusable', error)

    # -- sets -----------------------------------------------------------------------------------

    def _ready(self, bag_ns: int | None) -> Iterator[LocatedSet]:
        """Yield the key frames that need wait no longer; all of them where the time is None."""
        while self._waiting:
            head = self._waiting[0]
            final = bag_ns is None or bag_ns - head.since_ns > _WAIT_NS
            try:
                located = self._locate(head.synced, final=final)
            except _NotYetError:
                return
            self._waiting.popleft()
            self.counts['sets'] += 1
            if located is not None:
                yield located

    def _locate(self, synced: SyncedSet[Any], *, final: bool) -> LocatedSet | None:
        """Return a set with its poses if it is a key frame, None if it is none or cannot be.

        Raises:
            _NotYetError: something that it needs may still come.
        """
        stamp = synced.stamp_ns
        odom_T_base = None
        try:
            if self.frames.odom:
                odom_T_base = self.tree.lookup(self.frames.odom, self.frames.base, stamp)
        except TransformUnavailable as error:
            if not final and self._may_come(error, self.frames.base):
                raise _NotYetError from None
            self.note('sets_without_pose', error)
            return None
        if not self._rule.due(stamp, odom_T_base):
            self.counts['sets_between'] += 1
            self._rule.passed(stamp, odom_T_base, accepted=False)
            return None
        if not final and not all(buffer.reaches(stamp) for buffer in self._sweeps.values()):
            raise _NotYetError
        exposures = {n: (frame_id(m.header), t) for n, (t, m) in synced.items.items()}
        poses, problems = locate(stamp, exposures, self.tree, self.frames)
        if not final and any(self._may_come(e, exposures[n][0]) for n, e in problems.items()):
            raise _NotYetError
        clouds = self._clouds(stamp, final=final)
        for problem in problems.values():
            self.note('images_without_pose', problem)
        images = {n: item for n, item in synced.items.items() if n in poses.ego_T_cam}
        if len(images) < self.sync.config.min_cameras:
            self.counts['sets_too_few_images'] += 1
            self._rule.passed(stamp, odom_T_base, accepted=False)
            return None
        sequence = self._rule.sequence(stamp, odom_T_base)
        self._rule.passed(stamp, odom_T_base, accepted=True)
        for buffer in self._sweeps.values():
            buffer.take(stamp)
        return LocatedSet(
            stamp_ns=stamp,
            images=images,
            missing=tuple(name for name in self.histories if name not in images),
            poses=poses,
            clouds=clouds,
            calibration=self._calibrations.at(
                stamp,
                {
                    n: h.at(images[n][0] if n in images else stamp)
                    for n, h in self.histories.items()
                },
            ),
            sequence=sequence,
            spread_s=synced.spread_s,
        )

    def _may_come(self, error: TransformUnavailable, frame: str) -> bool:
        """Whether a transform may be there later: newer than all, or of a frame not heard of."""
        if error.may_arrive:
            return True
        try:
            self.tree.lookup_static(self.frames.odom or self.frames.base, frame)
        except TransformUnavailable:
            return True
        return False

    def _clouds(self, stamp: int, *, final: bool) -> tuple[tuple[StampedCloud, Rigid], ...]:
        """Return the sweeps of a key frame with where the sensor was.

        Raises:
            _NotYetError: a transform may still come.
        """
        out: list[tuple[StampedCloud, Rigid]] = []
        lost: list[TransformUnavailable] = []
        for buffer in self._sweeps.values():
            found = buffer.around(stamp)
            if not self.frames.odom:  # without motion, older sweeps are in no known place
                found = found[-1:]
            exposures = {
                str(i): (frame_id(cloud.message.header), cloud.stamp_ns)
                for i, cloud in enumerate(found)
            }
            poses, problems = locate(stamp, exposures, self.tree, self.frames)
            if not final and any(self._may_come(e, exposures[i][0]) for i, e in problems.items()):
                raise _NotYetError
            lost += problems.values()
            out += [(found[int(i)], pose) for i, pose in poses.ego_T_cam.items()]
        for problem in lost:
            self.note('sweeps_without_pose', problem)
        return tuple(sorted(out, key=lambda pair: (pair[0].stamp_ns, pair[0].lidar)))


class _NotYetError(Exception):
    """A set has to wait for what is still to come."""
