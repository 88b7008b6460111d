"""Many recordings into one output: what is kept, refused, done anew, and what failures do."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from bev_perception.errors import BagError, ConfigError
from bev_training.data import locks
from bev_training.data.bag_inputs import BagSource, find_bags
from bev_training.data.existing import other_recording, other_settings
from bev_training.data.jobs import Progress, Task, convert_bags
from bev_training.data.locks import drive_lock
from bev_training.data.settings import ConvertConfig, KeyFrames

from .small_bag import write_bag
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


def interrupt_later(out: Path) -> None:
    """Ctrl-C once a slow recording is being converted."""
    main = threading.main_thread().ident
    assert main is not None
    while not list(out.glob('slow1/shards/0*')):
        time.sleep(0.01)
    signal.pthread_kill(main, signal.SIGINT)


@pytest.mark.parametrize('workers', [1, 2])
def test_stopped_in_the_middle(workers: int, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'slow1', 'slow2')

    def interrupt(progress: Progress) -> None:
        if progress.ended == 1 and progress.running:
            raise KeyboardInterrupt

    if workers == 1:  # nobody asks for `stopped` in this process: Ctrl-C ends the loop
        threading.Thread(target=interrupt_later, args=(tmp_path / 'out',), daemon=True).start()
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


def test_another_recording_of_the_same_name_fails_alone(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    convert_bags(sources[1:], tmp_path / 'out', CONFIG, convert=convert)
    before = times(tmp_path / 'out' / 'b')
    sources[1].path.write_bytes(b'other' * 640)
    outcome = convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    assert [d.name for d in outcome.done] == ['a'] and not outcome.kept
    reason = 'it was made from another recording of this name (fingerprint differs)'
    assert outcome.failed == {
        'b': f'{tmp_path}/out/b: {reason}; rename this one, or choose another OUT'
    }
    assert times(tmp_path / 'out' / 'b') == before


def test_a_recording_is_known_by_its_contents(tmp_path: Path) -> None:
    """Its name depends on what else is converted; its data must not be there twice."""
    a, b = recordings(tmp_path / 'bags', 'a', 'b')
    first = convert_bags([a], tmp_path / 'out', CONFIG, workers=1, convert=convert)
    renamed = replace(a, name='monday_a')
    both = convert_bags([renamed, b], tmp_path / 'out', CONFIG, workers=1, convert=convert)
    assert both.kept == first.done and [d.name for d in both.done] == ['b']
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a', 'b']


def test_two_copies_of_a_recording_are_two_drives(tmp_path: Path) -> None:
    """Whichever of them was there first, as without an interruption."""
    (a,) = recordings(tmp_path / 'bags', 'a')
    copies = [replace(a, name='x'), replace(a, name='y')]
    convert_bags(copies, tmp_path / 'whole', CONFIG, workers=1, convert=convert)
    for one in copies:
        out = tmp_path / f'out_{one.name}'
        convert_bags([one], out, CONFIG, workers=1, convert=convert)
        convert_bags(copies, out, CONFIG, workers=1, convert=convert)
        assert tree(out) == tree(tmp_path / 'whole')


@pytest.mark.parametrize('name', ['cam.png', 'cam.html'])
def test_names_that_end_like_a_report(name: str, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', name)
    first = convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    again = convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    assert again.kept == first.done and not again.failed
    with pytest.raises(BagError, match='every was'):
        every = replace(CONFIG, every=KeyFrames())
        convert_bags([], tmp_path / 'out', every, convert=convert)


def test_a_privacy_function_that_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = recordings(tmp_path / 'bags', 'a')
    code = 'def blur(image, camera, stamp_ns):\n    return image\n'
    (tmp_path / 'private.py').write_text(code)
    monkeypatch.chdir(tmp_path)
    config = replace(CONFIG, privacy='private.py:blur')
    convert_bags(sources, tmp_path / 'out', config, workers=1, convert=convert)
    elsewhere = replace(CONFIG, privacy=f'{tmp_path}/private.py:blur')
    again = convert_bags(sources, tmp_path / 'out', elsewhere, workers=1, convert=convert)
    assert [d.name for d in again.kept] == ['a']
    (tmp_path / 'private.py').write_text(code + 'other = blur\n')
    match = 'the file of the privacy function private.py:blur has changed; choose another OUT'
    with pytest.raises(BagError, match=match):
        convert_bags(sources, tmp_path / 'out', config, workers=1, convert=convert)
    (tmp_path / 'private.py').write_text(code)
    for privacy in ('', 'other.py:blur', 'private.py:other'):
        (tmp_path / 'other.py').write_text(code + 'extra = blur\n')
        (tmp_path / 'private.py').write_text(code + 'other = blur\n' * (privacy[-5:] == 'other'))
        with pytest.raises(BagError, match=r'out/a: privacy was "private\.py:blur", and is '):
            other = replace(CONFIG, privacy=privacy)
            convert_bags(sources, tmp_path / 'out', other, workers=1, convert=convert)


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
def test_what_a_power_cut_took_is_done_anew(left: int | None, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    whole = tree(tmp_path / 'out')
    shard = tmp_path / 'out' / 'a' / 'shards' / '000000.tar'
    if left is None:
        shard.unlink()
    else:
        os.truncate(shard, left)
    outcome = convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    assert [d.name for d in outcome.done] == ['a'] and [d.name for d in outcome.kept] == ['b']
    assert tree(tmp_path / 'out') == whole
    shard.write_bytes(b'')
    (tmp_path / 'out' / 'a' / 'notes.txt').write_text('keep')
    outcome = convert_bags(sources, tmp_path / 'out', CONFIG, workers=1, convert=convert)
    assert outcome.failed == {
        'a': f'{shard} has 0 bytes, manifest.json says 10240 bytes; '
        f'{tmp_path}/out/a/notes.txt is in the way of doing it anew'
    }


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


def test_a_missing_recording_fails_alone(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    sources[0].path.unlink()
    outcome = convert_bags(sources[:1], tmp_path / 'out', CONFIG, convert=convert)
    assert outcome.failed == {'a': f'{tmp_path}/bags/a.mcap does not exist'}
    assert not (tmp_path / 'out').exists()
    outcome = convert_bags(sources, tmp_path / 'out', CONFIG, convert=convert)
    assert [d.name for d in outcome.done] == ['b'] and list(outcome.failed) == ['a']


def test_what_another_machine_still_writes_is_waited_for(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a')
    said: list[str] = []
    (tmp_path / 'out').mkdir()
    with ExitStack() as stack:
        stack.enter_context(drive_lock(tmp_path / 'out', 'a'))

        def end(line: str) -> None:
            said.append(line)
            assert not (tmp_path / 'out' / 'a').exists()
            stack.close()

        outcome = convert_bags(
            sources, tmp_path / 'out', CONFIG, workers=1, say=end, convert=convert
        )
    assert len(said) == 1 and [d.name for d in outcome.done] == ['a']
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['a']


def test_what_somebody_finished_meanwhile_is_taken(tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    task = Task(
        source=sources[0], out=tmp_path / 'out', config=CONFIG, format='drive', convert=convert
    )
    first = task.run(lambda share: None, bool)
    before = times(tmp_path / 'out' / 'a')
    assert task.run(lambda share: None, bool) == first
    assert times(tmp_path / 'out' / 'a') == before
    other = replace(task, config=replace(CONFIG, every=KeyFrames()))
    assert 'every was "2m", and is "all" now' in str(other.run(lambda share: None, bool))


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
        assert other_settings(manifest, CONFIG) is None
        assert other_recording(manifest, {'fingerprint': 'x', 'files': []}) is None
        reason = other_recording(manifest, {'fingerprint': 'y'})
        assert reason == 'it was made from another recording of this name (fingerprint differs)'
        older = wrap({'settings': {k: v for k, v in settings.items() if k != 'privacy'}})
        assert other_settings(older, CONFIG) == 'privacy was unknown, and is "" now'
        newer = wrap({'settings': {**settings, 'flip': True}})
        assert other_settings(newer, CONFIG) == 'flip was true, and is unknown now'
        assert other_settings(wrap({}), CONFIG) == 'its manifest holds no settings'


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locks, '_SETTLE_S', 0.01)
    return UPath(f'memory://jobs{tmp_path}')


def test_a_store_is_asked_little(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One listing tells the sizes of a drive's files, and only of those that are wanted."""
    sources = recordings(tmp_path / 'bags', 'a', 'b', 'c')
    convert_bags(sources, store, CONFIG, convert=convert)
    assert len(list((store / 'a' / 'shards').iterdir())) == 5
    asked: Counter[str] = Counter()

    def count(name: str) -> None:
        real = getattr(MemoryFileSystem, name)

        def counted(self: MemoryFileSystem, path: str, *rest: Any, **named: Any) -> Any:
            asked[name] += '/shards' in path or name == 'find'
            return real(self, path, *rest, **named)

        monkeypatch.setattr(MemoryFileSystem, name, counted)

    for name in ('info', '_open', 'find', 'exists', 'isfile', 'isdir', 'cat_file'):
        count(name)
    assert len(convert_bags(sources[:1], store, CONFIG, convert=convert).kept) == 1
    assert asked['find'] == 1 and not asked['_open'] and not asked['exists'] + asked['isfile']


@pytest.mark.parametrize('call', ['info', 'ls', 'find', '_open', 'exists', 'rm_file'])
def test_a_store_that_refuses_is_one_line(
    call: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients of object stores have errors that are no OSErrors."""
    sources = recordings(tmp_path / 'bags', 'a', 'b')
    convert_bags(sources[:1], store, CONFIG, convert=convert)

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError('ExpiredToken')

    before = {path: path.read_bytes() for path in (store / 'a').rglob('*') if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, call, refuse)
        _refused(call, sources, store)
    assert {path: path.read_bytes() for path in before} == before


def _refused(call: str, sources: list[BagSource], store: Path) -> None:
    try:
        outcome = convert_bags(sources, store, CONFIG, convert=convert)
    except BagError as error:
        assert str(error).endswith(': RuntimeError: ExpiredToken')
    else:
        assert call in ('exists', 'info', 'ls', 'rm_file')
        for reason in outcome.failed.values():
            assert 'ExpiredToken' in reason and 'unexpected' not in reason


def test_a_nuscenes_set_that_lost_files_is_completed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bags' / 'a')
    sources = find_bags([bag])
    config = ConvertConfig(every=KeyFrames(), min_cameras=3)
    out = tmp_path / 'out'
    convert_bags(sources, out, config, format='nuscenes', workers=1)
    whole = tree(out)
    images = sorted((out / 'samples' / 'CAM_FRONT').iterdir())
    images[0].unlink()
    os.truncate(images[1], 10)
    again = convert_bags(sources, out, config, format='nuscenes', workers=1)
    assert len(again.done) == 1 and not again.failed
    assert tree(out) == whole
