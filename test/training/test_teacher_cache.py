"""Stored features: the same as fresh ones, whole or not there, bounded, of some use."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import threading
import time

import cv2
import numpy as np
import pytest
import torch

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.model.tensors import BevInputs
from bev_training.data.batch import Batch, Targets, TeacherViews
from bev_training.fit.pretrain_settings import TeacherConfig
from bev_training.teachers.cache import FeatureCache, FeatureMaps, complete
from bev_training.teachers.fill import fill, together
from bev_training.teachers.load import load_teacher
from bev_training.teachers.quality import camera_pairs, judge, principal_components
from bev_training.teachers.views import teacher_images

from ..factories import look, make_camera
from .fake_source import make_fake_source
from .teacher_makers import SIZE_PX, make_teacher

CPU = torch.device('cpu')
CAMERAS = ('front', 'front_left', 'back')


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp('teacher'))


def make_cache(folder, **values) -> FeatureCache:
    told = {'digest': 'd', 'channels': 4, 'size_px': SIZE_PX, 'limit_gb': 1.0, **values}
    return FeatureCache(folder, **told)


def make_maps(seed: int = 0, n: int = 2, channels: int = 4) -> FeatureMaps:
    rng = np.random.default_rng(seed)
    return FeatureMaps(
        cameras=CAMERAS[:n],
        features=rng.normal(size=(n, channels, 2, 4)).astype(np.float16),
        K=rng.normal(size=(n, 3, 3)),
        ego_T_cam=rng.normal(size=(n, 4, 4)),
    )


def same_maps(a: FeatureMaps | None, b: FeatureMaps) -> bool:
    return (
        a is not None
        and a.cameras == b.cameras
        and all(
            np.array_equal(getattr(a, k), getattr(b, k)) for k in ('features', 'K', 'ego_T_cam')
        )
    )


def files_of(folder):
    return sorted(path.name for path in folder.glob('??/*'))


def test_what_is_stored_comes_back_also_in_another_process_and_later(tmp_path):
    cache, maps = make_cache(tmp_path / 'new'), make_maps()
    assert cache.load('aa01') is None and not cache.has('aa01')
    assert not (tmp_path / 'new').exists()  # to look for something makes nothing
    assert cache.store('aa01', maps) and cache.has('aa01')
    for other in (cache, pickle.loads(pickle.dumps(cache)), make_cache(tmp_path / 'new')):
        assert same_maps(other.load('aa01'), maps)
        assert other.used_bytes() == cache.path('aa01').stat().st_size
    assert not list(tmp_path.glob('**/.*.part'))


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ({'digest': 'e'}, 'digest is d, not e'),
        ({'channels': 5}, 'channels is 4, not 5'),
        ({'size_px': (28, 28)}, r'size_px is \[56, 28\], not \[28, 28\]'),
    ],
)
def test_features_of_another_teacher_or_size_are_refused(tmp_path, values, said):
    make_cache(tmp_path).store('aa01', make_maps())
    with pytest.raises(ConfigError, match=f'{tmp_path} holds features of another teacher: {said}'):
        make_cache(tmp_path, **values)


@pytest.mark.parametrize('text', ['{"format": 1', '[]'])
def test_a_damaged_head_gets_one_line(tmp_path, text):
    (tmp_path / 'teacher.json').write_text(text)
    with pytest.raises(BagError, match=r'teacher\.json cannot be read') as error:
        make_cache(tmp_path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('damage', ['cut off', 'one bit', 'empty', 'channels', 'cameras'])
def test_a_damaged_entry_counts_as_missing_and_is_said(tmp_path, caplog, damage):
    cache, other = make_cache(tmp_path), make_cache(tmp_path / 'other', channels=5)
    cache.store('aa01', make_maps())
    path = cache.path('aa01')
    data = bytearray(path.read_bytes())
    if damage == 'cut off':
        path.write_bytes(data[:-5])
    elif damage == 'one bit':
        at = data.rindex(make_maps().features.tobytes()[:16])
        data[at] ^= 1
        path.write_bytes(data)
    elif damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'channels':
        other.store('aa01', make_maps(channels=5))
        path.write_bytes(other.path('aa01').read_bytes())
    else:
        path.write_bytes(data.replace(rb'[\"front\", ', rb'[\"front\"  '))
    assert cache.has('aa01') == (damage in ('one bit', 'cameras'))  # a look, not a whole reading
    assert cache.load('aa01') is None
    assert str(path) in caplog.text and 'damaged' in caplog.text
    assert not path.exists()  # so it is made anew
    assert cache.load('aa01') is None and len(caplog.records) == 1


def test_features_of_somebody_else_are_never_touched(tmp_path, caplog):
    make_cache(tmp_path).store('aa01', make_maps())
    cache = make_cache(tmp_path, read_only=True)
    assert same_maps(cache.load('aa01'), make_maps())
    assert not cache.store('aa02', make_maps()) and files_of(tmp_path) == ['aa01.safetensors']
    cache.path('aa01').write_bytes(b'')
    assert cache.load('aa01') is None and cache.path('aa01').exists()
    assert 'made anew' not in caplog.text


def test_no_more_is_stored_than_the_limit(tmp_path):
    cache = make_cache(tmp_path)
    cache.store('aa00', make_maps())
    size = cache.used_bytes()
    cache = make_cache(tmp_path, limit_gb=2.5 * size / 1e9)
    assert cache.store('aa01', make_maps(1)) and not cache.store('aa02', make_maps(2))
    assert cache.store('aa01', make_maps(3))  # in its own place
    assert cache.used_bytes() == 2 * size and len(files_of(tmp_path)) == 2


def test_what_cannot_be_written_gets_one_line(tmp_path):
    (tmp_path / 'aa').write_text('a file where a folder should be')
    with pytest.raises(BagError, match='features cannot be stored'):
        make_cache(tmp_path).store('aa01', make_maps())


def test_other_shapes_are_a_mistake(tmp_path):
    cache = make_cache(tmp_path)
    for wrong in (
        make_maps(channels=5),
        dataclasses.replace(make_maps(), cameras=('front',)),
        dataclasses.replace(make_maps(), features=np.zeros((2, 4, 2, 4), np.float32)),
    ):
        with pytest.raises(ValueError, match='features are'):
            cache.store('aa01', wrong)


def test_unfinished_files_of_killed_runs_are_cleared_away(tmp_path):
    cache = make_cache(tmp_path)
    cache.store('aa01', make_maps())
    old, new = tmp_path / 'aa' / '.x.1.part', tmp_path / 'aa' / '.x.2.part'
    for path in (old, new):
        path.write_bytes(b'half')
    os.utime(old, (time.time() - 7200,) * 2)
    make_cache(tmp_path, read_only=True).clear_abandoned()
    assert old.exists()  # it is somebody else's
    cache.clear_abandoned()
    assert not old.exists() and new.exists() and cache.has('aa01')


def fresh(teacher, source, i) -> FeatureMaps:
    views = source.view_set(i)
    images, K, ego_T_cam = teacher_images(views, teacher.size_px)
    features = teacher(torch.from_numpy(images).permute(0, 3, 1, 2)).half().numpy()
    names = tuple(view.name for view in views.views)
    return FeatureMaps(cameras=names, features=features, K=K, ego_T_cam=ego_T_cam)


def test_a_cache_hit_equals_fresh_features(tmp_path, teacher):
    source = make_fake_source(3, missing={1: ('front',)})
    cache = FeatureCache.of(teacher, tmp_path, limit_gb=1)
    assert cache.folder == tmp_path / 'teacher' / teacher.digest
    told = []
    report = fill(
        cache, teacher, source, range(3), device=CPU, progress=lambda *step: told.append(step)
    )
    assert (report.made, report.found, report.left_out, report.images) == (3, 0, 0, 17)
    assert told == [("the teacher's features", k, 3) for k in (1, 2, 3)]
    for i in range(3):
        stored, made = cache.load(source.fingerprint(i)), fresh(teacher, source, i)
        assert stored.cameras == made.cameras and len(stored.cameras) == (5 if i == 1 else 6)
        # One batch of images is not bit for bit another one.
        np.testing.assert_allclose(stored.features, made.features, rtol=2e-3, atol=2e-3)
        assert np.array_equal(stored.K, made.K)
        assert np.array_equal(stored.ego_T_cam, made.ego_T_cam)


def test_an_interrupted_filling_goes_on(tmp_path, teacher):
    """What is there is not computed again; what has vanished is."""
    source = make_fake_source(4, broken=(2,))
    cache = FeatureCache.of(teacher, tmp_path, limit_gb=1)
    with pytest.raises(BevError, match='sample scene-0000/000002: shard of frame 2 is damaged'):
        fill(cache, teacher, source, range(4), device=CPU)
    source = make_fake_source(4)
    before = {path: path.stat().st_mtime_ns for path in cache.folder.glob('??/*')}
    assert len(before) == 2
    again = FeatureCache.of(teacher, tmp_path, limit_gb=1)
    report = fill(again, teacher, source, range(4), device=CPU)
    assert (report.found, report.made) == (2, 2)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    cache.path(source.fingerprint(3)).unlink()
    report = fill(cache, teacher, source, range(4), device=CPU)
    assert (report.found, report.made) == (3, 1) and '4 of 4 samples' in report.told(cache)


def test_samples_that_find_no_room_are_left_out_and_said(tmp_path, teacher):
    source = make_fake_source(4)
    cache = FeatureCache.of(teacher, tmp_path, limit_gb=1)
    fill(cache, teacher, source, [0], device=CPU)
    limit_gb = 2.5 * cache.used_bytes() / 1e9
    cache = FeatureCache.of(teacher, tmp_path, limit_gb=limit_gb)
    report = fill(cache, teacher, source, range(4), device=CPU)
    assert (report.found, report.made, report.left_out) == (1, 1, 2)
    text = report.told(cache)
    assert '2 of 4 samples' in text and '2 found no room' in text
    assert judge(cache, source, range(4), left_out=report.left_out)
    assert json.loads((cache.folder / 'quality.json').read_text())['coverage'] == 0.5
    told = []
    again = fill(
        cache, teacher, source, [2, 3, 1, 0], device=CPU, progress=lambda *step: told.append(step)
    )
    assert (again.found, again.made, again.left_out) == (2, 0, 2)  # also behind those left out
    assert told[-1] == ("the teacher's features", 4, 4)


def test_ranks_share_the_samples_and_the_room(tmp_path, teacher):
    source = make_fake_source(5)
    cache = FeatureCache.of(teacher, tmp_path, limit_gb=1)
    parts = [
        fill(cache, teacher, source, range(5), device=CPU, rank=rank, world=2) for rank in (1, 0)
    ]
    assert [part.made for part in parts] == [2, 3] and len(files_of(cache.folder)) == 5
    assert '5 of 5 samples' in together(parts).told(FeatureCache.of(teacher, tmp_path, limit_gb=1))
    size = cache.used_bytes() / 5
    bounded = FeatureCache.of(teacher, tmp_path / 'b', limit_gb=3 * size / 1e9)
    reports = [
        fill(bounded, teacher, source, range(5), device=CPU, rank=rank, world=2) for rank in (0, 1)
    ]
    assert [report.made for report in reports] == [1, 1]  # of the half, then of half the rest


def test_two_runs_that_fill_one_cache_do_the_work_once(tmp_path, teacher):
    source, reports, told = make_fake_source(4), [], []

    def run():
        cache = FeatureCache.of(teacher, tmp_path, limit_gb=1)
        reports.append(
            fill(
                cache,
                teacher,
                source,
                range(4),
                device=CPU,
                progress=lambda *step: told.append(step[0]),
            )
        )

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((report.made, report.found) for report in reports) == [(0, 4), (4, 0)]
    assert any('another run' in what for what in told)


def test_no_sample_is_no_mistake(tmp_path, teacher):
    cache = FeatureCache.of(teacher, tmp_path, limit_gb=1)
    report = fill(cache, teacher, make_fake_source(2), [], device=CPU)
    assert report.samples == report.made == 0


def make_batch(teacher, *, stored: tuple[int, ...], live: torch.Tensor) -> Batch:
    """Two samples of three cameras; `stored` ones have features of 7s, the others images."""
    b, n = live.shape
    rows = [row for row in range(b) if row not in stored]
    rng = np.random.default_rng(3)
    images = rng.integers(0, 255, (len(rows), n, 3, SIZE_PX[1], SIZE_PX[0]), np.uint8)
    features = torch.zeros(b, n, teacher.channels, 2, 4, dtype=torch.float16)
    features[list(stored)] = 7
    none = torch.zeros(b, n, 1)
    return Batch(
        keys=tuple(f'drive/{row}' for row in range(b)),
        inputs=BevInputs(images=none, K=none, ego_T_cam=none, live=live),
        targets=Targets(positive=none, hidden=none, known=none),
        teacher=TeacherViews(
            K=none,
            ego_T_cam=none,
            live=live,
            features=features if stored else None,
            images=torch.from_numpy(images) if rows else None,
            rows=torch.tensor(rows) if rows else None,
        ),
    )


@pytest.mark.parametrize('stored', [(), (0,), (1,), (0, 1)])
def test_missing_features_are_completed_where_a_camera_is_live(teacher, stored):
    live = torch.tensor([[True, True, False], [False, True, True]])
    batch = make_batch(teacher, stored=stored, live=live)
    full = complete(batch, teacher).teacher
    assert full.images is None and full.rows is None
    assert full.features.shape == (2, 3, 384, 2, 4) and full.features.dtype == torch.float16
    for row in range(2):
        if row in stored:
            assert (full.features[row] == 7).all()
            continue
        images = batch.teacher.images[batch.teacher.rows.tolist().index(row)]
        wanted = teacher(images[live[row]]).half()
        torch.testing.assert_close(full.features[row][live[row]], wanted, atol=2e-3, rtol=2e-3)
        assert (full.features[row][~live[row]] == 0).all()


def test_a_batch_without_a_live_camera_gets_zeros(teacher):
    batch = make_batch(teacher, stored=(), live=torch.zeros(2, 3, dtype=torch.bool))
    full = complete(batch, teacher).teacher
    assert full.features.shape == (2, 3, 384, 2, 4) and not full.features.any()


def test_a_batch_without_a_teacher_stays_as_it_is(teacher):
    batch = make_batch(teacher, stored=(0, 1), live=torch.ones(2, 3, dtype=torch.bool))
    assert complete(batch, teacher) is batch
    bare = dataclasses.replace(batch, teacher=None)
    assert complete(bare, teacher) is bare


class TestExternalFeatures:
    """Somebody else's network, stored in our format."""

    @pytest.fixture
    def source(self):
        return make_fake_source(2)

    @pytest.fixture
    def config(self, tmp_path, source):
        cache = make_cache(tmp_path, digest='my network')
        for i in range(2):
            cache.store(source.fingerprint(i), make_maps(i, 3))
        return TeacherConfig(name='external', weights=str(tmp_path), channels=4, size_px=SIZE_PX)

    def test_they_are_used_from_where_they_are(self, tmp_path, config, source):
        external = load_teacher(config)
        assert external.channels == 4 and str(tmp_path) in external.description
        cache = FeatureCache.of(external, tmp_path / 'elsewhere', limit_gb=1)
        assert cache.folder == tmp_path and cache.read_only
        assert same_maps(cache.load(source.fingerprint(1)), make_maps(1, 3))
        before = sorted(tmp_path.rglob('*'))
        report = fill(cache, external, source, range(2), device=CPU)
        assert report.found == 2 and sorted(tmp_path.rglob('*')) == before

    def test_a_sample_without_them_is_named(self, tmp_path, config, source):
        external, path = load_teacher(config), make_cache(tmp_path, digest='my network').path
        missing = path(source.fingerprint(1))
        missing.unlink()
        cache = FeatureCache.of(external, None, limit_gb=1)
        said = f'sample scene-0000/000001: {tmp_path} holds no features of it: {missing.name} is'
        with pytest.raises(BevError, match=said):
            fill(cache, external, source, range(2), device=CPU)
        batch = make_batch(external, stored=(0,), live=torch.ones(2, 3, dtype=torch.bool))
        with pytest.raises(ConfigError, match=f'{tmp_path} holds no features of sample drive/1'):
            complete(batch, external)

    def test_maps_of_another_shape_than_the_others_are_named(self, tmp_path, config, source):
        maps = make_maps(1, 3)
        other = dataclasses.replace(maps, features=maps.features[..., :3])
        make_cache(tmp_path, digest='my network').store(source.fingerprint(1), other)
        external = load_teacher(config)
        cache = FeatureCache.of(external, None, limit_gb=1)
        with pytest.raises(BevError, match=r'sample scene-0000/000001: .* of another shape'):
            fill(cache, external, source, range(2), device=CPU, readers=1)

    def test_another_size_is_refused(self, config):
        external = load_teacher(dataclasses.replace(config, size_px=(28, 28)))
        with pytest.raises(ConfigError, match='size_px is'):
            FeatureCache.of(external, None, limit_gb=1)


def test_principal_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    vectors = rng.normal(size=(20000, 3)) * [3, 2, 1] @ axes.T + [5, -1, 2]
    mean, shares, found = principal_components(vectors)
    np.testing.assert_allclose(mean, [5, -1, 2], atol=0.1)
    np.testing.assert_allclose(shares, np.array([9, 4, 1]) / 14, atol=0.01)
    np.testing.assert_allclose(np.abs(found @ axes), np.eye(3), atol=0.05)


def overlapping(features_of_place) -> tuple[FeatureMaps, np.ndarray]:
    """Two cameras at one place, 30 degrees apart, whose features are a function of the direction
    in space; and points before them.
    """
    camera, names = make_camera((64, 32)), ('left', 'right')
    poses = np.stack([look(15.0), look(-15.0)])
    v, u = np.mgrid[:32, :64]
    maps = []
    for pose in poses:
        rays = camera.unproject(np.stack([u, v], -1).astype(float)) @ pose[:3, :3].T
        maps.append(np.moveaxis(features_of_place(rays), -1, 0))
    rng = np.random.default_rng(1)
    away = rng.normal(size=(4000, 3)) * [1, 0.5, 0.2] + [8, 0, 0]
    found = FeatureMaps(
        cameras=names,
        features=np.stack(maps).astype(np.float16),
        K=np.stack([camera.K] * 2),
        ego_T_cam=poses,
    )
    return found, away + [0, 0, 1.5]


def test_cameras_agree_on_features_that_belong_to_places():
    """Waves over the direction in space are the same in both cameras, noise is not."""
    rng = np.random.default_rng(2)
    waves, phases = 25 * rng.normal(size=(3, 16)), rng.uniform(0, 6.3, 16)
    maps, points = overlapping(lambda rays: np.cos(rays @ waves + phases))
    same, other, seen = camera_pairs(maps, points, (64, 32))
    assert seen > 0.9 and len(same) == len(other) > 500
    assert same.mean() > 0.97 and other.mean() < 0.5
    noise, _ = overlapping(lambda rays: rng.normal(size=(*rays.shape[:2], 16)))
    same, other, _ = camera_pairs(noise, points, (64, 32))
    assert abs(same.mean() - other.mean()) < 0.1
    same, other, seen = camera_pairs(noise, points[:0], (64, 32))
    assert not len(same) and not len(other) and np.isnan(seen)


def test_a_report_says_what_features_are_like(tmp_path):
    """Features of one direction, some of them not finite."""
    source, cache = make_fake_source(4), make_cache(tmp_path)
    rng = np.random.default_rng(4)
    for i in range(4):
        maps = make_maps(i, 3)
        line = rng.normal(size=(3, 1, 2, 4)) * np.array([1, 2, 3, 4])[:, None, None]
        line[0, 0, 0, 0] = np.inf
        K = np.stack([make_camera(SIZE_PX).K] * 3)
        poses = np.stack([look(yaw) for yaw in (0, 55, 180)])
        maps = dataclasses.replace(maps, features=line.astype(np.float16), K=K, ego_T_cam=poses)
        cache.store(source.fingerprint(i), maps)
    text = judge(cache, source, range(4))
    told = json.loads((tmp_path / 'quality.json').read_text())
    assert told['first_component'] > 0.99 and told['samples'] == told['looked_at'] == 4
    assert told['not_finite'] == pytest.approx(1 / 96, rel=0.01)
    assert 'Warning' in text and '100% of the variance' in text and 'not finite' in text
    assert len(told['warnings']) >= 2 and '\n' not in text
    picture = cv2.imread(str(tmp_path / 'quality.png'))
    assert picture is not None and picture.shape[0] % (2 * SIZE_PX[1]) == 0
    assert judge(make_cache(tmp_path / 'empty'), source, range(4)) == ''


def test_healthy_features_give_no_warning(tmp_path):
    rng = np.random.default_rng(2)
    waves, phases = 25 * rng.normal(size=(3, 16)), rng.uniform(0, 6.3, 16)
    maps, points = overlapping(lambda rays: np.cos(rays @ waves + phases))

    class Before(type(make_fake_source())):
        def points(self, i):
            return points.astype(np.float32)

    source = Before(count=1)
    cache = make_cache(tmp_path, channels=16, size_px=(64, 32))
    cache.store(source.fingerprint(0), maps)
    text = judge(cache, source, [0])
    told = json.loads((tmp_path / 'quality.json').read_text())
    assert told['warnings'] == [] and 'Warning' not in text
    assert told['same_point'] > 0.95 and 'the same lidar point' in text
