"""The samples of a run: those it learns from, and those it is scored on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bev_perception.errors import ConfigError
from bev_training.data.sample import SampleSource
from bev_training.data.sources import open_source
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
        raise ConfigError('data.train is empty; give --train DIR, a folder of labelled data')
    return _open(config, data.train, data.train_split, progress)


def open_val(config: TrainConfig, progress: Progress | None = None) -> SampleSource | None:
    """Open the samples to be scored on; None where there are none.

    Raises:
        ConfigError: they do not fit the model.
        BagError: they cannot be read.
    """
    data = config.data
    path = data.val or data.train
    if _is_nuscenes(path, data.version):
        return _open(config, path, data.val_split or 'val', progress)
    if not data.val:
        if data.val_split:
            raise ConfigError(
                f"data.val_split is {data.val_split!r}, but {path} is no data set in nuScenes' "
                'format; give --val DIR'
            )
        return None
    return _open(config, path, data.val_split, progress)


def _open(config: TrainConfig, path: str, split: str, progress: Progress | None) -> SampleSource:
    return open_source(
        path,
        classes=config.model.classes,
        grid=config.model.grid,
        split=split,
        version=config.data.version if _is_nuscenes(path, config.data.version) else '',
        cache=Path(config.data.cache) if config.data.cache else None,
        progress=progress,
    )


def _is_nuscenes(path: str, version: str) -> bool:
    return '://' not in path and any(p.is_dir() for p in Path(path).glob(version or 'v1.0-*'))
