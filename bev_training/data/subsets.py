"""Which samples' labels are used: 1, 10, 50, 100 % by frame or by scene, the same everywhere.

Names are ranked by a hash of the seed and the name, so a draw depends on nothing but the samples'
names, and each share is contained in every larger one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from bev_perception.errors import ConfigError
from bev_training.data.paths import to_path, write_whole
from bev_training.data.sample import SampleSource
from bev_training.fit.settings import DataConfig


def choose_labels(source: SampleSource, data: DataConfig) -> list[int]:
    """Return the samples whose labels are used, sorted; at least one sample or scene.

    Raises:
        ConfigError: `data.labels_file` cannot be read, is empty or names a sample that the source
            does not have; or the source has no sample.
    """
    if not len(source):
        raise ConfigError(f'{data.train or "the training data"} has no labelled sample')
    if data.labels_file:
        return _read_subset(to_path(data.labels_file), source.keys)
    if data.labels_by == 'scene':
        scenes = list(source.scenes)
        chosen = _share(set(scenes), data)
        return [i for i, scene in enumerate(scenes) if scene in chosen]
    chosen = _share(source.keys, data)
    return [i for i, key in enumerate(source.keys) if key in chosen]


def write_subset(
    path: Path | str,
    source: SampleSource,
    indices: Sequence[int],
    data: DataConfig | None = None,
) -> None:
    """Store a draw: a key per line, to be used with `data.labels_file`.

    Args:
        path: text file; it appears whole or not at all.
        source: of the samples.
        indices: the chosen ones.
        data: how they were chosen, for the file's head.

    Raises:
        OSError: it cannot be written.
    """
    head = [f'{len(indices)} of {len(source)} samples']
    if data is not None and data.labels_file:
        head.append(f'from: {data.labels_file}')
    elif data is not None:
        head.append(f'percent: {data.labels_percent:g}')
        head.append(f'by: {data.labels_by}')
        head.append(f'seed: {data.labels_seed}')
    if data is not None:
        head.append(f'source: {data.train}')
    lines = [*(f'# {line}' for line in head), *(source.keys[i] for i in indices)]
    write_whole(to_path(path), ('\n'.join(lines) + '\n').encode())


def _share(names: Iterable[str], data: DataConfig) -> set[str]:
    """Return the first of the names in the seed's order, so many as the percentage says."""
    ranked = sorted(names, key=lambda name: (_rank(data.labels_seed, name), name))
    count = math.floor(len(ranked) * data.labels_percent / 100 + 0.5)
    return set(ranked[: max(1, count)])


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f'{seed}\n{name}'.encode(), digest_size=16).digest()


def _read_subset(path: Path, keys: Sequence[str]) -> list[int]:
    try:
        text = path.read_text(encoding='utf-8')
    except OSError as error:
        raise ConfigError(f'{path} cannot be read: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path} is no text file: {error.reason}') from error
    number = {key: i for i, key in enumerate(keys)}
    chosen = set()
    for at, line in enumerate(text.splitlines(), 1):
        key = line.strip()
        if not key or key.startswith('#'):
            continue
        if key not in number:
            raise ConfigError(
                f'{path}:{at}: the training data has no labelled sample {key!r}; '
                f'its first is {keys[0]!r}'
            )
        chosen.add(number[key])
    if not chosen:
        raise ConfigError(f'{path} names no sample; it must hold a key per line')
    return sorted(chosen)
