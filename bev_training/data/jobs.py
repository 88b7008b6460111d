"""Many recordings into one output: a process each, or on a Ray cluster.

What is finished is kept, what was begun is done anew, so the same call again goes on where an
interrupted one stopped, and gives the same bytes as one that was not interrupted.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError, BevError, ConfigError
from bev_training.data import drive_folder
from bev_training.data.bag_inputs import BagSource, fingerprint
from bev_training.data.existing import finished, look_at, remove_unfinished
from bev_training.data.locks import (
    DRIVE_PATIENCE_S,
    Held,
    drive_lock,
    output_lock,
    wait_for_writers,
)
from bev_training.data.nuscenes_files import remove_recording
from bev_training.data.nuscenes_merge import merge_tables
from bev_training.data.paths import is_local, remote
from bev_training.data.settings import ConvertConfig
from bev_training.data.summary import DriveSummary
from bev_training.processes import CONTEXT, each_apart, stopped

EXECUTORS = ('processes', 'ray')
MAX_WORKERS = 8  # processes by default; each takes up to 1 GB
Convert = Callable[..., DriveSummary]  # as `convert.convert_bag`
Results = Generator[tuple[int, DriveSummary | str], None, None]  # task's number; why it failed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a conversion of several recordings came to; in the order of the recordings.

    Attributes:
        done: drives that were written now.
        kept: drives that were there already.
        failed: why, in one line, by the recording's name.
    """

    done: tuple[DriveSummary, ...]
    kept: tuple[DriveSummary, ...]
    failed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a conversion is.

    Attributes:
        bytes_done: of the recordings; a share of those that are being converted.
        bytes_total: of all that are to be converted.
        ended: recordings that are converted, or have failed.
        total: recordings to convert.
        running: names of those that are being converted.
    """

    bytes_done: int
    bytes_total: int
    ended: int
    total: int
    running: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One recording to convert.

    Attributes:
        source: the recording.
        out: the output.
        config: the settings.
        format: 'drive' or 'nuscenes'.
        convert: does it.
        far: whether it may run on another machine, where it outlives the call that began it.
    """

    source: BagSource
    out: Path
    config: ConvertConfig
    format: str
    convert: Convert
    far: bool = False

    def run(
        self, progress: Callable[[float], None], stopped: Callable[[], bool]
    ) -> DriveSummary | str:
        """Convert it; a str says in one line why that failed."""
        folder = self.out if self.format == 'nuscenes' else self.out / self.source.name
        try:
            with self.lock(DRIVE_PATIENCE_S) as held:
                # By a worker that was cut off from its call, and ended while we waited.
                there = finished(self.out, self.source, self.config, self.format)
                if there is not None:
                    return there

                def report(share: float) -> None:
                    held.check()
                    progress(share)

                return self.convert(
                    self.source,
                    folder,
                    self.config,
                    format=self.format,
                    progress=report,
                    stopped=stopped,
                )
        except Exception as error:  # one recording must not end the conversion of hundreds
            return _reason(error, self.source)

    def lock(self, patience_s: float) -> AbstractContextManager[Held]:
        """Keep others from writing the same drive.

        In an object store that takes a second, and is needed for other machines only: processes
        of this one end with the call that holds the lock of the output.
        """
        if is_local(self.out) or self.far:
            return drive_lock(self.out, self.source.name, patience_s)
        return nullcontext(Held())


def _reason(error: Exception, source: BagSource) -> str:
    """Return in one line why a recording could not be converted."""
    if isinstance(error, BevError):
        reason = str(error)
    elif isinstance(error, OSError):
        reason = f'{error.filename or source.path}: {error.strerror or error}'
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{Path(last.filename).name}:{last.lineno}'
        reason = f'{source.path}: unexpected {type(error).__name__} in {where}: {error}'
    return ' '.join(reason.split())


def convert_bags(
    sources: Sequence[BagSource],
    out: Path,
    config: ConvertConfig,
    *,
    format: str = 'drive',
    workers: int | None = None,
    executor: str = 'processes',
    progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
    convert: Convert | None = None,
) -> Outcome:
    """Convert recordings that are not in the output yet. One that fails does not stop the others.

    Args:
        sources: the recordings; their names are unique.
        out: takes a folder for each ('drive'), or the data set ('nuscenes').
        config: the settings.
        format: 'drive' or 'nuscenes'.
        workers: recordings at once; None takes one per core, up to 8, or with Ray what the
            cluster offers. One at a time is done in this process.
        executor: 'processes' of this machine, or 'ray'.
        progress: called a few times per second.
        say: called with a line when something has to be waited for.
        convert: does one recording; `convert.convert_bag` unless given.

    Raises:
        ConfigError: less than one worker, or an unknown executor.
        BagError: the output is being written by another run, holds something else or drives of
            other settings, or cannot be written. Nothing has been changed then.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f'workers is {workers}; it must be at least 1')
    if executor not in EXECUTORS:
        raise ConfigError(f'executor is {executor!r}; known are {", ".join(EXECUTORS)}')
    if convert is None:
        from bev_training.data.convert import convert_bag

        convert = convert_bag
    if config.privacy:
        from bev_training.data.privacy import load_function

        load_function(config.privacy)  # one line about it, not one for every recording
    prints, failed = _fingerprints(sources)
    try:
        with remote(out, 'used'), output_lock(out, say) as held:
            wait_for_writers(out, say)
            known = [source for source in sources if source.name in prints]
            there = look_at(out, known, prints, config, format)
            for name in there.broken:
                if format == 'nuscenes':
                    remove_recording(out, name)
                else:
                    drive_folder.clear(out / name)
            make = partial(Task, out=out, config=config, format=format, convert=convert)
            tasks = [make(source=s, far=executor == 'ray') for s in there.to_do.values()]
            sizes = [sum(f['size_bytes'] for f in prints[name]['files']) for name in there.to_do]
            results = _results(tasks, sizes, workers, executor, progress, held) if tasks else []
            if format == 'nuscenes':
                merge_tables(out)
    except OSError as error:
        raise BagError(f'{error.filename or out}: {error.strerror or error}') from error
    failed |= there.failed
    failed |= {n: r for n, r in zip(there.to_do, results, strict=True) if isinstance(r, str)}
    return Outcome(
        done=tuple(r for r in results if isinstance(r, DriveSummary)),
        kept=tuple(there.kept.values()),
        failed={source.name: failed[source.name] for source in sources if source.name in failed},
    )


def _fingerprints(
    sources: Sequence[BagSource],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what tells recordings from each other, and why some cannot be read; by name."""
    prints, failed = {}, {}
    for source in sources:
        try:
            prints[source.name] = fingerprint(source)
        except Exception as error:  # as in Task.run
            failed[source.name] = _reason(error, source)
    return prints, failed


def _results(
    tasks: Sequence[Task],
    sizes: Sequence[int],
    workers: int | None,
    executor: str,
    progress: Callable[[Progress], None],
    held: Held,
) -> list[DriveSummary | str]:
    """Run all tasks; the results are in their order."""
    count = min(len(tasks), workers or min(os.cpu_count() or 1, MAX_WORKERS))
    alone = count == 1 or getattr(tasks[0].out, 'protocol', '') == 'memory'
    shares: Any = CONTEXT.Array('d', len(tasks))
    results: dict[int, DriveSummary | str] = {}

    def look() -> None:
        held.check()
        done = [1.0 if n in results else share for n, share in enumerate(shares)]
        begun = [n for n, share in enumerate(done) if share > 0 and n not in results]
        progress(
            Progress(
                bytes_done=round(sum(d * size for d, size in zip(done, sizes, strict=True))),
                bytes_total=sum(sizes),
                ended=len(results),
                total=len(tasks),
                running=tuple(tasks[n].source.name for n in begun),
            )
        )

    if executor == 'ray':
        from bev_training.data.cluster import on_ray

        run = on_ray(tasks, workers, shares, look)
    elif alone:
        run = _in_turn(tasks, shares, look)
    else:
        run = _apart(tasks, count, shares, look, held)
    try:
        with closing(run):
            for number, result in run:
                results[number] = result
                look()
    finally:
        _tidy_up([t for n, t in enumerate(tasks) if isinstance(results.get(n, ''), str)], held)
    return [results[n] for n in range(len(tasks))]


def _tidy_up(tasks: Sequence[Task], held: Held) -> None:
    """Remove what processes that were killed have left, unless somebody still writes there."""
    for task in () if held.lost else tasks:
        with suppress(BagError), task.lock(0.0):
            remove_unfinished(task.out, task.source.name, task.format)


def _in_turn(tasks: Sequence[Task], shares: Any, look: Callable[[], None]) -> Results:
    for number, task in enumerate(tasks):

        def report(share: float, number: int = number) -> None:
            shares[number] = share
            look()

        yield number, task.run(report, bool)


def _apart(
    tasks: Sequence[Task], count: int, shares: Any, look: Callable[[], None], held: Held
) -> Results:
    calls = [(task, shares, number, held) for number, task in enumerate(tasks)]
    with closing(each_apart(_run_apart, calls, count, look)) as results:
        for number, result in results:
            yield number, str(result) if isinstance(result, BevError) else result


def _run_apart(task: Task, shares: Any, number: int, held: Held) -> DriveSummary | str:
    """Convert in a process of its own, which holds the output's lock as well."""

    def report(share: float) -> None:
        shares[number] = share

    return task.run(report, stopped)
