"""Labelled drives as samples: what they hold, what is left out, and what bad input gets."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, ConfigError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_training.data import drive_samples
from bev_training.data.drive_samples import DriveSamples, open_drives
from bev_training.data.drives import Drive
from bev_training.data.label_store import LabelStore, labels_of, write_labels
from bev_training.data.sample import SampleSource, read_sample
from bev_training.data.sources import open_source
from test.data.drive_frames import CAMERAS, write_drive

from .small_labels import CLASSES, FACTS, GRID, assert_same_boxes, make_boxes, make_grids, write

WANTED = ('drivable_area', 'vehicle')


@pytest.fixture(scope='module')
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drives, one of them without labels; of drive b every second frame has some."""
    folder = tmp_path_factory.mktemp('frames')
    for name, count in (('a', 5), ('b', 7), ('c', 2)):
        write_drive(folder / name, count)
    write(labels_of(folder / 'a'), 5)
    write(labels_of(folder / 'b'), 7, every=2)
    return folder


@pytest.fixture
def source(frames: Path) -> DriveSamples:
    return open_drives(frames, WANTED, GRID)


def test_labelled_frames_are_samples_in_order(source: DriveSamples) -> None:
    expected = [f'a/{i:06d}' for i in range(5)] + [f'b/{i:06d}' for i in (0, 2, 4, 6)]
    assert list(source.keys) == expected and len(source) == 9
    assert list(source.scenes) == ['a'] * 5 + ['b'] * 4
    assert source.keys[-1] == 'b/000006' and source.keys[3:5] == expected[3:5]
    assert isinstance(source.keys, Sequence) and source.keys.index('b/000000') == 5
    assert source.unlabelled == 1 and source.notes == ('1 drive has no labels, left out',)
    assert source.classes == WANTED and source.grid == GRID and source.cameras == CAMERAS
    assert source.facts(8) == FACTS
    with pytest.raises(IndexError):
        source.keys[9]


def test_a_sample_holds_what_drive_and_labels_hold(frames: Path, source: SampleSource) -> None:
    i, frame = 7, 4  # b/000004
    assert source.keys[i] == 'b/000004'
    sample = read_sample(source, i, points=True)
    drive = Drive(frames / 'b')
    expected = drive.view_set(frame)
    assert sample.view_set.stamp_ns == expected.stamp_ns
    assert np.array_equal(sample.view_set.base_T_ego, expected.base_T_ego)
    for found, wanted in zip(sample.view_set.views, expected.views, strict=True):
        assert found.name == wanted.name and np.array_equal(found.image, wanted.image)
        assert np.array_equal(found.ego_T_cam, wanted.ego_T_cam)
        assert np.array_equal(found.camera.K, wanted.camera.K)
    grids = make_grids(frame)
    assert sample.labels.classes == WANTED
    assert np.array_equal(sample.labels.positive, grids.positive[[1, 0]])
    assert np.array_equal(sample.labels.hidden, grids.hidden[[1, 0]])
    assert_same_boxes(sample.boxes, make_boxes(frame))
    sweeps = drive.frame(frame).sweeps
    assert len(sweeps) > 2 and sample.points_m.dtype == np.float32
    assert len(sample.points_m) == sum(len(sweep.points) for sweep in sweeps)
    at = 0
    for sweep in sweeps:
        own = sample.points_m[at : at + len(sweep.points)].astype(float)
        back = rigid.transform_points(rigid.inverse(sweep.ego_T_lidar), own)
        assert np.allclose(back, sweep.points[:, :3], atol=1e-3)
        at += len(sweep.points)


def test_images_may_be_decoded_smaller(source: DriveSamples) -> None:
    views = source.view_set(3, at_least_px=(32, 24)).views
    assert {view.image.shape[:2] for view in views} >= {(24, 32)}


def test_a_frame_without_sweeps_has_no_points(frames: Path) -> None:
    alone = open_drives(frames / 'b', WANTED, GRID)
    assert alone.keys[3] == 'b/000006' and alone.unlabelled == 0
    points = alone.points(3)
    assert points.shape == (0, 3) and points.dtype == np.float32


def test_it_can_be_pickled_and_forked(source: DriveSamples) -> None:
    first = source.labels(2).positive
    again = pickle.loads(pickle.dumps(source))
    assert list(again.keys) == list(source.keys)
    assert np.array_equal(again.labels(2).positive, first)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            same = np.array_equal(source.labels(2).positive, first)
            os.write(writing, b'same' if same and source.view_set(2).views else b'other')
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b'same'
    for end in (reading, writing):
        os.close(end)


def test_few_drives_are_open_at_a_time(
    source: DriveSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive_samples, '_OPEN', 1)
    for i in (0, 8, 1, 7):
        assert np.array_equal(
            source.labels(i).positive, make_grids(int(source.keys[i][2:])).positive[[1, 0]]
        )
        assert len(source._open) == 1
    assert len(pickle.dumps(source)) < 2000  # nothing of an open drive


def test_it_is_opened_as_any_source_is(frames: Path) -> None:
    source = open_source(str(frames), classes=WANTED, grid=GRID)
    assert isinstance(source, DriveSamples) and len(source) == 9


def test_cameras_are_in_the_order_of_the_largest_rig(
    frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rigs = {'a': ('back', 'front'), 'b': ('front_left', 'front', 'back')}
    opened = drive_samples._opened

    def other(folder: Path, labelled: bool) -> tuple[Drive, LabelStore | None]:
        drive, labels = opened(folder, labelled)
        drive.cameras = rigs[folder.name]
        return drive, labels

    monkeypatch.setattr(drive_samples, '_opened', other)
    assert open_drives(frames, WANTED, GRID).cameras == rigs['b']


def test_facts_of_a_sample_are_its_own(source: DriveSamples) -> None:
    told = source.facts(0)
    assert isinstance(told, dict)
    told['weather'] = 'snow'
    assert source.facts(0) == FACTS


def test_drives_in_an_object_store_are_told_to_be_copied() -> None:
    with pytest.raises(BagError, match='labels need a folder on a disk; copy the drives to one'):
        open_source('memory://frames', classes=WANTED, grid=GRID)


def test_tables_are_told_from_drives(tmp_path: Path) -> None:
    def refused(path: Path, said: str, version: str = '') -> None:
        with pytest.raises(BagError, match=said):
            open_source(path, classes=('vehicle',), grid=GRID, version=version)

    for name in ('v1.0-mini', 'v1.0-trainval'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'sample_data.json').write_text('[]')
    refused(tmp_path, r'has the versions v1\.0-mini, v1\.0-trainval; name one as version')
    refused(tmp_path, "has no version '/v1', only v1.0-mini, v1.0-trainval", '/v1')
    refused(tmp_path / 'v1.0-mini', f'holds tables only; name {tmp_path}, version v1.0-mini')
    (tmp_path / 'own').mkdir()
    (tmp_path / 'v1.0-mini').rename(tmp_path / 'own' / 'yard')  # a version of another name
    refused(tmp_path / 'own', r'yard/calibrated_sensor\.json is missing')
    refused(tmp_path / 'own', "has no version 'v1.0-mini', only yard", 'v1.0-mini')


def test_drives_without_any_labels_tell_how_to_get_some(tmp_path: Path) -> None:
    write_drive(tmp_path / 'a', 2)
    with pytest.raises(BagError) as error:
        open_drives(tmp_path, WANTED, GRID)
    assert str(error.value) == (
        f'{tmp_path} has no labels; `bev label` writes those of synthetic drives, '
        'docs/training.md tells how to write your own'
    )


def test_bad_input_is_told_in_one_line(frames: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"labels of .*/a have no class 'foo'; they have \["):
        open_source(frames, classes=('foo',), grid=GRID)
    with pytest.raises(ConfigError, match='are of the grid x -6 to 5 m'):
        open_source(frames, classes=WANTED, grid=BevGrid())
    with pytest.raises(BagError, match='nowhere does not exist'):
        open_source(tmp_path / 'nowhere', classes=WANTED, grid=GRID)
    with pytest.raises(BagError, match='holds no converted drive'):
        open_source(tmp_path, classes=WANTED, grid=GRID)
    with pytest.raises(ConfigError, match=r"^split is 'val'; .* drives have no splits"):
        open_source(frames, classes=WANTED, grid=GRID, split='val')
    with pytest.raises(ConfigError, match=r"^version is 'v1\.0-mini'; "):
        open_source(frames, classes=WANTED, grid=GRID, version='v1.0-mini')


def test_labels_of_another_number_of_frames_are_an_error(tmp_path: Path) -> None:
    write_drive(tmp_path / 'a', 4)
    write(labels_of(tmp_path / 'a'), 3)
    with pytest.raises(BagError, match='labels has 3 frames, the drive has 4; write the labels'):
        open_drives(tmp_path, WANTED, GRID)


def test_labels_of_no_frame_are_an_error(tmp_path: Path) -> None:
    write_drive(tmp_path / 'a', 2)
    write_labels(labels_of(tmp_path / 'a'), CLASSES, GRID, [(None, None)] * 2, source='')
    with pytest.raises(BagError, match='but not of a single frame'):
        open_drives(tmp_path, WANTED, GRID)


def test_whereabouts_are_those_of_the_frames(frames: Path, source: DriveSamples) -> None:
    drive = Drive(frames / 'b')
    for i, frame in zip(range(5, 9), (0, 2, 4, 6), strict=True):
        stored, found = drive.frame(frame), source.whereabouts(i)
        view_set = source.view_set(i)
        assert found.stamp_ns == stored.stamp_ns == view_set.stamp_ns
        assert found.epoch == (stored.sequence, stored.epoch)
        np.testing.assert_array_equal(found.odom_T_ego, stored.odom_T_ego)
        np.testing.assert_array_equal(view_set.odom_T_ego, stored.odom_T_ego)
    assert source.whereabouts(4).odom_T_ego is not None


def test_frames_without_odometry_are_nowhere(tmp_path: Path) -> None:
    write_drive(tmp_path / 'drive', 6)
    drive = Drive(tmp_path / 'drive')
    assert drive.frame(5).odom_T_ego is None  # of the sixth frame none is known
    assert drive.whereabouts(5).odom_T_ego is None and drive.view_set(5).odom_T_ego is None
