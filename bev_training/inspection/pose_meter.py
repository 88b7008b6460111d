"""The vehicle's poses in a recording: which transforms there are, how dense, where they jump."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bev_perception.messages import frame_id, stamp_ns
from bev_training.inspection.topic_series import TopicSeries, TopicTimes

JUMP_M, JUMP_MPS = 5.0, 60.0  # both exceeded from one sample to the next
_FARTHEST_M = 1e9
_KEPT = 512  # samples: a tree may have a hundred moving frames


@dataclass(frozen=True, kw_only=True)
class EdgeTimes:
    """A moving transform.

    Attributes:
        name: 'parent -> child', or the odometry topic.
        times: of its samples.
        jumps: neighbours further apart than 5 m and faster than 60 m/s.
        worst_jump_m: the widest.
        worst_jump_at_s: where.
    """

    name: str
    times: TopicTimes
    jumps: int
    worst_jump_m: float
    worst_jump_at_s: float


class _Edge:
    """Samples of one moving transform."""

    def __init__(self, name: str, origin_ns: int) -> None:
        self._name, self._origin_ns = name, origin_ns
        self._series = TopicSeries(origin_ns, kept=_KEPT)
        self._last: tuple[int, float, float, float] | None = None
        self._jumps = 0
        self._worst_m = self._worst_at_s = 0.0

    def add(self, bag_ns: int, at_ns: int, x: float, y: float, z: float) -> None:
        self._series.add(bag_ns, at_ns)
        if self._last is not None:
            then_ns, x0, y0, z0 = self._last
            seconds = (at_ns - then_ns) / 1e9
            # damaged numbers are huge; the report has to stay JSON
            moved_m = min(math.dist((x, y, z), (x0, y0, z0)), _FARTHEST_M)
            if seconds > 0 and moved_m > JUMP_M and moved_m > JUMP_MPS * seconds:
                self._jumps += 1
                if moved_m > self._worst_m:
                    self._worst_m = moved_m
                    self._worst_at_s = (at_ns - self._origin_ns) / 1e9
        self._last = at_ns, x, y, z

    def times(self) -> EdgeTimes:
        return EdgeTimes(
            name=self._name,
            times=self._series.times(),
            jumps=self._jumps,
            worst_jump_m=self._worst_m,
            worst_jump_at_s=self._worst_at_s,
        )


class PoseMeter:
    """Moving transforms and the odometry topic."""

    def __init__(self, origin_ns: int) -> None:
        self._origin_ns = origin_ns
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._odometry: _Edge | None = None

    def take_transforms(self, message: Any, bag_ns: int) -> None:
        """Look at a TFMessage of moving transforms."""
        for item in message.transforms:
            key = (frame_id(item.header), str(item.child_frame_id).removeprefix('/'))
            edge = self._edges.get(key)
            if edge is None:
                edge = self._edges[key] = _Edge(' -> '.join(key), self._origin_ns)
            place = item.transform.translation
            edge.add(bag_ns, stamp_ns(item.header) or bag_ns, place.x, place.y, place.z)

    def take_odometry(self, topic: str, message: Any, bag_ns: int) -> None:
        """Look at an Odometry or PoseStamped."""
        self._odometry = self._odometry or _Edge(topic, self._origin_ns)
        pose = message.pose.pose if hasattr(message.pose, 'pose') else message.pose
        place = pose.position
        self._odometry.add(bag_ns, stamp_ns(message.header) or bag_ns, place.x, place.y, place.z)

    def moving(self) -> dict[tuple[str, str], EdgeTimes]:
        """Return every moving transform by (parent, child)."""
        return {key: edge.times() for key, edge in self._edges.items()}

    def between(
        self, odom: str, base: str, statics: Iterable[tuple[str, str]] = ()
    ) -> list[EdgeTimes]:
        """Return what the pose of `base` in `odom` is made of and moves.

        Args:
            odom: frame that stands still.
            base: the vehicle's body.
            statics: (parent, child) of transforms that do not move.
        """
        if self._odometry is not None:
            return [self._odometry.times()]
        parents = {child: parent for parent, child in (*statics, *self._edges)}

        def above(frame: str) -> list[tuple[str, str]]:
            chain: list[tuple[str, str]] = []
            while frame in parents and (parents[frame], frame) not in chain:
                chain.append((parents[frame], frame))
                frame = parents[frame]
            return chain

        up, down = above(base), above(odom)
        on_the_way = [key for key in up + down if (key in up) != (key in down)]
        return [self._edges[key].times() for key in on_the_way if key in self._edges]
