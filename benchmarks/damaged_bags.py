"""What conversion makes of damaged recordings: python benchmarks/damaged_bags.py [--count 2000].

Every case is a small recording (three cameras, JPEG or raw; a lidar; TF and Odometry) in one of
six storages with one kind of damage: to the file, or to the messages of a valid file. It is
converted in a worker process. Printed are the verdicts by storage and by kind:

    whole      the same as without damage
    told       less or other content, and a count in the manifest says so
    content    the same frames, images and sweeps, with other bytes or numbers inside: a flipped
               bit in a payload without checksum, which nothing in the recording tells
    refused    one clear line

and every case that is a fault:

    SILENT     frames, images or sweeps are missing, and no count says so
    TRACEBACK  another exception than one clear line
    HALF       something was left behind after an error
    CHECK      what was written is not sound
    SLOW       more than 20 s
    MEMORY     more than 1 GB resident
    DIED       the process ended, or had to be ended
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from test.data.damage import KINDS, STORAGES, Case, Outcome, Workbench, cases, remove

LIMIT_S, MAX_SECONDS, MAX_MB = 60.0, 20.0, 1000.0
VERDICTS = ('whole', 'told', 'content', 'refused')
FAULTS = ('SILENT', 'TRACEBACK', 'HALF', 'CHECK', 'SLOW', 'MEMORY', 'DIED')
_CONTEXT = multiprocessing.get_context('spawn')


def work(folder: Path, connection: Connection) -> None:
    """Convert what comes in; send back the outcome and the peak memory of each in MB."""
    tempfile.tempdir = str(folder / 'temporary')
    Path(tempfile.tempdir).mkdir(parents=True)
    bench = Workbench(folder)
    while True:
        try:
            case = connection.recv()
        except EOFError:  # the leading process has ended
            return
        Path('/proc/self/clear_refs').write_text('5')  # the peak counts from here
        outcome = bench.attempt(case)
        if left := list((folder / 'temporary').iterdir()):
            outcome = replace(outcome, verdict='HALF', text=f'{left} was left behind')
            for path in left:
                remove(path)
        connection.send((outcome, peak_mb()))


def peak_mb() -> float:
    """Return the peak of resident memory of this process."""
    status = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in status if line.startswith('VmHWM'))


def judge(outcome: Outcome, memory_mb: float) -> Outcome:
    """Let time and memory count."""
    if outcome.seconds > MAX_SECONDS:
        return replace(outcome, verdict='SLOW')
    if memory_mb > MAX_MB:
        return replace(outcome, verdict='MEMORY', text=f'{memory_mb:.0f} MB; {outcome.text}')
    return outcome


def lead(
    folder: Path, todo: SimpleQueue[Case], done: SimpleQueue[tuple[Case, Outcome, float]]
) -> None:
    """Give cases to a process, and start another one where it dies."""
    number = 0
    process = None
    while not todo.empty():
        case = todo.get()
        if process is None:
            number += 1
            own, other = _CONTEXT.Pipe()
            place = folder / str(number)
            process = _CONTEXT.Process(target=work, args=(place, other), daemon=True)
            process.start()
            other.close()
        own.send(case)
        try:
            if not own.poll(LIMIT_S):
                raise EOFError
            outcome, memory_mb = own.recv()
        except EOFError:
            process.kill()
            process.join()
            shutil.rmtree(place, ignore_errors=True)
            process = None
            outcome, memory_mb = Outcome(verdict='DIED', text='no answer'), 0.0
        done.put((case, judge(outcome, memory_mb), memory_mb))
    if process is not None:
        process.kill()
        process.join()


def table(title: str, rows: dict[str, collections.Counter[str]]) -> None:
    """Print verdicts by row."""
    faults = [f for f in FAULTS if any(row[f] for row in rows.values())]
    columns = [*VERDICTS, *faults]
    print(f'\n{title:14}' + ''.join(f'{column:>11}' for column in columns) + '      cases')
    total: collections.Counter[str] = collections.Counter()
    for row in rows.values():
        total += row
    for name, row in [*rows.items(), ('all', total)]:
        numbers = ''.join(f'{row[column]:11}' for column in columns)
        print(f'{name:14}{numbers}{row.total():11}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=int, default=2000, help='damaged recordings (2000)')
    parser.add_argument('--seed', type=int, default=0, help='of the first (0)')
    parser.add_argument('--workers', type=int, default=2, help='processes (2)')
    chosen = parser.parse_args()
    began = time.monotonic()
    todo: SimpleQueue[Case] = SimpleQueue()
    for case in cases(chosen.count, chosen.seed):
        todo.put(case)
    done: SimpleQueue[tuple[Case, Outcome, float]] = SimpleQueue()
    by_storage = {name: collections.Counter[str]() for name in STORAGES}
    by_kind = {name: collections.Counter[str]() for name in KINDS}
    slowest = largest_mb = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(chosen.workers):
            place = Path(folder, str(i))
            threading.Thread(target=lead, args=(place, todo, done), daemon=True).start()
        for _ in tqdm(range(chosen.count), unit='bag', smoothing=0):
            case, outcome, memory_mb = done.get()
            by_storage[case.storage][outcome.verdict] += 1
            by_kind[case.kind][outcome.verdict] += 1
            slowest, largest_mb = max(slowest, outcome.seconds), max(largest_mb, memory_mb)
            if outcome.verdict in FAULTS:
                differs = ', '.join(outcome.differs)
                tqdm.write(f'{outcome.verdict} {case} {differs} {outcome.text[:300]}')
    table('storage', by_storage)
    table('damage', by_kind)
    print(
        f'\n{chosen.count} cases from seed {chosen.seed} in {time.monotonic() - began:.0f} s; '
        f'slowest {slowest:.1f} s, peak memory {largest_mb:.0f} MB'
    )


if __name__ == '__main__':
    main()
