"""Folders that are replaced whole: what was there stays until the new one is in its place."""

from __future__ import annotations

import pytest

from bev_perception.errors import BagError
from bev_training.folders import replaced_folder


def filled(folder, text):
    folder.mkdir(parents=True)
    (folder / 'file').write_text(text)


def test_a_folder_is_replaced_whole(tmp_path):
    filled(tmp_path / 'out', 'old')
    with replaced_folder(tmp_path / 'out') as work:
        (work / 'file').write_text('new')
        assert (tmp_path / 'out' / 'file').read_text() == 'old'
    assert (tmp_path / 'out' / 'file').read_text() == 'new'
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_an_error_leaves_what_was_there(tmp_path):
    filled(tmp_path / 'out', 'old')
    with pytest.raises(ValueError), replaced_folder(tmp_path / 'out') as work:
        (work / 'file').write_text('new')
        raise ValueError
    assert (tmp_path / 'out' / 'file').read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_what_was_moved_aside_comes_back_where_the_new_one_cannot_take_its_place(tmp_path):
    filled(tmp_path / 'out', 'old')
    refused = pytest.raises(BagError, match='out cannot be written')
    with refused, replaced_folder(tmp_path / 'out') as work:
        work.rmdir()  # the rename of the new folder fails after that of the old one
    assert (tmp_path / 'out' / 'file').read_text() == 'old'


def test_a_run_that_was_killed_between_the_two_renames_loses_nothing(tmp_path):
    filled(tmp_path / '.out.old', 'old')
    filled(tmp_path / '.out.part', 'half')
    with pytest.raises(ValueError), replaced_folder(tmp_path / 'out') as work:
        assert list(work.iterdir()) == []
        raise ValueError
    assert (tmp_path / 'out' / 'file').read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['out']
