"""Many recordings into one output: what is kept, refused, done anew, and what failures do."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from upath import UPath

from bev_perception.errors import BagError, ConfigError
from bev_training.data import locks
from bev_training.data.existing import same_conversion
from bev_training.data.jobs import Progress, convert_bags
from bev_training.data.settings import ConvertConfig, KeyFrames

from .stand_in import FRAMES, convert, recordings, times, tree

CONFIG = ConvertConfig()


@pytest.mark.parametrize('workers', [1, 2])
def test_every_recording_becomes_a_drive(workers: int, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'b', 'a', 'c')
    out = tmp_path / 'new' / 'out'
    seen: list[Progress] = []
    outcome = convert_bags(
        sources, out, CONFIG, workers=workers, progress=seen.append, convert=convert
    )
    assert [d.name for d in outcome.done] == ['b', 'a', 'c'] and not outcome.kept
    assert not outcome.failed and {d.frames for d in outcome.done} == {FRAMES}
    assert sorted(p.name for p in out.iterdir()) == ['a', 'b', 'c']
    size = sum(source.path.stat().st_size for source in sources)
    assert seen[-1] == Progress(bytes_done=size, bytes_total=size, ended=3, total=3, running=())
    done = [progress.bytes_done for progress in seen]
    assert done == sorted(done) and any(progress.running for progress in seen)


def test_processes_write_the_same_bytes(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b', 'c')
    for workers in (1, 2):
        convert_bags(sources, tmp_path / f'{workers}', CONFIG, workers=workers, convert=convert)
    assert tree(tmp_path / '1') == tree(tmp_path / '2') and len(tree(tmp_path / '1')) >= 15


def test_twice_changes_nothing(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    first = convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    before = times(tmp_path / 'out')
    again = convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    assert again.kept == first.done and not again.done and times(tmp_path / 'out') == before


def test_an_output_grows(tmp_path: Path) -> None:
    a, b = recordings(tmp_path / 'bags', 'a', 'b')
    convert_bags([a], tmp_path / 'out', CONFIG, convert=convert)
    (tmp_path / 'out' / 'report.html').write_text('of the first')
    outcome = convert_bags([b], tmp_path / 'out', CONFIG, convert=convert)
    assert [d.name for d in outcome.done] == ['b'] and not outcome.kept
    both = convert_bags([a, b], tmp_path / 'out', CONFIG, convert=convert)
    assert [d.name for d in both.kept] == ['a', 'b']


def test_what_was_begun_is_done_anew(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    convert_bags(sources, tmp_path / 'whole', CONFIG, workers=1, convert=convert)
    convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    (tmp_path / 'out' / 'a' / 'manifest.json').unlink()
    (tmp_path / 'out' / 'a' / 'shards' / '000000.tar').write_bytes(b'half')
    (tmp_path / 'out' / 'a' / '.frames.parquet.part').write_bytes(b'half')
    (tmp_path / 'out' / '.bev-convert.lock').write_text('{"pid": 1')
    outcome = convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    assert ([d.name for d in outcome.done], [d.name for d in outcome.kept]) == (['a'], ['b'])
    assert tree(tmp_path / 'out') == tree(tmp_path / 'whole')


@pytest.mark.parametrize('workers', [1, 2])
def test_one_that_fails_does_not_stop_the_others(workers: int, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'bad', 'odd', 'b')
    outcome = convert_bags(sources, tmp_path / 'out', CONFIG, workers=workers, convert=convert)
    assert [d.name for d in outcome.done] == ['a', 'b']
    assert list(outcome.failed) == ['bad', 'odd']
    assert outcome.failed['bad'] == f'{tmp_path}/bags/bad.mcap is of no use'
    assert 'unexpected KeyError in stand_in.py:' in outcome.failed['odd']
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a', 'b']


def test_a_process_that_dies_takes_only_its_own_recording(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'dies', 'a', 'b', 'c')
    outcome = convert_bags(sources, tmp_path / 'out', CONFIG, workers=2, convert=convert)
    assert [d.name for d in outcome.done] == ['a', 'b', 'c']
    reason = 'its process was killed (signal 9); is there enough memory?'
    assert outcome.failed == {'dies': reason}
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a', 'b', 'c']


def test_an_output_that_stays_empty_vanishes(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'bad')
    convert_bags(sources, tmp_path / 'new' / 'out', CONFIG, convert=convert)
    assert [p.name for p in tmp_path.iterdir()] == ['bags']


@pytest.mark.parametrize('workers', [1, 2])
def test_stopped_in_the_middle(workers: int, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'slow1', 'slow2')
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(progress: Progress) -> None:
        if progress.ended == 1 and progress.running:
            raise KeyboardInterrupt

    if workers == 1:  # nobody asks for `stopped` in this process: Ctrl-C ends the loop
        late = threading.Timer(1.0, signal.pthread_kill, (main, signal.SIGINT))
        late.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        convert_bags(
            sources,
            tmp_path / 'out',
            CONFIG,
            workers=workers,
            progress=interrupt if workers == 2 else lambda progress: None,
            convert=convert,
        )
    assert time.monotonic() - began < 30
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['a']


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'every': KeyFrames(metres=1.0)}, 'every was "2m", and is "1m" now'),
        ({'jpeg_quality': 90}, 'jpeg_quality was null, and is 90 now'),
        ({'cameras': ('front',)}, 'cameras was [], and is ["front"] now'),
        ({'lidars': {}}, 'lidars was null, and is {} now'),
        ({'shard_mb': 1.0}, 'shard_mb was 256.0, and is 1.0 now'),
    ],
)
def test_other_settings_are_refused(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    convert_bags(sources[:1], tmp_path / 'out', CONFIG, convert=convert)
    before = times(tmp_path / 'out')
    with pytest.raises(BagError) as error:
        convert_bags(sources, tmp_path / 'out', replace(CONFIG, **changes), convert=convert)
    assert str(error.value) == f'{tmp_path}/out/a: {words}; choose another OUT'
    assert times(tmp_path / 'out') == before


def test_another_recording_of_the_same_name_is_refused(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    convert_bags(sources[1:], tmp_path / 'out', CONFIG, convert=convert)
    sources[1].path.write_bytes(b'other' * 640)
    with pytest.raises(BagError, match='out/b: it was made from another recording of this name'):
        convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['b']


@pytest.mark.parametrize(
    'name', ['mine.txt', 'folder/mine.txt', 'a/mine.txt', 'a/shards/mine.tar', 'samples/x.jpg']
)
@pytest.mark.parametrize('format', ['drive', 'nuscenes'])
def test_files_of_others_are_never_touched(format: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / 'out' / name
    path.parent.mkdir(parents=True)
    path.write_text('keep')
    sources = recordings(tmp_path / 'bags', 'a')
    holds = name.split('/')[0]
    with pytest.raises(BagError, match=f'out exists and is not empty: it holds {holds}, which'):
        convert_bags(sources, tmp_path / 'out', CONFIG, format=format, convert=convert)
    assert tree(tmp_path / 'out') == {name: b'keep'}


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / 'out').write_text('keep')
    with pytest.raises(BagError, match='out exists and is not an empty folder, but a file'):
        convert_bags(recordings(tmp_path / 'bags', 'a'), tmp_path / 'out', CONFIG, convert=convert)
    assert (tmp_path / 'out').read_text() == 'keep'


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a')
    convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    (tmp_path / 'out' / 'a' / 'manifest.json').write_text('{')
    with pytest.raises(BagError, match=r'manifest.json.*remove .*out/a first') as error:
        convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('left', [None, 0, 700])
def test_what_a_power_cut_took_is_noticed(left: int | None, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a')
    convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    shard = tmp_path / 'out' / 'a' / 'shards' / '000000.tar'
    if left is None:
        shard.unlink()
    else:
        os.truncate(shard, left)
    with pytest.raises(BagError, match=r'000000.tar (is missing|has \d+ bytes), manifest.json'):
        convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)


def test_wrong_arguments(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a')
    with pytest.raises(ConfigError, match='workers is 0'):
        convert_bags(sources, tmp_path / 'out', CONFIG, workers=0, convert=convert)
    with pytest.raises(ConfigError, match="executor is 'dask'; known are processes, ray"):
        convert_bags(sources, tmp_path / 'out', CONFIG, executor='dask', convert=convert)
    config = replace(CONFIG, privacy='no_such_module:blur')
    with pytest.raises((ConfigError, BagError), match='no_such_module'):
        convert_bags(sources, tmp_path / 'out', config, convert=convert)
    assert not (tmp_path / 'out').exists()


def test_a_missing_recording_is_one_line(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a')
    sources[0].path.unlink()
    with pytest.raises(BagError, match=r'a\.mcap'):
        convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    assert not (tmp_path / 'out').exists()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_an_output_without_permission(tmp_path: Path) -> None:
    (tmp_path / 'locked').mkdir(mode=0o555)
    with pytest.raises(BagError, match='out cannot be written: Permission denied'):
        convert_bags(
            recordings(tmp_path / 'bags', 'a'), tmp_path / 'locked' / 'out', CONFIG,
            convert=convert,
        )  # fmt: skip


def test_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, '_SETTLE_S', 0.0)
    out = UPath(f'memory://jobs{tmp_path}')
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    outcome = convert_bags(sources, out, CONFIG, workers=2, convert=convert)
    assert [d.name for d in outcome.done] == ['a', 'b'] and not outcome.failed
    convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    stored = {
        str(p).removeprefix(f'{out}/'): p.read_bytes() for p in out.rglob('*') if p.is_file()
    }
    assert stored == tree(tmp_path / 'out')
    again = convert_bags(sources, out, CONFIG, convert=convert)
    assert [d.name for d in again.kept] == ['a', 'b'] and not again.done
    with pytest.raises(BagError, match='every was'):
        convert_bags(sources, out, ConvertConfig(every=KeyFrames()), convert=convert)


def test_what_differs_is_said() -> None:
    settings = CONFIG.as_json()
    source = {'name': 'a', 'fingerprint': 'x', 'files': []}
    for wrap in (lambda facts: facts, lambda facts: {'facts': facts}):
        manifest = wrap({'settings': json.loads(json.dumps(settings)), 'source': source})
        assert same_conversion(manifest, {'fingerprint': 'x', 'files': []}, CONFIG) is None
        assert same_conversion(manifest, None, CONFIG) is None
        reason = same_conversion(manifest, {'fingerprint': 'y'}, CONFIG)
        assert reason == 'it was made from another recording of this name (fingerprint differs)'
        older = wrap({'settings': {k: v for k, v in settings.items() if k != 'privacy'}})
        assert same_conversion(older, None, CONFIG) == 'privacy was unknown, and is "" now'
        newer = wrap({'settings': {**settings, 'flip': True}})
        assert same_conversion(newer, None, CONFIG) == 'flip was true, and is unknown now'
        assert same_conversion(wrap({}), None, CONFIG) == 'its manifest holds no settings'
