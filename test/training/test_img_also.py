"""Img-ALSO: which cells a query meets, the loss by hand, batches and scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.fit.settings import ImgAlsoConfig, ObjectivesConfig
from bev_training.objectives.img_also import ImgAlsoObjective, pairs_in_reach
from test.training.pretraining_batches import (
    GRID,
    make_batch,
    make_plane,
    make_train_config,
    sliced,
    without_points,
)

# 2 x 2 cells of 1 m around the origin; the middles are at -0.5 and 0.5.
SMALL = BevGrid(x_range_m=(-1, 1), y_range_m=(-1, 1), z_range_m=(0, 2), cell_m=1, z_cells=2)


def make_objective(grid=GRID, **img_also) -> ImgAlsoObjective:
    torch.manual_seed(0)
    objectives = ObjectivesConfig(segmentation=0, img_also=1)
    config = make_train_config(grid, objectives=objectives, img_also=ImgAlsoConfig(**img_also))
    return ImgAlsoObjective(config)


def query_batch(points: list, occupied: list, intensity: list | None = None, grid=SMALL):
    """One sample with these queries."""
    batch = make_batch(1, grid=grid)
    lidar = replace(
        batch.lidar,
        queries_m=torch.tensor([points], dtype=torch.float32),
        query_occupied=torch.tensor([occupied], dtype=torch.int8),
        query_intensity=torch.tensor([intensity or [math.nan] * len(points)]),
    )
    return replace(batch, lidar=lidar)


class Known(nn.Module):
    """A decoder that says what a test wants of a pair."""

    def __init__(self, says) -> None:
        super().__init__()
        self.says = says

    def forward(self, latent, relative):
        return self.says(latent, relative)


@pytest.mark.parametrize('radius_m', [0.8, 1.0, 2.3])
@pytest.mark.parametrize('cell_m', [0.5, 1.0])
def test_pairs_are_those_of_a_plain_search(cell_m, radius_m):
    grid = replace(GRID, cell_m=cell_m)
    make = torch.Generator().manual_seed(0)
    queries = torch.rand(2, 60, 3, generator=make) * torch.tensor([8.0, 7, 4]) + torch.tensor(
        [1.0, -3, -1]
    )  # also outside the grid
    counted = torch.rand(2, 60, generator=make) < 0.7
    expected = {}
    middles = grid.cell_centers()
    for b, q in counted.nonzero().tolist():
        point = queries[b, q].double().numpy()
        apart = np.hypot(*np.moveaxis(point[:2] - middles, -1, 0))
        for y, x in zip(*np.nonzero(apart <= radius_m), strict=True):
            relative = (*(point[:2] - middles[y, x]), point[2])
            expected[b, q, int(y), int(x)] = relative
    *indices, relative = pairs_in_reach(queries, counted, grid, radius_m)
    found = {
        tuple(pair): position
        for pair, position in zip(torch.stack(indices, 1).tolist(), relative, strict=True)
    }
    assert set(found) == set(expected) and len(found) == len(relative) > 50
    for pair, position in expected.items():
        np.testing.assert_allclose(found[pair], position, atol=1e-5)


def test_every_cell_within_the_radius_says_something_by_hand_on_2x2_cells():
    # The first point is 0.5 m from two middles and 1.12 m from the others; the second is
    # 0.14 m from one, 0.91 m from two and 1.27 m from the last.
    batch = query_batch([[0.0, 0.5, 1.0], [0.4, 0.4, 0.2]], [1, 0])
    objective = make_objective(SMALL, radius_m=1.0)
    # The logit is the height over the cell's middle, whatever the plane.
    objective.decoder = Known(lambda latent, relative: relative[:, 2:])
    terms = objective.loss(make_plane(1, grid=SMALL), batch)
    inside, free = -math.log(1 / (1 + math.exp(-1))), -math.log(1 - 1 / (1 + math.exp(-0.2)))
    by_hand = (2 * inside + 3 * free) / 5
    assert terms['occupancy'].item() == pytest.approx(by_hand, rel=1e-5)
    assert terms['loss'] == terms['occupancy']
    assert tuple(terms) == objective.names == ('loss', 'occupancy', 'dropped_points')


def test_a_pair_takes_its_own_cells_features():
    plane = make_plane(2, grid=SMALL)
    said = {}

    def says(latent, relative):
        said['latent'], said['relative'] = latent, relative
        return torch.zeros(len(latent), 1)

    objective = make_objective(SMALL, radius_m=0.75)
    objective.decoder = Known(says)
    batch = make_batch(2, grid=SMALL)
    lidar = replace(
        batch.lidar,
        queries_m=torch.tensor([[[-0.5, 0.5, 0.3]], [[0.5, -0.4, 0.0]]]),
        query_occupied=torch.ones(2, 1, dtype=torch.int8),
        query_intensity=torch.full((2, 1), math.nan),
    )
    objective.loss(plane, replace(batch, lidar=lidar))
    # cell (y, x): (1, 0) of the first sample, (0, 1) of the second
    expected = torch.stack([plane.features[0, :, 1, 0], plane.features[1, :, 0, 1]])
    assert torch.equal(said['latent'], expected)
    torch.testing.assert_close(said['relative'], torch.tensor([[0, 0, 0.3], [0, 0.1, 0]]))


def test_intensity_counts_where_it_is_known():
    points = [[-0.5, -0.5, 0.0], [0.5, 0.5, 0.0], [0.5, -0.5, 0.0]]
    batch = query_batch(points, [1, 0, 0], [0.75 * 200, 0.5 * 200, math.nan])
    objective = make_objective(SMALL, radius_m=0.75, intensity=2.0, intensity_full=200)
    plane = make_plane(1, grid=SMALL)
    plane.features.requires_grad_()
    objective.decoder = Known(lambda latent, relative: latent[:, :2])
    terms = objective.loss(plane, batch)
    said = plane.features[0, 1, [0, 1], [0, 1]]
    error = (abs(said[0] - 0.75) + abs(said[1] - 0.5)) / 2
    assert terms['intensity'].item() == pytest.approx(error.item(), rel=1e-5)
    total = terms['occupancy'] + 2 * terms['intensity']
    assert terms['loss'].item() == pytest.approx(total.item(), rel=1e-6)
    assert tuple(terms) == objective.names
    terms['loss'].backward()
    assert plane.features.grad.isfinite().all()
    assert plane.features.grad[0, 1, 0, 1] == 0  # intensity of the point without one
    scores = objective.scores(plane, batch)
    assert scores['query_intensity_error'][0].item() == pytest.approx(2 * error.item(), rel=1e-5)
    assert scores['query_intensity_error'][1] == 2


def test_the_plane_learns_only_in_reach_of_queries():
    objective = make_objective(radius_m=1.0)
    batch = query_batch([[4.5, 0.5, 1.0], [20.0, 0.0, 0.0]], [1, -1], grid=GRID)
    plane = make_plane(1)
    plane.features.requires_grad_()
    objective.loss(plane, batch)['loss'].backward()
    touched = plane.features.grad[0].abs().sum(0) > 0
    assert set(map(tuple, touched.nonzero().tolist())) == {
        (2, 2), (1, 2), (3, 2), (2, 1), (2, 3)
    }  # fmt: skip


def test_a_sample_without_queries_costs_nothing_and_gives_no_gradient():
    objective = make_objective(intensity=1.0)
    plane, batch = make_plane(1), without_points(make_batch(1), 0)
    plane.features.requires_grad_()
    terms = objective.loss(plane, batch)
    assert terms['loss'] == 0
    terms['loss'].backward()
    assert not plane.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    assert all(float(v) == 0 for pair in objective.scores(plane, batch).values() for v in pair)


def test_the_loss_of_a_batch_is_the_mean_over_its_samples_and_scores_add_up():
    objective = make_objective(intensity=0.5)
    plane, batch = make_plane(4), without_points(make_batch(4), 1)
    whole, scores = objective.loss(plane, batch), objective.scores(plane, batch)
    rows = [slice(i, i + 1) for i in range(4)]
    each = [objective.loss(sliced(plane, r), sliced(batch, r)) for r in rows]
    parts = [objective.scores(sliced(plane, r), sliced(batch, r)) for r in rows]
    for name in objective.names:
        mean = torch.stack([one[name] for one in each]).mean()
        assert whole[name].item() == pytest.approx(mean.item(), rel=1e-5), name
    assert set(scores) == {'query_accuracy', 'query_bce', 'query_intensity_error'}
    for name, pair in scores.items():
        for k, value in enumerate(pair):
            added = sum(part[name][k] for part in parts)
            assert value.dtype == torch.float64 and value.ndim == 0
            assert value.item() == pytest.approx(added.item(), rel=1e-5), name
    assert scores['query_bce'][1] == 3
    bce = scores['query_bce'][0] / 4
    assert bce.item() == pytest.approx(whole['occupancy'].item(), rel=1e-5)


def test_accuracy_by_hand():
    batch = query_batch([[-0.5, -0.5, 1.0], [0.5, 0.5, 1.0], [0.5, -0.5, -1.0]], [1, 0, 0])
    objective = make_objective(SMALL, radius_m=0.75)
    objective.decoder = Known(lambda latent, relative: relative[:, 2:])
    scores = objective.scores(make_plane(1, grid=SMALL), batch)
    assert tuple(map(float, scores['query_accuracy'])) == (2, 3)


def test_the_decoder_learns_a_height_that_the_plane_tells():
    grid = GRID
    objective = make_objective(radius_m=0.71)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)

    def sample(seed: int):
        """Everything below the height in channel 0 of a cell is inside something."""
        make = torch.Generator().manual_seed(seed)
        heights = F.interpolate(torch.rand(1, 1, 2, 2, generator=make) * 3, size=(5, 6))[0, 0]
        plane = make_plane(1, seed)
        plane = replace(plane, features=plane.features * 0.05)
        plane.features[0, 0] = heights
        batch = make_batch(1, seed)
        index, _ = grid.xyz_to_index(batch.lidar.queries_m[0].numpy())
        below = batch.lidar.queries_m[0, :, 2] < heights[index[:, 1], index[:, 2]]
        lidar = replace(batch.lidar, query_occupied=below[None].to(torch.int8))
        return plane, replace(batch, lidar=lidar)

    for step in range(150):
        loss = objective.loss(*sample(step))['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = [sample(1000 + k) for k in range(8)]
    scores = [objective.scores(*one)['query_accuracy'] for one in held_out]
    right, pairs = (sum(each) for each in zip(*scores, strict=True))
    assert right / pairs > 0.85
    # a plane that tells of another place does not do
    turned = [
        objective.scores(replace(plane, features=plane.features.flip(2, 3)), batch)
        for plane, batch in held_out
    ]
    assert sum(one['query_accuracy'][0] for one in turned) / pairs < 0.8


def test_terms_are_float32_where_the_network_computes_in_16_bits():
    objective, plane, batch = make_objective(), make_plane(3), make_batch(3)
    exact = objective.loss(plane, batch)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = replace(plane, features=plane.features.bfloat16())
        rough = objective.loss(half, batch)
    for name in objective.names:
        assert rough[name].dtype == torch.float32, name
        assert rough[name].item() == pytest.approx(exact[name].item(), rel=0.02), name


def test_a_radius_without_cells_is_refused():
    with pytest.raises(ConfigError, match=r'img_also\.radius_m is 0\.5; .* at least 0\.708$'):
        make_objective(radius_m=0.5)
    make_objective(radius_m=0.708)
