"""What corruption errors are relative to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bev_training.evaluation.robustness import Robustness, mce
from bev_training.evaluation.robustness_text import robustness_text
from bev_training.metrics import Scores


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredRobustness:
    """Robustness of a checkpoint, and what its corruption errors are relative to.

    Attributes:
        of: the checkpoint's.
        baseline: of what its errors are set against; None where there is nothing, or no
            corruption.
        against: what that is.
        beside: scores of what needs no network, on the clean images with all cameras.
    """

    of: Robustness
    baseline: Robustness | None
    against: str
    beside: Mapping[str, Scores] = field(default_factory=dict)

    def note(self) -> str:
        """Return what the errors are relative to; '' without them."""
        return '' if self.baseline is None else f'Corruption errors are relative to {self.against}'

    def text(self) -> str:
        """Return what the errors are relative to, and both tables."""
        note = self.note()
        return (f'{note}\n\n' if note else '') + robustness_text(
            self.of, self.baseline, self.beside
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values: those of `Robustness.as_json`, 'mce' as `Ratios.as_json` and
        'against'; None without a baseline.
        """
        if self.baseline is None:
            return {**self.of.as_json(), 'mce': None, 'against': None}
        return {
            **self.of.as_json(),
            'mce': mce(self.of, self.baseline).as_json(),
            'against': self.against,
        }


def unshaken(scores: Scores, of: Robustness) -> Robustness:
    """Return the robustness of a baseline that looks at no image: it keeps its score."""
    return Robustness(
        seed=of.seed,
        clean=scores,
        corrupted={
            name: dict.fromkeys(by_severity, scores) for name, by_severity in of.corrupted.items()
        },
        lost=dict.fromkeys(of.lost, scores),
    )


def measured(
    of: Robustness,
    *,
    other: Robustness | None,
    other_name: str,
    beside: Mapping[str, Scores],
) -> MeasuredRobustness:
    """Return robustness with its baseline: the other checkpoint, or what is there most often.

    Args:
        of: the checkpoint's.
        other: of a second checkpoint, of the same classes; None without.
        other_name: of it.
        beside: scores of what needs no network; its 'frequency' looks at no image.
    """
    frequency = beside.get('frequency')
    if not of.corrupted or (other is None and frequency is None):
        return MeasuredRobustness(of=of, baseline=None, against='', beside=beside)
    if other is not None:
        against = f'{other_name}; below 1 is better than it'
        return MeasuredRobustness(of=of, baseline=other, against=against, beside=beside)
    assert frequency is not None
    return MeasuredRobustness(
        of=of,
        baseline=unshaken(frequency, of),
        against="the baseline 'frequency' at 0.5, which looks at no image and so keeps its score; "
        'below 1 is better than it',
        beside=beside,
    )
