"""Settings of the synchroniser that fit a rig: measured, then tried out on the same stamps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bev_perception.sync import SyncConfig, SyncStats, ViewSynchronizer

_ENOUGH_SETS = 10
_LEAST_SPREAD_S = 0.010  # tighter gains nothing, and loses images at the next hiccup
_WORTH = 0.7  # offsets are suggested where they make sets this much tighter
_ROOM = 0.7  # sets up to this share of max_spread_s have room enough


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Settings that belong together.

    Attributes:
        max_spread_s: holds with these offsets.
        offsets_s: of all cameras, in the rig's order; {} for none.
        sets: that they gave with the recorded stamps.
        complete: of those, with all cameras.
    """

    max_spread_s: float
    offsets_s: Mapping[str, float] = field(default_factory=dict)
    sets: int
    complete: int

    @property
    def convert(self) -> str:
        """The options of `bev convert`."""
        spread = f'--max-spread {self.max_spread_s:g}'
        if not self.offsets_s:
            return spread
        named = ','.join(f'{name}={value:g}' for name, value in self.offsets_s.items())
        return f'--offsets {named} {spread}'

    @property
    def node(self) -> str:
        """The parameters of the node, a line of YAML below `ros__parameters`.

        All numbers have a decimal point: ROS takes them for integers otherwise.
        """
        # repr of a float: always a point or an exponent, and never a lost digit
        values = [f'max_spread_s: {float(self.max_spread_s)!r}']
        if self.offsets_s:
            offsets = ', '.join(repr(float(v)) for v in self.offsets_s.values())
            values.append(f'offsets_s: [{offsets}]')
        return f'sync: {{{", ".join(values)}}}'

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            'max_spread_s': self.max_spread_s,
            'offsets_s': dict(self.offsets_s),
            'sets': self.sets,
            'complete': self.complete,
            'convert': self.convert,
            'node': self.node,
        }


def suggest(
    stamps: Sequence[tuple[str, int]], config: SyncConfig, stats: SyncStats
) -> tuple[Suggestion, ...]:
    """Return settings that fit: with the offsets in force, and with those that were measured.

    None where those in force fit, or where others do not make more sets complete either: images
    that were lost do not come back with other settings.

    Args:
        stamps: camera and stamp of images, in the order in which they came.
        config: the settings in force.
        stats: what came out with them.

    Returns:
        None, one, or both.
    """
    wide_s = stats.suggested_max_spread_s
    if wide_s is None or not enough(stats):
        return ()
    given = {name: s for name, s in config.offsets_s.items() if s}
    offsets = {name: given.get(name, 0.0) for name in config.cameras} if given else {}
    plain = _tried(stamps, config, offsets, max(wide_s, config.max_spread_s))
    has_room = (stats.spread_p99_s or 0.0) <= _ROOM * config.max_spread_s
    better = plain.complete > replay(stamps, config).complete
    if has_room and not better:
        return ()
    # The widths of the cycles are other ones after other offsets are subtracted.
    measured = {name: stats.suggested_offsets_s.get(name, 0.0) for name in config.cameras}
    loose = replace(config, offsets_s=measured, max_spread_s=plain.max_spread_s)
    tight_s = replay(stamps, loose).suggested_max_spread_s
    kept = (plain,) if better else ()
    if tight_s is None or max(tight_s, _LEAST_SPREAD_S) > _WORTH * plain.max_spread_s:
        return kept
    return (*kept, _tried(stamps, config, measured, tight_s))


def enough(stats: SyncStats) -> bool:
    """Whether there were enough sets to tell what fits."""
    return stats.complete + stats.partial >= _ENOUGH_SETS


def _tried(
    stamps: Iterable[tuple[str, int]],
    config: SyncConfig,
    offsets_s: Mapping[str, float],
    max_spread_s: float,
) -> Suggestion:
    max_spread_s = max(max_spread_s, _LEAST_SPREAD_S)
    stats = replay(stamps, replace(config, offsets_s=offsets_s, max_spread_s=max_spread_s))
    return Suggestion(
        max_spread_s=max_spread_s,
        offsets_s=offsets_s,
        sets=stats.complete + stats.partial,
        complete=stats.complete,
    )


def replay(stamps: Iterable[tuple[str, int]], config: SyncConfig) -> SyncStats:
    """Return what the synchroniser makes of images that came with these stamps."""
    sync: ViewSynchronizer[None] = ViewSynchronizer(config)
    for camera, stamp_ns in stamps:
        sync.push(camera, stamp_ns, None)
    sync.flush()
    return sync.stats()
