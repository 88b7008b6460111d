"""One recording → one drive of unlabelled frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.data.bag_inputs import BagSource, fingerprint
from bev_training.data.bag_reader import Recording
from bev_training.data.beginning import read_beginning
from bev_training.data.drive_writer import DriveWriter
from bev_training.data.encode import ImageEncoder
from bev_training.data.frame import Calibration
from bev_training.data.frames import FrameSelector
from bev_training.data.nuscenes_export import NuscenesWriter
from bev_training.data.read_frames import read_frames
from bev_training.data.settings import ConvertConfig
from bev_training.data.summary import DriveSummary
from bev_training.data.topics import RigTopics, choose_topics
from bev_training.processes import Stopped

FORMATS = ('drive', 'nuscenes')
_REPORTS = 500  # calls of `progress` per recording, about


def convert_bag(
    source: BagSource,
    folder: Path,
    config: ConvertConfig,
    *,
    format: str = 'drive',
    progress: Callable[[float], None] = lambda share: None,
    stopped: Callable[[], bool] = bool,
) -> DriveSummary:
    """Convert a recording. It appears whole, or nothing of it stays.

    Args:
        source: the recording.
        folder: 'drive': where the drive goes, OUT/name. 'nuscenes': the data set, OUT.
        config: the settings.
        format: one of `FORMATS`.
        progress: called with the share of the recording that is done, 0..1, now and then.
        stopped: asked now and then whether to stop.

    Raises:
        BevError: the recording cannot be used or the result not be written; one line says why.
    """
    encoder = ImageEncoder(jpeg_quality=config.jpeg_quality, privacy=config.privacy)
    with source.open() as recording:
        rig = choose_topics(recording, config)
        selector = FrameSelector(rig, config, read_beginning(recording, rig, config.base_frame))
        messages = _watched(recording, rig, progress, stopped)
        with _writer(format, folder, source.name, rig, config) as writer:
            frames = 0
            for item in read_frames(selector, messages, encoder):
                if isinstance(item, Calibration):
                    writer.add_calibration(item)
                else:
                    writer.add(item)
                    frames += 1
            if not frames:
                raise BagError(_nothing(source, selector))
            return writer.finish(
                facts_of(source, recording, rig, config, encoder.described),
                counts_of(selector, recording),
            )


def facts_of(
    source: BagSource,
    recording: Recording,
    rig: RigTopics,
    config: ConvertConfig,
    images: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a manifest says about where frames come from."""
    return {
        'source': {
            'name': source.name,
            **fingerprint(source),
            'start_ns': recording.start_ns,
            'end_ns': recording.end_ns,
            'messages': recording.message_count,
        },
        'settings': config.as_json(),
        'topics': {
            'cameras': {c.name: {'image': c.image, 'camera_info': c.info} for c in rig.cameras},
            'rectified': [c.name for c in rig.cameras if c.rectified],
            'lidars': dict(rig.lidars),
            'tf': list(rig.tf),
            'tf_static': list(rig.tf_static),
            'odometry': rig.odometry,
        },
        'images': dict(images),
        'code_version': version('bev_perception'),
    }


def counts_of(selector: FrameSelector, recording: Recording) -> dict[str, int]:
    """Return what was read, left out and repaired, by name, without zeros."""
    stats = selector.sync.stats()
    counts = Counter(selector.counts)
    counts['sets_complete'] = stats.complete
    counts['sets_partial'] = stats.partial
    counts['images_late'] = stats.late
    counts['images_twice'] = stats.duplicates
    counts.update({f'images_{reason}': n for reason, n in stats.dropped.items()})
    counts['clock_jumps'] = stats.resets
    counts['messages_unreadable'] = recording.unreadable.total()
    return {name: n for name, n in sorted(counts.items()) if n}


def _writer(
    format: str, folder: Path, name: str, rig: RigTopics, config: ConvertConfig
) -> DriveWriter | NuscenesWriter:
    cameras = tuple(camera.name for camera in rig.cameras)
    if format == 'nuscenes':
        return NuscenesWriter(folder, name, cameras=cameras)
    return DriveWriter(folder, cameras=cameras, shard_bytes=round(config.shard_mb * 1e6))


def _watched(
    recording: Recording,
    rig: RigTopics,
    progress: Callable[[float], None],
    stopped: Callable[[], bool],
) -> Iterator[tuple[str, int, Any]]:
    """Yield the messages of a rig, with a report now and then."""
    start_ns, length_ns = recording.start_ns, max(recording.end_ns - recording.start_ns, 1)
    step_ns = length_ns // _REPORTS
    next_ns = start_ns
    for topic, bag_ns, message in recording.messages(rig.all):
        if bag_ns >= next_ns:
            if stopped():
                raise Stopped('stopped')
            progress(min((bag_ns - start_ns) / length_ns, 1.0))
            next_ns = bag_ns + step_ns
        yield topic, bag_ns, message
    progress(1.0)


def _nothing(source: BagSource, selector: FrameSelector) -> str:
    """Say why a recording gave no frame."""
    counts = selector.counts
    if not counts['images']:
        return f'{source.path}: no image could be read from {selector.rig.cameras[0].image}'
    reasons = [
        f'{counts[what]} {text}{_because(selector, what)}'
        for what, text in {
            'images_damaged': 'images are damaged',
            'images_of_other_size': 'images do not fit their CameraInfo',
            'transforms_unusable': 'transforms are unusable',
            'odometry_unusable': 'poses are unusable',
            'sets_without_pose': 'sets have no pose',
            'images_without_pose': 'images have no pose',
            'sets_too_few_images': 'sets have too few images',
        }.items()
        if counts[what]
    ]
    if not counts['sets']:
        reasons.append(
            f'no set of {selector.sync.config.min_cameras} images within '
            f'{selector.config.max_spread_s} s; `bev inspect` suggests settings'
        )
    return f'{source.path}: no frame from {counts["images"]} images: {"; ".join(reasons)}'


def _because(selector: FrameSelector, what: str) -> str:
    reason = selector.problems.get(what)
    return f' ({reason})' if reason else ''
