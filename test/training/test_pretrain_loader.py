"""Batches of pretraining: what lidar and teacher say fits the images, however they are varied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_perception.errors import BevError, ConfigError
from bev_perception.geometry import rigid
from bev_training.data.accumulate import chosen_points
from bev_training.data.augment import augment
from bev_training.data.lidar_targets import voxelise
from bev_training.data.loader import eval_loader, train_loader
from bev_training.data.moves import ego_move, move_sweep
from bev_training.data.sample import read_sample
from bev_training.fit.pretrain_settings import (
    ImgAlsoConfig,
    LidarConfig,
    ObjectivesConfig,
    OccFeatConfig,
    TeacherConfig,
)
from bev_training.fit.settings import AugmentConfig, DataConfig, TrainConfig
from bev_training.teachers.cache import FeatureCache, FeatureMaps
from bev_training.teachers.views import teacher_decode_px, teacher_images
from test.training.fake_source import FakeSource, make_fake_model, make_fake_source

SIZE_PX, CHANNELS = (28, 14), 5
BOTH = ObjectivesConfig(segmentation=0, occfeat=1, img_also=1)
STILL = AugmentConfig(
    resize=(1, 1), crop_share=0, brightness=0, contrast=0, saturation=0, hue_deg=0,
    flip_x=0, flip_y=0,
)  # fmt: skip
WILD = AugmentConfig(flip_x=0.5, flip_y=0.5, yaw_deg=180, noise=0.02, drop_camera=0.2)


def make_source(count=6, **values) -> FakeSource:
    return make_fake_source(count, classes=(), **values)


def make_config(*, workers=0, **values) -> TrainConfig:
    return TrainConfig(
        **{
            'model': make_fake_model(classes=(), obstacle_classes=()),
            'data': DataConfig(workers=workers),
            'augment': WILD,
            'objectives': BOTH,
            'teacher': TeacherConfig(size_px=SIZE_PX),
            'img_also': ImgAlsoConfig(queries=30),
            'lidar': LidarConfig(own_m=0),
            'batch_size': 2,
            'seed': 3,
            **values,
        }
    )


def batches(config=None, source=None, *, indices=None, first_step=0, steps=3, **values):
    source = source or make_source()
    loader = train_loader(
        source,
        range(len(source)) if indices is None else indices,
        config=config or make_config(),
        first_step=first_step,
        steps=steps,
        **values,
    )
    return list(loader)


def seen(config=None, source=None, *, indices=None, batch_size=3, **values):
    source, config = source or make_source(), config or make_config()
    loader = eval_loader(
        source,
        list(range(len(source))) if indices is None else indices,
        model=config.model,
        batch_size=batch_size,
        workers=config.data.workers,
        pretraining=config,
        **values,
    )
    return list(loader)


def tensors(batch):
    parts = {'inputs': batch.inputs, 'lidar': batch.lidar, 'teacher': batch.teacher}
    return {
        f'{part}.{name}': value
        for part, each in parts.items()
        for name, value in (vars(each) if each is not None else {}).items()
        if value is not None
    }


def assert_same(one, other):
    assert [b.keys for b in one] == [b.keys for b in other]
    for a, b in zip(one, other, strict=True):
        mine, its = tensors(a), tensors(b)
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            assert torch.equal(value.nan_to_num(-9), its[name].nan_to_num(-9)), name


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path, digest='d', channels=CHANNELS, size_px=SIZE_PX, limit_gb=1.0)


def fill(cache: FeatureCache, source: FakeSource, indices) -> dict[int, np.ndarray]:
    """Store features that tell sample, camera and place."""
    stored = {}
    for i in indices:
        view_set = source.view_set(i, at_least_px=teacher_decode_px(SIZE_PX))
        _, K, ego_T_cam = teacher_images(view_set, SIZE_PX)
        names = tuple(view.name for view in view_set.views)
        shape = (len(names), CHANNELS, 1, 2)
        features = np.random.default_rng(i).normal(size=shape).astype(np.float16)
        maps = FeatureMaps(cameras=names, features=features, K=K, ego_T_cam=ego_T_cam)
        assert cache.store(source.fingerprint(i), maps)
        stored[i] = features
    return stored


# --- shapes --------------------------------------------------------------------------------------


def test_a_batch_has_what_the_objectives_want():
    (batch, *_) = batches()
    lidar, teacher = batch.lidar, batch.teacher
    assert lidar.occupied.shape == (2, 2, 16, 20) and lidar.occupied.dtype == torch.bool
    assert lidar.known.tolist() == [True, True] and lidar.dropped.tolist() == [0, 0]
    assert lidar.queries_m.shape == (2, 30, 3) and lidar.queries_m.dtype == torch.float32
    assert lidar.query_occupied.shape == (2, 30) and lidar.query_occupied.dtype == torch.int8
    assert lidar.query_intensity.shape == (2, 30)
    assert teacher.K.shape == (2, 6, 3, 3) and teacher.ego_T_cam.shape == (2, 6, 4, 4)
    assert teacher.K.dtype == teacher.ego_T_cam.dtype == torch.float32
    assert teacher.features is None and teacher.rows.tolist() == [0, 1]
    assert teacher.images.shape == (2, 6, 3, 14, 28) and teacher.images.dtype == torch.uint8
    assert batch.targets.positive.shape == (2, 0, 16, 20) and not batch.targets.known.any()
    assert batch.to(torch.device('cpu')).teacher.rows.tolist() == [0, 1]


def test_what_nobody_asks_for_is_not_there(monkeypatch):
    only_occupancy = make_config(
        objectives=ObjectivesConfig(segmentation=0, occfeat=1),
        occfeat=OccFeatConfig(lambda_feat=0),
    )
    also = make_config(objectives=ObjectivesConfig(segmentation=0, img_also=1))
    for config, queries in ((only_occupancy, False), (also, True)):
        for batch in (*batches(config), *seen(config)):
            assert batch.teacher is None and batch.lidar.occupied.any()
            assert (batch.lidar.queries_m is not None) == queries

    def refuse(*args, **values):
        raise AssertionError('the lidar was read')

    monkeypatch.setattr(FakeSource, 'sweeps', refuse)
    labelled = make_config(model=make_fake_model(), objectives=ObjectivesConfig())
    (batch,) = batches(labelled, make_fake_source(6), steps=1)
    assert batch.lidar is None and batch.teacher is None and batch.targets.known.any()


# --- the same ground under all of it -------------------------------------------------------------


def test_voxels_are_mirrored_with_the_frame():
    still = batches(make_config(augment=STILL))
    mirrored = batches(make_config(augment=replace(STILL, flip_y=1)))
    for one, other in zip(still, mirrored, strict=True):
        assert one.lidar.occupied.any() and one.keys == other.keys
        assert torch.equal(other.lidar.occupied, one.lidar.occupied.flip(2))


def test_sweeps_move_with_the_ego_frame():
    source, model = make_source(), make_config().model
    sample = read_sample(source, 2, sweeps=2)
    rng = np.random.default_rng(5)
    moved = augment(sample, replace(STILL, flip_x=1, yaw_deg=90), model, rng)
    turn = (2 * np.random.default_rng(5).random(3)[2] - 1) * np.pi / 2
    new_T_old = ego_move(flip_x=True, yaw_rad=turn)
    assert np.allclose(moved.ego_T_read, new_T_old)
    for sweep, before in zip(moved.sweeps, sample.sweeps, strict=True):
        points = rigid.transform_points(new_T_old, before.points_m.astype(float))
        assert np.allclose(sweep.points_m, points, atol=1e-5)
        origin = rigid.transform_points(new_T_old, before.origin_m[None])[0]
        assert np.allclose(sweep.origin_m, origin)
        assert sweep.age_s == before.age_s and sweep.lidar == before.lidar
    same = move_sweep(sample.sweeps[1], np.eye(4))
    assert np.array_equal(same.points_m, sample.sweeps[1].points_m)


def test_a_point_stays_where_the_teacher_sees_it():
    """Through the frame that is mirrored and turned, a voxel meets the same pixel."""
    source = make_source()
    turned = 0
    for batch in batches(source=source, steps=6):
        for row, key in enumerate(batch.keys):
            i = list(source.keys).index(key)
            view_set = source.view_set(i)
            _, K, ego_T_cam = teacher_images(view_set, SIZE_PX)
            assert np.allclose(batch.teacher.K[row], K, atol=1e-5)
            there = batch.teacher.ego_T_cam[row].double().numpy()
            # ego_T_read, from any camera, is the same for all, and rigid but for mirroring.
            moves = there @ np.stack([rigid.inverse(pose) for pose in ego_T_cam])
            assert np.allclose(moves, moves[0], atol=1e-5)
            new_T_old = moves[0]
            assert np.allclose(new_T_old[:3, :3] @ new_T_old[:3, :3].T, np.eye(3), atol=1e-5)
            turned += not np.allclose(new_T_old, np.eye(4), atol=1e-3)
            # And it is the move of the lidar's points.
            (sweep,) = chosen_points(source.sweeps(i), LidarConfig(own_m=0))
            expected, _ = voxelise([move_sweep(sweep, new_T_old)], source.grid)
            differs = batch.lidar.occupied[row].numpy() != expected
            assert expected.sum() > 5 and differs.sum() <= 2  # float32 poses, points on borders
    assert turned > 8


def test_queries_move_with_the_frame():
    """With one point and an upright ray, a query's place tells where the point went."""
    config = make_config(img_also=ImgAlsoConfig(queries=3000, decimate_m=0))
    for batch in batches(config, steps=2):
        inside = batch.lidar.query_occupied == 1
        for row in range(2):
            at = batch.lidar.queries_m[row, inside[row]].numpy()
            index, within = make_source().grid.xyz_to_index(at)
            occupied = batch.lidar.occupied[row].numpy()
            hit = occupied[tuple(index[within].T)]
            assert within.sum() > 100 and hit.mean() > 0.8  # 0.1 m behind may be the next voxel


def test_the_teacher_sees_clean_images_whatever_the_network_sees():
    source = make_source()
    for batch in batches(source=source, steps=3):
        for row, key in enumerate(batch.keys):
            i = list(source.keys).index(key)
            images, _, _ = teacher_images(source.view_set(i), SIZE_PX)
            assert np.array_equal(batch.teacher.images[row].permute(0, 2, 3, 1).numpy(), images)


def test_cameras_that_the_network_lacks_do_not_count():
    source = make_source(missing={1: ('front', 'back')})
    lost = 0
    for batch in batches(source=source, steps=6):
        assert torch.equal(batch.teacher.live, batch.inputs.live)
        lost += int((~batch.teacher.live).sum())
        if source.keys[1] in batch.keys:
            row = batch.keys.index(source.keys[1])
            gone = [source.cameras.index(name) for name in ('front', 'back')]
            assert not batch.teacher.images[row, gone].any()
            assert torch.equal(batch.teacher.K[row, gone], torch.eye(3).expand(2, 3, 3))
    assert lost > 4


# --- the cache -----------------------------------------------------------------------------------


def test_stored_features_come_instead_of_images(cache):
    source = make_source(missing={4: ('back',)})
    stored = fill(cache, source, range(6))
    for batch in (
        *batches(source=source, teacher_cache=cache),
        *seen(None, source, teacher_cache=cache),
    ):
        teacher = batch.teacher
        assert teacher.images is None and teacher.rows is None
        assert teacher.features.dtype == torch.float16
        for row, key in enumerate(batch.keys):
            i = list(source.keys).index(key)
            found = teacher.features[row].numpy()
            if i == 4:
                slot = source.cameras.index('back')
                assert not found[slot].any() and not teacher.live[row, slot]
                found = np.delete(found, slot, 0)
            assert np.array_equal(found, stored[i])


def test_cameras_of_stored_features_are_those_of_the_images(cache):
    source = make_source()
    without = batches(source=source)
    fill(cache, source, range(6))
    for one, other in zip(without, batches(source=source, teacher_cache=cache), strict=True):
        assert torch.equal(one.teacher.K, other.teacher.K)
        assert torch.equal(one.teacher.ego_T_cam, other.teacher.ego_T_cam)
        assert torch.equal(one.teacher.live, other.teacher.live)
        assert torch.equal(one.inputs.images, other.inputs.images)


def test_what_the_cache_lacks_comes_as_images(cache):
    source = make_source()
    stored = fill(cache, source, [0, 2])
    (batch,) = seen(None, source, indices=[0, 1, 2, 3], batch_size=4, teacher_cache=cache)
    teacher = batch.teacher
    assert teacher.rows.tolist() == [1, 3] and teacher.images.shape == (2, 6, 3, 14, 28)
    assert teacher.features.shape == (4, 6, CHANNELS, 1, 2)
    assert not teacher.features[[1, 3]].any()
    for row in (0, 2):
        assert np.array_equal(teacher.features[row].numpy(), stored[row])
    for at, i in enumerate((1, 3)):
        images, _, _ = teacher_images(source.view_set(i), SIZE_PX)
        assert np.array_equal(teacher.images[at].permute(0, 2, 3, 1).numpy(), images)


def test_features_of_a_camera_that_the_data_have_not_get_one_line(cache):
    source = make_source()
    maps = FeatureMaps(
        cameras=('roof',),
        features=np.zeros((1, CHANNELS, 1, 2), np.float16),
        K=np.eye(3)[None],
        ego_T_cam=np.eye(4)[None],
    )
    cache.store(source.fingerprint(0), maps)
    with pytest.raises(BevError, match="scene-0000/000000: camera 'roof' is none of the data set"):
        seen(None, source, indices=[0], teacher_cache=cache)


# --- one stream ----------------------------------------------------------------------------------


def test_batches_do_not_depend_on_the_number_of_processes(cache):
    source = make_source()
    fill(cache, source, [1, 3, 4])
    two = make_config(workers=2)
    assert_same(batches(teacher_cache=cache), batches(two, teacher_cache=cache))
    assert_same(seen(teacher_cache=cache), seen(two, teacher_cache=cache))


def test_a_resumed_run_sees_the_same_batches():
    whole = batches(steps=5)
    assert_same(whole[2:], batches(first_step=2, steps=5))
    assert not torch.equal(whole[0].lidar.queries_m, whole[3].lidar.queries_m)


def test_two_ranks_see_what_one_process_with_the_doubled_batch_sees(cache):
    fill(cache, make_source(), [0, 5])
    config = make_config()
    one = batches(replace(config, batch_size=4), teacher_cache=cache)
    ranks = [batches(config, rank=rank, world=2, teacher_cache=cache) for rank in (0, 1)]
    for batch, *parts in zip(one, *ranks, strict=True):
        whole = tensors(batch)
        for name in ('lidar.occupied', 'lidar.queries_m', 'teacher.K', 'teacher.ego_T_cam'):
            joined = torch.cat([tensors(part)[name] for part in parts])
            assert torch.equal(whole[name], joined), name


def test_validation_sees_the_same_clean_samples_each_time():
    once, again = seen(), seen(batch_size=3)
    assert_same(once, again)
    source = make_source()
    assert [key for batch in once for key in batch.keys] == list(source.keys)
    for i, occupied in enumerate(torch.cat([batch.lidar.occupied for batch in once])):
        expected, _ = voxelise(source.sweeps(i), source.grid)
        assert np.array_equal(occupied.numpy(), expected)
    other = seen(make_config(seed=4))
    assert not torch.equal(once[0].lidar.queries_m, other[0].lidar.queries_m)
    assert torch.equal(once[0].inputs.images, other[0].inputs.images)


# --- the lidar -----------------------------------------------------------------------------------


def test_a_blind_or_torn_sweep_is_said():
    source = make_source(blind=(1,), torn=(2,))
    (batch,) = seen(None, source, indices=[0, 1, 2])
    assert batch.lidar.known.tolist() == [True, False, True]
    assert batch.lidar.dropped.tolist() == [0, 0, 1]
    assert not batch.lidar.occupied[1].any()
    assert (batch.lidar.query_occupied[1] == -1).all()
    assert (batch.lidar.query_occupied[[0, 2]] >= 0).all()


def test_more_sweeps_tell_more(monkeypatch):
    asked = []
    sweeps = FakeSource.sweeps

    def noted(self, i, count=1):
        asked.append(count)
        return sweeps(self, i, count)

    monkeypatch.setattr(FakeSource, 'sweeps', noted)
    one = seen(make_config(), indices=[3])
    many = seen(make_config(lidar=LidarConfig(sweeps=4, own_m=0)), indices=[3])
    assert asked == [1, 4]
    assert many[0].lidar.occupied.sum() > one[0].lidar.occupied.sum()


def test_the_vehicle_s_own_points_are_cut_out_before_the_frame_turns():
    """The square around the sensor is the vehicle's: it turns with it."""

    config = make_config(
        augment=replace(STILL, yaw_deg=45), lidar=LidarConfig(own_m=2.2), batch_size=1
    )
    source = _Roof(count=1, classes=())
    for batch in batches(config, source, steps=8):
        assert not batch.lidar.known.any() and not batch.lidar.occupied.any()
    kept = batches(replace(config, lidar=LidarConfig(own_m=2.0)), source, steps=1)
    assert kept[0].lidar.known.all()


@dataclass(frozen=True, kw_only=True)
class _Roof(FakeSource):
    """A lidar that sees the corners of its own vehicle only."""

    def points(self, i: int) -> np.ndarray:
        corners = [[0.5 + x, y, 1.0] for x in (-2.1, 2.1) for y in (-2.1, 2.1)]
        return np.array(corners, np.float32)


def test_a_damaged_sample_and_no_samples_get_one_line():
    with pytest.raises(BevError, match=r'^sample scene-0000/000002: shard of frame 2 is damaged$'):
        seen(None, make_source(broken=(2,)))
    with pytest.raises(ConfigError, match='there is no sample to train on'):
        batches(indices=[])
    with pytest.raises(ConfigError, match='labels are of classes'):
        batches(source=make_fake_source(6))
