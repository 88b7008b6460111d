"""The command line around synthetic drives: what it prints, and how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bev_perception.errors import BagError
from bev_training import cli
from bev_training.synthetic import drive as drive_module
from bev_training.synthetic import nuscenes_format
from bev_training.synthetic.drive import DriveConfig, DriveSummary
from bev_training.synthetic.nuscenes_format import NuscenesConfig, NuscenesSummary

from .reuse import reuse

QUICK = ['--seconds', '0.1', '--size', '64x36', '--workers', '1', '--no-image-truth']
QUICK += ['--seed', '3', '--town', '3', '--weather', 'clear']  # as in test_drive: shared worlds


@pytest.fixture(scope='module', autouse=True)
def shared_worlds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        reuse(patch)
        yield


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'new' / 'drive'
    assert cli.main(['synth', str(out), *QUICK, '--json']) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result['path'] == str(out) and result['images'] == 6
    assert result['weather'] == 'clear' and result['seconds'] > 0
    assert printed.err == ''
    assert json.loads((out / 'drive.json').read_text())['settings']['weather'] == 'clear'


def test_several_drives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ['synth', str(tmp_path / 'out'), *QUICK, '--drives', '2']
    assert cli.main([*words, '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert [Path(one['path']).name for one in result['drives']] == ['drive-0000', 'drive-0001']
    for number in range(2):
        described = (tmp_path / 'out' / f'drive-000{number}' / 'drive.json').read_text()
        settings = json.loads(described)['settings']
        assert (settings['seed'], settings['town_seed']) == (3 + number, 3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DriveConfig]:
    """Settings with which drives would have been written."""
    configs: list[DriveConfig] = []

    def fake(out: Path, config: DriveConfig, **_: Any) -> DriveSummary:
        configs.append(config)
        return DriveSummary(
            path=out, weather='rain', frames=1, images=2, sweeps=3, messages=4, size_bytes=5
        )

    monkeypatch.setattr(drive_module, 'write_drive', fake)
    return configs


def test_defaults(
    asked: list[DriveConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['synth', str(tmp_path / 'x')]) == 0
    assert asked[0].as_json() == DriveConfig().as_json()
    assert asked[0].size_px == (800, 450) and asked[0].seconds == 8
    printed = capsys.readouterr().out
    assert printed.startswith(f'{tmp_path / "x"}: rain, 1 frames, 2 images, 3 lidar sweeps')
    assert 'bev preview' in printed


def test_every_option(asked: list[DriveConfig], tmp_path: Path, repository: Path) -> None:
    rig = repository / 'config' / 'rigs' / 'four_fisheyes.yaml'
    words = ['synth', str(tmp_path / 'x'), '--seconds', '3', '--seed', '7', '--speed', '12']
    words += ['--size', '120x90', '--weather', 'haze', '--town', '2', '--raw', '--jitter', '0.003']
    assert cli.main([*words, '--no-image-truth', '--rig', str(rig)]) == 0
    config = asked[0]
    assert (config.seconds, config.seed, config.speed_mps, config.town_seed) == (3, 7, 12, 2)
    assert (config.weather, config.raw, config.jitter_s) == ('haze', True, 0.003)
    assert not config.image_truth
    cameras = config.rig_or_default().cameras
    assert len(cameras) == 4 and cameras[0].camera.size_px == (120, 90)


def test_nuscenes_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[NuscenesConfig] = []

    def fake(out: Path, config: NuscenesConfig, **_: Any) -> NuscenesSummary:
        asked.append(config)
        return NuscenesSummary(
            path=out, version='v1.0-mini', scenes=1, samples=2, images=3, sweeps=4,
            annotations=5, size_bytes=6,
        )  # fmt: skip

    monkeypatch.setattr(nuscenes_format, 'write_nuscenes', fake)
    words = ['synth', str(tmp_path / 'x'), '--format', 'nuscenes']
    assert cli.main([*words, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['version'] == 'v1.0-mini'
    assert (asked[0].scenes, asked[0].seconds, asked[0].size_px) == (10, 20, (800, 450))
    assert cli.main([*words, '--scenes', '2', '--seconds', '5', '--size', '320x180']) == 0
    assert (asked[1].scenes, asked[1].seconds, asked[1].size_px) == (2, 5, (320, 180))
    assert 'v1.0-mini, 1 scenes, 2 samples' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('synth', 'required: OUT'),
        ('synth x --size big', "argument --size: 'big' is no size such as 1600x900"),
        ('synth x --size 8x8', '--size is 8x8; it must lie between'),
        ('synth x --size 8x8 --rig no.yaml', '--size is 8x8; it must lie between'),
        ('synth x --size 8x8 --format nuscenes', '--size is 8x8; it must lie between'),
        ('synth x --seconds -3', '--seconds is -3; it must lie in'),
        ('synth x --seconds nan', '--seconds is nan; it must lie in'),
        ('synth x --format nuscenes --seconds 0', '--seconds is 0; it must lie in'),
        ('synth x --speed 26', '--speed is 26; it must lie in'),
        ('synth x --workers 0', "argument --workers: '0' is no number above zero"),
        ('synth x --weather snow', "--weather is 'snow'; known are any, clear"),
        ('synth x --jitter 1', '--jitter is 1; it must lie in'),
        ('synth x --town -1', '--town is -1; it must be'),
        ('synth x --seed -1', '--seed is -1; it must be'),
        ('synth x --drives 0', "argument --drives: '0' is no number above zero"),
        ('synth x --drives 2 --seed 4294967295', '--drives is 2; seed 4294967295'),
        ('synth x --format kitti', "argument --format: invalid choice: 'kitti'"),
        ('synth x --scenes 3', '--scenes needs --format nuscenes; see --drives'),
        ('synth x --format nuscenes --scenes 1000', '--scenes is 1000; it must be'),
        ('synth x --format nuscenes --drives 2', '--drives needs --format bag'),
        ('synth x --format nuscenes --raw', '--raw needs --format bag'),
        ('synth x --format nuscenes --town 0', '--town needs --format bag'),
        ('synth x --foo', 'unknown: --foo'),
        ('preview', 'required: DRIVE'),
        ('preview x --frames 0', "argument --frames: '0' is no number above zero"),
        ('nonsense', "invalid choice: 'nonsense'"),
        ('', 'required: VERB'),
    ],
)
def test_wrong_usage(
    line: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = line.split()
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    program = f'bev {words[0]}' if line and words[0] != 'nonsense' else 'bev'
    assert printed.err.startswith(f'{program}: error: ') and expected in printed.err
    assert printed.err.endswith(f'; see {program} --help\n') and printed.err.count('\n') == 1
    assert not printed.out and not list(tmp_path.iterdir())


def test_failures_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('keep')
    assert cli.main(['synth', str(tmp_path / 'out'), *QUICK]) == 1
    error = capsys.readouterr().err
    assert error == f'bev synth: {tmp_path / "out"} exists and is not an empty folder\n'
    assert cli.main(['synth', str(tmp_path / 'x'), '--rig', str(tmp_path / 'no.yaml')]) == 1
    error = capsys.readouterr().err
    assert 'no.yaml' in error and error.count('\n') == 1
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['mine', 'out']


@pytest.mark.parametrize(
    ('error', 'code', 'words'),
    [
        (KeyboardInterrupt(), 130, 'stopped'),
        (BagError('no space'), 1, 'no space'),
        (ModuleNotFoundError('No', name='embreex'), 1, 'pip install embreex (x86-64 only)'),
        (ModuleNotFoundError('No', name='shapely'), 1, 'pip install shapely'),
        (ModuleNotFoundError('No', name='matplotlib'), 1, 'pip install matplotlib'),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(drive_module, 'write_drive', fail)
    assert cli.main(['synth', str(tmp_path / 'x')]) == code
    printed = capsys.readouterr().err
    assert printed.startswith('bev synth: ') and words in printed and printed.count('\n') == 1


def test_other_missing_modules_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'bev_training.synthetic.drive', None)
    with pytest.raises(ModuleNotFoundError):
        cli.main(['synth', str(tmp_path / 'x')])


@pytest.mark.parametrize('verb', ['synth', 'preview', 'demo'])
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, '--help'])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    if verb != 'demo':
        assert 'examples:' in printed
    if verb == 'synth':
        assert 'the same command goes on with those that are missing' in printed


def test_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ['synth', str(tmp_path / 'out'), *QUICK, '--json', '--drives']
    assert cli.main([*words, '1']) == 0
    first = (tmp_path / 'out' / 'drive-0000' / 'drive.json').stat().st_mtime_ns
    assert cli.main([*words, '2']) == 0
    assert (tmp_path / 'out' / 'drive-0000' / 'drive.json').stat().st_mtime_ns == first
    once, twice = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert twice['drives'][0] == once['drives'][0] and len(twice['drives']) == 2
    assert cli.main([*words, '2', '--raw']) == 1
    assert 'drive-0000 is no drive of these settings' in capsys.readouterr().err
