"""The writer: same bytes always, whole files only, nothing of others touched, one line of why."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from bev_perception.errors import BagError
from bev_training.data import drive_index, file_writer, paths
from bev_training.data.drive_writer import DriveWriter, read_summary
from bev_training.data.file_writer import FileWriter
from bev_training.data.paths import to_path, whole_file
from test.data.drive_frames import (
    CAMERAS,
    FACTS,
    contents,
    frames_and_calibrations,
    make_calibration,
    make_frame,
    picture,
    write_drive,
)

ROOT = Path(__file__).resolve().parents[2]


def writer_of(folder, **values):
    return DriveWriter(folder, **{'cameras': CAMERAS, 'shard_bytes': 30_000, **values})


# --- the same bytes ------------------------------------------------------------------------------


def test_twice_the_bytes_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(drive_index, 'ROWS_PER_GROUP', 8)
    folders = [tmp_path / name / 'drive' for name in 'ab']
    for folder in folders:
        write_drive(folder, 25)
    first, second = map(contents, folders)
    assert first == second
    assert len([name for name in first if name.startswith('shards/')]) > 5
    assert {name for name in first if not name.startswith('shards/')} == {
        'manifest.json',
        'calibration.json',
        'frames.parquet',
    }


def test_in_an_object_store_the_bytes_are_the_same(tmp_path):
    remote = to_path(f'memory://{uuid4().hex}/out/drive')
    summary = write_drive(remote, 12)
    write_drive(tmp_path / 'drive', 12)
    names = contents(tmp_path / 'drive')
    assert {name: (remote / name).read_bytes() for name in names} == names
    assert {p.name for p in remote.iterdir()} == {name.split('/')[0] for name in names}
    assert read_summary(remote) == summary
    assert summary.path == str(remote)


def test_the_manifest_says_what_there_is(tmp_path):
    summary = write_drive(tmp_path / 'drive', 20)
    files = contents(tmp_path / 'drive')
    manifest = json.loads(files['manifest.json'])
    assert manifest['facts'] == FACTS
    assert manifest['counts'] == {'sets': 50, 'images_damaged': 1}
    assert {file['name'] for file in manifest['files']} == files.keys() - {'manifest.json'}
    assert all(len(files[file['name']]) == file['size_bytes'] for file in manifest['files'])
    assert sum(shard['frames'] for shard in manifest['shards']) == 20
    frames = [make_frame(i) for i in range(20)]
    assert summary.frames == 20
    assert summary.images == sum(len(frame.views) for frame in frames)
    assert summary.sweeps == sum(len(frame.sweeps) for frame in frames)
    assert summary.epochs == 4
    assert summary.size_bytes == sum(map(len, files.values()))
    assert summary.seconds == (frames[-1].stamp_ns - frames[0].stamp_ns) / 1e9
    metres = sum(
        np.linalg.norm(b.odom_T_ego[:3, 3] - a.odom_T_ego[:3, 3])
        for a, b in pairwise(frames)
        if a.sequence == b.sequence and a.odom_T_ego is not None and b.odom_T_ego is not None
    )
    assert summary.metres == pytest.approx(metres, rel=1e-12)
    assert read_summary(tmp_path / 'drive') == summary
    assert read_summary(tmp_path) is None


def test_the_manifest_waits_for_the_last_shard(tmp_path, monkeypatch):
    real = FileWriter.end

    def slow(self):
        time.sleep(0.05 if self._name.endswith('.tar') else 0)
        real(self)

    monkeypatch.setattr(FileWriter, 'end', slow)
    write_drive(tmp_path / 'drive', 10)
    manifest = json.loads((tmp_path / 'drive' / 'manifest.json').read_text())
    named = {file['name'] for file in manifest['files']}
    assert named == contents(tmp_path / 'drive').keys() - {'manifest.json'}


def test_people_can_read_the_json(tmp_path):
    write_drive(tmp_path / 'drive', 5)
    text = (tmp_path / 'drive' / 'calibration.json').read_text()
    assert '    "front": {\n     "frame_id": "front_optical",\n     "size_px": [64, 48],\n' in text
    text = (tmp_path / 'drive' / 'manifest.json').read_text()
    assert '\n  {"name": "calibration.json", "size_bytes": ' in text


# --- an error inside -----------------------------------------------------------------------------


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize('remote', [False, True])
def test_nothing_stays_after_an_error(tmp_path, error, remote):
    out = to_path(f'memory://{uuid4().hex}') if remote else tmp_path
    with pytest.raises(error), writer_of(out / 'drive') as writer:
        writer.add_calibration(make_calibration())
        for number in range(5):
            writer.add(make_frame(number))
        raise error
    assert not (out / 'drive').exists()
    assert not [t for t in threading.enumerate() if t.name == 'file-writer']


def test_a_drive_that_nobody_finishes_is_removed(tmp_path):
    with writer_of(tmp_path / 'drive') as writer:
        writer.add_calibration(make_calibration())
        writer.add(make_frame(0))
    assert list(tmp_path.iterdir()) == []


def test_a_drive_without_a_frame_is_refused(tmp_path):
    with pytest.raises(BagError, match='no frame was given'), writer_of(tmp_path / 'd') as writer:
        writer.finish({}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_finished_drive_stays_whatever_comes_after(tmp_path):
    with pytest.raises(ValueError), writer_of(tmp_path / 'drive') as writer:
        writer.add_calibration(make_calibration())
        writer.add(make_frame(0))
        writer.finish({}, {})
        raise ValueError
    assert read_summary(tmp_path / 'drive').frames == 1


def test_files_of_others_stay_after_an_error(tmp_path):
    with pytest.raises(ValueError), writer_of(tmp_path / 'drive') as writer:
        writer.add_calibration(make_calibration())
        for number in range(5):
            writer.add(make_frame(number))
        (tmp_path / 'drive' / 'shards').mkdir(exist_ok=True)
        (tmp_path / 'drive' / 'shards' / 'notes.txt').write_text('mine')
        raise ValueError
    assert contents(tmp_path) == {'drive/shards/notes.txt': b'mine'}


def test_a_drive_that_another_run_finished_meanwhile_stays(tmp_path, monkeypatch):
    """In an object store, where a lease can be lost."""
    # An upload that is dropped leaves what is there; fsspec's memory is written in place.
    monkeypatch.setattr(paths, '_discard', lambda upload, path: upload.close())
    out = to_path(f'memory://{uuid4().hex}')
    write_drive(tmp_path / 'whole', 12)
    wanted = contents(tmp_path / 'whole')
    for number, error in enumerate((KeyboardInterrupt, BagError)):
        drive = out / f'drive{number}'
        with pytest.raises(error), writer_of(drive) as loser:
            loser.add_calibration(make_calibration())
            loser.add(make_frame(0))
            for name, data in wanted.items():
                (drive / name).write_bytes(data)
            if error is KeyboardInterrupt:
                raise error
            monkeypatch.setattr(loser._shards, 'end', lambda: None)
            loser.finish({}, {})
        assert {name: (drive / name).read_bytes() for name in wanted} == wanted


# --- what the folder holds before ----------------------------------------------------------------


@pytest.mark.parametrize('remote', [False, True])
def test_a_finished_drive_is_not_touched(tmp_path, remote):
    out = to_path(f'memory://{uuid4().hex}') if remote else tmp_path
    write_drive(out / 'drive', 3)
    before = (out / 'drive' / 'manifest.json').read_bytes()
    with pytest.raises(BagError, match='holds a finished drive; remove it'):
        write_drive(out / 'drive', 4)
    assert (out / 'drive' / 'manifest.json').read_bytes() == before


@pytest.mark.parametrize(
    'name', ['notes.txt', 'shards/a.tar', 'shards/000000.tar.gz', 'shards/deep/000000.tar', 'x/y']
)
def test_a_folder_with_something_else_is_not_touched(tmp_path, name):
    path = tmp_path / 'drive' / name
    path.parent.mkdir(parents=True)
    path.write_text('mine')
    (tmp_path / 'drive' / 'frames.parquet').write_text('unfinished, perhaps')
    before = contents(tmp_path)
    first = name if name.startswith('shards/') and 'deep' not in name else name.split('/')[0]
    first = 'shards/deep' if 'deep' in name else first
    with pytest.raises(BagError, match=f'holds {first}, which is not part of a drive'):
        write_drive(tmp_path / 'drive', 3)
    assert contents(tmp_path) == before


def test_links_are_of_others(tmp_path):
    (tmp_path / 'mine.tar').write_text('mine')
    (tmp_path / 'drive').mkdir()
    (tmp_path / 'drive' / 'frames.parquet').symlink_to(tmp_path / 'mine.tar')
    with pytest.raises(BagError, match=r'holds frames\.parquet, which is not'):
        write_drive(tmp_path / 'drive', 3)
    assert (tmp_path / 'mine.tar').read_text() == 'mine'


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / 'drive').write_text('mine')
    with pytest.raises(BagError, match='drive is a file; a drive needs a folder'):
        write_drive(tmp_path / 'drive', 3)
    with pytest.raises(BagError, match='cannot be written: Not a directory'):
        write_drive(tmp_path / 'drive' / 'below', 3)


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    write_drive(tmp_path / 'whole', 10)
    (tmp_path / 'drive' / 'shards').mkdir(parents=True)
    leftovers = [
        'shards/000000.tar',
        'shards/.000001.tar.part',
        'shards/000099.tar',
        '.frames.parquet.part',
        'frames.parquet',
        'calibration.json',
        '.manifest.json.part',
    ]
    for name in leftovers:
        (tmp_path / 'drive' / name).write_text('half')
    write_drive(tmp_path / 'drive', 10)
    assert contents(tmp_path / 'drive') == contents(tmp_path / 'whole')


# --- killed --------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import numpy as np
from bev_training.data import file_writer
from test.data.drive_frames import picture, write_drive

out = Path({out!r})
for i in range(7):
    picture(i), picture(i, 'png')

def child(steps, folder):
    '''Write a drive in a process that dies, whatever its threads do, at a step of the files.'''
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    left = [steps]
    def step(real):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return wrapped
    for owner, name in [(file_writer.FileWriter, 'begin'), (file_writer.FileWriter, 'write'),
                        (file_writer.FileWriter, 'end'), (os, 'fsync'), (Path, 'replace')]:
        setattr(owner, name, step(getattr(owner, name)))
    try:
        write_drive(folder, 14)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(3)
    Path({out!r} + '.steps').write_text(str(steps - left[0]))
    os._exit(0)

def files(folder):
    return {{p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}}

assert child(10**9, out / 'whole') == 0
total = int(Path({out!r} + '.steps').read_text())
whole = files(out / 'whole')
rng = np.random.default_rng(0)
for turn, steps in enumerate([*rng.integers(1, total, 8), total - 1, total]):
    folder = out / f'drive{{turn}}'
    for again in range(1 + turn % 2):  # some are killed twice
        if (folder / 'manifest.json').exists():
            break
        assert child(int(steps), folder) == signal.SIGKILL
    found = files(folder)
    for name, data in found.items():
        assert name.name.endswith('.part') or whole[name] == data, (turn, name)
    if Path('manifest.json') in found:  # then it is complete
        assert found == whole
        continue
    assert child(10**9, folder) == 0
    assert files(folder) == whole, turn
print('killed', total)
"""


def test_killed_at_any_moment_no_half_file_and_the_next_run_gives_the_same(tmp_path):
    script = KILLED.format(root=str(ROOT), out=str(tmp_path))
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith('killed')


# --- the disk is full ----------------------------------------------------------------------------


def full_disk(monkeypatch, wanted):
    """Let the file of this name lie on a full disk."""

    @contextmanager
    def opened(path, **options):
        with whole_file(path) as file:
            if path.name != wanted:
                yield file
                return
            with open('/dev/full', 'wb') as full:
                yield full

    monkeypatch.setattr(file_writer, 'whole_file', opened)


@pytest.mark.parametrize(
    'name', ['000000.tar', '000003.tar', 'frames.parquet', 'calibration.json', 'manifest.json']
)
def test_a_full_disk_is_one_line_and_nothing_stays(tmp_path, monkeypatch, name):
    full_disk(monkeypatch, name)
    where = f'drive/(shards/)?{name} cannot be written: No space left on device$'
    with pytest.raises(BagError, match=where):
        write_drive(tmp_path / 'drive', 14)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(BagError, match=r'cannot be written: Permission denied$'):
        write_drive(tmp_path / 'drive', 3)


def test_image_bytes_are_not_copied(tmp_path, monkeypatch):
    written = []
    real = FileWriter.write

    def seen(self, chunks):
        written.extend(id(chunk) for chunk in chunks)
        real(self, chunks)

    monkeypatch.setattr(FileWriter, 'write', seen)
    data = picture(1) * 50
    with writer_of(tmp_path / 'drive') as writer:
        writer.add_calibration(make_calibration())
        writer.add(make_frame(0, data=data))
        writer.finish({}, {})
    assert written.count(id(data)) == 3


# --- frames that cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('second', 'text'),
    [
        (lambda f: replace(f, stamp_ns=make_frame(0).stamp_ns), 'is not later than'),
        (lambda f: replace(f, epoch=1), 'is of epoch 1; only 1 are known'),
        (lambda f: replace(f, epoch=-1), 'is of epoch -1'),
        (lambda f: replace(f, sequence=-1), 'sequence -1 comes after 0'),
        (lambda f: replace(f, views=f.views[::-1]), 'views are'),
        (lambda f: replace(f, views=(f.views[0],) * 2), 'views are'),
        (lambda f: replace(f, views=(replace(f.views[0], camera='x'),)), "views are .'x'"),
        (lambda f: replace(f, views=f.views[1:]), r'missing is \(\), but'),
        (lambda f: replace(f, base_T_ego=np.full((4, 4), np.nan)), 'base_T_ego is not finite'),
        (lambda f: replace(f, base_T_ego=np.eye(3)), r'base_T_ego has shape \(3, 3\)'),
        (
            lambda f: replace(f, sweeps=(replace(f.sweeps[0], lidar='x'),)),
            "lidar 'x' has no calibration",
        ),
        (
            lambda f: replace(f, sweeps=(replace(f.sweeps[0], points=np.zeros((2, 9), 'f4')),)),
            r'lidar_top has \(2, 9\) points, not \(n, 4\)',
        ),
        (
            lambda f: replace(
                f,
                views=tuple(replace(v, image=replace(v.image, suffix='webp')) for v in f.views),
            ),
            "front_left is a 'webp'",
        ),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(tmp_path, second, text):
    with pytest.raises(BagError, match=f'drive: frame 000001.*{text}'):  # noqa: SIM117
        with writer_of(tmp_path / 'drive') as writer:
            writer.add_calibration(make_calibration())
            writer.add(make_frame(0))
            writer.add(second(make_frame(1)))


@pytest.mark.parametrize(
    ('calibration', 'text'),
    [
        (lambda: make_calibration(1), 'calibration 1 comes after 0 others'),
        (lambda: make_calibration(cameras=CAMERAS[::-1]), 'is of .*, not'),
        (
            lambda: replace(
                make_calibration(),
                lidars={'a.b': make_calibration().lidars['lidar_top']},
            ),
            "lidar name 'a.b' cannot name",
        ),
        (
            lambda: replace(
                make_calibration(),
                lidars={'a': replace(make_calibration().lidars['lidar_top'], fields=('x', 'y'))},
            ),
            'do not begin with x, y, z',
        ),
        (
            lambda: replace(
                make_calibration(),
                lidars={
                    'a': replace(
                        make_calibration().lidars['lidar_top'],
                        base_T_lidar=np.full((4, 4), np.inf),
                    )
                },
            ),
            'a is not finite',
        ),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(tmp_path, calibration, text):
    with pytest.raises(BagError, match=text), writer_of(tmp_path / 'drive') as writer:
        writer.add_calibration(calibration())


def test_a_camera_name_that_cannot_name_a_file_is_refused(tmp_path):
    with pytest.raises(BagError, match=r"camera name 'front\.left' cannot name a file"):
        writer_of(tmp_path / 'drive', cameras=('front.left',))


def test_frames_come_with_their_calibrations():
    items = list(frames_and_calibrations(11))
    assert [type(item).__name__ for item in items].count('Calibration') == 3
