"""The remembered plane in the present ego frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.memory import align
from bev_perception.model.tensors import BevMemory

CENTRED = BevGrid(x_range_m=(-5, 5), y_range_m=(-5, 5), cell_m=0.5)
AHEAD = BevGrid(x_range_m=(-3, 9), y_range_m=(-4, 4.5), cell_m=0.5)
ODOM_T_WORLD = (12_345.678, -98_765.4, 0.7)


def pose(x_m=0.0, y_m=0.0, yaw_deg=0.0, flip=(1, 1)) -> torch.Tensor:
    """`odom_T_ego` (1, 4, 4) of a vehicle at (x, y) of a world that lies anywhere in odom."""
    matrices = []
    for x, y, yaw in ((*ODOM_T_WORLD[:2], ODOM_T_WORLD[2]), (x_m, y_m, np.radians(yaw_deg))):
        c, s = np.cos(yaw), np.sin(yaw)
        matrices.append(np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, 0.3], [0, 0, 0, 1]]))
    return torch.tensor(matrices[0] @ matrices[1] @ np.diag([*flip, 1, 1]))[None]


def centers(grid: BevGrid, odom_T_ego: torch.Tensor) -> np.ndarray:
    """Where the cells are in odom, (y, x, 2)."""
    xy = grid.cell_centers()
    T = odom_T_ego[0].numpy()
    return xy @ T[:2, :2].T + T[:2, 3]


def remember(plane: torch.Tensor, odom_T_ego: torch.Tensor, valid=None) -> BevMemory:
    valid = torch.ones(1, *plane.shape[2:], dtype=torch.bool) if valid is None else valid
    return BevMemory(features=plane, valid=valid, odom_T_ego=odom_T_ego)


def noise(grid: BevGrid, channels: int = 3) -> torch.Tensor:
    shape = (1, channels, *grid.shape[1:])
    return torch.randn(shape, generator=torch.manual_seed(0))


@pytest.mark.parametrize('grid', [CENTRED, AHEAD])
@pytest.mark.parametrize('flip', [(1, 1), (1, -1), (-1, 1)])
def test_standing_still_gives_the_plane_to_the_bit(grid, flip):
    plane, at = noise(grid), pose(7, 3, 33, flip)
    warped, known = align(remember(plane, at), at, grid)
    assert torch.equal(warped, plane) and known.all()


@pytest.mark.parametrize('grid', [CENTRED, AHEAD])
def test_moving_by_whole_cells_shifts_the_plane_to_the_bit(grid):
    """1.5 m ahead and 1 m to the left: what was in column 3 is now in column 0."""
    plane = noise(grid)
    warped, known = align(remember(plane, pose(2, 1, 0)), pose(3.5, 2, 0), grid)
    assert torch.equal(warped[..., :-2, :-3], plane[..., 2:, 3:])
    assert known[:, :-2, :-3].all() and not known[:, -2:].any() and not known[..., -3:].any()
    assert (warped[..., -2:, :] == 0).all()


@pytest.mark.parametrize('grid', [CENTRED, AHEAD])
@pytest.mark.parametrize('turns', [1, 2, 3])
def test_quarter_turns_move_cells_onto_cells_to_the_bit(grid, turns):
    plane, before, now = noise(grid), pose(4, -2, 30), pose(4, -2, 30 + 90 * turns)
    warped, known = align(remember(plane, before), now, grid)
    old, found = centers(grid, before), 0
    for row, column in np.ndindex(grid.shape[1:]):
        apart = np.abs(old - centers(grid, now)[row, column]).max(-1)
        source = np.unravel_index(apart.argmin(), apart.shape)
        assert known[0, row, column] == (apart[source] < 0.01)
        if known[0, row, column]:
            found += 1
            assert torch.equal(warped[0, :, row, column], plane[0, :, source[0], source[1]])
    assert found > 50 and (grid is AHEAD or known.all())


@pytest.mark.parametrize('grid', [CENTRED, AHEAD])
@pytest.mark.parametrize('flip', [(1, 1), (1, -1)])
def test_a_painted_world_is_found_again_after_any_motion(grid, flip):
    """A linear picture of the world is what bilinear sampling keeps exactly."""
    before, now = pose(4, -2, 30, flip), pose(5.3, -1.1, 71, flip)

    def paint(odom_T_ego):
        xy = centers(grid, odom_T_ego) - ODOM_T_WORLD[:2]
        return torch.tensor(np.stack([xy[..., 0], xy[..., 1], xy.sum(-1)]))[None].float()

    warped, known = align(remember(paint(before), before), now, grid)
    assert 0.4 < known.float().mean() < 1
    expected = paint(now)
    cells = known[:, None].expand_as(expected)
    torch.testing.assert_close(warped[cells], expected[cells], atol=1e-4, rtol=0)


def test_a_static_world_stays_put_over_many_steps():
    """Warped from step to step, a bump neither drifts nor turns; it only gets a little wider."""
    grid = BevGrid(x_range_m=(-20, 20), y_range_m=(-20, 20), cell_m=0.5)
    spot = np.array([4.0, 3.0])  # in the world
    track = [pose(0.37 * i, 0.11 * i, 3.1 * i) for i in range(11)]
    world = pose()[0].numpy() @ [*spot, 0, 1]

    def bump(odom_T_ego):
        apart = centers(grid, odom_T_ego) - world[:2]
        return torch.tensor(np.exp(-(apart**2).sum(-1) / 18))[None, None].float()

    memory = remember(bump(track[0]), track[0])
    for now in track[1:]:
        plane, known = align(memory, now, grid)
        memory = BevMemory(features=plane, valid=known, odom_T_ego=now)
    share = (plane[0, 0] / plane.sum()).numpy()[..., None]
    middle = (share * centers(grid, track[-1])).sum((0, 1))
    np.testing.assert_allclose(middle, world[:2], atol=0.1)
    error = (plane - bump(track[-1]))[0, 0][known[0]].abs().max()
    assert error < 0.07 and known[0, 30:60, 30:60].all()


def test_a_cell_is_known_where_every_cell_that_it_takes_from_was():
    plane, at = noise(CENTRED), pose()
    valid = torch.ones(1, 20, 20, dtype=torch.bool)
    valid[0, 10, 10] = False
    plane[..., 10, 10] = torch.nan
    whole, known = align(remember(plane, at, valid), pose(0.5), CENTRED)
    assert (~known[0, :, :19]).nonzero().tolist() == [[10, 9]]
    part, known = align(remember(plane, at, valid), pose(0.25), CENTRED)
    assert (~known[0, :, :19]).nonzero().tolist() == [[10, 9], [10, 10]]
    assert whole.isfinite().all() and part.isfinite().all()


def test_items_of_a_batch_move_on_their_own_and_one_without_a_pose_knows_nothing():
    plane = torch.cat([noise(AHEAD)] * 4)
    before = torch.cat([pose(), pose(), pose() * torch.nan, pose()])
    now = torch.cat([pose(0.5), pose(0, 0.5), pose(), pose() * torch.nan])
    memory = remember(plane, before, torch.ones(4, *AHEAD.shape[1:], dtype=torch.bool))
    warped, known = align(memory, now, AHEAD)
    assert not known[2:].any() and (warped[2:] == 0).all()
    for i in range(2):
        alone = align(remember(plane[i : i + 1], before[i : i + 1]), now[i : i + 1], AHEAD)
        assert torch.equal(alone[0], warped[i : i + 1]) and torch.equal(alone[1], known[i : i + 1])
    assert not torch.equal(warped[0], warped[1])


def test_16_bit_memory_stays_16_bit_and_exact():
    plane, at = noise(AHEAD).bfloat16(), pose(1, 2, 3)
    warped, _ = align(remember(plane, at), at, AHEAD)
    assert warped.dtype == torch.bfloat16 and torch.equal(warped, plane)


def test_a_memory_of_other_cells_is_refused():
    with pytest.raises(ConfigError, match=r'17 x 24 cells.* the grid has 20 x 20 cells'):
        align(remember(noise(AHEAD), pose()), pose(), CENTRED)
    with pytest.raises(ConfigError, match=r'1 planes .* 2 poses'):
        align(remember(noise(AHEAD), pose()), torch.cat([pose()] * 2), AHEAD)
