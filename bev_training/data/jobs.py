"""Many recordings into one output: a process each, or on a Ray cluster.

What is finished is kept, what was begun is done anew, so the same call again goes on where an
interrupted one stopped, and gives the same bytes as one that was not interrupted.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError, BevError, ConfigError
from bev_training.data.bag_inputs import BagSource, fingerprint
from bev_training.data.existing import kept, remove_unfinished
from bev_training.data.locks import Held, output_lock
from bev_training.data.nuscenes_merge import merge_tables
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
    """

    source: BagSource
    out: Path
    config: ConvertConfig
    format: str
    convert: Convert

    def run(
        self, progress: Callable[[float], None], stopped: Callable[[], bool]
    ) -> DriveSummary | str:
        """Convert it; a str says in one line why that failed."""
        folder = self.out if self.format == 'nuscenes' else self.out / self.source.name
        try:
            return self.convert(
                self.source,
                folder,
                self.config,
                format=self.format,
                progress=progress,
                stopped=stopped,
            )
        except BevError as error:
            reason = str(error)
        except OSError as error:
            reason = f'{error.filename or self.source.path}: {error.strerror or error}'
        except Exception as error:  # one recording must not end the conversion of hundreds
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f'{Path(last.filename).name}:{last.lineno}'
            reason = f'{self.source.path}: unexpected {type(error).__name__} in {where}: {error}'
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
    try:
        prints = {source.name: fingerprint(source) for source in sources}
        with output_lock(out) as held:
            there = kept(out, sources, prints, config, format)
            tasks = [
                Task(source=source, out=out, config=config, format=format, convert=convert)
                for source in sources
                if source.name not in there
            ]
            sizes = [sum(f['size_bytes'] for f in prints[t.source.name]['files']) for t in tasks]
            results = _results(tasks, sizes, workers, executor, progress, held) if tasks else {}
            if format == 'nuscenes':
                merge_tables(out)
    except OSError as error:
        raise BagError(f'{error.filename or out}: {error.strerror or error}') from error
    return Outcome(
        done=tuple(r for r in results.values() if isinstance(r, DriveSummary)),
        kept=tuple(there.values()),
        failed={name: r for name, r in results.items() if isinstance(r, str)},
    )


def _results(
    tasks: Sequence[Task],
    sizes: Sequence[int],
    workers: int | None,
    executor: str,
    progress: Callable[[Progress], None],
    held: Held,
) -> dict[str, DriveSummary | str]:
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
        for task in () if held.lost else tasks:  # what processes that were killed have left
            remove_unfinished(task.out, task.source.name, task.format)
    return {task.source.name: results[n] for n, task in enumerate(tasks)}


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
