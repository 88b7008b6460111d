"""Tar shards: read by tar, by tarfile, by webdataset's rule and by offset."""

from __future__ import annotations

import re
import subprocess
import tarfile
from io import BytesIO
from itertools import groupby
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_perception.errors import BagError
from bev_training.data.file_writer import FileWriter
from bev_training.data.paths import to_path
from bev_training.data.shards import (
    Member,
    ShardWriter,
    check_names,
    key_of,
    npy_chunks,
    read_npy,
    read_spans,
)

# webdataset.tariterators.base_plus_ext
KEY_AND_SUFFIX = re.compile(r'^((?:.*/|)[^.]+)[.]([^/]*)$')


def frame_members(number, size):
    data = bytes([number % 256]) * size
    return [
        Member(name=f'{key_of(number)}.front.jpg', chunks=(data,)),
        Member(name=f'{key_of(number)}.json', chunks=(b'{', memoryview(b'}'))),
    ]


def write_shards(folder, sizes, shard_bytes):
    files = FileWriter(folder)
    shards = ShardWriter(files, shard_bytes)
    placed = [shards.add(frame_members(i, size)) for i, size in enumerate(sizes)]
    shards.end()
    return placed, shards.shards, files.files


SIZES = [0, 1, 511, 512, 513, 5000, 3, 20000, 7]


def test_tarfile_gives_what_the_offsets_give(tmp_path):
    placed, shards, files = write_shards(tmp_path, SIZES, 6000)
    assert [shard['frames'] for shard in shards] == [4, 2, 2, 1]  # ends with the frame that passes
    assert [file.name for file in files] == [shard['name'] for shard in shards]
    found = {}
    for shard in shards:
        with tarfile.open(tmp_path / shard['name'], 'r:') as tar:
            for info in tar:
                found[shard['name'], info.name] = (info.offset_data, info.size)
                assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
                assert (info.uname, info.gname) == ('', '')
    wanted = {(s, p.member): (p.offset, p.size_bytes) for s, members in placed for p in members}
    assert found == wanted
    for number, (shard, members) in enumerate(placed):
        spans = [(each.offset, each.size_bytes) for each in members]
        data = [bytes([number]) * SIZES[number], b'{}']
        assert read_spans(tmp_path / shard, spans) == data


def test_tar_lists_and_extracts_a_shard(tmp_path):
    placed, _, _ = write_shards(tmp_path, SIZES, 1 << 30)
    shard = tmp_path / placed[0][0]
    listed = subprocess.run(['tar', 'tf', shard], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [p.member for _, members in placed for p in members]
    assert not listed.stderr
    subprocess.run(['tar', 'xf', shard, '-C', tmp_path], check=True)
    assert (tmp_path / '000005.front.jpg').read_bytes() == b'\5' * 5000


def test_webdataset_s_rule_groups_members_to_frames(tmp_path):
    placed, _, _ = write_shards(tmp_path, SIZES, 1 << 30)
    with tarfile.open(tmp_path / placed[0][0], 'r|') as tar:  # as a stream
        parts = [KEY_AND_SUFFIX.match(info.name).groups() for info in tar]
    groups = [(key, [p[1] for p in group]) for key, group in groupby(parts, lambda p: p[0])]
    assert groups == [(f'{i:06d}', ['front.jpg', 'json']) for i in range(len(SIZES))]


def test_webdataset_reads_a_shard(tmp_path):
    webdataset = pytest.importorskip('webdataset')
    placed, _, _ = write_shards(tmp_path, SIZES, 1 << 30)
    samples = list(webdataset.WebDataset(str(tmp_path / placed[0][0]), shardshuffle=False))
    assert [s['__key__'] for s in samples] == [f'{i:06d}' for i in range(len(SIZES))]
    assert samples[5]['front.jpg'] == b'\5' * 5000


def test_hashes_and_sizes_are_those_of_the_files(tmp_path):
    _, _, files = write_shards(tmp_path, SIZES, 6000)
    for file in files:
        path = tmp_path / file.name
        said = subprocess.run(['sha256sum', path], capture_output=True, text=True, check=True)
        assert said.stdout.split()[0] == file.sha256
        assert path.stat().st_size == file.size_bytes


@given(rows=st.lists(st.integers(0, 5), max_size=4), columns=st.integers(1, 6))
def test_arrays_come_back_and_numpy_reads_them(rows, columns):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, columns)).astype(np.float32) for n in rows]
    data = b''.join(npy_chunks(parts, columns))
    whole = np.concatenate([np.empty((0, columns), np.float32), *parts])
    for read in (read_npy(data), np.load(BytesIO(data))):
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, whole)


def test_arrays_of_other_layouts_are_stored_as_they_look():
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    for part in (wide[:, ::2], wide.T, np.asfortranarray(wide), wide.astype('>f4')):
        data = b''.join(npy_chunks([part], part.shape[1]))
        np.testing.assert_array_equal(read_npy(data), part)


@pytest.mark.parametrize(
    'array',
    [np.zeros(3, 'f4'), np.zeros((3, 2)), np.zeros((2, 3), 'f4').T, np.zeros((2, 2), 'i4')],
)
def test_other_arrays_are_refused(array):
    file = BytesIO()
    np.save(file, array)
    with pytest.raises(ValueError):
        read_npy(file.getvalue())


@pytest.mark.parametrize('cut', [-1, -8, 5, 60])
def test_a_cut_array_is_refused(cut):
    data = b''.join(npy_chunks([np.ones((3, 4), np.float32)], 4))
    with pytest.raises(ValueError):
        read_npy(data[:cut])


@pytest.mark.parametrize('name', ['', 'a.b', 'a/b', 'a b', 'ä', 'x' * 65, '..', 'a\n'])
def test_unsafe_names_are_refused(name):
    with pytest.raises(BagError, match=r'^camera name .* cannot name a file'):
        check_names([name], 'camera')


def test_names_that_differ_only_in_capitals_are_refused():
    check_names(['front', 'front_left', 'F-2'], 'camera')
    with pytest.raises(BagError, match="'front' and 'Front' differ at most in capitals"):
        check_names(['front', 'Front'], 'camera')


@pytest.mark.parametrize('remote', [False, True])
def test_a_missing_or_short_shard_is_one_line(tmp_path, remote):
    folder = to_path(f'memory://{uuid4().hex}') if remote else tmp_path
    placed, _, _ = write_shards(folder, SIZES, 1 << 30)
    shard = folder / placed[0][0]
    spans = [(p.offset, p.size_bytes) for _, members in placed for p in members]
    parts = read_spans(shard, spans)
    assert parts[10] == b'\5' * 5000
    assert parts[11] == b'{}'
    assert read_spans(folder / 'none.tar', []) == []
    with pytest.raises(BagError, match=r'none\.tar is missing'):
        read_spans(folder / 'none.tar', spans)
    end = len(shard.read_bytes())
    with pytest.raises(BagError, match=rf'ends before byte {end + 1}'):
        read_spans(shard, [(end - 1, 2)])
