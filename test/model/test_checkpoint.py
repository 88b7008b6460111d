"""Checkpoints: what is saved comes back; anything else is one clear line that names the file."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bev_perception.errors import CheckpointError
from bev_perception.model import checkpoint
from bev_perception.preprocess import prepare

from ..factories import make_config, make_model, make_view_set, write_checkpoint


@pytest.fixture(scope='module')
def model():
    return make_model()


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'tiny.safetensors')


@pytest.fixture
def path(tmp_path, original):
    return Path(shutil.copy(original, tmp_path))


def rewrite(path, *, tensors=None, metadata=None):
    """Write the file anew with some tensors or metadata changed; None removes an entry."""
    with safe_open(path, framework='pt') as file:
        new_metadata = {**file.metadata(), **(metadata or {})}
        new = {**{k: file.get_tensor(k) for k in file.keys()}, **(tensors or {})}  # noqa: SIM118
    save_file(
        {k: v for k, v in new.items() if v is not None},
        path,
        {k: v for k, v in new_metadata.items() if v is not None},
    )


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert '\n' not in message and str(path) in message
    for word in words:
        assert word in message, message


def test_round_trip_is_exact(tmp_path, model):
    path = tmp_path / 'model.safetensors'
    checkpoint.save(path, model, {'trained_on': 'two drives', 'command': 'bev finetune'})
    loaded = checkpoint.load(str(path))
    assert loaded.path == path and loaded.trained_on == 'two drives'
    assert loaded.card['command'] == 'bev finetune'
    assert loaded.model.config == model.config and not loaded.model.training
    inputs = prepare(make_view_set(), model.config)
    with torch.inference_mode():
        assert torch.equal(loaded.model(inputs).logits, model(inputs).logits)


def test_half_precision_is_close_and_half_the_size(tmp_path, path, model):
    half = tmp_path / 'half.safetensors'
    checkpoint.save(half, model, {}, half=True)
    assert half.stat().st_size < 0.52 * path.stat().st_size
    loaded = checkpoint.load(half)
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    assert loaded.trained_on.startswith('unknown data')
    inputs = prepare(make_view_set(), model.config)
    with torch.inference_mode():
        got, exact = loaded.model(inputs).logits, model(inputs).logits
    assert 0 < (got - exact).abs().max() < 0.01 * exact.abs().max()


def test_the_config_travels(tmp_path):
    config = make_config(classes=('a', 'b'), obstacle_classes=('b',), mean=(0.1, 0.2, 0.3))
    path = write_checkpoint(tmp_path / 'x.safetensors', config)
    assert checkpoint.load(path).model.config == config


def test_missing_file(tmp_path):
    refused(tmp_path / 'none.safetensors', 'does not exist')
    refused(tmp_path)  # a folder


def test_other_files(tmp_path):
    path = tmp_path / 'text.safetensors'
    for content in (b'', b'hello', b'\0' * 100, b'\x7fELF' * 50):
        path.write_bytes(content)
        refused(path, 'no safetensors file')


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), 'w')


def test_nothing_is_unpickled(tmp_path):
    target = tmp_path / 'exploded'
    path = tmp_path / 'model.pt'
    path.write_bytes(pickle.dumps(Bomb(target)))
    refused(path, 'no safetensors file')
    torch.save({'bomb': Bomb(target)}, path)
    refused(path, 'no safetensors file')
    assert not target.exists()


@pytest.mark.parametrize('keep', [4, 100, 5_000, -1])
def test_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, 'no safetensors file')


def test_other_format(path):
    rewrite(path, metadata={'format': 'bev_perception/2'})
    refused(path, "'bev_perception/2'", "reads 'bev_perception/1'")
    rewrite(path, metadata={'format': None})
    refused(path, 'None')


def test_other_safetensors_file(tmp_path):
    path = tmp_path / 'other.safetensors'
    save_file({'weight': torch.zeros(3)}, path)
    refused(path, 'format None')


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'new_setting': 1}, 'new_setting'),
        ({'grid': {'cell_mm': 5}}, 'grid.cell_mm'),
        ({'grid': []}, 'grid'),
        ({'channels': '64'}, 'channels'),
        ({'classes': 5}, 'classes'),
        ({'backbone': 'vgg'}, 'vgg'),
    ],
)
def test_config_that_cannot_be_used(path, change, word):
    with safe_open(path, framework='pt') as file:
        config = json.loads(file.metadata()['config'])
    rewrite(path, metadata={'config': json.dumps({**config, **change})})
    refused(path, word)


@pytest.mark.parametrize('name', ['config', 'card'])
@pytest.mark.parametrize('text', ['{', '[1]', 'null', ''])
def test_broken_metadata(path, name, text):
    rewrite(path, metadata={name: text})
    refused(path)


def test_config_missing(path):
    rewrite(path, metadata={'config': None})
    refused(path, 'config')


def test_missing_and_unknown_weights(path):
    rewrite(path, tensors={'head.layers.3.bias': None})
    refused(path, '1 weights are missing', 'head.layers.3.bias')
    rewrite(path, tensors={'head.layers.3.bias': torch.zeros(3), 'teacher.w': torch.zeros(1)})
    refused(path, '1 are unknown', 'teacher.w')


def test_weights_of_another_shape(path):
    rewrite(path, tensors={'head.layers.3.bias': torch.zeros(4)})
    refused(path, 'head.layers.3.bias is (4,), not (3,)')


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite(path, value):
    rewrite(path, tensors={'head.layers.3.bias': torch.tensor([0, value, 0])})
    refused(path, 'head.layers.3.bias', 'not finite')


def test_a_failed_save_leaves_the_old_file(path, model, monkeypatch):
    before = path.read_bytes()

    def full_disk(tensors, target, metadata):
        target.write_bytes(b'half of it')
        raise OSError('No space left on device')

    monkeypatch.setattr(checkpoint, 'save_file', full_disk)
    with pytest.raises(OSError, match='No space'):
        checkpoint.save(path, model, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.undo()
    path.with_name(f'{path.name}.partial').write_text('of a machine that went down')
    checkpoint.save(path, model, {'trained_on': 'again'})
    assert checkpoint.load(path).trained_on == 'again'
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(('value', 'half'), [(float('nan'), False), (1e6, True)])
def test_weights_that_could_not_be_loaded_are_not_saved(path, value, half):
    model = make_model()
    before = path.read_bytes()
    with torch.no_grad():
        model.head.layers[3].bias[1] = value
    with pytest.raises(CheckpointError, match=r'head\.layers\.3\.bias') as caught:
        checkpoint.save(path, model, {}, half=half)
    assert ('float16' in str(caught.value)) == half
    assert path.read_bytes() == before
