"""Drives that cannot be written: one clear line, and nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_training.folders import whole_folder
from bev_training.synthetic import drive, drives, slices
from bev_training.synthetic.drive import DriveConfig, load_truth, write_drive
from bev_training.synthetic.drives import write_drives

from .reuse import quick, reuse


@pytest.fixture(scope='module', autouse=True)
def shared_worlds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        reuse(patch)
        yield


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'seconds': 0.0}, 'seconds'),
        ({'seconds': 301.0}, 'seconds'),
        ({'seconds': float('nan')}, 'seconds'),
        ({'speed_mps': -1.0}, 'speed_mps'),
        ({'speed_mps': 25.5}, 'speed_mps'),
        ({'speed_mps': float('inf')}, 'speed_mps'),
        ({'seed': -1}, 'seed'),
        ({'seed': 2**32}, 'seed'),
        ({'town_seed': -1}, 'town_seed'),
        ({'size_px': (16, 9)}, '16x9'),
        ({'jitter_s': 0.1}, 'jitter_s'),
        ({'weather': 'snow'}, "'snow'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        DriveConfig(**settings)
    assert '\n' not in str(error.value)


def test_workers_below_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='workers is 0'):
        write_drive(tmp_path / 'x', quick(), workers=0)
    assert not list(tmp_path.iterdir())


def test_existing_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('keep')
    with pytest.raises(BagError, match='out exists and is not an empty folder'):
        write_drive(tmp_path / 'out', quick(), workers=1)
    with pytest.raises(BagError, match='mine exists and is not an empty folder'):
        write_drive(tmp_path / 'out' / 'mine', quick(), workers=1)
    assert [p.name for p in tmp_path.rglob('*')] == ['out', 'mine']
    assert (tmp_path / 'out' / 'mine').read_text() == 'keep'


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    write_drive(tmp_path / 'out', quick(), workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ['out']
    assert (tmp_path / 'out').stat().st_mode & 0o777 == 0o755


def test_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='out cannot be written'):
        write_drive(tmp_path / 'file' / 'out', quick(), workers=1)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(slices, 'write_png', fail)
    with pytest.raises(BagError, match='out cannot be written: No space left on device'):
        write_drive(tmp_path / 'out', quick(), workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError, BevError])
@pytest.mark.parametrize('place', ['render_frame', 'savez_compressed'])
def test_nothing_stays_behind(
    error: type[BaseException], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(slices if place == 'render_frame' else drive.np, place, fail)
    with pytest.raises(error):
        write_drive(tmp_path / 'out', quick(), workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_stays_behind_after_ctrl_c_beside_processes(tmp_path: Path) -> None:
    def interrupt(frames: int) -> None:
        raise KeyboardInterrupt

    config = quick(seconds=1.2)
    with pytest.raises(KeyboardInterrupt):
        write_drive(tmp_path / 'out', config, workers=2, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_drive_that_is_stopped_vanishes(tmp_path: Path) -> None:
    with pytest.raises(slices.Stopped):
        write_drive(tmp_path / 'out', quick(), workers=1, stopped=lambda: True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('place', ['link', 'working folder'])
def test_a_folder_that_cannot_be_replaced_is_filled(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'folder'
    folder.mkdir()
    (tmp_path / 'link').symlink_to(folder)
    monkeypatch.chdir(folder)
    before = folder.stat().st_ino
    config = quick(image_truth=False)
    write_drive(tmp_path / 'link' if place == 'link' else Path('.'), config, workers=1)
    assert config.is_of(folder) and folder.stat().st_ino == before
    assert sorted(p.name for p in folder.iterdir()) == ['bag', 'drive.json', 'truth.npz']
    assert (tmp_path / 'link').is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['folder', 'link']


def test_an_existing_folder_stays_empty_on_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drive.np, 'savez_compressed', fail)
    with pytest.raises(KeyboardInterrupt):
        write_drive(tmp_path, quick(image_truth=False), workers=1)
    assert not list(tmp_path.iterdir())


def test_moving_into_a_folder_is_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def limited(path: Path, target: Path) -> Path:
        if path.name == 'drive.json':
            assert (tmp_path / 'bag').exists()  # it comes last
            raise OSError(28, 'No space left on device')
        return rename(path, target)

    with (
        monkeypatch.context() as patch,
        pytest.raises(BagError, match='No space left'),
        whole_folder(tmp_path) as work,
    ):
        for name in ('bag', 'drive.json', 'truth.npz'):
            (work / name).write_text(name)
        patch.setattr(Path, 'rename', limited)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BagError, match='is not empty any more'), whole_folder(tmp_path) as work:
        (work / 'bag').write_text('ours')
        (tmp_path / 'bag').write_text('theirs')
    assert [p.read_text() for p in tmp_path.iterdir()] == ['theirs']


@pytest.mark.parametrize('many', [False, True])
def test_a_link_to_nothing_is_refused_before_anything_is_made(many: bool, tmp_path: Path) -> None:
    (tmp_path / 'link').symlink_to('nothing')
    with pytest.raises(BagError, match='link is a link to nothing, which does not exist'):
        if many:
            write_drives(tmp_path / 'link', quick(), 2, workers=1)
        else:
            write_drive(tmp_path / 'link', quick(), workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ['link']


def test_new_parents_vanish_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(slices.Stopped):
        write_drive(tmp_path / 'a' / 'b' / 'out', quick(), workers=1, stopped=lambda: True)
    assert not list(tmp_path.iterdir())


def test_stopped_is_asked_before_the_scene_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the world and the scene: each takes seconds."""
    built: list[str] = []

    def build(world: object) -> object:
        built.append('scene')
        return object()

    monkeypatch.setattr(slices, 'Scene', build)
    answers = iter([False, False, True])  # after the world, before the scene, after it
    with pytest.raises(slices.Stopped):
        write_drive(tmp_path / 'x', quick(), workers=1, stopped=lambda: next(answers))
    assert built == ['scene']
    with pytest.raises(slices.Stopped):
        write_drive(tmp_path / 'x', quick(), workers=1, stopped=lambda: True)
    assert built == ['scene']


# Several drives


def test_several_drives_go_on_where_they_were_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = quick(image_truth=False), tmp_path / 'new' / 'out'

    def fails_at(seed: int) -> Callable[..., object]:
        def write(path: Path, one: DriveConfig, **options: Any) -> object:
            if one.seed == seed:
                raise KeyboardInterrupt
            return write_drive(path, one, **options)

        return write

    monkeypatch.setattr(drives, 'write_drive', fails_at(4))
    with pytest.raises(KeyboardInterrupt):
        write_drives(out, config, 2, workers=1)
    assert [p.name for p in out.iterdir()] == ['drive-0000']
    assert config.is_of(out / 'drive-0000')
    monkeypatch.setattr(drives, 'write_drive', fails_at(3))  # the first is not written again
    frames: list[int] = []
    done = write_drives(out, config, 2, workers=1, progress=frames.append)
    assert [one.path for one in done] == [out / 'drive-0000', out / 'drive-0001']
    assert frames == [1, 1] and done[0].size_bytes > 1000
    assert replace(done[0], path=out, size_bytes=0) == replace(
        write_drive(tmp_path / 'same', config, workers=1), path=out, size_bytes=0
    )
    for other in (replace(config, seed=4), replace(config, jitter_s=0.001)):
        with pytest.raises(BagError, match='not an empty folder: drive-0000 is no drive of these'):
            write_drives(out, other, 2, workers=1)
    (out / 'notes').write_text('keep')
    with pytest.raises(BagError, match='not an empty folder: notes is no drive of these'):
        write_drives(out, config, 2, workers=1)


def test_too_many_drives_for_a_seed() -> None:
    with pytest.raises(ConfigError, match='drives is 3; seed 4294967294 and those after it'):
        drives.drive_configs(quick(seed=2**32 - 2), 3)
    assert len(drives.drive_configs(quick(seed=2**32 - 2), 2)) == 2


# Damaged drives


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('whole') / 'x'
    return write_drive(out, quick(image_truth=False), workers=1).path


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    for name in ('drive.json', 'truth.npz'):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    assert len(load_truth(tmp_path).stamps_ns) == 1
    return tmp_path


def one_line(drive: Path) -> str:
    with pytest.raises(BagError) as error:
        load_truth(drive)
    assert '\n' not in str(error.value) and str(drive) in str(error.value)
    return str(error.value)


def test_missing_files_are_named(damaged: Path) -> None:
    (damaged / 'truth.npz').unlink()
    assert one_line(damaged).endswith('is no whole synthetic drive: truth.npz is missing')
    (damaged / 'drive.json').unlink()
    assert one_line(damaged).endswith('is no synthetic drive: drive.json is missing')


@pytest.mark.parametrize(
    ('name', 'change', 'words'),
    [
        ('stamps_ns', lambda a: a[:0], 'stamps_ns is empty'),
        ('stamps_ns', lambda a: a.astype(float), 'stamps_ns holds float64'),
        ('stamps_ns', lambda a: np.repeat(a, 2), 'grids has the shape'),
        ('classes', lambda a: np.array('vehicle'), 'classes has the shape'),
        ('classes', lambda a: a[:-1], 'grids has the shape'),
        ('grids', lambda a: a[:0], 'grids has the shape'),
        ('grids', lambda a: a[..., :-1], 'grids has the shape'),
        ('odom_T_base', lambda a: a[:, :3], 'odom_T_base has the shape'),
        ('box_pose', lambda a: a[1:], 'box_pose has the shape'),
        ('box_frame', lambda a: a + 1, 'box_frame does not rise'),
        ('box_category', lambda a: a + 200, 'box_category is not within'),
        ('box_parked', None, 'box_parked is missing'),
    ],
)
def test_damaged_arrays_are_named(
    name: str, change: Callable[[Any], Any] | None, words: str, damaged: Path
) -> None:
    with np.load(damaged / 'truth.npz') as data:
        arrays = dict(data)
    kept = {k: v for k, v in arrays.items() if k != name}
    changed = {} if change is None else {name: change(arrays[name])}
    np.savez_compressed(damaged / 'truth.npz', **kept, **changed)
    assert f'truth.npz: {words}' in one_line(damaged)


def test_a_file_that_is_no_archive(damaged: Path) -> None:
    with (damaged / 'truth.npz').open('wb') as file:
        np.save(file, np.zeros(3))
    assert 'truth.npz: is no archive of arrays' in one_line(damaged)


@pytest.mark.parametrize('keep', [0.0, 0.3, 0.9])
def test_a_cut_archive(keep: float, damaged: Path) -> None:
    data = (damaged / 'truth.npz').read_bytes()
    (damaged / 'truth.npz').write_bytes(data[: int(keep * len(data))])
    assert 'is no synthetic drive: truth.npz: ' in one_line(damaged)


def test_changed_bytes_in_an_archive(damaged: Path) -> None:
    """Compressed data that is no longer compressed data, and headers that lie."""
    data = (damaged / 'truth.npz').read_bytes()
    failed = 0
    for at in range(0, len(data) - 64, max(1, len(data) // 200)):
        changed = bytearray(data)
        changed[at : at + 64] = bytes(64)
        (damaged / 'truth.npz').write_bytes(changed)
        try:
            load_truth(damaged)
        except BagError as error:
            failed += '\n' not in str(error)
    assert failed > 100


@pytest.mark.parametrize(
    ('field', 'value', 'words'),
    [
        ('seconds', '8', 'settings.seconds: is'),
        ('seconds', 400.0, 'settings: seconds is 400'),
        ('seed', 1.5, 'settings.seed: is 1.5'),
        ('grid', None, 'settings.grid: is None'),
        ('grid', ..., 'settings.grid: is missing'),
        ('foo', 1, 'settings.foo: is no known field'),
        ('size_px', [8, 8], 'settings: '),
        ('town_seed', 'x', "settings.town_seed: is 'x'"),
        ('raw', 1, 'settings.raw: is 1'),
        ('weather', 3, "settings: weather is '3'"),
    ],
)
def test_damaged_settings_are_named(field: str, value: object, words: str, damaged: Path) -> None:
    described = json.loads((damaged / 'drive.json').read_text())
    if value is ...:
        del described['settings'][field]
    else:
        described['settings'][field] = value
    (damaged / 'drive.json').write_text(json.dumps(described))
    assert f'/drive.json: {words}' in one_line(damaged)


@pytest.mark.parametrize(
    ('field', 'words'),
    [
        ('settings', 'settings: is'),
        ('rig', 'rig'),
        ('weather', 'weather is'),
        ('format', 'format'),
    ],
)
@pytest.mark.parametrize('value', [None, 3, [], 'x'])
def test_damaged_parts_are_named(field: str, words: str, value: object, damaged: Path) -> None:
    described = json.loads((damaged / 'drive.json').read_text())
    (damaged / 'drive.json').write_text(json.dumps({**described, field: value}))
    assert f'/drive.json: {words}' in one_line(damaged)


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '\xff'])
def test_damaged_json_is_named(text: str, damaged: Path) -> None:
    (damaged / 'drive.json').write_bytes(text.encode('latin-1'))
    assert 'drive.json: ' in one_line(damaged)
