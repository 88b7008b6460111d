"""The demo: drive, player, node, recorder and picture, with the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from bev_perception.errors import BevError, ConfigError
from bev_perception.model import checkpoint
from bev_perception.resources import SHIPPED_WEIGHTS, weights_path
from bev_training.cli import main
from bev_training.demo import DemoConfig, run_demo
from test.factories import make_config, write_checkpoint

# In an unseen town, where a camera sees: what the weights claim to know, with some room.
LEAST_IOU = {'drivable_area': 0.6, 'walkway': 0.35, 'ped_crossing': 0.1, 'vehicle': 0.15}


def test_demo_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slowed down, so that the network keeps up with a busy machine too."""
    config = DemoConfig(out=tmp_path / 'demo', seconds=1.0, rate=0.25)
    picture = run_demo(config)
    image = cv2.imread(str(picture))
    assert image.shape[1] > 1000 and image.std() > 20
    figures = json.loads((config.out / 'demo.json').read_text())
    assert figures['complete'] == '12'
    assert sum(int(v) for k, v in figures.items() if k.startswith('images_')) == 6 * 12
    assert figures['grids'] >= 2
    scores = figures['scores']['classes']
    classes = checkpoint.load(weights_path(SHIPPED_WEIGHTS)).model.config.classes
    assert set(scores) == set(classes) >= set(LEAST_IOU)
    seen = {name: scores[name]['visible']['seen']['iou'] for name in LEAST_IOU}
    assert all(seen[name] > least for name, least in LEAST_IOU.items()), seen
    printed = capsys.readouterr().out.strip().splitlines()
    line = next(line for line in printed if line.startswith('IoU over this drive'))
    assert all(f' {name} ' in line for name in classes)
    assert printed[-1] == f'Picture: {picture}'
    assert any('trained on' in line and 'synthetic' in line for line in printed)


def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    (tmp_path / 'x.safetensors').write_text('?')
    with pytest.raises(BevError, match='is no safetensors file'):
        run_demo(DemoConfig(out=tmp_path / 'demo', weights=tmp_path / 'x.safetensors'))


def test_weights_of_a_class_without_truth_are_one_line(tmp_path: Path) -> None:
    config = make_config(classes=('vehicle', 'puddle'), obstacle_classes=('vehicle',))
    weights = write_checkpoint(tmp_path / 'x.safetensors', config)
    with pytest.raises(ConfigError, match="tells 'puddle', which the labels do not have"):
        run_demo(DemoConfig(out=tmp_path / 'demo', weights=weights))
    assert not (tmp_path / 'demo').exists()


def test_what_is_no_drive_is_not_replaced(tmp_path: Path) -> None:
    for name in ('drive', 'grids'):
        mine = tmp_path / name / name / 'mine'
        mine.parent.mkdir(parents=True)
        mine.write_text('keep')
        with pytest.raises(BevError, match=f'{name} is no .* and is not replaced'):
            run_demo(DemoConfig(out=tmp_path / name))
        assert mine.read_text() == 'keep'


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        assert main(['demo', str(out)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f'bev demo: {out} cannot be written: ')
        assert error.count('\n') == 1
