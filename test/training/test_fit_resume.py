"""A run that was stopped goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from bev_perception.errors import BevError, CheckpointError, ConfigError
from bev_training.fit.learner import Learner
from bev_training.fit.settings import DataConfig
from bev_training.fit.state import random_states, restore_random_states
from bev_training.fit.table import RunTable, read_columns
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

__all__ = ['one_thread']

# Validations after steps 3 and 6, states after 2, 3, 4 and 6; an average, and accumulation.
CONFIG = make_run_config(
    steps=6, batch_size=1, accumulate=2, validate_every=3, save_every=2, ema_decay=0.9
)


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp('whole') / 'run'
    run(CONFIG, out, samples=5, val=make_fake_source(2))
    return out


def stop(number: int) -> None:
    os.kill(os.getpid(), number)


def state_of(out):
    return torch.load(out / 'last.ckpt', weights_only=True)


def assert_the_same_run(out, whole) -> None:
    assert rows_of(out) == rows_of(whole)
    for name in ('final', 'best'):
        assert same_weights(weights_of(out, name), weights_of(whole, name)), name
    ours, theirs = state_of(out), state_of(whole)
    assert torch.equal(ours['rng'][0]['torch'], theirs['rng'][0]['torch'])
    ours, theirs = ours['weights'], theirs['weights']
    assert ours['schedule'] == theirs['schedule']
    for one, other in zip(
        ours['optimizer']['state'].values(), theirs['optimizer']['state'].values(), strict=True
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ('signals', 'step', 'pending'),
    [
        # sample number -> signal: of the first of a step's two, or of the second
        ({3: signal.SIGINT}, 2, False),
        ({8: signal.SIGTERM}, 4, False),
        ({6: signal.SIGINT}, 3, True),  # in the step before a validation
    ],
)
def test_a_run_stopped_by_a_signal_and_resumed_equals_one_that_was_not(
    signals, step, pending, whole_run, tmp_path
):
    out = tmp_path / 'run'
    hooks = {at: lambda number=number: stop(number) for at, number in signals.items()}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, out, train=hooked(5, hooks), val=make_fake_source(2))
    assert {number: signal.getsignal(number) for number in before} == before
    state = state_of(out)
    assert (state['step'], state['pending'] is not None) == (step, pending)
    assert not (out / 'final.safetensors').exists()
    run(CONFIG, out, resume=True, samples=5, val=make_fake_source(2))
    assert_the_same_run(out, whole_run)


def test_a_run_stopped_in_a_validation_goes_on_with_it(whole_run, tmp_path):
    out = tmp_path / 'run'
    val = hooked(2, {1: lambda: stop(signal.SIGTERM)})
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, out, samples=5, val=val)
    assert state_of(out)['step'] == 3 and state_of(out)['pending']['loss'] > 0
    assert [row['step'] for row in rows_of(out)] == ['1', '2']
    run(CONFIG, out, resume=True, samples=5, val=make_fake_source(2))
    assert_the_same_run(out, whole_run)


def test_a_run_that_crashed_between_states_repeats_the_steps_without_doubling_rows(
    whole_run, tmp_path, monkeypatch
):
    out, step = tmp_path / 'run', Learner.step

    def crash(self, batches, number, stop):
        if number == 6:
            raise RuntimeError('power cut')
        return step(self, batches, number, stop)

    monkeypatch.setattr(Learner, 'step', crash)
    with pytest.raises(RuntimeError, match='power cut'):
        run(CONFIG, out, samples=5, val=make_fake_source(2))
    monkeypatch.undo()
    assert state_of(out)['step'] == 4 and len(rows_of(out)) == 5
    with (out / 'metrics.csv').open('a') as file:
        file.write('6,0.00')  # a row that was being written
    run(CONFIG, out, resume=True, samples=5, val=make_fake_source(2))
    assert_the_same_run(out, whole_run)


def test_a_finished_run_stays_as_it_is(whole_run, tmp_path):
    out = tmp_path / 'run'
    shutil.copytree(whole_run, out)
    result = run(CONFIG, out, resume=True, samples=5, val=make_fake_source(2))
    assert result.scores == {**result.scores, 'step': 6}
    assert_the_same_run(out, whole_run)


def test_resume_begins_a_run_where_there_is_none_yet(tmp_path):
    config, out = make_run_config(), tmp_path / 'run'
    source = hooked(4, {3: lambda: (_ for _ in ()).throw(BevError('gone'))})
    with pytest.raises(BevError, match='gone'):  # in step 2, before any state
        run(config, out, train=source, resume=True)
    assert not (out / 'last.ckpt').exists()
    run(config, out, samples=4, resume=True)
    assert [row['step'] for row in rows_of(out)] == ['1', '2']


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'seed': 1}, 'seed was 0 and is now 1'),
        ({'steps': 9}, 'steps was 6 and is now 9'),
        ({'batch_size': 2}, 'batch_size was 1 and is now 2'),
        ({'ema_decay': 0.0}, 'ema_decay was 0.9 and is now 0.0'),
    ],
)
def test_other_settings_are_refused_by_name(changes, said, whole_run, tmp_path):
    out = tmp_path / 'run'
    shutil.copytree(whole_run, out)
    with pytest.raises(ConfigError, match=said) as caught:
        run(replace(CONFIG, **changes), out, resume=True, samples=5)
    assert '\n' not in str(caught.value)


def test_settings_that_change_nothing_may_differ(whole_run, tmp_path):
    out = tmp_path / 'run'
    shutil.copytree(whole_run, out)
    data = DataConfig(workers=1, train='elsewhere', cache='there')
    other = replace(
        CONFIG, data=data, save_every=1, validate_every=0, accelerator='auto',
        half_weights=True, card={'licence': 'MIT'},
    )  # fmt: skip
    run(other, out, resume=True, samples=5, val=make_fake_source(2))
    half = {name: value.to(weights_of(out)[name].dtype) for name, value in
            weights_of(whole_run).items()}  # fmt: skip
    assert same_weights(weights_of(out), half)


def test_a_run_may_go_on_without_validation(whole_run, tmp_path):
    out = tmp_path / 'run'
    with pytest.raises(KeyboardInterrupt):  # in the validation after step 3
        run(CONFIG, out, samples=5, val=hooked(2, {1: lambda: stop(signal.SIGTERM)}))
    run(CONFIG, out, resume=True, samples=5)
    assert [row['step'] for row in rows_of(out)] == list('123456')
    assert same_weights(weights_of(out), weights_of(whole_run))
    shutil.copytree(whole_run, tmp_path / 'done')
    run(CONFIG, tmp_path / 'done', resume=True, samples=5)
    assert rows_of(tmp_path / 'done') == rows_of(whole_run)


def test_a_state_of_other_weights_is_one_line(whole_run, tmp_path):
    out = tmp_path / 'run'
    shutil.copytree(whole_run, out)
    state = state_of(out)
    state['weights']['network'].popitem()
    torch.save(state, out / 'last.ckpt')
    with pytest.raises(CheckpointError, match='another version of this program') as caught:
        run(CONFIG, out, resume=True, samples=5)
    assert '\n' not in str(caught.value)


def test_other_samples_another_number_of_processes_and_damage_are_refused(whole_run, tmp_path):
    out = tmp_path / 'run'
    shutil.copytree(whole_run, out)
    with pytest.raises(
        ConfigError, match='samples to learn from are not those that the run began'
    ):
        run(CONFIG, out, resume=True, samples=6)
    state = state_of(out)
    torch.save({**state, 'rng': state['rng'] * 2}, out / 'last.ckpt')
    with pytest.raises(ConfigError, match='is of a run with 2 processes, not 1'):
        run(CONFIG, out, resume=True, samples=5)
    (out / 'last.ckpt').write_bytes((out / 'last.ckpt').read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r'last\.ckpt cannot be used: ') as caught:
        run(CONFIG, out, resume=True, samples=5)
    assert '\n' not in str(caught.value)


def test_random_numbers_go_on_where_they_were():
    states = random_states()

    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    first = draw()
    assert draw() != first
    restore_random_states(states)
    assert draw() == first


def test_a_table_keeps_whole_rows_up_to_a_step(tmp_path):
    with RunTable(tmp_path, ('loss', 'val_car'), steps_done=0) as table:
        table.add(1, {'loss': 2.0})
        table.add(2, {'loss': 1.5, 'val_car': 0.25})
        table.add(3, {'loss': 1.0})
    with (tmp_path / 'metrics.csv').open('a') as file:
        file.write('\0\0\0\n4,1.0,2,3,4\n5')  # after a power cut
    with RunTable(tmp_path, ('loss',), steps_done=2) as table:
        table.add(3, {'loss': 9.0})
    assert read_columns(tmp_path / 'metrics.csv') == {
        'loss': [(1, 2.0), (2, 1.5), (3, 9.0)],
        'val_car': [(2, 0.25)],
    }
    with RunTable(tmp_path, ('loss', 'val_car'), steps_done=0):
        assert read_columns(tmp_path / 'metrics.csv') == {}


def test_tensorboard_shows_each_step_once(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer as writer

    # Files of one second are read in the order of their numbers' letters, where 10 is before 9.
    monkeypatch.setattr(writer, '_global_uid', writer.AtomicCounter(0))
    for done, steps in ((0, (1, 2)), (0, (1, 2, 3)), (2, (3, 4))):
        with RunTable(tmp_path, ('loss',), steps_done=done) as table:
            for step in steps:
                table.add(step, {'loss': float(10 * done + step)})
    events = EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
    shown = [(event.step, event.value) for event in events.Scalars('train/loss')]
    assert shown == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]
