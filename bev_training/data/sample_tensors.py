"""A sample as tensors, and several as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from bev_perception.model.config import ModelConfig
from bev_perception.model.tensors import BevInputs
from bev_perception.preprocess import prepare
from bev_perception.views import ViewSet
from bev_training.data.batch import Batch, LidarTargets, Targets
from bev_training.data.sample import Sample
from bev_training.data.sequences import instants_wanted
from bev_training.data.slots import slots_of, slotted
from bev_training.data.targets import CenterTargets
from bev_training.data.teacher_tensors import TeacherTensors, teacher_views

# By name: the key as text, `before` as a list of the inputs of the instants before, `lidar` and
# `teacher` as tensors by name, all else tensors without the axis b. The same names and shapes for
# all samples of a source (but what the teacher's cache lacks), so that torch can stack them, in
# memory that processes share.
SampleTensors = dict[str, Any]
_INPUTS = ('images', 'K', 'ego_T_cam', 'live', 'odom_T_ego')


def sample_tensors(
    sample: Sample,
    model: ModelConfig,
    cameras: Sequence[str],
    centers: CenterTargets | None = None,
    before: Sequence[ViewSet] = (),
    *,
    lidar: dict[str, Tensor] | None = None,
    teacher: TeacherTensors | None = None,
) -> SampleTensors:
    """Return a sample's inputs, made as the node makes them, and its truth.

    Args:
        sample: its images may have any size.
        model: the network that they are for.
        cameras: of the source; each has its slot, and those without an image get zeros, identity
            matrices and `live` False.
        centers: targets of the centre and offset heads, if the network has them.
        before: the instants before it, oldest first, for a temporal network; where they are fewer
            than its `attention.frames` wants, others that know nothing come before them.
        lidar: what `lidar_targets` made of its sweeps, if an objective needs it.
        teacher: what `teacher_tensors` made of it, likewise.

    Raises:
        SyncError: an instant has no image.
        BevError: it has a camera that the source does not know.
    """
    inputs = _inputs(sample.view_set, model, cameras)
    labels = sample.labels
    return {
        'key': sample.key,
        **inputs,
        **_history(before, inputs, model, cameras),
        'positive': _tensor(labels.positive),
        'hidden': _tensor(labels.hidden),
        'known': _tensor(labels.known),
        **({k: _tensor(v) for k, v in vars(centers).items()} if centers is not None else {}),
        **({'lidar': lidar} if lidar is not None else {}),
        **({'teacher': teacher} if teacher is not None else {}),
    }


def to_batch(samples: Sequence[SampleTensors]) -> Batch:
    """Stack samples of one source."""
    teachers = [sample['teacher'] for sample in samples if 'teacher' in sample]
    rest = [{k: v for k, v in sample.items() if k != 'teacher'} for sample in samples]
    stacked = default_collate(rest)
    lidar = stacked.pop('lidar', None)
    return Batch(
        keys=tuple(stacked.pop('key')),
        inputs=BevInputs(**{name: stacked.pop(name) for name in _INPUTS}),
        before=tuple(BevInputs(**inputs) for inputs in stacked.pop('before', ())),
        targets=Targets(**stacked),
        lidar=None if lidar is None else LidarTargets(**lidar),
        teacher=teacher_views(teachers) if teachers else None,
    )


def _inputs(view_set: ViewSet, model: ModelConfig, cameras: Sequence[str]) -> dict[str, Tensor]:
    """Return an instant's inputs, every camera in its slot."""
    inputs = prepare(view_set, model)
    slots = slots_of([view.name for view in view_set.views], cameras)
    count = len(cameras)
    assert inputs.odom_T_ego is not None
    return {
        'images': slotted(inputs.images[0], slots, count, 0.0),
        'K': slotted(inputs.K[0], slots, count, torch.eye(3)),
        'ego_T_cam': slotted(inputs.ego_T_cam[0], slots, count, torch.eye(4)),
        'live': slotted(inputs.live[0], slots, count, False),
        'odom_T_ego': inputs.odom_T_ego[0],
    }


def _history(
    before: Sequence[ViewSet],
    now: dict[str, Tensor],
    model: ModelConfig,
    cameras: Sequence[str],
) -> dict[str, list[dict[str, Tensor]]]:
    """Return the instants before, as many as every sample has; nothing where none are wanted."""
    wanted = instants_wanted(model)
    if not wanted:
        return {}
    empty = {
        'images': torch.zeros_like(now['images']),
        'K': torch.eye(3).expand_as(now['K']),
        'ego_T_cam': torch.eye(4).expand_as(now['ego_T_cam']),
        'live': torch.zeros_like(now['live']),
        'odom_T_ego': torch.full_like(now['odom_T_ego'], torch.nan),
    }
    known = [_inputs(view_set, model, cameras) for view_set in before]
    return {'before': [empty] * (wanted - len(known)) + known}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy: a mapped file is not to be written
