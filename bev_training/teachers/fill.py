"""A teacher's features of all samples, computed once and stored."""

from __future__ import annotations

import fcntl
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.shapes import Array
from bev_training.data.sample import SampleSource
from bev_training.teachers.cache import FeatureCache, FeatureMaps
from bev_training.teachers.load import Teacher
from bev_training.teachers.quality import judge
from bev_training.teachers.views import teacher_decode_px, teacher_images

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
        left_out: found no room under the limit; they are computed whenever they are needed.
        images: of those made now.
        seconds: it took.
        text: all that, and what the features are like, as one paragraph.
    """

    samples: int
    found: int
    made: int
    left_out: int
    images: int
    seconds: float
    text: str


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
    judged: bool = True,
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
            share of the room. The first also says what the features are like (`quality.judge`).
        world: number of processes.
        readers: threads that decode images; 0 takes half of the cores, 8 at most.
        judged: whether it is also said what the features are like.

    Raises:
        ConfigError: features that somebody else stored are not complete.
        BevError: a sample cannot be read (it is named), or features cannot be stored.
    """
    mine = list(indices)[rank::world]
    began, done = time.monotonic(), {'found': 0, 'made': 0, 'images': 0}
    tell = progress or (lambda what, done, total: None)
    with _alone(cache, f'{rank}-of-{world}', lambda: tell(_WAITING, 0, len(mine))):
        cache.clear_abandoned()
        room = (cache.limit_bytes - cache.used_bytes()) / world + cache.used_bytes()
        waiting: list[_Seen] = []
        for number, (i, seen) in enumerate(_read(source, mine, cache, readers), 1):
            if seen is None:
                done['found'] += 1
            elif cache.read_only:
                raise ConfigError(
                    f'{cache.folder} holds no features of sample {source.keys[i]}: '
                    f'{cache.path(seen.fingerprint).name} is missing'
                )
            else:
                waiting.append(seen)
            if len(waiting) >= _TOGETHER.get(device.type, 1) or number == len(mine):
                stored = _store(cache, teacher, waiting, device, room)
                done['made'] += stored
                done['images'] += sum(len(each.images) for each in waiting[:stored])
                if stored < len(waiting):
                    break  # full
                waiting = []
            tell(_FILLING, number, len(mine))
    left_out = len(mine) - done['found'] - done['made']
    seconds = time.monotonic() - began
    text = _told(cache, len(mine), left_out, done, seconds)
    if judged and rank == 0:
        text += judge(cache, source, mine, left_out=left_out)
    return FillReport(samples=len(mine), left_out=left_out, seconds=seconds, text=text, **done)


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
    source: SampleSource, indices: Sequence[int], cache: FeatureCache, readers: int
) -> Iterator[tuple[int, _Seen | None]]:
    """Yield each sample's number, and what the teacher sees of it unless it has features."""
    own = threading.local()  # a source is for one thread
    pickled = pickle.dumps(source)

    def read(i: int) -> _Seen | None:
        if not hasattr(own, 'source'):
            own.source = pickle.loads(pickled)
        return _seen(own.source, i, cache)

    count = readers or max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    with ThreadPoolExecutor(count) as pool:
        running: deque[tuple[int, Future[_Seen | None]]] = deque()
        try:
            for i in indices:
                running.append((i, pool.submit(read, i)))
                if len(running) > 2 * count + _TOGETHER['cuda']:
                    first, future = running.popleft()
                    yield first, future.result()
            while running:
                first, future = running.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _seen(source: SampleSource, i: int, cache: FeatureCache) -> _Seen | None:
    try:
        fingerprint = source.fingerprint(i)
        if cache.has(fingerprint):
            return None
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
        yield


def _told(
    cache: FeatureCache, samples: int, left_out: int, done: dict[str, int], seconds: float
) -> str:
    text = f'{samples - left_out} of {samples} samples have features in {cache.folder}'
    if done['made']:
        rate = done['images'] / max(seconds, 1e-9)
        text += f' ({done["made"]} made now, {rate:.1f} images/s)'
    text += f', {cache.used_bytes() / 1e9:.2f} GB.'
    if left_out:
        text += (
            f' {left_out} found no room within teacher.cache_gb {cache.limit_bytes / 1e9:g} and '
            'are computed at every step.'
        )
    return text
