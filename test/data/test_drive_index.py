"""`frames.parquet`: streamed, exact, linked, and refused where it is damaged."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_perception.errors import BagError
from bev_training.data import drive_index
from bev_training.data.drive_index import INDEX, Index, IndexWriter, frame_row, matrix, numbers
from bev_training.data.file_writer import FileWriter
from bev_training.data.shards import Placed
from test.data.drive_frames import CAMERAS, make_frame


def make_row(number, sequence=0):
    frame = make_frame(number)
    images = {
        view.camera: Placed(member=f'{number:06d}.{view.camera}.jpg', offset=512, size_bytes=9)
        for view in frame.views
    }
    clouds = {
        sweep.lidar: Placed(member=f'{number:06d}.{sweep.lidar}.npy', offset=1024, size_bytes=9)
        for sweep in frame.sweeps
    }
    row = frame_row(number, frame, CAMERAS, 'shards/000000.tar', images, clouds)
    return {**row, 'sequence': sequence}


def write_index(folder, sequences):
    files = FileWriter(folder)
    writer = IndexWriter(files, CAMERAS)
    for number, sequence in enumerate(sequences):
        writer.add(make_row(number, sequence))
    writer.finish()
    return folder / INDEX


def links_of(sequences):
    """The reference: neighbours of the same sequence."""
    padded = [None, *sequences, None]
    return [
        (
            i - 1 if padded[i] == padded[i + 1] else None,
            i + 1 if padded[i + 2] == padded[i + 1] else None,
        )
        for i in range(len(sequences))
    ]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(drive_index, 'ROWS_PER_GROUP', 4)


@pytest.mark.parametrize('count', [1, 3, 4, 5, 8, 9])
def test_rows_come_back_exactly(tmp_path, count):
    sequences = [i // 3 for i in range(count)]
    path = write_index(tmp_path, sequences)
    index = Index(path, CAMERAS)
    assert len(index) == count
    wanted = [make_row(i, s) for i, s in enumerate(sequences)]
    for row, (previous, following) in zip(wanted, links_of(sequences), strict=True):
        row |= {'previous': previous, 'next': following}
    assert [index.row(i) for i in reversed(range(count))] == wanted[::-1]
    assert list(index.rows()) == wanted
    assert index.column('stamp_ns') == [row['stamp_ns'] for row in wanted]
    for number in (-1, count):
        with pytest.raises(IndexError, match=f'frame {number} of a drive with {count}'):
            index.row(number)


@given(sequences=st.lists(st.integers(0, 3), min_size=1, max_size=14).map(sorted))
def test_neighbours_of_one_sequence_are_linked(tmp_path_factory, sequences):
    path = write_index(tmp_path_factory.mktemp('links'), sequences)
    index = Index(path, CAMERAS)
    found = [(row['previous'], row['next']) for row in index.rows()]
    assert found == links_of(sequences)


@given(values=st.lists(st.floats(allow_nan=False), min_size=16, max_size=16))
def test_poses_keep_every_bit(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp('poses')
    pose = np.array(values).reshape(4, 4)
    writer = IndexWriter(FileWriter(folder), CAMERAS)
    writer.add({**make_row(0), 'base_T_ego': numbers(pose)})
    writer.finish()
    read = matrix(Index(folder / INDEX, CAMERAS).row(0)['base_T_ego'])
    assert read.tobytes() == pose.tobytes()


def test_few_rows_wait_in_memory(tmp_path):
    writer = IndexWriter(FileWriter(tmp_path), CAMERAS)
    for number in range(50):
        writer.add(make_row(number))
        assert len(writer._rows) <= 4
    writer.finish()
    assert pq.ParquetFile(tmp_path / INDEX).metadata.num_row_groups == 13


def test_equal_rows_give_equal_bytes(tmp_path):
    paths = [write_index(tmp_path / name, [0] * 10) for name in 'ab']
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_other_readers_find_the_columns(tmp_path):
    table = pq.read_table(write_index(tmp_path, [0] * 6))
    assert table.schema.metadata[b'drive_format'] == b'1'
    assert table.schema.metadata[b'cameras'] == ','.join(CAMERAS).encode()
    assert table.column('key').to_pylist() == [f'{i:06d}' for i in range(6)]
    frame = make_frame(3)
    assert table.column('live').to_pylist()[3] == [n not in frame.missing for n in CAMERAS]


def test_nothing_stays_of_an_index_that_is_dropped(tmp_path):
    writer = IndexWriter(FileWriter(tmp_path), CAMERAS)
    for number in range(6):
        writer.add(make_row(number))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_every_damaged_byte_is_refused_or_harmless(tmp_path):
    path = write_index(tmp_path, [0] * 6)
    data = path.read_bytes()
    wanted = list(Index(path, CAMERAS).rows())
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(data), 150):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :])
        try:
            rows = list(Index(path, CAMERAS).rows())
        except BagError as error:
            assert '\n' not in str(error)
            assert str(path) in str(error)
            refused += 1
        else:
            # Only what nobody reads here may differ: page checksums guard the rows themselves.
            assert len(rows) == len(wanted)
    assert refused > 100
    for size in rng.integers(0, len(data), 30):
        path.write_bytes(data[:size])
        with pytest.raises(BagError, match='is damaged'):
            Index(path, CAMERAS)


def test_another_table_or_rig_is_refused(tmp_path):
    pq.write_table(pa.table({'a': [1]}), tmp_path / 'other.parquet')
    with pytest.raises(BagError, match='other columns than version 1'):
        Index(tmp_path / 'other.parquet', CAMERAS)
    path = write_index(tmp_path, [0])
    with pytest.raises(BagError, match='is of the cameras'):
        Index(path, CAMERAS[::-1])
    with pytest.raises(BagError, match='is missing'):
        Index(tmp_path / 'none.parquet', CAMERAS)
