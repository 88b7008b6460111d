"""The same work list on a Ray cluster of two workers: the same bytes, and what failures do."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bev_perception.errors import BevError
from bev_training.data.jobs import Progress, convert_bags
from bev_training.data.settings import ConvertConfig

from .stand_in import convert, recordings, tree

CONFIG = ConvertConfig()


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == 'ray':
            raise ImportError('No module named ray')
        return imported(name, *rest)

    monkeypatch.setattr(builtins, '__import__', missing)
    sources = recordings(tmp_path / 'bags', 'a')
    with pytest.raises(BevError, match=r'pip install "ray=='):
        convert_bags(sources, tmp_path / 'out', CONFIG, executor='ray', convert=convert)
    assert not (tmp_path / 'out').exists()


@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two workers on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('RAY_USAGE_STATS_ENABLED', '0')
        patch.setenv('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')
        patch.delenv('RAY_ADDRESS', raising=False)
        ray = pytest.importorskip('ray', reason='the extra `cluster` is not installed')
        ray.init(
            address='local',
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80_000_000,
            log_to_driver=False,
            logging_level='error',
        )
        yield ray
        ray.shutdown()


def test_the_same_bytes_as_in_this_process(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a relative path, and beside recordings that fail or kill their worker."""
    sources = recordings(tmp_path / 'bags', 'b', 'bad', 'a', 'dies', 'c')
    seen: list[Progress] = []
    monkeypatch.chdir(tmp_path)
    outcome = convert_bags(
        sources,
        Path('ray'),
        CONFIG,
        workers=2,
        executor='ray',
        progress=seen.append,
        convert=convert,
    )
    assert [d.name for d in outcome.done] == ['b', 'a', 'c']
    assert list(outcome.failed) == ['bad', 'dies']
    assert outcome.failed['bad'].endswith('is of no use')
    assert outcome.failed['dies'].startswith('its Ray worker failed: ')
    assert '\n' not in outcome.failed['dies']
    assert seen[-1].ended == 5 and seen[-1].bytes_done == seen[-1].bytes_total
    assert max(len(progress.running) for progress in seen) <= 2
    good = [source for source in sources if source.name in 'abc']
    convert_bags(good, tmp_path / 'here', CONFIG, workers=1, convert=convert)
    assert tree(tmp_path / 'ray') == tree(tmp_path / 'here')
    again = convert_bags(good, tmp_path / 'ray', CONFIG, executor='ray', convert=convert)
    assert len(again.kept) == 3 and not again.done


def test_stopped_in_the_middle(cluster: Any, tmp_path: Path) -> None:
    sources = recordings(tmp_path / 'bags', 'a', 'slow1', 'slow2')

    def interrupt(progress: Progress) -> None:
        if progress.ended == 1 and list((tmp_path / 'out').glob('slow*/shards/*')):
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        convert_bags(
            sources, tmp_path / 'out', CONFIG, executor='ray', progress=interrupt, convert=convert
        )
    assert time.monotonic() - began < 60
    # What was killed, and could not tidy up, is not in the way for long.
    convert_bags(sources[:1], tmp_path / 'out', CONFIG, convert=convert)
    files = tree(tmp_path / 'out')
    again = convert_bags(sources[:1], tmp_path / 'out', CONFIG, executor='ray', convert=convert)
    assert [d.name for d in again.kept] == ['a'] and tree(tmp_path / 'out') == files
    assert not [p for p in (tmp_path / 'out').iterdir() if p.name.startswith('.')]


def test_a_task_is_running_once_it_has_begun(cluster: Any, tmp_path: Path) -> None:
    """Not already when the cluster knows of it; and tells how far it is."""
    sources = recordings(tmp_path / 'bags', 'slow1', 'slow2', 'slow3')
    seen: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress)
        begun = list((tmp_path / 'out').glob('slow*/shards/0*'))
        if len(begun) >= 2 and progress.bytes_done > 0.3 * progress.bytes_total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_bags(
            sources, tmp_path / 'out', CONFIG, executor='ray', progress=interrupt, convert=convert
        )
    assert max(len(progress.running) for progress in seen) == 2  # the cluster has two places


def test_a_worker_that_outlives_its_run_is_waited_for(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    address = cluster.get_runtime_context().gcs_address
    environment = {**os.environ, 'RAY_ADDRESS': address}
    words = [sys.executable, '-c', RUN.format(path=str(tmp_path), names=['a', 'slow'])]
    with subprocess.Popen(words, env=environment) as run:
        deadline = time.monotonic() + 100
        while not ((out / 'a' / 'manifest.json').exists() and list(out.glob('slow/shards/0*'))):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.01)
        run.kill()
    said: list[str] = []
    sources = recordings(tmp_path / 'bags', 'a')
    outcome = convert_bags(sources, out, CONFIG, say=said.append, convert=convert)
    line = f'waiting for the end of what an earlier run still writes: {out}/slow'
    assert said in ([line], [])  # none where Ray was quick to end it
    assert [d.name for d in outcome.kept] == ['a']
    assert not [path for path in out.iterdir() if path.name.startswith('.')]


RUN = """
from pathlib import Path
from test.data.stand_in import convert, recordings
from bev_training.data.jobs import convert_bags
from bev_training.data.settings import ConvertConfig
path = Path({path!r})
sources = recordings(path / 'bags', *{names})
done = convert_bags(sources, path / 'out', ConvertConfig(), executor='ray', convert=convert)
import ray
assert len(done.done) == len(sources) and not ray.is_initialized(), done
"""


def run_apart(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two recordings converted by a process that knows of no cluster but what it is told of."""
    code = RUN.format(path=str(tmp_path), names=['a', 'b'])
    given = {name: value for name, value in os.environ.items() if name != 'RAY_ADDRESS'}
    return subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=100,
        env={**given, **environment},
    )


@pytest.mark.slow
def test_a_cluster_of_its_own(cluster: Any, tmp_path: Path) -> None:
    """Nobody named one: a cluster of this machine is started, and ended."""
    done = run_apart(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a', 'b']


def test_a_cluster_that_is_named(cluster: Any, tmp_path: Path) -> None:
    address = cluster.get_runtime_context().gcs_address
    done = run_apart(tmp_path, RAY_ADDRESS=address)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a', 'b']
