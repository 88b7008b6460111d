"""Labels of converted synthetic drives: what the town knows, at the instants of their frames.

The truth that lies beside a bag is of the front camera's exposures; a frame's instant is another.
So the town is made anew from the drive's settings, and asked at the frame's own stamp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import BagError, BevError
from bev_perception.geometry import rigid
from bev_perception.shapes import AnyArray, Mask, Rigid
from bev_training.data.bag_inputs import BagSource, fingerprint
from bev_training.data.drive_index import matrix
from bev_training.data.drives import Drive, find_drives
from bev_training.data.label_classes import CLASSES, OBJECTS
from bev_training.data.label_store import Labels, LabelStore, labels_of, write_labels
from bev_training.data.locks import drive_lock
from bev_training.data.paths import is_local, to_path
from bev_training.data.sample import HIDDEN_UP_TO, GroundBoxes, LabelGrids
from bev_training.outlines import Outlines, crossing_lines, outlines
from bev_training.processes import CONTEXT, processes, wait_for
from bev_training.synthetic.categories import OBJECTS as CATEGORIES
from bev_training.synthetic.categories import VEHICLES
from bev_training.synthetic.stored_truth import Truth, load_truth
from bev_training.synthetic.truth import CLASSES as TOWN_CLASSES
from bev_training.synthetic.truth import class_grids, ego_pose, footprints
from bev_training.synthetic.world import Boxes, World

_MOVED_M, _TURNED = 0.1, 0.02  # how far a frame's ego frame may be from the town's
_FLIPPED = 1e-3  # share of cells in which two machines may differ


@dataclass(frozen=True, kw_only=True)
class LabelledDrive:
    """A converted drive and its labels.

    Attributes:
        name: of its folder.
        labels: folder of the labels.
        frames: labelled ones.
        truth: the synthetic drive.
    """

    name: str
    labels: Path
    frames: int
    truth: Path


@dataclass(frozen=True, kw_only=True)
class LabelOutcome:
    """What was done: new labels, labels that were there, drives without truth, and failures."""

    done: Sequence[LabelledDrive]
    kept: Sequence[LabelledDrive]
    unmatched: Sequence[str]
    failed: Mapping[str, str]


def label_drives(
    frames: Path | str,
    synthetic: Sequence[Path],
    *,
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] = lambda frames: None,
    total: Callable[[int], None] = lambda frames: None,
) -> LabelOutcome:
    """Write the truth of synthetic drives beside their converted frames.

    A drive is known by the fingerprint of its recording, whatever the two are called.

    Args:
        frames: a converted drive, or a folder of them.
        synthetic: synthetic drives, or folders of them.
        overwrite: whether labels that are there are replaced.
        workers: processes.
        progress: called with the number of frames that were just labelled.
        total: called once with the number of frames to label.

    Raises:
        BagError: there are no drives, or none of them matches.
    """
    frames = to_path(frames)
    truths = truths_by_fingerprint(synthetic)
    kept, to_do, unmatched = list[LabelledDrive](), list[LabelledDrive](), list[str]()
    failed: dict[str, str] = {}
    for folder in find_drives(frames):
        try:
            drive = Drive(folder)
            source = drive.manifest['facts'].get('source')
            print_ = source.get('fingerprint') if isinstance(source, dict) else None
            truth = truths.get(str(print_))
            if truth is None:
                unmatched.append(drive.name)
                continue
            own = labels_of(folder)
            if not is_local(own):
                raise BagError(f'{own}: labels need a folder on a disk')
            one = LabelledDrive(name=drive.name, labels=own, frames=len(drive), truth=truth)
            if overwrite or not own.exists():
                to_do.append(one)
            else:
                LabelStore(own).check_length(len(drive))
                kept.append(one)
        except BevError as error:
            failed[folder.name] = str(error)
    if not (kept or to_do or failed):
        named = _listed([str(path) for path in synthetic])
        raise BagError(f'{frames}: no drive was converted from a bag of {named}')
    total(sum(one.frames for one in to_do))
    done = []
    for one, problem in _labelled(to_do, min(workers, len(to_do)), progress):
        if problem is None:
            done.append(one)
        else:
            failed[one.name] = problem
    return LabelOutcome(done=done, kept=kept, unmatched=unmatched, failed=failed)


def truths_by_fingerprint(paths: Sequence[Path]) -> dict[str, Path]:
    """Return synthetic drives by the fingerprints that a conversion of their bag may have.

    Args:
        paths: synthetic drives, or folders of them.

    Raises:
        BagError: a path holds none, or a bag is missing.
    """
    found = {}
    for path in paths:
        inside = sorted(each.parent for each in path.glob('*/drive.json'))
        drives = [path] if (path / 'drive.json').exists() else inside
        if not drives:
            raise BagError(f'{path} holds no synthetic drive (a folder with drive.json)')
        for drive in drives:
            bag = drive / 'bag'
            try:  # the folder may have been converted, or the file in it
                for each in (bag, *sorted(bag.glob('*.mcap'))):
                    found[fingerprint(BagSource(name='bag', path=each))['fingerprint']] = drive
            except OSError as error:
                raise BagError(f'{bag} cannot be read: {error.strerror or error}') from error
    return found


def write_truth(
    folder: Path, truth: Path, *, progress: Callable[[int], None] = lambda frames: None
) -> int:
    """Write the labels of one converted drive, in place of any that are there.

    Args:
        folder: the converted drive.
        truth: the synthetic drive.
        progress: called with 1 for every frame.

    Returns:
        The number of frames.

    Raises:
        BagError: the truth does not belong to the frames, or something is damaged.
    """
    drive, known = Drive(folder), load_truth(truth)
    world = known.config.world()
    check_town(known, world, truth)
    return write_labels(
        labels_of(folder),
        CLASSES,
        known.config.grid,
        _labels(drive, known, world, progress),
        source=f'the town of bev synth, seed {known.config.seed}',
        facts={'weather': known.weather},
        replace=True,
    )


def _labels(
    drive: Drive, truth: Truth, world: World, progress: Callable[[int], None]
) -> Iterator[Labels]:
    crossings = crossings_of(world)
    for row in drive.rows():
        time_s = (row['stamp_ns'] - truth.config.epoch_ns) / 1e9
        _check_ego(drive, row, world, time_s)
        yield labels_at(truth, world, time_s, crossings)
        progress(1)


def crossings_of(world: World) -> Outlines:
    """Return the lines along the town's crossings, in the map."""
    lines = [line for area in world.town.crossings for line in crossing_lines(area)]
    return outlines(('ped_crossing_line',), lines={'ped_crossing_line': lines})


def labels_at(
    truth: Truth, world: World, time_s: float, crossings: Outlines
) -> tuple[LabelGrids, GroundBoxes]:
    """Return what is in the town at any time of a drive.

    Args:
        truth: of the drive; it knows how much of an object the cameras see.
        world: the town with all that moves in it.
        time_s: since the start of the drive.
        crossings: see `crossings_of`.
    """
    grid, map_T_ego = truth.config.grid, ego_pose(world, time_s)
    town = dict(zip(TOWN_CLASSES, class_grids(world, grid, time_s) > 0, strict=True))
    town['divider'] = town['road_divider'] | town['lane_divider']
    town['ped_crossing_line'] = crossings.rasterised(map_T_ego, grid)[0]
    boxes = world.boxes(time_s)
    visibility = _visibility(truth, boxes, time_s)
    kind = _kinds(boxes)
    seen = (kind >= 0) & (visibility > HIDDEN_UP_TO)
    shown = (
        outlines(OBJECTS)
        .with_rings(footprints(boxes)[seen], kind[seen])
        .rasterised(map_T_ego, grid)
    )
    positive = np.stack([town[name] for name in CLASSES])
    hidden = np.zeros_like(positive)
    for name, open_ in zip(OBJECTS, shown, strict=True):
        hidden[CLASSES.index(name)] = town[name] & ~open_
    grids = LabelGrids(
        classes=CLASSES, positive=positive, hidden=hidden, known=np.ones(grid.shape[1:], bool)
    )
    return grids, _ground_boxes(boxes, kind, visibility, map_T_ego)


def _kinds(boxes: Boxes) -> AnyArray:
    """Return (B,) positions in `label_classes.OBJECTS`, -1 for what has no class."""
    kinds = np.full(len(CATEGORIES), -1)
    kinds[[CATEGORIES.index(name) for name in VEHICLES]] = OBJECTS.index('vehicle')
    kinds[CATEGORIES.index('pedestrian')] = OBJECTS.index('pedestrian')
    return kinds[boxes.category]


def _visibility(truth: Truth, boxes: Boxes, time_s: float) -> AnyArray:
    """Return (B,) 0..1 from the cycle of cameras nearest in time; nan for what is too far away
    to be in the truth.
    """
    stamp_ns = truth.config.stamp_ns(time_s)
    cycle = int(np.abs(truth.stamps_ns - stamp_ns).argmin())
    known = dict(zip(truth.boxes(cycle).actor.tolist(), truth.visibility(cycle), strict=True))
    return np.array([known.get(actor, np.nan) for actor in boxes.actor.tolist()], float)


def _ground_boxes(
    boxes: Boxes, kind: AnyArray, visibility: AnyArray, map_T_ego: Rigid
) -> GroundBoxes:
    near: Mask = (kind >= 0) & ~np.isnan(visibility)
    ego_T_box = rigid.inverse(map_T_ego) @ boxes.map_T_box[near]
    return GroundBoxes(
        names=tuple(OBJECTS[i] for i in kind[near]),
        center_m=ego_T_box[:, :3, 3],
        size_m=boxes.size_m[near],
        yaw_rad=np.arctan2(ego_T_box[:, 1, 0], ego_T_box[:, 0, 0]),
        visibility=visibility[near],
        lidar_points=np.full(int(near.sum()), -1),
    )


def check_town(truth: Truth, world: World, folder: Path) -> None:
    """Make sure that the town is the one that was rendered.

    Args:
        truth: of the drive, with its own grid.
        world: made from its settings.
        folder: of the drive, for what is said.

    Raises:
        BagError: another version of it was.
    """
    time_s = (int(truth.stamps_ns[0]) - truth.config.epoch_ns) / 1e9
    made = class_grids(world, truth.config.grid, time_s) > 0
    if truth.classes != TOWN_CLASSES or (made != truth.grids[0]).mean() > _FLIPPED:
        raise BagError(
            f'{folder}: its settings make another town here than truth.npz shows; '
            'write the drive again'
        )


def _check_ego(drive: Drive, row: Mapping[str, Any], world: World, time_s: float) -> None:
    """Make sure that a frame is in the town's ego frame.

    Raises:
        BagError: it has no pose, or is in another frame.
    """
    where = f'{drive.folder}: frame {row["key"]}'
    if row['odom_T_ego'] is None:
        raise BagError(f'{where} has no pose; convert it with the odometry of its bag')
    expected = rigid.inverse(world.map_T_odom) @ ego_pose(world, time_s)
    off = matrix(row['odom_T_ego']) - expected
    if np.linalg.norm(off[:3, 3]) > _MOVED_M or np.abs(off[:3, :3]).max() > _TURNED:
        raise BagError(
            f'{where} lies {np.linalg.norm(off[:3, 3]):.2f} m from where the town has the '
            'vehicle; convert it with base_link as its base frame'
        )


def _labelled(
    to_do: Sequence[LabelledDrive],
    workers: int,
    report: Callable[[int], None],
) -> Iterator[tuple[LabelledDrive, str | None]]:
    """Label drives; yield each with what went wrong."""
    if workers <= 1:
        for one in to_do:
            yield one, _problem_of(one, report)
        return
    counted = CONTEXT.Value('q', 0)
    with processes(workers, _start, counted) as submit:
        futures: list[Future[str | None]] = [submit(_label, one) for one in to_do]
        wait_for(futures, counted, report)
        for one, future in zip(to_do, futures, strict=True):
            yield one, future.result()


_counted: Any  # frames, shared by the processes


def _start(counted: Any) -> None:
    global _counted
    _counted = counted


def _label(one: LabelledDrive) -> str | None:
    def count(frames: int) -> None:
        with _counted.get_lock():
            _counted.value += frames

    return _problem_of(one, count)


def _problem_of(one: LabelledDrive, report: Callable[[int], None]) -> str | None:
    try:
        folder = one.labels.parent
        with drive_lock(folder.parent, folder.name):  # nor is it converted meanwhile
            write_truth(folder, one.truth, progress=report)
    except BevError as error:
        return str(error)
    return None


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'{", ".join(names[:most])}{more}'
