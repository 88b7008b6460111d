"""Training runs: what they learn, and what they leave behind."""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from bev_perception.errors import CheckpointError
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_training.fit.ema import Ema
from bev_training.fit.loop import fit
from bev_training.fit.out_folder import save_network
from bev_training.fit.recipes import find_recipe, read_recipe
from bev_training.fit.schedule import count_steps, make_optimizer
from bev_training.fit.settings import (
    CARD_FACTS,
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimizerConfig,
)
from test.factories import make_model
from test.training.fake_source import FakeSource, make_fake_model, make_fake_source
from test.training.fit_runs import (
    losses_of,
    make_run_config,
    one_thread,
    rows_of,
    run,
    same_weights,
    share_of_close_weights,
    weights_of,
)

__all__ = ['one_thread']


def test_the_debug_recipe_runs_three_steps_and_leaves_all_its_files(tmp_path):
    config = read_recipe(find_recipe('debug'))
    source = FakeSource(count=8, grid=config.model.grid)
    said: list[str] = []
    result = fit(
        config, tmp_path / 'run', train=source, val=replace(source, count=3), command='bev x',
        say=said.append,
    )  # fmt: skip
    assert (result.steps, result.rank, result.best[1] in (2, 3)) == (3, 0, True)
    out = tmp_path / 'run'
    assert sorted(path.name for path in out.iterdir()) == [
        'best.safetensors', 'config.yaml', 'final.safetensors', 'labels.txt', 'last.ckpt',
        'learning_curve.png', 'metrics.csv', 'tensorboard',
    ]  # fmt: skip
    assert read_recipe(out / 'config.yaml') == config
    rows = rows_of(out)
    assert [row['step'] for row in rows] == ['1', '2', '3']
    assert [bool(row['val_drivable_area']) for row in rows] == [False, True, True]
    assert all(math.isfinite(float(row['loss'])) for row in rows)
    assert {'val_vehicle', 'val_best_vehicle', 'val_mean', 'lr', 'bce', 'grad_norm'} <= {*rows[0]}
    labelled = (out / 'labels.txt').read_text().splitlines()
    assert [line for line in labelled if not line.startswith('#')] == list(source.keys)
    loaded = checkpoint.load(out / 'final.safetensors')
    assert loaded.model.config == config.model
    card = loaded.card
    assert (card['command'], card['seed'], card['steps']) == ('bev x', '0', '3 of 3')
    assert 'all 8 samples' in card['trained_on']
    assert json.loads(card['config'])['optimizer']['lr'] == 1e-3
    assert json.loads(card['scores'])['classes'].keys() == {'drivable_area', 'vehicle'}
    assert 'git' in card['code'] or card['code']
    facts = '\n'.join(said)
    assert 'all 8 samples; validation: 3 samples' in facts and '3 steps of 2 samples' in facts
    assert 'weights: ' in facts and 'step 3: drivable_area' in facts


def test_a_run_without_validation_has_no_best_network(tmp_path):
    result = run(make_run_config(), tmp_path / 'run')
    assert result.best is None and result.scores is None
    assert not (tmp_path / 'run' / 'best.safetensors').exists()
    assert 'val_mean' not in rows_of(tmp_path / 'run')[0]


def test_the_same_run_gives_the_same_weights_and_another_seed_others(tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        run(make_run_config(seed=seed), tmp_path / name)
    assert same_weights(weights_of(tmp_path / 'a'), weights_of(tmp_path / 'b'))
    assert not same_weights(weights_of(tmp_path / 'a'), weights_of(tmp_path / 'c'))


def test_a_few_samples_are_learned(tmp_path):
    config = make_run_config(
        steps=16,
        optimizer=OptimizerConfig(lr=5e-3),
        augment=AugmentConfig(
            resize=(1, 1), crop_share=0, brightness=0, contrast=0, saturation=0, hue_deg=0,
            flip_x=0, flip_y=0,
        ),
    )  # fmt: skip
    run(config, tmp_path / 'run', samples=2)
    losses = losses_of(tmp_path / 'run')
    assert losses[-1] < 0.75 * losses[0]


def test_steps_come_from_epochs_over_the_labelled_samples():
    config = make_run_config(steps=0, epochs=3.0, batch_size=4, accumulate=2)
    assert count_steps(config, 40, 1) == 15
    assert count_steps(config, 40, 2) == 8
    assert count_steps(config, 1, 1) == 1
    assert count_steps(replace(config, steps=7), 40, 1) == 7


def test_only_the_drawn_labels_are_used(tmp_path):
    config = make_run_config(data=DataConfig(workers=0, labels_percent=25, labels_by='scene'))
    run(config, tmp_path / 'run', samples=16)
    lines = (tmp_path / 'run' / 'labels.txt').read_text().splitlines()
    keys = [line for line in lines if not line.startswith('#')]
    assert len(keys) == 4 and len({key.split('/')[0] for key in keys}) == 1
    card = checkpoint.load(tmp_path / 'run' / 'final.safetensors').card
    assert card['labels'] == '4 of 16 samples (25 % by scene, seed 0)'


def test_half_weights_halve_the_files_and_keep_the_network(tmp_path):
    config, val = make_run_config(steps=1), make_fake_source(1)
    run(config, tmp_path / 'whole', val=val)
    run(replace(config, half_weights=True), tmp_path / 'half', val=val)
    for name in ('final', 'best'):
        whole, half = weights_of(tmp_path / 'whole', name), weights_of(tmp_path / 'half', name)
        assert {v.dtype for v in half.values()} == {torch.float16, torch.int64}
        sizes = [(tmp_path / x / f'{name}.safetensors').stat().st_size for x in ('whole', 'half')]
        assert sizes[1] < 0.55 * sizes[0]
        for key, value in whole.items():
            torch.testing.assert_close(half[key].to(value.dtype), value, rtol=1e-3, atol=1e-6)
    loaded = checkpoint.load(tmp_path / 'half' / 'final.safetensors').model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    # what goes on is whole
    state = torch.load(tmp_path / 'half' / 'last.ckpt', weights_only=True)['weights']
    assert same_weights(dict(state['network']), weights_of(tmp_path / 'whole'))


def test_weights_too_large_for_half_say_how_to_go_on(tmp_path):
    network = make_model(make_fake_model())
    next(network.parameters()).data[:] = 1e6
    with pytest.raises(CheckpointError, match=r'float16.*half_weights=false') as caught:
        save_network(tmp_path / 'a.safetensors', network, {}, half=True)
    assert '\n' not in str(caught.value) and not list(tmp_path.iterdir())


def test_the_card_says_what_the_recipe_wants_beside_the_facts_of_the_run(tmp_path, monkeypatch):
    versions = iter(['1.0, git a', '1.0, git b'])
    monkeypatch.setattr('bev_training.fit.prepare.code_version', lambda: next(versions))
    config = make_run_config(steps=1, card={'licence': 'MIT', 'trained_on': 'a made-up street'})
    run(config, tmp_path / 'run')
    loaded = checkpoint.load(tmp_path / 'run' / 'final.safetensors')
    assert loaded.trained_on == 'a made-up street: all 6 samples'
    assert (loaded.card['licence'], loaded.card['code']) == ('MIT', '1.0, git a')
    assert loaded.card.keys() == CARD_FACTS | {'trained_on', 'licence'}
    run(config, tmp_path / 'run', resume=True)
    card = checkpoint.load(tmp_path / 'run' / 'final.safetensors').card
    assert card['code'] == '1.0, git a, then 1.0, git b'


@pytest.mark.parametrize('steps', [1, 2, 19, 20, 21, 100])
def test_a_warm_up_of_any_length_rises_to_the_largest_rate_at_most(steps):
    network = make_model(make_fake_model())
    config = OptimizerConfig(lr=1e-3, warmup_share=0.05)
    optimizer, schedule = make_optimizer(network, torch.nn.Identity(), config, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[-1])
        optimizer.step()
        schedule.step()
    assert all(0 < rate <= 1e-3 * (1 + 1e-9) for rate in rates)
    assert all(later < rate for rate, later in itertools.pairwise(rates[5:]))
    if steps >= 19:
        assert max(rates[:6]) > 0.9e-3


def test_one_step_on_one_sample_draws_more_than_an_empty_picture(tmp_path):
    run(make_run_config(steps=1, batch_size=3), tmp_path / 'run', samples=1)
    picture = cv2.imread(str(tmp_path / 'run' / 'learning_curve.png')).astype(int)
    middle = picture[150:350, 250:500]  # no text, no legend
    blue = np.array([248, 180, 138])  # the line of the mean, BGR
    assert (np.abs(middle - blue).max(-1) < 60).any()


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    said: list[str] = []
    run(make_run_config(steps=1), tmp_path / 'run', say=said.append)
    about = [line for line in said if 'TensorBoard' in line]
    assert len(about) == 1 and 'metrics.csv' in about[0]
    assert not (tmp_path / 'run' / 'tensorboard').exists()
    assert len(rows_of(tmp_path / 'run')) == 1


SCALE = 'encoder.trunk.model.bn1.weight'
FROZEN = OptimizerConfig(lr=1e-3, batch_norm='frozen')


def test_two_accumulated_batches_equal_one_of_twice_the_size(tmp_path):
    config = make_run_config(steps=4, optimizer=replace(FROZEN, lr=1e-4))
    run(replace(config, batch_size=4), tmp_path / 'large')
    run(replace(config, batch_size=2, accumulate=2), tmp_path / 'small')
    assert losses_of(tmp_path / 'small') == pytest.approx(losses_of(tmp_path / 'large'), rel=1e-4)
    norms = [float(rows_of(tmp_path / name)[0]['grad_norm']) for name in ('small', 'large')]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    large, small = weights_of(tmp_path / 'large'), weights_of(tmp_path / 'small')
    assert share_of_close_weights(large, small) > 0.99


def test_a_frozen_backbone_stays_bit_identical_and_the_rest_learns(tmp_path):
    config = make_run_config(steps=4, optimizer=OptimizerConfig(backbone_lr_scale=0, lr=1e-2))
    torch.manual_seed(config.seed)
    before = BevModel(config.model).state_dict()
    run(config, tmp_path / 'run')
    after = weights_of(tmp_path / 'run')
    trunk = {name for name in before if name.startswith('encoder.trunk.')}
    assert any(name.endswith('running_mean') for name in trunk)
    assert all(torch.equal(before[name], after[name]) for name in trunk)
    rest = [name for name in before if name not in trunk and before[name].is_floating_point()]
    assert all(not torch.equal(before[name], after[name]) for name in rest)


def test_the_backbone_has_its_own_rate(tmp_path):
    config = make_run_config(optimizer=OptimizerConfig(backbone_lr_scale=0.1, lr=1e-3))
    run(config, tmp_path / 'run')
    state = torch.load(tmp_path / 'run' / 'last.ckpt', weights_only=True)
    trunk, rest = state['weights']['optimizer']['param_groups']
    assert trunk['max_lr'] == pytest.approx(1e-4) and rest['max_lr'] == pytest.approx(1e-3)


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale(tmp_path):
    config = make_run_config(optimizer=FROZEN)
    torch.manual_seed(config.seed)
    before = BevModel(config.model).state_dict()
    run(config, tmp_path / 'run')
    after = weights_of(tmp_path / 'run')
    statistics = [name for name in before if 'running_' in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)
    assert not torch.equal(before[SCALE], after[SCALE])


def test_the_average_follows_the_weights_as_written():
    network = make_model(make_fake_model())
    ema = Ema(network, 0.5)
    first = next(network.parameters()).detach().clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
        for buffer in network.buffers():
            buffer.add_(2)
    ema.update(network, 1)  # d = min(0.5, 2 / 11)
    torch.testing.assert_close(next(ema.network.parameters()), first + 9 / 11)
    ema.update(network, 100)
    torch.testing.assert_close(next(ema.network.parameters()), first + 1 - 0.5 * 2 / 11)
    for mine, theirs in zip(ema.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert not any(p.requires_grad for p in ema.network.parameters())


def test_a_run_with_an_average_stores_the_average(tmp_path):
    run(make_run_config(ema_decay=0.9, steps=3), tmp_path / 'run')
    state = torch.load(tmp_path / 'run' / 'last.ckpt', weights_only=True)['weights']
    final = weights_of(tmp_path / 'run')
    assert same_weights(final, dict(state['ema']))
    assert not same_weights(final, dict(state['network']))


def test_centre_and_offset_learn_with_their_own_weights(tmp_path):
    config = make_run_config(
        make_fake_model(center_offset=True),
        loss=LossConfig(bce=10, center=0.5, offset=0.5, learned_weights=True),
    )
    run(config, tmp_path / 'run')
    row = rows_of(tmp_path / 'run')[-1]
    assert float(row['center']) > 0 and float(row['offset']) > 0
    state = torch.load(tmp_path / 'run' / 'last.ckpt', weights_only=True)['weights']
    assert all(value != 0 for value in state['objective'].values())


def test_bfloat16_rounds_the_network_and_not_the_cameras(tmp_path):
    config = make_run_config(steps=1, optimizer=FROZEN)
    run(config, tmp_path / 'full')
    run(replace(config, precision='bf16-mixed'), tmp_path / 'half')
    assert losses_of(tmp_path / 'half') == pytest.approx(losses_of(tmp_path / 'full'), rel=0.01)
