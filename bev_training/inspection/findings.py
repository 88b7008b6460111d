"""What rules find, and in what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bev_training.inspection.rules import RULES, SEVERITIES, Severity


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule found.

    Attributes:
        rule: id in `RULES`.
        subject: the recording or drive.
        where: topic, camera or key; '' for the whole.
        text: one line with the number.
    """

    rule: str
    subject: str
    where: str
    text: str

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return RULES[self.rule].severity

    def as_json(self) -> dict[str, str]:
        """Return plain values, with severity, title and advice."""
        rule = RULES[self.rule]
        return {**asdict(self), **rule._asdict()}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A recording or a drive that was looked at.

    Attributes:
        path: as given.
        kind: which of the two.
        facts: what was measured, as plain values; {} where it could not be read.
        findings: worst first.
        plots: PNG bytes by caption; drawn only for reports.
    """

    path: str
    kind: Literal['recording', 'drive']
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...]
    plots: Mapping[str, bytes] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            'path': self.path,
            'kind': self.kind,
            'findings': [finding.as_json() for finding in self.findings],
            'facts': dict(self.facts),
        }


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, worst first, then by rule; otherwise as they came."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.rule)))


def count_by_severity(subjects: Iterable[Subject]) -> Counter[str]:
    """Return the number of findings by severity."""
    return Counter(finding.severity for subject in subjects for finding in subject.findings)


def plural(count: int, what: str) -> str:
    """Return '1 gap' or '2 gaps'."""
    return f'{count:,} {what}{"" if count == 1 else "s"}'
