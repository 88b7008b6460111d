"""Which runs a grid of trainings needs, each of them once.

A run is known by what decides its outcome: its verb, the settings that are not the defaults, and
the run that it starts from. Its folder is named by a digest of that. So a changed grid trains what
is new and keeps what it has, and two cells that need the same run share it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from bev_perception.errors import BagError, ConfigError
from bev_training.ablation.settings import LABELS, AblationConfig, Table
from bev_training.data.label_classes import OBJECTS
from bev_training.data.sources import has_tables
from bev_training.fit.compatible import misfit
from bev_training.fit.recipes import find_recipe, flat, read_recipe
from bev_training.fit.settings import TrainConfig

# What changes how fast a run is, or how its results are stored, but not what is learned.
_NO_MATTER = frozenset(
    {'data.workers', 'data.cache', 'save_every', 'accelerator', 'half_weights'}
    | {'teacher.cache', 'teacher.cache_gb'}
)
_OWN = frozenset({'seed', 'data.labels_percent', 'data.labels_seed'})  # of the grid


class Cell(NamedTuple):
    """What a score is of."""

    network: str
    pretraining: str
    labels: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training.

    Attributes:
        verb: 'pretrain' or 'finetune'.
        config: all of its settings.
        start: the pretraining that it starts from.
        said: what it is, for people.
        seed: of the grid.
    """

    verb: str
    config: TrainConfig
    start: Run | None
    said: str
    seed: int

    @cached_property
    def digest(self) -> str:
        """What decides its outcome, in eight hexadecimal digits."""
        usual = flat(TrainConfig())
        decides = {
            name: value
            for name, value in flat(self.config).items()
            if name not in _NO_MATTER and (name not in usual or value != usual[name])
        }
        start = self.start.digest if self.start else ''
        text = json.dumps([self.verb, decides, start], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """Its folder below OUT, where there is none of that digest yet."""
        return f'{self.verb}/{re.sub(r"[^A-Za-z0-9.]+", "-", self.said).strip("-")}-{self.digest}'


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of a grid.

    Attributes:
        runs: by digest, in the order in which they are best done: a run that another one starts
            from stands before it.
        cells: the fine-tunings of each cell by seed: one of each task that has scores for it.
    """

    runs: Mapping[str, Run]
    cells: Mapping[Cell, Mapping[int, tuple[Run, ...]]]


def score_classes(score: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes whose mean a score is."""
    if score == 'mean':
        return tuple(classes)
    if score == 'map':
        return tuple(name for name in classes if name not in OBJECTS)
    return tuple(name for name in classes if name == score)


def make_plan(grid: AblationConfig, changed: Sequence[tuple[str, str]] = ()) -> Plan:
    """Return what is to be done, with every recipe read and checked.

    Tables come one after the other, and in each the runs of the first seed come first: there is
    something to look at early.

    Args:
        grid: what is wanted.
        changed: settings (name, value) of all runs, instead of whatever they have.

    Raises:
        ConfigError: a recipe or a setting cannot be used, or a table wants what nothing gives.
        BagError: the data do not exist.
    """
    planner = _Planner(grid, dict(changed))
    runs: dict[str, Run] = {}
    cells: dict[Cell, dict[int, dict[str, Run]]] = {}
    for title, table in grid.tables.items():
        for seed in grid.seeds:
            for cell in table_cells(grid, table):
                for run in planner.finetunings(cell, seed, table, title):
                    if run.start:
                        runs.setdefault(run.start.digest, run.start)
                    run = runs.setdefault(run.digest, run)
                    cells.setdefault(cell, {}).setdefault(seed, {})[run.digest] = run
    return Plan(
        runs=runs,
        cells={
            cell: {seed: tuple(found.values()) for seed, found in by_seed.items()}
            for cell, by_seed in cells.items()
        },
    )


def table_cells(grid: AblationConfig, table: Table) -> Iterator[Cell]:
    """Give the cells of a table that can be had, as they are read."""
    for network in table.networks:
        for pretraining in table.pretrainings:
            if grid.has(network, pretraining):
                yield from (Cell(network, pretraining, share) for share in table.labels)


class _Planner:
    """Makes runs; remembers what it has read, which takes a third of a second each time."""

    def __init__(self, grid: AblationConfig, changed: dict[str, str]) -> None:
        self.grid, self.changed = grid, changed
        self.read: dict[Hashable, TrainConfig] = {}

    def finetunings(self, cell: Cell, seed: int, table: Table, title: str) -> list[Run]:
        """Return the runs that give the scores of a cell, one of each task."""
        network = self.grid.networks[cell.network]
        share = f'{cell.labels:g}'
        steps = self.grid.steps.get(cell.labels)
        settings = network.set if steps is None else {**network.set, 'steps': str(steps)}
        runs, missing = [], set(table.scores)
        owner: dict[str, str] = {}
        for task, recipe in network.finetune.items():
            config = self._config(
                'finetune', recipe.replace(LABELS, share), settings, cell.network
            )
            classes = config.model.classes
            for name in classes:
                if owner.setdefault(name, task) != task:
                    raise ConfigError(
                        f'networks.{cell.network}.finetune: {owner[name]} and {task} both have '
                        f'the class {name}'
                    )
            wanted = {score for score in table.scores if score_classes(score, classes)}
            missing -= wanted
            if not wanted:
                continue
            data = dataclasses.replace(config.data, labels_percent=cell.labels, labels_seed=seed)
            config = dataclasses.replace(config, data=data, seed=seed)
            start = self._pretraining(cell, seed)
            if start:
                _check_pair(cell, start.config, config)
            said = ', '.join(filter(None, (cell.network, cell.pretraining, f'{share} %', task)))
            said = f'{said}, seed {seed}'
            runs.append(Run(verb='finetune', config=config, start=start, said=said, seed=seed))
        if missing:
            known = ', '.join(owner)
            raise ConfigError(
                f'report.{title}: {cell.network} is not fine-tuned for {sorted(missing)[0]}; '
                f'its classes are {known}'
            )
        return runs

    def _pretraining(self, cell: Cell, seed: int) -> Run | None:
        how = self.grid.pretrainings[cell.pretraining]
        if how is None:
            return None
        network = self.grid.networks[cell.network]
        if self.grid.pretrain_seed is not None:
            seed = self.grid.pretrain_seed
        recipe = network.pretrain[how.recipe]
        who = f'{cell.network}, {cell.pretraining}'
        config = self._config('pretrain', recipe, {**network.set, **how.set}, who)
        config = dataclasses.replace(config, seed=seed)
        return Run(
            verb='pretrain', config=config, start=None, said=f'{who}, seed {seed}', seed=seed
        )

    def _config(
        self, verb: str, recipe: str, settings: Mapping[str, str], who: str
    ) -> TrainConfig:
        places = {'data.train': self.grid.train, 'data.val': self.grid.val}
        changed = {**settings, **{k: v for k, v in places.items() if v}, **self.changed}
        for name in sorted(_OWN & set(changed)):
            raise ConfigError(f'{who}: {name} cannot be set: `seeds` and `labels` of the grid do')
        key = verb, recipe, tuple(sorted(changed.items()))
        if key not in self.read:
            try:
                config = read_recipe(find_recipe(recipe), changed.items())
            except ConfigError as error:
                raise ConfigError(f'{who}: {error}') from error
            if config.verb != f'bev {verb}':
                raise ConfigError(f'{recipe} is a recipe for `{config.verb}`, not `bev {verb}`')
            train, val = _found(config.data.train), _found(config.data.val)
            if not train:
                raise ConfigError(f'{recipe}: data.train is empty; give --train DIR')
            if verb == 'finetune' and not val and ('://' in train or not has_tables(Path(train))):
                raise ConfigError(f'{recipe}: nothing to be scored on; give --val DIR')
            data = dataclasses.replace(config.data, train=train, val=val)
            self.read[key] = dataclasses.replace(config, data=data)
        return self.read[key]


def _found(path: str) -> str:
    """Return where data are from wherever one looks, so that their runs are known again."""
    if not path or '://' in path:
        return path
    if not Path(path).exists():
        raise BagError(f'{path} does not exist')
    return str(Path(path).resolve())


def _check_pair(cell: Cell, before: TrainConfig, after: TrainConfig) -> None:
    """Refuse now what `bev finetune --init` would refuse in hours."""
    if found := misfit(before.model, after.model):
        name, theirs, ours = found
        raise ConfigError(
            f'networks.{cell.network}: model.{name} is {theirs} in the pretraining '
            f'{cell.pretraining}, and {ours} in the fine-tuning; they must be the same'
        )
