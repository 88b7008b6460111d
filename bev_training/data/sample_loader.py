"""Samples read by processes of their own, and stacked into batches in a planned order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from bev_perception.errors import BevError
from bev_training.data.batch import Batch
from bev_training.data.sample import SampleSource
from bev_training.data.sample_tensors import SampleTensors, to_batch

Place = tuple[int, int]  # (position in the stream of samples, number in the source)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What travels in a batch's place when a sample cannot be had."""

    line: str
    details: str


class SampleLoader:
    """Batches of a plan. Can be iterated again, which gives the same batches again.

    Raises, while it is iterated:
        BevError: a sample cannot be read (it is named), or a process died.
    """

    def __init__(
        self,
        source: SampleSource,
        make: Callable[[Place], SampleTensors],
        home: str,
        plan: Callable[[], Iterator[list[Place]]],
        *,
        length: int,
        workers: int,
        pin_memory: bool,
    ) -> None:
        """Processes start when it is iterated; without any, this process does the work.

        Args:
            source: of the samples.
            make: reads a sample and makes tensors of it; can be pickled.
            home: module that `make` is from.
            plan: gives the places of each batch.
            length: number of batches.
            workers: processes.
            pin_memory: put batches where a GPU copies them fast.
        """
        self._source, self._make, self._plan, self._length = source, make, plan, length
        self._modules = [home, type(source).__module__]
        self._workers, self._pin_memory = workers, pin_memory

    def __len__(self) -> int:
        """Number of batches."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches in the plan's order."""
        context = None
        if not self._length:
            return  # a rank may have nothing to evaluate: no process is started for that
        if self._workers:
            # Not forked from this process, which has threads, and perhaps a GPU, of its own.
            context = multiprocessing.get_context('forkserver')
            # What all of them import anyway is imported once, in the server.
            context.set_forkserver_preload(self._modules)
        batches = iter(
            DataLoader(
                _Samples(self._source, self._make),
                batch_sampler=_Places(self._plan),
                num_workers=self._workers,
                collate_fn=_stacked,
                worker_init_fn=_begin,
                multiprocessing_context=context,
                pin_memory=self._pin_memory,
            )
        )
        try:
            for number in range(self._length):
                batch = self._next(batches, number)
                if isinstance(batch, _Failure):
                    cause = RuntimeError(batch.details) if batch.details else None
                    raise BevError(batch.line) from cause
                yield batch
        finally:
            del batches  # ends the processes now: later, among other garbage, it takes seconds

    def _next(self, batches: Iterator[Batch | _Failure], number: int) -> Batch | _Failure:
        try:
            return next(batches)
        except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
            # torch's words, or a batch that went with the process that held it.
            if isinstance(error, RuntimeError) and not str(error).startswith('DataLoader worker'):
                raise
            raise BevError(
                f'a process that reads samples died before batch {number + 1} of '
                f'{self._length}; is there enough memory, also in /dev/shm? '
                'Fewer data.workers need less'
            ) from error


class _Places:
    """A plan as torch wants it: it stays in this process, which sends out places, so that the
    reading processes hold no list of samples.
    """

    def __init__(self, plan: Callable[[], Iterator[list[Place]]]) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[list[Place]]:
        return self._plan()


class _Samples(Dataset):
    """Samples as tensors, by their place."""

    def __init__(self, source: SampleSource, make: Callable[[Place], SampleTensors]) -> None:
        self._source, self._make = source, make

    def __getitem__(self, place: Place) -> SampleTensors | _Failure:
        try:
            return self._make(place)
        except BevError as error:
            return _Failure(line=f'sample {self._source.keys[place[1]]}: {error}', details='')
        except Exception as error:  # torch would make pages of it
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            line = f'sample {self._source.keys[place[1]]} cannot be read: {reason}'
            return _Failure(line=line, details=traceback.format_exc())


def _stacked(samples: list[SampleTensors | _Failure]) -> Batch | _Failure:
    made = []
    for sample in samples:
        if isinstance(sample, _Failure):
            return sample
        made.append(sample)
    return to_batch(made)


def _begin(number: int) -> None:
    """Begin a reading process: one of many, so on one core; Ctrl-C is for the caller."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent is gone, whatever ended it: torch sees the server's end only, and the
    server waits for its children.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
