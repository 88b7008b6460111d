"""`bev features`: what a pretrained network says of voxels, and the pictures of it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bev_perception.errors import BagError, BevError, CheckpointError, ConfigError
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig
from bev_perception.preprocess import prepare
from bev_training.cli_features import add_features
from bev_training.fit.pretrain_settings import ObjectivesConfig, OccFeatConfig, TeacherConfig
from bev_training.fit.recipes import as_yaml
from bev_training.fit.settings import TrainConfig
from bev_training.objectives.pretraining import PretrainingObjective
from bev_training.qualitative.color_mapping import fit_mapping
from bev_training.qualitative.drawing import choose_voxels
from bev_training.qualitative.pretrained import (
    features_at,
    lidar_voxels,
    load_pretrained,
    look,
    visible,
    voxels_of,
)
from bev_training.teachers.load import Teacher
from test.factories import make_config, make_model
from test.training.fake_source import FakeSource, make_fake_source
from test.training.fit_runs import make_run_config, one_thread

__all__ = ['one_thread']

CPU = torch.device('cpu')
CHANNELS = 5
TEACHER = TeacherConfig(name='efficientnet_lite0', block=8, size_px=(64, 32))


def write_run(folder: Path, model: ModelConfig | None = None, **values) -> Path:
    """OUT of `bev pretrain`, with random weights."""
    config = make_run_config(
        model or make_config(classes=(), obstacle_classes=()),
        **{
            'objectives': ObjectivesConfig(segmentation=0, occfeat=1),
            'teacher': TEACHER,
            **values,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        objective = PretrainingObjective(config, CHANNELS)
    folder.mkdir(parents=True, exist_ok=True)
    write_heads(folder, objective, config)
    checkpoint.save(folder / 'final.safetensors', make_model(config.model), {})
    return folder


def write_heads(folder: Path, objective: PretrainingObjective, config: TrainConfig) -> None:
    told = {'config': as_yaml(config), 'teacher_channels': str(CHANNELS)}
    save_file(objective.state_dict(), folder / 'pretraining.safetensors', told)


def unlabelled(count: int = 6, **values) -> FakeSource:
    return make_fake_source(count, classes=(), **values)


def make_teacher() -> Teacher:
    """Says (1, 2, 3, 4, 5) everywhere."""
    network = torch.nn.Conv2d(3, CHANNELS, 8, 8)
    torch.nn.init.zeros_(network.weight)
    network.bias.data = torch.arange(1.0, CHANNELS + 1)
    return Teacher(
        network, mean=(0, 0, 0), std=(1, 1, 1), channels=CHANNELS, patch_px=8, size_px=(64, 32),
        digest='0' * 32, description='constant',
    )  # fmt: skip


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp('run') / 'occfeat')


def test_features_and_occupancy_are_those_of_the_run_s_network_and_head(run):
    pretrained, source = load_pretrained(run, CPU), unlabelled()
    seen = look(pretrained, source, 2)
    network: BevModel = checkpoint.load(run / 'final.safetensors').model
    with torch.no_grad():
        plane = network.see(prepare(source.view_set(2), network.config))
        logits, dense = pretrained.head.dense(plane.features)
    assert torch.allclose(seen.probability, logits[0].sigmoid(), atol=1e-6)
    voxels = torch.tensor([[0, 3, 4], [1, 15, 19], [1, 0, 0], [0, 3, 5]])
    found = features_at(pretrained, seen, voxels)
    assert torch.allclose(
        found, dense[0][:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T, atol=1e-5
    )


def test_drawn_voxels_are_occupied_and_seen_by_a_camera(run):
    pretrained, source = load_pretrained(run, CPU), unlabelled(cameras=('front', 'back'))
    seen = look(pretrained, source, 1)
    threshold = float(seen.probability.median())
    found = voxels_of(pretrained, source, 1, threshold=threshold)
    z, y, x = found.index_zyx.T
    assert (found.probability >= threshold).all() and len(found.features) == len(z)
    centers = found.centers_m
    assert (np.abs(centers[:, 1]) < np.abs(centers[:, 0]) + 2).all()  # none beside the vehicle
    drawn = np.zeros(source.grid.shape, bool)
    drawn[z, y, x] = True
    every = torch.ones(source.grid.shape).nonzero()
    in_view = torch.zeros(source.grid.shape, dtype=torch.bool)
    in_view[tuple(every[visible(seen.inputs, every, source.grid)].T)] = True
    expected = in_view & (seen.probability >= threshold)
    assert np.array_equal(drawn, expected.numpy()) and 0.2 < in_view.float().mean() < 0.8


def test_voxels_can_be_those_with_a_lidar_point(run):
    pretrained, source = load_pretrained(run, CPU), unlabelled()
    found = voxels_of(pretrained, source, 3, occupied='lidar', threshold=0.4)
    occupied = lidar_voxels(source, 3, pretrained.config).numpy()
    assert occupied[tuple(found.index_zyx.T)].all() and 0 < len(found.features) <= occupied.sum()
    predicted = look(pretrained, source, 3).probability.numpy() >= 0.4
    union = (predicted | occupied).sum()
    assert found.occupancy_iou == pytest.approx((predicted & occupied).sum() / union)
    blind = unlabelled(blind=(3,))
    assert voxels_of(pretrained, blind, 3, threshold=0.4).occupancy_iou is None


def test_the_teacher_stands_beside_the_network(run):
    pretrained = load_pretrained(run, CPU)
    found = voxels_of(pretrained, unlabelled(), 0, occupied='lidar', teacher=make_teacher())
    assert found.taught.shape == found.features.shape
    assert np.allclose(found.taught, np.arange(1, CHANNELS + 1))


def test_a_temporal_network_remembers_the_instants_before(tmp_path):
    base = make_config(network='bevformer')
    model = make_config(
        network='bevformer',
        classes=(),
        obstacle_classes=(),
        attention=replace(base.attention, temporal=True, frames=3),
    )
    pretrained = load_pretrained(write_run(tmp_path, model), CPU)
    source = unlabelled(8)
    memory = None
    with torch.no_grad():
        for i in (5, 6, 7):
            plane = pretrained.network.see(prepare(source.view_set(i), model), memory)
            memory = plane.memory
        alone = pretrained.network.see(prepare(source.view_set(7), model))
    found = look(pretrained, source, 7).plane.features
    assert torch.allclose(found, plane.features, atol=1e-5)
    assert not torch.allclose(found, alone.features, atol=1e-2)


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match=r'pretraining.safetensors does not exist; .*no OUT'):
        load_pretrained(tmp_path, CPU)
    (tmp_path / 'pretraining.safetensors').write_bytes(b'nothing of the kind')
    with pytest.raises(CheckpointError, match='cannot be used: SafetensorError'):
        load_pretrained(tmp_path, CPU)
    save_file(
        {}, tmp_path / 'pretraining.safetensors', {'teacher_channels': '5', 'config': 'a: 1'}
    )
    with pytest.raises(
        CheckpointError, match=r'cannot be used: ConfigError: .*a: is no known field'
    ):
        load_pretrained(tmp_path, CPU)


def test_runs_that_learned_no_features_are_refused(tmp_path):
    write_run(tmp_path / 'a', occfeat=OccFeatConfig(lambda_feat=0))
    with pytest.raises(ConfigError, match=r'learned no features: .*lambda_feat 0'):
        load_pretrained(tmp_path / 'a', CPU)
    write_run(tmp_path / 'b', objectives=ObjectivesConfig(segmentation=0, img_also=1))
    with pytest.raises(ConfigError, match=r'learned no features: objectives.occfeat is 0'):
        load_pretrained(tmp_path / 'b', CPU)


def test_parts_of_two_runs_are_told_apart(run, tmp_path):
    write_run(tmp_path, make_config(classes=(), obstacle_classes=(), channels=16))
    (tmp_path / 'final.safetensors').write_bytes((run / 'final.safetensors').read_bytes())
    with pytest.raises(CheckpointError, match='are of two different runs'):
        load_pretrained(tmp_path, CPU)
    heads = tmp_path / 'pretraining.safetensors'
    weights = load_file(heads)
    pretrained = load_pretrained(run, CPU)
    told = {'config': as_yaml(pretrained.config), 'teacher_channels': str(CHANNELS)}
    save_file(weights, heads, told)
    with pytest.raises(CheckpointError, match='does not fit its settings'):
        load_pretrained(tmp_path, CPU)


@pytest.fixture
def drives(monkeypatch) -> str:
    """What `open_source` makes two scenes of."""

    def opened(path: str, *, classes, grid, **_) -> FakeSource:
        assert path == 'drives' and classes == ()
        return unlabelled(8, grid=grid)

    monkeypatch.setattr('bev_training.data.sources.open_source', opened)
    return 'drives'


def bev(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    add_features(parser.add_subparsers(dest='verb'))
    chosen = parser.parse_args(['features', *map(str, arguments)])
    chosen.run(chosen)


def test_pictures_of_drives_without_labels(run, drives, tmp_path, capsys):
    out = tmp_path / 'new' / 'pictures'
    keys = 'scene-0000/000001', 'scene-0001/000005'
    words = (run, drives, '--out', out, '--threshold', 0.001, '--sample', keys[0], '--sample',
             keys[1], '--radius', 8, '--voxel', '6.5,0.5,0.2', '--voxel=-3.5,2.5,0')  # fmt: skip
    bev(*words)
    said = capsys.readouterr().out
    assert f'All in the same colours: {out / "features.png"}' in said
    found = json.loads((out / 'features.json').read_text())
    assert [each['key'] for each in found['samples']] == [*keys]
    assert found['chosen_voxels'] == [
        {'name': 'nearest to (6.5, 0.5, 0.2)', 'center_m': [6.5, 0.5, 0.0]},
        {'name': 'nearest to (-3.5, 2.5, 0)', 'center_m': [-3.5, 2.5, 0.0]},
    ]
    pictures = [name for each in found['samples'] for name in each['pictures']]
    assert len(pictures) == 4 and {str(p.relative_to(out)) for p in out.rglob('*.png')} == {
        'features.png', *pictures
    }  # fmt: skip
    assert all(cv2.imread(str(out / name)).std() > 10 for name in pictures)
    bev(*words[:6], '--samples', 1, '--json')  # takes the place of the first
    shown = json.loads(capsys.readouterr().out)
    assert shown['out'] == str(out) and len(shown['samples']) == 1
    assert len([*out.rglob('*.png')]) == 3


def test_bad_wishes_get_one_line_and_leave_nothing(run, drives, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    for words, said in (
        (('--sample', 'two'), '--sample two: no such sample; the first is scene-0000/000000'),
        (('--voxel', '500,0,0', '--threshold', 0.001), 'voxel 500,0,0: no occupied one'),
        (('--threshold', 2), 'occupied with a probability of 2 or more; lower --threshold'),
    ):
        with pytest.raises(BevError, match=said) as error:
            bev(run, drives, '--out', out, *words)
        assert '\n' not in str(error.value) and not out.exists()
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('')
    with pytest.raises(BevError, match=r'thesis.txt, which is no result of an earlier features'):
        bev(run, drives, '--out', tmp_path / 'mine')
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(ModuleNotFoundError, match='rerun'):
        bev(run, drives, '--out', out, '--rerun')
    assert not out.exists()


def test_without_learned_occupancy_the_lidar_tells_which_voxels(drives, tmp_path):
    write_run(tmp_path / 'run', occfeat=OccFeatConfig(occupancy=0, lambda_feat=1))
    with pytest.raises(ConfigError, match=r'learned no occupancy .*add --occupied lidar'):
        bev(tmp_path / 'run', drives, '--out', tmp_path / 'out', '--occupied', 'predicted')


@pytest.mark.parametrize('words', [('--voxel', '1,2'), ('--voxel', 'a,b,c'), ('--radius', '0')])
def test_words_of_the_wrong_kind_are_wrong_usage(run, tmp_path, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        bev(run, tmp_path, '--out', tmp_path / 'out', *words)
    assert stopped.value.code == 2 and words[1] in capsys.readouterr().err


def test_a_recording_holds_every_sample(run, tmp_path):
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    from bev_training.qualitative.recording import write_recording

    pretrained, source = load_pretrained(run, CPU), unlabelled()
    samples = [
        voxels_of(pretrained, source, i, threshold=0.001, teacher=make_teacher()) for i in (0, 4)
    ]
    mapping, chosen = fit_mapping(samples[0].features), choose_voxels(samples[0], ())
    write_recording(tmp_path / 'new' / 'a.rrd', samples, mapping, chosen)
    write_recording(tmp_path / 'new' / 'b.rrd', samples[:1], mapping, chosen)
    contents = [(tmp_path / 'new' / name).read_bytes() for name in ('a.rrd', 'b.rrd')]
    assert contents[0].startswith(b'RRF') and len(contents[0]) > len(contents[1]) + 1000
    with pytest.raises(BagError, match='cannot be written'):
        write_recording(tmp_path / 'new' / 'a.rrd' / 'c.rrd', samples, mapping, chosen)
