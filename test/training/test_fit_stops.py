"""What stops a training run, and what is left then."""

from __future__ import annotations

import math
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from bev_perception.errors import BevError, ConfigError
from bev_training.objectives.segmentation import SegmentationObjective
from test.training.fake_source import make_fake_model, make_fake_source
from test.training.fit_runs import (
    make_run_config,
    one_thread,
    rows_of,
    run,
)

__all__ = ['one_thread']


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


def test_several_machines_need_somebody_who_starts_them(tmp_path, monkeypatch):
    for name in ('WORLD_SIZE', 'SLURM_NTASKS'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match='nodes is 2; start the processes with torchrun'):
        run(make_run_config(nodes=2), tmp_path / 'run')


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


def test_validation_data_that_cannot_be_used_are_refused_at_once(tmp_path):
    grid = replace(make_fake_model().grid, z_cells=1)
    for val, said in (
        (make_fake_source(0), 'has no labelled sample'),
        (make_fake_source(2, grid=grid), 'have a grid'),
        (make_fake_source(2, classes=('vehicle',)), 'have classes'),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            run(make_run_config(), tmp_path / 'run', val=val)
        assert '\n' not in str(caught.value) and not list((tmp_path / 'run').iterdir())
