"""Drives that cannot be written: one clear line, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_training.synthetic import drive, slices
from bev_training.synthetic.drive import DriveConfig, load_truth, write_drive

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


def test_a_damaged_drive_is_one_line(tmp_path: Path) -> None:
    write_drive(tmp_path / 'x', quick(image_truth=False), workers=1)
    (tmp_path / 'x' / 'truth.npz').write_bytes(b'PK')
    with pytest.raises(BagError, match='x is no synthetic drive'):
        load_truth(tmp_path / 'x')
    with pytest.raises(BagError, match='y is no synthetic drive'):
        load_truth(tmp_path / 'y')
