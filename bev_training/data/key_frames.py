"""Which sets of images become frames, and where a row of neighbouring frames ends."""

from __future__ import annotations

from bev_perception.odometry import distance_m, jumps
from bev_perception.shapes import Rigid
from bev_training.data.settings import KeyFrames

_GAP_S = 2.0  # no set for so long: the recording was interrupted
_LINK_S = 10.0  # frames further apart are no neighbours: the vehicle stood


class KeyFrameRule:
    """Tells for every set in turn whether it is due, and numbers the sequences of frames."""

    def __init__(self, every: KeyFrames) -> None:
        """Start; the first set is due."""
        self._every = every
        self._link_s = max(_LINK_S, 2 * (every.seconds or 0.0))
        self._set: tuple[int, Rigid | None] | None = None  # the last one
        self._frame: tuple[int, Rigid | None] | None = None  # the last one
        self._due_ns = 0  # when the next frame is due, with a rule in seconds
        self._broken = False  # something came between the last frame and now
        self.current = -1  # sequence of the last frame
        self.jumps = 0  # of the odometry

    def due(self, stamp_ns: int, odom_T_base: Rigid | None) -> bool:
        """Whether a set is to become a frame."""
        if self._frame is None or self._broken or self._breaks(stamp_ns, odom_T_base):
            return True
        if self._every.seconds is not None:
            return stamp_ns >= self._due_ns
        if self._every.metres is not None:
            return distance_m(self._frame[1], odom_T_base) >= self._every.metres
        return True

    def sequence(self, stamp_ns: int, odom_T_base: Rigid | None) -> int:
        """Return the number of the sequence that a frame belongs to."""
        far = (
            self._frame is None
            or self._broken
            or self._breaks(stamp_ns, odom_T_base)
            or stamp_ns - self._frame[0] > self._link_s * 1e9
        )
        return self.current + far

    def passed(self, stamp_ns: int, odom_T_base: Rigid | None, *, accepted: bool) -> None:
        """Take note of a set, which became a frame or did not."""
        if self._set is not None:
            seconds = (stamp_ns - self._set[0]) / 1e9
            self.jumps += seconds > 0 and jumps(self._set[1], odom_T_base, seconds)
        if accepted:
            self.current = self.sequence(stamp_ns, odom_T_base)
            self._frame = stamp_ns, odom_T_base
            self._broken = False
            # On the clock, not from the last frame, so that jitter does not add up.
            period_ns = round((self._every.seconds or 0.0) * 1e9)
            self._due_ns += period_ns
            if not stamp_ns < self._due_ns <= stamp_ns + period_ns:
                self._due_ns = stamp_ns + period_ns
        else:
            self._broken = self._broken or self._breaks(stamp_ns, odom_T_base)
        self._set = stamp_ns, odom_T_base

    def broke(self) -> None:
        """Take note that the odometry jumped within a set, which has no pose therefore."""
        self.jumps += 1
        self._broken, self._set = True, None

    def _breaks(self, stamp_ns: int, odom_T_base: Rigid | None) -> bool:
        """Whether something went wrong between the last set and this one."""
        if self._set is None:
            return False
        seconds = (stamp_ns - self._set[0]) / 1e9
        return not 0 < seconds <= _GAP_S or jumps(self._set[1], odom_T_base, seconds)
