"""Every norm of the network against float64, in all memory that training can meet.

PyTorch 2.13's InstanceNorm2d gives wrong gradients on a CPU for batch 1 when the gradient comes
in channels_last, and says nothing.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bev_perception.model.bev_model import BevModel
from bev_perception.model.norm import instance_norm

from ..factories import make_config

CHANNELS = 6
FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
NORMS = {
    'instance_norm': lambda: instance_norm(CHANNELS),
    'GroupNorm of 2': lambda: nn.GroupNorm(2, CHANNELS),
    'BatchNorm2d, train': lambda: nn.BatchNorm2d(CHANNELS).train(),
    'BatchNorm2d, eval': lambda: nn.BatchNorm2d(CHANNELS).eval(),
}


def normalised(name: str, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """The formulas, written out."""
    if name.endswith('eval'):
        mean, variance = (
            b.to(x.dtype)[None, :, None, None] for b in (norm.running_mean, norm.running_var)
        )
        out = (x - mean) / (variance + norm.eps).sqrt()
    else:
        groups = {'instance_norm': CHANNELS, 'GroupNorm of 2': 2}.get(name)
        shaped = x if groups is None else x.reshape(len(x), groups, -1)
        over = (0, 2, 3) if groups is None else (2,)
        variance, mean = torch.var_mean(shaped, over, correction=0, keepdim=True)
        out = ((shaped - mean) / (variance + norm.eps).sqrt()).reshape(x.shape)
    if getattr(norm, 'weight', None) is None:
        return out
    weight, bias = (p.to(x.dtype)[None, :, None, None] for p in (norm.weight, norm.bias))
    return out * weight + bias


def errors(name: str, norm: nn.Module, batch: int, memory: str, incoming: str) -> list[float]:
    """Relative errors of output, input's gradient and parameters' gradients."""
    generator = torch.Generator().manual_seed(batch)
    x = 3 + 2 * torch.randn(batch, CHANNELS, 5, 7, generator=generator)
    gradient = torch.randn(batch, CHANNELS, 5, 7, generator=generator)
    for p in norm.parameters():
        nn.init.uniform_(p, 0.5, 1.5, generator=generator)
    exact = x.double().requires_grad_()
    expected = normalised(name, exact, norm)
    wrt = [exact, *norm.parameters()]
    expected_grads = torch.autograd.grad(expected, wrt, gradient.double())
    leaf = x.contiguous(memory_format=FORMATS[memory]).requires_grad_()
    out = norm(leaf)
    got_grads = torch.autograd.grad(
        out, [leaf, *norm.parameters()], gradient.contiguous(memory_format=FORMATS[incoming])
    )
    pairs = zip([out, *got_grads], [expected, *expected_grads], strict=True)
    return [
        float((got.double() - want).detach().norm() / want.detach().norm()) for got, want in pairs
    ]


@pytest.mark.parametrize('incoming', FORMATS)
@pytest.mark.parametrize('memory', FORMATS)
@pytest.mark.parametrize('batch', [1, 2, 3])
@pytest.mark.parametrize('name', NORMS)
def test_norm_equals_its_formula_in_float64(name, batch, memory, incoming):
    norm = NORMS[name]()
    if name.endswith('eval'):
        nn.init.normal_(norm.running_mean, generator=torch.manual_seed(0))
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    worst = max(errors(name, norm, batch, memory, incoming))
    assert worst < 1e-5


def test_torch_own_instance_norm_is_wrong_so_it_is_not_used():
    """When this is skipped, the group norm in its place is a matter of speed alone."""
    found = {
        (batch, memory, incoming): max(
            errors('instance_norm', nn.InstanceNorm2d(CHANNELS), batch, memory, incoming)
        )
        for batch in (1, 2)
        for memory in FORMATS
        for incoming in FORMATS
    }
    wrong = {case: error for case, error in found.items() if error > 1e-3}
    if not wrong:
        reason = f"torch {torch.__version__}'s InstanceNorm2d has right gradients here"
        print(reason)
        pytest.skip(reason)
    print(f'\ntorch {torch.__version__} InstanceNorm2d, relative errors: {wrong}')
    assert {batch for batch, _, _ in wrong} == {1}
    assert {incoming for _, _, incoming in wrong} == {'channels_last'}


@pytest.mark.parametrize('backbone', ['resnet18', 'tf_efficientnet_lite0', 'efficientnet_b0'])
def test_the_network_holds_only_norms_that_are_tested_here(backbone):
    model = BevModel(make_config(backbone=backbone, center_offset=True))
    norms = [m for m in model.modules() if 'norm' in type(m).__name__.lower()]
    assert len(norms) > 20
    for norm in norms:
        assert not isinstance(norm, nn.InstanceNorm2d)
        assert isinstance(norm, (nn.BatchNorm2d, nn.GroupNorm)), type(norm)
