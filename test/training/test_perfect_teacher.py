"""OccFeat with a teacher that knows what the town is made of: what is learned has a name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.preprocess import to_pinhole
from bev_perception.views import CameraView, ViewSet
from bev_training.cli import main
from bev_training.data.batch import Batch
from bev_training.data.loader import eval_loader
from bev_training.data.sources import open_source
from bev_training.data.subsets import write_subset
from bev_training.fit.loop import fit
from bev_training.fit.pretrain_settings import ObjectivesConfig, OccFeatConfig, TeacherConfig
from bev_training.fit.recipes import find_recipe, read_recipe
from bev_training.fit.settings import DataConfig, TrainConfig
from bev_training.objectives.feature_targets import feature_targets
from bev_training.objectives.pretraining import PretrainingObjective
from bev_training.synthetic.categories import SEMANTICS
from bev_training.synthetic.stored_truth import image_truth
from bev_training.teachers.cache import FeatureCache, FeatureMaps
from test.training.fit_runs import one_thread

__all__ = ['one_thread']

# What lidar points lie on, as a teacher with a few words would say it.
WORDS = {
    'road': ('road', 'lane_marking', 'crosswalk', 'parking'),
    'beside the road': ('sidewalk', 'terrain'),
    'building': ('building',),
    'plant': ('vegetation',),
    'vehicle': ('car', 'truck', 'bus', 'trailer', 'motorcycle', 'bicycle'),
}
SIZE_PX, PATCH_PX = (160, 88), 8


def one_hot_maps(drive: Path, view_set: ViewSet) -> FeatureMaps:
    """The share of each word in every patch of the images of `SIZE_PX`."""
    maps, K, ego_T_cam = [], [], []
    for view in view_set.views:
        semantics, _ = image_truth(drive, view.name, view.stamp_ns)
        shares = []
        for names in WORDS.values():
            mask = np.isin(semantics, [SEMANTICS.index(name) for name in names])
            image, camera, pose = seen(view, np.repeat(255 * mask[..., None], 3, 2))
            size = (SIZE_PX[0] // PATCH_PX, SIZE_PX[1] // PATCH_PX)
            shares.append(cv2.resize(image[..., 0], size, interpolation=cv2.INTER_AREA) / 255)
        maps.append(shares)
        K.append(camera.K)
        ego_T_cam.append(pose)
    return FeatureMaps(
        cameras=tuple(view.name for view in view_set.views),
        features=np.array(maps, np.float16),
        K=np.stack(K),
        ego_T_cam=np.stack(ego_T_cam),
    )


def seen(view: CameraView, image: np.ndarray):
    return to_pinhole(replace(view, image=image.astype(np.uint8)), SIZE_PX)


@pytest.fixture(scope='module')
def town(tmp_path_factory) -> tuple[Path, Path]:
    """Frames of two drives, and the folder of what the teacher says of them."""
    root = tmp_path_factory.mktemp('town')
    drives, frames, stored = root / 'drives', root / 'frames', root / 'features'
    assert main([
        'synth', str(drives), '--drives', '2', '--seconds', '12', '--size', '320x180',
        '--rig', 'config/rigs/nuscenes_2hz.yaml', '--weather', 'clear',
    ]) == 0  # fmt: skip
    assert main(['convert', str(drives), str(frames), '--every', 'all']) == 0
    cache = FeatureCache(
        stored, digest='semantics', channels=len(WORDS), size_px=SIZE_PX, limit_gb=1
    )
    source = open_source(frames, classes=(), grid=BevGrid())
    for i, scene in enumerate(source.scenes):
        drive = drives / scene.removesuffix('_bag')
        cache.store(source.fingerprint(i), one_hot_maps(drive, source.view_set(i)))
    return frames, stored


def config_of(stored: Path, labels: Path) -> TrainConfig:
    config = read_recipe(find_recipe('town_occfeat'), [('steps', '150'), ('data.workers', '1')])
    return replace(
        config,
        objectives=ObjectivesConfig(segmentation=0, occfeat=1),
        occfeat=OccFeatConfig(lambda_feat=1),
        data=DataConfig(workers=1, labels_file=str(labels)),
        teacher=TeacherConfig(
            name='external', weights=str(stored), channels=len(WORDS), size_px=SIZE_PX
        ),
    )


def batches_of(config: TrainConfig, source, indices, cache) -> Iterator[Batch]:
    return iter(
        eval_loader(
            source,
            indices,
            model=config.model,
            batch_size=4,
            workers=0,
            pretraining=config,
            teacher_cache=cache,
        )
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_a_perfect_teacher_held_out_voxels_are_called_by_their_right_names(town, tmp_path):
    frames, stored = town
    source = open_source(frames, classes=(), grid=BevGrid())
    held_out = [i for i in range(len(source)) if i % 4 == 2]
    rest = [i for i in range(len(source)) if i % 4 != 2]
    write_subset(tmp_path / 'rest.txt', source, rest)
    config = config_of(stored, tmp_path / 'rest.txt')
    source = open_source(frames, classes=(), grid=config.model.grid)
    fit(config, tmp_path / 'run', train=source, say=print)

    network = checkpoint.load(tmp_path / 'run/final.safetensors').model
    objective = PretrainingObjective(config, len(WORDS))
    objective.load_state_dict(load_file(tmp_path / 'run/pretraining.safetensors'))
    objective.eval()
    cache = FeatureCache(
        stored, digest='semantics', channels=len(WORDS), size_px=SIZE_PX, limit_gb=1
    )
    said, truth = [], []
    with torch.no_grad():
        for batch in batches_of(config, source, held_out, cache):
            voxels = batch.lidar.occupied.nonzero()
            targets, valid = feature_targets(
                batch.teacher, voxels, grid=config.model.grid, size_px=SIZE_PX
            )
            # Where the teacher itself is of two minds, nobody can be right.
            sure = targets.max(1).values > 0.8
            plane = network.see(batch.inputs)
            _, features = objective.parts['occfeat'].head(plane.features, voxels[valid])
            said.append(features.argmax(1)[sure])
            truth.append(targets.argmax(1)[sure])
    said, truth = torch.cat(said), torch.cat(truth)
    right = (said == truth).float().mean().item()
    commonest = truth.bincount().max().item() / len(truth)
    each = {name: (said[truth == n] == n).float().mean().item() for n, name in enumerate(WORDS)}
    print(f'{len(truth)} voxels: {right:.3f} right, the commonest word is {commonest:.3f}; {each}')
    assert right > 0.8 and right > commonest + 0.1
