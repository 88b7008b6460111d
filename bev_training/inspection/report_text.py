"""The report as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bev_training.inspection.findings import (
    Finding,
    Subject,
    count_by_severity,
    in_order,
    plural,
)
from bev_training.inspection.rules import RULES

_COLUMNS = 100
_FEW = 4  # subjects that are told at length
_NAMED = 5  # topics that are not read


def text_report(subjects: Sequence[Subject]) -> str:
    """Return all subjects and a last line with the number of errors and warnings.

    Of many, a line each, and their findings together.
    """
    if len(subjects) > _FEW:
        blocks = [
            '\n'.join(lines) for lines in (_overview(subjects), _together(subjects)) if lines
        ]
    else:
        blocks = [text_of(subject) for subject in subjects]
    return '\n\n'.join([*blocks, summary_line(subjects)]) + '\n'


def _overview(subjects: Sequence[Subject]) -> list[str]:
    """Return a table with a line for each."""
    names = short_names([subject.path for subject in subjects])
    rows = []
    for subject, name in zip(subjects, names, strict=True):
        counts = count_by_severity([subject])
        bad = [f'{counts[kind]}' if counts[kind] else '-' for kind in ('error', 'warning')]
        rows.append((name, *_measures(subject), *bad))
    head = ('', 'MB', 'seconds', 'metres', 'frames', 'errors', 'warnings')
    lines = table(head, rows, right=range(1, 7))
    folder = subjects[0].path.removesuffix(names[0])
    return [f'{len(subjects)} below {folder}', *lines] if folder else lines


def _measures(subject: Subject) -> tuple[str, ...]:
    f = subject.facts
    if not f:
        return ('-',) * 4
    drive = subject.kind == 'drive'
    frames, metres = (f['frames'], f['metres']) if drive else _estimate(f)
    return f'{f["size_bytes"] / 1e6:,.1f}', f'{f["seconds"]:,.1f}', f'{metres:,.0f}', f'{frames:,}'


def _estimate(facts: Mapping[str, Any]) -> tuple[int, float]:
    f = facts['frames']
    return 0 if f['stopped_by'] else f['frames'], f['metres']


def short_names(paths: Sequence[str]) -> list[str]:
    """Return paths without the folders that all of them share."""
    parts = [path.split('/') for path in paths]
    least = min(len(one) for one in parts)
    same = 0
    while same < least - 1 and len({one[same] for one in parts}) == 1:
        same += 1
    return ['/'.join(one[same:]) for one in parts]


def _together(subjects: Sequence[Subject]) -> list[str]:
    """Return a line per rule: in how many it was found, and the first finding."""
    paths = [subject.path for subject in subjects]
    names = dict(zip(paths, short_names(paths), strict=True))
    by_rule: dict[str, list[Finding]] = {}
    for finding in in_order(f for subject in subjects for f in subject.findings):
        by_rule.setdefault(finding.rule, []).append(finding)
    lines = []
    for rule, findings in by_rule.items():
        first, count = findings[0], len({finding.subject for finding in findings})
        start = f'{first.severity:<7} {rule}  '
        lines.append(f'{start}{RULES[rule].title}: in {count} of {len(subjects)}, such as')
        name = names.get(first.subject, first.subject)
        lines += _wrapped(f'{name}: {_where(first)}{first.text}', ' ' * len(start))
    if lines:
        lines.append('Fewer at once, --html and --json tell more.')
    return lines


def summary_line(subjects: Sequence[Subject]) -> str:
    """Return '2 errors, 1 warning'."""
    counts = count_by_severity(subjects)
    errors, warnings = counts['error'], counts['warning']
    return f'{plural(errors, "error")}, {plural(warnings, "warning")}'


def text_of(subject: Subject) -> str:
    """Return one subject: what it is, its tables, its findings."""
    lines = [headline(subject)]
    if subject.facts:
        describe = _recording if subject.kind == 'recording' else _drive
        lines += describe(subject.facts)
    lines += [line for finding in subject.findings for line in _finding(finding)]
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
        f'{subject.path}: drive, {plural(f["frames"], "frame")}, {size}, {f["seconds"]:.1f} s, '
        f'{distance(f["metres"])}'
    )


def distance(metres: float) -> str:
    """Return '3.1 km' or '25 m'."""
    return f'{metres / 1000:.1f} km' if metres >= 1000 else f'{metres:.0f} m'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """Return lines with columns below each other; those of `right` aligned right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        '  '
        + '  '.join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


TOPIC_HEAD = ('role', 'messages', 'Hz', 'worst gap', 'gaps', 'delay', 'MB/s', 'topic')


def topic_rows(facts: Mapping[str, Any], *, all_of_them: bool) -> list[tuple[str, ...]]:
    """Return the rows of the table of topics.

    Args:
        facts: of a recording.
        all_of_them: also CameraInfo, static transforms and topics that are not read, which have
            their type in place of the role.
    """
    rows: list[tuple[str, ...]] = []
    for t in facts['topics']:
        kind = t['role'].split(' ')[0]
        if kind in ('', 'info', 'tf_static') and not all_of_them:
            continue
        rate = t.get('bytes_per_s')
        rows.append(
            (
                t['role'] or f'({t["type"].rpartition("/")[2]})',
                f'{t["messages"]:,}',
                _number(t.get('hz'), '.1f'),
                _number(t.get('worst_gap_s'), '.3f', ' s'),
                str(len(t['gaps'])) if 'gaps' in t else '-',
                _number(t.get('offset_s'), '.3f', ' s'),
                _number(None if rate is None else rate / 1e6, '.2f'),
                t['topic'],
            )
        )
    return rows


def sync_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what became of the images, and the settings that would be right."""
    s = facts['sync']
    if s is None:
        return []
    total = s['complete'] + s['partial']
    lost = {'late': s['late'], 'repeated': s['duplicates'], **dict(sorted(s['dropped'].items()))}
    lines = [
        f'sync: {plural(total, "set")}, {s["complete"]:,} complete; images in no set: '
        + (', '.join(f'{n:,} {why}' for why, n in lost.items() if n) or 'none')
    ]
    if s['spread_p50_s'] is not None:
        spreads = ', '.join(
            f'{name} {s[f"spread_{name}_s"] * 1e3:.1f} ms' for name in ('p50', 'p95', 'p99')
        )
        lines.append(
            f'  spread of a set: {spreads} (max_spread_s {s["settings"]["max_spread_s"]:g})'
        )
    return lines + suggestion_lines(s)


def suggestion_lines(sync: Mapping[str, Any]) -> list[str]:
    """Return the settings that fit: each pair of lines for `bev convert` and the node's YAML."""
    if sync['settings_fit']:
        if sync['partial']:
            return ['  with no other settings are more sets complete']
        return ['  the settings in force are fine']
    lines: list[str] = []
    for one in sync['suggested']:
        start = '  or, tighter, with exposure offsets' if lines else '  settings that fit'
        if one['offsets_s'] and not lines:
            start = '  tighter, with exposure offsets'
        order = f'; cameras: [{", ".join(one["offsets_s"])}]' if one['offsets_s'] else ''
        lines += [
            f'{start} ({one["complete"]:,} of the newest {plural(one["sets"], "set")} complete):',
            f'    {one["convert"]}',
            f'    {one["node"]}',
        ]
        if order:
            lines += _wrapped(f'# in the order of {order[2:]}', '    ')
    return lines


def estimate_line(facts: Mapping[str, Any]) -> str:
    """Return how many frames a conversion would write."""
    f = facts['frames']
    sets = f'{plural(f["sets"], "set")}, {distance(f["metres"])}'
    text = (
        f'{f["frames"]:,} with --every {f["every"]} ({sets}, {plural(f["epochs"], "calibration")})'
    )
    if f['stopped_by']:
        return (
            f'frames: 0, a conversion would stop at {f["stopped_at_s"]:.1f} s ({f["stopped_by"]})'
        )
    return f'frames: {text}'


def _recording(facts: Mapping[str, Any]) -> list[str]:
    rows = topic_rows(facts, all_of_them=not facts['cameras'])
    lines = _cut(table(TOPIC_HEAD, rows, right=range(1, 7)), rows)
    if facts['cameras']:
        lines += not_read_lines(facts)
    if facts['cameras']:
        lines += table(CAMERA_HEAD, camera_rows(facts), right=())
    lines += sync_lines(facts)
    if facts['sync'] is not None:
        lines += [estimate_line(facts), *left_out_lines(facts)]
    return lines


def not_read_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of topics that are not read."""
    others = [
        f'{t["topic"]} ({t["type"].rpartition("/")[2]})' for t in facts['topics'] if not t['role']
    ]
    if not others:
        return []
    more = f' and {len(others) - _NAMED} more, see --html' if len(others) > _NAMED else ''
    return _wrapped(f'not read: {", ".join(others[:_NAMED])}{more}', '  ')


def left_out_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what a conversion would leave out or repair besides sets between key frames."""
    said = [
        f'{what.replace("_", " ")} ({count:,})'
        for what, count in facts['frames']['left_out'].items()
        if what != 'sets_between'
    ]
    return _wrapped(f'left out or repaired: {", ".join(said)}', '  ') if said else []


def _cut(lines: list[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Shorten topics, which are last in a line, in their middle where a line is too long."""
    out = lines[:1]
    for line, row in zip(lines[1:], rows, strict=True):
        over = len(line) - _COLUMNS
        if over > 0:
            topic = row[-1]
            keep = max(len(topic) - over - 1, 12)
            head = keep // 2
            line = f'{line[: -len(topic)]}{topic[:head]}…{topic[len(topic) - keep + head :]}'
        out.append(line)
    return out


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
        f'{plural(facts["sequences"], "sequence")}, {plural(facts["epochs"], "calibration")}, '
        f'{plural(facts["sweeps"], "lidar sweep")}'
        + ('' if seen is None else f', {seen:.0%} of their points in an image')
        + (
            ''
            if speed['max'] is None
            else f'; speed {speed["median"]:.1f} m/s (median), {speed["max"]:.1f} m/s (max)'
        )
    ]


def _drive(facts: Mapping[str, Any]) -> list[str]:
    return [
        *table(DRIVE_HEAD, drive_rows(facts), right=range(1, 4)),
        *(part for line in drive_lines(facts) for part in _wrapped(line, '  ')),
    ]


def _finding(finding: Finding) -> list[str]:
    start = f'{finding.severity:<7} {finding.rule}  '
    lines = _wrapped(f'{_where(finding)}{finding.text}', ' ' * len(start))
    return [start + lines[0].lstrip(), *lines[1:]]


def _where(finding: Finding) -> str:
    return f'{finding.where}: ' if finding.where else ''


def _wrapped(text: str, indent: str) -> list[str]:
    """Return lines that fit a terminal; what has no space stays in one piece."""
    return textwrap.wrap(
        text,
        _COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _number(value: float | None, form: str, unit: str = '') -> str:
    return '-' if value is None else f'{value:{form}}{unit}'
