"""What the runs of a grid came to: mean and spread over seeds, and what pretraining gains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_training.ablation.plan import Cell, Plan, score_classes
from bev_training.ablation.running import Outcome
from bev_training.ablation.settings import THRESHOLDS, AblationConfig

BySeed = Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Several values of one thing, in [0, 1].

    Attributes:
        by_seed: the values; none where nothing is known yet.
    """

    by_seed: BySeed

    @property
    def mean(self) -> float:
        """Their mean; NaN without any."""
        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else math.nan

    @property
    def std(self) -> float:
        """Their standard deviation (n - 1); NaN of fewer than two."""
        values = list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def minus(self, other: Spread) -> Spread:
        """Return the differences of the values of the same seed."""
        common = [seed for seed in self.by_seed if seed in other.by_seed]
        return Spread(by_seed={s: self.by_seed[s] - other.by_seed[s] for s in common})


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is known so far.

    Attributes:
        grid: what was wanted.
        plan: its runs.
        outcomes: what became of runs, by digest.
    """

    grid: AblationConfig
    plan: Plan
    outcomes: Mapping[str, Outcome]

    def score(self, cell: Cell, name: str, kind: str) -> Spread:
        """Return a score over the seeds of which all runs are done.

        Classes that the truth does not have are left out of a mean.

        Args:
            cell: what it is of.
            name: a class, 'map' or 'mean'.
            kind: 'iou' at 0.5, or 'best_iou'.
        """
        found = {}
        for seed, runs in self.plan.cells.get(cell, {}).items():
            values: list[float] = []
            for run in runs:
                classes = score_classes(name, run.config.model.classes)
                outcome = self.outcomes.get(run.digest)
                if classes and (outcome is None or outcome.scores is None):
                    break
                if classes and outcome and outcome.scores:
                    each = [outcome.scores['classes'][c][kind] for c in classes]
                    values += [value for value in each if value is not None]
            else:
                if values:
                    found[seed] = float(np.mean(values))
        return Spread(by_seed=found)

    def gain(self, cell: Cell, name: str, kind: str) -> Spread | None:
        """Return by how much a cell is better than the one without pretraining; None of that one,
        and where a grid has none.
        """
        baseline = self.grid.baseline
        if baseline is None or cell.pretraining == baseline:
            return None
        none = self.score(cell._replace(pretraining=baseline), name, kind)
        return self.score(cell, name, kind).minus(none)

    @property
    def failed(self) -> dict[str, str]:
        """Why, by what failed."""
        return {
            run.said: self.outcomes[digest].failed
            for digest, run in self.plan.runs.items()
            if digest in self.outcomes and self.outcomes[digest].failed
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything: scores of every cell in every way, and all runs."""
        return {
            'kind': 'ablation',
            'baseline': self.grid.baseline,
            'seeds': list(self.grid.seeds),
            'pretrain_seed': self.grid.pretrain_seed,
            'runs_done': sum(not outcome.failed for outcome in self.outcomes.values()),
            'runs_failed': len(self.failed),
            'runs': [self._run_json(digest) for digest in self.plan.runs],
            'cells': [self._cell_json(cell) for cell in self.plan.cells],
        }

    def _run_json(self, digest: str) -> dict[str, Any]:
        run, outcome = self.plan.runs[digest], self.outcomes.get(digest)
        state = 'waiting' if outcome is None else 'failed' if outcome.failed else 'done'
        return {
            'run': run.said,
            'digest': digest,
            'verb': run.verb,
            'seed': run.config.seed,
            'starts_from': run.start.digest if run.start else None,
            'state': state,
            'failed': outcome.failed if outcome else '',
            'folder': str(outcome.folder) if outcome else None,
            'scores': outcome.scores if outcome else None,
        }

    def _cell_json(self, cell: Cell) -> dict[str, Any]:
        runs = next(iter(self.plan.cells[cell].values()))
        classes = [name for run in runs for name in run.config.model.classes]
        names = [*classes, *(n for n in ('map', 'mean') if score_classes(n, classes))]
        scores: dict[str, Any] = {}
        for name in names:
            scores[name] = {}
            for kind in THRESHOLDS.values():
                scores[name][kind] = _json(self.score(cell, name, kind))
                gain = self.gain(cell, name, kind)
                scores[name][kind]['gain'] = None if gain is None else _json(gain)
        return {
            'network': cell.network,
            'pretraining': cell.pretraining,
            'labels_percent': cell.labels,
            'scores': scores,
        }


def _json(spread: Spread) -> dict[str, Any]:
    return {
        'mean': _rounded(spread.mean),
        'std': _rounded(spread.std),
        'by_seed': {str(seed): _rounded(value) for seed, value in spread.by_seed.items()},
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
