"""What a temporal network remembers when it comes to a batch's labelled instants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bev_perception.model.bev_model import BevModel
from bev_perception.model.tensors import BevMemory
from bev_training.data.batch import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@torch.no_grad()
def remember(fabric: Fabric, network: BevModel, batch: Batch) -> BevMemory | None:
    """Show a network the instants before a batch, oldest first, and return what it remembers.

    It is put in evaluation mode for that and stays there, so statistics of BatchNorm are not
    touched and nothing is dropped: what it remembers is what the node's network would (Li et al.,
    "BEVFormer", 2022, section 3.6).

    Args:
        fabric: of the run.
        network: itself, not what Fabric made of it: processes share no gradients of this.
        batch: on the network's device.

    Returns:
        The memory; None where no sample of the batch has an instant before.
    """
    if not batch.before:
        return None
    network.eval()
    memory = None
    for inputs in batch.before:
        if not inputs.live.any():
            continue  # no scene of the batch had begun
        # Weights that autocast casts without gradient must not be those of the step after it.
        with fabric.autocast():
            memory = network(inputs, memory).memory
    return memory
