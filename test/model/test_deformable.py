"""Deformable attention against four loops in plain Python, and the fast form against the plain."""

from __future__ import annotations

import math

import pytest
import torch

from bev_perception.model import deformable
from bev_perception.model.anchors import FAR_PX, Anchors, gather_anchors, plane_anchors
from bev_perception.model.deformable import attend, attend_plain

FORMS = {'plain': attend_plain, 'fast': attend}


def make_case(b=2, n=3, y=3, x=5, z=2, heads=2, d=3, points=4, h=4, w=6, seed=0, spread=1.5):
    """Maps, offsets, weights and anchors of any items, in float64; places lie outside too."""
    r = torch.Generator().manual_seed(seed)
    seen = torch.rand(b, n, z, y, x, generator=r) < 0.4
    at = torch.rand(b, n, z, y, x, 2, generator=r) * torch.tensor([w + 3.0, h + 3.0]) - 2
    at[~seen & (torch.rand(seen.shape, generator=r) < 0.3)] = FAR_PX
    shapes = {'values': (b * n, h, w, heads, d), 'offsets': (b * y * x, heads, points, 2)}
    tensors = [torch.randn(s, generator=r, dtype=torch.float64) for s in shapes.values()]
    tensors[1] *= spread
    tensors.append(torch.rand(b * y * x, heads, points, generator=r, dtype=torch.float64))
    return *(t.requires_grad_() for t in tensors), gather_anchors(at, seen)


def four_loops(values, offsets, weights, anchors: Anchors):
    """Cells, their maps, heads, points: every sample from its four pixels, one by one."""
    _, h, w, heads, d = values.shape
    z = anchors.points.shape[1]
    rows = []
    for cell in range(len(offsets)):
        pairs = [i for i, c in enumerate(anchors.cells.tolist()) if c == cell]
        total = torch.zeros(heads, d, dtype=values.dtype)
        for pair in pairs:
            plane = values[anchors.maps[pair]]
            parts = []
            for head in range(heads):
                part = torch.zeros(d, dtype=values.dtype)
                for point in range(weights.shape[-1]):
                    at = anchors.points[pair, point % z].to(values) + offsets[cell, head, point]
                    x0, y0 = math.floor(at[0].item()), math.floor(at[1].item())
                    for yy in (y0, y0 + 1):
                        for xx in (x0, x0 + 1):
                            if 0 <= xx < w and 0 <= yy < h:
                                share = (1 - (at[0] - xx).abs()) * (1 - (at[1] - yy).abs())
                                share = share * weights[cell, head, point]
                                part = part + share * plane[yy, xx, head]
                parts.append(part)
            total = total + torch.stack(parts)
        rows.append(total.flatten() / max(len(pairs), 1))
    return torch.stack(rows)


def gradients(form, case):
    out = form(*case)
    incoming = torch.randn(out.shape, generator=torch.manual_seed(9), dtype=torch.float64)
    return out.detach(), torch.autograd.grad(out, case[:3], incoming.to(out))


@pytest.mark.parametrize('form', FORMS)
def test_equals_four_loops_and_so_does_its_gradient(form):
    case = make_case()
    expected, slopes = gradients(four_loops, case)
    got, got_slopes = gradients(FORMS[form], case)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    for slope, got_slope in zip(slopes, got_slopes, strict=True):
        assert slope.abs().max() > 0.5
        torch.testing.assert_close(got_slope, slope, atol=1e-11, rtol=0)


def test_gradient_is_that_of_small_steps():
    *tensors, anchors = make_case(b=1, n=2, y=2, x=2, d=2, points=2)
    assert torch.autograd.gradcheck(lambda *t: attend(*t, anchors), tensors)


@pytest.mark.parametrize(
    'sizes',
    [
        {},
        {'b': 1, 'n': 1},
        {'h': 1, 'w': 1},
        {'heads': 1, 'z': 4},
        {'heads': 3, 'd': 1, 'points': 6, 'z': 3, 'h': 7, 'w': 2},
        {'y': 11, 'x': 4, 'spread': 100.0},
    ],
)
def test_fast_equals_plain_forward_and_in_gradients(sizes, monkeypatch):
    monkeypatch.setattr(deformable, '_BLOCK', 50)  # several blocks, the last one not full
    case = make_case(**sizes, seed=3)
    expected, slopes = gradients(attend_plain, case)
    got, got_slopes = gradients(attend, case)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(got_slopes, slopes, atol=1e-11, rtol=0)


def test_planes_are_looked_at_as_four_loops_do():
    values, offsets, weights, _ = make_case(n=1, h=3, w=5, z=1)
    case = values, offsets, weights, plane_anchors(2, (3, 5), values.device)
    expected, slopes = gradients(four_loops, case)
    for form in FORMS.values():
        got, got_slopes = gradients(form, case)
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(got_slopes, slopes, atol=1e-11, rtol=0)


def test_a_cell_that_no_camera_sees_gets_zero():
    *tensors, anchors = make_case()
    unseen = ~anchors.valid.flatten()
    assert unseen.any() and not unseen.all()
    for form in FORMS.values():
        out = form(*tensors, anchors)
        assert (out[unseen] == 0).all() and (out[~unseen] != 0).any(1).sum() > 10


def test_no_cell_that_is_seen_at_all_is_fine():
    values, offsets, weights, _ = make_case()
    nothing = gather_anchors(torch.zeros(2, 3, 2, 3, 5, 2), torch.zeros(2, 3, 2, 3, 5).bool())
    for form in FORMS.values():
        out, slopes = gradients(form, (values, offsets, weights, nothing))
        assert (out == 0).all() and all((slope == 0).all() for slope in slopes)


def test_16_bit_maps_are_sampled_at_32_bit_places():
    values, offsets, weights, anchors = make_case(h=40, w=200, d=4)
    exact = attend(values.bfloat16().double(), offsets, weights, anchors)
    got = attend(values.bfloat16(), offsets.float(), weights.float(), anchors)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, atol=1e-4, rtol=0)


def test_the_gradient_is_the_same_to_the_bit_every_time():
    case = [t.detach().float().requires_grad_() for t in make_case(y=20, x=20)[:3]]
    anchors = make_case(y=20, x=20)[3]
    first, again = (gradients(attend, (*case, anchors)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))


def test_what_is_not_a_number_comes_out_and_nothing_breaks():
    values, offsets, weights, anchors = make_case()
    cell = anchors.cells[0].item()
    broken = offsets.detach().clone()
    broken[cell] = math.nan
    out, slopes = gradients(attend, (values, broken.requires_grad_(), weights, anchors))
    assert out[cell].isnan().all() and slopes[2][cell].isnan().all()
    fine = torch.arange(len(out)) != cell
    assert torch.equal(out[fine], attend(values, offsets, weights, anchors).detach()[fine])
