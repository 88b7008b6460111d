"""Pretraining runs: what they leave behind, and what a fine-tuning takes from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bev_perception.errors import BevError, ConfigError
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_perception.predictor import Predictor
from bev_training.cli import main
from bev_training.fit.initial import initialise
from bev_training.fit.loop import fit
from bev_training.fit.pretrain_settings import (
    ImgAlsoConfig,
    ObjectivesConfig,
    OccFeatConfig,
    TeacherConfig,
)
from bev_training.fit.recipes import find_recipe, read_recipe
from bev_training.fit.settings import AugmentConfig, DataConfig, OptimizerConfig, TrainConfig
from bev_training.teachers.load import load_teacher
from test.factories import make_config, make_model
from test.training.fake_source import make_fake_model, make_fake_source
from test.training.fit_runs import (
    losses_of,
    make_run_config,
    one_thread,
    rows_of,
    same_weights,
    weights_of,
)

__all__ = ['one_thread']

LITE0 = TeacherConfig(name='efficientnet_lite0', block=16, size_px=(64, 32), cache=False)
STILL = AugmentConfig(
    resize=(1, 1), crop_share=0, brightness=0, contrast=0, saturation=0, hue_deg=0,
    flip_x=0, flip_y=0,
)  # fmt: skip


def pretrain_config(**values) -> TrainConfig:
    """Two steps of OccFeat with the light teacher."""
    return make_run_config(
        make_config(classes=(), obstacle_classes=()),
        **{
            'objectives': ObjectivesConfig(segmentation=0, occfeat=1),
            'teacher': LITE0,
            **values,
        },
    )


def unlabelled(count: int = 6, **values):
    return make_fake_source(count, classes=(), **values)


def test_a_run_leaves_a_network_without_a_head_and_its_heads_beside_it(tmp_path):
    said: list[str] = []
    config = pretrain_config()
    out = tmp_path / 'run'
    result = fit(config, out, train=unlabelled(), val=unlabelled(3), say=said.append)
    assert sorted(path.name for path in out.iterdir()) == [
        'config.yaml', 'final.safetensors', 'labels.txt', 'last.ckpt', 'learning_curve.png',
        'metrics.csv', 'pretraining.safetensors', 'tensorboard',
    ]  # fmt: skip
    loaded = checkpoint.load(out / 'final.safetensors')
    assert loaded.model.config == config.model
    wanted = BevModel(make_fake_model()).state_dict().keys()
    with safe_open(out / 'final.safetensors', 'pt') as file:
        assert set(file.keys()) == {name for name in wanted if not name.startswith('head.')}
    assert 'without labels' in loaded.trained_on
    with safe_open(out / 'pretraining.safetensors', 'pt') as file:
        assert all(name.startswith('parts.occfeat.head.') for name in file.keys())  # noqa: SIM118
        assert file.metadata()['teacher_channels'] == '112'
    rows = rows_of(out)
    names = {'loss', 'occupancy', 'features', 'val_occupancy_iou', 'val_feature_cosine'}
    assert names <= rows[0].keys() and all(math.isfinite(float(rows[1][n])) for n in names)
    assert result.best is None
    assert set(result.scores) == {'step', 'occupancy_iou', 'occupancy_bce', 'feature_cosine'}
    assert any('pretraining with occfeat' in line for line in said)
    assert any('efficientnet_lite0 (stride 16)' in line for line in said)


def test_fine_tuning_takes_all_of_the_network_and_a_head_at_random(tmp_path):
    fit(pretrain_config(steps=1), tmp_path / 'pre', train=unlabelled())
    network = make_model(make_fake_model())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    report = initialise(network, tmp_path / 'pre/final.safetensors')
    pretrained = weights_of(tmp_path / 'pre')
    after = network.state_dict()
    assert set(report.loaded) == set(pretrained) and not report.unused
    assert all(torch.equal(after[name], pretrained[name]) for name in pretrained)
    heads = [name for name in after if name not in pretrained]
    assert heads and all(name.startswith('head.') for name in heads)
    assert all(torch.equal(after[name], before[name]) for name in heads)


@pytest.mark.parametrize(
    'values',
    [
        {'occfeat': OccFeatConfig(lambda_feat=0)},
        {'occfeat': OccFeatConfig(occupancy=0, lambda_feat=1)},
        {
            'objectives': ObjectivesConfig(segmentation=0, img_also=1),
            'img_also': ImgAlsoConfig(queries=64, intensity=1),
        },
        {
            'objectives': ObjectivesConfig(segmentation=0, occfeat=1, img_also=0.5),
            'img_also': ImgAlsoConfig(queries=64),
        },
    ],
    ids=['occupancy', 'features', 'img_also', 'sum'],
)
def test_every_objective_learns(tmp_path, values):
    # The backbone takes most of the time, and the same images each time make few steps enough.
    optimizer = OptimizerConfig(lr=5e-3, backbone_lr_scale=0)
    config = pretrain_config(steps=8, augment=STILL, optimizer=optimizer, **values)
    fit(config, tmp_path / 'run', train=unlabelled(2))
    losses = losses_of(tmp_path / 'run')
    assert sum(losses[-3:]) < sum(losses[:3])


def test_stored_features_train_like_those_made_at_every_step(tmp_path):
    for name, cache in (('cached', True), ('fresh', False)):
        config = pretrain_config(
            steps=1,
            teacher=replace(LITE0, cache=cache),
            data=DataConfig(workers=0, cache=str(tmp_path / 'cache')),
        )
        fit(config, tmp_path / name, train=unlabelled())
    assert (tmp_path / 'cache').is_dir()
    assert same_weights(weights_of(tmp_path / 'cached'), weights_of(tmp_path / 'fresh'))


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    config = pretrain_config(save_every=1)
    fit(config, tmp_path / 'whole', train=unlabelled())

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith('step 1'):
            raise Stopped

    with pytest.raises(Stopped):
        fit(
            replace(config, validate_every=1), tmp_path / 'parts', train=unlabelled(),
            val=unlabelled(2), say=stop,
        )  # fmt: skip
    fit(
        replace(config, validate_every=1), tmp_path / 'parts', train=unlabelled(),
        val=unlabelled(2), resume=True,
    )  # fmt: skip
    assert same_weights(weights_of(tmp_path / 'whole'), weights_of(tmp_path / 'parts'))
    assert same_weights(
        weights_of(tmp_path / 'whole', 'pretraining'),
        weights_of(tmp_path / 'parts', 'pretraining'),
    )


def test_samples_without_lidar_points_and_points_that_are_no_numbers_do_not_stop_it(tmp_path):
    source = unlabelled(4, blind=(0, 1), torn=(2,))
    fit(pretrain_config(), tmp_path / 'run', train=source)
    dropped = [float(row['dropped_points']) for row in rows_of(tmp_path / 'run')]
    assert sum(dropped) == 0.5  # one of the four samples has one, each step is a mean over two
    assert all(math.isfinite(loss) for loss in losses_of(tmp_path / 'run'))


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(tmp_path):
    config = pretrain_config(steps=1, teacher=replace(LITE0, block=8))
    fit(config, tmp_path / 'run', train=unlabelled())
    state = load_teacher(config.teacher).network.trunk.state_dict()
    save_file({name: value + 1 for name, value in state.items()}, tmp_path / 'lite0.safetensors')
    other = replace(config.teacher, weights=str(tmp_path / 'lite0.safetensors'))
    with pytest.raises(
        ConfigError, match=r'last\.ckpt: the teacher is not the one that'
    ) as raised:
        fit(replace(config, teacher=other), tmp_path / 'run', train=unlabelled(), resume=True)
    assert '\n' not in str(raised.value)


def test_a_network_starts_from_the_same_weights_with_a_teacher_and_without(tmp_path):
    still = OptimizerConfig(lr=1e-9)
    for name, weight in (('with', 0.01), ('without', 0)):
        values = {'occfeat': OccFeatConfig(lambda_feat=weight), 'optimizer': still, 'steps': 1}
        fit(pretrain_config(**values), tmp_path / name, train=unlabelled(2))
    one, other = weights_of(tmp_path / 'with'), weights_of(tmp_path / 'without')
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_samples_that_are_known_to_lack_lidar_points_are_left_out(tmp_path):
    said: list[str] = []
    fit(
        pretrain_config(steps=1, occfeat=OccFeatConfig(lambda_feat=0)), tmp_path / 'run',
        train=unlabelled(5, dead=(0, 3)), val=unlabelled(3, dead=(1,)), say=said.append,
    )  # fmt: skip
    assert 'samples: all 3 samples, without labels; validation: 2 samples' in said
    assert 'training: 2 of 5 samples have no lidar points, left out' in said
    assert 'validation: 1 of 3 samples have no lidar points, left out' in said
    lines = (tmp_path / 'run/labels.txt').read_text().splitlines()
    assert [line for line in lines if not line.startswith('#')] == [
        'scene-0000/000001', 'scene-0000/000002', 'scene-0001/000004',
    ]  # fmt: skip
    for name, source in (('train', unlabelled(2, dead=(0, 1))), ('val', unlabelled(2))):
        values = {'train': source, 'val': unlabelled(1, dead=(0,))}
        with pytest.raises(ConfigError, match='has a lidar, but no sample with points') as raised:
            fit(pretrain_config(), tmp_path / name, **values)
        assert '\n' not in str(raised.value)


def test_data_without_a_lidar_are_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r'has no lidar, of which the targets') as raised:
        fit(pretrain_config(), tmp_path / 'run', train=unlabelled(lidars=()))
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('recipe', ['town_occfeat', 'town_small'])
def test_a_recipe_of_the_other_verb_is_refused(tmp_path, capsys, recipe):
    verb, other = (
        ('finetune', 'pretrain') if recipe == 'town_occfeat' else ('pretrain', 'finetune')
    )
    assert main([verb, '--config', recipe, '--train', 'x', '--out', str(tmp_path / 'run')]) == 1
    assert f'{recipe} is a recipe for `bev {other}`' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('overrides', 'said'),
    [
        ({'model.classes': '[vehicle]'}, r'pretraining knows no labels; set model.classes: \[\]'),
        ({'objectives.segmentation': '1'}, 'pretrain first, then fine-tune with --init'),
        ({'objectives.occfeat': '0'}, 'objectives are all 0'),
        ({'occfeat.lambda_feat': '-1'}, 'occfeat.lambda_feat is -1'),
        ({'teacher.name': 'dino'}, "teacher.name 'dino' is unknown"),
        ({'teacher.size_px': '[350, 190]'}, 'the sides must be multiples of 16'),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(tmp_path, overrides, said):
    with pytest.raises(BevError, match=said) as raised:
        config = read_recipe(find_recipe('town_occfeat'), overrides.items())
        fit(config, tmp_path / 'run', train=unlabelled(2, grid=config.model.grid))
    assert '\n' not in str(raised.value)


def test_a_network_that_was_pretrained_only_is_not_for_the_node():
    model = make_model(make_config(classes=(), obstacle_classes=()))
    with pytest.raises(ConfigError, match=r'pretrained only .* `bev finetune --init`'):
        Predictor(model, device='cpu')


def test_all_pretraining_recipes_can_be_read():
    names = [
        'occfeat_nuscenes', 'occfeat_nuscenes_rn50', 'occfeat_nuscenes_bevformer',
        'img_also_nuscenes', 'town_occfeat', 'town_occfeat_bevformer', 'town_img_also',
        'town_img_also_bevformer',
    ]  # fmt: skip
    for name in names:
        config = read_recipe(find_recipe(name))
        assert config.verb == 'bev pretrain'
        assert json.dumps(config.card) == '{}'
    paper = read_recipe(find_recipe('occfeat_nuscenes'), [('epochs', '100')])
    assert (paper.optimizer.kind, paper.optimizer.schedule) == ('adam', 'constant')
    assert (paper.optimizer.lr, paper.optimizer.weight_decay) == (1e-3, 1e-7)
    assert (paper.batch_size, paper.occfeat.lambda_feat, paper.teacher.name) == (
        16, 0.01, 'dinov2_vits14',
    )  # fmt: skip
