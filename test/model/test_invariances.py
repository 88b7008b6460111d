"""What must not matter: the order of cameras, and how the ego frame is turned or mirrored.

Checked on what the images give to the plane: SimpleBEV's lifted volume, and BEVFormer's attention
to images of cells that all ask the same. Convolutions and self-attention behind it spread a change
over their neighbourhood, so only the order of cameras can be checked on the network's output too.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bev_perception.geometry.grid import BevGrid
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import NETWORKS
from bev_perception.model.tensors import BevInputs, FeatureVolume
from bev_perception.preprocess import prepare

from ..factories import lift_features, make_config, make_model, make_rig, make_view_set

# Square and centred, so that turns and mirrors map cells on cells.
GRID = BevGrid(x_range_m=(-8, 8), y_range_m=(-8, 8), z_range_m=(-1, 3), cell_m=1, z_cells=2)
CONFIG = make_config(grid=GRID, center_offset=True)


@pytest.fixture(scope='module', params=NETWORKS)
def model(request) -> BevModel:
    return make_model(make_config(network=request.param, grid=GRID, center_offset=True))


def look(model: BevModel, inputs: BevInputs) -> FeatureVolume:
    """What the images give: (b, c, z, y, x), of BEVFormer with one height."""
    if model.config.network == 'simple_bev':
        return lift_features(model, inputs)
    anchors = model.project(inputs).anchors
    attention = model.attention.layers[0].cross_attention.attention
    maps = model.image_features(inputs).permute(0, 1, 3, 4, 2).flatten(0, 1)
    asked = torch.linspace(-1, 1, CONFIG.channels).expand(anchors.count.numel(), -1)
    seen = attention(asked, maps, anchors).unflatten(0, anchors.count.shape)
    return FeatureVolume(
        features=seen.permute(0, 3, 1, 2)[:, :, None], valid=anchors.valid[:, None]
    )


@pytest.fixture(scope='module')
def inputs() -> BevInputs:
    """Two samples of other cameras each; the second lacks a camera."""
    rigs = (make_rig(fov_deg=64.0), make_rig(fov_deg=85.0))
    sets = [prepare(make_view_set(rig), CONFIG) for rig in rigs]
    joined = {
        f.name: torch.cat([getattr(s, f.name) for s in sets])
        for f in dataclasses.fields(BevInputs)
    }
    joined['live'][1, 4] = False
    return BevInputs(**joined)


def moved(inputs: BevInputs, new_T_old: list[list[float]]) -> BevInputs:
    """The same cameras in another ego frame."""
    return dataclasses.replace(inputs, ego_T_cam=torch.tensor(new_T_old) @ inputs.ego_T_cam)


def almost_equal(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Equal but for a voxel whose centre lies on an image's border, by rounding."""
    return bool((got != want).float().mean() < 2e-3)


@torch.inference_mode()
def test_order_of_cameras_does_not_matter(model, inputs):
    order = [5, 2, 0, 1, 4, 3]
    names = ('images', 'K', 'ego_T_cam', 'live')
    other = dataclasses.replace(inputs, **{n: getattr(inputs, n)[:, order] for n in names})
    want, got = model(inputs), model(other)
    for name in ('logits', 'center', 'offset'):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), atol=1e-4, rtol=1e-4)
    assert torch.equal(got.valid, want.valid)


@pytest.mark.parametrize('camera', range(6))
@torch.inference_mode()
def test_dropping_a_camera_changes_exactly_the_voxels_that_it_sees(model, inputs, camera):
    live = inputs.live.clone()
    live[:, camera] = False
    only = torch.zeros_like(live)
    only[:, camera] = inputs.live[:, camera]
    before = look(model, inputs)
    after = look(model, dataclasses.replace(inputs, live=live))
    seen = look(model, dataclasses.replace(inputs, live=only)).valid
    changed = (before.features != after.features).any(1)
    assert not (changed & ~seen).any()
    assert torch.equal(changed, seen)
    assert torch.equal(after.valid | seen, before.valid)
    assert seen[0].any() and not seen[0].all()


@pytest.mark.parametrize('quarters', [1, 2, 3])
@torch.inference_mode()
def test_turning_rig_and_grid_together_is_a_no_op(model, inputs, quarters):
    """By quarters of a turn to the left: x → y, so volume[z, y, x] → volume'[z, x, -y]."""
    c, s = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    turn = [[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    before, after = look(model, inputs), look(model, moved(inputs, turn))
    # In [y, x] arrays whose y points up, a turn to the left moves the x axis onto the y axis.
    want, valid = (torch.rot90(t, quarters, (-1, -2)) for t in (before.features, before.valid))
    assert almost_equal(after.valid, valid)
    same = (after.valid == valid)[:, None]
    torch.testing.assert_close(after.features * same, want * same, atol=1e-4, rtol=1e-4)
    assert (before.valid != valid).float().mean() > 0.02  # the rig itself is not symmetric


@pytest.mark.parametrize(('axis', 'signs'), [(-1, (-1, 1)), (-2, (1, -1))])
@torch.inference_mode()
def test_mirroring_rig_and_grid_together_is_a_no_op(model, inputs, axis, signs):
    """The ego frame is mirrored, images are not: the poses become reflections."""
    mirror = torch.diag(torch.tensor([*signs, 1, 1.0])).tolist()
    before, after = look(model, inputs), look(model, moved(inputs, mirror))
    want, valid = before.features.flip(axis), before.valid.flip(axis)
    assert almost_equal(after.valid, valid)
    same = (after.valid == valid)[:, None]
    torch.testing.assert_close(after.features * same, want * same, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_flips_commute(model, inputs):
    x, y = (torch.diag(torch.tensor(d)).tolist() for d in ([-1.0, 1, 1, 1], [1.0, -1, 1, 1]))
    one = look(model, moved(moved(inputs, x), y))
    other = look(model, moved(moved(inputs, y), x))
    assert torch.equal(one.features, other.features) and torch.equal(one.valid, other.valid)
