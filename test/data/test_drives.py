"""Drives read back: every value, the node's view sets, and what `check` finds."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bev_perception.errors import BagError, MessageError
from bev_perception.rig import CameraHistory, RigPoses, decode
from bev_training.data import drive_index
from bev_training.data.drive_check import check_drive
from bev_training.data.drive_writer import read_summary
from bev_training.data.drives import Drive, find_drives, unfinished_drives
from bev_training.data.paths import to_path
from test.data.drive_frames import (
    CAMERAS,
    FRAMES_PER_EPOCH,
    contents,
    make_calibration,
    make_frame,
    values_of,
    write_drive,
)

COUNT = 22


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A drive of several shards, epochs, sequences and row groups; not to be changed."""
    folder = tmp_path_factory.mktemp('drives') / 'drive'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive_index, 'ROWS_PER_GROUP', 4)
        write_drive(folder, COUNT)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A drive that a test may damage."""
    folder = tmp_path / 'copy'
    for name, data in contents(whole).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def damage(path, at, data):
    """Replace bytes of a file."""
    with path.open('r+b') as file:
        file.seek(at)
        file.write(data)


def codes(folder, **options):
    return Counter(code for code, _ in check_drive(folder, **options))


# --- read back -----------------------------------------------------------------------------------


def test_every_value_comes_back_exactly(whole):
    drive = Drive(whole)
    assert (drive.name, drive.cameras, len(drive)) == ('drive', CAMERAS, COUNT)
    assert drive.lidars == ('lidar_top', 'lidar_rear')
    epochs = -(-COUNT // FRAMES_PER_EPOCH)
    assert values_of(drive.calibrations) == values_of([make_calibration(i) for i in range(epochs)])
    for i in [*range(COUNT), 0, COUNT - 1]:
        assert values_of(drive.frame(i)) == values_of(make_frame(i)), i
    assert drive.stamps_ns == tuple(make_frame(i).stamp_ns for i in range(COUNT))
    assert drive.sequences == tuple(make_frame(i).sequence for i in range(COUNT))
    for i in (-1, COUNT):
        with pytest.raises(IndexError, match=f'frame {i} of a drive with {COUNT} frames'):
            drive.frame(i)


def test_an_object_store_gives_the_same(whole):
    folder = to_path(f'memory://{uuid4().hex}/drive')
    for name, data in contents(whole).items():
        (folder / name).write_bytes(data)
    drive = Drive(folder)
    assert values_of(drive.frame(7)) == values_of(make_frame(7))
    assert find_drives(folder.parent) == [folder]
    assert drive.view_set(7).missing == (CAMERAS[1],)
    assert list(drive.check(decode=True)) == []


def test_links_stay_inside_a_sequence(whole):
    drive = Drive(whole)
    assert drive.links(0) == (None, 1)
    assert drive.links(7) == (6, None)
    assert drive.links(8) == (None, 9)
    assert drive.links(COUNT - 1) == (COUNT - 2, None)


def test_images_and_sweeps_can_be_left_out(whole):
    drive = Drive(whole)
    wanted = make_frame(4)
    bare = drive.frame(4, images=False, sweeps=False)
    assert [view.image.data for view in bare.views] == [b''] * 3
    assert [sweep.points.shape for sweep in bare.sweeps] == [
        (0, sweep.points.shape[1]) for sweep in wanted.sweeps
    ]
    assert [s.stamp_ns for s in bare.sweeps] == [s.stamp_ns for s in wanted.sweeps]
    assert [v.ego_T_cam.tolist() for v in bare.views] == [
        v.ego_T_cam.tolist() for v in wanted.views
    ]
    assert values_of(drive.frame(4, images=False).sweeps) == values_of(wanted.sweeps)
    assert values_of(drive.frame(4, sweeps=False).views) == values_of(wanted.views)


def test_points_are_of_their_own(whole):
    sweep = Drive(whole).frame(4).sweeps[0]
    sweep.points[:] = 0  # may be changed
    assert sweep.points.base is None


def read_frames(drive, numbers):
    return [values_of(drive.frame(i)) for i in numbers]


def test_other_threads_and_processes_read_the_same(whole):
    drive = Drive(whole)
    wanted = [values_of(make_frame(i)) for i in range(COUNT)]
    drive.frame(0)  # opened before it is shared
    assert read_frames(pickle.loads(pickle.dumps(drive)), range(COUNT)) == wanted
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda i: values_of(drive.frame(i % COUNT)), range(10 * COUNT))
        assert list(found) == wanted * 10


def test_a_spawned_process_takes_a_drive(whole):
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        found = pool.apply(read_frames, (Drive(whole), [3]))
    assert found == [values_of(make_frame(3))]


def test_many_drives_are_open_at_once(whole):
    def descriptors():
        return len(os.listdir('/proc/self/fd'))

    before = descriptors()
    drives = [Drive(whole) for _ in range(20)]
    assert [values_of(drive.frame(5)) for drive in drives] == [values_of(make_frame(5))] * 20
    assert descriptors() == before


@pytest.mark.parametrize('call', ['info', 'ls', 'cat_file', '_open'])
def test_an_object_store_that_refuses_is_one_line(whole, monkeypatch, call):
    """Errors of its client are no OSErrors."""

    def refuse(*args, **kwargs):
        raise RuntimeError('ExpiredToken')

    folder = to_path(f'memory://{uuid4().hex}/drive')
    for name, data in contents(whole).items():
        (folder / name).write_bytes(data)
    drive = Drive(folder)
    monkeypatch.setattr(MemoryFileSystem, call, refuse)
    tried = 0
    for read in (lambda: drive.frame(7), lambda: find_drives(folder), lambda: Drive(folder)):
        try:
            read()
            list(drive.check())  # says it in its own way
        except BagError as error:
            # Of memory, `exists` is False where `info` fails; it is not in S3 and the like.
            assert str(error).endswith('RuntimeError: ExpiredToken') or call == 'info'
            tried += 1
    assert tried or call == 'ls'  # not asked here


# --- view sets -----------------------------------------------------------------------------------


def node_s_view_set(frame, **options):
    """What `decode` gives for the messages that the frame was made of."""
    calibration = make_calibration(frame.epoch)
    cameras = {name: CameraHistory(name) for name in CAMERAS}
    for name, history in cameras.items():
        history.push(calibration.from_stamp_ns, calibration.cameras[name].camera)
    messages = {}
    for view in frame.views:
        header = SimpleNamespace(frame_id=f'{view.camera}_optical')
        message = SimpleNamespace(header=header, format=view.image.format, data=view.image.data)
        messages[view.camera] = (view.stamp_ns, message)
    poses = RigPoses(
        stamp_ns=frame.stamp_ns,
        base_T_ego=frame.base_T_ego,
        odom_T_ego=frame.odom_T_ego,
        ego_T_cam={view.camera: view.ego_T_cam for view in frame.views},
    )
    view_set, problems = decode(messages, poses, cameras, **options)
    assert not problems
    return view_set


@pytest.mark.parametrize('options', [{}, {'at_least_px': (16, 12)}])
def test_view_sets_are_those_of_the_node_bit_for_bit(whole, options):
    drive = Drive(whole)
    sizes = set()
    for i in range(COUNT):
        wanted = node_s_view_set(make_frame(i), **options)
        found = drive.view_set(i, **options)
        sizes |= {view.image.shape for view in found.views}
        for one in (found, wanted):
            assert one.missing == make_frame(i).missing
        assert found.stamp_ns == wanted.stamp_ns
        assert values_of(found.base_T_ego) == values_of(wanted.base_T_ego)
        assert values_of(found.odom_T_ego) == values_of(wanted.odom_T_ego)
        assert values_of(found.odom_T_ego) == values_of(make_frame(i).odom_T_ego)
        for a, b in zip(found.views, wanted.views, strict=True):
            assert (a.name, a.stamp_ns, a.camera) == (b.name, b.stamp_ns, b.camera)
            assert values_of(a.ego_T_cam) == values_of(b.ego_T_cam)
            np.testing.assert_array_equal(a.image, b.image)
    assert (48, 64, 3) in sizes
    assert ((12, 16, 3) in sizes) == bool(options)


def test_view_sets_decode_on_threads(whole):
    drive = Drive(whole)
    with ThreadPoolExecutor(2) as threads:
        found = drive.view_set(3, executor=threads)
    wanted = drive.view_set(3)
    for a, b in zip(found.views, wanted.views, strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_a_damaged_image_names_drive_frame_and_camera(copy):
    row = Drive(copy).row(1)
    view = row['views'][1]
    damage(copy / row['shard'], view['offset'], bytes(view['size_bytes']))
    Drive(copy).frame(1)  # the bytes can still be had
    whole = Drive(copy).view_set(0)
    left = Drive(copy).view_set(1)  # as the node does it
    assert left.missing == (CAMERAS[1],) and [v.name for v in left.views] == list(CAMERAS[::2])
    assert not whole.missing
    for view in row['views']:
        damage(copy / row['shard'], view['offset'], bytes(view['size_bytes']))
    with pytest.raises(
        MessageError, match=r'copy: frame 000001, camera front_left: front_left_optical: '
    ):
        Drive(copy).view_set(1)
    Drive(copy).view_set(0)


# --- what is no drive ----------------------------------------------------------------------------


def test_drives_are_found(tmp_path, whole):
    for name in ('b', 'a'):
        write_drive(tmp_path / name, 1)
    (tmp_path / 'c' / 'shards').mkdir(parents=True)
    (tmp_path / 'c' / 'shards' / '000000.tar').write_text('half')
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / 'notes.txt').write_text('mine')
    (tmp_path / 'report.html').write_text('mine')
    assert find_drives(tmp_path) == [tmp_path / 'a', tmp_path / 'b']
    assert find_drives(tmp_path / 'a') == [tmp_path / 'a']
    assert unfinished_drives(tmp_path) == [tmp_path / 'c']
    assert unfinished_drives(tmp_path / 'c') == [tmp_path / 'c']
    assert unfinished_drives(tmp_path / 'a') == []


@pytest.mark.parametrize(
    ('files', 'at', 'text'),
    [
        ([], 'none', 'none does not exist'),
        (['notes.txt'], '.', r'holds no converted drive \(a folder with manifest.json\)'),
        (['notes.txt'], 'notes.txt', 'notes.txt holds no converted drive'),
        (['a/frames.parquet'], '.', '/a is unfinished: run the same bev convert again'),
        (['a/shards/.000000.tar.part'], 'a', '/a is unfinished: run the same bev convert again'),
    ],
)
def test_where_there_is_no_drive_one_line_says_why(tmp_path, files, at, text):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('')
    with pytest.raises(BagError, match=text):
        find_drives(tmp_path / at)
    with pytest.raises(BagError, match=text):
        Drive(tmp_path / at)


def test_a_folder_of_drives_is_no_drive(whole):
    with pytest.raises(BagError, match='is a folder of drives, not a drive'):
        Drive(whole.parent)


def change_json(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


@pytest.mark.parametrize(
    ('name', 'data', 'text'),
    [
        ('manifest.json', b'{', 'manifest.json is damaged'),
        ('manifest.json', b'[1]', 'manifest.json is damaged'),
        ('manifest.json', b'\xff', 'manifest.json is damaged'),
        ('manifest.json', b'{}', 'manifest.json is not of a converted drive'),
        ('calibration.json', b'{"epochs": [{}]}', 'calibration.json is damaged'),
        ('calibration.json', b'{"epochs": NaN}', 'calibration.json is damaged'),
        ('calibration.json', None, 'calibration.json is missing'),
        ('frames.parquet', b'PAR1', 'frames.parquet is damaged'),
        ('frames.parquet', None, 'frames.parquet is missing'),
    ],
)
def test_a_damaged_drive_is_one_line(copy, name, data, text):
    (copy / name).unlink()
    if data is not None:
        (copy / name).write_bytes(data)
    with pytest.raises(BagError, match=text) as caught:
        Drive(copy)
    assert '\n' not in str(caught.value)
    assert codes(copy) == {'drive_unreadable': 1}


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'version': 2}, 'is version 2, this program reads 1'),
        ({'totals': {}}, 'is damaged'),
        ({'files': [{'name': 1}]}, 'is damaged'),
        ({'cameras': None}, 'is damaged'),
        ({'cameras': ['front']}, 'is of the cameras'),
    ],
)
def test_a_manifest_that_does_not_fit_is_one_line(copy, changes, text):
    change_json(copy / 'manifest.json', **changes)
    with pytest.raises(BagError, match=text):
        Drive(copy)


def test_the_number_of_frames_must_agree(copy):
    totals = json.loads((copy / 'manifest.json').read_text())['totals']
    change_json(copy / 'manifest.json', totals={**totals, 'frames': 5})
    with pytest.raises(BagError, match=r'has 22 frames, manifest\.json says 5'):
        Drive(copy)


def test_every_cut_or_flipped_manifest_is_refused_or_read(copy):
    path = copy / 'manifest.json'
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 300):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :])
        try:
            Drive(copy)
            read_summary(copy)
        except BagError as error:
            assert '\n' not in str(error)
    for size in rng.integers(0, len(data) - 2, 50):
        path.write_bytes(data[:size])
        with pytest.raises(BagError, match=r'manifest\.json is damaged'):
            Drive(copy)


def test_every_cut_or_flipped_calibration_is_refused_or_read(copy):
    path = copy / 'calibration.json'
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 300):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :])
        try:
            Drive(copy)
        except BagError as error:
            assert '\n' not in str(error)


# --- check ---------------------------------------------------------------------------------------


def test_a_drive_as_it_should_be_has_no_problem(whole):
    shares = []
    assert list(check_drive(whole, decode=True, progress=shares.append)) == []
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert list(Drive(whole).check()) == []


def test_missing_and_extra_files_are_found(copy):
    (copy / 'shards' / '000001.tar').unlink()
    (copy / 'shards' / '.000001.tar.part').write_text('half')
    (copy / 'notes.txt').write_text('mine')
    problems = dict(check_drive(copy))
    assert codes(copy) == {'file_missing': 1, 'file_extra': 2}
    assert problems['file_missing'].endswith('shards/000001.tar is missing')
    with pytest.raises(BagError, match=r'000001\.tar is missing; convert the recording again'):
        Drive(copy).frame(2)


def test_a_cut_shard_is_found(copy):
    path = copy / 'shards' / '000000.tar'
    path.write_bytes(path.read_bytes()[:700])
    found = codes(copy)
    assert found['file_size'] == 1
    assert found['shard_unreadable'] == 2  # its frames


@pytest.mark.parametrize('name', ['shards/000002.tar', 'calibration.json', 'frames.parquet'])
def test_every_flipped_bit_is_found(copy, name):
    data = (copy / name).read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 12):
        flipped = bytes([data[at] ^ (1 << rng.integers(8))])
        (copy / name).write_bytes(data[:at] + flipped + data[at + 1 :])
        found = codes(copy, decode=name.startswith('shards'))
        assert found['file_sha256'] == 1 or found['drive_unreadable'] == 1


def test_images_that_cannot_be_decoded_are_found(copy):
    row = Drive(copy).row(0)
    image = row['views'][1]
    damage(copy / row['shard'], image['offset'] + image['size_bytes'] // 2, bytes(1000))
    problems = list(check_drive(copy, decode=True))
    assert [code for code, _ in problems] == ['file_sha256', 'image_unreadable']
    assert 'frame 000000, camera front: front_optical' in problems[1][1]
    damage(copy / row['shard'], image['offset'], bytes(8))
    assert codes(copy)['image_unreadable'] == 1  # seen without decoding


def test_members_in_other_places_are_found(copy):
    row = Drive(copy).row(0)
    damage(copy / row['shard'], row['views'][0]['offset'] - 512, b'000009')
    assert codes(copy) == {'file_sha256': 1, 'member_misplaced': 1}


def test_damaged_clouds_are_found(copy):
    row = Drive(copy).row(1)
    place = row['clouds'][0]
    path = copy / row['shard']
    damage(path, place['offset'] + place['size_bytes'] - 16, np.full(4, np.nan, '<f4').tobytes())
    assert codes(copy) == {'file_sha256': 1, 'cloud_damaged': 1}
    damage(path, place['offset'], b'nothing')
    assert codes(copy) == {'file_sha256': 1, 'cloud_damaged': 1}
    with pytest.raises(BagError, match='frame 000001 has a damaged cloud'):
        Drive(copy).frame(1)
    Drive(copy).frame(1, sweeps=False)


def rewrite_index(folder, change):
    """Change the rows, as a faulty writer would have written them."""
    path = folder / 'frames.parquet'
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path, row_group_size=4)


def set_row(number, **values):
    return lambda rows: rows[number].update(values)


def set_pose(rows):
    rows[3]['views'][0]['ego_T_cam'][0] += 1e-3


@pytest.mark.parametrize(
    ('change', 'code', 'count'),
    [
        (set_row(4, stamp_ns=5), 'stamps_order', 1),
        (set_row(4, previous=None), 'links', 1),
        (set_row(7, next=8), 'links', 1),
        (set_row(COUNT - 1, next=COUNT), 'links', 1),
        (set_row(4, epoch=99), 'epoch_unknown', 1),
        (set_row(4, live=[True, True, False]), 'live_mask', 1),
        (set_row(4, base_T_ego=[float('nan')] * 16), 'pose_not_rigid', 1),
        (set_row(4, odom_T_ego=[1.0] * 16), 'pose_not_rigid', 1),
        (set_pose, 'pose_not_rigid', 1),
        (lambda rows: rows[4]['views'].pop(), 'totals', 1),
        (lambda rows: rows[4]['views'][0].update(width=65), 'image_size', 1),
        (lambda rows: rows[4]['views'][0].update(camera='x'), 'live_mask', 1),
        (lambda rows: rows[4]['views'][0].update(size_bytes=5), 'member_misplaced', 1),
        (lambda rows: rows[4]['views'][0].update(offset=1 << 40), 'shard_unreadable', 1),
        (lambda rows: rows[4]['sweeps'][0].update(points=10_000), 'cloud_damaged', 2),
        (lambda rows: rows[4]['sweeps'][-1].update(points=10_000), 'cloud_damaged', 1),
    ],
)
def test_an_index_that_makes_no_sense_is_found(copy, change, code, count):
    rewrite_index(copy, change)
    found = codes(copy, decode=True)
    assert found['file_size'] + found['file_sha256'] == 1
    assert found[code] == count, found


def test_an_image_of_another_shape_than_its_camera_is_found(copy):
    path = copy / 'calibration.json'
    path.write_text(path.read_text().replace('"size_px": [64, 48]', '"size_px": [64, 32]', 1))
    problems = [text for code, text in check_drive(copy, decode=True) if code == 'image_size']
    assert problems
    assert all('the aspect ratio differs' in text for text in problems)
