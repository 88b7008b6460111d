"""The town's labels, the whole way: a bag, its frames, their labels, samples."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from bev_perception.errors import BagError, BevError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_training import cli
from bev_training.cli_label import add_label
from bev_training.data.drive_samples import open_drives
from bev_training.data.drives import Drive
from bev_training.data.label_classes import CLASSES
from bev_training.data.label_store import LabelStore, labels_of
from bev_training.data.locks import drive_lock
from bev_training.data.sample import HIDDEN_UP_TO, GroundBoxes
from bev_training.data.truth_labels import crossings_of, label_drives, labels_at
from bev_training.evaluation.drive_truth import DriveTruth
from bev_training.outlines import box_corners, outlines
from bev_training.synthetic.drive import write_drive
from bev_training.synthetic.rig import nuscenes_rig
from bev_training.synthetic.settings import DriveConfig
from bev_training.synthetic.stored_truth import load_truth
from bev_training.synthetic.town.surfaces import CROSSING_M
from bev_training.synthetic.truth import CLASSES as TOWN_CLASSES
from bev_training.synthetic.truth import class_grids, ego_pose
from test.data.drive_frames import contents
from test.data.drive_frames import write_drive as write_other_drive
from test.synthetic.reuse import TINY, few_cameras, reuse, world_of

SMALL = ('--min-cameras', '2', '--workers', '1', '--every', 'all', '--anchor', 'back_right')


def settings() -> DriveConfig:
    """Half a second of two cameras, of which the later one gives the frames their instants."""
    rig = few_cameras(nuscenes_rig(TINY), 'front', 'back_right')
    rig = replace(rig, camera_hz=6)
    return DriveConfig(seconds=0.5, seed=3, rig=rig, weather='clear', image_truth=False)


@pytest.fixture(scope='module', autouse=True)
def quick_worlds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        reuse(patch)
        yield


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """town/one is a synthetic drive; frames/bag was converted from it, frames/zoo was not."""
    folder = tmp_path_factory.mktemp('made')
    write_drive(folder / 'town' / 'one', settings(), workers=1)
    bag = str(folder / 'town' / 'one' / 'bag')
    assert cli.main(['convert', bag, str(folder / 'frames'), *SMALL]) == 0
    write_other_drive(folder / 'frames' / 'zoo', 2)
    return folder


@pytest.fixture
def frames(made: Path, tmp_path: Path) -> Path:
    """A copy of the converted drives, without labels."""
    shutil.copytree(made / 'frames', tmp_path / 'frames')
    return tmp_path / 'frames'


@pytest.fixture(scope='module')
def labelled(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with labels."""
    folder = tmp_path_factory.mktemp('labelled') / 'frames'
    shutil.copytree(made / 'frames', folder)
    outcome = label_drives(folder, [made / 'town'])
    assert [one.name for one in outcome.done] == ['bag'] and outcome.unmatched == ['zoo']
    assert not outcome.kept and not outcome.failed
    return folder


def times_s(drive: Drive) -> list[float]:
    return [(stamp_ns - settings().epoch_ns) / 1e9 for stamp_ns in drive.stamps_ns]


def test_labels_equal_the_towns_grids_at_the_same_instants(made: Path, labelled: Path) -> None:
    drive, store = Drive(labelled / 'bag'), LabelStore(labels_of(labelled / 'bag'))
    truth, world = load_truth(made / 'town' / 'one'), world_of(settings())
    assert len(drive) == len(store) == 3 and store.labelled.all()
    assert not set(drive.stamps_ns) & set(truth.stamps_ns.tolist())  # instants of their own
    for frame, time_s in enumerate(times_s(drive)):
        found = store.grids(frame, TOWN_CLASSES, store.grid)
        expected = class_grids(world, store.grid, time_s) > 0
        assert np.array_equal(found.positive, expected) and found.known.all()
        assert np.array_equal(found.positive, truth.at(drive.stamps_ns[frame]))
    assert store.facts == {'weather': 'clear'} and store.classes == CLASSES
    lines = store.grids(0, ('divider', 'road_divider', 'lane_divider'), store.grid).positive
    assert np.array_equal(lines[0], lines[1] | lines[2]) and lines[0].any()


def test_frames_are_in_the_ego_frame_of_the_truth(labelled: Path) -> None:
    drive, world = Drive(labelled / 'bag'), world_of(settings())
    for frame, time_s in enumerate(times_s(drive)):
        found = drive.frame(frame, images=False, sweeps=False).odom_T_ego
        expected = rigid.inverse(world.map_T_odom) @ ego_pose(world, time_s)
        assert found is not None and np.abs(found - expected).max() < 2e-3
        assert found[2, 2] == pytest.approx(1, abs=1e-12)  # level


def test_crossing_lines_lie_along_the_crossings(made: Path) -> None:
    """In a grid so large that it holds some."""
    truth, world = load_truth(made / 'town' / 'one'), world_of(settings())
    grid = BevGrid(x_range_m=(-150.0, 150.0), y_range_m=(-150.0, 150.0), cell_m=0.5)
    wide = replace(truth, config=replace(truth.config, grid=grid))
    crossings = world.town.crossings
    grids, _ = labels_at(wide, world, 0.1, crossings_of(world))
    marked = grids.positive[CLASSES.index('ped_crossing_line')]
    pose = ego_pose(world, 0.1)
    centers = grid.cell_centers()[marked] @ pose[:2, :2].T + pose[:2, 3]
    outline = shapely.union_all([area.exterior for area in crossings])
    assert shapely.distance(outline, shapely.points(centers)).max() < 0.3 + 1e-9
    whole = [
        area
        for area in crossings
        if np.abs((np.asarray(area.exterior.coords) - pose[:2, 3]) @ pose[:2, :2]).max() < 149
    ]
    assert len(whole) > 3
    near = shapely.contains_xy(shapely.union_all(whole).buffer(1.0), *centers.T)
    assert not near.all()  # some are cut off by the grid's end
    across_m = CROSSING_M[1] - CROSSING_M[0]
    long_m = sum(area.minimum_rotated_rectangle.length - 2 * across_m for area in whole)
    assert near.sum() * grid.cell_m**2 == pytest.approx(0.6 * long_m, rel=0.1)


def test_hidden_cells_belong_to_hardly_visible_objects_only(made: Path, labelled: Path) -> None:
    drive, store = Drive(labelled / 'bag'), LabelStore(labels_of(labelled / 'bag'))
    for frame in range(len(drive)):
        grids, boxes = store.grids(frame, CLASSES, store.grid), store.boxes(frame)
        assert boxes.names and set(boxes.names) <= {'vehicle', 'pedestrian'}
        layers = np.array([CLASSES.index(name) for name in boxes.names])
        for name, kept in (('positive', boxes.visibility >= 0), ('seen', boxes.visibility > 0.4)):
            drawn = covered(boxes, layers, kept, store)
            given = grids.positive if name == 'positive' else grids.positive & ~grids.hidden
            objects = [CLASSES.index('vehicle'), CLASSES.index('pedestrian')]
            # Boxes stand upright, the town's objects on its slopes: a cell may differ.
            assert (drawn[objects] != given[objects]).mean() < 1e-3, name
            assert drawn[objects].any()
        assert grids.hidden.any()
        areas = [i for i, name in enumerate(CLASSES) if name not in ('vehicle', 'pedestrian')]
        assert not grids.hidden[areas].any()
    assert HIDDEN_UP_TO == 0.4


def covered(
    boxes: GroundBoxes, layers: np.ndarray, kept: np.ndarray, store: LabelStore
) -> np.ndarray:
    corners = box_corners(boxes.center_m, boxes.size_m, boxes.yaw_rad)
    map_ = outlines(CLASSES).with_rings(corners[kept], layers[kept])
    return map_.rasterised(np.eye(4), store.grid)


def test_boxes_are_the_towns_seen_from_the_vehicle(made: Path, labelled: Path) -> None:
    drive, store = Drive(labelled / 'bag'), LabelStore(labels_of(labelled / 'bag'))
    truth, world = load_truth(made / 'town' / 'one'), world_of(settings())
    cycles = [int(np.abs(truth.stamps_ns - stamp_ns).argmin()) for stamp_ns in drive.stamps_ns]
    assert cycles == [0, 1, 2]
    for frame, time_s in enumerate(times_s(drive)):
        boxes, there = store.boxes(frame), truth.boxes(cycles[frame])
        labelled_ones = there.category <= 6  # vehicles and pedestrians
        assert np.array_equal(boxes.size_m, there.size_m[labelled_ones])
        assert np.array_equal(boxes.visibility, truth.visibility(cycles[frame])[labelled_ones])
        map_T_ego = ego_pose(world, time_s)
        found = rigid.transform_points(map_T_ego, boxes.center_m)
        # The truth is 23 ms older: nothing has moved far.
        away = np.linalg.norm(found - there.map_T_box[labelled_ones, :3, 3], axis=1)
        parked = there.parked[labelled_ones]
        assert parked.any() and away[parked].max() < 1e-9 and 0.01 < away[~parked].max() < 0.7
        assert (boxes.lidar_points == -1).all()


def test_samples_can_be_read(labelled: Path) -> None:
    source = open_drives(labelled, ('vehicle', 'divider'), BevGrid())
    assert list(source.keys) == ['bag/000000', 'bag/000001', 'bag/000002']
    assert source.unlabelled == 1 and source.facts(1) == {'weather': 'clear'}
    assert len(source.view_set(1).views) == 2 and len(source.points(1)) > 1000


def label(*words: object) -> None:
    """As on the command line, but errors are raised."""
    parser = argparse.ArgumentParser()
    add_label(parser.add_subparsers())
    chosen = parser.parse_args(['label', *map(str, words)])
    chosen.run(chosen)


def test_the_verb_says_where_the_labels_lie(
    made: Path, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    town = made / 'town'
    label(frames, town)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{frames}/bag/labels: 3 frames, from {town}/one'
    assert lines[1] == f'  1 drive of {frames} without truth: zoo'
    assert lines[2].startswith('  3 frames labelled in ') and len(lines) == 3
    before = contents(frames)
    label(frames, town)
    assert contents(frames) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{frames}/bag/labels: there already'
    assert lines[-1] == '  nothing to do (--overwrite writes them again)'
    label(frames / 'bag', town / 'one', '--overwrite', '--json')
    described = json.loads(capsys.readouterr().out)
    one = {'name': 'bag', 'frames': 3, 'labels': f'{frames}/bag/labels', 'truth': f'{town}/one'}
    assert described.pop('seconds') > 0
    assert described == {'done': [one], 'kept': [], 'unmatched': [], 'failed': {}}
    assert contents(frames) == before  # the same labels to the byte


@pytest.mark.slow
def test_processes_write_the_same_labels(made: Path, frames: Path, labelled: Path) -> None:
    shutil.copytree(frames / 'bag', frames / 'twin')
    shown: list[int] = []
    outcome = label_drives(frames, [made / 'town'], workers=2, progress=shown.append)
    assert [one.name for one in outcome.done] == ['bag', 'twin'] and sum(shown) == 6
    for name in ('bag', 'twin'):
        assert contents(frames / name / 'labels') == contents(labelled / 'bag' / 'labels')


def test_a_file_that_was_converted_alone_has_its_truth_too(made: Path, tmp_path: Path) -> None:
    (mcap,) = (made / 'town' / 'one' / 'bag').glob('*.mcap')
    assert cli.main(['convert', str(mcap), str(tmp_path / 'out'), *SMALL]) == 0
    assert len(label_drives(tmp_path / 'out', [made / 'town' / 'one']).done) == 1


def test_bad_input_is_told_in_one_line(made: Path, frames: Path, tmp_path: Path) -> None:
    town = made / 'town'
    with pytest.raises(BagError, match='frames/zoo: no drive was converted from a bag of '):
        label(frames / 'zoo', town)
    with pytest.raises(BagError, match='frames holds no synthetic drive'):
        label(frames, frames)
    with pytest.raises(BagError, match='holds no converted drive'):
        label(town, town)
    (tmp_path / 'town').mkdir()
    shutil.copy(town / 'one' / 'drive.json', tmp_path / 'town')
    with pytest.raises(BagError, match='bag'):
        label(frames, tmp_path / 'town')
    (frames / 'bag' / 'labels').mkdir()
    with pytest.raises(BevError, match=r'bag: .*labels\.json is missing; write the labels again'):
        label(frames, town)
    label(frames, town, '--overwrite')
    assert len(LabelStore(frames / 'bag' / 'labels')) == 3


def test_frames_of_another_frame_are_refused(made: Path, tmp_path: Path) -> None:
    """Where the vehicle is elsewhere, labels would be wrong without a word."""
    bag = made / 'town' / 'one' / 'bag'
    frame = ('--base-frame', 'lidar')
    assert cli.main(['convert', str(bag), str(tmp_path / 'out'), *SMALL, *frame]) == 0
    with pytest.raises(BevError, match='from where the town has the vehicle; convert it with'):
        label(tmp_path / 'out', made / 'town')
    assert not (tmp_path / 'out' / 'bag' / 'labels').exists()


def test_the_truth_of_another_town_is_refused(made: Path, frames: Path, tmp_path: Path) -> None:
    other = tmp_path / 'one'
    shutil.copytree(made / 'town' / 'one', other)
    arrays = dict(np.load(other / 'truth.npz'))
    arrays['grids'] = 1 - arrays['grids']
    np.savez_compressed(other / 'truth.npz', **arrays)
    with pytest.raises(BevError, match='its settings make another town here'):
        label(frames, other)
    assert not (frames / 'bag' / 'labels').exists()
    with pytest.raises(BevError, match='its settings make another town here'):
        DriveTruth(other, BevGrid())


def test_the_truth_of_a_replay_equals_the_labels(made: Path, labelled: Path) -> None:
    store, drive = LabelStore(labels_of(labelled / 'bag')), Drive(labelled / 'bag')
    truth = DriveTruth(made / 'town' / 'one', store.grid)
    for frame, stamp_ns in enumerate(drive.stamps_ns):
        found, expected = truth.at(stamp_ns, CLASSES), store.grids(frame, CLASSES, store.grid)
        assert np.array_equal(found.positive, expected.positive)
        assert np.array_equal(found.hidden, expected.hidden) and expected.hidden.any()


def test_a_drive_that_another_run_writes_is_left_alone(
    made: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('bev_training.data.truth_labels.drive_lock', impatient)
    with drive_lock(frames, 'bag'):
        (frames / 'bag' / '.labels.part').mkdir()  # of the other run
        with pytest.raises(BevError, match='is being written by another run'):
            label(frames, made / 'town')
        assert (frames / 'bag' / '.labels.part').exists()
    label(frames, made / 'town')
    assert sorted(path.name for path in frames.iterdir()) == ['bag', 'zoo']


def impatient(out: Path, name: str) -> AbstractContextManager[object]:
    return drive_lock(out, name, 0.0)


def test_labels_outlive_another_conversion(
    made: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, bag = tmp_path / 'frames', made / 'town' / 'one' / 'bag'
    shutil.copytree(labelled / 'bag', frames / 'bag')
    labels = contents(frames / 'bag' / 'labels')
    (frames / 'bag' / '.labels.part').mkdir()  # of a run that was killed
    assert list(Drive(frames / 'bag').check()) == []
    assert cli.main(['convert', str(bag), str(frames), *SMALL]) == 0
    assert 'there already' in capsys.readouterr().out
    next((frames / 'bag' / 'shards').iterdir()).unlink()  # lost: it is done anew
    assert cli.main(['convert', str(bag), str(frames), *SMALL]) == 0
    assert 'there already' not in capsys.readouterr().out
    (frames / 'bag' / 'manifest.json').unlink()  # as if it had been cut off
    assert cli.main(['convert', str(bag), str(frames), *SMALL]) == 0
    assert contents(frames / 'bag' / 'labels') == labels
    assert list(Drive(frames / 'bag').check(decode=True)) == []
    assert len(open_drives(frames, CLASSES, BevGrid())) == 3
    assert cli.main(['inspect', str(frames)]) == 0
    assert 'file_extra' not in capsys.readouterr().out
    (frames / 'bag' / 'other').mkdir()  # what is not ours is still told
    assert [code for code, _ in Drive(frames / 'bag').check()] == ['file_extra']
