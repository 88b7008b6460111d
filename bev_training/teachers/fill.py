"""A teacher's features of all samples, computed once and stored."""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from bev_perception.errors import BagError, BevError
from bev_perception.shapes import Array
from bev_training.data.sample import SampleSource
from bev_training.teachers.cache import FeatureCache, FeatureMaps
from bev_training.teachers.load import Teacher
from bev_training.teachers.views import teacher_decode_px, teacher_images

_log = logging.getLogger(__name__)
_FILLING = "the teacher's features"
_WAITING = "the teacher's features, which another run is making"
_TOGETHER = {'cpu': 1, 'cuda': 8}  # samples per forward pass


@dataclass(frozen=True, kw_only=True)
class FillReport:
    """What was done, of this process's part of the samples.

    Attributes:
        samples: how many were asked for.
        found: had features already.
        made: got them now.
        images: of those made now.
        seconds: it took.
    """

    samples: int
    found: int
    made: int
    images: int
    seconds: float

    @property
    def left_out(self) -> int:
        """Samples that found no room; their features are computed whenever they are needed."""
        return self.samples - self.found - self.made

    def told(self, cache: FeatureCache) -> str:
        """Return it in a sentence or two."""
        text = f'{self.found + self.made} of {self.samples} samples have features in '
        text += f'{cache.folder}'
        if self.made:
            rate = self.images / max(self.seconds, 1e-9)
            text += f' ({self.made} made now, {rate:.1f} images/s)'
        text += f', {cache.used_bytes(anew=True) / 1e9:.2f} GB.'
        if self.left_out:
            text += (
                f' {self.left_out} found no room within teacher.cache_gb '
                f'{cache.limit_bytes / 1e9:g} and are computed at every step.'
            )
        return text


def together(parts: Sequence[FillReport]) -> FillReport:
    """Return the report of several processes that worked at the same time."""
    sums = {f.name: sum(getattr(part, f.name) for part in parts) for f in fields(FillReport)}
    return FillReport(**{**sums, 'seconds': max(part.seconds for part in parts)})


@dataclass(frozen=True, eq=False, kw_only=True)
class _Seen:
    """A sample without features."""

    fingerprint: str
    cameras: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    K: Array
    ego_T_cam: Array


def fill(
    cache: FeatureCache,
    teacher: Teacher,
    source: SampleSource,
    indices: Sequence[int],
    *,
    device: torch.device,
    progress: Callable[[str, int, int], None] | None = None,
    rank: int = 0,
    world: int = 1,
    readers: int = 0,
) -> FillReport:
    """Store the features of all samples that have none yet, as far as there is room.

    May be interrupted at any time: the next call goes on. Of two runs that fill one cache, the
    second waits, then finds what the first has made.

    Args:
        cache: of this teacher.
        teacher: on `device`.
        source: of the samples.
        indices: which.
        device: where the teacher runs.
        progress: called with what is done, how many samples are done, and of how many.
        rank: number of this process; each of `world` takes every `world`-th sample, and the same
            share of the room.
        world: number of processes.
        readers: threads that decode images; 0 takes half of the cores, 8 at most.

    Raises:
        BevError: a sample cannot be read, or somebody else's features lack it (it is named), or
            features cannot be stored.
    """
    mine = list(indices)[rank::world]
    began, done = time.monotonic(), {'found': 0, 'made': 0, 'images': 0}
    tell = progress or (lambda what, done, total: None)
    with _alone(cache, f'{rank}-of-{world}', lambda: tell(_WAITING, 0, len(mine))):
        cache.clear_abandoned()
        room = (cache.limit_bytes - cache.used_bytes()) / world + cache.used_bytes()
        waiting: list[_Seen] = []
        full = threading.Event()  # nothing is decoded any more; features may still be found
        for number, seen in enumerate(_read(source, mine, cache, readers, full), 1):
            if isinstance(seen, _Seen):
                waiting.append(seen)
            else:
                done['found'] += seen
            if len(waiting) >= _TOGETHER.get(device.type, 1) or number == len(mine):
                stored = 0 if full.is_set() else _store(cache, teacher, waiting, device, room)
                done['made'] += stored
                done['images'] += sum(len(each.images) for each in waiting[:stored])
                if stored < len(waiting):
                    full.set()
                waiting = []
            tell(_FILLING, number, len(mine))
    return FillReport(samples=len(mine), seconds=time.monotonic() - began, **done)


def _store(
    cache: FeatureCache,
    teacher: Teacher,
    waiting: Sequence[_Seen],
    device: torch.device,
    room: float,
) -> int:
    """Compute and store the features of some samples; return how many found room."""
    if not waiting or cache.used_bytes() >= room:
        return 0
    images = torch.from_numpy(np.concatenate([seen.images for seen in waiting]))
    images = images.to(device).permute(0, 3, 1, 2).contiguous()
    features = teacher(images).half().cpu().numpy()
    ends = np.cumsum([len(seen.images) for seen in waiting])
    for number, (seen, maps) in enumerate(
        zip(waiting, np.split(features, ends[:-1]), strict=True)
    ):
        found = FeatureMaps(
            cameras=seen.cameras, features=maps, K=seen.K, ego_T_cam=seen.ego_T_cam
        )
        if cache.used_bytes() + maps.nbytes > room or not cache.store(seen.fingerprint, found):
            return number
    return len(waiting)


def _read(
    source: SampleSource,
    indices: Sequence[int],
    cache: FeatureCache,
    readers: int,
    full: threading.Event,
) -> Iterator[_Seen | bool]:
    """Yield, of every sample, whether it has features, or what the teacher sees of it if it has
    none and there is still room.
    """
    own = threading.local()  # a source is for one thread
    pickled = pickle.dumps(source)

    def read(i: int) -> _Seen | bool:
        if not hasattr(own, 'source'):
            own.source = pickle.loads(pickled)
        return _seen(own.source, i, cache, full)

    count = readers or max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    with ThreadPoolExecutor(count) as pool:
        running: deque[Future[_Seen | bool]] = deque()
        try:
            for i in indices:
                running.append(pool.submit(read, i))
                if len(running) > 2 * count + _TOGETHER['cuda']:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _seen(
    source: SampleSource, i: int, cache: FeatureCache, full: threading.Event
) -> _Seen | bool:
    try:
        fingerprint = source.fingerprint(i)
        if cache.has(fingerprint):
            return True
        if cache.read_only:
            raise BevError(
                f'{cache.folder} holds no features of it: {cache.path(fingerprint).name} is '
                'missing, damaged or of another shape; store it, or leave the sample out'
            )
        if full.is_set():
            return False
        views = source.view_set(i, at_least_px=teacher_decode_px(cache.size_px))
        images, K, ego_T_cam = teacher_images(views, cache.size_px)
    except BevError as error:
        raise BevError(f'sample {source.keys[i]}: {error}') from error
    return _Seen(
        fingerprint=fingerprint,
        cameras=tuple(view.name for view in views.views),
        images=images,
        K=K,
        ego_T_cam=ego_T_cam,
    )


@contextmanager
def _alone(cache: FeatureCache, part: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Wait until nobody else fills the same part of the cache; a killed run holds nothing."""
    if cache.read_only:
        yield
        return
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        file = (cache.folder / f'.fill-{part}.lock').open('a')
    except OSError as error:
        raise BagError(f'{cache.folder} cannot be written: {error.strerror or error}') from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some file systems have no locks; the work may be done twice
            _log.warning('%s cannot be locked (%s)', file.name, error.strerror or error)
        yield
