"""Messages of a recording → the sets of images that become frames: synchronise, choose, locate.

Everything that decides goes through the core (`sync`, `transforms`, `rig`), as in the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bev_perception.errors import CalibrationError, MessageError, TransformUnavailable
from bev_perception.messages import frame_id
from bev_perception.odometry import jumps
from bev_perception.rig import Frames, RigPoses, locate
from bev_perception.shapes import Rigid
from bev_perception.sync import SyncedSet, ViewSynchronizer
from bev_perception.transforms import StampedTransform, TransformTree
from bev_perception.views import fit_size
from bev_training.data.beginning import Beginning
from bev_training.data.frame import Calibration
from bev_training.data.intake import Event, Intake
from bev_training.data.key_frames import KeyFrameRule
from bev_training.data.rig_calibration import CalibrationTracker
from bev_training.data.settings import ConvertConfig
from bev_training.data.sweep_buffer import StampedCloud
from bev_training.data.topics import RigTopics
from bev_training.data.video import image_size


@dataclass(frozen=True, eq=False, kw_only=True)
class LocatedSet:
    """A key frame whose images are still messages.

    Attributes:
        stamp_ns: the instant.
        images: stamp and message (Image or CompressedImage) by camera, in the rig's order.
        missing: cameras without an image or a pose.
        poses: of the cameras and the vehicle.
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


class FrameSelector:
    """Takes messages in the recording's order and gives the sets that become frames.

    A set waits until the transforms, sweeps and CameraInfos that it needs have come, and at most
    `tf_timeout_s` of the recording. Static transforms wait with it, so that one that changes does
    not reach back to images from before it.

    Attributes:
        counts: what was left out or repaired, by name.
        problems: the first reason of each of `counts`, where there is one.
    """

    def __init__(self, rig: RigTopics, config: ConvertConfig, beginning: Beginning) -> None:
        """Start with what is known before the first message."""
        self.rig, self.config = rig, config
        self.frames = Frames(base=config.base_frame, odom=config.odom_frame)
        self._intake = Intake(rig, config, beginning)
        self.counts, self.problems = self._intake.counts, self._intake.problems
        self.tree: TransformTree = self._intake.tree
        self.cameras = tuple(self._intake.histories)
        self._calibrations = CalibrationTracker(beginning, self.tree, config.base_frame)
        self._rule = KeyFrameRule(config.every)
        self._waiting: deque[tuple[Event, int]] = deque()  # with the bag's time at which it came
        self._timeout_ns = round(config.tf_timeout_s * 1e9)
        self._fitted: set[str] = set()  # cameras of which an image fitted its CameraInfo

    @property
    def sync(self) -> ViewSynchronizer[Any]:
        """The synchroniser."""
        return self._intake.sync

    @sync.setter
    def sync(self, other: ViewSynchronizer[Any]) -> None:
        self._intake.sync = other

    def note(self, what: str, error: Exception | None = None) -> None:
        """Count something that is left out or repaired."""
        self._intake.note(what, error)

    def push(self, topic: str, bag_ns: int, message: Any) -> list[LocatedSet]:
        """Take a message; return the key frames that it completes.

        Raises:
            CalibrationError: the first image of a camera does not fit its CameraInfo.
        """
        events = self._intake.take(topic, bag_ns, message)
        self._waiting.extend((event, bag_ns) for event in events)
        if not self._waiting:
            return []
        late = bag_ns - self._waiting[0][1] > self._timeout_ns
        if not (events or late or self._intake.news):
            return []  # nothing came that the first set waits for
        self._intake.news = False
        return list(self._ready(bag_ns))

    def finish(self) -> list[LocatedSet]:
        """Return what is left at the end of the recording.

        Raises:
            CalibrationError: the first image of a camera does not fit its CameraInfo.
        """
        self._waiting.extend((event, 0) for event in self._intake.finish())
        out = list(self._ready(None))
        self.counts['tf_clock_jumps'] += self.tree.jumps
        self.counts['odometry_jumps'] += self._rule.jumps
        return out

    def _ready(self, bag_ns: int | None) -> Iterator[LocatedSet]:
        """Yield the key frames that need wait no longer; all of them where the time is None."""
        while self._waiting:
            event, since_ns = self._waiting[0]
            if isinstance(event, StampedTransform):
                self._intake.push_static(event)
                self._waiting.popleft()
                continue
            final = bag_ns is None or bag_ns - since_ns > self._timeout_ns
            try:
                located = self._locate(event, final=final)
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
            CalibrationError: the first image of a camera does not fit its CameraInfo.
        """
        stamp = synced.stamp_ns
        odom_T_base = None
        if self.frames.odom:
            try:
                odom_T_base = self.tree.lookup(self.frames.odom, self.frames.base, stamp)
            except TransformUnavailable as error:
                self._wait_for(error, self.frames.base, final=final)
                self.note('sets_without_pose', error)
                return None
        if not self._rule.due(stamp, odom_T_base):
            self.counts['sets_between'] += 1
            self._rule.passed(stamp, odom_T_base, accepted=False)
            return None
        if not final:
            self._wait_for_sensors(synced)
        exposures = {n: (frame_id(m.header), t) for n, (t, m) in synced.items.items()}
        try:
            poses, problems = locate(stamp, exposures, self.tree, self.frames)
        except CalibrationError as error:  # the body points straight up: it has no heading
            self.note('sets_without_pose', error)
            return None
        for name, problem in problems.items():
            self._wait_for(problem, exposures[name][0], final=final)
        sequence = self._rule.sequence(stamp, odom_T_base)
        # A sweep from before a break is in another place than its pose says.
        anew = sequence != self._rule.current
        clouds = self._clouds(stamp, nearest_only=anew, final=final)
        for problem in problems.values():
            self.note('images_without_pose', problem)
        if self._torn(stamp, odom_T_base, poses, exposures):
            return None
        images = {n: item for n, item in self._sound(synced) if n in poses.ego_T_cam}
        accepted = len(images) >= self.sync.config.min_cameras
        self._rule.passed(stamp, odom_T_base, accepted=accepted)
        if not accepted:
            self.counts['sets_too_few_images'] += 1
            return None
        for buffer in self._intake.sweeps.values():
            buffer.take(stamp)
        lacking = {cloud.lidar for cloud, _ in clouds} != set(self._intake.sweeps)
        self.counts['frames_without_sweep'] += lacking
        histories = self._intake.histories
        return LocatedSet(
            stamp_ns=stamp,
            images=images,
            missing=tuple(name for name in self.cameras if name not in images),
            poses=poses,
            clouds=clouds,
            calibration=self._calibrations.at(
                stamp,
                {n: h.at(images[n][0] if n in images else stamp) for n, h in histories.items()},
                {name: frame for name, (frame, _) in exposures.items() if name in images},
            ),
            sequence=sequence,
            spread_s=synced.spread_s,
        )

    # -- what a set waits for ---------------------------------------------------------------------

    def _wait_for(self, error: TransformUnavailable, frame: str, *, final: bool) -> None:
        """Raise _NotYetError if a transform may still come: newer than all, or not heard of."""
        if final:
            return
        if not error.may_arrive:
            try:
                self.tree.lookup_static(self.frames.odom or self.frames.base, frame)
            except TransformUnavailable:
                raise _NotYetError from None
            return
        raise _NotYetError

    def _wait_for_sensors(self, synced: SyncedSet[Any]) -> None:
        """Raise _NotYetError if a sweep or a CameraInfo may still come."""
        if any(buffer.may_lack(synced.stamp_ns) for buffer in self._intake.sweeps.values()):
            raise _NotYetError
        if any(self._intake.may_lack_info(n, t) for n, (t, _) in synced.items.items()):
            raise _NotYetError

    # -- what a frame holds -----------------------------------------------------------------------

    def _torn(
        self,
        stamp: int,
        odom_T_base: Rigid | None,
        poses: RigPoses,
        exposures: Mapping[str, tuple[str, int]],
    ) -> bool:
        """Whether the odometry jumped among the exposures: what lies between is no pose."""
        for name, at_exposure in poses.odom_T_base_at.items():
            if jumps(odom_T_base, at_exposure, (exposures[name][1] - stamp) / 1e9):
                self.counts['sets_without_pose'] += 1
                self.problems.setdefault('sets_without_pose', 'the odometry jumped')
                self._rule.broke()
                return True
        return False

    def _sound(self, synced: SyncedSet[Any]) -> Iterator[tuple[str, tuple[int, Any]]]:
        """Yield the images of a set that can be used, as far as their beginning and end tell."""
        for name, (at_ns, message) in synced.items.items():
            try:
                size_px = image_size(message)
            except MessageError as error:
                self.note('images_damaged', error)
                continue
            try:
                fit_size(self._intake.histories[name].at(at_ns), size_px, name)
            except CalibrationError as error:
                if name not in self._fitted:
                    raise CalibrationError(f'{error}; --cameras can leave it out') from None
                self.note('images_of_other_size', error)  # it fitted before: one is damaged
                continue
            self._fitted.add(name)
            yield name, (at_ns, message)

    def _clouds(
        self, stamp: int, *, nearest_only: bool, final: bool
    ) -> tuple[tuple[StampedCloud, Rigid], ...]:
        """Return the sweeps of a key frame with where the sensor was.

        Raises:
            _NotYetError: a transform may still come.
        """
        out: list[tuple[StampedCloud, Rigid]] = []
        lost: list[TransformUnavailable] = []
        for buffer in self._intake.sweeps.values():
            found = buffer.around(stamp)
            if nearest_only or not self.frames.odom:  # without motion, too, older ones are lost
                found = found[-1:]
            exposures = {
                str(i): (frame_id(cloud.message.header), cloud.stamp_ns)
                for i, cloud in enumerate(found)
            }
            poses, problems = locate(stamp, exposures, self.tree, self.frames)
            for i, problem in problems.items():
                self._wait_for(problem, exposures[i][0], final=final)
            lost += problems.values()
            out += [(found[int(i)], pose) for i, pose in poses.ego_T_cam.items()]
        for problem in lost:
            self.note('sweeps_without_pose', problem)
        return tuple(sorted(out, key=lambda pair: (pair[0].stamp_ns, pair[0].lidar)))


class _NotYetError(Exception):
    """A set has to wait for what is still to come."""
