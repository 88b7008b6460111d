"""The report as one HTML file that needs no other."""

from __future__ import annotations

import html
from collections.abc import Sequence

from bev_training.html_page import figure, page, table
from bev_training.inspection import report_text as text
from bev_training.inspection.findings import Finding, Subject
from bev_training.inspection.rules import RULES


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
    title = html.escape(text.summary_line(subjects))
    return page('bev inspect', f'<h1>{title}</h1>{contents}{sections}')


def _section(number: int, subject: Subject) -> str:
    parts = [
        f'<h2 id="subject-{number}">{html.escape(subject.path)}</h2>',
        f'<p>{html.escape(text.headline(subject).removeprefix(subject.path + ": "))}</p>',
        _findings(subject.findings),
    ]
    facts = subject.facts
    if facts and subject.kind == 'recording':
        parts.append(table(text.TOPIC_HEAD, text.topic_rows(facts, all_of_them=True), left=(7,)))
        if facts['cameras']:
            parts.append(table(text.CAMERA_HEAD, text.camera_rows(facts), left=range(6)))
        if facts['sync'] is not None:
            lines = [
                *text.sync_lines(facts),
                text.estimate_line(facts),
                *text.left_out_lines(facts),
            ]
            parts.append(f'<pre>{html.escape(chr(10).join(lines))}</pre>')
    elif facts:
        parts.append(table(text.DRIVE_HEAD, text.drive_rows(facts)))
        parts += [f'<p>{html.escape(line)}</p>' for line in text.drive_lines(facts)]
    parts += [figure(caption, png) for caption, png in subject.plots.items()]
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
