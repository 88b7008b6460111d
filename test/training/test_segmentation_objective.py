"""The loss: what counts in it, and that small batches equal a large one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bev_perception.model.tensors import BevPrediction
from bev_training.data.batch import Targets
from bev_training.fit.settings import DataConfig, LossConfig, TrainConfig
from bev_training.objectives.segmentation import (
    SegmentationObjective,
    center_loss,
    offset_loss,
    soft_dice_loss,
)
from test.factories import make_config

CLASSES = ('drivable_area', 'vehicle')
EVERYTHING = LossConfig(bce=10, dice=0.5, center=0.5, offset=0.7)


def make_train_config(loss: LossConfig = EVERYTHING, **data) -> TrainConfig:
    model = make_config(classes=CLASSES, center_offset=True)
    return TrainConfig(model=model, loss=loss, data=DataConfig(**data))


def make_batch(b: int = 3, seed: int = 0) -> tuple[BevPrediction, Targets]:
    """Random logits and truth on 6 x 5 cells, with unseen, unknown and hidden ones."""
    make = torch.Generator().manual_seed(seed)

    def chance(share: float, *shape: int) -> torch.Tensor:
        return torch.rand(b, *shape, generator=make) < share

    positive = chance(0.4, 2, 6, 5)
    prediction = BevPrediction(
        logits=torch.randn(b, 2, 6, 5, generator=make),
        valid=chance(0.8, 6, 5),
        center=torch.randn(b, 1, 6, 5, generator=make),
        offset=torch.randn(b, 2, 6, 5, generator=make),
    )
    targets = Targets(
        positive=positive,
        hidden=positive & chance(0.3, 2, 6, 5),
        known=chance(0.8, 6, 5),
        center=torch.rand(b, 1, 6, 5, generator=make),
        offset=torch.randn(b, 2, 6, 5, generator=make),
        in_object=chance(0.4, 1, 6, 5),
    )
    return prediction, targets


def sliced(values, rows: slice):
    return type(values)(**{k: None if v is None else v[rows] for k, v in vars(values).items()})


def test_bce_is_the_mean_over_counted_cells_of_a_sample_by_hand():
    prediction, targets = make_batch(1)
    objective = SegmentationObjective(make_train_config(LossConfig(bce=2, pos_weight=(3.0,))))
    total, count = 0.0, 0
    for c in range(2):
        for y in range(6):
            for x in range(5):
                if not (prediction.valid[0, y, x] and targets.known[0, y, x]):
                    continue
                if targets.hidden[0, c, y, x]:
                    continue
                p = torch.sigmoid(prediction.logits[0, c, y, x].double())
                hit = targets.positive[0, c, y, x]
                total += -3 * torch.log(p) if hit else -torch.log(1 - p)
                count += 1
    terms = objective.loss(prediction, targets)
    assert terms['bce'].item() == pytest.approx((total / count).item(), rel=1e-5)
    assert terms['loss'].item() == pytest.approx(2 * terms['bce'].item(), rel=1e-6)
    assert set(terms) == {'loss', 'bce'} == set(objective.names)


@pytest.mark.parametrize('where', ['unseen', 'unknown', 'hidden'])
def test_cells_that_do_not_count_do_not_change_the_loss(where):
    prediction, targets = make_batch()
    outside = {
        'unseen': ~prediction.valid[:, None],
        'unknown': ~targets.known[:, None],
        'hidden': targets.hidden,
    }[where].expand(-1, 2, -1, -1)
    assert outside.any()
    any_class = outside.all(1, keepdim=True) if where != 'hidden' else outside.any(1, keepdim=True)
    objective = SegmentationObjective(make_train_config())
    before = objective.loss(prediction, targets)
    other = replace(
        prediction,
        logits=torch.where(outside, 50.0, prediction.logits),
        center=torch.where(any_class, -30.0, prediction.center),
        offset=torch.where(any_class, 99.0, prediction.offset),
    )
    truth = replace(
        targets,
        positive=targets.positive ^ (outside if where != 'hidden' else torch.tensor(False)),
        center=torch.where(any_class, 1.0, targets.center),
    )
    after = objective.loss(other, truth)
    for name in before:
        assert torch.equal(before[name], after[name]), name


def test_a_cell_that_counts_changes_every_term():
    prediction, targets = make_batch()
    objective = SegmentationObjective(make_train_config())
    before = objective.loss(prediction, targets)
    other = replace(
        prediction,
        logits=prediction.logits + 1,
        center=prediction.center + 1,
        offset=prediction.offset + 1,
    )
    after = objective.loss(other, targets)
    assert all(before[name] != after[name] for name in before)
    assert set(before) == {'loss', 'bce', 'dice', 'center', 'offset'}


def test_convention_all_counts_hidden_objects_as_positive():
    prediction, targets = make_batch()
    every = SegmentationObjective(make_train_config(visibility='all'))
    shown = replace(targets, hidden=torch.zeros_like(targets.hidden))
    visible = SegmentationObjective(make_train_config())
    assert every.loss(prediction, targets)['loss'] == visible.loss(prediction, shown)['loss']
    assert every.loss(prediction, targets)['loss'] != visible.loss(prediction, targets)['loss']


def test_the_loss_of_a_batch_is_the_mean_over_its_samples():
    prediction, targets = make_batch(4)
    objective = SegmentationObjective(make_train_config())
    whole = objective.loss(prediction, targets)
    each = [
        objective.loss(sliced(prediction, slice(i, i + 1)), sliced(targets, slice(i, i + 1)))
        for i in range(4)
    ]
    for name in whole:
        mean = torch.stack([one[name] for one in each]).mean()
        assert whole[name].item() == pytest.approx(mean.item(), rel=1e-5), name


def test_a_sample_without_counted_cells_costs_nothing_and_gives_no_gradient():
    prediction, targets = make_batch(1)
    blind = replace(prediction, valid=torch.zeros_like(prediction.valid))
    blind.logits.requires_grad_()
    terms = SegmentationObjective(make_train_config()).loss(blind, targets)
    assert terms['loss'].item() == 0
    terms['loss'].backward()
    assert not blind.logits.grad.any()


def test_pos_weight_per_class_weighs_each_class_alone():
    prediction, targets = make_batch()
    one = SegmentationObjective(make_train_config(LossConfig(pos_weight=(1.0, 1.0))))
    two = SegmentationObjective(make_train_config(LossConfig(pos_weight=(1.0, 5.0))))
    no_vehicle = targets.positive.clone()
    no_vehicle[:, 1] = False
    only_road = replace(targets, positive=no_vehicle, hidden=targets.hidden & no_vehicle)
    assert one.loss(prediction, only_road)['loss'] == two.loss(prediction, only_road)['loss']
    assert one.loss(prediction, targets)['loss'] < two.loss(prediction, targets)['loss']


def test_learned_weights_follow_the_formula_and_learn():
    prediction, targets = make_batch()
    plain = SegmentationObjective(make_train_config())
    learned = SegmentationObjective(make_train_config(replace(EVERYTHING, learned_weights=True)))
    assert learned.loss(prediction, targets)['loss'] == plain.loss(prediction, targets)['loss']
    assert set(learned.log_variance) == {'segmentation', 'center', 'offset'}
    with torch.no_grad():
        for part, s in (('segmentation', 0.3), ('center', -0.2), ('offset', 0.1)):
            learned.log_variance[part].fill_(s)
    terms = learned.loss(prediction, targets)
    by_hand = (
        (10 * terms['bce'] + 0.5 * terms['dice']) * torch.exp(torch.tensor(-0.3))
        + 0.5 * terms['center'] * torch.exp(torch.tensor(0.2))
        + 0.7 * terms['offset'] * torch.exp(torch.tensor(-0.1))
        + 0.5 * (0.3 - 0.2 + 0.1)
    )
    assert terms['loss'].item() == pytest.approx(by_hand.item(), rel=1e-6)
    terms['loss'].backward()
    assert all(p.grad.abs() > 0 for p in learned.parameters())
    assert not list(plain.parameters())


def test_dice_is_zero_for_a_perfect_prediction_and_near_one_for_an_empty_one():
    positive = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    positive[..., :5, :] = True
    counted = torch.ones_like(positive)
    assert soft_dice_loss(positive.float(), positive, counted) == 0
    assert soft_dice_loss(torch.zeros(1, 1, 10, 10), positive, counted) == pytest.approx(50 / 51)


def test_center_loss_is_half_near_and_half_far():
    truth = torch.tensor([[[[0.9, 0.8, 0.1, 0.5]]]])
    probability = torch.tensor([[[[0.4, 0.8, 0.5, 0.0]]]])
    counted = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    # near: (0.25 + 0) / 2; far: 0.16; 0.5 itself is neither
    assert center_loss(probability, truth, counted).item() == pytest.approx(0.5 * (0.125 + 0.16))


def test_offset_loss_is_the_sum_over_x_and_y_on_object_cells():
    truth = torch.zeros(1, 2, 1, 3)
    offset = torch.tensor([[[[1.0, 2.0, 9.0]], [[-1.0, 0.5, 9.0]]]])
    counted = torch.tensor([[[[True, True, False]]]])
    assert offset_loss(offset, truth, counted).item() == pytest.approx((2.0 + 2.5) / 2)
