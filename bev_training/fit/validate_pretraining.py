"""How well a pretrained network knows held-out samples: sums and counts over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from bev_perception.errors import BevError
from bev_training.data.batch import Batch
from bev_training.fit.history import remember
from bev_training.fit.ranks import agree, summed
from bev_training.fit.stop import Stop
from bev_training.fit.validate import same_statistics
from bev_training.objectives.pretraining import PretrainingObjective

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from bev_training.fit.learner import Learner


@torch.no_grad()
def validate_pretraining(
    fabric: Fabric, learner: Learner, batches: Iterable[Batch], stop: Stop
) -> dict[str, float] | None:
    """Return every score that has something to count; None where a process was asked to stop.

    Args:
        fabric: of the run.
        learner: its network is put in evaluation mode and stays there.
        batches: those of this process, with their targets.
        stop: looked at after every batch.

    Raises:
        BevError: a sample cannot be read.
    """
    objective, network = learner.objective, learner.kept
    assert isinstance(objective, PretrainingObjective)
    network.eval()
    objective.eval()
    same_statistics(fabric, network)
    total = torch.zeros(len(objective.score_names), 2, dtype=torch.float64)
    error: BevError | None = None
    try:
        for batch in batches:
            moved = learner.completed(batch.to(fabric.device))
            memory = remember(fabric, network, moved)
            with fabric.autocast():
                plane = network.see(moved.inputs, memory)
                found = objective.scores(plane, moved)
            total += torch.tensor(
                [[float(value) for value in found[name]] for name in objective.score_names],
                dtype=torch.float64,
            )
            if stop.came:
                break
    except BevError as raised:
        error = raised
    finally:
        objective.train()
    agree(fabric, error)
    *sums, stopped = summed(
        fabric, torch.cat([total.flatten(), torch.tensor([float(stop.came)], dtype=torch.float64)])
    ).tolist()
    if stopped:
        return None
    pairs = zip(objective.score_names, sums[::2], sums[1::2], strict=True)
    return {name: value / count for name, value, count in pairs if count > 0}
