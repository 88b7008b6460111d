"""`bev finetune` on a folder of labelled drives."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.model import checkpoint
from bev_training.cli_finetune import add_finetune
from bev_training.data.label_store import labels_of, write_labels
from bev_training.data.sample import LabelGrids
from bev_training.fit.recipes import find_recipe, read_recipe
from test.data.drive_frames import write_drive
from test.factories import write_checkpoint
from test.training.fit_runs import one_thread
from test.training.small_labels import make_boxes

__all__ = ['one_thread']

ROOT = Path(__file__).parents[2]
MODEL = read_recipe(find_recipe('debug')).model
COUNT = 6


def label(drive: Path, classes: tuple[str, ...] = MODEL.classes) -> None:
    def labels(number: int) -> LabelGrids:
        shape = (len(classes), *MODEL.grid.shape[1:])
        positive = np.random.default_rng(number).random(shape) < 0.3
        return LabelGrids(
            classes=classes,
            positive=positive,
            hidden=np.zeros_like(positive),
            known=np.ones(shape[1:], bool),
        )

    frames = ((labels(n), make_boxes(n)) for n in range(COUNT))
    write_labels(labels_of(drive), classes, MODEL.grid, frames, source='nobody')


@pytest.fixture(scope='module')
def drives(tmp_path_factory) -> Path:
    """One labelled drive of six frames."""
    folder = tmp_path_factory.mktemp('drives')
    write_drive(folder / 'one', COUNT)
    label(folder / 'one')
    return folder


def bev(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    add_finetune(parser.add_subparsers(dest='verb'))
    chosen = parser.parse_args(['finetune', *map(str, arguments)])
    chosen.run(chosen)


def test_debug_trains_on_drives_and_says_what_it_does(drives, tmp_path, capsys):
    out = tmp_path / 'run'
    start = write_checkpoint(tmp_path / 'start.safetensors', MODEL)
    bev('--config', 'debug', '--train', drives, '--val', drives, '--out', out, '--init', start,
        '--set', 'data.labels_percent=50')  # fmt: skip
    said = capsys.readouterr().out
    for fact in (
        'samples: 3 of 6 samples (50 % by frame, seed 0); validation: 6 samples',
        'network: resnet18, ',
        f'weights: start: {start}',
        'running: cpu, 1 process, 32-true; 3 steps of 2 samples, 2 epochs',
        'step 3: drivable_area 0.',
        f'{out / "final.safetensors"}: after 3 steps',
        f'score it with `bev evaluate {out / "best.safetensors"} DATA`',
    ):
        assert fact in said, fact
    card = checkpoint.load(out / 'final.safetensors').card
    assert card['started_from'].startswith('start: ')
    assert read_recipe(out / 'config.yaml').data.train == str(drives)


def test_json_prints_the_result_and_nothing_else(drives, tmp_path, capsys):
    out = tmp_path / 'run'
    bev('--config', ROOT / 'config/train/debug.yaml', '--train', drives, '--val', drives,
        '--out', out, '--json', '--set', 'steps=1')  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found['steps'] == found['best_step'] == 1
    assert found['final'] == str(out / 'final.safetensors') and Path(found['best']).is_file()
    assert 0 <= found['scores']['classes']['vehicle']['iou'] <= 1
    assert found['best_mean_iou'] == pytest.approx(found['scores']['mean_iou'], abs=1e-6)


def test_drives_without_validation_give_no_best_network(drives, tmp_path, capsys):
    bev('--config', 'debug', '--train', drives, '--out', tmp_path / 'run', '--set', 'steps=1')
    said = capsys.readouterr().out
    assert 'validation: none' in said and 'best.safetensors' not in said


@pytest.mark.parametrize(
    ('arguments', 'error', 'said'),
    [
        (['--config', 'nothing'], ConfigError, 'no shipped recipe'),
        (['--config', 'debug'], ConfigError, 'data.train is empty; give --train DIR'),
        (['--config', 'debug', '--set', 'optimizer.lrr=1'], ConfigError, 'optimizer.lrr'),
        (['--config', 'debug', '--train', '/nowhere'], BagError, '/nowhere does not exist'),
        (
            ['--config', 'debug', '--train', '{drives}', '--set', 'data.val_split=val'],
            ConfigError,
            "data.val_split is 'val', but ",
        ),
        (
            ['--config', 'debug', '--train', '{drives}', '--set',
             'model.classes=[walkway, vehicle]'],
            BevError,
            'walkway',
        ),
        (
            ['--config', 'debug', '--train', '{drives}', '--set', 'model.grid.cell_m=0.25'],
            BevError,
            'cells of',
        ),
        (
            ['--config', 'debug', '--train', '{drives}', '--init', 'nothing.safetensors'],
            BevError,
            'nothing.safetensors does not exist',
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(arguments, error, said, drives, tmp_path):
    out = tmp_path / 'run'
    with pytest.raises(error) as caught:
        bev(*(text.format(drives=drives) for text in arguments), '--out', out)
    assert said in str(caught.value) and '\n' not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())


def test_a_setting_that_is_none_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        bev('--config', 'debug', '--out', 'x', '--set', 'optimizer.lr')
    assert caught.value.code == 2
    assert "'optimizer.lr' is not like optimizer.lr=1e-4" in capsys.readouterr().err


def test_the_command_line_loads_nothing_heavy():
    script = 'import bev_training.cli_finetune, sys; print(*sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {'torch', 'lightning_fabric', 'numpy', 'cv2', 'yaml', 'jsonargparse', 'tqdm'}
    assert not heavy & set(done.stdout.split())


PROGRAM = """
import argparse, sys
from bev_training.cli_finetune import add_finetune
from bev_training.stopping import stoppable
parser = argparse.ArgumentParser()
add_finetune(parser.add_subparsers(dest='verb'))
chosen = parser.parse_args(['finetune', *sys.argv[1:]])
with stoppable('bev finetune', last=True):
    try:
        chosen.run(chosen)
    except KeyboardInterrupt:
        raise SystemExit(130)
"""


@pytest.mark.parametrize('workers', [0, 1])
def test_ctrl_c_finishes_the_step_and_resume_goes_on(workers, drives, tmp_path):
    out = tmp_path / 'run'
    arguments = ['--config', 'debug', '--train', str(drives), '--out', str(out)]
    arguments += ['--set', 'steps=4000', '--set', f'data.workers={workers}']
    process = subprocess.Popen(
        [sys.executable, '-c', PROGRAM, *arguments],
        cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        table = out / 'metrics.csv'
        while not table.is_file() or table.read_text().count('\n') < 3:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert 'stopping after this step' in said and 'Traceback' not in said
    rows = table.read_text().splitlines()[1:]
    import torch

    state = torch.load(out / 'last.ckpt', weights_only=True)
    assert state['step'] == int(rows[-1].split(',')[0])
