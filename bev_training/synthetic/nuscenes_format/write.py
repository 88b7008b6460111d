"""Writes a data set in nuScenes' format.

    OUT/v1.0-mini/*.json (or v1.0-trainval)  the tables, and splits.json
    OUT/samples, OUT/sweeps                  images and lidar sweeps, a folder per channel
    OUT/maps                                 drivable area as pictures, and the map expansion

The same settings give the same bytes, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bev_training.folders import whole_folder
from bev_training.nuscenes_tables import Record, Tables, dumped, merge, write_tables
from bev_training.processes import CONTEXT, processes, stopped, wait_for
from bev_training.synthetic.drive import worker_count
from bev_training.synthetic.nuscenes_format.config import (
    TRAIN,
    VAL,
    NuscenesConfig,
    NuscenesSummary,
    ScenePlan,
    plan_scenes,
)
from bev_training.synthetic.nuscenes_format.scene import SceneWriter
from bev_training.synthetic.nuscenes_format.schedule import channels, plan_shots
from bev_training.synthetic.nuscenes_format.tables import fixed_tables


def write_nuscenes(
    out: Path,
    config: NuscenesConfig,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> NuscenesSummary:
    """Write a data set into a folder that does not exist yet or is empty.

    Args:
        out: the folder. It appears whole at the end, or not at all.
        config: the settings.
        workers: processes, each of which writes whole scenes (a single scene: threads); None
            takes one per core, up to 16.
        progress: called with the number of samples that were just written.

    Raises:
        ConfigError: a setting is out of its range.
        BagError: the folder is not empty or cannot be written.
    """
    workers = worker_count(workers)
    plans = plan_scenes(config)
    rig = config.rig_or_default()
    plan_shots(rig, config.seconds)  # a rig that does not fit fails before anything is written
    report = progress or (lambda samples: None)
    with whole_folder(out) as work:
        tables: Tables = fixed_tables(config.seed, channels(rig))
        for scene_tables in _written(work, config, plans, workers, report):
            merge(tables, scene_tables)
        tables['map'] = _joined_maps(tables['map'])
        folder = work / config.version
        folder.mkdir()
        write_tables(folder, tables)
        splits = {
            split: [plan.name for plan in plans if plan.split == split] for split in (TRAIN, VAL)
        }
        (folder / 'splits.json').write_text(dumped(splits))
        size = sum(path.stat().st_size for path in work.rglob('*') if path.is_file())
    images = sum(record['fileformat'] == 'jpg' for record in tables['sample_data'])
    return NuscenesSummary(
        path=out,
        version=config.version,
        scenes=len(plans),
        samples=len(tables['sample']),
        images=images,
        sweeps=len(tables['sample_data']) - images,
        annotations=len(tables['sample_annotation']),
        size_bytes=size,
    )


def _written(
    work: Path,
    config: NuscenesConfig,
    plans: tuple[ScenePlan, ...],
    workers: int,
    report: Callable[[int], None],
) -> Iterator[Tables]:
    """Yield the tables of the scenes in order, in this process or from several."""
    if min(workers, len(plans)) < 2:
        for plan in plans:
            yield SceneWriter(work, config, plan).write(lambda: report(1), threads=workers)
        return
    samples = CONTEXT.Value('q', 0)
    with processes(min(workers, len(plans)), _start, work, config, samples) as submit:
        futures = [submit(_write, plan) for plan in plans]
        wait_for(futures, samples, report)
        yield from (future.result() for future in futures)


_job: tuple[Path, NuscenesConfig, Any]  # of this process


def _start(work: Path, config: NuscenesConfig, samples: Any) -> None:
    global _job
    _job = work, config, samples


def _write(plan: ScenePlan) -> Tables:
    work, config, samples = _job

    def count() -> None:
        with samples.get_lock():
            samples.value += 1

    return SceneWriter(work, config, plan).write(count, stopped)


def _joined_maps(records: list[Record]) -> list[Record]:
    """Return one record per map, with the logs of all scenes in it."""
    joined: dict[str, Record] = {}
    for record in records:
        if record['token'] in joined:
            joined[record['token']]['log_tokens'] += record['log_tokens']
        else:
            joined[record['token']] = {**record, 'log_tokens': list(record['log_tokens'])}
    return list(joined.values())
