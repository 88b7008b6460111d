"""Labels in a folder: what is written is read, and whatever is wrong is said in one line."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.label_store import Labels, LabelStore, write_labels
from bev_training.data.sample import GroundBoxes, LabelGrids

from .small_labels import CLASSES, FACTS, GRID, assert_same_boxes, make_boxes, make_grids, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Labels of seven frames, of which every third has some."""
    write(tmp_path / 'labels', 7, every=3)
    return tmp_path / 'labels'


@pytest.mark.parametrize('known', [1.0, 0.7])
def test_what_is_written_is_read(tmp_path: Path, known: float) -> None:
    folder = tmp_path / 'labels'
    assert write(folder, 7, every=3, known=known) == 3
    assert (folder / 'known.npy').exists() == (known < 1)
    store = LabelStore(folder)
    assert (store.classes, store.grid, len(store)) == (CLASSES, GRID, 7)
    assert store.labelled.tolist() == [True, False, False, True, False, False, True]
    assert store.facts == FACTS and store.source == 'nobody'
    for frame in (0, 3, 6):
        found, expected = store.grids(frame, CLASSES, GRID), make_grids(frame, known=known)
        assert found.classes == CLASSES
        for name in ('positive', 'hidden', 'known'):
            there, wanted = getattr(found, name), getattr(expected, name)
            assert there.dtype == bool and np.array_equal(there, wanted), name
        assert_same_boxes(store.boxes(frame), make_boxes(frame))
    assert store.boxes(1).names == () and store.boxes(1).center_m.shape == (0, 3)
    with pytest.raises(BagError, match='frame 1 has no labels'):
        store.grids(1, CLASSES, GRID)
    with pytest.raises(IndexError):
        store.grids(7, CLASSES, GRID)
    with pytest.raises(IndexError):
        store.boxes(7)


def test_files_are_plain_arrays_as_documented(folder: Path) -> None:
    positive = np.load(folder / 'positive.npy')
    assert positive.shape == (7, 3, 14, 3) and positive.dtype == np.uint8
    assert np.array_equal(positive[3], np.packbits(make_grids(3).positive, axis=-1))
    assert not positive[1].any()
    box_frame, boxes = np.load(folder / 'box_frame.npy'), np.load(folder / 'boxes.npy')
    assert np.array_equal(boxes[box_frame[3] : box_frame[4], 1:4], make_boxes(3).center_m)
    assert sorted(path.name for path in folder.parent.iterdir()) == ['labels']


def test_labels_without_a_frame_or_a_box_can_be_read(tmp_path: Path) -> None:
    for count in (0, 2):
        frames: list[Labels] = [(make_grids(0), None)] * count
        folder = tmp_path / str(count) / 'labels'
        assert write_labels(folder, CLASSES, GRID, frames, source='') == count
        store = LabelStore(folder)
        assert len(store) == count and store.objects == ()
        assert all(store.boxes(i).names == () for i in range(count))


def test_a_frame_may_have_no_object(tmp_path: Path) -> None:
    frames = [(make_grids(i), make_boxes(i, count)) for i, count in enumerate((0, 2, 0))]
    write_labels(tmp_path / 'labels', CLASSES, GRID, frames, source='')
    store = LabelStore(tmp_path / 'labels')
    for frame, (_, boxes) in enumerate(frames):
        assert_same_boxes(store.boxes(frame), boxes)


def test_a_part_of_the_grid_and_of_the_classes_is_cut_out(folder: Path) -> None:
    store, whole = LabelStore(folder), make_grids(3)
    part = BevGrid(
        x_range_m=(-4.5, 3.0), y_range_m=(-3.0, 2.5), z_range_m=(0.0, 1.0), z_cells=1, cell_m=0.5
    )
    found = store.grids(3, ('lane_divider', 'vehicle'), part)
    assert found.classes == ('lane_divider', 'vehicle')
    assert np.array_equal(found.positive, whole.positive[[2, 0], 0:11, 3:18])
    assert np.array_equal(found.hidden, whole.hidden[[2, 0], 0:11, 3:18])
    assert found.known.shape == (11, 15) and found.positive.flags['C_CONTIGUOUS']


@pytest.mark.parametrize(
    'grid',
    [
        BevGrid(x_range_m=(-6.0, 5.5), y_range_m=(-3.0, 4.0), cell_m=0.5),
        BevGrid(x_range_m=(-6.5, 5.0), y_range_m=(-3.0, 4.0), cell_m=0.5),
        BevGrid(x_range_m=(-5.75, 4.25), y_range_m=(-3.0, 4.0), cell_m=0.5),
        BevGrid(x_range_m=(-6.0, 5.0), y_range_m=(-3.0, 4.0), cell_m=0.25),
    ],
    ids=['beyond its end', 'before its beginning', 'between its cells', 'of other cells'],
)
def test_another_grid_is_an_error_that_tells_the_one_there_is(folder: Path, grid: BevGrid) -> None:
    said = f'labels of {folder.parent} are of the grid x -6 to 5 m, y -3 to 4 m, cells of 0.5 m; '
    with pytest.raises(ConfigError, match=f'^{re.escape(said)}.* is no part of it$'):
        LabelStore(folder).check(CLASSES, grid)


def test_an_unknown_class_is_an_error_that_tells_those_there_are(folder: Path) -> None:
    said = f"labels of {folder.parent} have no class 'foo'; they have {list(CLASSES)}"
    with pytest.raises(ConfigError) as error:
        LabelStore(folder).grids(0, ('vehicle', 'foo'), GRID)
    assert str(error.value) == said


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) - 40])

    return damage


def put(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def head(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        there = json.loads((folder / 'labels.json').read_text())
        (folder / 'labels.json').write_text(json.dumps({**there, **changes}))

    return damage


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        (remove('labels.json'), 'labels.json is missing'),
        (remove('positive.npy'), 'positive.npy is missing'),
        (remove('boxes.npy'), 'boxes.npy is missing'),
        (cut('labels.json'), 'labels.json is damaged'),
        (cut('hidden.npy'), 'hidden.npy is damaged'),
        (put('hidden.npy', np.zeros((7, 3, 14, 2), np.uint8)), r'holds uint8 \(7, 3, 14, 2\)'),
        (put('labelled.npy', np.zeros(7, np.uint8)), 'labelled.npy holds uint8'),
        (put('hidden.npy', np.zeros((7, 3, 14, 3), np.uint8, 'F')), 'hidden.npy holds uint8'),
        (put('boxes.npy', np.zeros((1, 10))), 'box_frame.npy does not rise from 0 to 1'),
        (put('known.npy', np.zeros(3)), 'known.npy holds float64'),
        (head(version=2), 'labels.json is version 2, this program reads 1'),
        (head(format='x'), 'labels.json is not of labels'),
        (head(frames=8), r'positive.npy holds uint8 .* says uint8 \(8, 3, 14, 3\)'),
        (head(classes=None), 'labels.json is damaged'),
        (head(grid={'cell_m': -1}), 'labels.json is damaged .*cell_m is -1'),
    ],
)
def test_damage_is_told_in_one_line(folder: Path, damage: Callable, said: str) -> None:
    damage(folder)
    with pytest.raises(BagError, match=said) as error:
        LabelStore(folder)
    assert str(folder) in str(error.value) and '\n' not in str(error.value)


def changed(**values: object) -> Labels:
    return replace(make_grids(0), **values), None


def with_boxes(**values: object) -> Labels:
    return make_grids(0), replace(make_boxes(0, 2), **values)


@pytest.mark.parametrize(
    ('frame', 'said'),
    [
        (changed(classes=('a', 'b', 'c')), "classes are ['a', 'b', 'c'], not "),
        (changed(positive=np.zeros((3, 14, 21), bool)), 'positive is bool (3, 14, 21); it must'),
        (changed(known=np.zeros((14, 22))), 'known is float64 (14, 22); it must be bool'),
        (changed(hidden=np.ones((3, 14, 22), bool)), 'hidden has cells that are not positive'),
        (with_boxes(yaw_rad=np.zeros(3)), 'yaw_rad of boxes is (3,); it must be (2,)'),
        (with_boxes(center_m=np.full((2, 3), np.nan)), 'center_m of boxes is not finite'),
        (with_boxes(size_m=np.zeros((2, 3))), 'size_m of boxes has a side'),
    ],
)
def test_labels_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path: Path, frame: Labels, said: str
) -> None:
    folder = tmp_path / 'drive' / 'labels'
    frames = [(make_grids(1), None), frame]
    with pytest.raises(ConfigError, match=f'frame 1: {re.escape(said)}'):
        write_labels(folder, CLASSES, GRID, frames, source='')
    assert list(tmp_path.iterdir()) == []


def test_labels_that_are_there_stay_unless_they_are_to_be_replaced(folder: Path) -> None:
    with pytest.raises(BagError, match='holds labels already'):
        write(folder, 2)
    frames: list[Labels] = [(make_grids(9), None)]
    with pytest.raises(ConfigError):
        broken: list[Labels] = [changed(classes=('x',))]
        write_labels(folder, CLASSES, GRID, broken, source='', replace=True)
    assert len(LabelStore(folder)) == 7
    assert write_labels(folder, CLASSES, GRID, frames, source='new', replace=True) == 1
    assert LabelStore(folder).source == 'new'
    assert sorted(path.name for path in folder.parent.iterdir()) == ['labels']


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'cat.jpg').write_bytes(b'x')
    with pytest.raises(BagError, match=r'photos holds cat\.jpg, but no labels\.json; remove it'):
        write_labels(tmp_path / 'photos', CLASSES, GRID, [], source='', replace=True)
    assert (tmp_path / 'photos' / 'cat.jpg').read_bytes() == b'x'


def test_a_link_to_another_disk_stays_one(folder: Path) -> None:
    elsewhere = folder.rename(folder.parent / 'elsewhere')
    folder.symlink_to(elsewhere)
    write_labels(folder, CLASSES, GRID, [(make_grids(0), None)], source='', replace=True)
    assert folder.is_symlink() and len(LabelStore(folder)) == len(LabelStore(elsewhere)) == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ['elsewhere', 'labels']


def test_a_killed_run_is_in_nobodys_way(folder: Path) -> None:
    for name in ('.labels.part', '.labels.old'):
        (folder.parent / name).mkdir()
        (folder.parent / name / 'positive.npy').write_bytes(b'x')
    write_labels(folder, CLASSES, GRID, [(make_grids(0), None)], source='', replace=True)
    assert sorted(path.name for path in folder.parent.iterdir()) == ['labels']


def test_classes_are_named_once(tmp_path: Path) -> None:
    for classes in ((), ('a', 'a')):
        with pytest.raises(ConfigError, match='each must be named once'):
            write_labels(tmp_path / 'labels', classes, GRID, [], source='')


def test_an_error_of_who_gives_the_frames_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[Labels]:
        yield make_grids(0), None
        Path(tmp_path / 'nowhere.png').read_bytes()

    with pytest.raises(BagError, match=r'nowhere\.png'):
        write_labels(tmp_path / 'labels', CLASSES, GRID, frames(), source='')
    assert list(tmp_path.iterdir()) == []


def test_files_that_change_while_they_are_open_are_told(folder: Path) -> None:
    store = LabelStore(folder)
    write_labels(
        folder, CLASSES, GRID, [(make_grids(0), make_boxes(0, 9))], source='', replace=True
    )
    with pytest.raises(BagError, match=r'positive\.npy has changed since it was opened'):
        store.grids(0, CLASSES, GRID)
    with pytest.raises(BagError, match=r'box_frame\.npy has changed since'):
        store.boxes(0)
    (folder / 'positive.npy').unlink()
    with pytest.raises(BagError, match=r'positive\.npy cannot be read: No such file'):
        store.grids(0, CLASSES, GRID)


def test_labels_can_be_pickled_and_hold_no_grids(folder: Path) -> None:
    store = LabelStore(folder)
    data = pickle.dumps(store)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert np.array_equal(
        again.grids(6, CLASSES, GRID).positive, store.grids(6, CLASSES, GRID).positive
    )


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """200 frames of 77 kB of bools each need no more than 20 of them."""
    grid = BevGrid(x_range_m=(-40.0, 40.0), y_range_m=(-40.0, 40.0), cell_m=0.5)
    one = make_grids(0, grid=grid)
    boxes = make_boxes(0, 5)

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        tracemalloc.start()
        frames = ((one, boxes) for _ in range(count))
        write_labels(folder, CLASSES, grid, frames, source='')
        store = LabelStore(folder)
        for frame in range(count):
            store.grids(frame, CLASSES, grid)
            store.boxes(frame)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(200) < peak(20) + 100_000


def test_ten_lines_of_numpy_write_labels(tmp_path: Path) -> None:
    """The example in docs/training.md, with a road that is straight ahead."""
    grid = BevGrid(x_range_m=(0.0, 8.0), y_range_m=(-4.0, 4.0), cell_m=1.0)

    def frames() -> Iterator[tuple[LabelGrids, GroundBoxes | None]]:
        for _ in range(3):
            positive = np.zeros((1, *grid.shape[1:]), bool)
            positive[0, 2:6] = True
            known = np.ones(grid.shape[1:], bool)
            hidden = np.zeros_like(positive)
            yield (
                LabelGrids(classes=('road',), positive=positive, hidden=hidden, known=known),
                None,
            )

    write_labels(tmp_path / 'labels', ['road'], grid, frames(), source='by hand')
    assert LabelStore(tmp_path / 'labels').grids(2, ['road'], grid).positive.sum() == 32


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BevError, match='file'):
        write_labels(tmp_path / 'file' / 'labels', CLASSES, GRID, [], source='')
