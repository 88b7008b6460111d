"""Opens whatever has instants, labelled or not, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bev_perception.errors import BagError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.paths import is_local, to_path
from bev_training.data.sample import SampleSource

_TABLE = 'sample_data.json'  # tells a folder of nuScenes' tables


def open_source(
    path: str | Path,
    *,
    classes: Sequence[str] = (),
    grid: BevGrid,
    split: str = '',
    version: str = '',
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> SampleSource:
    """Open a folder of drives, or a data set in nuScenes' format.

    Args:
        path: OUT of `bev convert`, one drive of it, or the folder with nuScenes' tables in it.
        classes: which labels are wanted, in this order; without any, all frames of all drives
            take part, nothing is computed or asked of labels, and samples have none.
        grid: of the labels.
        split: scenes of nuScenes' format: one of the devkit's splits, or a file with a scene's
            name per line; '' takes what fits the version.
        version: of nuScenes' tables; '' takes the only one.
        cache: folder for what is computed once; None takes ~/.cache/bev_perception.
        progress: called with (what, done, total) while it is computed.

    Raises:
        BagError: there is nothing like that, or something of it is missing or damaged.
        ConfigError: a class or the grid does not fit the labels, or a split is asked of drives.
    """
    place = to_path(path)
    if is_local(place) and not place.exists():
        raise BagError(f'{place} does not exist')
    if is_local(place) and (place / _TABLE).is_file():
        raise BagError(f'{place} holds tables only; name {place.parent}, version {place.name}')
    if is_local(place) and has_tables(place):
        from bev_training.data.nuscenes_samples import open_nuscenes

        return open_nuscenes(
            place,
            classes=classes,
            grid=grid,
            split=split,
            version=version,
            cache=cache,
            progress=progress,
        )
    for name, value in (('split', split), ('version', version)):
        if value:
            raise ConfigError(
                f"{name} is {value!r}; {place} is no data set in nuScenes' format (a folder with "
                f'v1.0-*/{_TABLE}), and drives have no {name}s'
            )
    from bev_training.data.drive_samples import open_drives

    return open_drives(place, classes, grid)


def has_tables(place: Path) -> bool:
    """Whether a folder is a data set in nuScenes' format."""
    named = any(folder.is_dir() for folder in place.glob('v1.0-*'))
    return named or any(place.glob(f'*/{_TABLE}'))  # a version may have another name
