"""A small grid with real trainings: pretraining, fine-tuning from it, and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from bev_training.data.label_store import labels_of, write_labels
from bev_training.data.sample import LabelGrids
from bev_training.fit.recipes import find_recipe, read_recipe, to_plain
from test.data.drive_frames import write_drive
from test.training.ablation_runs import ablate
from test.training.small_labels import make_boxes


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_grid_of_real_trainings_fills_its_table(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    debug = find_recipe('debug')
    config = read_recipe(debug)
    model = to_plain(config)['model'] | {'classes': [], 'obstacle_classes': []}
    recipe = to_plain(config) | {'model': model, 'objectives': {'segmentation': 0, 'img_also': 1}}
    (tmp_path / 'also.yaml').write_text(yaml.safe_dump(recipe))
    drive = tmp_path / 'drives/one'
    write_drive(drive, 4)
    classes, cells = config.model.classes, config.model.grid.shape[1:]
    positive = np.random.default_rng(0).random((4, len(classes), *cells)) < 0.3
    labels = (
        LabelGrids(
            classes=classes,
            positive=each,
            hidden=np.zeros_like(each),
            known=np.ones(cells, bool),
        )
        for each in positive
    )
    frames = ((each, make_boxes(n)) for n, each in enumerate(labels))
    write_labels(labels_of(drive), classes, config.model.grid, frames, source='nobody')
    grid = {
        'seeds': [0],
        'labels': [50],
        'networks': {
            'debug': {'pretrain': str(tmp_path / 'also.yaml'), 'finetune': str(debug)},
        },
        'pretrainings': {'none': None, 'img_also': {}},
    }
    (tmp_path / 'grid.yaml').write_text(yaml.safe_dump(grid, sort_keys=False))
    drives, out = tmp_path / 'drives', tmp_path / 'out'
    ablate('--config', tmp_path / 'grid.yaml', '--train', drives, '--val', drives, '--out', out,
           '--jobs', 2, '--set', 'steps=1')  # fmt: skip
    results = json.loads((out / 'results.json').read_text())
    assert [run['state'] for run in results['runs']] == ['done'] * 3
    none, pretrained = results['cells']
    assert none['scores']['vehicle']['iou']['gain'] is None
    assert pretrained['scores']['vehicle']['iou']['gain']['by_seed'].keys() == {'0'}
    log = next((out / 'finetune').glob('debug-img-also-*.log')).read_text()
    assert '2 of 4 samples (50 % by frame, seed 0)' in log
    assert f'weights: start: {out}/pretrain/debug-img-also-seed-0-' in log
    assert (out / 'results.png').stat().st_size > 10_000
