"""The predictor: the plain network's answer, its table cache, devices, repeatability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bev_perception.errors import ConfigError, SyncError
from bev_perception.model.config import NETWORKS
from bev_perception.occupancy import to_cells
from bev_perception.predictor import Predictor, choose_device
from bev_perception.preprocess import prepare
from bev_perception.views import ViewSet

from .factories import look, make_camera, make_config, make_model, make_rig, make_view_set

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='this machine has no GPU')


@pytest.fixture(scope='module')
def model():
    return make_model()


@pytest.fixture
def predictor(model):
    return Predictor(model, device='cpu')


def plain(model, view_set):
    """Probabilities of the network as it is trained."""
    with torch.inference_mode():
        out = model(prepare(view_set, model.config))
    return out.logits[0].sigmoid().numpy(), out.valid[0].numpy()


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('backbone', ['resnet18', 'tf_efficientnet_lite0'])
@pytest.mark.parametrize('missing', [(), ('front', 'back_left')])
def test_equals_the_plain_model(network, backbone, missing):
    """Folded batch norms, tables and channels_last memory change nothing."""
    model = make_model(make_config(network=network, backbone=backbone))
    view_set = make_view_set(missing=missing)
    got = Predictor(model, device='cpu')(view_set)
    expected, valid = plain(model, view_set)
    assert got.classes.dtype == np.float32 and got.classes.shape == (3, 16, 20)
    np.testing.assert_allclose(got.classes, expected, atol=1e-4)
    np.testing.assert_array_equal(got.valid, valid)
    assert np.ptp(got.classes) > 0.05


def test_the_model_stays_trainable_as_it_was():
    """A training loop may predict in between: mode, layout and weights of its model stay."""
    model = make_model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    Predictor(model, device='cpu')(make_view_set())
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(p.is_contiguous() for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_same_input_same_output(predictor, model):
    view_set = make_view_set()
    first = predictor(view_set)
    predictor(make_view_set(make_rig(fov_deg=50.0)))  # another rig in between
    for again in (predictor(view_set), Predictor(model, device='cpu')(view_set)):
        np.testing.assert_array_equal(first.classes, again.classes)
        np.testing.assert_array_equal(first.valid, again.valid)


def test_tables_are_kept_while_the_calibration_stays(predictor):
    rig = make_rig()
    for _ in range(3):
        predictor(make_view_set(rig))
    assert predictor.projections_built == 1
    camera, pose = rig['front']
    moved = {**rig, 'front': (camera, pose + 1e-3 * np.eye(4, 4, 3))}  # 1 mm forward
    predictor(make_view_set(moved))
    assert predictor.projections_built == 2
    zoomed = {**moved, 'front': (make_camera(fov_deg=71), moved['front'][1])}  # K alone
    predictor(make_view_set(zoomed))
    assert predictor.projections_built == 3
    predictor(make_view_set(rig, missing=('front',)))
    assert predictor.projections_built == 4


def test_a_stale_table_is_never_used(predictor, model):
    """After every change the answer is that of the new calibration."""
    rig = make_rig()
    for sets in (
        make_view_set(rig),
        make_view_set({**rig, 'front': (rig['front'][0], look(10))}),
        make_view_set(rig, missing=('back',)),
        make_view_set(dict(reversed(rig.items()))),
    ):
        expected, valid = plain(model, sets)
        got = predictor(sets)
        np.testing.assert_allclose(got.classes, expected, atol=1e-4)
        np.testing.assert_array_equal(got.valid, valid)


def test_inputs_with_dead_cameras(predictor, model):
    """`live` is part of what a table depends on."""
    inputs = prepare(make_view_set(), model.config)
    assert predictor.predict(inputs).valid.mean() > 0.8
    nobody = replace(inputs, live=torch.zeros_like(inputs.live))
    assert not predictor.predict(nobody).valid.any()


def test_warm_up(predictor):
    predictor.warm_up()
    built = predictor.projections_built
    got = predictor(make_view_set())
    assert predictor.projections_built == built + 1 and got.valid.any()


def make_temporal():
    config = make_config(network='bevformer')
    return make_model(replace(config, attention=replace(config.attention, temporal=True)))


def make_drive(sets: int = 3) -> list[ViewSet]:
    """A vehicle that drives straight on, 0.7 m from set to set."""
    poses = np.tile(np.eye(4), (sets, 1, 1))
    poses[:, 0, 3] = 0.7 * np.arange(sets)
    rigs = [make_rig(fov_deg=70.0 + i) for i in range(sets)]
    return [make_view_set(rig, odom_T_ego=pose) for rig, pose in zip(rigs, poses, strict=True)]


def test_a_temporal_network_says_what_the_plain_one_does_over_a_drive():
    model, memory, kept = make_temporal(), None, None
    predictor = Predictor(model, device='cpu')
    for view_set in make_drive():
        got = predictor(view_set, kept)
        with torch.inference_mode():
            expected = model(prepare(view_set, model.config), memory)
        np.testing.assert_allclose(got.classes, expected.logits[0].sigmoid(), atol=1e-4)
        kept, memory = got.memory, expected.memory
    alone = predictor(view_set)
    assert np.abs(alone.classes - got.classes).max() > 1e-3


def test_a_temporal_network_without_a_pose_answers_and_remembers_nothing():
    first, *_, last = make_drive()
    predictor = Predictor(make_temporal(), device='cpu')
    lost = predictor(replace(last, odom_T_ego=None), predictor(first).memory)
    assert lost.memory is None
    np.testing.assert_array_equal(lost.classes, predictor(last).classes)


def test_warm_up_of_a_temporal_network_looks_back_too():
    predictor, befores = Predictor(make_temporal(), device='cpu'), []
    predictor.model.attention.register_forward_pre_hook(lambda _, args: befores.append(args[2]))
    predictor.warm_up()
    assert len(befores) == 2 and befores[0] is None and befores[1][1].any()


def test_a_set_without_images(predictor):
    with pytest.raises(SyncError, match='no image'):
        predictor(ViewSet(stamp_ns=1, views=()))


def test_a_thing_on_the_left_is_on_the_left():
    """Through the whole path: a network whose head shows the features themselves lights the cell.

    A camera at (0, 0, 1.5) looks ahead, f = 45.7 px. The cell around x 3.5, y 1.5 has its upper
    voxel at (3.5, 1.5, 2), seen at u = 31.5 - 45.7 * 1.5 / 3.5 = 11.9, v = 15.5 - 45.7 * 0.5 / 3.5
    = 9.0: the feature column 1 of 8. Cells of 1 m from (-8, -8): x 11, y 9, so with 20 columns
    data[9 * 20 + 11 = 191].
    """
    model = make_model()

    def encode(images):
        features = torch.zeros(len(images), 8, 4, 8)
        features[:, :, :, 1] = 20  # left quarter of the image
        return features

    class Show(torch.nn.Module):
        def forward(self, x):
            return x[:, :3] if x.ndim == 4 else x.amax(2)

    predictor = Predictor(model, device='cpu')
    predictor.model.encoder.forward = encode
    predictor.model.bev_net = predictor.model.head = Show()
    got = predictor(make_view_set({'front': (make_camera(), look())}))
    data = to_cells(got.classes - 0.5, got.valid)[0].flatten()  # sigmoid(0) is 0.5
    assert data[191] == 50
    mirrored = to_cells(got.classes - 0.5, got.valid)[0, 16 - 1 - 9, 11]
    assert mirrored == 0
    y, x = np.divmod(np.flatnonzero(data > 0), 20)
    assert (y >= 8).all() and (x >= 8).all()  # left and ahead only


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize('device', ['gpu', '', 'tpu:0', 'meta', 'mps', 'cuda:99', 'cuda:-1'])
def test_devices_that_are_not_there(model, device):
    with pytest.raises(ConfigError, match='device') as caught:
        Predictor(model, device=device)
    assert '\n' not in str(caught.value)


def test_cuda_without_a_gpu(model):
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    with pytest.raises(ConfigError, match='this machine has 0 GPUs'):
        Predictor(model, device='cuda')
    assert choose_device('auto') == torch.device('cpu')


@pytest.mark.parametrize('precision', ['float64', 'half', ''])
def test_unknown_precision(model, precision):
    with pytest.raises(ConfigError, match='precision'):
        Predictor(model, device='cpu', precision=precision)


def test_float16_needs_a_gpu(model):
    with pytest.raises(ConfigError, match='GPU'):
        Predictor(model, device='cpu', precision='float16')


def test_bfloat16_is_close(predictor, model):
    view_set = make_view_set()
    fast, exact = (
        Predictor(model, device='cpu', precision='bfloat16')(view_set),
        predictor(view_set),
    )
    assert fast.classes.dtype == np.float32
    difference = np.abs(fast.classes - exact.classes)
    print(f'\nbfloat16: mean difference {difference.mean():.4f}, max {difference.max():.4f}')
    assert 0 < difference.mean() < 0.02 and difference.max() < 0.2
    np.testing.assert_array_equal(fast.valid, exact.valid)


@needs_gpu
@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('precision', ['float32', 'bfloat16', 'float16'])
def test_gpu_equals_cpu(network, precision):
    model, view_set = make_model(make_config(network=network)), make_view_set()
    got = Predictor(model, device='cuda', precision=precision)(view_set)
    exact = Predictor(model, device='cpu')(view_set)
    atol = 5e-3 if precision == 'float32' else 0.2
    np.testing.assert_allclose(got.classes, exact.classes, atol=atol)
    assert (got.valid == exact.valid).mean() > 0.999
