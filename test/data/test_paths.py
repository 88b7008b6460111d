"""Files appear whole or not at all, locally and in an object store."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bev_perception.errors import BagError
from bev_training.data.paths import inside, is_local, sync_folder, to_path, whole_file, write_whole


@pytest.fixture
def memory():
    return to_path(f'memory://{uuid4().hex}')


def test_a_user_s_text_becomes_a_path():
    assert to_path('a/b') == Path('a/b')
    assert to_path('file:///a/b') == to_path('local:///a/b') == Path('/a/b')
    path = Path('x')
    assert to_path(path) is path
    assert is_local(Path('a'))
    assert not is_local(to_path('memory://a'))


def test_an_unknown_scheme_is_one_line():
    with pytest.raises(BagError, match=r'^nosuch://a/b: .*nosuch') as caught:
        to_path('nosuch://a/b')
    assert '\n' not in str(caught.value)


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / 'deep' / 'file.bin'
    with whole_file(path) as file:
        file.write(b'ab')
        assert [p.name for p in path.parent.iterdir()] == ['.file.bin.part']
    assert path.read_bytes() == b'ab'
    assert [p.name for p in path.parent.iterdir()] == ['file.bin']
    sync_folder(path.parent)


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_a_local_file_is_left_as_it_was_after_an_error(tmp_path, error):
    path = tmp_path / 'file.bin'
    write_whole(path, b'old')
    with pytest.raises(error), whole_file(path) as file:
        file.write(b'new')
        raise error
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_an_object_store(memory):
    write_whole(memory / 'a' / 'b.bin', b'ab')
    assert (memory / 'a' / 'b.bin').read_bytes() == b'ab'
    sync_folder(memory)  # nothing to do


def test_what_is_inside_a_folder(memory, tmp_path):
    for folder in (tmp_path / 'x', memory / 'x'):
        assert inside(folder) == []
        for name in ('b', 'a/deep', '.hidden'):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        assert inside(folder) == [folder / '.hidden', folder / 'a', folder / 'b']


def test_a_store_that_does_not_answer_is_not_empty(memory, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError('Slow\nDown')

    monkeypatch.setattr(MemoryFileSystem, 'ls', refuse)
    with pytest.raises(BagError, match=r'cannot be read: RuntimeError: Slow Down$'):
        inside(memory)


def test_a_file_written_in_place_is_removed_after_an_error(memory):
    with pytest.raises(ValueError), whole_file(memory / 'b.bin') as file:
        file.write(b'a')
        raise ValueError
    assert not (memory / 'b.bin').exists()


def test_an_upload_is_discarded_after_an_error():
    class Upload:
        """As fsspec's files of object stores: closing uploads, also when they are collected."""

        forced = closed = discarded = uploaded = False

        def write(self, data):
            return len(data)

        def discard(self):
            self.discarded = True

        def close(self):
            self.uploaded = self.closed = True

    class Store:
        upload = Upload()

        def open(self, mode):
            return self.upload

        def unlink(self, missing_ok):
            raise AssertionError('an object from before is none of our business')

    store = Store()
    with pytest.raises(ValueError), whole_file(store) as file:
        file.write(b'a')
        raise ValueError
    assert store.upload.discarded
    assert store.upload.closed  # so that it is not uploaded later
    assert not store.upload.uploaded
