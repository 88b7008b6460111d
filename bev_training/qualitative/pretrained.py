"""A pretrained network with the head that it learned with, and what both say of single voxels."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bev_perception.errors import CheckpointError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.bev_model import BevModel
from bev_perception.model.checkpoint import load
from bev_perception.model.lift import project
from bev_perception.model.tensors import BevInputs, BevPlane
from bev_perception.preprocess import decode_size_px, prepare
from bev_perception.views import ViewSet
from bev_training.data.accumulate import chosen_points
from bev_training.data.batch import TeacherViews, moved
from bev_training.data.lidar_targets import voxelise
from bev_training.data.sample import SampleSource
from bev_training.data.sequences import instants_before, instants_wanted
from bev_training.fit import out_folder
from bev_training.fit.recipes import read_recipe
from bev_training.fit.settings import TrainConfig
from bev_training.objectives.feature_targets import centers_of, feature_targets
from bev_training.objectives.pretraining import PretrainingObjective
from bev_training.objectives.unsplat import UnsplatHead
from bev_training.qualitative.sample_voxels import SampleVoxels
from bev_training.teachers.load import Teacher
from bev_training.teachers.views import teacher_decode_px, teacher_images


@dataclass(frozen=True, eq=False, kw_only=True)
class Pretrained:
    """What `bev pretrain` has left.

    Attributes:
        network: in evaluation mode.
        head: of OccFeat, likewise, on the same device.
        config: of the run.
    """

    network: BevModel
    head: UnsplatHead
    config: TrainConfig

    @property
    def device(self) -> torch.device:
        """Where both are."""
        return next(self.head.parameters()).device


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """What a network says of a sample.

    Attributes:
        view_set: its images.
        inputs: made of them.
        plane: (b, c, y, x) with b = 1, likewise in all others.
        probability: (z, y, x) of occupancy.
    """

    view_set: ViewSet
    inputs: BevInputs
    plane: BevPlane
    probability: Tensor


def load_pretrained(run: Path, device: torch.device) -> Pretrained:
    """Read OUT of `bev pretrain`.

    Raises:
        CheckpointError: something of it is missing or damaged, or fits no other part.
        ConfigError: the run learned no features.
    """
    network, objective, config = load_run(run)
    if not config.has_teacher:
        raise ConfigError(
            f'{run} learned no features: objectives.occfeat is {config.objectives.occfeat:g}, '
            f'occfeat.lambda_feat {config.occfeat.lambda_feat:g}'
        )
    head = objective.parts['occfeat'].head
    return Pretrained(network=network.to(device), head=head.to(device), config=config)


def load_run(run: Path) -> tuple[BevModel, PretrainingObjective, TrainConfig]:
    """Read OUT of `bev pretrain`: the network and what it learned with, in evaluation mode on the
    CPU, and the settings.

    Raises:
        CheckpointError: something of it is missing or damaged, or fits no other part.
    """
    path = run / out_folder.OBJECTIVE
    if not path.is_file():
        raise CheckpointError(f'{path} does not exist; {run} is no OUT of `bev pretrain`')
    try:
        with safe_open(path, framework='pt') as file:
            told = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        channels = int(told['teacher_channels'])
        config = _read_settings(told['config'])
    except (SafetensorError, OSError, KeyError, ValueError, ConfigError) as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(
            f'{path} cannot be used: {type(error).__name__}: {reason}'
        ) from error
    objective = PretrainingObjective(config, channels)
    try:
        objective.load_state_dict(weights)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:200]
        raise CheckpointError(f'{path} does not fit its settings: {reason}') from error
    network = load(run / out_folder.FINAL).model
    if network.config != config.model:
        raise CheckpointError(f'{run / out_folder.FINAL} and {path} are of two different runs')
    return network.eval(), objective.eval(), config


def _read_settings(text: str) -> TrainConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / out_folder.CONFIG
        path.write_text(text)
        return read_recipe(path)


@torch.no_grad()
def look(pretrained: Pretrained, source: SampleSource, i: int) -> Seen:
    """Run the network on a sample; a temporal one on as many instants before it as it learned
    with.

    Args:
        pretrained: the run.
        source: of the sample.
        i: its number.

    Raises:
        BevError: the sample cannot be read.
    """
    model, network = pretrained.config.model, pretrained.network
    memory = None
    for number in [*instants_before(source, i, instants_wanted(model)), i]:
        view_set = source.view_set(number, at_least_px=_decode_px(pretrained.config))
        inputs = moved(prepare(view_set, model), pretrained.device)
        plane = network.see(inputs, memory)
        memory = plane.memory
    logits, _ = pretrained.head(plane.features)
    return Seen(
        view_set=view_set, inputs=inputs, plane=plane, probability=logits[0].float().sigmoid()
    )


@torch.no_grad()
def features_at(pretrained: Pretrained, seen: Seen, voxels: Tensor) -> Tensor:
    """Return the features (k, c) that are predicted for voxels (k, 3), indices (z, y, x)."""
    _, features = pretrained.head(seen.plane.features, _in_batch(voxels))
    assert features is not None
    return features.float()


def lidar_voxels(source: SampleSource, i: int, config: TrainConfig) -> Tensor:
    """Return the voxels (z, y, x) that the run's lidar targets hold occupied in a sample.

    Raises:
        BevError: the sample cannot be read.
    """
    sweeps = chosen_points(source.sweeps(i, config.lidar.sweeps), config.lidar)
    return torch.from_numpy(voxelise(sweeps, config.model.grid)[0])


def visible(inputs: BevInputs, voxels: Tensor, grid: BevGrid) -> Tensor:
    """Return (k,) bool, whether a live camera sees the centres of voxels (k, 3) of a grid."""
    points = centers_of(voxels, grid)
    height, width = inputs.images.shape[-2:]
    _, seen = project(points, inputs.K[0], inputs.ego_T_cam[0], (width, height))
    return (seen & inputs.live[0, :, None]).any(0)


def voxels_of(
    pretrained: Pretrained,
    source: SampleSource,
    i: int,
    *,
    occupied: str = 'predicted',
    threshold: float = 0.5,
    teacher: Teacher | None = None,
) -> SampleVoxels:
    """Return the occupied voxels of a sample that a camera sees, and their features.

    Args:
        pretrained: the run.
        source: of the sample.
        i: its number.
        occupied: 'predicted' takes the voxels whose probability is at least `threshold`, 'lidar'
            those that the run's lidar targets hold occupied.
        threshold: see there.
        teacher: of the run; where given, it is asked for the same voxels, and those that it does
            not see are left out.

    Raises:
        BevError: the sample cannot be read.
    """
    seen, grid = look(pretrained, source, i), pretrained.config.model.grid
    by_lidar = lidar_voxels(source, i, pretrained.config).to(pretrained.device)
    chosen = by_lidar if occupied == 'lidar' else seen.probability >= threshold
    voxels = chosen.nonzero()
    voxels = voxels[visible(seen.inputs, voxels, grid)]
    taught = None
    if teacher is not None:
        views = teach(teacher, seen.view_set, pretrained.config)
        size_px = pretrained.config.teacher.size_px
        targets, kept = feature_targets(views, _in_batch(voxels), grid=grid, size_px=size_px)
        voxels, taught = voxels[kept], targets.cpu().numpy()
    return SampleVoxels(
        key=source.keys[i],
        view_set=seen.view_set,
        grid=grid,
        index_zyx=voxels.cpu().numpy(),
        features=features_at(pretrained, seen, voxels).cpu().numpy(),
        probability=seen.probability[tuple(voxels.T)].cpu().numpy(),
        points_m=source.points(i),
        occupancy_iou=_iou(seen.probability >= threshold, by_lidar),
        taught=taught,
    )


@torch.no_grad()
def teach(teacher: Teacher, view_set: ViewSet, config: TrainConfig) -> TeacherViews:
    """Return a teacher's features of a sample's clean images, as training has them (b = 1).

    Raises:
        ConfigError: it has no network, but features that somebody else stored.
    """
    pixels, K, ego_T_cam = teacher_images(view_set, config.teacher.size_px)
    device = teacher.mean.device
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device)
    return TeacherViews(
        K=torch.from_numpy(K).float()[None].to(device),
        ego_T_cam=torch.from_numpy(ego_T_cam).float()[None].to(device),
        live=torch.ones(1, len(pixels), dtype=torch.bool, device=device),
        features=torch.cat([teacher(image[None]) for image in images])[None].half(),
    )


def _decode_px(config: TrainConfig) -> tuple[int, int]:
    """Return the size that images must not be decoded below, for the network and the teacher."""
    both = decode_size_px(config.model), teacher_decode_px(config.teacher.size_px)
    width, height = np.max(both, axis=0).tolist()
    return width, height


def _in_batch(voxels: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(voxels[:, :1]), voxels], 1)


def _iou(predicted: Tensor, occupied: Tensor) -> float | None:
    if not occupied.any():
        return None
    return float((predicted & occupied).sum() / (predicted | occupied).sum())
