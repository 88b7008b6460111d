"""The samples of a run: those it learns from, and those it is scored on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bev_perception.errors import ConfigError
from bev_training.data.sample import SampleSource
from bev_training.data.sequences import check_motion
from bev_training.data.sources import has_tables, open_source
from bev_training.fit.settings import TrainConfig

Progress = Callable[[str, int, int], None]


def open_train(config: TrainConfig, progress: Progress | None = None) -> SampleSource:
    """Open the samples to learn from.

    Raises:
        ConfigError: nothing is given, or it does not fit the model.
        BagError: it cannot be read.
    """
    data = config.data
    if not data.train:
        what = 'drives' if config.objectives.pretraining else 'labelled data'
        raise ConfigError(f'data.train is empty; give --train DIR, a folder of {what}')
    return _open(config, data.train, data.train_split, data.version, progress)


def open_val(config: TrainConfig, progress: Progress | None = None) -> SampleSource | None:
    """Open the samples to be scored on; None where there are none.

    Raises:
        ConfigError: they do not fit the model.
        BagError: they cannot be read.
    """
    data = config.data
    path = data.val or data.train
    if '://' not in path and has_tables(Path(path)):
        return _open(config, path, data.val_split or 'val', data.version, progress)
    if not data.val:
        if data.val_split:
            raise ConfigError(
                f"data.val_split is {data.val_split!r}, but {path} is no data set in nuScenes' "
                'format; give --val DIR'
            )
        return None
    return _open(config, path, data.val_split, '', progress)


def check_val(val: SampleSource, config: TrainConfig) -> None:
    """Refuse now what would stop the run at its first validation, after hours perhaps.

    Raises:
        ConfigError: there is no sample, or classes or grid are not the model's.
    """
    if not len(val):
        labelled = '' if config.objectives.pretraining else 'labelled '
        raise ConfigError(f'{config.data.val or "the validation data"} has no {labelled}sample')
    model = config.model
    for what, has, wanted in (
        ('classes', val.classes, model.classes),
        ('a grid', val.grid, model.grid),
    ):
        if has != wanted:
            raise ConfigError(f'the validation data have {what} {has}, the model has {wanted}')


def check_poses(train: SampleSource, val: SampleSource | None, config: TrainConfig) -> None:
    """Refuse data without the vehicle's poses where the network needs them.

    Raises:
        ConfigError: a scene has none; its first sample is named.
        BagError: the data cannot be read.
    """
    for source in (train, val):
        if source is not None:
            check_motion(source, config.model)


def worth_learning(
    source: SampleSource, indices: Iterable[int], config: TrainConfig, path: str
) -> list[int]:
    """Return the samples that something can be learned from: where there are no labels, those
    with lidar points.

    Args:
        source: of the samples.
        indices: those to choose from.
        config: the run.
        path: of the data, for messages.

    Raises:
        ConfigError: there is none.
    """
    if not config.objectives.pretraining:
        return list(indices)
    if not source.lidars:
        raise ConfigError(
            f'{path or "the data"} has no lidar, of which the targets of pretraining are '
            'made; convert recordings that have one (`bev inspect` lists the topics)'
        )
    has_points = source.has_points
    kept = [i for i in indices if has_points[i]]
    if not kept:
        raise ConfigError(
            f'{path or "the data"} has a lidar, but no sample with points of it, of which the '
            'targets of pretraining are made; `bev inspect` tells what is wrong with a recording'
        )
    return kept


def count_worth_learning(source: SampleSource, config: TrainConfig) -> int:
    """Return how many samples of a source `worth_learning` would leave."""
    return int(source.has_points.sum()) if config.objectives.pretraining else len(source)


def notes(source: SampleSource, config: TrainConfig) -> tuple[str, ...]:
    """Return what is left out of a source, a line each."""
    blind = len(source) - count_worth_learning(source, config)
    if not blind:
        return source.notes
    return (*source.notes, f'{blind} of {len(source)} samples have no lidar points, left out')


def _open(
    config: TrainConfig, path: str, split: str, version: str, progress: Progress | None
) -> SampleSource:
    return open_source(
        path,
        classes=config.model.classes,
        grid=config.model.grid,
        split=split,
        version=version,
        cache=Path(config.data.cache) if config.data.cache else None,
        progress=progress,
    )
