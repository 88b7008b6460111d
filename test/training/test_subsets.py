"""Shares of the labels: nested, seeded, the same everywhere, stored as text."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from bev_perception.errors import ConfigError
from bev_training.data.subsets import choose_labels, write_subset
from bev_training.fit.settings import DataConfig
from test.training.fake_source import make_fake_source

SOURCE = make_fake_source(403)
PERCENTS = (1, 10, 50, 100)


@dataclass(frozen=True)
class Shuffled:
    """The same samples in another order."""

    order: tuple[int, ...]

    @property
    def keys(self):
        keys = SOURCE.keys
        return [keys[i] for i in self.order]

    @property
    def scenes(self):
        scenes = SOURCE.scenes
        return [scenes[i] for i in self.order]

    def __len__(self):
        return len(self.order)


def draw(percent, by='frame', seed=0, source=SOURCE):
    data = DataConfig(labels_percent=percent, labels_by=by, labels_seed=seed)
    return choose_labels(source, data)


@pytest.mark.parametrize('by', ['frame', 'scene'])
def test_smaller_shares_are_contained_in_larger_ones(by):
    draws = [set(draw(percent, by)) for percent in PERCENTS]
    assert all(a < b for a, b in pairwise(draws))
    assert draws[-1] == set(range(403))


def test_shares_have_their_size():
    assert [len(draw(percent)) for percent in PERCENTS] == [4, 40, 202, 403]
    assert len(draw(0.01)) == 1
    assert draw(37.5) == sorted(draw(37.5))


def test_whole_scenes_are_drawn_by_scene():
    chosen = draw(10, 'scene')
    scenes = {SOURCE.scenes[i] for i in chosen}
    assert len(scenes) == 10  # of 101
    assert chosen == [i for i, scene in enumerate(SOURCE.scenes) if scene in scenes]
    assert len({SOURCE.scenes[i] for i in draw(0.1, 'scene')}) == 1


def test_another_seed_draws_others():
    assert len(set(draw(10)) & set(draw(10, seed=1))) < 15
    assert draw(10, 'scene') != draw(10, 'scene', seed=1)


@pytest.mark.parametrize('by', ['frame', 'scene'])
def test_the_order_of_the_samples_changes_nothing(by):
    other = Shuffled(tuple(random.Random(0).sample(range(403), 403)))
    keys, other_keys = SOURCE.keys, other.keys
    expected = {keys[i] for i in draw(10, by)}
    assert {other_keys[i] for i in draw(10, by, source=other)} == expected


def test_the_draw_never_changes():
    """It depends on a hash, so on no library's version; stored experiments rely on it."""
    small = make_fake_source(12)
    assert draw(25, source=small) == [1, 2, 7]
    assert draw(50, 'scene', 3, source=small) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_stored_draw_comes_back(tmp_path):
    data = DataConfig(train='somewhere', labels_percent=10, labels_by='scene', labels_seed=5)
    chosen = choose_labels(SOURCE, data)
    path = tmp_path / 'labels.txt'
    write_subset(path, SOURCE, chosen, data)
    lines = path.read_text().splitlines()
    assert lines[:5] == [
        f'# {len(chosen)} of 403 samples',
        '# percent: 10',
        '# by: scene',
        '# seed: 5',
        '# source: somewhere',
    ]
    assert lines[5:] == [SOURCE.keys[i] for i in chosen]
    again = DataConfig(labels_percent=100, labels_file=str(path))
    assert choose_labels(SOURCE, again) == chosen
    write_subset(tmp_path / 'bare.txt', SOURCE, [3])
    assert choose_labels(SOURCE, replace(again, labels_file=str(tmp_path / 'bare.txt'))) == [3]
    assert {p.name for p in tmp_path.iterdir()} == {'labels.txt', 'bare.txt'}


def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path):
    path = tmp_path / 'labels.txt'

    def error_of(text):
        path.write_bytes(text)
        with pytest.raises(ConfigError) as caught:
            choose_labels(SOURCE, DataConfig(labels_file=str(path)))
        assert '\n' not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    message = error_of(f'# a\n\n{SOURCE.keys[2]}\nscene-0000/000099\n'.encode())
    assert message.startswith(f'{path}:4: ') and "'scene-0000/000099'" in message
    assert 'names no sample' in error_of(b'# only a head\n')
    assert 'no text file' in error_of(b'\xff\xfe\x00')
    path.unlink()
    with pytest.raises(ConfigError, match='cannot be read: No such file'):
        choose_labels(SOURCE, DataConfig(labels_file=str(path)))


def test_a_source_without_samples_is_refused():
    with pytest.raises(ConfigError, match='town has no labelled sample'):
        choose_labels(make_fake_source(0), DataConfig(train='town'))
