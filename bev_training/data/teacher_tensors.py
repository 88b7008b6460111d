"""What a teacher sees of a sample: its stored features, or the clean images to make them of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from bev_training.data.batch import TeacherViews
from bev_training.data.sample import Sample, SampleSource
from bev_training.data.slots import slots_of, slotted
from bev_training.teachers.cache import FeatureCache
from bev_training.teachers.views import teacher_decode_px, teacher_images

TeacherTensors = dict[str, Tensor]


def teacher_tensors(
    source: SampleSource,
    i: int,
    sample: Sample,
    size_px: tuple[int, int],
    cache: FeatureCache | None,
) -> TeacherTensors:
    """Return the fields of `batch.TeacherViews` for a sample, without axes b and m: `features`
    where the cache has them, else `images`.

    The images are decoded as they were when the cache was filled, not as the network's are, so
    features are the same either way.

    Args:
        source: of the sample.
        i: its number.
        sample: as the network gets it: where its ego frame was moved to, and which cameras it has.
        size_px: (width, height) of the teacher's images.
        cache: of its features; None makes them all anew.

    Raises:
        BevError: the sample cannot be read, or the cache has cameras that the source has not.
    """
    maps = cache.load(source.fingerprint(i)) if cache is not None else None
    if maps is not None:
        names, K, read_T_cam = maps.cameras, maps.K, maps.ego_T_cam
        what, values = 'features', torch.from_numpy(np.asarray(maps.features))
    else:
        view_set = source.view_set(i, at_least_px=teacher_decode_px(size_px))
        names = tuple(view.name for view in view_set.views)
        images, K, read_T_cam = teacher_images(view_set, size_px)
        what, values = 'images', torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    count = len(source.cameras)
    slots = slots_of(names, source.cameras)
    kept = {view.name for view in sample.view_set.views}
    live = torch.tensor([name in kept for name in names])
    ego_T_cam = sample.ego_T_read @ np.asarray(read_T_cam, np.float64)
    return {
        'K': slotted(torch.from_numpy(np.array(K)).float(), slots, count, torch.eye(3)),
        'ego_T_cam': slotted(torch.from_numpy(ego_T_cam).float(), slots, count, torch.eye(4)),
        'live': slotted(live, slots, count, False),
        what: slotted(values, slots, count, 0),
    }


def teacher_views(samples: Sequence[TeacherTensors]) -> TeacherViews:
    """Stack what a teacher sees of the samples of a batch."""
    rows = [row for row, sample in enumerate(samples) if 'images' in sample]
    stored = [sample['features'] for sample in samples if 'features' in sample]
    more: dict[str, Any] = {}
    if stored:
        nothing = torch.zeros_like(stored[0])
        more['features'] = default_collate([s.get('features', nothing) for s in samples])
    if rows:
        more['images'] = default_collate([samples[row]['images'] for row in rows])
        more['rows'] = torch.tensor(rows)
    cameras = [{name: s[name] for name in ('K', 'ego_T_cam', 'live')} for s in samples]
    return TeacherViews(**default_collate(cameras), **more)
