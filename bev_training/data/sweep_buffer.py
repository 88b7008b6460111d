"""The newest sweeps of one lidar, until the frame that they belong to is known."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

_NEAR_NS = 250_000_000  # a sweep further away from a frame does not show its instant
_JUMP_NS = 500_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class StampedCloud:
    """A `sensor_msgs/PointCloud2` that is not read yet."""

    lidar: str
    stamp_ns: int
    message: Any


class SweepBuffer:
    """Sweeps in the order of their stamps."""

    def __init__(self, max_sweeps: int, *, held_s: float = 1.3) -> None:
        """Start empty.

        Args:
            max_sweeps: of one frame.
            held_s: how far frames look back at most.
        """
        self._max = max_sweeps
        self._held_ns = round(held_s * 1e9)
        self._clouds: deque[StampedCloud] = deque()
        self._taken_ns = 0

    def push(self, cloud: StampedCloud) -> str:
        """Take in a sweep.

        Returns:
            '' or what is odd: 'sweeps_twice' (it is there already, and left out), 'sweeps_late'
            (a frame took a newer one, so it is left out), 'lidar_clock_jumps' (its stamp is
            older by so much that those before it are given up).
        """
        odd = ''
        if self._clouds and cloud.stamp_ns < self._clouds[-1].stamp_ns - _JUMP_NS:
            self._clouds.clear()  # the clock went back
            self._taken_ns = 0
            odd = 'lidar_clock_jumps'
        if any(cloud.stamp_ns == c.stamp_ns and _same(cloud, c) for c in self._clouds):
            return 'sweeps_twice'
        if cloud.stamp_ns <= self._taken_ns:
            return 'sweeps_late'
        self._clouds.append(cloud)
        at = len(self._clouds) - 1
        while at and self._clouds[at - 1].stamp_ns > cloud.stamp_ns:
            self._clouds[at] = self._clouds[at - 1]
            at -= 1
        self._clouds[at] = cloud
        old_ns = self._clouds[-1].stamp_ns - self._held_ns
        while len(self._clouds) > self._max and self._clouds[self._max].stamp_ns < old_ns:
            self._clouds.popleft()
        return odd

    def may_lack(self, stamp_ns: int) -> bool:
        """Whether the sweep nearest to a stamp may still come. A lidar that has been silent for
        half a second is not waited for.
        """
        if not self._clouds:
            return self._taken_ns == 0
        return 0 < stamp_ns - self._clouds[-1].stamp_ns < _JUMP_NS

    def take(self, stamp_ns: int) -> list[StampedCloud]:
        """Return what `around` does; later frames do not get these sweeps again."""
        found = self.around(stamp_ns)
        if found:
            self._taken_ns = max(self._taken_ns, found[-1].stamp_ns)
        return found

    def around(self, stamp_ns: int) -> list[StampedCloud]:
        """Return the sweep nearest to a frame and those before it since the last frame's, oldest
        first, at most `max_sweeps`. Nothing if none is near.
        """
        clouds = list(self._clouds)
        if not clouds:
            return []
        nearest = min(range(len(clouds)), key=lambda i: abs(clouds[i].stamp_ns - stamp_ns))
        newest = clouds[nearest]
        if abs(newest.stamp_ns - stamp_ns) > _NEAR_NS:
            return []
        before = [c for c in clouds[:nearest] if c.stamp_ns > self._taken_ns]
        return [*before, newest][-self._max :]


def _same(one: StampedCloud, two: StampedCloud) -> bool:
    return bytes(one.message.data) == bytes(two.message.data)
