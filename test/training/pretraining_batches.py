"""Small planes and batches for objectives that need no labels."""

from __future__ import annotations

from dataclasses import replace

import torch

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.tensors import BevInputs, BevPlane
from bev_training.data.batch import Batch, LidarTargets, Targets, TeacherViews
from bev_training.fit.settings import TrainConfig
from test.factories import look, make_camera, make_config

SIZE_PX = (56, 28)  # of a teacher with patches of 14 pixels: maps of 4 x 2
GRID = BevGrid(x_range_m=(2, 8), y_range_m=(-2, 3), z_range_m=(0, 3), cell_m=1, z_cells=3)
CHANNELS, FEATURES = 8, 5


def make_train_config(grid: BevGrid = GRID, channels: int = CHANNELS, **values) -> TrainConfig:
    """A pretraining's settings; `values` are those of `TrainConfig`."""
    config = TrainConfig()
    model = make_config(classes=(), obstacle_classes=(), grid=grid, channels=channels)
    values.setdefault('objectives', replace(config.objectives, segmentation=0, occfeat=1))
    values.setdefault('teacher', replace(config.teacher, size_px=SIZE_PX))
    return TrainConfig(model=model, **values)


def make_teacher_views(b: int, poses: list, features: torch.Tensor) -> TeacherViews:
    """Cameras of 70 degrees at `poses`, the same for every sample, all of them live."""
    camera = make_camera(SIZE_PX)
    n = len(poses)
    return TeacherViews(
        K=torch.tensor(camera.K, dtype=torch.float32).expand(b, n, 3, 3).clone(),
        ego_T_cam=torch.stack([torch.as_tensor(p, dtype=torch.float32) for p in poses])
        .expand(b, n, 4, 4)
        .clone(),
        live=torch.ones(b, n, dtype=torch.bool),
        features=features,
    )


def make_plane(b: int, seed: int = 0, grid: BevGrid = GRID, channels: int = CHANNELS) -> BevPlane:
    make = torch.Generator().manual_seed(seed)
    _, y, x = grid.shape
    return BevPlane(
        features=torch.randn(b, channels, y, x, generator=make),
        valid=torch.ones(b, y, x, dtype=torch.bool),
    )


def make_batch(b: int = 3, seed: int = 0, grid: BevGrid = GRID) -> Batch:
    """Random occupancy, queries and features; one camera looks ahead, one back over the grid."""
    make = torch.Generator().manual_seed(seed)
    z, y, x = grid.shape
    queries = torch.rand(b, 40, 3, generator=make)
    low = queries.new_tensor([grid.x_range_m[0], grid.y_range_m[0], grid.z_range_m[0]])
    queries = low + queries * queries.new_tensor([x, y, z])
    intensity = torch.rand(b, 40, generator=make)
    intensity[torch.rand(b, 40, generator=make) < 0.3] = torch.nan
    return Batch(
        keys=tuple(f'sample-{i}' for i in range(b)),
        inputs=no_inputs(b),
        targets=no_targets(b, y, x),
        lidar=LidarTargets(
            occupied=torch.rand(b, z, y, x, generator=make) < 0.3,
            known=torch.ones(b, dtype=torch.bool),
            dropped=torch.arange(b),
            queries_m=queries,
            query_occupied=torch.randint(-1, 2, (b, 40), generator=make).to(torch.int8),
            query_intensity=intensity,
        ),
        teacher=make_teacher_views(
            b,
            [look(at=(0.0, 0.0, 1.5)), look(180, at=(7.0, 0.5, 1.0))],
            torch.randn(b, 2, FEATURES, 2, 4, generator=make).half(),
        ),
    )


def no_inputs(b: int) -> BevInputs:
    return BevInputs(
        images=torch.zeros(b, 0, 3, 8, 8),
        K=torch.zeros(b, 0, 3, 3),
        ego_T_cam=torch.zeros(b, 0, 4, 4),
        live=torch.zeros(b, 0, dtype=torch.bool),
    )


def no_targets(b: int, y: int, x: int) -> Targets:
    none = torch.zeros(b, 0, y, x, dtype=torch.bool)
    return Targets(positive=none, hidden=none, known=torch.zeros(b, y, x, dtype=torch.bool))


def sliced(values, rows: slice):
    """Some samples of a plane or of a batch."""
    if values is None or isinstance(values, tuple):
        return values[rows] if values else values
    if isinstance(values, torch.Tensor):
        return values[rows]
    return type(values)(**{k: sliced(v, rows) for k, v in vars(values).items()})


def without_points(batch: Batch, i: int) -> Batch:
    """The batch with a sweep that failed in sample i."""
    lidar = batch.lidar
    occupied, known = lidar.occupied.clone(), lidar.known.clone()
    queries = lidar.query_occupied.clone()
    occupied[i], known[i], queries[i] = False, False, -1
    lidar = replace(lidar, occupied=occupied, known=known, query_occupied=queries)
    return replace(batch, lidar=lidar)
