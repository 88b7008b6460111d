"""Recipes: strict YAML, single values overridden, and back to YAML."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bev_perception.errors import ConfigError
from bev_training.fit.recipes import as_yaml, find_recipe, flat, read_recipe
from bev_training.fit.settings import TrainConfig
from bev_training.weights import imagenet_statistics

RECIPES = sorted((Path(__file__).parents[2] / 'config' / 'train').glob('*.yaml'))


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_goes_round(path, tmp_path):
    config = read_recipe(path)
    written = tmp_path / 'config.yaml'
    written.write_text(as_yaml(config))
    assert read_recipe(written) == config
    assert find_recipe(path.stem) == path


def test_the_published_schedules_are_those_of_the_recipes():
    # OccFeat section 4.1: labels, epochs, rate, batch, accumulation
    for percent, *wanted in ((1, 100, 1e-4, 6, 1), (10, 50, 1e-4, 6, 1), (100, 30, 3e-4, 8, 5)):
        for task in ('vehicle', 'map'):
            config = read_recipe(find_recipe(f'nuscenes_{task}_{percent}pct'))
            found = config.epochs, config.optimizer.lr, config.batch_size, config.accumulate
            assert list(found) == wanted
            assert config.data.labels_percent == percent
            assert config.model.backbone == 'efficientnet_b0'
            assert config.model.grid.shape == (8, 200, 200)
            assert (config.optimizer.weight_decay, config.optimizer.anneal) == (1e-7, 'linear')


@pytest.mark.parametrize(
    ('plain', 'twin'),
    [
        ('town', 'town_bevformer'),
        ('town_small', 'town_small_bevformer'),
        ('simplebev_rn101', 'bevformer_rn101'),
    ],
)
def test_twins_differ_in_the_network_alone(plain, twin):
    one, other = (flat(read_recipe(find_recipe(name))) for name in (plain, twin))
    changed = {name for name in one if one[name] != other[name]}
    assert 'model.network' in changed
    of_the_network = ('model.network', 'model.attention.', 'optimizer.lr', 'card.')
    assert not {name for name in changed if not name.startswith(of_the_network)}
    assert not other['model.attention.temporal']


RN50 = {'model.backbone': 'resnet50'}
BEVFORMER = {'model.network': 'bevformer'}


@pytest.mark.parametrize(
    ('recipe', 'changed', 'finetune'),
    [
        ('occfeat_nuscenes', {}, 'nuscenes_{}pct'),
        ('occfeat_nuscenes_rn50', RN50, 'nuscenes_{}pct'),
        ('occfeat_nuscenes_bevformer', BEVFORMER, 'nuscenes_{}pct'),
        ('img_also_nuscenes', {}, 'nuscenes_{}pct'),
        ('img_also_nuscenes', RN50, 'nuscenes_{}pct'),
        ('town_occfeat', {}, 'town_small'),
        ('town_img_also', {}, 'town_small'),
        ('town_occfeat_bevformer', {}, 'town_small_bevformer'),
        ('town_img_also_bevformer', {}, 'town_small_bevformer'),
    ],
)
def test_a_network_is_pretrained_as_it_is_fine_tuned(recipe, changed, finetune):
    before = read_recipe(find_recipe(recipe), changed.items())
    tasks = [f'{task}_{share}' for task in ('vehicle', 'map') for share in (1, 10, 100)]
    for name in sorted({finetune.format(task) for task in tasks}):
        after = read_recipe(find_recipe(name), changed.items())
        headless = dataclasses.replace(
            after.model, classes=(), obstacle_classes=(), center_offset=False
        )
        assert before.model == headless, name
        assert before.augment == after.augment, name
        assert before.weights == after.weights, name


@pytest.mark.parametrize(
    'recipe',
    [
        *('occfeat_nuscenes', 'occfeat_nuscenes_rn50', 'occfeat_nuscenes_bevformer'),
        'img_also_nuscenes',
    ],
)
def test_the_published_pretraining_is_that_of_the_recipes(recipe):
    # OccFeat sections 3 and 4.1 and 4.2
    config = read_recipe(find_recipe(recipe))
    assert (config.epochs, config.batch_size, config.accumulate) == (50, 16, 1)
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.schedule) == ('adam', 'constant')
    assert (optimizer.lr, optimizer.weight_decay) == (1e-3, 1e-7)
    assert config.model.image_size_px == (400, 224)
    assert (config.model.grid.shape, config.model.channels) == ((8, 200, 200), 128)
    assert (config.occfeat.occupancy, config.occfeat.lambda_feat) == (1, 0.01)
    assert (config.occfeat.pos_weight, config.lidar.sweeps) == (1, 1)
    assert (config.teacher.name, config.teacher.block) == ('dinov2_vits14', -1)
    also = config.img_also
    assert (also.near_m, also.radius_m, also.decimate_m) == (0.1, 1, 0.1)


@pytest.mark.parametrize('network', ['', '_bevformer'])
def test_the_baseline_of_pretraining_differs_in_what_it_learns_alone(network):
    names = (f'town_occfeat{network}', f'town_img_also{network}')
    one, other = (flat(read_recipe(find_recipe(name))) for name in names)
    changed = {name.split('.')[0] for name in one if one[name] != other[name]}
    assert changed == {'objectives', 'teacher'}


def test_the_temporal_recipe_is_that_of_the_authors():
    config = read_recipe(find_recipe('bevformer_temporal_r50'))
    attention = config.model.attention
    assert (attention.temporal, attention.frames, attention.layers) == (True, 3, 3)
    assert (attention.heads, attention.hidden, config.model.channels) == (8, 512, 256)
    assert config.batch_size * config.accumulate == 8
    steps = 24 * 28130 / 8
    assert config.optimizer.warmup_share * steps == pytest.approx(500, rel=0.02)
    assert config.validate_every == round(28130 / 8)


@pytest.mark.parametrize(
    'path', [each for each in RECIPES if each.stem.startswith('nuscenes')], ids=lambda p: p.stem
)
def test_the_other_encoder_and_larger_images_are_two_overrides(path):
    given = [('model.backbone', 'resnet50'), ('model.image_size_px', '[800, 448]')]
    model = read_recipe(path, given).model
    assert (model.backbone, model.image_size_px) == ('resnet50', (800, 448))
    wanted = imagenet_statistics('resnet50')
    assert (model.mean, model.std) == wanted


def test_a_card_has_free_names_and_goes_round(tmp_path):
    path = tmp_path / 'card.yaml'
    path.write_text('card: {licence: MIT, "who and when": "me: now"}')
    config = read_recipe(path, [('card.licence', 'Apache-2.0'), ('card.note', 'no rain')])
    assert config.card == {'licence': 'Apache-2.0', 'who and when': 'me: now', 'note': 'no rain'}
    path.write_text(as_yaml(config))
    assert read_recipe(path) == config


def test_what_a_recipe_leaves_out_has_its_default(tmp_path):
    path = tmp_path / 'empty.yaml'
    path.write_text('# nothing\n')
    assert read_recipe(path) == TrainConfig()


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('stepz: 3', 'stepz: is no known field'),
        ('optimizer: {lrr: 1}', 'optimizer.lrr: is no known field; known are kind, schedule, lr'),
        ('model: {grid: {cel_m: 1}}', 'model.grid.cel_m: is no known field'),
        ('steps: many', 'steps: is many; it must be a whole number'),
        ('steps: 1.0', 'steps: is 1.0; it must be a whole number'),
        ('steps: true', 'steps: is True; it must be a whole number'),
        ('optimizer: {lr: fast}', 'optimizer.lr: is fast; it must be a number'),
        ('optimizer: {lr: -1}', 'optimizer.lr is -1.0; it must be above 0'),
        ('optimizer: [1]', 'optimizer: is [1]; it must be a mapping of fields'),
        ('model:', 'model: is None; it must be a mapping of fields'),
        ('augment: {resize: [0.8]}', 'augment.resize: is [0.8]; it must be a list of 2 values'),
        ('loss: {pos_weight: 2}', 'loss.pos_weight: is 2; it must be a list like [a, b]'),
        ('loss: {pos_weight: [a]}', 'loss.pos_weight: is a; it must be a number'),
        ('data: {labels_by: day}', "labels_by: is day; it must be one of 'frame', 'scene'"),
        ('data: {version: 1}', 'data.version: is 1; it must be text'),
        ('model: {backbone: vgg}', "backbone 'vgg' is unknown; known are"),
        ('model: {grid: {cell_m: 0.3}}', 'it must be a whole number of cells'),
        ('loss: {center: 1}', 'loss.center and loss.offset need model.center_offset: true'),
        ('card: {licence: 2}', 'card: is 2; it must be text'),
        ('card: [a]', "card: is ['a']; it must be a mapping of names to text"),
        ('card: {seed: "1"}', 'card.seed is not free: every run writes its own'),
        ('steps: 3\n\tbatch_size: 2', "line 2: found character '\\t'"),
        ('steps: 1\nsteps: 2', "line 2: 'steps' is given twice"),
        ('- steps', "is ['steps']; it must be a mapping of fields"),
        ('steps: [', 'line 1: '),
    ],
)
def test_bad_recipes_get_one_line_with_file_and_field(text, said, tmp_path):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_overrides_change_single_values_of_every_kind(tmp_path):
    path = tmp_path / 'some.yaml'
    path.write_text('optimizer: {lr: 1e-2, clip_norm: 1}\nmodel: {classes: [vehicle]}')
    given = {
        'optimizer.lr': '1e-4',
        'data.train': '/my data=1',
        'data.version': '1',
        'model.classes': '[vehicle, pedestrian]',
        'model.grid.x_range_m': '[-20, 30]',
        'augment.resize': '[1, 1]',
        'loss.learned_weights': 'true',
        'data.labels_by': 'scene',
        'steps': '7',
    }
    values = flat(read_recipe(path, list(given.items())))
    assert values['optimizer.lr'] == 1e-4 and values['optimizer.clip_norm'] == 1
    assert (values['data.train'], values['data.version']) == ('/my data=1', '1')
    assert values['model.classes'] == ['vehicle', 'pedestrian']
    assert values['model.grid.x_range_m'] == [-20, 30]
    assert values['augment.resize'] == [1, 1]
    assert values['loss.learned_weights'] is True
    assert (values['data.labels_by'], values['steps']) == ('scene', 7)


def test_the_last_override_of_a_name_counts(tmp_path):
    path = tmp_path / 'some.yaml'
    path.write_text('')
    assert read_recipe(path, [('steps', '1'), ('steps', '2')]).steps == 2


@pytest.mark.parametrize(
    ('name', 'value', 'said'),
    [
        (
            'optimizer.lrr',
            '1',
            '--set optimizer.lrr: is no known field; did you mean optimizer.lr',
        ),
        ('help', '1', '--set help: is no known field'),
        ('model', '{}', '--set model: is no known field'),
        ('steps', 'a', '--set steps: is a; it must be a whole number'),
        ('optimizer.lr', '20', 'optimizer.lr is 20.0; it must be above 0 and at most 10'),
        ('augment.resize', '1', '--set augment.resize: is 1; it must be a list'),
    ],
)
def test_bad_overrides_get_one_line(name, value, said, tmp_path):
    path = tmp_path / 'some.yaml'
    path.write_text('')
    with pytest.raises(ConfigError) as caught:
        read_recipe(path, [(name, value)])
    assert said in str(caught.value) and '\n' not in str(caught.value)


def test_an_unknown_recipe_lists_those_that_are_shipped(tmp_path):
    with pytest.raises(ConfigError, match=r'no shipped recipe; those are .*debug.*town'):
        find_recipe('tuwn')
    with pytest.raises(ConfigError, match='does not exist'):
        find_recipe(str(tmp_path / 'tuwn.yaml'))
    with pytest.raises(ConfigError, match='is no file'):
        find_recipe(str(tmp_path))
