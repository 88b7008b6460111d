"""The transform tree: static and moving frames, live from /tf or offline from a bag.

One implementation for both, with what a perception node needs and no more: a lookup at a stamp
interpolates between two samples and refuses to extrapolate; a backward clock jump (a looping bag)
starts the frames anew whose stamps jump; `static_epoch` grows when a static transform changes, so
that whoever caches projections knows when to rebuild them.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from dataclasses import dataclass, field

import numpy as np

from bev_perception.errors import ConfigError, MessageError, TransformUnavailable
from bev_perception.geometry import rigid
from bev_perception.shapes import Rigid

_STATIC_TOLERANCE = 1e-9  # republished static transforms often differ in the last bit
_LISTED_FRAMES = 40
# Samples are missing where they are so far apart, and so many times as far as those around them.
_GAP_NS = 250_000_000
_GAP_PERIODS = 5
_NEAR_SAMPLES = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class StampedTransform:
    """`parent_T_child` at one instant.

    Attributes:
        parent: frame id.
        child: frame id.
        stamp_ns: when it holds; ignored for static transforms.
        parent_T_child: (4, 4) metres.
    """

    parent: str
    child: str
    stamp_ns: int
    parent_T_child: Rigid


@dataclass
class _Edge:
    """What is known of one child frame: its parent and its poses over time."""

    parent: str
    static: bool
    stamps_ns: list[int] = field(default_factory=list)
    poses: list[Rigid] = field(default_factory=list)


class TransformTree:
    """Frames by name; pushes and lookups are not thread-safe (callers hold one lock)."""

    def __init__(self, *, history_s: float = 10.0, jump_s: float = 0.5) -> None:
        """Make an empty tree.

        Args:
            history_s: how long moving transforms are kept, seconds.
            jump_s: stamps of a moving frame that go back by more than this start its history anew.

        Raises:
            ConfigError: a value is not positive.
        """
        if history_s <= 0 or jump_s <= 0:
            raise ConfigError(f'history_s {history_s} and jump_s {jump_s} must be positive')
        self._history_ns = int(history_s * 1e9)
        self._jump_ns = int(jump_s * 1e9)
        self._edges: dict[str, _Edge] = {}
        self.static_epoch = 0
        self.jumps = 0

    def push(self, transform: StampedTransform, *, static: bool) -> None:
        """Take in one transform.

        Raises:
            MessageError: a frame would be its own ancestor.
        """
        edge = self._edges.get(transform.child)
        if edge is None or edge.parent != transform.parent or edge.static != static:
            self._refuse_loop(transform)
            if edge is not None and edge.static and not static:
                self.static_epoch += 1  # whoever cached this static edge must look again
            edge = _Edge(parent=transform.parent, static=static)
            self._edges[transform.child] = edge
        if static:
            self._push_static(edge, transform)
        else:
            self._push_moving(edge, transform)

    def _push_static(self, edge: _Edge, transform: StampedTransform) -> None:
        known = edge.poses and np.allclose(
            edge.poses[0], transform.parent_T_child, rtol=0, atol=_STATIC_TOLERANCE
        )
        if not known:
            edge.poses = [transform.parent_T_child]
            self.static_epoch += 1

    def _push_moving(self, edge: _Edge, transform: StampedTransform) -> None:
        stamps, stamp = edge.stamps_ns, transform.stamp_ns
        if stamps and stamp < stamps[-1] - self._jump_ns:
            # Other frames jump with their own next sample: a single odd stamp must not blind all.
            stamps.clear()
            edge.poses.clear()
            self.jumps += 1
        at = bisect.bisect_left(stamps, stamp)
        if at < len(stamps) and stamps[at] == stamp:
            edge.poses[at] = transform.parent_T_child
            return
        stamps.insert(at, stamp)
        edge.poses.insert(at, transform.parent_T_child)
        old = bisect.bisect_left(stamps, stamps[-1] - self._history_ns)
        del stamps[:old], edge.poses[:old]

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of all known frames, sorted."""
        return tuple(sorted(set(self._edges) | {edge.parent for edge in self._edges.values()}))

    def lookup(self, target: str, source: str, stamp_ns: int) -> Rigid:
        """Return `target_T_source` at a stamp: (4, 4), metres.

        Raises:
            TransformUnavailable: a frame is unknown, the two are not connected, or the stamp lies
                outside the known time range (nothing is extrapolated) or where samples are
                missing.
        """
        up_target, up_source = self._ancestors(target), self._ancestors(source)
        common = next((frame for frame in up_target if frame in up_source), None)
        if common is None or target == source:  # different frames of one tree are surely known
            self._refuse_unknown(target, source)
        if common is None:
            raise TransformUnavailable(
                f'{target!r} and {source!r} are in two trees, with roots {up_target[-1]!r} '
                f'and {up_source[-1]!r}; {self._known()}'
            )
        common_T_source = self._chain(up_source[: up_source.index(common)], stamp_ns)
        if target == common:
            return common_T_source
        common_T_target = self._chain(up_target[: up_target.index(common)], stamp_ns)
        return rigid.inverse(common_T_target) @ common_T_source

    def lookup_static(self, target: str, source: str) -> Rigid | None:
        """Return `target_T_source` (4, 4) if it never changes, None if a part of it moves.

        Raises:
            TransformUnavailable: a frame is unknown, or the two are not connected.
        """
        up_target, up_source = self._ancestors(target), self._ancestors(source)
        path = set(up_target) ^ set(up_source)  # what is above both is no part of it
        connected = up_target[-1] == up_source[-1]
        if connected and any(
            frame in self._edges and not self._edges[frame].static for frame in path
        ):
            return None
        return self.lookup(target, source, 0)

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while (edge := self._edges.get(chain[-1])) is not None:
            chain.append(edge.parent)
        return chain

    def _chain(self, children: list[str], stamp_ns: int) -> Rigid:
        """Multiply the edges above `children` (ordered upwards): ancestor_T_children[0]."""
        total = np.eye(4)
        for child in children:
            total = self._at(child, stamp_ns) @ total
        return total

    def _at(self, child: str, stamp_ns: int) -> Rigid:
        edge = self._edges[child]
        if edge.static:
            return edge.poses[0]
        stamps = edge.stamps_ns
        at = bisect.bisect_left(stamps, stamp_ns)
        if at < len(stamps) and stamps[at] == stamp_ns:
            return edge.poses[at]
        if at == len(stamps):
            raise TransformUnavailable(
                f'{edge.parent!r} -> {child!r}: {stamp_ns} ns is '
                f'{(stamp_ns - stamps[-1]) / 1e9:.3f} s after the newest pose',
                may_arrive=True,
            )
        if at == 0:
            raise TransformUnavailable(
                f'{edge.parent!r} -> {child!r}: {stamp_ns} ns is '
                f'{(stamps[0] - stamp_ns) / 1e9:.3f} s before the oldest pose'
            )
        self._refuse_gap(child, edge, at)
        alpha = (stamp_ns - stamps[at - 1]) / (stamps[at] - stamps[at - 1])
        return rigid.interpolate(edge.poses[at - 1], edge.poses[at], alpha)

    def _refuse_gap(self, child: str, edge: _Edge, at: int) -> None:
        """Refuse to interpolate where samples are missing: the vehicle may have turned meanwhile.

        What is a gap follows from the frame's own rate, since some come once a second.
        """
        stamps = edge.stamps_ns
        gap_ns = stamps[at] - stamps[at - 1]
        if gap_ns <= _GAP_NS:
            return
        near = stamps[max(at - _NEAR_SAMPLES, 0) : at + _NEAR_SAMPLES]
        usual_ns = statistics.median_low([b - a for a, b in itertools.pairwise(near)])
        if gap_ns > _GAP_PERIODS * usual_ns:
            raise TransformUnavailable(
                f'{edge.parent!r} -> {child!r}: no pose came for {gap_ns / 1e9:.3f} s, which '
                f'usually come every {usual_ns / 1e9:.3f} s'
            )

    def _refuse_loop(self, transform: StampedTransform) -> None:
        if transform.child in self._ancestors(transform.parent):
            raise MessageError(
                f'TF {transform.parent!r} -> {transform.child!r} would close a loop'
            )

    def _refuse_unknown(self, *names: str) -> None:
        frames = self.frames
        for frame in names:
            if frame not in frames:
                raise TransformUnavailable(f'frame {frame!r} is not in TF; {self._known()}')

    def _known(self) -> str:
        frames = self.frames
        if not frames:
            return 'no transform has arrived yet'
        more = '' if len(frames) <= _LISTED_FRAMES else f' and {len(frames) - _LISTED_FRAMES} more'
        return f'known frames: {", ".join(frames[:_LISTED_FRAMES])}{more}'
