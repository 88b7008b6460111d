"""What `bev ablate` is told: networks, ways of pretraining them, and the tables wanted of them.

What is trained follows from the tables: every cell of them, no more, and nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DIMENSIONS = ('networks', 'pretrainings', 'scores', 'labels')
THRESHOLDS = {'0.5': 'iou', 'best': 'best_iou'}  # what a table asks for, and its name in scores
LABELS = '{labels}'  # in the name of a recipe: the share


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what trains it.

    Attributes:
        pretrain: recipes of `bev pretrain` by name; one named '' is for every pretraining.
        finetune: recipes of `bev finetune` by task; `LABELS` in one is the share of the labels.
        set: settings that differ from the recipes', in all of its runs.
    """

    pretrain: Mapping[str, str]
    finetune: Mapping[str, str]
    set: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A way of pretraining.

    Attributes:
        recipe: name of the recipe among those of a network.
        networks: names of those that it is for.
        set: settings that differ from the recipe's.
    """

    recipe: str
    networks: tuple[str, ...]
    set: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of results, with a cell for every combination.

    Attributes:
        networks: names.
        pretrainings: names.
        labels: shares, in percent.
        scores: a class; 'map', the mean of the classes that are no objects; 'mean', of all.
        rows: which of `DIMENSIONS` tell rows apart; the others tell columns apart.
        threshold: one of `THRESHOLDS`; the best one is another for every class and network.
    """

    networks: tuple[str, ...]
    pretrainings: tuple[str, ...]
    labels: tuple[float, ...]
    scores: tuple[str, ...] = ('vehicle', 'map')
    rows: tuple[str, ...] = ('networks', 'pretrainings')
    threshold: str = '0.5'


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """A grid of trainings.

    Attributes:
        train: data to learn from; '' takes those of the recipes.
        val: data to be scored on; likewise.
        seeds: each gives every run its own draw of labels, order of samples and random weights.
        pretrain_seed: of one pretraining that all seeds start from; None pretrains for each.
        steps: of the fine-tuning, by share; other shares have those of their recipe.
        networks: by name.
        pretrainings: by name; None is no pretraining, of which there is at most one.
        tables: by title.
    """

    train: str
    val: str
    seeds: tuple[int, ...]
    pretrain_seed: int | None
    steps: Mapping[float, int]
    networks: Mapping[str, Network]
    pretrainings: Mapping[str, Pretraining | None]
    tables: Mapping[str, Table]

    @property
    def baseline(self) -> str | None:
        """Name of no pretraining, with which all others are compared."""
        return next((name for name, how in self.pretrainings.items() if how is None), None)

    def has(self, network: str, pretraining: str) -> bool:
        """Whether a network is pretrained in this way."""
        how = self.pretrainings[pretraining]
        return how is None or network in how.networks
