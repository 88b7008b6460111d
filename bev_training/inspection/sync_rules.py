"""What is wrong with the sets of images of a recording, and the settings that would be right."""

from __future__ import annotations

from collections.abc import Iterator

from bev_perception.sync import SyncStats
from bev_training.inspection.bag_measurements import BagMeasured

_PARTIAL_SHARE = 0.05
_LOST_SHARE = 0.01
_ABSENT_SHARE = 0.5
_EDGE_SETS = 4  # sets that may be incomplete because the recording begins or ends there


def sync_findings(m: BagMeasured) -> Iterator[tuple[str, str, str]]:
    """Yield (rule, camera, text)."""
    s = m.sync
    if s is None:
        return
    if not m.frames:
        yield 'BAG020', '', _nothing(m)
    total = s.complete + s.partial
    if s.partial > max(_PARTIAL_SHARE * total, _EDGE_SETS):
        worst = max(s.cameras, key=lambda name: s.cameras[name].missing)
        yield (
            'BAG021',
            worst,
            f'{s.partial} of {total} sets ({s.partial / total:.1%}) lack a camera; {worst} is '
            f'missing in {s.cameras[worst].missing}',
        )
    for name, c in s.cameras.items():
        lost = c.dropped + c.late
        if lost > max(_LOST_SHARE * c.received, _EDGE_SETS):
            reasons = ', '.join(f'{why} {n}' for why, n in sorted(s.dropped.items()))
            yield (
                'BAG022',
                name,
                f'{lost} of {c.received} images are in no set ({c.late} late; of all cameras '
                f'{reasons or "none dropped"})',
            )
        if c.missing > max(_ABSENT_SHARE * total, _EDGE_SETS):
            yield 'BAG024', name, f'it is missing in {c.missing} of {total} sets'
    wide = s.suggested_max_spread_s
    if wide is not None and wide > m.config.max_spread_s and s.dropped.get('too_wide', 0):
        yield (
            'BAG023',
            '',
            f'cycles are up to {wide} s wide, max_spread_s is {m.config.max_spread_s}: '
            f'{s.dropped["too_wide"]} images are cut off; use {" ".join(convert_options(m))}',
        )


def _nothing(m: BagMeasured) -> str:
    if m.ended:
        return m.ended
    if not m.sets:
        return (
            f'no set of {m.config.min_cameras} or more images within {m.config.max_spread_s} s '
            f'in {m.counts.get("images", 0)} images'
        )
    reasons = [
        f'{m.counts[what]} {what.replace("_", " ")} ({m.problems[what]})'
        for what in sorted(m.problems)
        if m.counts.get(what)
    ]
    return f'none of {m.sets} sets becomes a frame: {"; ".join(reasons) or "no key frame"}'


def convert_options(m: BagMeasured) -> list[str]:
    """Return what to pass to `bev convert` so that the sets fit this rig; [] where they do."""
    s = m.sync
    if s is None or s.suggested_max_spread_s is None:
        return []
    if not s.dropped.get('too_wide', 0) and s.suggested_max_spread_s <= m.config.max_spread_s:
        return []
    return ['--max-spread', f'{s.suggested_max_spread_s:g}']


def suggested_settings(s: SyncStats) -> dict[str, str]:
    """Return the suggestions as options of `bev convert` and as the node's parameters.

    With `offsets_s`, `max_spread_s` may be smaller, but that value has to be measured with them.
    """
    if s.suggested_max_spread_s is None:
        return {}
    offsets = dict(s.suggested_offsets_s)
    named = ','.join(f'{name}={value:g}' for name, value in offsets.items())
    values = ', '.join(f'{value:g}' for value in offsets.values())
    return {
        'convert': f'--max-spread {s.suggested_max_spread_s:g}',
        'convert_offsets': f'--offsets {named}',
        'node': f'sync.max_spread_s: {s.suggested_max_spread_s:g}',
        'node_offsets': f'sync.offsets_s: [{values}]',
    }
