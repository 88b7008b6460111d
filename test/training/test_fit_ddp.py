"""Two processes on a CPU give the run that one process with the doubled batch gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bev_perception.model import checkpoint
from bev_training.data.loader import eval_loader
from bev_training.fit.ranks import start
from bev_training.fit.stop import Stop
from bev_training.fit.validate import score_row, validate
from test.training.fake_source import make_fake_source
from test.training.fit_runs import (
    losses_of,
    make_run_config,
    one_thread,
    rows_of,
    share_of_close_weights,
    weights_of,
)
from test.training.two_processes import main

__all__ = ['one_thread']

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(500)  # a busy machine takes minutes


def train(out: Path, **settings) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM_', 'MASTER_'))}
    return subprocess.run(
        [sys.executable, '-m', 'test.training.two_processes', str(out), json.dumps(settings)],
        cwd=ROOT,
        env={**environment, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,  # a busy machine takes minutes
    )


@pytest.mark.parametrize('temporal', [False, True], ids=['simple_bev', 'temporal'])
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path, temporal):
    # Half of the heads have no loss: they must not hold up the sum of gradients. Nor must what a
    # temporal network is shown without gradient.
    settings = {'steps': 3, 'accumulate': 2, 'validate_every': 2, 'center_offset': True}
    settings['temporal'] = temporal
    assert main(str(tmp_path / 'one'), json.dumps({**settings, 'batch_size': 4})) == 0
    done = train(tmp_path / 'two', **settings, batch_size=2, devices=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ''
    assert losses_of(tmp_path / 'two') == pytest.approx(losses_of(tmp_path / 'one'), rel=1e-4)
    one, two = rows_of(tmp_path / 'one'), rows_of(tmp_path / 'two')
    assert [row['step'] for row in two] == ['1', '2', '3']
    norms = [[float(row['grad_norm']) for row in rows] for rows in (one, two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    for name in ('val_drivable_area', 'val_vehicle', 'val_best_vehicle'):
        ours, theirs = (float(rows[1][name]) for rows in (one, two))
        assert theirs == pytest.approx(ours, abs=2e-3)
    ones, twos = weights_of(tmp_path / 'one'), weights_of(tmp_path / 'two')
    assert share_of_close_weights(ones, twos) > 0.99


def test_two_processes_pretrain_like_one_with_the_doubled_batch(tmp_path):
    # A sample without lidar points has neither loss; its process still has all gradients. Each
    # run fills a cache of its own, both processes together.
    settings = {'steps': 3, 'accumulate': 2, 'validate_every': 2, 'blind': [1, 4]}
    one, two = tmp_path / 'one', tmp_path / 'two'
    alone = {**settings, 'batch_size': 4, 'pretraining': str(tmp_path / 'cache one')}
    assert main(str(one), json.dumps(alone)) == 0
    done = train(two, **settings, batch_size=2, devices=2, pretraining=str(tmp_path / 'cache two'))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ''
    stored = [
        sorted(p.name for p in tmp_path.glob(f'cache {n}/**/*.safetensors'))
        for n in ('one', 'two')
    ]
    assert len(stored[0]) == 6 and stored[0] == stored[1]
    rows = [rows_of(out) for out in (one, two)]
    assert [row['step'] for row in rows[1]] == ['1', '2', '3']
    for name, error in {
        'loss': 1e-4, 'occupancy': 1e-4, 'features': 1e-3, 'feature_voxels': 1e-6,
        'grad_norm': 1e-3,
    }.items():  # fmt: skip
        ours, theirs = ([float(row[name]) for row in each] for each in rows)
        assert theirs == pytest.approx(ours, rel=error), name
    for name in ('val_occupancy_iou', 'val_occupancy_bce', 'val_feature_cosine'):
        ours, theirs = (float(each[1][name]) for each in rows)
        assert theirs == pytest.approx(ours, abs=2e-3), name
    for name in ('final', 'pretraining'):
        assert share_of_close_weights(weights_of(one, name), weights_of(two, name)) > 0.99, name


def test_all_processes_score_the_network_that_is_stored(tmp_path):
    # On CPUs each process has statistics of BatchNorm of its own.
    out = tmp_path / 'run'
    done = train(out, steps=1, batch_size=2, devices=2, batch_norm='train')
    assert done.returncode == 0, done.stderr[-3000:]
    network, val = checkpoint.load(out / 'final.safetensors').model, make_fake_source(3)
    batches = eval_loader(val, range(3), model=network.config, batch_size=2, workers=0)
    scores = validate(start(make_run_config()), network, batches, Stop())
    (row,) = rows_of(out)
    for name, value in score_row(scores, 'visible').items():
        assert float(row[name]) == pytest.approx(value, abs=1e-7), name


def test_an_error_of_one_process_ends_both_with_one_line(tmp_path):
    # 6 samples, each step takes 4 of them: sooner or later a process meets the broken one
    done = train(tmp_path / 'run', steps=6, batch_size=2, devices=2, broken=[4])
    assert done.returncode == 1
    assert done.stderr == 'sample scene-0001/000004: shard of frame 4 is damaged\n'


def test_a_refusal_is_said_once(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    done = train(tmp_path, batch_size=2, devices=2)
    assert done.returncode == 1
    assert done.stderr == f'{tmp_path} is not empty; give another --out\n'
