"""Evaluation of a checkpoint on a source of samples."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.predictor import Predictor
from bev_training.evaluation.evaluate import Scored, evaluate, evenly_spaced
from bev_training.metrics import PooledScores
from test.factories import make_config, make_model, write_checkpoint

from .samples import FakeSource, predicted_labels, random_labels, views_of

COUNT = 7
CONFIG = make_config()


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


@pytest.mark.parametrize('inverted', [False, True], ids=['perfect', 'all wrong'])
def test_labels_that_the_network_says_score_one_and_their_contrary_zero(
    weights: Path, inverted: bool
) -> None:
    source = FakeSource(labels_of=predicted_labels(weights, 3, inverted=inverted))
    scores = evaluate(weights, source, device='cpu').scores
    for name in CONFIG.classes:
        positive = sum(
            labels.positive[CONFIG.classes.index(name)].sum() for labels in source.labels_of
        )
        assert positive > 0
        assert scores.iou(name) == scores.iou(name, 'all') == (0.0 if inverted else 1.0)


def test_every_sample_counts_once_as_on_the_nodes_path(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(COUNT))
    shown: list[Scored] = []
    progress: list[tuple[int, int]] = []
    done = evaluate(
        weights,
        source,
        device='cpu',
        show=shown.append,
        progress=lambda done, total: progress.append((done, total)),
    )
    predictor = Predictor(checkpoint.load(weights).model, device='cpu')
    pooled = PooledScores(CONFIG.classes, CONFIG.grid)
    for i in range(COUNT):
        said = predictor(views_of(i))
        np.testing.assert_array_equal(said.classes, shown[i].probabilities.classes)
        pooled.update(said.classes, source.labels(i), said.valid)
    assert done.scores.as_json() == pooled.result().as_json()
    assert done.scores.samples == COUNT and done.indices == tuple(range(COUNT))
    assert [one.index for one in shown] == list(range(COUNT))
    assert [one.key for one in shown] == source.keys
    assert shown[2].view_set.missing == ('back',)
    assert progress == [(i + 1, COUNT) for i in range(COUNT)]
    assert done.device == 'cpu' and done.seconds > 0


def test_it_is_the_same_again(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(4))
    one, other = (evaluate(weights, source, device='cpu').scores for _ in range(2))
    np.testing.assert_array_equal(one.histogram, other.histogram)


def test_a_limit_takes_samples_evenly_spaced(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(COUNT))
    done = evaluate(weights, source, limit=3, device='cpu')
    assert done.indices == (1, 3, 5) and done.scores.samples == 3
    assert evaluate(weights, source, limit=100, device='cpu').indices == tuple(range(COUNT))
    assert evenly_spaced(10, 1) == [5] and evenly_spaced(4, 4) == [0, 1, 2, 3]
    assert evenly_spaced(0, 4) == [] and evenly_spaced(4, 0) == []


def test_facts_part_the_samples(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(5))
    done = evaluate(weights, source, device='cpu')
    assert set(done.by_fact) == {'weather'}  # not their names
    weather = done.by_fact['weather']
    assert {value: scores.samples for value, scores in weather.items()} == {'clear': 3, 'rain': 2}
    np.testing.assert_array_equal(
        weather['clear'].histogram + weather['rain'].histogram, done.scores.histogram
    )
    assert (weather['clear'].histogram != weather['rain'].histogram).any()
    lacking = FakeSource(labels_of=random_labels(2), weather=('rain', ''))
    assert list(evaluate(weights, lacking, device='cpu').by_fact['weather']) == ['', 'rain']
    without = FakeSource(labels_of=random_labels(2), weather=('',))
    assert evaluate(weights, without, device='cpu').by_fact == {}


def test_labels_of_more_classes_in_another_order_will_do(weights: Path) -> None:
    plain = FakeSource(labels_of=random_labels(2))
    order = (2, 0, 1)
    classes = tuple(CONFIG.classes[i] for i in order) + ('walkway',)
    mixed = tuple(
        replace(
            labels,
            classes=classes,
            positive=np.concatenate([labels.positive[list(order)], labels.positive[:1]]),
            hidden=np.concatenate([labels.hidden[list(order)], labels.hidden[:1]]),
        )
        for labels in plain.labels_of
    )
    one = evaluate(weights, plain, device='cpu')
    other = evaluate(weights, FakeSource(labels_of=mixed, classes=classes), device='cpu')
    assert one.scores.as_json() == other.scores.as_json()


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert '\n' not in text
    return text


def test_another_grid_is_one_line(weights: Path) -> None:
    grid = BevGrid(x_range_m=(-8, 12), y_range_m=(-8, 8), cell_m=0.5)
    source = FakeSource(labels_of=random_labels(2, grid=grid), grid=grid)
    with pytest.raises(ConfigError) as error:
        evaluate(weights, source, device='cpu')
    text = one_line(error)
    assert str(weights) in text
    assert 'x -8..12 m, y -8..8 m, cells of 1 m' in text and 'cells of 0.5 m' in text


def test_heights_of_the_grid_are_the_networks_own(weights: Path) -> None:
    grid = replace(CONFIG.grid, z_cells=5, z_range_m=(-2, 2))
    source = FakeSource(labels_of=random_labels(1), grid=grid)
    assert evaluate(weights, source, device='cpu').scores.samples == 1


def test_a_class_without_labels_is_one_line(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(1), classes=('drivable_area', 'vehicle'))
    with pytest.raises(ConfigError) as error:
        evaluate(weights, source, device='cpu')
    assert "tells 'lane_divider', which the labels do not have" in one_line(error)


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        (BagError('shard.tar is damaged'), 'sample drive/000002: shard.tar is damaged'),
        (FileNotFoundError(2, 'No such file', 'x.tar'), "sample drive/000002: .*file: 'x.tar'"),
    ],
)
def test_a_sample_that_cannot_be_read_ends_it(weights: Path, damage, said: str) -> None:
    source = FakeSource(labels_of=random_labels(4), broken=2, damage=damage)
    shown: list[Scored] = []
    with pytest.raises(BevError, match=said) as error:
        evaluate(weights, source, device='cpu', show=shown.append)
    one_line(error)
    assert [one.index for one in shown] == [0, 1]


def test_reading_stops_where_scoring_does(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(4))

    def stop(scored: Scored) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:  # which keeps the frames
        evaluate(weights, source, device='cpu', show=stop)
    assert raised.tb is not None
    assert not [each.name for each in threading.enumerate() if each.name.startswith('read')]


def test_a_network_with_heads_for_middles_is_scored_by_its_classes(tmp_path: Path) -> None:
    plain, more = make_model(CONFIG), make_model(make_config(center_offset=True))
    left = more.load_state_dict(plain.state_dict(), strict=False)
    assert left.missing_keys and not left.unexpected_keys  # it has more heads
    source, found = FakeSource(labels_of=random_labels(2)), []
    for name, model in (('plain', plain), ('more', more)):
        checkpoint.save(tmp_path / name, model, {})
        found.append(evaluate(tmp_path / name, source, device='cpu').scores.as_json())
    assert found[0] == found[1]


def test_nothing_to_score_is_one_line(weights: Path) -> None:
    with pytest.raises(BagError, match='no labelled samples'):
        evaluate(weights, FakeSource(labels_of=()), device='cpu')
