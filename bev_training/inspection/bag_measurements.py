"""One pass over a recording: everything that the rules and the report of it are made of."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import BagError, BevError, CalibrationError, TransformUnavailable
from bev_perception.messages import stamp_ns
from bev_perception.shapes import Array, Rigid
from bev_perception.sync import SyncedSet, SyncStats
from bev_training.data.bag_files import PACKED, recording_files, storage_suffix
from bev_training.data.bag_inputs import BagSource
from bev_training.data.bag_reader import TopicInfo
from bev_training.data.beginning import Beginning
from bev_training.data.frames import LocatedSet
from bev_training.data.settings import ConvertConfig
from bev_training.data.topics import RigTopics
from bev_training.data.video import video_stamp_ns
from bev_training.inspection.pose_meter import JUMP_M, JUMP_MPS, EdgeTimes, PoseMeter
from bev_training.inspection.rig_choice import Refusal, choose_rig
from bev_training.inspection.sensor_meters import CameraMeter, LidarMeter
from bev_training.inspection.suggestions import Suggestion, suggest
from bev_training.inspection.topic_series import Samples, TopicSeries, TopicTimes
from bev_training.inspection.watching import WatchedSelector

QUICK_NS = 60_000_000_000
_REPORTS = 200  # calls of `progress`, about
_PATH_LAG_NS = 1_000_000_000  # transforms of a set have come by then


@dataclass(frozen=True, eq=False, kw_only=True)
class BagMeasured:
    """What was seen in a recording.

    Attributes:
        path: of the recording.
        storage: 'mcap', 'sqlite3', 'rosbag1', with its compression.
        size_bytes: of its files.
        seconds: from its first to its last message.
        messages: number of them.
        topics: all of them by name.
        quick: no more than the first minute was read.
        config: the settings.
        refusals: why a conversion would refuse it, as (rule, where, text).
        roles: what a topic is, such as 'camera front'; topics that are not read have none.
        times: stamps of the topics that were read.
        offsets: by topic, (n, 2) seconds from the start, recording time minus header stamp.
        unreadable: messages by topic that could not be deserialised, with the first reason.
        cameras: by name.
        lidars: by name.
        poses: moving transforms between odom_frame and base_frame, or the odometry topic.
        unconnected: by sensor, why no transform leads to it from base_frame.
        base_T_cam: mounted cameras.
        sync: statistics of the synchroniser; None where nothing was read.
        suggestions: settings of the synchroniser that fit.
        sets: number of sets of images.
        counts: what `FrameSelector` left out.
        problems: the first reason of each.
        ended: why a conversion would end before its time; '' where it would not.
        ended_at_s: where; nothing is counted behind it.
        refused: whether that is an image that does not fit its CameraInfo.
        epochs: calibrations.
        frames: number of key frames under the settings' policy.
        frames_at: (n, 3) position of key frames.
        path_at: (n, 4) seconds from the start and position of the vehicle; jumps are rows of NaN.
        metres: driven, without jumps.
        spreads_s: of sets.
    """

    path: Path
    storage: str
    size_bytes: int
    seconds: float
    messages: int
    topics: Mapping[str, TopicInfo]
    quick: bool
    config: ConvertConfig
    refusals: tuple[Refusal, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, TopicTimes] = field(default_factory=dict)
    offsets: Mapping[str, Array] = field(default_factory=dict)
    unreadable: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    cameras: Mapping[str, CameraMeter] = field(default_factory=dict)
    lidars: Mapping[str, LidarMeter] = field(default_factory=dict)
    poses: tuple[EdgeTimes, ...] = ()
    unconnected: Mapping[str, str] = field(default_factory=dict)
    base_T_cam: Mapping[str, Rigid] = field(default_factory=dict)
    sync: SyncStats | None = None
    suggestions: tuple[Suggestion, ...] = ()
    sets: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    ended: str = ''
    ended_at_s: float = 0.0
    refused: bool = False
    epochs: int = 0
    frames: int = 0
    frames_at: Array = field(default_factory=lambda: np.zeros((0, 3)))
    path_at: Array = field(default_factory=lambda: np.zeros((0, 4)))
    metres: float = 0.0
    spreads_s: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def cut(self) -> bool:
        """Whether a part of it was not read."""
        return self.quick and self.seconds > QUICK_NS / 1e9


def measure_bag(
    source: BagSource,
    config: ConvertConfig,
    *,
    quick: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> BagMeasured:
    """Read a recording once.

    Args:
        source: the recording.
        config: as it would be converted.
        quick: read the first minute only.
        progress: called with the share that is done, 0..1, now and then.

    Raises:
        BagError: it cannot be read at all.
    """
    with source.open() as recording:
        files = source.files or recording_files(source.path)
        plain: dict[str, Any] = {
            'path': source.path,
            'storage': storage_of(files),
            'size_bytes': sum(file.stat().st_size for file in files),
            'seconds': max(recording.end_ns - recording.start_ns, 0) / 1e9,
            'messages': recording.message_count,
            'topics': dict(recording.topics),
            'quick': quick,
            'config': config,
        }
        chosen = choose_rig(recording, config)
        rig = chosen.rig
        meter = _Meter(recording.start_ns, rig, config)
        refusals = chosen.refusals
        if chosen.beginning is not None:
            try:
                meter.select_with(chosen.beginning)
            except BevError as error:  # video without its package
                refusals = (*refusals, ('BAG006', '', str(error)))
        stop_ns = recording.start_ns + QUICK_NS if quick else None
        end_ns = min(recording.end_ns, stop_ns or recording.end_ns)
        length_ns = max(end_ns - recording.start_ns, 1)
        next_ns = recording.start_ns
        try:
            for topic, bag_ns, message in recording.messages(rig.all, stop_ns=stop_ns):
                meter.take(topic, bag_ns, message)
                if bag_ns >= next_ns:
                    progress((bag_ns - recording.start_ns) / length_ns)
                    next_ns = bag_ns + length_ns // _REPORTS
        except BagError as error:  # damaged from here on: what came before is worth telling
            refusals = (*refusals, ('BAG001', '', str(error)))
        problems = recording.first_problem
        unreadable = {
            topic: (count, problems.get(topic, ''))
            for topic, count in sorted(recording.unreadable.items())
        }
        return BagMeasured(
            **plain,
            refusals=refusals,
            unreadable=unreadable,
            **meter.finish(),
        )


class _Meter:
    """The running measurements of one recording."""

    def __init__(self, origin_ns: int, rig: RigTopics, config: ConvertConfig) -> None:
        self._origin_ns, self._rig, self._config = origin_ns, rig, config
        self._beginning: Beginning | None = None
        self._selector: WatchedSelector | None = None
        self._series = {topic: TopicSeries(origin_ns) for topic in rig.all}
        self._cameras = {
            c.name: CameraMeter(c.name, kind=c.kind, rectified=c.rectified) for c in rig.cameras
        }
        self._lidars = {name: LidarMeter() for name in rig.lidars}
        self._poses = PoseMeter(origin_ns)
        self._image_of = {c.image: self._cameras[c.name] for c in rig.cameras}
        self._infos_of: dict[str, list[CameraMeter]] = {}
        for camera in rig.cameras:
            self._infos_of.setdefault(camera.info, []).append(self._cameras[camera.name])
        self._videos = {c.image for c in rig.cameras if c.kind == 'video'}
        self._lidar_of = {topic: self._lidars[name] for name, topic in rig.lidars.items()}
        self._refused = False
        self._ended, self._ended_at_s = '', 0.0
        self._spreads = Samples()
        self._sets = 0
        self._path = Samples(8192)
        self._due: deque[int] = deque()
        self._bag_ns = origin_ns
        self._here: tuple[int, Array] | None = None
        self._metres = 0.0
        self._frames = Samples(8192)
        self._frame_count = self._epochs = 0

    def select_with(self, beginning: Beginning) -> None:
        """Choose frames too, as a conversion does.

        Raises:
            ConfigError: a package for video is missing.
        """
        self._selector = WatchedSelector(
            self._rig, self._config, beginning, image_seen=self._image, set_seen=self._set
        )
        self._beginning = beginning

    def take(self, topic: str, bag_ns: int, message: Any) -> None:
        """Look at one message."""
        if topic in self._videos:
            at_ns: int | None = video_stamp_ns(message)
        else:
            at_ns = stamp_ns(message.header) if hasattr(message, 'header') else None
        data = getattr(message, 'data', b'')
        self._series[topic].add(bag_ns, at_ns, len(data) if hasattr(data, '__len__') else 0)
        if topic in self._image_of:
            self._image_of[topic].take_image(message)
        for camera in self._infos_of.get(topic, ()):
            camera.take_info(message)
        if topic in self._lidar_of:
            self._lidar_of[topic].take(message)
        if topic in self._rig.tf:
            self._poses.take_transforms(message, bag_ns)
        if topic == self._rig.odometry:
            self._poses.take_odometry(topic, message, bag_ns)
        self._bag_ns = bag_ns
        if self._selector is not None and not self._ended:
            self._select(topic, bag_ns, message)

    def _select(self, topic: str, bag_ns: int, message: Any) -> None:
        assert self._selector is not None
        damaged = self._selector.counts['images_damaged']
        try:
            located = self._selector.push(topic, bag_ns, message)
        except BevError as error:
            self._end(error, bag_ns)
            return
        finally:
            if topic in self._videos and self._selector.counts['images_damaged'] > damaged:
                self._image_of[topic].take_damage(self._selector.problems['images_damaged'])
        self._count(located)
        self._follow()

    def _end(self, error: BevError, bag_ns: int) -> None:
        """Note that a conversion would end here."""
        self._ended, self._ended_at_s = str(error), (bag_ns - self._origin_ns) / 1e9
        self._refused = isinstance(error, CalibrationError)

    def _image(self, camera: str, size_px: tuple[int, int]) -> None:
        self._cameras[camera].take_size(size_px)

    def _set(self, synced: SyncedSet[Any]) -> None:
        self._sets += 1
        self._spreads.add(synced.spread_s)
        self._due.append(synced.stamp_ns)

    def _count(self, located: list[LocatedSet]) -> None:
        for one in located:
            self._frame_count += 1
            self._epochs = max(self._epochs, one.calibration.epoch + 1)
            if one.poses.odom_T_base is not None:
                self._frames.add(*one.poses.odom_T_base[:3, 3])

    def _follow(self, *, final: bool = False) -> None:
        """Note where the vehicle was at the sets whose transforms should have come."""
        selector = self._selector
        assert selector is not None
        while self._due and (final or self._due[-1] - self._due[0] > _PATH_LAG_NS):
            at_ns = self._due.popleft()
            if not selector.frames.odom:
                continue
            try:
                pose = selector.tree.lookup(selector.frames.odom, selector.frames.base, at_ns)
            except TransformUnavailable:
                continue
            self._go_to(at_ns, pose[:3, 3])

    def _go_to(self, at_ns: int, place: Array) -> None:
        if self._here is not None:
            moved_m = float(np.linalg.norm(place - self._here[1]))
            seconds = (at_ns - self._here[0]) / 1e9
            if moved_m > JUMP_M and moved_m > JUMP_MPS * abs(seconds):
                self._path.add(*(float('nan'),) * 4)
            else:
                self._metres += moved_m
        self._here = at_ns, place
        self._path.add((at_ns - self._origin_ns) / 1e9, *place)

    def finish(self) -> dict[str, Any]:
        """Return the fields of `BagMeasured` that come from messages."""
        config, selector, beginning = self._config, self._selector, self._beginning
        statics = beginning.statics if beginning is not None else ()
        edges = [(s.parent, s.child) for s in statics]
        found: dict[str, Any] = {
            'roles': _roles(self._rig),
            'times': {topic: series.times() for topic, series in self._series.items()},
            'offsets': {t: s.offsets.rows for t, s in self._series.items() if len(s.offsets.rows)},
            'cameras': self._cameras,
            'lidars': self._lidars,
            'poses': tuple(self._poses.between(config.odom_frame, config.base_frame, edges)),
        }
        if selector is None or beginning is None:
            return found
        try:
            self._count([] if self._ended else selector.finish())
        except BevError as error:
            self._end(error, self._bag_ns)
        self._follow(final=True)
        for name, decoder in selector.decoders.items():
            self._cameras[name].video = dict(decoder.counts)
        mounted, unconnected = _mounted(selector, beginning)
        stats = selector.sync.stats()
        return {
            **found,
            'base_T_cam': mounted,
            'unconnected': unconnected,
            'sync': stats,
            'suggestions': suggest(selector.stamps, selector.sync.config, stats),
            'sets': self._sets,
            'counts': Counter(selector.counts),
            'problems': dict(selector.problems),
            'refused': self._refused,
            'ended': self._ended,
            'ended_at_s': self._ended_at_s,
            'epochs': self._epochs,
            'frames': self._frame_count,
            'frames_at': self._frames.rows.reshape(-1, 3),
            'path_at': self._path.rows.reshape(-1, 4),
            'metres': self._metres,
            'spreads_s': self._spreads.rows.reshape(-1),
        }


def _mounted(
    selector: WatchedSelector, beginning: Beginning
) -> tuple[dict[str, Rigid], dict[str, str]]:
    """Return where cameras are mounted, and why a sensor is connected with nothing."""
    mounted, unconnected = {}, {}
    base = selector.frames.base
    for name, frame in (*beginning.camera_frames.items(), *beginning.lidar_frames.items()):
        try:
            pose = selector.tree.lookup_static(base, frame)
        except TransformUnavailable as error:
            unconnected[name] = str(error)
            continue
        if pose is not None and name in beginning.camera_frames:
            mounted[name] = pose
    return mounted, unconnected


def _roles(rig: RigTopics) -> dict[str, str]:
    roles = dict.fromkeys(rig.tf, 'tf') | dict.fromkeys(rig.tf_static, 'tf_static')
    for camera in rig.cameras:
        roles[camera.info] = f'info {camera.name}'
        roles[camera.image] = f'camera {camera.name}'
    for name, topic in rig.lidars.items():
        roles[topic] = 'lidar' if name in ('lidar', topic) else f'lidar {name}'
    if rig.odometry:
        roles[rig.odometry] = 'odometry'
    return roles


_STORAGES = {'.mcap': 'mcap', '.db3': 'sqlite3', '.bag': 'rosbag1'}


def storage_of(files: Sequence[Path]) -> str:
    """Return what a recording's files are, as 'mcap' or 'sqlite3, 3 files, zstd'."""
    kind = _STORAGES.get(storage_suffix(files[0]), 'unknown')
    many = f', {len(files)} files' if len(files) > 1 else ''
    return kind + many + (', zstd' if files[0].name.endswith(PACKED) else '')
