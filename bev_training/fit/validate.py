"""Scores of a network during training: every sample once, counts summed over all processes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from bev_perception.errors import BevError
from bev_perception.model.bev_model import BevModel
from bev_training.data.batch import Batch
from bev_training.data.sample import LabelGrids
from bev_training.fit.history import remember
from bev_training.fit.ranks import agree, summed
from bev_training.fit.stop import Stop
from bev_training.metrics import PooledScores, Scores

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@torch.no_grad()
def validate(
    fabric: Fabric, network: BevModel, batches: Iterable[Batch], stop: Stop
) -> Scores | None:
    """Return the scores over all processes; None where one of them was asked to stop.

    Args:
        fabric: of the run.
        network: it is put in evaluation mode and stays there.
        batches: those of this process.
        stop: looked at after every batch.

    Raises:
        BevError: a sample cannot be read, or the network gives what is no number.
    """
    config = network.config
    scores = PooledScores(config.classes, config.grid)
    network.eval()
    same_statistics(fabric, network)
    error: BevError | None = None
    try:
        for batch in batches:
            _add(fabric, network, batch, scores)
            if stop.came:
                break
    except BevError as raised:
        error = raised
    agree(fabric, error)
    counts = torch.from_numpy(scores.counts())
    total = summed(fabric, torch.cat([counts, torch.tensor([int(stop.came)])]))
    if total[-1]:
        return None
    pooled = PooledScores(config.classes, config.grid)
    pooled.add_counts(total[:-1].numpy())
    return pooled.result()


def same_statistics(fabric: Fabric, network: BevModel) -> None:
    """Give all ranks the statistics of BatchNorm that rank 0 stores: on CPUs each has its own."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                torch.distributed.broadcast(buffer, 0)


def _add(fabric: Fabric, network: BevModel, batch: Batch, scores: PooledScores) -> None:
    moved = batch.to(fabric.device)
    memory = remember(fabric, network, moved)
    with fabric.autocast():
        prediction = network(moved.inputs, memory)
    probability = prediction.logits.float().sigmoid().cpu().numpy()
    seen = prediction.valid.cpu().numpy()
    targets = batch.targets
    for i in range(len(batch.keys)):
        labels = LabelGrids(
            classes=scores.classes,
            positive=targets.positive[i].numpy(),
            hidden=targets.hidden[i].numpy(),
            known=targets.known[i].numpy(),
        )
        scores.update(probability[i], labels, seen[i])


def mean_iou(scores: Scores, visibility: str) -> float:
    """Return the mean over the classes that the truth has, at 0.5; 0 where it has none."""
    each = [scores.iou(name, visibility) for name in scores.classes]
    each = [value for value in each if not math.isnan(value)]
    return sum(each) / len(each) if each else 0.0


def scores_json(scores: Scores, visibility: str, step: int) -> dict[str, Any]:
    """Return what a validation found, in plain values; None where the truth has no such class."""
    classes = {}
    for name in scores.classes:
        threshold, best = scores.best(name, visibility)
        iou = scores.iou(name, visibility)
        found = {'iou': iou, 'best_iou': best, 'best_threshold': threshold}
        classes[name] = {k: None if math.isnan(v) else round(v, 6) for k, v in found.items()}
    mean = round(mean_iou(scores, visibility), 6)
    return {'step': step, 'visibility': visibility, 'mean_iou': mean, 'classes': classes}


def score_columns(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of what `score_row` gives."""
    each = (name for c in classes for name in (f'val_{c}', f'val_best_{c}'))
    return ('val_mean', *each)


def score_row(scores: Scores, visibility: str) -> dict[str, float]:
    """Return IoU at 0.5 and at the best threshold, of the classes that the truth has."""
    row = {'val_mean': mean_iou(scores, visibility)}
    for name in scores.classes:
        row[f'val_{name}'] = scores.iou(name, visibility)
        row[f'val_best_{name}'] = scores.best(name, visibility)[1]
    return {name: value for name, value in row.items() if not math.isnan(value)}


def describe(scores: Scores, visibility: str) -> str:
    """Return IoU at 0.5, and at the best threshold, in one line."""
    said = []
    for name in scores.classes:
        threshold, best = scores.best(name, visibility)
        iou = scores.iou(name, visibility)
        said.append(
            f'{name} has no truth'
            if math.isnan(iou)
            else f'{name} {iou:.3f} (best {best:.3f} at {threshold:g})'
        )
    return ', '.join(said)
