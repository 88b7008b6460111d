"""`bev convert`: what options become, what is printed, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bev_training import cli
from bev_training.data import jobs
from bev_training.data.bag_inputs import BagSource
from bev_training.data.jobs import Outcome, Progress
from bev_training.data.paths import to_path
from bev_training.data.settings import ConvertConfig, KeyFrames
from bev_training.data.summary import DriveSummary
from bev_training.inspection import report

from .small_bag import write_bag
from .stand_in import tree


@pytest.fixture(scope='module')
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, one of them below another folder."""
    folder = tmp_path_factory.mktemp('bags')
    write_bag(folder / 'one')
    write_bag(folder / 'day' / 'two', seconds=1.5)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = cli.main(['convert', *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


SMALL = ('--min-cameras', '3', '--workers', '1')


def test_recordings_become_drives(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    code, printed, _ = run(capsys, bags, out, *SMALL)
    assert code == 0 and sorted(p.name for p in out.iterdir()) == ['one', 'two']
    lines = printed.splitlines()
    assert lines[0].startswith(f'{out}/one: ') and ' images, ' in lines[0]
    assert lines[1].startswith('  left out or repaired: ') and 'too near the frame' in lines[1]
    assert lines[-1].endswith(f'check it with `bev inspect {out}`')
    before = tree(out)
    code, printed, _ = run(capsys, bags, out, *SMALL)
    assert code == 0 and 'out/one: there already, ' in printed and 'nothing to do' in printed
    code, printed, error = run(capsys, bags, out, *SMALL, '--every', 'all')
    assert code == 1 and not printed
    expected = f'bev convert: {out}/one: every was "2m", and is "all" now; choose another OUT\n'
    assert error == expected and tree(out) == before


def test_json(bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (bags / 'one', tmp_path / 'out', *SMALL, '--json')
    code, printed, error = run(capsys, *words)
    result = json.loads(printed)
    assert code == 0 and not error and result['failed'] == {} and result['kept'] == []
    drive = result['done'][0]
    assert drive['name'] == 'one' and drive['images'] == 3 * drive['frames'] > 0
    assert drive['path'] == str(tmp_path / 'out' / 'one') and drive['counts']['sets'] > 0
    code, printed, _ = run(capsys, *words)
    assert json.loads(printed)['kept'] == [drive] and json.loads(printed)['done'] == []


def test_one_line_for_each_that_fails(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('broken', 'empty'):
        (tmp_path / f'{name}.mcap').write_bytes(b'no recording' * (name == 'broken'))
    words = (bags / 'one', tmp_path / 'broken.mcap', tmp_path / 'empty.mcap', tmp_path / 'out')
    code, printed, error = run(capsys, *words, *SMALL)
    assert code == 1 and f'{tmp_path}/out/one: ' in printed
    lines = [line for line in error.splitlines() if line.startswith('bev convert: ')]
    assert [line.split(': ')[1] for line in lines] == ['broken', 'empty']
    assert 'Traceback' not in error
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['one']


def test_a_report(bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / 'out' / 'report.html'
    code, printed, _ = run(capsys, bags / 'one', tmp_path / 'out', *SMALL, '--report', page)
    assert code == 0 and printed.endswith(f'Report: {page}\n')
    assert 'one' in page.read_text()
    code, printed, _ = run(capsys, bags / 'one', tmp_path / 'out', *SMALL)
    assert code == 0 and 'nothing to do' in printed  # the report is in nobody's way


def test_a_report_that_fails_hides_nothing(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'broken.mcap').write_bytes(b'no recording')
    words = (bags / 'one', tmp_path / 'broken.mcap', tmp_path / 'out', *SMALL, '--report')

    def fail(*arguments: object) -> None:
        raise RuntimeError('ExpiredToken')

    monkeypatch.setattr(report, 'write_report', fail)
    store = f'memory://{tmp_path.name}/r.html'
    code, printed, error = run(capsys, *words, store)
    said = [line for line in error.splitlines() if line.startswith('bev convert: ')]
    assert code == 1 and f'{tmp_path}/out/one: ' in printed
    assert 'broken: ' in said[0]
    assert said[1] == f'bev convert: {store} cannot be written: RuntimeError: ExpiredToken'
    monkeypatch.undo()
    code, printed, error = run(capsys, *words, store)
    said = [line for line in error.splitlines() if line.startswith('bev convert: ')]
    assert code == 1 and f'Report: {store}' in printed
    assert said[1] == 'bev convert: 1 of 2 recordings failed, see above'
    assert 'one' in to_path(store).read_text()


def test_nuscenes_format(bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / 'nusc', tmp_path / 'again'
    code, printed, _ = run(capsys, bags, out, '--format', 'nuscenes', *SMALL)
    assert code == 0 and f'{out}: one: ' in printed and f'{out}: two: ' in printed
    samples = json.loads((out / 'v1.0-trainval' / 'sample.json').read_text())
    assert len(json.loads((out / 'v1.0-trainval' / 'scene.json').read_text())) == 2
    before = tree(out)
    code, printed, _ = run(capsys, bags, out, '--format', 'nuscenes', *SMALL)
    assert code == 0 and 'nothing to do' in printed and tree(out) == before
    code, _, error = run(capsys, bags, out, '--format', 'nuscenes', '--min-cameras', '2')
    assert code == 1 and 'min_cameras was 3, and is 2 now' in error
    code, _, error = run(capsys, bags, out, *SMALL)  # the other format
    assert code == 1 and 'is not empty' in error and tree(out) == before
    code, printed, _ = run(capsys, out, again, '--from', 'nuscenes')
    assert code == 0 and 'bag_player' in printed and samples
    assert sorted(p.name for p in again.iterdir()) == ['one', 'two']


# What options become


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Arguments with which recordings would have been converted."""
    calls: list[dict[str, Any]] = []

    def fake(sources: list[BagSource], out: Path, config: ConvertConfig, **rest: Any) -> Outcome:
        calls.append({'sources': sources, 'out': out, 'config': config, **rest})
        rest['progress'](
            Progress(bytes_done=1, bytes_total=2, ended=0, total=1, running=('a', 'b'))
        )
        return Outcome(done=(), kept=(), failed={})

    monkeypatch.setattr(jobs, 'convert_bags', fake)
    yield calls


def test_defaults(bags: Path, asked: list[dict[str, Any]]) -> None:
    assert cli.main(['convert', str(bags), 'x']) == 0
    call = asked[0]
    assert call['config'] == ConvertConfig() and call['out'] == Path('x')
    assert [source.name for source in call['sources']] == ['one', 'two']
    assert (call['format'], call['workers'], call['executor']) == ('drive', None, 'processes')


def test_every_option(bags: Path, asked: list[dict[str, Any]]) -> None:
    line = (
        '--cameras front,left --camera front=/f --camera left=/l --camera-info front=/fi '
        '--camera-info-topic /{camera}/i --image-geometry raw --lidar top=/t --lidar side=/s '
        '--odometry /odom --base-frame base --odom-frame map --tf-timeout 2 '
        '--every 0.5s --min-cameras 1 --max-spread 0.02 --sync-timeout 0.3 --anchor left '
        '--offsets front=0,left=0.025 '
        '--sweeps 0 --jpeg-quality 90 --privacy a.b:c --shard-mb 64 --workers 3 --executor ray'
    )
    assert cli.main(['convert', str(bags / 'one'), str(bags / 'day'), 'x', *line.split()]) == 0
    assert (asked[0]['workers'], asked[0]['executor']) == (3, 'ray')
    assert asked[0]['config'] == ConvertConfig(
        cameras=('front', 'left'),
        image_topics={'front': '/f', 'left': '/l'},
        camera_info_topics={'front': '/fi'},
        camera_info_topic='/{camera}/i',
        image_geometry='raw',
        lidars={'top': '/t', 'side': '/s'},
        odometry_topic='/odom',
        base_frame='base',
        odom_frame='map',
        tf_timeout_s=2.0,
        every=KeyFrames(seconds=0.5),
        min_cameras=1,
        max_spread_s=0.02,
        timeout_s=0.3,
        anchor='left',
        offsets_s={'front': 0.0, 'left': 0.025},
        max_sweeps=0,
        jpeg_quality=90,
        privacy='a.b:c',
        shard_mb=64.0,
    )


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('--no-lidar', {'lidars': {}}),
        ('--lidar /points', {'lidars': {'lidar': '/points'}}),
        ('--camera b=/b --camera a=/a', {'cameras': ('b', 'a')}),
        ('--image-topic /{camera}/x', {'image_topic': '/{camera}/x', 'cameras': ()}),
        ('--every all', {'every': KeyFrames()}),
    ],
)
def test_short_forms(
    line: str, expected: dict[str, Any], bags: Path, asked: list[dict[str, Any]]
) -> None:
    assert cli.main(['convert', str(bags), 'x', *line.split()]) == 0
    assert {name: getattr(asked[0]['config'], name) for name in expected} == expected


def test_a_file_and_options_over_it(
    bags: Path, asked: list[dict[str, Any]], repository: Path, tmp_path: Path
) -> None:
    words = ['convert', str(bags), 'x', '--config', f'{repository}/config/convert/example.yaml']
    line = '--every 1s --no-lidar --image-topic /{camera}/image'
    assert cli.main([*words, *line.split()]) == 0
    config = asked[0]['config']
    assert (config.every, config.lidars) == (KeyFrames(seconds=1.0), {})
    assert (config.image_topic, config.image_topics) == ('/{camera}/image', {})
    assert config.cameras == ('front', 'left', 'right', 'rear') and config.odom_frame == 'map'


# How it fails


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('', 'required: BAG, OUT'),
        ('x', 'required: OUT'),
        ('x y --every 2', "--every is '2'; it must be like '2m'"),
        ('x y --every 0m', '--every: 0.0 metres must be above 0'),
        ('x y --jpeg-quality 101', '--jpeg-quality is 101; it must lie in [1, 100]'),
        ('x y --shard-mb 0', '--shard-mb is 0.0; it must be above 0'),
        ('x y --min-cameras 0', "argument --min-cameras: '0' is no number above zero"),
        ('x y --max-spread nan', '--max-spread: nan must be a number >= 0'),
        ('x y --sync-timeout -1', '--sync-timeout: -1.0 must be a number >= 0'),
        ('x y --sweeps -1', "argument --sweeps: '-1' is no whole number"),
        ('x y --cameras a,,b', "argument --cameras: 'a,,b' is no list such as"),
        ('x y --cameras a,a', "--cameras is ['a', 'a']"),
        ('x y --camera front', "argument --camera: 'front' is not like NAME=VALUE"),
        ('x y --image-topic /front', "--image-topic is '/front'; it must hold {camera}"),
        ('x y --image-topic /{camera} --camera a=/b', '--camera: give these or the template'),
        ('x y --lidar /a --lidar /b', '--lidar: give each a name of its own, NAME=TOPIC'),
        ('x y --offsets front', "argument --offsets: 'front' is not like front=0"),
        ('x y --offsets a=0,a=1', "argument --offsets: 'a=0,a=1' is not like"),
        ('x y --offsets a=2', '--offsets[a]: 2.0 must be between -1 and 1'),
        ('x y --image-geometry flat', "argument --image-geometry: invalid choice: 'flat'"),
        ('x y --format kitti', "argument --format: invalid choice: 'kitti'"),
        ('x y --executor dask', "argument --executor: invalid choice: 'dask'"),
        ('x y --workers 0', "argument --workers: '0' is no number above zero"),
        ('x y --version v1', '--version needs --from nuscenes'),
        ('x y --scenes a', '--scenes needs --from nuscenes'),
        ('x y --format nuscenes --report r.html', '--report needs --format drive'),
        ('x y --report r.txt', '--report is r.txt; it must end in .html'),
        ('x y --tf-timeout 61', '--tf-timeout is 61.0; it must lie in [0, 60]'),
        ('x y --from nuscenes --every 1m', '--every needs --from bags'),
        ('x y --from nuscenes --sweeps 0', '--sweeps needs --from bags'),
        ('x y --from nuscenes --format drive', '--format needs --from bags'),
        ('x y --from nuscenes --executor ray', '--executor needs --from bags'),
        ('x y --from nuscenes --no-lidar', '--no-lidar needs --from bags'),
        ('x y z --from nuscenes', '--from nuscenes takes one folder, not 2'),
        ('x y --foo', 'unknown: --foo'),
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
    with pytest.raises(SystemExit) as stop:
        cli.main(['convert', *line.split()])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith('bev convert: error: ') and expected in printed.err
    assert printed.err.endswith('; see bev convert --help\n') and printed.err.count('\n') == 1
    assert not printed.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('no y', 'no does not exist'),
        ('. y', 'holds no recording'),
        ('bags y --config no.yaml', 'no.yaml: cannot be read'),
        ('bags y --config bad.yaml', 'bad.yaml: shard_mb is 0'),
        ('bags y --privacy no_such_module:blur', 'no_such_module'),
        ('bags y --image-topic /none/{camera}', '/none/'),
        ('bags y --report no/r.html', '--report no/r.html cannot be written: No such file'),
        ('bags y --report /proc/r.html', '--report /proc/r.html cannot be written: '),
        ('bags taken', 'taken exists and is not empty: it holds mine'),
        ('bags nope://y', 'nope://y'),
        ('bags y --from nuscenes', 'bags'),
    ],
)
def test_bad_input_is_one_line(
    line: str,
    words: str,
    bags: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.yaml').write_text('shard_mb: 0')
    (tmp_path / 'taken').mkdir()
    (tmp_path / 'taken' / 'mine').write_text('keep')
    before = tree(tmp_path)
    words_in = [str(bags / 'one') if word == 'bags' else word for word in line.split()]
    code, printed, error = run(capsys, *words_in)
    assert code == 1 and not printed and words in error
    assert error.startswith('bev convert: ') and error.count('\n') == 1
    assert tree(tmp_path) == before and not (tmp_path / 'y').exists()


def test_the_count_of_what_was_left_out(
    bags: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {'sets': 9, 'images_damaged': 2, 'clock_jumps': 0, 'new_reason': 1}
    drive = DriveSummary(
        name='a', path='x/a', frames=1, images=2, sweeps=3, epochs=1, seconds=90.0, metres=4.4,
        size_bytes=5_000_000, counts=counts,
    )  # fmt: skip
    outcome = Outcome(done=(drive,), kept=(), failed={})
    monkeypatch.setattr(jobs, 'convert_bags', lambda *_, **__: outcome)
    lines = run(capsys, bags, 'x')[1].splitlines()
    assert lines[0] == 'x/a: 1 frame, 2 images, 3 lidar sweeps, 1.5 min, 4 m, 5.0 MB'
    assert lines[1] == '  left out or repaired: 2 damaged images, 1 new reason'


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(['convert', '--help'])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert printed.count('\n  bev convert ') >= 6 and '--image-topic' in printed
