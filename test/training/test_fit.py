"""Training runs: what they learn, what they leave behind, and what stops them."""

from __future__ import annotations

import json
import math
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from bev_perception.errors import BevError, ConfigError
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_training.fit.ema import Ema
from bev_training.fit.loop import fit
from bev_training.fit.recipes import find_recipe, read_recipe
from bev_training.fit.schedule import count_steps
from bev_training.fit.settings import AugmentConfig, DataConfig, LossConfig, OptimizerConfig
from bev_training.objectives.segmentation import SegmentationObjective
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


# --- what stops a run ---------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r'give another --out'):
            run(make_run_config(), tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']
    run(make_run_config(), tmp_path / 'run')
    with pytest.raises(ConfigError, match=r'is not empty; give --resume to go on with it'):
        run(make_run_config(), tmp_path / 'run')


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ({'precision': '16-mixed'}, "'16-mixed' needs a GPU"),
        ({'accelerator': 'cuda'}, 'no GPU is to be had'),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason='what a machine without a GPU says')
def test_a_device_that_is_not_there_is_one_line(values, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run(make_run_config(**values), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_processes_that_were_started_must_be_those_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    with pytest.raises(ConfigError, match=r'4 processes were started, but devices x nodes is 1 x'):
        run(make_run_config(), tmp_path / 'run')


def test_a_damaged_sample_is_one_line_that_names_it(tmp_path):
    source = make_fake_source(4, broken=(0, 1, 2, 3))
    with pytest.raises(
        BevError, match=r'sample scene-0000/\d+: shard of frame \d is damaged'
    ) as e:
        run(make_run_config(), tmp_path / 'run', train=source)
    assert '\n' not in str(e.value)
    with pytest.raises(BevError, match=r'sample scene-0000/000001: shard of frame 1'):
        run(make_run_config(), tmp_path / 'val', val=make_fake_source(3, broken=(1,)))


@pytest.mark.parametrize('what', ['loss', 'gradient'])
def test_what_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    what, tmp_path, monkeypatch
):
    whole = SegmentationObjective.loss
    calls = []

    def loss(self, prediction, targets):
        terms = whole(self, prediction, targets)
        calls.append(0)
        if len(calls) == 3 and what == 'loss':
            terms['loss'] = terms['loss'] * math.nan
        if len(calls) == 3 and what == 'gradient':  # d sqrt(x) / dx at 0
            terms['loss'] = terms['loss'] + (prediction.logits * 0).sum().abs().sqrt()
        return terms

    monkeypatch.setattr(SegmentationObjective, 'loss', loss)
    config = make_run_config(steps=5, save_every=1)
    said = r'step 3: the (loss|norm of the gradients) is nan with the samples scene-\d+/\d+, scene'
    with pytest.raises(BevError, match=said) as caught:
        run(config, tmp_path / 'run')
    assert '\n' not in str(caught.value)
    state = torch.load(tmp_path / 'run' / 'last.ckpt', weights_only=True)
    assert state['step'] == 2
    assert all(value.isfinite().all() for value in state['weights']['network'].values())
    assert [row['step'] for row in rows_of(tmp_path / 'run')] == ['1', '2']
    monkeypatch.undo()
    assert run(config, tmp_path / 'run', resume=True).steps == 5


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond this fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_one_line_and_the_checkpoint_of_before_stays(tmp_path):
    config, out = make_run_config(save_every=2, steps=2), tmp_path / 'run'
    with files_of_at_most(2**20), pytest.raises(BevError, match=r'cannot be written: .*; nothing'):
        run(config, out)
    run(config, out, resume=True)
    before = (out / 'last.ckpt').read_bytes()
    (out / 'final.safetensors').unlink()
    with files_of_at_most(2**20), pytest.raises(BevError) as caught:
        run(config, out, resume=True)
    assert 'last.ckpt is that of before' in str(caught.value) and '\n' not in str(caught.value)
    assert (out / 'last.ckpt').read_bytes() == before
    assert not [path.name for path in out.iterdir() if path.name.endswith(('.part', '.partial'))]
    assert not (out / 'final.safetensors').exists()


def test_an_interrupted_write_of_the_state_leaves_the_old_one(tmp_path):
    config, out = make_run_config(save_every=1, steps=3), tmp_path / 'run'
    limits = []

    class Filling:
        """The disk is full from the second step on."""

        def __call__(self, line: str) -> None:
            if line.startswith('step 1'):
                limits.append(files_of_at_most(2**20))
                limits[-1].__enter__()

    config = replace(config, validate_every=1)
    try:
        with pytest.raises(BevError, match=r'cannot be written'):
            run(config, out, val=make_fake_source(1), say=Filling())
    finally:
        limits[0].__exit__(None, None, None)
    state = torch.load(out / 'last.ckpt', weights_only=True)
    assert state['step'] == 1
    assert not [path.name for path in out.iterdir() if path.name.endswith(('.part', '.partial'))]
