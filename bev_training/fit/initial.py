"""Start a network from another one that was trained before: what fits is taken, and it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bev_perception.errors import CheckpointError
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_training.fit.compatible import misfit

_CLASS_ROWS = ('head.layers.3.weight', 'head.layers.3.bias')  # one row per class


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What a network took from a checkpoint.

    Attributes:
        source: the checkpoint's file, and what it was trained on.
        loaded: names of the tensors that were taken, whole or in part.
        not_loaded: why the network's other tensors stay as they were, by name.
        unused: names of the checkpoint's tensors that the network has no place for.
        classes: the classes whose rows of the segmentation head were taken.
        notes: differences between the two networks that do not matter to the weights.
    """

    source: str
    loaded: tuple[str, ...]
    not_loaded: Mapping[str, str]
    unused: tuple[str, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report for people."""
        total = len(self.loaded) + len(self.not_loaded)
        lines = [
            f'start: {self.source}',
            f'loaded {len(self.loaded)} of {total} tensors; '
            f'classes of the head: {", ".join(self.classes) or "none"}',
        ]
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.not_loaded.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            lines.append(f'not loaded, {reason}: {_short(names)}')
        if self.unused:
            lines.append(f'unused of the checkpoint: {_short(self.unused)}')
        return [*lines, *self.notes]


def _short(names: list[str] | tuple[str, ...]) -> str:
    """Name the modules, not each of their tensors."""
    modules = dict.fromkeys('.'.join(name.split('.')[:1]) for name in names)
    return f'{", ".join(modules)} ({len(names)} tensors)'


def initialise(model: BevModel, path: str | Path) -> InitReport:
    """Load what fits of a checkpoint into a model, in place.

    Encoder and BEV network are taken whole. Rows of the segmentation head are taken for classes
    of the same name; other classes stay random, as do heads that the checkpoint lacks. Images may
    be of another size (pretraining at 224x400 and fine-tuning at 448x800 is OccFeat's table 2).
    Of another kind of network, or of attention over another number of instants, the parts that
    both have are taken.

    Raises:
        CheckpointError: no checkpoint of ours, or of another backbone, width, grid, normalisation
            or layout of attention; the model is then as it was.
    """
    source = checkpoint.load(path)
    old, new = source.model.config, model.config
    if found := misfit(old, new):
        name, theirs, ours = found
        raise CheckpointError(
            f'{path} cannot be the start: its {name} is {theirs or "none"}, '
            f'the model needs {ours or "none"}'
        )
    given, state = source.model.state_dict(), model.state_dict()
    shared = tuple(name for name in new.classes if name in old.classes)
    loaded, not_loaded = [], {}
    with torch.no_grad():
        for name, target in state.items():
            if name not in given:
                not_loaded[name] = 'the checkpoint has no such part'
            elif name in _CLASS_ROWS:
                _take_rows(target, given[name], new.classes, old.classes)
                if shared:
                    loaded.append(name)
                else:
                    not_loaded[name] = 'no class of the same name'
            elif given[name].shape != target.shape:
                not_loaded[name] = 'of another shape'
            else:
                target.copy_(given[name])
                loaded.append(name)
    notes = []
    random = [name for name in new.classes if name not in shared]
    if random:
        notes.append(f'classes that start at random: {", ".join(random)}')
    if old.network != new.network:
        notes.append(f'the network was {old.network} and is {new.network} now')
    if old.image_size_px != new.image_size_px:
        notes.append(f'images were {old.image_size_px} pixels and are {new.image_size_px} now')
    return InitReport(
        source=f'{path} (trained on {source.trained_on})',
        loaded=tuple(loaded),
        not_loaded=not_loaded,
        unused=tuple(name for name in given if name not in state),
        classes=shared,
        notes=tuple(notes),
    )


def _take_rows(
    target: Tensor, given: Tensor, classes: tuple[str, ...], given_classes: tuple[str, ...]
) -> None:
    for row, name in enumerate(classes):
        if name in given_classes:
            target[row] = given[given_classes.index(name)]
