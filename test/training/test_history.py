"""Training of networks that remember: what history does to a step, and what it leaves alone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from bev_perception.errors import ConfigError
from bev_perception.memory import Recollection, Whereabouts
from bev_perception.model.bev_model import BevModel
from bev_perception.predictor import Predictor
from bev_training.data.loader import eval_loader, train_loader
from bev_training.fit.history import remember
from bev_training.fit.learner import Learner
from bev_training.fit.settings import OptimizerConfig
from bev_training.fit.stop import Stop
from test.factories import make_model
from test.training.fake_source import make_fake_source
from test.training.fit_runs import (
    hooked,
    make_run_config,
    one_thread,
    rows_of,
    run,
    same_weights,
    weights_of,
)
from test.training.test_sequences import temporal_model

__all__ = ['one_thread']


def fabric_of() -> Fabric:
    return Fabric(accelerator='cpu', devices=1)


def batch_of(model, indices, source=None):
    source = source or make_fake_source(8)
    (batch,) = eval_loader(source, indices, model=model, batch_size=len(indices), workers=0)
    return batch


def learner_of(config, seed=0):
    torch.manual_seed(seed)
    return Learner(fabric_of(), BevModel(config.model), config, steps=4)


def step(learner, batch, number=1):
    return learner.step(iter([batch]), number, Stop()).values


@pytest.fixture(scope='module')
def model():
    return temporal_model()


def test_what_is_remembered_is_the_chain_of_the_instants(model):
    network, batch = make_model(model), batch_of(model, [3])
    found = remember(fabric_of(), network, batch)
    with torch.no_grad():
        wanted = network(batch.before[1], network(batch.before[0]).memory).memory
        alone = network(batch.before[1]).memory
    assert torch.equal(found.features, wanted.features)
    assert not torch.equal(found.features, alone.features)
    assert torch.equal(found.odom_T_ego, batch.before[1].odom_T_ego)
    assert not found.features.requires_grad


def test_a_sample_without_a_past_is_one_alone(model):
    """A first instant says the same whether it stands beside others that have a past or not."""
    network = make_model(model)
    batch = batch_of(model, [0, 3])
    with torch.no_grad():
        together = network(batch.inputs, remember(fabric_of(), network, batch))
        first = network(batch_of(model, [0]).inputs)
        last = batch_of(model, [3])
        with_past = network(last.inputs, remember(fabric_of(), network, last))
    torch.testing.assert_close(together.logits[:1], first.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.logits[1:], with_past.logits, atol=1e-5, rtol=1e-4)


def test_every_weight_learns_where_no_sample_has_a_past(model):
    """Processes wait for each other's gradients, and one may have only first instants."""
    batch = batch_of(model, [0, 4])
    assert len(batch.before) == 2
    learner = learner_of(make_run_config(model))
    assert remember(learner.fabric, learner.network, batch) is None
    for memory in (None, remember(learner.fabric, learner.network, batch_of(model, [3, 7]))):
        learner.network.train()
        prediction = learner.network(batch.inputs, memory)
        learner.objective.loss(prediction, batch.targets)['loss'].backward()
        assert all(p.grad is not None for p in learner.network.parameters())
        learner.network.zero_grad(set_to_none=True)


def test_history_changes_the_loss_of_a_step(model):
    config, batch = make_run_config(model), batch_of(model, [3, 7])
    with_past = step(learner_of(config), batch)['loss']
    without = step(learner_of(config), replace(batch, before=()))['loss']
    again = step(learner_of(config), batch)['loss']
    assert with_past == again != without


def test_history_gets_no_gradient_and_touches_no_statistics(model):
    """Images of the past that would ruin both leave no trace but what is remembered."""
    config = make_run_config(model, optimizer=OptimizerConfig(lr=1e-3, clip_norm=0))
    batch = batch_of(model, [3])
    learner = learner_of(config)
    calls = []

    def note(module, inputs):
        calls.append((module.training, torch.is_grad_enabled()))

    learner.network.encoder.register_forward_pre_hook(note)
    before = {k: v.clone() for k, v in learner.network.named_buffers()}
    step(learner, batch)
    assert calls == [(False, False), (False, False), (True, True)]
    counted = [
        (name, int(value - before[name]))
        for name, value in learner.network.named_buffers()
        if name.endswith('num_batches_tracked')
    ]
    assert counted and {n for _, n in counted} == {1}  # that of the labelled instant

    # The same step with the memory given as numbers: gradients do not go through it.
    other = learner_of(config)
    memory = remember(other.fabric, other.network, batch)
    other.network.train()
    torch.manual_seed(5)
    prediction = other.network(batch.inputs, memory)
    terms = other.objective.loss(prediction, batch.targets)
    terms['loss'].backward()
    norm = torch.cat([p.grad.flatten() for p in other.network.parameters()]).norm()
    learner = learner_of(config)
    torch.manual_seed(5)
    assert step(learner, batch)['grad_norm'] == pytest.approx(float(norm), rel=1e-3)


def test_frozen_parts_stay_frozen_around_history(model):
    config = make_run_config(
        model,
        optimizer=OptimizerConfig(lr=1e-3, backbone_lr_scale=0, batch_norm='frozen'),
        accumulate=2,
    )
    learner, batch = learner_of(config), batch_of(model, [3])
    before = {k: v.clone() for k, v in learner.network.named_buffers()}
    learner.step(iter([batch, batch]), 1, Stop())
    assert not learner.network.encoder.trunk.training
    assert learner.network.training and learner.network.attention.training
    assert all(torch.equal(v, before[k]) for k, v in learner.network.named_buffers())


def test_a_run_validates_with_history_and_its_network_remembers(model, tmp_path):
    config = make_run_config(model, ema_decay=0.9)
    result = run(config, tmp_path / 'run', samples=8, val=make_fake_source(8))
    assert result.steps == 2 and result.scores['mean_iou'] >= 0
    alone = replace(model, attention=replace(model.attention, frames=1))
    other = run(
        replace(config, model=alone), tmp_path / 'alone', samples=8, val=make_fake_source(8)
    )
    assert other.scores['classes'] != result.scores['classes']


def test_a_stopped_run_that_goes_on_equals_one_that_was_not(model, tmp_path):
    config = make_run_config(model, steps=3, batch_size=1, save_every=1)
    run(config, tmp_path / 'whole', samples=5)
    # The second sample's images are read after the first one's, with up to two before it.
    stop = {2: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / 'run', train=hooked(5, stop))
    run(config, tmp_path / 'run', resume=True, samples=5)
    assert rows_of(tmp_path / 'run') == rows_of(tmp_path / 'whole')
    assert same_weights(weights_of(tmp_path / 'run'), weights_of(tmp_path / 'whole'))


def test_data_without_odometry_are_refused_before_the_first_step(model, tmp_path):
    for train, val in ((False, True), (True, False)):
        with pytest.raises(ConfigError, match='scene-0000/000000 has no pose of the vehicle'):
            run(
                make_run_config(model),
                tmp_path / f'{train}',
                train=make_fake_source(4, odometry=train),
                val=make_fake_source(4, odometry=val),
            )
        assert not (tmp_path / f'{train}' / 'config.yaml').exists()


def test_a_sequence_says_what_the_node_says_after_as_many_sets(model):
    """Training and validation, in batches, against the stream of a live caller."""
    source, network = make_fake_source(8), make_model(model)
    predictor, recollection = Predictor(network, device='cpu'), Recollection()
    said = []
    for i in (4, 5, 6):
        view_set = source.view_set(i)
        now = Whereabouts.of(view_set, 0)
        said.append(predictor(view_set, recollection.before(now)))
        recollection.keep(said[-1].memory, now)
    assert recollection.used == 2
    batch = batch_of(model, [6], source)
    with torch.no_grad():
        found = network(batch.inputs, remember(fabric_of(), network, batch))
    assert torch.equal(found.valid[0], torch.from_numpy(said[-1].valid))
    probability = found.logits[0].sigmoid()
    torch.testing.assert_close(
        probability, torch.from_numpy(said[-1].classes), atol=1e-4, rtol=1e-3
    )
    forgetful = predictor(source.view_set(6))
    assert (torch.from_numpy(forgetful.classes) - probability).abs().max() > 1e-3


def test_two_scenes_in_a_stream_do_not_mix(model):
    source = make_fake_source(8, late_s={4: 5.0})
    recollection, network = Recollection(), make_model(model)
    predictor = Predictor(network, device='cpu')
    for i in (2, 3, 4):
        view_set = source.view_set(i)
        now = Whereabouts.of(view_set, source.scenes[i])
        said = predictor(view_set, recollection.before(now))
        recollection.keep(said.memory, now)
    assert dict(recollection.resets) == {'gap': 1} and recollection.used == 1
    assert (said.classes == predictor(source.view_set(4)).classes).all()


def test_the_loader_of_a_run_gives_every_step_its_past(model):
    config = make_run_config(model)
    loader = train_loader(make_fake_source(8), range(8), config=config, first_step=0, steps=2)
    assert [len(batch.before) for batch in loader] == [2, 2]
