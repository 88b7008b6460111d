"""The report as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bev_training.inspection.findings import Finding, Subject, count_by_severity


def text_report(subjects: Sequence[Subject]) -> str:
    """Return all subjects and a last line with the number of errors and warnings."""
    blocks = [text_of(subject) for subject in subjects]
    return '\n\n'.join([*blocks, summary_line(subjects)]) + '\n'


def summary_line(subjects: Sequence[Subject]) -> str:
    """Return '2 errors, 1 warning'."""
    counts = count_by_severity(subjects)
    errors, warnings = counts['error'], counts['warning']
    return f'{_plural(errors, "error")}, {_plural(warnings, "warning")}'


def text_of(subject: Subject) -> str:
    """Return one subject: what it is, its tables, its findings."""
    lines = [headline(subject)]
    if subject.facts:
        describe = _recording if subject.kind == 'recording' else _drive
        lines += describe(subject.facts)
    lines += [_finding(finding) for finding in subject.findings]
    return '\n'.join(lines)


def headline(subject: Subject) -> str:
    """Return path, kind and size in one line."""
    f = subject.facts
    if not f:
        return f'{subject.path}: not readable'
    size = f'{f["size_bytes"] / 1e6:,.1f} MB'
    if subject.kind == 'recording':
        return (
            f'{subject.path}: {f["storage"]}, {size}, {f["seconds"]:.1f} s, '
            f'{f["messages"]:,} messages'
        )
    return (
        f'{subject.path}: drive, {f["frames"]:,} frames, {size}, {f["seconds"]:.1f} s, '
        f'{distance(f["metres"])}'
    )


def distance(metres: float) -> str:
    """Return '3.1 km' or '25 m'."""
    return f'{metres / 1000:.1f} km' if metres >= 1000 else f'{metres:.0f} m'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return lines with columns below each other; `left` ones aligned left, others right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        '  '
        + '  '.join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


TOPIC_HEAD = ('topic', 'role', 'messages', 'Hz', 'worst gap', 'gaps', 'stamp to bag', 'MB/s')


def topic_rows(facts: Mapping[str, Any], *, read_only: bool) -> list[tuple[str, ...]]:
    """Return the rows of the table of topics.

    Args:
        facts: of a recording.
        read_only: leave out topics that are not read.
    """
    rows: list[tuple[str, ...]] = []
    for t in facts['topics']:
        if read_only and not t['role']:
            continue
        rate = t.get('bytes_per_s')
        rows.append(
            (
                t['topic'],
                t['role'],
                f'{t["messages"]:,}',
                _number(t.get('hz'), '.1f'),
                _number(t.get('worst_gap_s'), '.3f', ' s'),
                str(len(t['gaps'])) if 'gaps' in t else '-',
                _number(t.get('offset_s'), '.3f', ' s'),
                _number(None if rate is None else rate / 1e6, '.2f'),
            )
        )
    return rows


def sync_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what became of the images, and the settings that would be right."""
    s = facts['sync']
    if s is None:
        return []
    total = s['complete'] + s['partial']
    dropped = sum(s['dropped'].values())
    lines = [
        f'sync: {total:,} sets, {s["complete"]:,} complete, {s["partial"]:,} partial; '
        f'{s["late"]} images late, {s["duplicates"]} repeated, {dropped} dropped'
        + (f' ({", ".join(f"{k} {v}" for k, v in sorted(s["dropped"].items()))})' * bool(dropped))
    ]
    if s['spread_p50_s'] is not None:
        spreads = ', '.join(
            f'{name} {s[f"spread_{name}_s"] * 1e3:.1f} ms' for name in ('p50', 'p95', 'p99')
        )
        lines.append(
            f'  spread of a set: {spreads} (max_spread_s {s["settings"]["max_spread_s"]})'
        )
    lines += suggestion_lines(s)
    return lines


def suggestion_lines(sync: Mapping[str, Any]) -> list[str]:
    """Return the options of `bev convert` and the parameters of the node that are suggested."""
    n = sync['suggested']
    if not n:
        return []
    return [
        f'  suggested: bev convert {n["convert"]}',
        f'             node: {n["node"]}',
        f'  exposure offsets: bev convert {n["convert_offsets"]}',
        f'             node: {n["node_offsets"]}',
    ]


def estimate_line(facts: Mapping[str, Any]) -> str:
    """Return how many frames a conversion would write."""
    f = facts['frames']
    return (
        f'frames: {f["frames"]:,} with --every {f["every"]} ({f["sets"]:,} sets, '
        f'{distance(f["metres"])}, {_plural(f["epochs"], "calibration")})'
    )


def _recording(facts: Mapping[str, Any]) -> list[str]:
    rows = topic_rows(facts, read_only=bool(facts['cameras']))
    lines = table(TOPIC_HEAD, rows, left=2)
    others = [t for t in facts['topics'] if not t['role']]
    if facts['cameras'] and others:
        lines.append(f'  not read: {_plural(len(others), "other topic")}')
    if facts['cameras']:
        lines += table(CAMERA_HEAD, camera_rows(facts), left=4)
    lines += sync_lines(facts)
    if facts['sync'] is not None:
        lines.append(estimate_line(facts))
    return lines


CAMERA_HEAD = ('camera', 'image', 'format', 'lens', 'field of view', 'place (x, y, z)')


def camera_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the table of cameras."""
    rows: list[tuple[str, ...]] = []
    for name, c in facts['cameras'].items():
        known = c['calibration']
        rows.append(
            (
                name,
                ' '.join(f'{w}x{h}' for w, h in c['sizes_px']) or '-',
                ' '.join(c['formats']) or '-',
                known['model'] if known else '-',
                f'{known["view_deg"]:.0f}°' if known else '-',
                ', '.join(f'{v:.2f}' for v in c['at_m']) + ' m' if c['at_m'] else '-',
            )
        )
    return rows


DRIVE_HEAD = ('camera', 'images', 'missing', 'with lidar')


def drive_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the table of a drive's cameras."""
    return [
        (
            name,
            f'{c["images"]:,}',
            f'{facts["frames"] - c["images"]:,}',
            f'{c["images_with_lidar"]} of {c["images_projected"]}'
            if c['images_projected']
            else '-',
        )
        for name, c in facts['cameras'].items()
    ]


def drive_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what a drive holds besides images."""
    speed, seen = facts['speed_mps'], facts['points_seen_share']
    return [
        f'{_plural(facts["sequences"], "sequence")}, {_plural(facts["epochs"], "calibration")}, '
        f'{facts["sweeps"]:,} lidar sweeps'
        + ('' if seen is None else f', {seen:.0%} of their points in an image')
        + (
            ''
            if speed['max'] is None
            else f'; speed {speed["median"]:.1f} m/s (median), {speed["max"]:.1f} m/s (max)'
        )
    ]


def _drive(facts: Mapping[str, Any]) -> list[str]:
    return [
        *table(DRIVE_HEAD, drive_rows(facts)),
        *(f'  {line}' for line in drive_lines(facts)),
    ]


def _finding(finding: Finding) -> str:
    where = f'{finding.where}: ' if finding.where else ''
    return f'{finding.severity:<7} {finding.rule}  {where}{finding.text}'


def _number(value: float | None, form: str, unit: str = '') -> str:
    return '-' if value is None else f'{value:{form}}{unit}'


def _plural(count: int, what: str) -> str:
    return f'{count:,} {what}{"" if count == 1 else "s"}'
