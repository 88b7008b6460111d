"""Tables of a grid in every form, from results that are written down by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bev_training.ablation.plan import make_plan
from bev_training.ablation.plot import draw_results
from bev_training.ablation.reading import read_ablation
from bev_training.ablation.results import Results
from bev_training.ablation.running import Outcome
from bev_training.ablation.tables import text_tables
from test.training.ablation_runs import grid_of, write_grid, write_recipes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_recipes(tmp_path_factory.mktemp('grid'))


def results_of(folder, iou, **fields) -> Results:
    """Results of a grid; `iou(run, class name)` is what each fine-tuning came to, None a class
    that the truth lacks, NaN a run that is not done.
    """
    grid = read_ablation(write_grid(folder, grid_of(folder, **fields)))
    plan = make_plan(grid)
    outcomes = {}
    for digest, run in plan.runs.items():
        found = {name: iou(run, name) for name in run.config.model.classes}
        if any(value is not None and np.isnan(value) for value in found.values()):
            continue
        classes = {
            name: {'iou': value, 'best_iou': value and value / 2} for name, value in found.items()
        }
        outcomes[digest] = Outcome(folder=folder, scores={'classes': classes})
    return Results(grid=grid, plan=plan, outcomes=outcomes)


def lines_of(results: Results, title: str) -> list[str]:
    part = text_tables(results).split(f'## {title}\n')[1].split('\n## ')[0]
    return [line for line in part.splitlines() if line.startswith('|')]


def weight_of(run) -> float:
    return float(run.said.split(', ')[1].removeprefix('λ = '))


def test_pretrainings_may_stand_beside_each_other(folder):
    weights = {
        f'λ = {w:g}': {'recipe': 'occfeat', 'set': {'occfeat.lambda_feat': w}} for w in (0, 0.01)
    }
    results = results_of(
        folder,
        lambda run, name: 0.2 + weight_of(run) if name == 'vehicle' else 0.1,
        pretrainings=weights,
        seeds=[0],
        labels=[1],
        report={'Weight': {'rows': ['networks', 'scores', 'labels']}},
    )
    assert lines_of(results, 'Weight') == [
        '| network | classes | labels | λ = 0 | λ = 0.01 |',
        '| --- | --- | --- | --- | --- |',
        '| Net A | vehicle | 1 % | 20.0 | 21.0 |',
        '|  | map | 1 % | 10.0 | 10.0 |',
    ]


def test_shares_and_networks_may_stand_below_each_other_at_the_best_threshold(folder):
    networks = {name: grid_of(folder)['networks']['Net A'] for name in ('Net A', 'Net | B')}
    networks['Net | B'] = networks['Net | B'] | {'set': {'model.channels': 16}}
    values = {'drivable_area': 0.9, 'walkway': 0.5, 'vehicle': 0.4}
    results = results_of(
        folder,
        lambda run, name: values[name] - (0.2 if 'B' in run.said else 0),
        networks=networks,
        pretrainings=None,
        seeds=[0],
        report={
            'Shares': {
                'rows': ['labels', 'networks'],
                'scores': ['vehicle', 'walkway', 'mean'],
                'threshold': 'best',
            }
        },
    )
    assert lines_of(results, 'Shares') == [
        '| labels | network | vehicle | walkway | mean |',
        '| --- | --- | --- | --- | --- |',
        '| 1 % | Net A | 20.0 | 25.0 | 30.0 |',
        '|  | Net \\| B | 10.0 | 15.0 | 20.0 |',
        '| 10 % | Net A | 20.0 | 25.0 | 30.0 |',
        '|  | Net \\| B | 10.0 | 15.0 | 20.0 |',
    ]
    text = text_tables(results)
    assert text.startswith('IoU in % on the validation data, 1 seed.\n')
    assert 'Each class at its best threshold on the validation data.' in text


def test_classes_without_truth_are_left_out_of_means_and_missing_runs_are_said(folder):
    def iou(run, name):
        if run.said == 'Net A, occfeat, 10 %, seed 0':
            return float('nan')
        return {'drivable_area': None, 'walkway': 0.4, 'vehicle': None}[name]

    results = results_of(folder, iou, seeds=[0])
    assert lines_of(results, 'Results')[2:] == [
        '| Net A | none | – | – | 40.0 | 40.0 |',
        '|  | occfeat | – | – | 40.0 (+0.0) | – |',
    ]
    assert 'so far 4 of 5 runs are done' in text_tables(results)


def test_a_network_that_is_not_pretrained_in_some_way_has_no_such_row(folder):
    both = grid_of(folder)['networks']['Net A']
    networks = {'Net A': both, 'Net B': both | {'set': {'model.channels': 16}}}
    hows = {'none': None, 'img_also': {'networks': ['Net A']}, 'occfeat': {}}
    results = results_of(
        folder, lambda run, name: 0.5, networks=networks, pretrainings=hows, seeds=[0], labels=[1]
    )
    assert [line.split(' | ')[:2] for line in lines_of(results, 'Results')[2:]] == [
        ['| Net A', 'none'], ['| ', 'img_also'], ['| ', 'occfeat'],
        ['| Net B', 'none'], ['| ', 'occfeat'],
    ]  # fmt: skip
    across = results_of(
        folder,
        lambda run, name: 0.5,
        networks=networks,
        pretrainings=hows,
        seeds=[0],
        labels=[1],
        report={'Across': {'rows': ['networks'], 'scores': ['vehicle']}},
    )
    assert 'Each class at 0.5; vehicle; 1 %.' in text_tables(across)  # what no head says
    assert lines_of(across, 'Across')[2:] == [
        '| Net A | 50.0 | 50.0 (+0.0) | 50.0 (+0.0) |',
        '| Net B | 50.0 | – | 50.0 (+0.0) |',
    ]


def test_the_picture_shows_every_score_of_every_network_and_what_is_known(folder):
    def picture(iou, **fields) -> np.ndarray:
        drawn = draw_results(results_of(folder, iou, seeds=[0, 1], **fields))
        return np.asarray(Image.open(io.BytesIO(drawn)).convert('RGB')).astype(int)

    known = picture(lambda run, name: 0.3 + 0.1 * (run.start is not None))
    orange = (np.abs(known - [0xE0, 0x8A, 0x1E]).sum(2) < 30).sum()
    assert orange > 100  # the second pretraining's colour
    empty = picture(lambda run, name: float('nan'))
    assert known.shape == empty.shape
    assert (np.abs(empty - [0xE0, 0x8A, 0x1E]).sum(2) < 30).sum() < orange / 2  # its key alone
    one = picture(lambda run, name: 0.3, labels=[1], report={'t': {'scores': ['vehicle']}})
    assert one.shape[1] < known.shape[1]
