"""What is wrong with the sets of images of a recording, and the settings that would be right."""

from __future__ import annotations

from collections.abc import Iterator

from bev_training.inspection.bag_measurements import BagMeasured
from bev_training.inspection.findings import plural

_PARTIAL_SHARE = 0.05
_LOST_SHARE = 0.01
_ABSENT_SHARE = 0.5
_EDGE_SETS = 4  # sets that may be incomplete because the recording begins or ends there


def sync_findings(m: BagMeasured) -> Iterator[tuple[str, str, str]]:
    """Yield (rule, camera, text)."""
    s = m.sync
    if s is None:
        return
    if not m.frames and not m.ended:
        yield 'BAG020', '', _nothing(m)
    total = s.complete + s.partial
    wide_s = s.suggested_max_spread_s or 0.0
    cut = s.dropped.get('too_wide', 0) if wide_s > m.config.max_spread_s else 0
    if cut:
        # of two suggestions the first keeps the offsets in force
        use = m.suggestions[0].convert if m.suggestions else f'--max-spread {wide_s:g}'
        yield (
            'BAG023',
            '',
            f'cycles are wider than max_spread_s {m.config.max_spread_s:g}: '
            f'{plural(cut, "image")} cut off; use {use}',
        )
    # What is cut off has been told: the findings below are about other causes.
    if s.partial - cut > max(_PARTIAL_SHARE * total, _EDGE_SETS):
        worst = max(s.cameras, key=lambda name: s.cameras[name].missing)
        yield (
            'BAG021',
            worst,
            f'{s.partial} of {plural(total, "set")} ({s.partial / total:.1%}) without a camera; '
            f'{worst} is missing in {s.cameras[worst].missing}',
        )
    reasons = ', '.join(f'{why} {n}' for why, n in sorted(s.dropped.items()) if n)
    for name, c in s.cameras.items():
        dropped = 0 if cut else c.dropped
        if dropped + c.late > max(_LOST_SHARE * c.received, _EDGE_SETS):
            yield (
                'BAG022',
                name,
                f'{dropped + c.late} of {plural(c.received, "image")} in no set: {c.late} late, '
                f'{dropped} dropped' + (f' (of all cameras: {reasons})' if dropped else ''),
            )
        if c.missing - (c.dropped if cut else 0) > max(_ABSENT_SHARE * total, _EDGE_SETS):
            yield 'BAG024', name, f'it is missing in {c.missing} of {plural(total, "set")}'


def _nothing(m: BagMeasured) -> str:
    if not m.sets:
        return (
            f'no set of {m.config.min_cameras} or more images within {m.config.max_spread_s} s '
            f'in {plural(m.counts.get("images", 0), "image")}'
        )
    reasons = [
        f'{m.counts[what]} {what.replace("_", " ")} ({m.problems[what]})'
        for what in sorted(m.problems)
        if m.counts.get(what)
    ]
    return (
        f'none of {plural(m.sets, "set")} becomes a frame: {"; ".join(reasons) or "no key frame"}'
    )
