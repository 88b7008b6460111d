"""The teacher of a run, and where its features are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bev_perception.errors import BevError
from bev_training.data.batch import Batch
from bev_training.data.sample import SampleSource
from bev_training.fit import ranks
from bev_training.fit.run_data import Progress
from bev_training.fit.settings import TrainConfig
from bev_training.teachers.cache import FeatureCache, complete
from bev_training.teachers.fill import FillReport, fill, together
from bev_training.teachers.load import Teacher, load_teacher
from bev_training.teachers.quality import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False, kw_only=True)
class Teaching:
    """What a run learns features from.

    Attributes:
        teacher: on the device of the run while it is needed there.
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
        val_indices: Sequence[int],
        say: Callable[[str], None],
        progress: Progress | None,
    ) -> None:
        """Store the features of all samples that the run will see, as far as they fit, and say
        what those of the training samples are like.

        Raises:
            BevError: a sample cannot be read, or the cache cannot be written.
        """
        say(f'teacher: {self.teacher.description}')
        cache = self.cache
        if cache is None:
            return
        self.teacher.to(fabric.device)
        report = self._fill(fabric, cache, source, indices, progress)

        def judged() -> str:
            return judge(cache, source, indices, left_out=report.left_out)

        told = ranks.on_rank_zero(fabric, judged)
        say(f'teacher: {report.told(cache)}{told}')
        if val is not None:
            report = self._fill(fabric, cache, val, val_indices, progress)
            say(f'teacher: {report.told(cache)}')
        # Most runs have all features now, and need the memory for themselves.
        self.teacher.cpu()

    def _fill(
        self,
        fabric: Fabric,
        cache: FeatureCache,
        source: SampleSource,
        indices: Sequence[int],
        progress: Progress | None,
    ) -> FillReport:
        """Return what all processes did together."""
        part: FillReport | None = None
        error: BevError | None = None
        try:
            part = fill(
                cache,
                self.teacher,
                source,
                indices,
                device=fabric.device,
                progress=progress,
                rank=fabric.global_rank,
                world=fabric.world_size,
            )
        except BevError as raised:
            error = raised
        ranks.agree(fabric, error)
        assert part is not None
        return together(ranks.gathered(fabric, part))

    def complete(self, batch: Batch) -> Batch:
        """Return the batch with the features of all its samples."""
        if batch.teacher is not None and batch.teacher.images is not None:
            self.teacher.to(batch.teacher.images.device)
        return complete(batch, self.teacher)


def open_teaching(fabric: Fabric, config: TrainConfig) -> Teaching | None:
    """Load the teacher, where a run has one, and open its cache.

    Raises:
        BevError: its weights are not there, or the cache is of another one.
    """
    if not config.has_teacher:
        return None
    teacher = ranks.rank_zero_first(fabric, lambda: load_teacher(config.teacher))
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
