"""OccFeat's loss: equations 1 to 3 by hand, what counts in which term, batches and scores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bev_perception.geometry.grid import BevGrid
from bev_training.fit.settings import OccFeatConfig
from bev_training.objectives.occfeat import OccFeatObjective
from test.factories import look
from test.training.pretraining_batches import (
    FEATURES,
    GRID,
    make_batch,
    make_plane,
    make_teacher_views,
    make_train_config,
    sliced,
    without_points,
)

# 2 x 2 x 2 voxels of 1 m, ahead of a camera.
SMALL = BevGrid(x_range_m=(3, 5), y_range_m=(-1, 1), z_range_m=(0, 2), cell_m=1, z_cells=2)
AHEAD, BACK = look(at=(0.0, 0.0, 1.0)), look(180.0, at=(0.0, 0.0, 1.0))


def make_objective(grid=GRID, seed=0, features=FEATURES, **occfeat) -> OccFeatObjective:
    torch.manual_seed(seed)
    config = make_train_config(grid, occfeat=OccFeatConfig(**occfeat))
    return OccFeatObjective(config, features)


def small_batch(occupied: torch.Tensor, poses: list, features: torch.Tensor):
    batch = make_batch(1, grid=SMALL)
    return replace(
        batch,
        lidar=replace(batch.lidar, occupied=occupied),
        teacher=make_teacher_views(1, poses, features),
    )


def set_to_constant(objective: OccFeatObjective, logit: float, feature: torch.Tensor) -> None:
    """Let the head say the same of every voxel, whatever the plane."""
    head = objective.head
    with torch.no_grad():
        for p in head.parameters():
            p.zero_()
        head.occupancy.bias.fill_(logit)
        head.features.bias.copy_(feature)


def test_equations_1_to_3_by_hand_on_2x2x2_voxels():
    occupied = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    occupied[0, 0, 0, 0] = occupied[0, 1, 1, 0] = True
    maps = torch.tensor([3.0, 4.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 2, 4)
    batch = small_batch(occupied, [AHEAD], maps)
    objective = make_objective(SMALL, features=2)
    set_to_constant(objective, math.log(0.25 / 0.75), torch.tensor([2.0, 0.0]))
    terms = objective.loss(make_plane(1, grid=SMALL), batch)
    # 2 of 8 voxels are occupied, and all are predicted with probability 0.25
    occupancy = (2 * -math.log(0.25) + 6 * -math.log(0.75)) / 8
    assert terms['occupancy'].item() == pytest.approx(occupancy, rel=1e-6)
    # cos((2, 0), (3, 4)) = 6 / (2 * 5), at both occupied voxels
    assert terms['features'].item() == pytest.approx(-0.6, rel=1e-6)
    assert terms['loss'].item() == pytest.approx(occupancy - 0.01 * 0.6, rel=1e-6)
    assert terms['feature_voxels'] == 2
    assert tuple(terms) == objective.names


def test_weights_of_the_terms_and_of_occupied_voxels():
    occupied = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    occupied[0, 0, 0, 0] = True
    maps = torch.tensor([3.0, 4.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 2, 4)
    batch = small_batch(occupied, [AHEAD], maps)
    objective = make_objective(SMALL, features=2, occupancy=2.0, lambda_feat=0.5, pos_weight=3.0)
    set_to_constant(objective, math.log(0.25 / 0.75), torch.tensor([0.0, 1.0]))
    terms = objective.loss(make_plane(1, grid=SMALL), batch)
    occupancy = (3 * -math.log(0.25) + 7 * -math.log(0.75)) / 8
    assert terms['occupancy'].item() == pytest.approx(occupancy, rel=1e-6)
    assert terms['loss'].item() == pytest.approx(2 * occupancy - 0.5 * 0.8, rel=1e-6)


def test_an_occupied_voxel_that_no_camera_sees_counts_in_occupancy_alone():
    # Without the first layers, a column of the plane is a column of the volume.
    objective = make_objective(SMALL)
    objective.head.columns = nn.Identity()
    occupied = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    occupied[0, 0, 0, 0] = occupied[0, 1, 1, 1] = True
    maps = torch.randn(1, 1, FEATURES, 2, 4, generator=torch.Generator().manual_seed(0))
    seen = small_batch(occupied, [AHEAD], maps)
    # Looking to the left, the first one is beside the image, and the second in it.
    beside = look(30.0, at=(0.0, 0.0, 1.0))
    partly = small_batch(occupied, [beside], maps)
    gradients = {}
    for name, batch in (('seen', seen), ('partly', partly)):
        plane = make_plane(1, grid=SMALL)
        plane.features.requires_grad_()
        terms = objective.loss(plane, batch)
        gradients[name] = torch.autograd.grad(terms['features'], plane.features)[0][0]
        assert terms['feature_voxels'] == (2 if name == 'seen' else 1)
    assert gradients['seen'][:, 0, 0].any() and gradients['seen'][:, 1, 1].any()
    assert not gradients['partly'][:, 0, 0].any() and gradients['partly'][:, 1, 1].any()

    plane = make_plane(1, grid=SMALL)
    plane.features.requires_grad_()
    terms = objective.loss(plane, partly)
    of_occupancy = torch.autograd.grad(terms['occupancy'], plane.features)[0][0]
    assert of_occupancy[:, 0, 0].any()
    without = occupied.clone()
    without[0, 0, 0, 0] = False
    free = objective.loss(plane, small_batch(without, [beside], maps))
    assert free['features'] == terms['features']
    assert free['occupancy'] != terms['occupancy']


def test_voxels_behind_the_only_camera_have_no_features_and_still_an_occupancy():
    occupied = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    batch = small_batch(occupied, [BACK], torch.ones(1, 1, FEATURES, 2, 4))
    objective = make_objective(SMALL)
    plane = make_plane(1, grid=SMALL)
    terms = objective.loss(plane, batch)
    assert terms['features'] == 0 and terms['feature_voxels'] == 0
    assert terms['occupancy'] > 0
    terms['features'].backward()
    gradients = {n: p.grad for n, p in objective.head.named_parameters() if 'occupancy' not in n}
    assert all(g is not None and not g.any() for g in gradients.values())


def test_occupancy_counts_voxels_that_no_camera_sees():
    objective = make_objective()
    plane, batch = make_plane(1), make_batch(1)
    blind = replace(plane, valid=torch.zeros_like(plane.valid))
    assert objective.loss(blind, batch)['occupancy'] == objective.loss(plane, batch)['occupancy']


def test_an_empty_sweep_costs_nothing_and_gives_no_gradient():
    objective = make_objective()
    plane, batch = make_plane(1), without_points(make_batch(1), 0)
    plane.features.requires_grad_()
    terms = objective.loss(plane, batch)
    assert terms['loss'] == terms['occupancy'] == terms['features'] == 0
    terms['loss'].backward()
    assert not plane.features.grad.any()
    # every parameter has its (zero) gradient: other processes may have samples with points
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_the_loss_of_a_batch_is_the_mean_over_its_samples_also_of_those_without_points():
    objective = make_objective(pos_weight=2.0)
    plane, batch = make_plane(4), without_points(make_batch(4), 2)
    whole = objective.loss(plane, batch)
    rows = [slice(i, i + 1) for i in range(4)]
    each = [objective.loss(sliced(plane, r), sliced(batch, r)) for r in rows]
    assert each[2]['loss'] == 0
    for name in objective.names:
        mean = torch.stack([one[name] for one in each]).mean()
        assert whole[name].item() == pytest.approx(mean.item(), rel=1e-5), name
    assert whole['dropped_points'] == 1.5


def test_scores_add_up_over_batches():
    objective = make_objective()
    plane, batch = make_plane(4), without_points(make_batch(4), 1)
    whole = objective.scores(plane, batch)
    parts = [
        objective.scores(sliced(plane, rows), sliced(batch, rows))
        for rows in (slice(0, 1), slice(1, 2), slice(2, 4))
    ]
    assert set(whole) == {'occupancy_iou', 'occupancy_bce', 'feature_cosine'}
    for name, pair in whole.items():
        for k, value in enumerate(pair):
            added = sum(part[name][k] for part in parts)
            assert value.dtype == torch.float64 and value.ndim == 0
            assert value.item() == pytest.approx(added.item(), rel=1e-5), name
    assert whole['occupancy_bce'][1] == 3


def test_scores_by_hand():
    occupied = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    occupied[0, 0] = True
    maps = torch.tensor([3.0, 4.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 2, 4)
    batch = small_batch(occupied, [AHEAD], maps)
    objective = make_objective(SMALL, features=2)
    set_to_constant(objective, 0.1, torch.tensor([0.0, 7.0]))
    scores = objective.scores(make_plane(1, grid=SMALL), batch)
    assert tuple(map(float, scores['occupancy_iou'])) == (4, 8)
    assert scores['feature_cosine'][0].item() == pytest.approx(4 * 0.8)
    assert scores['feature_cosine'][1] == 4
    loss = objective.loss(make_plane(1, grid=SMALL), batch)
    assert scores['occupancy_bce'][0].item() == pytest.approx(loss['occupancy'].item())
    unknown = objective.scores(make_plane(1, grid=SMALL), without_points(batch, 0))
    assert all(float(value) == 0 for pair in unknown.values() for value in pair)


def test_occupancy_alone_needs_no_teacher():
    objective = make_objective(lambda_feat=0.0, features=0)
    batch = replace(make_batch(2), teacher=None)
    terms = objective.loss(make_plane(2), batch)
    assert tuple(terms) == objective.names == ('loss', 'occupancy', 'dropped_points')
    assert terms['loss'] == terms['occupancy']
    assert objective.head.features is None
    assert set(objective.scores(make_plane(2), batch)) == {'occupancy_iou', 'occupancy_bce'}
    terms['loss'].backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_features_alone_leave_the_occupancy_unlearned():
    objective = make_objective(occupancy=0.0)
    terms = objective.loss(make_plane(2), make_batch(2))
    assert tuple(terms) == objective.names
    assert 'occupancy' not in terms and terms['loss'] == 0.01 * terms['features']
    terms['loss'].backward()
    learned = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert all((p.grad is not None) == (n in learned) for n, p in objective.named_parameters())
    assert not any('occupancy' in name for name in learned)
    assert set(objective.scores(make_plane(2), make_batch(2))) == {'feature_cosine'}


def test_terms_are_float32_where_the_network_computes_in_16_bits():
    objective, plane, batch = make_objective(), make_plane(3), make_batch(3)
    exact = objective.loss(plane, batch)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = replace(plane, features=plane.features.bfloat16())
        rough = objective.loss(half, batch)
    for name in objective.names:
        assert rough[name].dtype == torch.float32, name
        assert rough[name].item() == pytest.approx(exact[name].item(), abs=0.02), name


def test_a_head_learns_occupancy_and_the_teachers_features_of_a_plane_that_tells_them():
    """Planes tell a height, and a kind that the teacher knows by its colour."""
    grid = replace(SMALL, x_range_m=(4, 8), y_range_m=(-4, 4))
    config = make_train_config(grid, channels=8, occfeat=OccFeatConfig(lambda_feat=1.0))
    torch.manual_seed(0)
    objective = OccFeatObjective(config, 2)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)

    def sample(seed: int):
        """The left and the right half of the image have two colours."""
        make = torch.Generator().manual_seed(seed)
        left_is = int(torch.randint(2, (1,), generator=make))
        plane = torch.randn(1, 8, 8, 4, generator=make) * 0.05
        occupied = torch.zeros(1, 2, 8, 4, dtype=torch.bool)
        maps = torch.zeros(1, 1, 2, 2, 4)
        for half, kind in ((0, left_is), (1, 1 - left_is)):
            maps[0, 0, kind, :, 2 * half : 2 * half + 2] = 1
            rows = slice(4, 8) if half == 0 else slice(0, 4)  # left is where y is large
            high = torch.rand(4, 4, generator=make) < 0.5
            plane[0, 2 * kind, rows] += high
            plane[0, 2 * kind + 1, rows] += ~high
            occupied[0, 0, rows], occupied[0, 1, rows] = ~high, high
        batch = make_batch(1, grid=grid)
        batch = replace(
            batch,
            lidar=replace(batch.lidar, occupied=occupied),
            teacher=make_teacher_views(1, [AHEAD], maps),
        )
        return replace(make_plane(1, grid=grid, channels=8), features=plane), batch

    for step in range(120):
        terms = objective.loss(*sample(step))
        optimizer.zero_grad()
        terms['loss'].backward()
        optimizer.step()
    plane, batch = sample(1000)
    scores = {name: (a / b).item() for name, (a, b) in objective.scores(plane, batch).items()}
    assert scores['occupancy_iou'] > 0.9 and scores['feature_cosine'] > 0.85
    # a plane that tells of another place does not do
    plane = replace(plane, features=plane.features.flip(2))
    scores = {name: (a / b).item() for name, (a, b) in objective.scores(plane, batch).items()}
    assert scores['occupancy_iou'] < 0.6 and scores['feature_cosine'] < 0.6
