"""Which scenes of a data set in nuScenes' format are for training, which for validation."""

from __future__ import annotations

from pathlib import Path

from bev_perception.errors import BagError, ConfigError
from bev_training.data.nuscenes_index import NuscenesIndex

EVERY = 'all'
_SHOWN = 8


def scenes_of(index: NuscenesIndex, split: str, version: str) -> list[str]:
    """Return the names of a split's scenes, sorted.

    Args:
        index: of the data set.
        split: a split of the set's own splits.json or of the devkit; 'all' for every scene; a
            file with a scene's name per line; 'train' or 'val' for what fits: the devkit's `train`
            in v1.0-trainval, `mini_train` in v1.0-mini, or, where the devkit's has no scene here,
            the set's own split whose name ends so. '' is 'train', but prefers a split of the set's
            own.
        version: name of the folder of tables.

    Raises:
        ConfigError: there is no such split, or it has no scene here.
        BagError: the file cannot be read.
    """
    if split in index.own_splits:
        return sorted(index.splits[split])
    if split in ('', 'train', 'val'):
        return sorted(_fitting(index, split, version))
    if split in index.splits:
        return sorted(index.splits[split])
    if split == EVERY:
        return list(index.scenes)
    if Path(split).is_file():
        return _listed(index, Path(split))
    raise _unknown(index, split, version)


def _fitting(index: NuscenesIndex, split: str, version: str) -> list[str]:
    kind = split or 'train'
    own = [name for name in index.own_splits if name.endswith(kind)]
    devkit = kind if version.endswith('trainval') else f'mini_{kind}'
    official = index.splits.get(devkit, []) if version.endswith(('trainval', 'mini')) else []
    # the town takes over names of scenes of v1.0-mini, not its split
    prefers_own = split == '' or not version.endswith('trainval')
    if len(own) == 1 and (prefers_own or not official):
        return index.splits[own[0]]
    if official:
        return official
    if not split and not own:  # neither says what is for training
        return list(index.scenes)
    raise _unknown(index, kind, version)


def _listed(index: NuscenesIndex, path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f'{path} cannot be read: {error}') from error
    names = {line.strip() for line in lines} - {''}
    names = {name for name in names if not name.startswith('#')}
    unknown = sorted(names - set(index.scenes))
    if unknown:
        more = f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''
        raise ConfigError(f'{path} names {unknown[0]!r}{more}, which the data set does not have')
    if not names:
        raise ConfigError(f'{path} names no scene')
    return sorted(names)


def _unknown(index: NuscenesIndex, split: str, version: str) -> ConfigError:
    known = [f'{name} ({len(scenes)})' for name, scenes in index.splits.items()]
    listed = ', '.join(known[:_SHOWN]) or 'none'
    return ConfigError(
        f'{version} has no scene of split {split!r}; its splits (scenes): {listed}; '
        f"'{EVERY}' takes all {len(index.scenes)}, a file with a scene's name per line takes those"
    )
