"""Recordings that were cut off, overwritten or hit by flipped bits: one clear line, or a count."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from bev_perception.errors import BagError
from bev_training.data.bag_reader import Recording
from test.data.damage import mutate
from test.data.small_bag import SmallDrive, write_entries

MUTATIONS = 50
SUFFIXES = ('.mcap', '.db3', '.bag')
_MAX_SECONDS = 10.0  # of processor time, per damaged file
_MAX_GROWTH_MB = 600


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One drive in every storage."""
    folder = tmp_path_factory.mktemp('whole')
    entries = SmallDrive(seconds=0.3, cameras=('front', 'back')).entries()
    write_entries(folder / 'm', entries, compression='storage')
    write_entries(folder / 's', entries, storage='sqlite3')
    write_entries(folder / 'r.bag', entries)
    files = (folder / 'm' / 'm.mcap', folder / 's' / 's.db3', folder / 'r.bag')
    return {file.suffix: file.read_bytes() for file in files}


def read_all(path: Path) -> tuple[int, int]:
    """Return how many messages could be read and how many were counted as unreadable."""
    with Recording(path) as recording:
        read = sum(1 for _ in recording.messages(recording.topics))
        return read, recording.unreadable.total()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_damaged_files(whole: dict[str, bytes], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'damaged{suffix}'
    path.write_bytes(whole[suffix])
    (complete, none), before = read_all(path), peak_mb()
    assert complete > 50 and not none
    outcomes = {'refused': 0, 'whole': 0, 'counted': 0}
    for seed in range(MUTATIONS):
        path.write_bytes(mutate(whole[suffix], seed))
        started = time.process_time()
        try:
            read, unreadable = read_all(path)
            assert unreadable or read == complete, f'seed {seed}: messages lost without a word'
            outcomes['counted' if unreadable else 'whole'] += 1
        except BagError as error:
            assert '\n' not in str(error) and str(path) in str(error), f'seed {seed}: {error}'
            assert len(str(error)) < 700
            outcomes['refused'] += 1
        assert time.process_time() - started < _MAX_SECONDS, f'seed {seed}'
    assert peak_mb() - before < _MAX_GROWTH_MB
    assert outcomes['refused'] >= MUTATIONS // 4, outcomes


@pytest.mark.parametrize('compression', ['file', 'message'])
def test_damaged_compression(compression: str, tmp_path: Path) -> None:
    entries = SmallDrive(seconds=0.2, cameras=('front',)).entries()
    bag = write_entries(tmp_path / 'bag', entries, compression=compression)
    (file,) = (f for f in bag.iterdir() if f.name != 'metadata.yaml')
    data = file.read_bytes()
    for seed in range(16):
        file.write_bytes(mutate(data, seed))
        try:
            read_all(bag)
        except BagError as error:
            assert '\n' not in str(error)


def test_damaged_metadata(tmp_path: Path) -> None:
    """Whatever stands in metadata.yaml."""
    entries = SmallDrive(seconds=0.2, cameras=('front',)).entries()
    bag = write_entries(tmp_path / 'bag', entries)
    data = (bag / 'metadata.yaml').read_bytes()
    for seed in range(40):
        (bag / 'metadata.yaml').write_bytes(mutate(data, seed))
        try:
            assert read_all(bag) == (len(entries), 0)
        except BagError as error:
            assert '\n' not in str(error)


def test_damage_is_the_same_for_a_seed() -> None:
    data = bytes(range(256)) * 40
    assert all(mutate(data, seed) == mutate(data, seed) for seed in range(64))
    assert sum(mutate(data, seed) != data for seed in range(64)) > 60
