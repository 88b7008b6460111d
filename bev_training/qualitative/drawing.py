"""All pictures of a pretrained network: samples are chosen, looked at and drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray
from bev_training.data.sample import SampleSource
from bev_training.data.sequences import check_motion
from bev_training.qualitative.color_mapping import ColorMapping, fit_mapping, unit
from bev_training.qualitative.pretrained import Pretrained, voxels_of
from bev_training.qualitative.sample_voxels import SampleVoxels
from bev_training.qualitative.sheets import draw_features, draw_overview, draw_similarity
from bev_training.qualitative.similarity import Chosen, car_voxel, nearest_voxel, road_voxel
from bev_training.teachers.load import Teacher

OVERVIEW, RECORDING, FOLDER = 'features.png', 'features.rrd', 'samples'


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is to be drawn, and how.

    Attributes:
        voxels_m: places (x, y, z) in the ego frame of the first sample; the likeness of the voxel
            nearest to each is drawn. None are one on the road ahead and one on what may be a car.
        occupied: 'predicted' or 'lidar', see `pretrained.voxels_of`.
        threshold: likewise.
        radius_m: of the views from outside; 0 takes that of the grid, up to 30 m.
        rerun: also write a recording.
    """

    voxels_m: tuple[tuple[float, float, float], ...] = ()
    occupied: str = 'predicted'
    threshold: float = 0.5
    radius_m: float = 0.0
    rerun: bool = False


def choose_samples(source: SampleSource, keys: Sequence[str], count: int) -> list[int]:
    """Return numbers of samples: those that are named, or else some, evenly spaced.

    Raises:
        ConfigError: a name is unknown.
    """
    if not keys:
        count = min(count, len(source))
        return [(2 * k + 1) * len(source) // (2 * count) for k in range(count)]
    known = {key: i for i, key in enumerate(source.keys)}
    for key in keys:
        if key not in known:
            raise ConfigError(f'--sample {key}: no such sample; the first is {source.keys[0]}')
    return [known[key] for key in keys]


def draw(
    pretrained: Pretrained,
    source: SampleSource,
    indices: Sequence[int],
    folder: Path,
    wishes: Wishes,
    *,
    teacher: Teacher | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Draw samples into a folder and return what there is to say of them.

    Colours are fitted to the first sample's features (and the teacher's, where it is asked), and
    chosen voxels are of it; both are used for all.

    Args:
        pretrained: the run.
        source: of the samples.
        indices: their numbers, at least one.
        folder: gets `features.png`, `samples/NN_KEY_features.png` and `..._similarity.png`, and
            `features.rrd`.
        wishes: what and how.
        teacher: of the run; where given, its features stand beside the network's.
        progress: called with what is done, how many samples of it are, and of how many.

    Raises:
        BevError: a sample cannot be read, has no occupied voxel, or a picture cannot be written.
    """
    config = pretrained.config
    _check(config.occfeat.occupancy, source, wishes, teacher)
    check_motion(source, config.model)
    radius_m = wishes.radius_m or min(30.0, *np.abs(_ends(config.model.grid)))
    samples: list[SampleVoxels] = []
    for number, i in enumerate(indices):
        progress('look', number, len(indices))
        found = voxels_of(
            pretrained,
            source,
            i,
            occupied=wishes.occupied,
            threshold=wishes.threshold,
            teacher=teacher,
        )
        if not len(found.index_zyx):
            raise BevError(_nothing(found.key, wishes))
        samples.append(found)
    mapping = fit_mapping(_both(samples[0]))
    chosen = choose_voxels(samples[0], wishes.voxels_m)
    colors = f'Colours: {_shares(mapping)} of what differs between features of {samples[0].key}.'
    pictures = []
    for number, sample in enumerate(samples):
        progress('draw', number, len(samples))
        name = f'{number:02d}_{re.sub(r"[^A-Za-z0-9.-]+", "_", sample.key)}'
        path = folder / FOLDER / f'{name}_features.png'
        notes = f'{_said(sample, wishes)}   {colors}'
        draw_features(path, sample, mapping, radius_m=radius_m, notes=notes)
        like = folder / FOLDER / f'{name}_similarity.png'
        draw_similarity(
            like,
            sample,
            chosen,
            own=number == 0,
            radius_m=radius_m,
            notes=f'{_said(sample, wishes)}   The darkest 2 % are drawn alike.',
        )
        pictures.append([str(each.relative_to(folder)) for each in (path, like)])
    draw_overview(folder / OVERVIEW, samples, mapping, radius_m=radius_m)
    if wishes.rerun:
        from bev_training.qualitative.recording import write_recording

        write_recording(folder / RECORDING, samples, mapping, chosen)
    progress('draw', len(samples), len(samples))
    return _described(samples, mapping, chosen, pictures)


def choose_voxels(
    sample: SampleVoxels, voxels_m: Sequence[tuple[float, float, float]]
) -> list[Chosen]:
    """Return the voxels of a sample that others are compared with: those nearest to some places,
    or else one on the road ahead and one on what may be a car, see `similarity.car_voxel`.

    Raises:
        BevError: no voxel is near such a place.
    """
    centers_m = sample.centers_m
    if voxels_m:
        rows = {
            f'nearest to ({x:g}, {y:g}, {z:g})': nearest_voxel(centers_m, (x, y, z))
            for x, y, z in voxels_m
        }
    else:
        rows = {'on the road': road_voxel(centers_m)}
        car = car_voxel(sample.index_zyx, sample.grid)
        if car is not None:
            rows['on what may be a car'] = car
    return [
        Chosen(name=name, row=row, center_m=centers_m[row], feature=sample.features[row])
        for name, row in rows.items()
    ]


def _ends(grid: BevGrid) -> tuple[float, float]:
    return max(grid.x_range_m, key=abs), max(grid.y_range_m, key=abs)


def _check(
    occupancy: float, source: SampleSource, wishes: Wishes, teacher: Teacher | None
) -> None:
    if teacher is not None and teacher.network is None:
        raise ConfigError(
            '--teacher: teacher.name is external, whose features were stored; there is no network '
            'to ask'
        )
    if wishes.occupied == 'lidar' and not source.lidars:
        raise ConfigError('--occupied lidar: the data has no lidar')
    if wishes.occupied == 'predicted' and not occupancy:
        raise ConfigError(
            'the run learned no occupancy (occfeat.occupancy is 0); add --occupied lidar'
        )


def _nothing(key: str, wishes: Wishes) -> str:
    if wishes.occupied == 'lidar':
        return f'{key}: no lidar point lies in a voxel that a camera sees'
    return (
        f'{key}: no voxel that a camera sees is occupied with a probability of '
        f'{wishes.threshold:g} or more; lower --threshold, take --occupied lidar, or train longer'
    )


def _said(sample: SampleVoxels, wishes: Wishes) -> str:
    what = {
        'predicted': f'predicted to be occupied (from {wishes.threshold:g})',
        'lidar': 'with a lidar point',
    }[wishes.occupied]
    said = f'{len(sample.index_zyx)} voxels that a camera sees, {what}.'
    if sample.occupancy_iou is not None:
        said += f' IoU of occupancy with the lidar: {sample.occupancy_iou:.3f}.'
    if sample.taught is not None:
        said += f" Mean cosine with the teacher's features: {_taught_cosine(sample):.3f}."
    return said


def _both(sample: SampleVoxels) -> AnyArray:
    if sample.taught is None:
        return sample.features
    return np.concatenate([unit(sample.features), unit(sample.taught)])


def _taught_cosine(sample: SampleVoxels) -> float:
    assert sample.taught is not None
    return float((unit(sample.features) * unit(sample.taught)).sum(1).mean())


def _shares(mapping: ColorMapping) -> str:
    return ' + '.join(f'{share:.0%}' for share in mapping.explained)


def _described(
    samples: Sequence[SampleVoxels],
    mapping: ColorMapping,
    chosen: Sequence[Chosen],
    pictures: Sequence[list[str]],
) -> dict[str, Any]:
    return {
        'explained_variance': [round(float(share), 4) for share in mapping.explained],
        'chosen_voxels': [
            {'name': voxel.name, 'center_m': [round(float(v), 3) for v in voxel.center_m]}
            for voxel in chosen
        ],
        'samples': [
            {
                'key': sample.key,
                'voxels': len(sample.index_zyx),
                'occupancy_iou': sample.occupancy_iou,
                'teacher_cosine': None if sample.taught is None else _taught_cosine(sample),
                'pictures': names,
            }
            for sample, names in zip(samples, pictures, strict=True)
        ],
    }
