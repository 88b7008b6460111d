"""The report as one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Sequence

from bev_training.inspection import report_text as text
from bev_training.inspection.findings import Finding, Subject
from bev_training.inspection.rules import RULES

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; background: #fff;
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; word-break: break-all; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-size: .87rem; display: block;
  overflow-x: auto; }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #e4e6e9;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child, .left, th:first-child, .findings td, .findings th { text-align: left; }
.findings td { white-space: normal; vertical-align: top; }
.findings td.tag { white-space: nowrap; font-weight: 600; }
.error { color: #b3261e; } .warning { color: #9a5b00; } .info { color: #55606e; }
.advice { color: #55606e; font-size: .82rem; }
pre { background: #f5f6f8; padding: .6rem .8rem; font-size: .82rem; overflow-x: auto; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #55606e; font-size: .85rem; }
"""


def html_report(subjects: Sequence[Subject]) -> str:
    """Return the page; pictures are inside."""
    contents = ''
    if len(subjects) > 1:
        rows = [(s.path, text.summary_line([s])) for s in subjects]
        links = ''.join(
            f'<tr><td><a href="#subject-{i}">{html.escape(path)}</a></td>'
            f'<td>{html.escape(counts)}</td></tr>'
            for i, (path, counts) in enumerate(rows)
        )
        contents = f'<table>{links}</table>'
    sections = ''.join(_section(i, subject) for i, subject in enumerate(subjects))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>bev inspect</title><style>{_STYLE}</style></head><body>'
        f'<h1>{html.escape(text.summary_line(subjects))}</h1>{contents}{sections}'
        '</body></html>\n'
    )


def _section(number: int, subject: Subject) -> str:
    parts = [
        f'<h2 id="subject-{number}">{html.escape(subject.path)}</h2>',
        f'<p>{html.escape(text.headline(subject).removeprefix(subject.path + ": "))}</p>',
        _findings(subject.findings),
    ]
    facts = subject.facts
    if facts and subject.kind == 'recording':
        parts.append(_table(text.TOPIC_HEAD, text.topic_rows(facts, all_of_them=True), left=(7,)))
        if facts['cameras']:
            parts.append(_table(text.CAMERA_HEAD, text.camera_rows(facts), left=range(6)))
        if facts['sync'] is not None:
            lines = [
                *text.sync_lines(facts),
                text.estimate_line(facts),
                *text.left_out_lines(facts),
            ]
            parts.append(f'<pre>{html.escape(chr(10).join(lines))}</pre>')
    elif facts:
        parts.append(_table(text.DRIVE_HEAD, text.drive_rows(facts)))
        parts += [f'<p>{html.escape(line)}</p>' for line in text.drive_lines(facts)]
    for caption, png in subject.plots.items():
        data = base64.b64encode(png).decode('ascii')
        parts.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f'<figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    return ''.join(parts)


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return '<p>Nothing was found.</p>'
    rows = ''.join(
        f'<tr><td class="tag {f.severity}">{f.severity}</td><td class="tag">{f.rule}</td>'
        f'<td>{html.escape(f.where)}</td><td>{html.escape(RULES[f.rule].title)}: '
        f'{html.escape(f.text)}<div class="advice">{html.escape(RULES[f.rule].advice)}</div>'
        '</td></tr>'
        for f in findings
    )
    return f'<table class="findings">{rows}</table>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        opened = [f'<{tag} class="left">' if i in left else f'<{tag}>' for i in range(len(cells))]
        return (
            '<tr>'
            + ''.join(f'{o}{html.escape(c)}</{tag}>' for o, c in zip(opened, cells, strict=True))
            + '</tr>'
        )

    return f'<table>{row(head, "th")}{"".join(row(cells, "td") for cells in rows)}</table>'
