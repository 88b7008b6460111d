"""What a temporal network remembers, between the instants of one drive: its caller's state.

Node, replay and evaluation each own a `Recollection`; training reads the instants before a sample
by the same rule (`break_between`), so all of them know as much of the past.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bev_perception.errors import ConfigError
from bev_perception.model.tensors import BevInputs, BevMemory
from bev_perception.odometry import jumps
from bev_perception.predictor import Predictor, Probabilities
from bev_perception.shapes import Rigid
from bev_perception.views import ViewSet

# Drives are trained on at 2 Hz mostly, so two frames that follow each other are 0.5 s apart, or
# 1 s where one is left out. A live rig is faster: there this bridges a dozen lost sets.
MAX_GAP_S = 1.5
# Why a memory is given up, in the order in which it is looked for.
REASONS = ('no_pose', 'clock_jump', 'gap', 'calibration', 'odometry_jump')


@dataclass(frozen=True, eq=False, kw_only=True)
class Whereabouts:
    """When and where a vehicle was.

    Attributes:
        stamp_ns: the instant.
        odom_T_ego: (4, 4) the ego frame in a frame that the vehicle moves smoothly in; None where
            unknown.
        epoch: equal as long as nothing is known to have changed but the vehicle's place: the
            calibrations, the static transforms, the clock.
    """

    stamp_ns: int
    odom_T_ego: Rigid | None
    epoch: Hashable = 0

    @classmethod
    def of(cls, view_set: ViewSet, epoch: Hashable) -> Whereabouts:
        """Return those of a view set."""
        return cls(stamp_ns=view_set.stamp_ns, odom_T_ego=view_set.odom_T_ego, epoch=epoch)


def break_between(then: Whereabouts, now: Whereabouts, max_gap_s: float = MAX_GAP_S) -> str:
    """Return why nothing of one instant can be known at a later one: one of `REASONS`; '' if it
    can.
    """
    gap_s = (now.stamp_ns - then.stamp_ns) / 1e9
    if then.odom_T_ego is None or now.odom_T_ego is None:
        return 'no_pose'
    if gap_s <= 0:
        return 'clock_jump'
    if gap_s > max_gap_s:
        return 'gap'
    if then.epoch != now.epoch:
        return 'calibration'
    if jumps(then.odom_T_ego, now.odom_T_ego, gap_s):
        return 'odometry_jump'
    return ''


class Recollection:
    """The newest memory of a temporal network, handed out only where it still holds.

    Not for several threads at once.
    """

    def __init__(self, max_gap_s: float = MAX_GAP_S) -> None:
        """Start without a memory.

        Args:
            max_gap_s: an older memory is given up.

        Raises:
            ConfigError: it is not positive.
        """
        if not max_gap_s > 0:
            raise ConfigError(f'max_gap_s is {max_gap_s}; it must be above 0')
        self._max_gap_s = max_gap_s
        self._kept: tuple[BevMemory, Whereabouts] | None = None
        self._resets: Counter[str] = Counter()
        self.used = 0

    @property
    def resets(self) -> Mapping[str, int]:
        """How often a memory was given up or could not be made, by reason."""
        return MappingProxyType(self._resets)

    def predict(self, predictor: Predictor, inputs: BevInputs, now: Whereabouts) -> Probabilities:
        """Run a temporal network on the next instant, and keep what it remembers of that.

        Args:
            predictor: the network.
            inputs: from `preprocess.prepare`.
            now: when and where they were taken.
        """
        said = predictor.predict(inputs, self.before(now))
        self.keep(said.memory, now)
        return said

    def before(self, now: Whereabouts) -> BevMemory | None:
        """Return the memory that an instant may use; None at a first one.

        One that does not hold is given up, and counted.
        """
        if now.odom_T_ego is None:
            self.reset('no_pose')
            return None
        if self._kept is None:
            return None
        memory, then = self._kept
        reason = break_between(then, now, self._max_gap_s)
        if reason:
            self.reset(reason)
            return None
        self.used += 1
        return memory

    def keep(self, memory: BevMemory | None, now: Whereabouts) -> None:
        """Keep what a network remembers of an instant, instead of what was; None forgets."""
        self._kept = None if memory is None or now.odom_T_ego is None else (memory, now)

    def reset(self, reason: str) -> None:
        """Forget, and count why."""
        self._kept = None
        self._resets[reason] += 1
