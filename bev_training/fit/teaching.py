"""The teacher of a run, and where its features are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bev_training.data.batch import Batch
from bev_training.data.sample import SampleSource
from bev_training.fit import ranks
from bev_training.fit.run_data import Progress
from bev_training.fit.settings import TrainConfig
from bev_training.teachers.cache import FeatureCache, complete
from bev_training.teachers.fill import fill
from bev_training.teachers.load import Teacher, load_teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False, kw_only=True)
class Teaching:
    """What a run learns features from.

    Attributes:
        teacher: on the device of the run.
        cache: of its features; None computes them at every step.
    """

    teacher: Teacher
    cache: FeatureCache | None

    def prepare(
        self,
        fabric: Fabric,
        source: SampleSource,
        indices: Sequence[int],
        val: SampleSource | None,
        say: Callable[[str], None],
        progress: Progress | None,
    ) -> None:
        """Store the features of all samples that the run will see, as far as they fit.

        Raises:
            BevError: a sample cannot be read, or the cache cannot be written.
        """
        say(f'teacher: {self.teacher.description}')
        if self.cache is None:
            return
        for samples, numbers in ((source, indices), (val, range(len(val) if val else 0))):
            if samples is None:
                continue
            report = fill(
                self.cache,
                self.teacher,
                samples,
                numbers,
                device=fabric.device,
                progress=progress,
                rank=fabric.global_rank,
                world=fabric.world_size,
                judged=samples is source,
            )
            say(f'teacher: {report.text}')

    def complete(self, batch: Batch) -> Batch:
        """Return the batch with the features of all its samples."""
        return complete(batch, self.teacher)


def open_teaching(fabric: Fabric, config: TrainConfig) -> Teaching | None:
    """Load the teacher, where a run has one, and open its cache.

    Raises:
        BevError: its weights are not there, or the cache is of another one.
    """
    if not config.has_teacher:
        return None
    teacher = ranks.rank_zero_first(fabric, lambda: load_teacher(config.teacher))
    teacher.to(fabric.device)
    if not config.teacher.cache:
        return Teaching(teacher=teacher, cache=None)

    cache = ranks.rank_zero_first(
        fabric,
        lambda: FeatureCache.of(
            teacher,
            Path(config.data.cache) if config.data.cache else None,
            limit_gb=config.teacher.cache_gb,
        ),
    )
    return Teaching(teacher=teacher, cache=cache)
