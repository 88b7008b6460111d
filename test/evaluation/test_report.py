"""What an evaluation leaves behind: JSON, a table, pictures, a folder that is whole."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.label_classes import CLASSES
from bev_training.data.sample import LabelGrids
from bev_training.evaluation import report, report_tables
from bev_training.evaluation.baselines import Baselines
from bev_training.evaluation.evaluate import Evaluation, evaluate
from bev_training.evaluation.pictures import SamplePictures
from bev_training.evaluation.result_folder import result_folder
from bev_training.metrics import PooledScores
from bev_training.picture import agreement
from test.factories import write_checkpoint

from .samples import CONFIG, FakeSource, random_labels

DATA = {'path': 'frames', 'split': 'val', 'version': ''}


@pytest.fixture(scope='module')
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """An evaluation with the pictures of its samples 0 and 2."""
    folder = tmp_path_factory.mktemp('evaluation')
    weights = write_checkpoint(folder / 'tiny.safetensors')
    pictures = SamplePictures(folder, [0, 2], CONFIG.grid)
    source = FakeSource(labels_of=random_labels(3))
    evaluation = evaluate(weights, source, device='cpu', baselines=True, show=pictures.show)
    assert pictures.finish() == folder / 'pictures.png'
    return evaluation, folder


def test_json_tells_what_was_done(done, tmp_path) -> None:
    evaluation, _ = done
    weights = report.checkpoint_json(evaluation.checkpoint)
    made = report.evaluation_json(
        evaluation, checkpoint=weights, data=DATA, command=['bev', 'evaluate']
    )
    report.write_report(tmp_path, report.KIND, made, 'a table\n')
    described = json.loads((tmp_path / 'evaluation.json').read_text())
    assert described['kind'] == 'evaluation'
    assert described['scores'] == evaluation.scores.as_json()
    assert set(described['by_fact']['weather']) == {'clear', 'rain'}
    assert described['by_fact']['weather']['clear']['samples'] == 2
    assert described['data'] == {**DATA, 'samples': 3}
    assert set(described['by_fact']['cameras lost']) == {'0', '1'}
    assert set(described['baselines']['scores']) == {'empty', 'frequency', 'ground'}
    assert described['comparison'] is None and described['robustness'] is None
    assert described['checkpoint']['card'] == {'trained_on': 'nothing (random weights)'}
    assert described['checkpoint']['config']['classes'] == list(CONFIG.classes)
    assert len(described['checkpoint']['sha256']) == 64
    run = described['run']
    assert run['command'] == ['bev', 'evaluate'] and run['seconds'] >= 0
    assert run['device'] == 'cpu' and set(run['versions']) == {'bev_perception', 'torch', 'python'}
    assert (tmp_path / 'evaluation.txt').read_text() == 'a table\n'


def test_table_has_a_line_per_class(done) -> None:
    evaluation, _ = done
    scores = evaluation.scores
    lines = report.score_table(scores).splitlines()
    assert lines[0].split()[:6] == ['class', 'visible', 'all', 'best', 'at', 'seen']
    for name, line in zip(CONFIG.classes, lines[1:4], strict=True):
        threshold, best = scores.best(name)
        expected = [scores.iou(name), scores.iou(name, 'all'), best]
        assert line.split()[:4] == [name, *(f'{iou:.3f}' for iou in expected)]
        assert line.split()[4:6] == [f'{threshold:.2f}', f'{scores.iou(name, region="seen"):.3f}']
        assert len(line.split()) == 6 + len(scores.bands)
    explained = [line.split()[0].rstrip(',') for line in lines[5:]]
    assert explained == ['visible', 'all', 'best', 'seen', '0-10', '-', 'coverage']
    assert f'{scores.coverage():.1%} of the known cells' in lines[-1]
    text = report.evaluation_text(evaluation, data={**DATA, 'of': '9'})
    assert 'split val, 3 samples of 9, ' in text and 'random weights' in text
    weather = evaluation.by_fact['weather']
    line = next(line for line in text.splitlines() if line.startswith('rain'))
    assert line.split() == [
        'rain',
        '1',
        *(f'{weather["rain"].iou(n):.3f}' for n in CONFIG.classes),
    ]
    assert max(map(len, text.splitlines()[3:])) <= 99


def test_every_table_has_the_baselines(done) -> None:
    evaluation, _ = done
    scores, simple = evaluation.scores, evaluation.baselines
    lines = report.score_table(scores, simple).splitlines()
    assert lines[0].split()[3:8] == ['best', 'at', 'freq', 'ground', 'seen']
    for name, line in zip(CONFIG.classes, lines[1:4], strict=True):
        assert line.split()[5:7] == [
            f'{simple[each].best(name)[1]:.3f}' for each in ('frequency', 'ground')
        ]
    explained = [line.split()[0].rstrip(',') for line in lines[5:]]
    assert explained[3:6] == ['freq', 'ground', 'empty']
    text = report.evaluation_text(evaluation, data=DATA)
    assert text.count('frequency, all samples') == 2  # by weather, by lost cameras
    assert 'baselines   learned from the evaluated data: all 3 samples are of one scene' in text
    head, rows = report_tables.baseline_rows(scores, simple)
    assert head == ['class', 'network', 'empty', 'frequency', 'ground', 'lead']
    for row in rows:
        others = [simple[name].best(row[0])[1] for name in simple]
        lead = scores.best(row[0])[1] - max(others)
        assert row[1:] == [
            f'{v:.3f}' for v in (scores.best(row[0])[1], *others)
        ] + [f'{lead:+.3f}']  # fmt: skip


def test_a_table_of_all_classes_fits_a_screen() -> None:
    grid = BevGrid(x_range_m=(-60, 60), y_range_m=(-60, 60), cell_m=4)
    lines = report.score_table(PooledScores(CLASSES, grid).result()).splitlines()
    assert max(map(len, lines)) <= 100
    table = lines[: 1 + len(CLASSES)]
    simple = Baselines(CLASSES, grid, ['a', 'b']).result()
    with_more = report.score_table(PooledScores(CLASSES, grid).result(), simple).splitlines()
    assert max(map(len, with_more)) <= 104
    assert len({len(line) for line in table}) == 1  # the last column lies to the right
    assert table[1].split()[1:] == ['-'] * 10


def test_a_line_of_scores_gives_the_other_convention_where_it_differs() -> None:
    grid = BevGrid(x_range_m=(0, 4), y_range_m=(0, 1), cell_m=1)
    positive = np.zeros((3, 1, 4), bool)
    positive[:2] = [[[1, 1, 1, 0]], [[1, 1, 1, 1]]]
    hidden = positive & np.array([[[0]], [[1]], [[0]]], bool) & np.array([[[0, 0, 1, 0]]], bool)
    names = ('walkway', 'vehicle', 'pedestrian')
    labels = LabelGrids(
        classes=names, positive=positive, hidden=hidden, known=np.ones((1, 4), bool)
    )
    pooled = PooledScores(names, grid)
    probability = np.full((3, 1, 4), 0.9, np.float32) * [[[1, 1, 0, 0]]]
    pooled.update(probability, labels, np.array([[1, 1, 1, 0]], bool))
    assert report_tables.iou_line(pooled.result()) == (
        'walkway 0.67, vehicle 1.00 (all 0.67), pedestrian -'
    )


def test_pictures_show_something(done) -> None:
    _, folder = done
    paths = sorted((folder / 'pictures').iterdir())
    assert [path.name for path in paths] == ['00_drive_000000.png', '01_drive_000002.png']
    pictures = [cv2.imread(str(path)) for path in (*paths, folder / 'pictures.png')]
    assert all(picture.std() > 20 for picture in pictures)
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    assert pictures[2].shape[1] > pictures[2].shape[0]  # beside each other


def test_difference_has_a_colour_for_every_case() -> None:
    cells = np.array([[60, 60, 10, 10, 60, 10, -1]], np.int8)
    positive = np.array([[1, 0, 1, 0, 1, 1, 1]], bool)
    hidden = np.array([[0, 0, 0, 0, 1, 1, 0]], bool)
    picture = agreement(cells, positive, hidden, cells >= 0)[::-1, 0]  # x is up
    assert [tuple(map(int, pixel)) for pixel in picture] == [
        (235, 235, 235),  # hit
        (255, 138, 60),  # false
        (66, 133, 244),  # missed
        (22, 22, 26),  # rightly free
        (206, 178, 250),  # hidden, hit
        (103, 58, 183),  # hidden, missed
        (60, 60, 66),  # unseen
    ]


# --- the folder ----------------------------------------------------------------------------------

NAMES = ('evaluation.json', 'evaluation.txt')


def fill(out: Path, text: str) -> None:
    with result_folder(out, kind='evaluation', names=NAMES) as work:
        (work / 'evaluation.json').write_text(json.dumps({'kind': 'evaluation', 'is': text}))
        if text == 'first':
            (work / 'evaluation.txt').write_text(text)


def test_earlier_results_are_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / 'a' / 'out'
    fill(out, 'first')
    fill(out, 'second')
    assert [path.name for path in out.iterdir()] == ['evaluation.json']
    assert json.loads((out / 'evaluation.json').read_text())['is'] == 'second'
    assert [path.name for path in out.parent.iterdir()] == ['out']  # nothing else stays


def test_a_stop_while_results_are_replaced_loses_none(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / 'out'
    fill(out, 'first')
    rename = Path.rename

    def stopped(self: Path, target: Path) -> None:
        rename(self, target)
        if self == out:  # between the two moves
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'rename', stopped)
    with pytest.raises(KeyboardInterrupt):
        fill(out, 'second')
    assert json.loads((out / 'evaluation.json').read_text())['is'] == 'first'
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_earlier_results_stay_where_new_ones_fail(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    fill(out, 'first')
    with (
        pytest.raises(RuntimeError),
        result_folder(out, kind='evaluation', names=NAMES) as work,
    ):
        (work / 'evaluation.json').write_text('half')
        raise RuntimeError
    assert json.loads((out / 'evaluation.json').read_text())['is'] == 'first'
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    with (
        pytest.raises(RuntimeError),
        result_folder(tmp_path / 'new', kind='evaluation', names=NAMES),
    ):
        raise RuntimeError
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
    ('name', 'text', 'said'),
    [
        ('thesis.tex', 'years of work', 'holds thesis.tex, which is no result'),
        ('evaluation.json', '{"kind": "replay"}', 'holds something that is no result'),
        ('evaluation.json', '[', 'holds something that is no result'),
        ('evaluation.txt', 'mine', 'holds something that is no result'),
    ],
)
def test_what_is_no_result_is_not_replaced(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BagError, match=said):
        fill(tmp_path, 'first')
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(
            BagError, match=f'{out}.*(cannot be (written|read)|but a file)'
        ) as error:
            fill(out, 'first')
        assert '\n' not in str(error.value)
