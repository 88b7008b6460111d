"""Compare imported networks with simple_bev's own code on the same weights and cameras.

    git clone https://github.com/aharley/simple_bev
    pip install --no-deps --target lib efficientnet_pytorch
    PYTHONPATH=lib python benchmarks/compare_simple_bev.py simple_bev --size 400x224

For every network and encoder: its code builds the network with random weights, whose batch norms
then take the statistics of the images; everything is saved as its training does, imported with
`bev import simple_bev`, and both sides look at the same six cameras with pitch and roll. Prints
the largest differences, of the network's own plane and of the ego grid, beside the spread of the
outputs, and fails where one is above 1e-3. Nothing here needs CUDA: the checkout's operator is
replaced by the checkout's own plain form of it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.model import checkpoint
from bev_perception.model import simple_bev_compat as compat
from bev_perception.model.tensors import BevInputs
from bev_training.import_simple_bev import import_checkpoint

ENCODERS = ('res50', 'res101', 'effb0', 'effb4')
NETWORKS = ('segnet', 'bevformernet')
LIMIT = 1e-3
_MEAN, _STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]


def open_original(checkout: Path) -> Any:
    """Make the checkout's modules importable on a machine without CUDA; return its `nets`."""
    import torchvision

    sys.path.insert(0, str(checkout))
    einops, layers = types.ModuleType('einops.layers.torch'), types.ModuleType('einops.layers')
    einops.Rearrange = einops.Reduce = None  # imported there, never used
    sys.modules.setdefault('einops.layers', layers)
    sys.modules.setdefault('einops.layers.torch', einops)
    sys.modules['MultiScaleDeformableAttention'] = types.ModuleType('operator')
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    for name in ('resnet50', 'resnet101'):
        build = getattr(torchvision.models, name)
        setattr(torchvision.models, name, lambda build=build, **_: build(weights=None))
    from efficientnet_pytorch import EfficientNet

    EfficientNet.from_pretrained = EfficientNet.from_name
    import nets.bevformernet
    import nets.ops.functions.ms_deform_attn_func as plain
    import nets.ops.modules.ms_deform_attn as attention
    import nets.segnet
    import utils.vox

    def apply(value: Tensor, shapes: Tensor, _: Tensor, at: Tensor, weights: Tensor, __: int):
        return plain.ms_deform_attn_core_pytorch(value, shapes.tolist(), at, weights)

    attention.MSDeformAttnFunction = types.SimpleNamespace(apply=apply)
    volume = utils.vox.Vox_util(
        200, 8, 200, torch.tensor([[0.0, 1.0, 0.0]]), (-50, 50, -5, 5, -50, 50)
    )
    for name, value in vars(volume).items():  # NumPy's scalars, which PyTorch takes no longer
        setattr(volume, name, value.item() if isinstance(value, np.generic) else value)
    return types.SimpleNamespace(
        segnet=nets.segnet.Segnet,
        bevformernet=nets.bevformernet.Bevformernet,
        volume=volume,
    )


def make_cameras(size_px: tuple[int, int], rng: np.random.Generator) -> BevInputs:
    """Six cameras all around, pitched and rolled by a few degrees, and smooth random images."""
    width, height = size_px
    poses, Ks = [], []
    for yaw_deg in (55, 3, -55, 110, 180, -110):
        yaw, pitch, roll = np.radians([yaw_deg, *rng.uniform(-4, 4, 2)])
        turn = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
        tilt = [[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]]
        lean = [[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]]
        pose = np.eye(4)
        pose[:3, :3] = np.array(turn) @ tilt @ lean @ [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
        pose[:3, 3] = [1 + 0.6 * np.cos(yaw), 0.6 * np.sin(yaw), 1.5 + rng.uniform(-0.1, 0.1)]
        f = width * rng.uniform(0.55, 0.85)
        poses.append(pose)
        Ks.append([[f, 0, width * 0.51], [0, f * 1.003, height * 0.54], [0, 0, 1]])
    coarse = torch.from_numpy(rng.uniform(0, 1, (6, 3, 14, 25))).float()
    images = F.interpolate(coarse, (height, width), mode='bicubic').clamp(0, 1)
    images = (images + 0.1 * torch.from_numpy(rng.normal(size=images.shape))).clamp(0, 1).float()
    return BevInputs(
        images=((images - _MEAN) / _STD)[None],
        K=torch.tensor(Ks).float()[None],
        ego_T_cam=torch.from_numpy(np.array(poses)).float()[None],
        live=torch.ones(1, 6, dtype=torch.bool),
    )


def original_arguments(inputs: BevInputs, volume: Any) -> dict[str, Any]:
    """Return the same cameras and images as the original takes them."""
    K = torch.eye(4).repeat(1, inputs.K.shape[1], 1, 1)
    K[..., :3, :3] = inputs.K
    ref_T_cam, _ = compat.from_reference(inputs.ego_T_cam, inputs.live)
    return {
        'rgb_camXs': inputs.images * _STD + _MEAN - 0.5,
        'pix_T_cams': K,
        'cam0_T_camXs': ref_T_cam.float(),
        'vox_util': volume,
    }


@torch.no_grad()
def shake(network: nn.Module, arguments: dict[str, Any]) -> None:
    """Give every weight and statistic a value that shows in the output."""
    for name, value in network.named_parameters():
        if value.ndim == 1 and name.endswith('weight'):  # of norms; some begin at zero
            value.copy_(torch.rand_like(value) + 0.5)
        elif value.ndim == 1:
            value.add_(0.1 * torch.randn_like(value))
        elif 'sampling_offsets' in name:
            value.copy_(0.1 * torch.randn_like(value))
        elif 'attention_weights' in name:
            value.copy_(0.2 * torch.randn_like(value))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this one batch
    network.train()
    network(**arguments)
    network.eval()
    for norm in norms:
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= 0.7 + 0.6 * torch.rand_like(norm.running_var)


@torch.inference_mode()
def compare(original: Any, kind: str, encoder: str, size_px: tuple[int, int], seed: int) -> float:
    """Print the differences of one network and return the largest."""
    torch.manual_seed(seed)
    began = time.monotonic()
    inputs = make_cameras(size_px, np.random.default_rng(seed))
    arguments = original_arguments(inputs, original.volume)
    with torch.inference_mode(False):
        network = getattr(original, kind)(200, 8, 200, encoder_type=encoder)
        shake(network, arguments)
    _, _, *theirs = network(**arguments)
    with tempfile.TemporaryDirectory() as folder:
        given, imported = Path(folder) / 'model-000025000.pth', Path(folder) / 'out.safetensors'
        torch.save({'optimizer_state_dict': {}, 'model_state_dict': network.state_dict()}, given)
        import_checkpoint(given, imported, size_px=size_px)
        model = checkpoint.load(imported).model
    del network
    projection = model.project(inputs)
    plane, _ = model.plane(model.image_features(inputs), projection)
    ours = [model.head(plane), model.center_head(plane).sigmoid(), model.offset_head(plane)]
    worst = max(
        say('own plane', name, a, b)
        for name, a, b in zip(('vehicle', 'center', 'offset'), ours, theirs, strict=True)
    )
    # The ego grid: their planes, sampled at the cells with PyTorch's own sampling.
    out = model(inputs)
    places = projection.to_grid
    at = (2 * places.points + 1) / 200 - 1
    expected = F.grid_sample(theirs[0], at, align_corners=False, padding_mode='border')
    inside = places.valid[:, None]
    worst = max(worst, say('ego grid', 'vehicle', out.logits[inside], expected[inside]))
    print(f'{kind} {encoder} {size_px}: {worst:.2e}, {time.monotonic() - began:.0f} s', flush=True)
    return worst


def say(where: str, name: str, ours: Tensor, theirs: Tensor) -> float:
    """Print and return the largest difference."""
    difference = (ours - theirs).abs()
    worst = float(difference.max())
    print(
        f'  {where}, {name}: largest {worst:.2e}, mean {float(difference.mean()):.2e}; '
        f'of values from {float(theirs.min()):.3f} to {float(theirs.max()):.3f}'
    )
    return worst


def write_layouts(original: Any, path: Path) -> None:
    """Write names and shapes of all weights: of each encoder, and of the rest of each network."""
    layouts: dict[str, Any] = {'encoders': {}, 'networks': {}}
    for kind in NETWORKS:
        for encoder in ENCODERS:
            network = getattr(original, kind)(200, 8, 200, encoder_type=encoder)
            shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
            parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
            for name, shape in shapes.items():
                parts[name.startswith('encoder.')][name] = shape
            rest, own = parts
            if (
                layouts['encoders'].setdefault(encoder, own) != own
                or layouts['networks'].setdefault(kind, rest) != rest
            ):
                raise SystemExit(f'{kind} with {encoder}: an encoder depends on its network')
    text = json.dumps(layouts, separators=(',', ':'))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def main() -> None:
    """Compare what was asked for; exit status 1 where a difference is too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkout', type=Path)
    parser.add_argument('--size', default='400x224', help='of the images (400x224)')
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS)
    parser.add_argument('--encoders', nargs='+', choices=ENCODERS, default=ENCODERS)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--layouts', type=Path, help='write names and shapes there (.json.gz)')
    chosen = parser.parse_args()
    width, height = map(int, chosen.size.split('x'))
    original = open_original(chosen.checkout)
    if chosen.layouts:
        write_layouts(original, chosen.layouts)
        return
    worst = [
        compare(original, kind, encoder, (width, height), chosen.seed)
        for kind in chosen.networks
        for encoder in chosen.encoders
    ]
    if max(worst) > LIMIT:
        raise SystemExit(f'the largest difference, {max(worst):.2e}, is above {LIMIT}')


if __name__ == '__main__':
    main()
