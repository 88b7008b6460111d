"""Weights of simple_bev: every one has its place in our network, and other files are refused."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bev_perception.errors import BevError, CheckpointError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_training.cli_import import add_import
from bev_training.import_simple_bev import find_config, import_checkpoint, read_weights, to_ours
from bev_training.simple_bev_names import LEFT_OUT, is_left_out, their_name

# Names and shapes of the original's state dicts, by network and encoder; the file comes from
# benchmarks/compare_simple_bev.py.
_FILE = Path(__file__).resolve().parents[1] / 'golden' / 'simple_bev_layouts.json.gz'
LAYOUTS = json.loads(gzip.decompress(_FILE.read_bytes()))
NETWORKS = {'segnet': 'simple_bev', 'bevformernet': 'bevformer'}
ENCODERS = {
    'res50': 'resnet50',
    'res101': 'resnet101',
    'effb0': 'tf_efficientnet_b0',
    'effb4': 'tf_efficientnet_b4',
}
SMALL = {'size_px': (400, 224)}


def shapes_of(network: str, encoder: str) -> dict[str, list[int]]:
    return {**LAYOUTS['encoders'][encoder], **LAYOUTS['networks'][network]}


def weights_of(network: str, encoder: str, *, random: bool = False) -> dict[str, Tensor]:
    """A state dict of the original: zeros that take no memory, or random."""
    made: dict[str, Tensor] = {}
    for name, shape in shapes_of(network, encoder).items():
        kind = torch.int64 if name.endswith('_tracked') else torch.float32
        made[name] = torch.zeros((), dtype=kind).expand(shape)
        if random:
            made[name] = torch.randn(shape) if kind == torch.float32 else torch.tensor(7)
    return made


def save(folder: Path, weights: Mapping[str, object], name: str = 'model-000025000.pth') -> Path:
    path = folder / name
    torch.save({'optimizer_state_dict': {'state': {}}, 'model_state_dict': weights}, path)
    return path


@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('network', NETWORKS)
def test_names_and_shapes_are_a_bijection(network, encoder):
    theirs = weights_of(network, encoder)
    config = find_config(theirs, Path('x.pth'), size_px=(800, 448), grid=BevGrid())
    assert (config.network, config.backbone) == (NETWORKS[network], ENCODERS[encoder])
    assert config.compat == 'simple_bev' and config.channels == 128 and config.center_offset
    with torch.device('meta'):
        wanted = BevModel(config).state_dict()
    names = {ours: their_name(ours, config.backbone) for ours in wanted}
    assert len(set(names.values())) == len(names)
    rest = set(theirs) - set(names.values())
    assert set(names.values()) <= set(theirs)
    assert all(is_left_out(name) for name in rest) and len(rest) == 6
    found, filled = to_ours(theirs, wanted, config, Path('x.pth'))
    assert set(found) == set(wanted) and not filled
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name


def test_only_heads_and_losses_of_training_are_left_out():
    assert LEFT_OUT == ('decoder.feat_head.', 'ce_weight', 'center_weight', 'offset_weight')
    with pytest.raises(KeyError):
        their_name('bev_net.another.weight', 'resnet50')


@pytest.fixture(scope='module')
def given() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return weights_of('segnet', 'effb0', random=True)


def test_every_value_arrives_under_its_name(tmp_path, given):
    source, out = save(tmp_path, given), tmp_path / 'new' / 'out.safetensors'
    done = import_checkpoint(source, out, **SMALL)
    assert done.path == out and done.mapped == len(given) - 6 and len(done.left_out) == 6
    loaded = checkpoint.load(out)
    config = loaded.model.config
    assert config == done.config and config.image_size_px == (400, 224)
    assert config.classes == ('vehicle',) and config.grid == BevGrid()
    assert config.mean == (0.485, 0.456, 0.406) and config.std == (0.229, 0.224, 0.225)
    assert source.name in loaded.trained_on and len(loaded.card['imported_sha256']) == 64
    for name, value in loaded.model.state_dict().items():
        theirs = given[their_name(name, config.backbone)]
        if name == 'bev_net.compress.0.weight':
            for channel, height in ((0, 0), (1, 0), (0, 3), (77, 5), (127, 7)):
                expected = theirs[:, channel * 8 + height]  # theirs: all heights of a channel
                assert torch.equal(value[:, height * 128 + channel], expected)
        else:
            assert torch.equal(value, theirs), name
    again = tmp_path / 'again.safetensors'
    checkpoint.save(again, loaded.model, loaded.card)
    reloaded = checkpoint.load(again)
    assert reloaded.model.config == config and reloaded.card == loaded.card
    for name, value in reloaded.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name


def test_weights_of_parallel_training_alone_and_of_old_versions_are_read(tmp_path, given):
    plain = {f'module.{n}': v for n, v in given.items() if not n.endswith('_tracked')}
    torch.save(plain, tmp_path / 'alone.pth')
    theirs = read_weights(tmp_path / 'alone.pth')
    config = find_config(theirs, tmp_path, size_px=(400, 224), grid=BevGrid())
    with torch.device('meta'):
        wanted = BevModel(config).state_dict()
    found, filled = to_ours(theirs, wanted, config, tmp_path)
    assert filled and all(name.endswith('num_batches_tracked') for name in filled)
    assert set(found) == set(wanted)


def refused(path: Path, out: Path, *words: str, kind: type[BevError] = CheckpointError, **values):
    out.write_bytes(b'what was there')
    with pytest.raises(kind) as caught:
        import_checkpoint(path, out, **{**SMALL, **values})
    message = str(caught.value)
    assert '\n' not in message and len(message) < 700
    for word in words:
        assert word in message, message
    assert out.read_bytes() == b'what was there'
    assert {p.name for p in out.parent.iterdir()} <= {out.name, path.name}


def test_another_layout_is_refused_with_the_names_that_differ(tmp_path):
    out, weights = tmp_path / 'out.safetensors', weights_of('segnet', 'effb0')
    weights['decoder.layer9.weight'] = weights.pop('decoder.layer1.0.conv1.weight')
    refused(
        save(tmp_path, weights),
        out,
        'Segnet with tf_efficientnet_b0',
        'missing: decoder.layer1.0.conv1.weight',
        'unknown: decoder.layer9.weight',
    )
    stranger = {f'features.{i}.weight': torch.zeros(1) for i in range(9)}
    path = save(tmp_path, stranger)
    refused(path, out, 'missing: encoder.backbone', 'unknown: features.0.weight', 'and 6 more')
    fewer = {n: v for n, v in weights_of('segnet', 'res50').items() if 'layer3.5' not in n}
    refused(save(tmp_path, fewer), out, 'encoder.layer3 has 5 blocks', '6 (resnet50)')
    summed = weights_of('segnet', 'effb0')
    del summed['bev_compressor.0.weight']
    refused(save(tmp_path, summed), out, 'missing: bev_compressor.0.weight', 'do_rgbcompress')


@pytest.mark.parametrize(
    ('network', 'name', 'shape', 'words'),
    [
        ('segnet', 'bev_compressor.0.weight', (128, 1025, 3, 3), 'weights for radar'),
        ('segnet', 'bev_compressor.0.weight', (128, 1152, 3, 3), 'weights for radar'),
        ('segnet', 'bev_compressor.0.weight', (128, 1032, 3, 3), 'weights for lidar'),
        ('segnet', 'bev_compressor.0.weight', (128, 640, 3, 3), 'the volume is another'),
        ('segnet', 'encoder.depth_layer.weight', (169, 128, 1, 1), '(169, 128, 1, 1), not'),
        ('bevformernet', 'bev_queries', (128, 150, 150), 'other grids cannot be imported'),
        ('bevformernet', 'ffn_layers.2.0.weight', (512, 128), '(512, 128), not (1028, 128)'),
    ],
)
def test_variants_that_compute_something_else_are_refused(tmp_path, network, name, shape, words):
    weights = weights_of(network, 'effb0')
    weights[name] = torch.zeros(()).expand(shape)
    refused(save(tmp_path, weights), tmp_path / 'out.safetensors', name, words)


def test_values_that_are_not_finite_or_no_floats_are_refused(tmp_path, given):
    out, name = tmp_path / 'out.safetensors', 'decoder.segmentation_head.3.bias'
    refused(save(tmp_path, {**given, name: torch.tensor([torch.nan])}), out, 'not finite')
    refused(save(tmp_path, {**given, name: torch.tensor([1])}), out, name, 'int64')


class _Trap:
    """What a pickle may do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_but_tensors_is_unpickled(tmp_path):
    out, sprung = tmp_path / 'out.safetensors', tmp_path / 'sprung'
    path = save(tmp_path, {'weight': _Trap(sprung)})
    refused(path, out, path.name, 'more than tensors', 'model_state_dict')
    assert not sprung.exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    out, path = tmp_path / 'out.safetensors', tmp_path / 'model-000025000.pth'
    refused(path, out, 'does not exist')
    for content in (b'', b'no weights', b'PK\x03\x04 and then nothing'):
        path.write_bytes(content)
        refused(path, out, path.name)
    whole = save(tmp_path, weights_of('segnet', 'effb0')).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, out, path.name)
    torch.save([1, 2], path)
    refused(path, out, 'has no weights')
    refused(save(tmp_path, {'step': 3}), out, "'step' is no tensor")


def test_sizes_and_places_that_cannot_be_are_refused(tmp_path, given):
    out, path = tmp_path / 'out.safetensors', save(tmp_path, given)
    refused(path, out, '400x216', 'multiples of 16', kind=ConfigError, size_px=(400, 216))
    with pytest.raises(CheckpointError, match='cannot be written'):
        import_checkpoint(path, path / 'below' / 'a.safetensors', **SMALL)


def test_the_verb_says_what_it_did(tmp_path, given, capsys):
    parser = argparse.ArgumentParser()
    add_import(parser.add_subparsers())
    source, out = save(tmp_path, given), tmp_path / 'out.safetensors'
    words = ['import', 'simple_bev', str(source), str(out), '--size', '400x224']
    chosen = parser.parse_args(words)
    chosen.run(chosen)
    said = capsys.readouterr().out
    for part in (str(out), '349 tensors', '6 left out', 'ce_weight', '400 x 224', 'bev evaluate'):
        assert part in said, said
    chosen = parser.parse_args([*words, '--json'])
    chosen.run(chosen)
    described = json.loads(capsys.readouterr().out)
    assert described['mapped'] == 349 and described['config']['compat'] == 'simple_bev'
    with pytest.raises(SystemExit):
        parser.parse_args(['import', 'another', 'a', 'b'])
