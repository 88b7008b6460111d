"""The verb `evaluate`: what it prints and writes, and how it fails."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, CheckpointError, ConfigError
from bev_training.cli_evaluate import add_evaluate
from bev_training.data import sources
from test.factories import make_config, write_checkpoint

from .samples import CONFIG, FakeSource, predicted_labels

COUNT = 5


def run(*words: str | Path) -> None:
    parser = argparse.ArgumentParser(prog='bev')
    add_evaluate(parser.add_subparsers())
    chosen = parser.parse_args(['evaluate', *map(str, words)])
    chosen.run(chosen)


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


@pytest.fixture
def asked(weights: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What sources were asked for; labels are what the checkpoint says."""
    calls: list[dict[str, Any]] = []

    def opened(path: str, **options: Any) -> FakeSource:
        calls.append({'path': path, **options})
        return FakeSource(labels_of=predicted_labels(weights, COUNT))

    monkeypatch.setattr(sources, 'open_source', opened)
    return calls


def test_results_lie_in_one_folder(weights, asked, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run(weights, 'frames', '--device', 'cpu', '--pictures', '2')
    out = tmp_path / 'out' / 'evaluate' / 'tiny'
    assert sorted(path.name for path in out.iterdir()) == [
        'evaluation.json', 'evaluation.txt', 'pictures', 'pictures.png', 'report.html',
    ]  # fmt: skip
    assert len(list((out / 'pictures').iterdir())) == 2
    assert cv2.imread(str(out / 'pictures.png')).std() > 20
    printed = capsys.readouterr().out
    assert printed.startswith((out / 'evaluation.txt').read_text())
    assert printed.splitlines()[-3:] == [
        'Results: out/evaluate/tiny',
        'Pictures of 2 samples, evenly spaced: out/evaluate/tiny/pictures.png',
        'Report: out/evaluate/tiny/report.html',
    ]
    line = next(line for line in printed.splitlines() if line.startswith('vehicle '))
    assert line.split()[1:4] == ['1.000'] * 3
    call = asked[0]
    assert call['path'] == 'frames' and call['classes'] == CONFIG.classes
    assert call['grid'] == CONFIG.grid and call['split'] == call['version'] == ''
    run(weights, 'frames', '--device', 'cpu', '--pictures', '0')  # replaces the former
    assert sorted(path.name for path in out.iterdir()) == [
        'evaluation.json', 'evaluation.txt', 'report.html',
    ]  # fmt: skip


def test_json_and_limit(weights, asked, tmp_path, capsys) -> None:
    out = tmp_path / 'x'
    run(weights, 'frames', '--out', out, '--limit', '3', '--json', '--device', 'cpu')
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    stored = json.loads((out / 'evaluation.json').read_text())
    assert printed.err == '' and result['out'] == str(out)
    assert result['scores'] == stored['scores'] and result['scores']['samples'] == 3
    assert result['data'] == {
        'path': 'frames', 'split': '', 'version': '', 'of': '5', 'samples': 3,
    }  # fmt: skip
    names = sorted(path.name[3:] for path in (out / 'pictures').iterdir())
    assert names == ['drive_000000.png', 'drive_000002.png', 'drive_000004.png']  # those scored


def test_nuscenes_format_is_evaluated_on_its_validation_split(
    weights, asked, tmp_path, capsys
) -> None:
    (tmp_path / 'set' / 'v1.0-trainval').mkdir(parents=True)
    (tmp_path / 'own' / 'town').mkdir(parents=True)
    (tmp_path / 'own' / 'town' / 'sample_data.json').write_text('[]')
    words = ('--out', tmp_path / 'out', '--limit', '1', '--pictures', '0')
    run(weights, tmp_path / 'set', *words)
    run(weights, tmp_path / 'own', *words)
    run(weights, tmp_path / 'set', *words, '--split', 'train', '--version', 'v1.0-trainval')
    assert [call['split'] for call in asked] == ['val', 'val', 'train']
    assert asked[2]['version'] == 'v1.0-trainval'


def test_too_low_a_score_fails_after_all_is_written(weights, asked, tmp_path, capsys) -> None:
    out = tmp_path / 'x'
    words = (weights, 'frames', '--out', out, '--pictures', '0', '--device', 'cpu')
    run(*words, '--min-iou', 'vehicle=1', '--min-iou', 'lane_divider=0.5')
    never = FakeSource(labels_of=predicted_labels(weights, 1, inverted=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, 'open_source', lambda *_, **__: never)
        with pytest.raises(BevError) as error:
            run(*words, '--min-iou', 'vehicle=0.25', '--min-iou', 'lane_divider=0')
    assert str(error.value) == (
        'IoU (visible, at 0.5) is too low: vehicle 0.000, --min-iou is 0.25'
    )
    assert json.loads((out / 'evaluation.json').read_text())['scores']['samples'] == 1


def test_a_class_without_truth_does_not_reach_any_score(
    weights, asked, tmp_path, monkeypatch
) -> None:
    labels = predicted_labels(weights, 1)[0]
    nowhere = replace(labels, positive=np.zeros_like(labels.positive))
    monkeypatch.setattr(sources, 'open_source', lambda *_, **__: FakeSource(labels_of=(nowhere,)))
    with pytest.raises(BevError, match=r'too low: the truth does not have vehicle$'):
        run(
            weights, 'frames', '--out', tmp_path / 'x', '--pictures', '0', '--min-iou', 'vehicle=0'
        )


def test_a_second_checkpoint_and_robustness_are_told_everywhere(
    weights, asked, tmp_path, capsys
) -> None:
    other = write_checkpoint(tmp_path / 'other.safetensors', seed=1)
    out = tmp_path / 'x'
    words = ['--against', other, '--corruptions', 'color_quant,camera_crash', '--severities', '3']
    words += ['--lost-cameras', '--seed', '4', '--pictures', '0', '--device', 'cpu']
    run(weights, 'frames', '--out', out, '--limit', '3', *words)
    stored = json.loads((out / 'evaluation.json').read_text())
    against = stored['comparison']
    assert against['other'] == str(other) and against['drawn'] == 'samples'
    robust = stored['robustness']
    assert robust['seed'] == 4 and robust['against'].startswith(str(other))
    assert list(robust['corrupted']) == ['color_quant', 'camera_crash']
    assert list(robust['lost']) == ['0', '1', '2', '3', '4', '5']
    for name in CONFIG.classes:
        of = against['classes'][name]
        assert of['iou'] == 1 == stored['scores']['classes'][name]['visible']['iou']
        assert of['difference'] == pytest.approx(1 - of['other_iou']) and of['low'] > 0
        black = robust['corrupted']['camera_crash']['3']['classes'][name]['visible']['iou']
        assert black < 1 == robust['clean']['classes'][name]['visible']['iou']
    shown = (out / 'evaluation.txt').read_text()
    page = (out / 'report.html').read_text()
    for text in (shown, page):
        for said in (f'Against {other}', 'resamples of single samples (3 of them)', 'color_quant',
                     f'{against["classes"]["vehicle"]["difference"]:+.3f}', '(seed 4)',
                     f'Corruption errors are relative to {other}'):  # fmt: skip
            assert said in text, said
    assert capsys.readouterr().out.startswith(shown)


def test_corruption_errors_without_a_second_checkpoint_are_relative_to_frequency(
    weights, asked, tmp_path, capsys
) -> None:
    words = ('--corruptions', 'brightness', '--severities', '1,2', '--pictures', '0')
    run(weights, 'frames', '--out', tmp_path / 'x', '--json', '--device', 'cpu', *words)
    stored = json.loads(capsys.readouterr().out)
    robust, frequency = stored['robustness'], stored['baselines']['scores']['frequency']
    assert robust['against'].startswith("the baseline 'frequency'")
    for name in CONFIG.classes:
        own = [
            robust['corrupted']['brightness'][s]['classes'][name]['visible']['iou'] for s in '12'
        ]
        without = frequency['classes'][name]['visible']['iou']
        expected = (1 - np.mean(own)) / (1 - without)
        assert robust['mce']['by_class'][name] == pytest.approx(expected, abs=1e-5)


def test_the_checkpoint_is_the_one_that_was_loaded(
    weights, asked, tmp_path, monkeypatch, capsys
) -> None:
    """A training that goes on replaces the file meanwhile."""
    own = tmp_path / 'best.safetensors'
    own.write_bytes(weights.read_bytes())
    before = hashlib.sha256(own.read_bytes()).hexdigest()
    opened = sources.open_source

    def replaced(*given: Any, **options: Any) -> FakeSource:
        write_checkpoint(own, seed=1)
        return opened(*given, **options)

    monkeypatch.setattr(sources, 'open_source', replaced)
    run(own, 'frames', '--out', tmp_path / 'x', '--limit', '1', '--pictures', '0', '--json')
    assert json.loads(capsys.readouterr().out)['checkpoint']['sha256'] == before
    stored = json.loads((tmp_path / 'x' / 'evaluation.json').read_text())
    assert stored['checkpoint']['sha256'] == before


def test_what_cannot_be_used_is_said_before_anything_is_read(
    weights, asked, tmp_path, capsys
) -> None:
    out = tmp_path / 'x'
    with pytest.raises(ConfigError, match=f'--min-iou bus: {weights} has no such class, but '):
        run(weights, 'frames', '--out', out, '--min-iou', 'bus=0.5')
    with pytest.raises(ConfigError, match="corruption 'rain' is none of camera_crash, "):
        run(weights, 'frames', '--out', out, '--corruptions', 'fog,rain')
    with pytest.raises(ConfigError, match='severity 4 is none of 1'):
        run(weights, 'frames', '--out', out, '--corruptions', 'all', '--severities', '4')
    grid = replace(CONFIG.grid, cell_m=2)
    own = tmp_path / 'weights'
    own.mkdir()
    small = write_checkpoint(own / 'small.safetensors', make_config(grid=grid))
    with pytest.raises(ConfigError, match=f'{small} is for the grid .* cells of 2 m'):
        run(weights, 'frames', '--out', out, '--against', small)
    config = make_config(classes=('walkway',), obstacle_classes=())
    few = write_checkpoint(own / 'few.safetensors', config)
    with pytest.raises(ConfigError, match='it tells walkway, none of drivable_area, '):
        run(weights, 'frames', '--out', out, '--against', few)
    with pytest.raises(CheckpointError, match='does not exist'):
        run(tmp_path / 'none.safetensors', 'frames', '--out', out)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine').write_text('')
    with pytest.raises(BagError, match='holds mine, which is no result of an earlier evaluation'):
        run(weights, 'frames', '--out', tmp_path / 'full')
    assert asked == [] and not out.exists()
    for wrong in ('vehicle', 'vehicle=2', 'vehicle=x'):
        with pytest.raises(SystemExit) as stopped:
            run(weights, 'frames', '--min-iou', wrong)
        assert stopped.value.code == 2
