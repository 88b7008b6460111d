"""Folders that appear or are replaced whole, and that leave nothing of what was not finished."""

from __future__ import annotations

import threading
import time

import pytest

from bev_perception.errors import BagError
from bev_training.folders import existing_folder, hidden_folder, replaced_folder


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


def test_what_is_still_written_into_when_it_is_removed_goes_all_the_same(tmp_path):
    def write(work, until):
        number = 0
        while time.monotonic() < until and work.exists():
            number += 1
            try:
                (work / str(number)).write_text('late')
            except FileNotFoundError:  # removed, which is what is wanted
                return

    with hidden_folder(tmp_path / 'new' / 'out') as work:
        writers = [
            threading.Thread(target=write, args=(work, time.monotonic() + 0.4)) for _ in range(2)
        ]
        for writer in writers:
            writer.start()
        time.sleep(0.1)  # so that there is much to remove
    for writer in writers:
        writer.join()
    assert not list(tmp_path.iterdir())


def test_a_new_folder_that_somebody_else_removed_takes_its_parents_with_it(tmp_path):
    with existing_folder(tmp_path / 'new' / 'out') as folder:
        folder.rmdir()
    assert not list(tmp_path.iterdir())
