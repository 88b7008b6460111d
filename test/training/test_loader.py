"""The stream of training batches: the same whatever reads it, from wherever it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_perception.errors import BevError, ConfigError
from bev_perception.preprocess import prepare
from bev_training.data.loader import eval_loader, train_loader
from bev_training.data.sample import read_sample
from bev_training.data.targets import center_targets
from bev_training.fit.settings import AugmentConfig, DataConfig, LossConfig, TrainConfig
from test.training.fake_source import make_fake_model, make_fake_source


def make_train_config(*, workers=0, **values):
    return TrainConfig(
        **{
            'model': make_fake_model(),
            'data': DataConfig(workers=workers),
            'augment': AugmentConfig(yaw_deg=20, drop_camera=0.1, noise=0.02),
            'batch_size': 2,
            'seed': 3,
            **values,
        }
    )


def batches(config=None, source=None, *, indices=None, first_step=0, steps=4, rank=0, world=1):
    source = source or make_fake_source(6)
    indices = range(len(source)) if indices is None else indices
    return list(
        train_loader(
            source,
            indices,
            config=config or make_train_config(),
            first_step=first_step,
            steps=steps,
            rank=rank,
            world=world,
        )
    )


def tensors(batch):
    return {**vars(batch.inputs), **vars(batch.targets)}


def assert_same(one, other):
    assert [b.keys for b in one] == [b.keys for b in other]
    for a, b in zip(one, other, strict=True):
        for name, value in tensors(a).items():
            if value is None:
                assert tensors(b)[name] is None
            else:
                assert torch.equal(value, tensors(b)[name]), name


def joined(parts):
    """Batches of several ranks as the batches of one."""
    for step in zip(*parts, strict=True):
        keys = tuple(key for batch in step for key in batch.keys)
        values = [tensors(batch) for batch in step]
        yield (
            keys,
            {
                name: torch.cat([value[name] for value in values])
                for name, first in values[0].items()
                if first is not None
            },
        )


def test_a_batch_has_the_shapes_that_a_step_wants():
    (batch, *_) = batches()
    assert len(batch.keys) == 2
    assert batch.inputs.images.shape == (2, 6, 3, 32, 64)
    assert batch.inputs.images.dtype == torch.float32
    assert batch.inputs.K.shape == (2, 6, 3, 3)
    assert batch.inputs.ego_T_cam.shape == (2, 6, 4, 4)
    assert batch.inputs.live.shape == (2, 6)
    assert batch.targets.positive.shape == batch.targets.hidden.shape == (2, 2, 16, 20)
    assert batch.targets.known.shape == (2, 16, 20)
    assert batch.targets.known.dtype == batch.targets.positive.dtype == torch.bool
    assert batch.targets.center is batch.targets.offset is batch.targets.in_object is None


def test_every_pass_sees_every_sample_once_in_another_order():
    keys = [key for batch in batches(steps=9) for key in batch.keys]
    passes = [keys[i : i + 6] for i in (0, 6, 12)]
    assert all(sorted(one) == sorted(make_fake_source(6).keys) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_order_and_the_variations_have_chance_of_their_own():
    """numpy takes numbers that a seed lacks for zeros: (3, 0) and (3, 0, 0) are the same seed."""
    source, config = make_fake_source(30), make_train_config(batch_size=30)
    for step, batch in enumerate(batches(config, source, steps=2)):
        variation = np.random.default_rng([config.seed, step]).permutation(30)
        assert batch.keys != tuple(source.keys[i] for i in variation)


def test_a_subset_smaller_than_a_batch_fills_batches():
    config = make_train_config(batch_size=5)
    made = batches(config, indices=[4, 1], steps=2)
    keys = make_fake_source(6).keys
    assert Counter(key for batch in made for key in batch.keys) == {keys[4]: 5, keys[1]: 5}
    # The same sample, varied anew each time.
    images = made[0].inputs.images
    same = [i for i, key in enumerate(made[0].keys) if key == made[0].keys[0]]
    assert len(same) >= 2 and not torch.equal(images[same[0]], images[same[1]])


def test_epochs_and_seeds_vary_a_sample_differently():
    config = make_train_config(batch_size=1)
    one = batches(config, indices=[0], steps=2)
    assert not torch.equal(one[0].inputs.images, one[1].inputs.images)
    other = batches(replace(config, seed=4), indices=[0], steps=1)
    assert not torch.equal(one[0].inputs.images, other[0].inputs.images)
    assert_same(one, batches(config, indices=[0], steps=2))


def test_batches_do_not_depend_on_the_number_of_processes():
    assert_same(batches(), batches(make_train_config(workers=2)))


def test_a_resumed_run_sees_the_same_batches():
    config = make_train_config(accumulate=2)
    whole = batches(config, steps=7)
    assert len(whole) == 14
    assert_same(whole[6:], batches(config, first_step=3, steps=7))
    assert batches(config, first_step=7, steps=7) == []


@pytest.mark.parametrize('accumulate', [1, 2])
def test_two_ranks_see_what_one_process_with_the_doubled_batch_sees(accumulate):
    config = make_train_config(accumulate=accumulate)
    one = batches(replace(config, batch_size=4), steps=3)
    two = list(joined([batches(config, steps=3, rank=rank, world=2) for rank in (0, 1)]))
    assert len(one) == len(two) == 3 * accumulate
    for batch, (keys, values) in zip(one, two, strict=True):
        assert batch.keys == keys
        assert all(torch.equal(tensors(batch)[name], value) for name, value in values.items())


def test_accumulated_batches_are_one_larger_batch():
    large = batches(make_train_config(batch_size=4), steps=2)
    small = batches(make_train_config(accumulate=2), steps=2)
    assert [b.keys for b in large] == [
        a.keys + b.keys for a, b in zip(small[::2], small[1::2], strict=True)
    ]


def test_a_loader_knows_its_length_and_can_be_read_again():
    config = make_train_config(accumulate=3)
    loader = train_loader(make_fake_source(6), [1, 2], config=config, first_step=1, steps=3)
    assert len(loader) == 6
    assert_same(list(loader), list(loader))


def test_absent_cameras_are_zeros_in_their_slots():
    source = make_fake_source(1, missing={0: ('front', 'back_left')})
    config = make_train_config(augment=AugmentConfig(drop_camera=0), batch_size=1)
    (batch,) = batches(config, source, steps=1)
    inputs, gone = batch.inputs, [1, 3]
    assert inputs.live[0].tolist() == [True, False, True, False, True, True]
    assert not inputs.images[0, gone].any()
    assert torch.equal(inputs.K[0, gone], torch.eye(3).expand(2, 3, 3))
    assert torch.equal(inputs.ego_T_cam[0, gone], torch.eye(4).expand(2, 4, 4))
    assert inputs.images[0, [0, 2, 4, 5]].flatten(1).any(1).all()


def test_lost_cameras_stay_in_their_slots():
    config = make_train_config(augment=AugmentConfig(drop_camera=0.5))
    for batch in batches(config, steps=8):
        live = batch.inputs.live
        assert live.any(1).all()
        assert torch.equal(batch.inputs.images.flatten(2).any(2), live)
        y = batch.inputs.ego_T_cam[:, 1, 1, 3]  # the front camera is on the axis, if it is there
        assert (y.abs() < 0.3).all()


def test_evaluation_sees_what_the_node_would_see():
    source, model = make_fake_source(3, size_px=(128, 72)), make_fake_model()
    (batch,) = eval_loader(source, range(3), model=model, batch_size=4, workers=0)
    assert batch.keys == tuple(source.keys)
    for i in range(3):
        sample = read_sample(source, i)
        expected = prepare(sample.view_set, model)
        for name, value in vars(batch.inputs).items():
            assert torch.equal(value[i], getattr(expected, name)[0]), name
        np.testing.assert_array_equal(batch.targets.positive[i], sample.labels.positive)
        np.testing.assert_array_equal(batch.targets.hidden[i], sample.labels.hidden)


@pytest.mark.parametrize(('world', 'count'), [(1, 7), (2, 7), (3, 7), (4, 2)])
def test_evaluation_sees_every_sample_once_over_all_ranks(world, count):
    source, indices, seen = make_fake_source(9), range(1, 1 + count), []
    for rank in range(world):
        loader = eval_loader(
            source,
            indices,
            model=make_fake_model(),
            batch_size=2,
            workers=0,
            rank=rank,
            world=world,
        )
        made = list(loader)
        assert len(made) == len(loader)
        seen += [key for batch in made for key in batch.keys]
    assert seen == [source.keys[i] for i in indices]


def test_a_rank_without_samples_starts_no_process():
    loader = eval_loader(
        make_fake_source(1), [0], model=make_fake_model(), batch_size=2, workers=2, world=2
    )
    before = children(os.getpid())
    assert len(loader) == 0 and list(loader) == []
    assert children(os.getpid()) == before


def test_after_a_turn_the_cells_that_are_known_agree_with_the_centre_targets():
    source = make_fake_source(8)
    config = make_train_config(
        model=make_fake_model(center_offset=True),
        loss=LossConfig(center=1, offset=1),
        augment=AugmentConfig(yaw_deg=180),
        data=DataConfig(workers=0, visibility='all'),
        batch_size=8,
    )
    (batch,) = batches(config, source, steps=1)
    targets = batch.targets
    known, objects = targets.known, targets.in_object[:, 0]
    assert 0.5 < known.float().mean() < 1
    vehicle = targets.positive[:, 1]
    # Turned labels are those of the nearest cell, so they may differ along the rims of objects.
    agree = ((vehicle == objects) & known).sum() / known.sum()
    assert vehicle.sum() > 50 and agree > 0.97
    assert (targets.center[:, 0][vehicle & known] > 0.2).float().mean() > 0.95


def test_centre_targets_come_when_the_network_has_the_heads():
    source = make_fake_source(1)
    plain = AugmentConfig(flip_x=0, flip_y=0)
    for visibility in ('visible', 'all'):
        config = make_train_config(
            model=make_fake_model(center_offset=True),
            loss=LossConfig(center=1, offset=1),
            augment=plain,
            data=DataConfig(workers=0, visibility=visibility),
            batch_size=1,
        )
        (batch,) = batches(config, source, steps=1)
        expected = center_targets(source.boxes(0), config.model.grid, visibility)
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(batch.targets, name)[0], value)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_broken_sample_is_named_in_one_line(workers):
    source = make_fake_source(6, broken=(2,))
    with pytest.raises(BevError) as caught:
        batches(make_train_config(workers=workers), source, indices=[2])
    assert str(caught.value) == 'sample scene-0000/000002: shard of frame 2 is damaged'


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_that_nobody_foresaw_is_one_line_with_its_cause(workers):
    source = make_fake_source(6, buggy=(3,))
    loader = eval_loader(source, [3], model=make_fake_model(), batch_size=1, workers=workers)
    with pytest.raises(BevError) as caught:
        list(loader)
    assert str(caught.value) == (
        'sample scene-0000/000003 cannot be read: IndexError: list index out of range'
    )
    assert 'fake_source.py' in str(caught.value.__cause__)


def test_a_process_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr('torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL', 0.2)
    source = make_fake_source(6, deadly=(5,))
    loader = eval_loader(source, range(6), model=make_fake_model(), batch_size=1, workers=1)
    with pytest.raises(BevError, match='a process that reads samples died') as caught:
        list(loader)
    assert '\n' not in str(caught.value) and 'workers' in str(caught.value)


READ_FOR_EVER = """
import time
if __name__ == '__main__':
    from bev_training.data.loader import eval_loader
    from test.training.fake_source import make_fake_model, make_fake_source
    loader = eval_loader(
        make_fake_source(12), range(12), model=make_fake_model(), batch_size=1, workers=2
    )
    batches = iter(loader)
    next(batches)
    print('reading', flush=True)
    time.sleep(100)
"""


@pytest.mark.slow
def test_reading_processes_end_with_a_killed_run(tmp_path, repository):
    script = tmp_path / 'read.py'
    script.write_text(READ_FOR_EVER)
    environment = {**os.environ, 'PYTHONPATH': str(repository)}
    run = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert run.stdout.readline() == 'reading\n'
    below = [pid for child in children(run.pid) for pid in (child, *children(child))]
    assert len(below) >= 3  # the server and two that read
    run.kill()
    run.wait()
    run.stdout.close()
    end = time.monotonic() + 20
    while any(alive(pid) for pid in below) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in below if alive(pid)]


def state(pid):
    """(state, parent) of a process, None where there is none."""
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def alive(pid):
    return (state(pid) or 'Z')[0] != 'Z'


def children(pid):
    pids = [int(path.name) for path in Path('/proc').glob('[0-9]*')]
    return [one for one in pids if (state(one) or (None, None))[1] == pid]


def test_samples_that_do_not_fit_the_model_are_refused():
    config = make_train_config()
    with pytest.raises(ConfigError, match='no labelled sample'):
        batches(config, indices=[])
    with pytest.raises(ConfigError, match=r"labels are of classes \('vehicle',\)"):
        batches(config, make_fake_source(2, classes=('vehicle',)))
    with pytest.raises(ConfigError, match='labels are in BevGrid'):
        batches(config, make_fake_source(2, grid=replace(config.model.grid, z_cells=3)))


def test_a_camera_that_the_source_does_not_know_is_named():
    class Odd(type(make_fake_source())):
        def view_set(self, i, *, at_least_px=None):
            view_set = super().view_set(i, at_least_px=at_least_px)
            odd = replace(view_set.views[0], name='roof')
            return replace(view_set, views=(odd, *view_set.views[1:]))

    with pytest.raises(BevError, match="camera 'roof' is none of the data set: front_left"):
        batches(source=Odd(count=2))
