"""Evaluation of a checkpoint on a source of samples."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.model.config import AttentionConfig
from bev_perception.predictor import Predictor
from bev_perception.views import ViewSet
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
    assert set(done.by_fact) == {'weather', 'cameras lost'}  # not their names
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


def test_a_change_is_made_before_the_network_sees_the_images(weights: Path) -> None:
    source, keys = FakeSource(labels_of=random_labels(4)), []

    def lose_front(view_set: ViewSet, key: str) -> ViewSet:
        keys.append(key)
        left = tuple(view for view in view_set.views if view.name != 'front')
        return replace(view_set, views=left, missing=(*view_set.missing, 'front'))

    shown: list[Scored] = []
    done = evaluate(weights, source, device='cpu', change=lose_front, show=shown.append)
    assert sorted(keys) == source.keys
    predictor = Predictor(checkpoint.load(weights).model, device='cpu')
    for i, scored in enumerate(shown):
        expected = predictor(lose_front(views_of(i), ''))
        np.testing.assert_array_equal(scored.probabilities.classes, expected.classes)
    lost = done.by_fact['cameras lost']
    assert {value: scores.samples for value, scores in lost.items()} == {'1': 3, '2': 1}
    assert lost['2'].coverage() < lost['1'].coverage()


def test_samples_are_told_apart_by_lost_cameras_where_some_lack_one(weights: Path) -> None:
    done = evaluate(weights, FakeSource(labels_of=random_labels(5)), device='cpu')
    lost = done.by_fact['cameras lost']
    assert {value: scores.samples for value, scores in lost.items()} == {'0': 4, '1': 1}
    whole = evaluate(weights, FakeSource(labels_of=random_labels(2)), device='cpu')
    assert 'cameras lost' not in whole.by_fact


def test_cells_of_each_sample_add_up_to_the_scores(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(4))
    done = evaluate(weights, source, device='cpu')
    assert done.cells.shape == (4, len(CONFIG.classes), 3) and done.scenes == ('drive',) * 4
    for c, name in enumerate(CONFIG.classes):
        assert tuple(done.cells[:, c].sum(0)) == done.scores.cells(name)
    alone = evaluate(weights, FakeSource(labels_of=source.labels_of[:1]), device='cpu')
    np.testing.assert_array_equal(alone.cells[0], done.cells[0])


def test_some_of_the_classes_score_as_they_do_among_all(weights: Path) -> None:
    source, some = FakeSource(labels_of=random_labels(3)), ('vehicle', 'drivable_area')
    every = evaluate(weights, source, device='cpu', baselines=True)
    few = evaluate(weights, source, device='cpu', classes=some, baselines=True)
    assert few.scores.classes == some
    for name in some:
        assert few.scores.as_json()['classes'][name] == every.scores.as_json()['classes'][name]
        for simple in ('frequency', 'ground'):
            assert few.baselines[simple].iou(name) == every.baselines[simple].iou(name)


def test_baselines_do_not_depend_on_the_checkpoint_nor_change_its_scores(weights: Path) -> None:
    source = FakeSource(labels_of=random_labels(4))
    with_them = evaluate(weights, source, device='cpu', baselines=True)
    without = evaluate(weights, source, device='cpu')
    assert with_them.scores.as_json() == without.scores.as_json() and without.baselines == {}
    other = checkpoint.Checkpoint(
        model=make_model(CONFIG, seed=7), card={}, path=Path('other.safetensors')
    )
    again = evaluate(other, source, device='cpu', baselines=True)
    assert again.scores.as_json() != with_them.scores.as_json()
    for name, scores in with_them.baselines.items():
        np.testing.assert_array_equal(scores.histogram, again.baselines[name].histogram)


# --- networks that remember ----------------------------------------------------------------------

TEMPORAL = make_config(
    network='bevformer',
    attention=AttentionConfig(layers=1, heads=2, points=2, hidden=16, temporal=True, frames=3),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class MovingSource(FakeSource):
    """Two scenes, 4 + the rest, two samples a second, the vehicle drives 5 m/s."""

    @property
    def scenes(self) -> list[str]:
        return ['one' if i < 4 else 'two' for i in range(len(self))]

    def view_set(self, i: int, *, at_least_px: tuple[int, int] | None = None) -> ViewSet:
        odom_T_ego = np.eye(4)
        odom_T_ego[0, 3] = 2.5 * i
        stamp_ns = 1_000_000_000 + 500_000_000 * i
        return replace(views_of(i), stamp_ns=stamp_ns, odom_T_ego=odom_T_ego)


def chained(model, source: FakeSource, numbers: list[int]):
    """What a network says of the last one of samples that follow each other."""
    predictor, memory = Predictor(model, device='cpu'), None
    for i in numbers:
        said = predictor(source.view_set(i), memory)
        memory = said.memory
    return said.classes


@pytest.fixture(scope='module')
def remembering() -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(model=make_model(TEMPORAL), card={}, path=Path('temporal'))


def test_a_temporal_network_remembers_the_samples_before_in_the_scene(remembering) -> None:
    source, shown = MovingSource(labels_of=random_labels(7)), []
    evaluate(remembering, source, device='cpu', show=shown.append)
    assert [one.index for one in shown] == [*range(7)]
    for scored in shown:
        first = 0 if scored.index < 4 else 4
        expected = chained(remembering.model, source, [*range(first, scored.index + 1)])
        np.testing.assert_allclose(scored.probabilities.classes, expected, atol=1e-6)
    alone = chained(remembering.model, source, [3])
    assert np.abs(shown[3].probabilities.classes - alone).max() > 1e-4  # it matters


def test_predecessors_of_samples_with_gaps_run_unscored(remembering) -> None:
    source, shown = MovingSource(labels_of=random_labels(12)), []
    done = evaluate(remembering, source, limit=3, device='cpu', show=shown.append)
    assert done.indices == (2, 6, 10) == tuple(one.index for one in shown)
    assert done.scores.samples == 3
    # What is remembered of 6 still holds a second later, at 8.
    for scored, chain in zip(shown, ([0, 1, 2], [4, 5, 6], [4, 5, 6, 8, 9, 10]), strict=True):
        expected = chained(remembering.model, source, chain)
        np.testing.assert_allclose(scored.probabilities.classes, expected, atol=1e-6)


def test_a_temporal_network_without_poses_is_one_line(remembering) -> None:
    with pytest.raises(ConfigError, match=r'drive/000000 has no pose') as error:
        evaluate(remembering, FakeSource(labels_of=random_labels(2)), device='cpu')
    one_line(error)
