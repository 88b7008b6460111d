"""Robustness on cases whose figures are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.sample import LabelGrids
from bev_training.evaluation.corruptions import CORRUPTIONS
from bev_training.evaluation.robustness import Robustness, mce, mrr, run_robustness
from bev_training.evaluation.robustness_text import lost_rows, robustness_rows, robustness_text
from bev_training.metrics import PooledScores
from test.factories import make_view_set

GRID = BevGrid(x_range_m=(0, 10), y_range_m=(0, 1), z_range_m=(-1, 3), cell_m=1, z_cells=2)


def scores_of(**hits: int):
    """Scores of one sample by class: so many of ten cells are found, so IoU is tenths; a class
    with a negative number is not in the truth.
    """
    names = tuple(hits)
    probability = np.zeros((len(names), 1, 10), np.float32)
    positive = np.ones((len(names), 1, 10), bool)
    for i, hit in enumerate(hits.values()):
        probability[i, 0, : max(hit, 0)] = 0.9
        positive[i] = hit >= 0
    pooled = PooledScores(names, GRID)
    labels = LabelGrids(
        classes=names,
        positive=positive,
        hidden=np.zeros_like(positive),
        known=np.ones((1, 10), bool),
    )
    pooled.update(probability, labels, np.ones((1, 10), bool))
    return pooled.result()


def make(clean, fog, snow, **values) -> Robustness:
    """Hits of (road, vehicle) for the clean images, and for severities of two corruptions."""
    clean_scores = scores_of(road=clean[0], vehicle=clean[1])
    return Robustness(**{
        'seed': 0,
        'clean': clean_scores,
        'corrupted': {
            name: {s: scores_of(road=a, vehicle=b) for s, (a, b) in enumerate(hits, 1)}
            for name, hits in (('fog', fog), ('snow', snow))
        },
        'lost': {0: clean_scores, 1: scores_of(road=4, vehicle=1)},
        **values,
    })  # fmt: skip


OURS = make((8, 5), fog=((8, 4), (6, 3), (4, 2)), snow=((4, 5), (4, 5), (4, 5)))
BASELINE = make((9, 2), fog=((7, 1), (5, 1), (3, 1)), snow=((8, 1), (7, 0), (6, 0)))


def test_resilience_by_hand():
    kept = mrr(OURS)
    assert kept.by_corruption['fog'] == pytest.approx(
        {'road': (0.8 + 0.6 + 0.4) / 3 / 0.8, 'vehicle': 0.3 / 0.5}
    )
    assert kept.by_corruption['snow'] == pytest.approx({'road': 0.5, 'vehicle': 1.0})
    assert kept.by_class == pytest.approx({'road': 0.625, 'vehicle': 0.8})
    assert kept.mean == pytest.approx(0.7125)


def test_corruption_error_by_hand():
    error = mce(OURS, BASELINE)
    assert error.by_corruption['fog'] == pytest.approx(
        {'road': (0.2 + 0.4 + 0.6) / (0.3 + 0.5 + 0.7), 'vehicle': 2.1 / 2.7}
    )
    assert error.by_corruption['snow'] == pytest.approx({'road': 1.8 / 0.9, 'vehicle': 1.5 / 2.9})
    assert error.by_class['road'] == pytest.approx((0.8 + 2.0) / 2)
    assert error.mean == pytest.approx((1.4 + (2.1 / 2.7 + 1.5 / 2.9) / 2) / 2)
    assert mce(OURS, OURS).by_class == pytest.approx({'road': 1.0, 'vehicle': 1.0})


def test_a_class_without_a_value_is_left_out_of_the_means():
    absent = make((8, -1), fog=[(4, -1)] * 3, snow=[(4, -1)] * 3)
    kept = mrr(absent)
    assert math.isnan(kept.by_class['vehicle']) and kept.mean == pytest.approx(0.5)
    assert math.isnan(mce(absent, absent).by_class['vehicle'])
    blind = make((8, 0), fog=[(4, 1)] * 3, snow=[(4, 0)] * 3)  # never found on clean images
    assert math.isnan(mrr(blind).by_class['vehicle']) and mrr(blind).mean == pytest.approx(0.5)
    perfect = make((8, 5), fog=[(8, 10)] * 3, snow=[(8, 5)] * 3)  # nothing to compare with
    error = mce(OURS, perfect)
    assert math.isnan(error.by_corruption['fog']['vehicle'])
    assert error.by_class['vehicle'] == error.by_corruption['snow']['vehicle'] == 1.0
    assert math.isnan(mrr(make((-1, -1), [(-1, -1)] * 3, [(-1, -1)] * 3)).mean)


@pytest.mark.parametrize(
    ('other', 'said'),
    [
        ({'seed': 1}, 'the same seed of both: 0, the baseline 1'),
        ({'clean': scores_of(road=1)}, 'the same classes of both'),
        ({'corrupted': {'fog': OURS.corrupted['fog']}}, 'the same corruptions and severities'),
    ],
)
def test_a_baseline_of_another_run_is_refused(other, said):
    baseline = replace(BASELINE, **other)
    with pytest.raises(ConfigError, match=said):
        mce(OURS, baseline)


def test_json_holds_every_score_and_the_means():
    described = json.loads(json.dumps(OURS.as_json(), allow_nan=False))
    assert described['seed'] == 0
    assert described['mrr']['by_class'] == {'road': 0.625, 'vehicle': 0.8}
    hard = described['corrupted']['fog']['3']['classes']['road']['visible']['iou']
    assert hard == pytest.approx(0.4)
    assert described['lost']['1']['classes']['vehicle']['visible']['iou'] == pytest.approx(0.1)
    absent = make((8, -1), fog=[(4, -1)] * 3, snow=[(4, -1)] * 3).as_json()
    assert absent['mrr']['by_class']['vehicle'] is None
    json.dumps(absent, allow_nan=False)


def test_rows_tell_the_known_figures():
    head, rows = robustness_rows(OURS)
    assert head == ['class', 'corruption', 'easy', 'mid', 'hard', 'mean', 'kept']
    assert rows[:4] == [
        ['road', 'none', '', '', '', '0.800', ''],
        ['road', 'fog', '0.800', '0.600', '0.400', '0.600', '0.750'],
        ['road', 'snow', '0.400', '0.400', '0.400', '0.400', '0.500'],
        ['road', 'mean', '', '', '', '0.500', '0.625'],
    ]
    head, rows = robustness_rows(OURS, BASELINE)
    assert head[-1] == 'error'
    assert [row[-1] for row in rows[:4]] == ['', '0.800', '2.000', '1.400']
    assert {len(row) for row in rows} == {len(head)}
    assert lost_rows(OURS) == (
        ['lost cameras', 'cells', 'road', 'vehicle', 'share'],
        [
            ['0', 'seen', '0.800', '0.500', '100.0%'],
            ['0', 'known', '0.800', '0.500', ''],
            ['1', 'seen', '0.400', '0.100', '100.0%'],
            ['1', 'known', '0.400', '0.100', ''],
        ],
    )
    beside = {'frequency': BASELINE.clean}
    head, rows = robustness_rows(OURS, BASELINE, beside)
    assert {len(row) for row in rows} == {len(head)}
    clean = f'{BASELINE.clean.iou("road"):.3f}'
    assert rows[4] == ['road', 'frequency, clean', '', '', '', clean, '', '']
    assert lost_rows(OURS, beside)[1][4][:3] == ['0, frequency', 'seen', clean]
    text = robustness_text(OURS, BASELINE, beside)
    assert all(word in text for word in ('easy', 'mRR', 'mCE', 'lost cameras', '1.400'))
    only_lost = make((8, 5), fog=(), snow=(), corrupted={})
    assert robustness_rows(only_lost, only_lost)[1] == [
        ['road', 'none', '0.800', '', ''],
        ['vehicle', 'none', '0.500', '', ''],
    ]
    assert 'corrupted' not in robustness_text(only_lost)


def run(cameras: int = 6, **values):
    """Score a network that finds a cell for each camera that is there and not black."""
    said, asked = [], []

    def score(change, progress):
        view_set = change(make_view_set(), 'drive/1')
        asked.append(view_set)
        progress(1, 1)
        return scores_of(road=sum(bool(view.image.any()) for view in view_set.views))

    out = run_robustness(
        score,
        cameras=cameras,
        progress=lambda what, done, total: said.append((what, done, total)),
        **values,
    )
    return out, said, asked


def test_a_run_scores_every_way_once():
    out, said, _ = run()
    assert tuple(out.corrupted) == CORRUPTIONS
    assert len(said) == 1 + 8 * 3 + 5 and len(set(said)) == len(said)
    assert said[0] == ('clean', 1, 1) and ('fog 2', 1, 1) in said
    assert said[-1] == ('5 of 6 cameras lost', 1, 1)
    assert out.clean.iou('road') == 0.6
    crashed = {s: scores.iou('road') for s, scores in out.corrupted['camera_crash'].items()}
    assert crashed == pytest.approx({1: 0.4, 2: 0.2, 3: 0.1})
    lost = {count: scores.iou('road') for count, scores in out.lost.items()}
    assert lost == pytest.approx({0: 0.6, 1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2, 5: 0.1})
    assert out.corrupted['fog'][3].iou('road') == 0.6


def test_a_run_can_be_of_a_part_and_of_another_seed():
    out, said, asked = run(corruptions=['snow', 'snow'], severities=[3, 1], lost=[], seed=4)
    assert [what for what, _, _ in said] == ['clean', 'snow 1', 'snow 3']
    assert out.seed == 4 and list(out.lost) == [0]
    _, _, other = run(corruptions=['snow'], severities=[1, 3], lost=[], seed=5)
    assert np.array_equal(asked[0].views[0].image, other[0].views[0].image)
    assert not np.array_equal(asked[1].views[0].image, other[1].views[0].image)


def test_clean_scores_that_are_known_are_not_asked_for_again():
    out, said, _ = run(clean=OURS.clean, corruptions=['snow'], severities=[1], lost=[])
    assert [what for what, _, _ in said] == ['snow 1']
    assert out.clean is OURS.clean and out.lost == {0: OURS.clean}


def test_one_camera_is_neither_crashed_nor_lost():
    out, _, _ = run(cameras=1)
    assert tuple(out.corrupted) == CORRUPTIONS[1:]
    assert list(out.lost) == [0]


@pytest.mark.parametrize(
    ('values', 'line'),
    [
        ({'corruptions': ['fog', 'hail']}, r"^corruption 'hail' is none of camera_crash, .*snow$"),
        ({'severities': [1, 5]}, r'^severity 5 is none of 1 \(easy\)'),
        ({'lost': [6]}, '^6 lost cameras of a rig of 6; it must be 0 to 5$'),
        ({'seed': -2}, '^seed is -2; it must be 0 or more$'),
        ({'cameras': 1, 'corruptions': ['camera_crash']}, '^camera_crash needs two cameras'),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_scored(values, line):
    def score(change, progress):
        raise AssertionError('nothing may be scored')

    with pytest.raises(ConfigError, match=line):
        run_robustness(score, **{'cameras': 6, **values})
