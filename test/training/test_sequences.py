"""Samples of networks that remember: the instants before, in order, moved together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bev_perception.errors import BevError, ConfigError
from bev_perception.geometry import rigid
from bev_perception.model.config import AttentionConfig
from bev_perception.model.memory import align
from bev_perception.model.tensors import BevMemory
from bev_perception.preprocess import prepare
from bev_training.data.augment import augment, augment_sequence
from bev_training.data.loader import eval_loader, train_loader
from bev_training.data.sample import read_sample
from bev_training.data.sequences import check_motion, instants_before
from bev_training.fit.settings import AugmentConfig, DataConfig, TrainConfig
from test.training.fake_source import make_fake_model, make_fake_source

PLAIN = AugmentConfig(
    resize=(1, 1), crop_share=0, brightness=0, contrast=0, saturation=0, hue_deg=0,
    flip_x=0, flip_y=0,
)  # fmt: skip


def temporal_model(frames=3, **values):
    attention = AttentionConfig(
        layers=1, heads=2, points=2, hidden=16, temporal=True, frames=frames
    )
    return make_fake_model(network='bevformer', attention=attention, **values)


def make_train_config(*, workers=0, frames=3, **values):
    return TrainConfig(
        **{
            'model': temporal_model(frames),
            'data': DataConfig(workers=workers),
            'batch_size': 2,
            'seed': 3,
            **values,
        }
    )


def batches(config, source=None, indices=None, *, first_step=0, steps=3):
    source = source or make_fake_source(12)
    indices = range(len(source)) if indices is None else indices
    return list(train_loader(source, indices, config=config, first_step=first_step, steps=steps))


def number_of(key):
    return int(key.rpartition('/')[2])


def same(one, other):
    """Whether two inputs are equal; poses that are unknown are."""
    return all(
        torch.equal(value.nan_to_num(nan=-7.0), getattr(other, name).nan_to_num(nan=-7.0))
        if value.is_floating_point()
        else torch.equal(value, getattr(other, name))
        for name, value in vars(one).items()
    )


# --- which instants ------------------------------------------------------------------------------


def test_the_instants_before_are_the_last_ones_of_the_scene_in_order():
    source = make_fake_source(12)  # scenes of four
    assert instants_before(source, 7, 2) == [5, 6]
    assert instants_before(source, 7, 3) == [4, 5, 6]


def test_a_scene_begins_without_a_past():
    source = make_fake_source(12)
    assert [instants_before(source, i, 2) for i in (0, 1, 4, 5, 6)] == [[], [0], [], [4], [4, 5]]
    assert instants_before(source, 7, 20) == [4, 5, 6]


def test_networks_that_do_not_remember_have_no_past():
    assert instants_before(make_fake_source(8), 3, 0) == []


def test_what_a_memory_would_not_outlive_ends_the_past():
    source = make_fake_source(4, late_s={2: 1.2})  # a gap of 1.7 s before sample 2
    assert [instants_before(source, i, 3) for i in (1, 2, 3)] == [[0], [], [2]]


def test_one_instant_is_left_out_by_chance_and_every_one_can_be():
    source = make_fake_source(12)
    drawn = {
        tuple(instants_before(source, 7, 2, np.random.default_rng(seed))) for seed in range(40)
    }
    assert drawn == {(5, 6), (4, 6), (4, 5)}
    first = {
        tuple(instants_before(source, 5, 2, np.random.default_rng(seed))) for seed in range(40)
    }
    assert first == {(), (4,)}  # the one of the other scene is never among them


# --- what a batch holds --------------------------------------------------------------------------


def test_evaluation_gives_the_last_instants_as_the_node_would_see_them():
    source, model = make_fake_source(6, missing={1: ('back',)}), temporal_model()
    (batch,) = eval_loader(source, [3], model=model, batch_size=1, workers=0)
    assert len(batch.before) == 2
    for inputs, number in zip((*batch.before, batch.inputs), (1, 2, 3), strict=True):
        expected = prepare(source.view_set(number), model)
        live = inputs.live[0]
        assert live.sum() == (5 if number == 1 else 6)
        assert torch.equal(inputs.images[0, live], expected.images[0])
        assert torch.equal(inputs.ego_T_cam[0, live], expected.ego_T_cam[0])
        assert torch.equal(inputs.odom_T_ego, expected.odom_T_ego)
        assert torch.equal(
            inputs.odom_T_ego[0], torch.from_numpy(source.whereabouts(number).odom_T_ego)
        )


def test_what_a_sample_lacks_knows_nothing():
    source, model = make_fake_source(6), temporal_model()
    (batch,) = eval_loader(source, [0, 3, 1], model=model, batch_size=3, workers=0)
    known = [inputs.live.any(1).tolist() for inputs in batch.before]
    assert known == [[False, True, False], [False, True, True]]
    for inputs in batch.before:
        assert inputs.images.shape == batch.inputs.images.shape
        for i, live in enumerate(inputs.live.any(1)):
            assert bool(inputs.odom_T_ego[i].isnan().all()) != bool(live)
            assert bool(inputs.images[i].any()) == bool(live)


def test_samples_without_a_label_of_the_run_are_a_past_too():
    config = make_train_config(augment=PLAIN, batch_size=1)
    for batch in batches(config, indices=[3, 7], steps=4):
        number = number_of(batch.keys[0])
        assert number in (3, 7)
        assert all(inputs.live.all() for inputs in batch.before)


def test_training_keeps_the_order_and_leaves_one_out():
    source = make_fake_source(12)
    stamps = [source.whereabouts(i).odom_T_ego[0, 3] for i in range(12)]
    seen = set()
    config = make_train_config(augment=PLAIN, batch_size=1)
    for batch in batches(config, source, indices=[7], steps=20):
        seen.add(tuple(stamps.index(float(each.odom_T_ego[0, 0, 3])) for each in batch.before))
    assert seen == {(5, 6), (4, 6), (4, 5)}


def test_other_networks_have_no_instants_before():
    config = make_train_config(model=make_fake_model())
    assert all(batch.before == () for batch in batches(config))


def test_a_network_that_remembers_varies_a_sample_as_any_other_does():
    """The past draws after the sample, so that comparisons of networks see the same images."""
    augmentation = AugmentConfig(yaw_deg=20, drop_camera=0.1, noise=0.02)
    one = batches(make_train_config(augment=augmentation))
    other = batches(make_train_config(augment=augmentation, model=make_fake_model()))
    for a, b in zip(one, other, strict=True):
        assert a.keys == b.keys and same(a.inputs, b.inputs)
        assert torch.equal(a.targets.positive, b.targets.positive)


def test_sequences_do_not_depend_on_processes_or_on_where_a_run_goes_on():
    augmentation = AugmentConfig(yaw_deg=20, drop_camera=0.1, noise=0.02)
    config = make_train_config(augment=augmentation)
    whole = batches(config)
    parallel = batches(replace(config, data=DataConfig(workers=2)))
    later = batches(config, first_step=1)
    for made, wanted in ((parallel, whole), (later, whole[1:])):
        for a, b in zip(made, wanted, strict=True):
            assert len(a.before) == len(b.before) == 2
            assert all(same(x, y) for x, y in zip(a.before, b.before, strict=True))


def test_a_batch_moves_and_is_pinned_with_its_past():
    (batch,) = batches(make_train_config(), steps=1)
    moved = batch.to(torch.device('meta'))
    assert [inputs.images.device.type for inputs in moved.before] == ['meta', 'meta']
    assert moved.targets.center is None


# --- all instants move together ------------------------------------------------------------------


@pytest.mark.parametrize('flips', [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_all_instants_are_mirrored_and_turned_alike(flips):
    """A point of the ground that stands still is where the vehicle's way says, after any move."""
    source, model = make_fake_source(4), temporal_model()
    config = AugmentConfig(flip_x=flips[0], flip_y=flips[1], yaw_deg=180)
    sample, before = read_sample(source, 2), [source.view_set(i) for i in (0, 1)]
    moved, earlier = augment_sequence(sample, before, config, model, np.random.default_rng(4))
    new_T_old = rigid.inverse(moved.view_set.odom_T_ego) @ sample.view_set.odom_T_ego
    assert np.linalg.det(new_T_old[:3, :3]) == pytest.approx(-1 if sum(flips) == 1 else 1)
    assert not np.allclose(new_T_old, np.diag(np.diag(new_T_old)))  # it is turned, too
    for then, was in zip(earlier, before, strict=True):
        np.testing.assert_allclose(then.odom_T_ego, was.odom_T_ego @ rigid.inverse(new_T_old))
        np.testing.assert_allclose(
            then.base_T_ego @ rigid.inverse(then.odom_T_ego),
            was.base_T_ego @ rigid.inverse(was.odom_T_ego),
            atol=1e-9,
        )
        # where a camera was in the world has not changed
        for a, b in zip(then.views, was.views, strict=True):
            np.testing.assert_allclose(
                (then.odom_T_ego @ a.ego_T_cam)[:3, 3],
                (was.odom_T_ego @ b.ego_T_cam)[:3, 3],
                atol=1e-9,
            )
        now_T_then = rigid.inverse(moved.view_set.odom_T_ego) @ then.odom_T_ego
        assert np.linalg.det(now_T_then[:3, :3]) == pytest.approx(1)


def test_every_image_has_draws_of_its_own_and_the_sample_those_of_before():
    source, model = make_fake_source(4), temporal_model()
    config = AugmentConfig(noise=0.02, drop_camera=0.3)
    same_images = source.view_set(2)
    sample = read_sample(source, 2)
    moved, (then,) = augment_sequence(
        sample, [same_images], config, model, np.random.default_rng(4)
    )
    alone = augment(sample, config, model, np.random.default_rng(4))
    for a, b in zip(moved.view_set.views, alone.view_set.views, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    shared = {view.name: view.image for view in moved.view_set.views}
    pairs = [(view.image, shared[view.name]) for view in then.views if view.name in shared]
    assert pairs and not any(np.array_equal(one, other) for one, other in pairs)


# --- what is refused -----------------------------------------------------------------------------


def test_data_without_odometry_are_refused_by_name():
    source = make_fake_source(4, odometry=False)
    with pytest.raises(
        ConfigError, match=r'^scene-0000/000000 has no pose of the vehicle, which '
    ):
        check_motion(source, temporal_model())
    check_motion(source, make_fake_model())
    check_motion(make_fake_source(4), temporal_model())
    with pytest.raises(BevError, match=r'^sample scene-0000/00000\d: it has no pose of the veh'):
        batches(make_train_config(), source)


def test_a_scene_without_odometry_is_found_behind_one_that_has_it():
    class Half(type(make_fake_source())):
        def whereabouts(self, i):
            at = super().whereabouts(i)
            return replace(at, odom_T_ego=None) if i >= 4 else at

    with pytest.raises(ConfigError, match='scene-0001/000004 has no pose'):
        check_motion(Half(count=8), temporal_model())


def test_a_broken_instant_is_named_with_the_sample_that_wants_it():
    source = make_fake_source(4, broken=(1,))
    with pytest.raises(BevError) as caught:
        list(eval_loader(source, [2], model=temporal_model(), batch_size=1, workers=0))
    assert str(caught.value) == (
        'sample scene-0000/000002: scene-0000/000001, which comes before it: '
        'shard of frame 1 is damaged'
    )


def test_a_mirrored_sequence_remembers_the_mirrored_plane():
    """What `align` makes of two mirrored instants is the mirror image of what it makes of both."""
    source, model = make_fake_source(4), temporal_model()
    grid = model.grid  # as far to the left as to the right
    features = torch.rand(1, 2, *grid.shape[1:], generator=torch.Generator().manual_seed(1))
    known = torch.ones(1, *grid.shape[1:], dtype=torch.bool)
    planes = []
    for flip in (0, 1):
        config = replace(PLAIN, flip_y=flip)
        sample, (then,) = augment_sequence(
            read_sample(source, 2), [source.view_set(1)], config, model, np.random.default_rng(0)
        )
        memory = BevMemory(
            features=features.flip(2) if flip else features,
            valid=known,
            odom_T_ego=torch.from_numpy(then.odom_T_ego)[None],
        )
        now = torch.from_numpy(sample.view_set.odom_T_ego)[None]
        planes.append(align(memory, now, grid))
    (plane, valid), (mirrored, valid_too) = planes
    assert 0.5 < valid.float().mean() < 1 and not torch.equal(valid, valid.flip(1))
    assert torch.equal(valid_too, valid.flip(1))
    torch.testing.assert_close(mirrored, plane.flip(2), atol=1e-5, rtol=1e-5)
