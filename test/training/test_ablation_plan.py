"""Which runs a grid of trainings needs, and what is refused before the first of them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bev_perception.errors import BevError
from bev_perception.model.config import AttentionConfig, ModelConfig
from bev_training.ablation import plan
from bev_training.ablation.plan import Cell, make_plan, score_classes
from bev_training.ablation.reading import find_ablation, read_ablation
from bev_training.fit import initial
from test.training.ablation_runs import grid_of, plan_of, write_grid, write_recipes


@pytest.fixture
def folder(tmp_path):
    return write_recipes(tmp_path)


def said(plan) -> list[str]:
    return [run.said for run in plan.runs.values()]


def test_every_cell_is_trained_by_seed_after_the_pretraining_that_it_starts_from(folder):
    plan = plan_of(folder)
    each = [
        *('Net A, none, 1 %, seed 0', 'Net A, none, 10 %, seed 0', 'Net A, occfeat, seed 0'),
        *('Net A, occfeat, 1 %, seed 0', 'Net A, occfeat, 10 %, seed 0'),
    ]
    assert said(plan) == each + [name.replace('seed 0', 'seed 1') for name in each]
    for run in plan.runs.values():
        data = run.config.data
        assert data.train == str(folder / 'train') and data.val == str(folder / 'val')
        assert run.config.seed == run.seed == int(run.said[-1])
        if run.verb == 'finetune':
            assert (data.labels_percent, data.labels_seed) == (10 if '10 %' in run.said else 1,
                                                               run.seed)  # fmt: skip
            start = run.start.said if run.start else 'Net A, none'
            assert run.said.startswith(start.partition(', seed')[0])
    assert set(plan.cells) == {
        Cell('Net A', how, share) for how in ('none', 'occfeat') for share in (1, 10)
    }
    assert all(set(by_seed) == {0, 1} for by_seed in plan.cells.values())


def test_what_several_cells_need_is_trained_once(folder):
    same = {'recipe': 'occfeat', 'set': {'occfeat.lambda_feat': 0}}
    hows = {'none': None, 'L_occ': same, 'λ = 0': same, 'λ = 1': {'recipe': 'occfeat'}}
    plan = plan_of(folder, pretrainings=hows, seeds=[5], labels=[1])
    assert said(plan) == [
        *('Net A, none, 1 %, seed 5', 'Net A, L_occ, seed 5', 'Net A, L_occ, 1 %, seed 5'),
        *('Net A, λ = 1, seed 5', 'Net A, λ = 1, 1 %, seed 5'),
    ]
    assert plan.cells[Cell('Net A', 'λ = 0', 1)] == plan.cells[Cell('Net A', 'L_occ', 1)]


def test_one_pretraining_serves_all_seeds_where_that_is_asked_for(folder):
    plan = plan_of(folder, pretrain_seed=7)
    assert [run.said for run in plan.runs.values() if run.verb == 'pretrain'] == [
        'Net A, occfeat, seed 7'
    ]
    starts = {run.start.digest for run in plan.runs.values() if run.start}
    assert len(starts) == 1 and len(plan.runs) == 9


def test_only_what_tables_show_is_trained(folder):
    hows = {'none': None, 'occfeat': {}, 'img_also': {}}
    report = {'a': {'pretrainings': ['none'], 'labels': [10]}, 'b': {'pretrainings': ['img_also'],
              'labels': [1], 'scores': ['walkway']}}  # fmt: skip
    plan = plan_of(folder, pretrainings=hows, seeds=[0], report=report)
    assert said(plan) == [
        'Net A, none, 10 %, seed 0', 'Net A, img_also, seed 0', 'Net A, img_also, 1 %, seed 0',
    ]  # fmt: skip


def test_tasks_have_recipes_of_their_own_and_only_those_that_are_scored_are_trained(folder):
    network = {
        'pretrain': str(folder / 'occfeat.yaml'),
        'finetune': {
            'vehicle': str(folder / 'vehicle.yaml'),
            'map': str(folder / 'map_{labels}.yaml'),
        },
    }
    given = {'networks': {'N': network}, 'seeds': [0], 'pretrainings': {'none': None}}
    plan = plan_of(folder, **given)
    assert {run.said: run.config.steps for run in plan.runs.values()} == {
        'N, none, 1 %, vehicle, seed 0': 2, 'N, none, 1 %, map, seed 0': 2,
        'N, none, 10 %, vehicle, seed 0': 2, 'N, none, 10 %, map, seed 0': 7,
    }  # fmt: skip
    assert [len(runs[0]) for runs in plan.cells.values()] == [2, 2]
    plan = plan_of(folder, **given, report={'t': {'scores': ['vehicle'], 'labels': [1]}})
    assert said(plan) == ['N, none, 1 %, vehicle, seed 0']


def test_settings_of_networks_pretrainings_shares_and_the_command_line_each_have_their_place(
    folder,
):
    network = grid_of(folder)['networks']['Net A'] | {
        'set': {'model.channels': 16, 'steps': 50, 'model.image_size_px': [64, 48]}
    }
    hows = {'none': None, 'occfeat': {'set': {'steps': 60, 'model.image_size_px': [96, 64]}}}
    given = {'networks': {'N': network}, 'pretrainings': hows, 'steps': {10: 70}, 'seeds': [0]}
    found = {run.said: run.config for run in plan_of(folder, **given).runs.values()}
    assert {name: config.steps for name, config in found.items()} == {
        'N, none, 1 %, seed 0': 50, 'N, none, 10 %, seed 0': 70, 'N, occfeat, seed 0': 60,
        'N, occfeat, 1 %, seed 0': 50, 'N, occfeat, 10 %, seed 0': 70,
    }  # fmt: skip
    assert {config.model.channels for config in found.values()} == {16}
    sizes = {config.model.image_size_px for name, config in found.items() if '%' in name}
    assert sizes == {(64, 48)}
    assert found['N, occfeat, seed 0'].model.image_size_px == (96, 64)
    plan = plan_of(folder, [('steps', '3')], **given)
    assert {run.config.steps for run in plan.runs.values()} == {3}


def test_a_run_is_known_by_what_decides_its_outcome(folder):
    def digests(changed=(), **fields) -> list[str]:
        return list(plan_of(folder, changed, seeds=[0], labels=[1], **fields).runs)

    usual = digests()
    renamed = {'Other': grid_of(folder)['networks']['Net A']}
    assert digests(networks=renamed) == usual
    assert digests([('data.workers', '7'), ('save_every', '3')]) == usual
    hows = {'none': None, 'occfeat': {'set': {'occfeat.lambda_feat': 0.5}}}
    none, pretrained, tuned = digests(pretrainings=hows)
    assert none == usual[0] and pretrained != usual[1] and tuned != usual[2]  # as its start is
    assert not set(digests([('optimizer.lr', '1e-5')])) & set(usual)


def test_scores_are_classes_or_means_of_them():
    classes = ('drivable_area', 'vehicle', 'lane_divider', 'pedestrian')
    assert score_classes('map', classes) == ('drivable_area', 'lane_divider')
    assert score_classes('vehicle', classes) == ('vehicle',)
    assert score_classes('mean', classes) == classes
    assert score_classes('walkway', classes) == score_classes('map', ('vehicle',)) == ()


def test_what_start_and_fine_tuning_must_share_is_what_loading_asks_for():
    assert plan.misfit is initial.misfit
    attention = AttentionConfig(layers=1, heads=2, points=4)
    model = ModelConfig(network='bevformer', attention=attention)
    other = replace(model, attention=replace(attention, heads=4))
    assert plan.misfit(model, other) == ('attention.heads', 2, 4)
    assert plan.misfit(model, replace(model, network='simple_bev')) is None


def network(folder, **changed):
    return {'Net A': grid_of(folder)['networks']['Net A'] | changed}


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        (lambda f: {'seeds': None}, 'grid.yaml: seeds: is missing'),
        (lambda f: {'seeds': [0, 0]}, 'seeds: is [0, 0]; it must be a list of different values'),
        (lambda f: {'seeds': 3}, 'seeds: is 3; it must be a list'),
        (lambda f: {'labels': [0]}, 'labels.0: is 0; it must be a share in percent, above 0'),
        (lambda f: {'lables': [1]}, 'lables: is no known field; known are train'),
        (lambda f: {'steps': {5: 10}}, 'steps.5: is no share in labels; those are 1, 10'),
        (lambda f: {'networks': {'A': {}}}, 'networks.A: is {}; it must be a mapping'),
        (lambda f: {'pretrainings': {'a': None, 'b': None}}, 'with one null'),
        (
            lambda f: {'pretrainings': {'moco': {}}},
            "pretrainings.moco: needs a recipe 'moco' in networks.Net A.pretrain, which has "
            'occfeat, img_also',
        ),
        (
            lambda f: {'pretrainings': {'occfeat': {'networks': ['B']}}},
            "pretrainings.occfeat.networks.0: is 'B'; it must be one of Net A",
        ),
        (
            lambda f: {'pretrainings': {'occfeat': {'set': {'occfeat': {'lambda_feat': 1}}}}},
            'pretrainings.occfeat.set.occfeat: is',
        ),
        (
            lambda f: {'pretrainings': {'occfeat': {'set': {'occfeat.lamda': 1}}}},
            'Net A, occfeat: --set occfeat.lamda: is no known field; did you mean occfeat.la',
        ),
        (
            lambda f: {'networks': network(f, set={'seed': 3})},
            'Net A: seed cannot be set: `seeds` and `labels` of the grid do',
        ),
        (lambda f: {'report': {'t': {'labels': [50]}}}, 'report.t.labels.0: is 50; it must be'),
        (lambda f: {'report': {'t': {'threshold': 0.3}}}, "is '0.3'; it must be one of 0.5, best"),
        (
            lambda f: {'report': {'t': {'rows': ['seeds']}}},
            "is 'seeds'; it must be one of networks, pretrainings, scores, labels",
        ),
        (
            lambda f: {'report': {'t': {'scores': ['vehicle', 'bicycle']}}},
            'report.t: Net A is not fine-tuned for bicycle; its classes are drivable_area, ',
        ),
        (lambda f: {'train': None}, 'data.train is empty; give --train DIR'),
        (lambda f: {'val': None}, 'nothing to be scored on; give --val DIR'),
        (lambda f: {'train': '/nowhere'}, '/nowhere does not exist'),
        (lambda f: {'networks': network(f, finetune='nothing')}, 'no shipped recipe'),
        (
            lambda f: {'networks': network(f, finetune=str(f / 'occfeat.yaml'))},
            'is a recipe for `bev pretrain`, not `bev finetune`',
        ),
        (
            lambda f: {'networks': network(f, pretrain=str(f / 'both.yaml'))},
            'is a recipe for `bev finetune`, not `bev pretrain`',
        ),
        (
            lambda f: {
                'networks': network(
                    f, finetune={'a': str(f / 'vehicle.yaml'), 'b': str(f / 'both.yaml')}
                )
            },
            'networks.Net A.finetune: a and b both have the class vehicle',
        ),
        (
            lambda f: {'pretrainings': {'occfeat': {'set': {'model.channels': 16}}}},
            'networks.Net A: model.channels is 16 in the pretraining occfeat, and 8 in the',
        ),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_is(folder, fields, words):
    path = write_grid(folder, grid_of(folder, **fields(folder)))
    with pytest.raises(BevError, match=re.escape(words)) as raised:
        make_plan(read_ablation(path))
    assert '\n' not in str(raised.value)


def test_a_grid_that_is_not_there_lists_those_that_are():
    with pytest.raises(BevError, match='occfeat_paper, occfeat_town, town_label_shares'):
        find_ablation('town_nothing')


@pytest.mark.parametrize(
    ('name', 'pretrainings', 'finetunings'),
    [
        ('occfeat_town', 17, 39),
        ('town_label_shares', 0, 7),
        pytest.param('occfeat_paper', 16, 81, marks=pytest.mark.slow),  # 40 recipes are read
    ],
)
def test_shipped_grids_can_be_run(tmp_path, name, pretrainings, finetunings):
    (tmp_path / 'v1.0-trainval').mkdir()  # looks like nuScenes
    grid = read_ablation(find_ablation(name), train=str(tmp_path))
    seeds = len(grid.seeds)
    verbs = [run.verb for run in make_plan(grid).runs.values()]
    each = verbs.count('pretrain'), verbs.count('finetune')
    assert each == (pretrainings * (1 if grid.pretrain_seed == 0 else seeds), finetunings * seeds)
