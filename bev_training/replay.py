"""A recording through the node's own pipeline in one process: the same every time, no clock.

Messages are synchronised, placed and decoded by the core as in the node; where a busy node skips
sets, this takes every one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import BagError, BevError, CalibrationError
from bev_perception.memory import Recollection, Whereabouts
from bev_perception.model.checkpoint import Checkpoint
from bev_perception.model.config import ModelConfig
from bev_perception.occupancy import to_cells
from bev_perception.predictor import Predictor, Probabilities
from bev_perception.preprocess import decode_size_px, prepare
from bev_perception.rig import CameraHistory, decode
from bev_perception.shapes import Cells
from bev_perception.views import ViewSet
from bev_training.data.bag_inputs import BagSource, find_bags
from bev_training.data.bag_reader import Recording
from bev_training.data.beginning import read_beginning
from bev_training.data.convert import counts_of
from bev_training.data.frames import FrameSelector
from bev_training.data.read_frames import located_sets
from bev_training.data.sample import LabelGrids
from bev_training.data.settings import ConvertConfig
from bev_training.data.topics import RigTopics, choose_topics
from bev_training.evaluation.drive_truth import BASE_FRAME, DriveTruth
from bev_training.grid_bag import GridBag
from bev_training.metrics import PooledScores, Scores

_DECODE_THREADS = 2  # as the node has
_REPORTS = 500  # calls of `progress`, about


@dataclass(frozen=True, kw_only=True)
class ReplayInput:
    """What is replayed.

    Attributes:
        name: of the results.
        source: the recording.
        drive: folder of the synthetic drive that it belongs to; None of a real one.
    """

    name: str
    source: BagSource
    drive: Path | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Instant:
    """One set of images and what the network says of it.

    Attributes:
        view_set: the images.
        cells: (class, y, x) as the node publishes them.
        labels: the truth of the classes that it knows; None without.
    """

    view_set: ViewSet
    cells: Cells
    labels: LabelGrids | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Replay:
    """What came out.

    Attributes:
        sets: number of sets that became grids.
        coverage: share of the cells that a camera sees.
        scores: against the truth; None without.
        no_scores: why there are none; '' where there are.
        counts: what was read, left out and repaired, by name, as of a conversion.
        middle: the instant in the middle of the recording.
        notes: what else its reader should know, a line each.
        seconds: that it took.
        network_s: median time that preparing the images and the network took for one set.
        device: that the network ran on.
        precision: of the network.
    """

    sets: int
    coverage: float
    scores: Scores | None
    no_scores: str
    counts: Mapping[str, int]
    middle: Instant
    notes: tuple[str, ...]
    seconds: float
    network_s: float
    device: str
    precision: str


def find_input(path: Path) -> ReplayInput:
    """Return what a user named: a recording, or the folder of a synthetic drive.

    A drive is known by its folder, by the bag in it, or by the file in that.

    Raises:
        BagError: it is no recording, or several.
    """
    whole = path.absolute()
    folders = [whole] + [bag.parent for bag in (whole, whole.parent) if bag.name == 'bag']
    drive = next((f for f in folders if (f / 'drive.json').is_file()), None)
    bag = path / 'bag' if drive == whole else path
    sources = find_bags([bag])
    if len(sources) > 1:
        names = ', '.join(source.name for source in sources[:3])
        raise BagError(f'{path} holds {len(sources)} recordings ({names} ...); name one')
    return ReplayInput(
        name=drive.name if drive else sources[0].name, source=sources[0], drive=drive
    )


def replay(
    given: ReplayInput,
    loaded: Checkpoint,
    grids: Path,
    *,
    settings: ConvertConfig,
    device: str = 'auto',
    precision: str = 'float32',
    progress: Callable[[float], None] = lambda share: None,
) -> Replay:
    """Run a recording through the network and write the grids.

    Args:
        given: the recording.
        loaded: the weights.
        grids: rosbag2 folder (mcap) to write, with the topics of the node: /bev_node/grid/CLASS
            and /bev_node/grid/combined; a message's time in the bag is its stamp. Half of it stays
            where this raises.
        settings: topics, frames and which sets are taken; lidars are not read.
        device: see `Predictor`.
        precision: see `Predictor`.
        progress: called with the share of the recording that is done, 0..1, now and then.

    Raises:
        BevError: the recording cannot be used or the grids not be written; one line says why.
    """
    config = loaded.model.config
    truth, no_scores = _truth(given, config, settings.base_frame)
    scored = [name for name in config.classes if truth and name in truth.classes]
    pooled = PooledScores(scored, config.grid) if truth else None
    predictor = Predictor(loaded.model, device=device, precision=precision)
    recollection = Recollection()
    began, took_s, covered = time.monotonic(), [], []
    middle: Instant | None = None
    share = 0.0

    def reached(now: float) -> None:
        nonlocal share
        share = now
        progress(share)

    with (
        given.source.open() as recording,
        ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix='decode') as pool,
        GridBag(grids, config, settings.base_frame) as out,
    ):
        rig = choose_topics(recording, settings)
        beginning = read_beginning(recording, rig, settings.base_frame)
        selector = FrameSelector(rig, settings, beginning)
        with closing(_watched(recording, rig, reached)) as watched:
            for view_set, now in view_sets(
                selector, watched, at_least_px=decode_size_px(config), executor=pool
            ):
                asked = time.monotonic()
                inputs = prepare(view_set, config)
                if config.attention.temporal:
                    said = recollection.predict(predictor, inputs, now)
                else:
                    said = predictor.predict(inputs)
                took_s.append(time.monotonic() - asked)
                cells = to_cells(said.classes, said.valid)
                out.write(view_set, cells)
                covered.append(float(said.valid.mean()))
                labels = truth.at(view_set.stamp_ns, scored) if truth else None
                if pooled is not None and labels is not None:
                    _update(pooled, said, labels, config, loaded.path)
                if middle is None or share <= 0.5:  # by bag time: stamps may be of another clock
                    middle = Instant(view_set=view_set, cells=cells, labels=labels)
        counts = counts_of(selector, recording)
        if middle is None:
            raise BagError(_nothing(given.source.path, selector, counts))
    return Replay(
        sets=len(covered),
        coverage=float(np.mean(covered)),
        scores=pooled.result() if pooled else None,
        no_scores=no_scores,
        counts=counts,
        middle=middle,
        notes=_notes(config, recollection, len(covered)),
        seconds=time.monotonic() - began,
        network_s=statistics.median(took_s),
        device=str(predictor.device),
        precision=precision,
    )


def view_sets(
    selector: FrameSelector,
    messages: Iterable[tuple[str, int, Any]],
    *,
    at_least_px: tuple[int, int],
    executor: Executor | None = None,
) -> Iterator[tuple[ViewSet, Whereabouts]]:
    """Yield the sets of a recording as the node has them before the network, and what tells
    whether a memory of one holds at the next.

    Args:
        selector: new; says what is left out.
        messages: topic, bag time and message, in the recording's order.
        at_least_px: (width, height) that a JPEG may be shrunk to while decoding.
        executor: threads to decode on.

    Raises:
        CalibrationError: the first image of a camera does not fit its CameraInfo.
    """
    epoch = -1
    cameras: dict[str, CameraHistory] = {}
    for located in located_sets(selector, messages):
        calibration = located.calibration
        if calibration.epoch != epoch:
            epoch, cameras = calibration.epoch, {}
            for name, each in calibration.cameras.items():
                cameras[name] = CameraHistory(name)
                cameras[name].push(calibration.from_stamp_ns, each.camera)
        view_set, problems = decode(
            located.images, located.poses, cameras, at_least_px=at_least_px, executor=executor
        )
        for problem in problems.values():
            odd = isinstance(problem, CalibrationError)
            selector.note('images_of_other_size' if odd else 'images_damaged', problem)
        if len(view_set.views) < selector.sync.config.min_cameras:
            selector.note('sets_too_few_images')
        else:
            yield view_set, Whereabouts.of(view_set, (located.sequence, epoch))


def _watched(
    recording: Recording, rig: RigTopics, progress: Callable[[float], None]
) -> Generator[tuple[str, int, Any], None, None]:
    """Yield the messages of a rig, with a report now and then."""
    start_ns, length_ns = recording.start_ns, max(recording.end_ns - recording.start_ns, 1)
    next_ns = start_ns
    with closing(recording.messages(rig.all)) as every:
        for topic, bag_ns, message in every:
            if bag_ns >= next_ns:
                progress((bag_ns - start_ns) / length_ns)
                next_ns = bag_ns + length_ns // _REPORTS
            yield topic, bag_ns, message
    progress(1.0)


def _notes(config: ModelConfig, recollection: Recollection, sets: int) -> tuple[str, ...]:
    """Say how far a temporal network could remember."""
    if not config.attention.temporal:
        return ()
    resets = dict(recollection.resets)
    if resets.get('no_pose') == sets:
        return (
            'No odometry: the network ran without its memory; odom_frame names the frame that the '
            'vehicle moves in',
        )
    lost = ', '.join(f'{reason} {n}' for reason, n in resets.items())
    return (
        f'Memory of the set before: used for {recollection.used} of {sets} sets'
        f'{f"; given up: {lost}" if lost else ""}',
    )


def _truth(
    given: ReplayInput, config: ModelConfig, base_frame: str
) -> tuple[DriveTruth | None, str]:
    """Return the truth, or why it cannot score this network."""
    if given.drive is None:
        return None, 'no truth beside the recording'
    if base_frame != BASE_FRAME:
        return None, f'the truth is in the frame {BASE_FRAME}, the grids are in {base_frame}'
    truth = DriveTruth(given.drive, config.grid)
    if not set(config.classes) & set(truth.classes):
        return None, f'the truth of {given.drive} has none of {", ".join(config.classes)}'
    return truth, ''


def _update(
    pooled: PooledScores,
    said: Probabilities,
    labels: LabelGrids,
    config: ModelConfig,
    weights: Path,
) -> None:
    rows = [config.classes.index(name) for name in labels.classes]
    try:
        pooled.update(said.classes[rows], labels, said.valid)
    except BevError as error:
        raise BevError(f'{weights}: {error}') from error


def _nothing(path: Path, selector: FrameSelector, counts: Mapping[str, int]) -> str:
    """Say why a recording gave no set of images."""
    reason = next(iter(selector.problems.values()), '')
    numbers = ', '.join(f'{name} {n}' for name, n in counts.items())
    return (
        f'{path}: no set of {selector.sync.config.min_cameras} images to replay '
        f'({numbers or "no messages"}){f": {reason}" if reason else ""}; '
        '`bev inspect` says what is wrong'
    )
