"""A recording → frames as they are stored: with encoded images, sweeps and calibrations."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bev_perception.errors import MessageError
from bev_training.data.encode import ImageEncoder
from bev_training.data.frame import Calibration, Frame, FrameView, LidarSweep
from bev_training.data.frames import FrameSelector, LocatedSet
from bev_training.data.pointcloud import read_sweep, sweep_fields

_THREADS = 2
_AHEAD = 4  # frames whose contents are made while the recording is read on


def read_frames(
    selector: FrameSelector, messages: Iterable[tuple[str, int, Any]], encoder: ImageEncoder
) -> Iterator[Frame | Calibration]:
    """Yield the frames of a recording, and before the first one of an epoch its calibration.

    Args:
        selector: new.
        messages: topic, bag time and message, in the recording's order.
        encoder: makes the stored pictures.

    Raises:
        BevError: an image does not fit its CameraInfo, or cannot be stored as was asked.
    """
    known = -1
    for located, contents in _contents(selector, messages, encoder):
        if located.calibration.epoch != known:
            known = located.calibration.epoch
            yield located.calibration
        for what, error in contents.problems:
            selector.note(what, error)
        if len(contents.views) < selector.sync.config.min_cameras:
            selector.note('sets_too_few_images')
        else:
            yield _frame(located, contents, selector.cameras)


@dataclass(frozen=True, eq=False)
class _Contents:
    """Of one frame: what is stored, and what cannot be."""

    views: tuple[FrameView, ...]
    sweeps: tuple[LidarSweep, ...]
    problems: tuple[tuple[str, MessageError], ...]


def _contents(
    selector: FrameSelector, messages: Iterable[tuple[str, int, Any]], encoder: ImageEncoder
) -> Iterator[tuple[LocatedSet, _Contents]]:
    """Yield the key frames in order with their contents, made on threads meanwhile."""
    waiting: deque[tuple[LocatedSet, Future[_Contents] | _Contents]] = deque()
    # A privacy function may follow what it sees from image to image: one thread, in order.
    threads = 1 if encoder.in_order else _THREADS
    with ThreadPoolExecutor(threads, thread_name_prefix='encode') as pool:
        try:
            for located in located_sets(selector, messages):
                # What is only handed on is not worth waking a thread.
                long = encoder.takes_long(message for _, message in located.images.values())
                made = pool.submit(_made, located, encoder) if long else _made(located, encoder)
                waiting.append((located, made))
                while waiting and (len(waiting) > _AHEAD or not isinstance(waiting[0][1], Future)):
                    yield _taken(waiting)
            while waiting:
                yield _taken(waiting)
        finally:
            for _, contents in waiting:
                if isinstance(contents, Future):
                    contents.cancel()


def _taken(
    waiting: deque[tuple[LocatedSet, Future[_Contents] | _Contents]],
) -> tuple[LocatedSet, _Contents]:
    located, contents = waiting.popleft()
    return located, contents.result() if isinstance(contents, Future) else contents


def located_sets(
    selector: FrameSelector, messages: Iterable[tuple[str, int, Any]]
) -> Iterator[LocatedSet]:
    """Yield the sets of images that a recording's messages make."""
    for topic, bag_ns, message in messages:
        yield from selector.push(topic, bag_ns, message)
    yield from selector.finish()


def _made(located: LocatedSet, encoder: ImageEncoder) -> _Contents:
    problems: list[tuple[str, MessageError]] = []
    views: list[FrameView] = []
    for name, (at_ns, message) in located.images.items():
        try:
            image = encoder.encode(message, camera=name, stamp_ns=at_ns)
        except MessageError as error:  # found only now: it had to be decoded
            problems.append(('images_damaged', error))
            continue
        view = FrameView(
            camera=name,
            stamp_ns=at_ns,
            image=image,
            ego_T_cam=located.poses.ego_T_cam[name],
            odom_T_base=located.poses.odom_T_base_at.get(name),
        )
        views.append(view)
    sweeps: list[LidarSweep] = []
    for cloud, ego_T_lidar in located.clouds:
        fields = located.calibration.lidars[cloud.lidar].fields
        try:
            points = read_sweep(cloud.message, fields, cloud.stamp_ns)
        except MessageError as error:
            problems.append(('sweeps_damaged', error))
            continue
        if sweep_fields(cloud.message) != fields:
            problem = MessageError(f'its fields give {sweep_fields(cloud.message)}, not {fields}')
            problems.append(('sweeps_of_other_fields', problem))
        sweep = LidarSweep(
            lidar=cloud.lidar, stamp_ns=cloud.stamp_ns, points=points, ego_T_lidar=ego_T_lidar
        )
        sweeps.append(sweep)
    return _Contents(tuple(views), tuple(sweeps), tuple(problems))


def _frame(located: LocatedSet, contents: _Contents, cameras: tuple[str, ...]) -> Frame:
    seen = {view.camera for view in contents.views}
    return Frame(
        stamp_ns=located.stamp_ns,
        epoch=located.calibration.epoch,
        sequence=located.sequence,
        odom_T_ego=located.poses.odom_T_ego,
        base_T_ego=located.poses.base_T_ego,
        views=contents.views,
        missing=tuple(name for name in cameras if name not in seen),
        sweeps=contents.sweeps,
        spread_s=located.spread_s,
    )
