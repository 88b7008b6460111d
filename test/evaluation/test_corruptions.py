"""Corruptions of a whole rig: what is drawn, and from what."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest

from bev_perception.errors import ConfigError
from bev_training.evaluation.corruptions import (
    CORRUPTIONS,
    corrupt,
    crashed_cameras,
    lose_cameras,
)
from test.factories import YAWS_DEG, make_rig, make_view_set

NAMES = tuple(YAWS_DEG)


def is_black(view_set) -> dict[str, bool]:
    return {view.name: not view.image.any() for view in view_set.views}


def fingerprint(view_set) -> dict[str, int]:
    return {view.name: zlib.crc32(view.image.tobytes()) for view in view_set.views}


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_nothing_but_the_pixels_changes(name):
    view_set = make_view_set(missing=('back',), odom_T_ego=np.eye(4))
    before = fingerprint(view_set)
    for severity in (1, 2, 3):
        out = corrupt(view_set, name, severity, key='drive/3')
        for field in fields(view_set):
            if field.name != 'views':
                assert getattr(out, field.name) is getattr(view_set, field.name)
        assert len(out.views) == len(view_set.views)
        for view, own in zip(out.views, view_set.views, strict=True):
            for field in fields(own):
                if field.name != 'image':
                    assert getattr(view, field.name) is getattr(own, field.name)
            assert view.image.shape == own.image.shape and view.image.dtype == np.uint8
    assert fingerprint(view_set) == before


# Torch, which the factories need, would take most of its time.
_PRINTED = """
import zlib
import numpy as np
from bev_perception.geometry.camera import Camera
from bev_perception.views import CameraView, ViewSet
from bev_training.evaluation.corruptions import CORRUPTIONS, corrupt
image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
camera = Camera(K=np.array([[50.0, 0, 31.5], [0, 50, 15.5], [0, 0, 1]]), size_px=(64, 32))
views = tuple(
    CameraView(name=name, image=image, camera=camera, ego_T_cam=np.eye(4), stamp_ns=0)
    for name in ('a', 'b', 'c')
)
said = {}
for name in NAMES(CORRUPTIONS):
    for key in NAMES(('drive/0', 'drive/1')):
        out = corrupt(ViewSet(stamp_ns=0, views=NAMES(views)), name, 3, key=key, seed=5)
        for view in out.views:
            said[name, key, view.name] = zlib.crc32(view.image.tobytes())
print(sorted(said.items()))
"""


def test_other_processes_draw_the_same_in_any_order():
    said = {
        subprocess.run(
            [sys.executable, '-c', _PRINTED.replace('NAMES', order)],
            check=True, capture_output=True, text=True,
        ).stdout
        for order in ('tuple', '(lambda x: x[::-1])')
    }  # fmt: skip
    assert len(said) == 1
    # Four corruptions draw for every image; the others make the same of equal images.
    assert len(set(re.findall(r'\d{4,}', said.pop()))) in range(4 * 6 + 3, 4 * 6 + 5)


def test_every_machine_draws_the_same_cameras():
    assert crashed_cameras(NAMES, 2) == ('back_right', 'front_left', 'back', 'back_left')
    lost = is_black(corrupt(make_view_set(), 'frame_lost', 2, key='drive/000001'))
    assert [name for name in NAMES if lost[name]] == [
        'front_left',
        'front_right',
        'back_left',
        'back',
        'back_right',
    ]
    assert lose_cameras(make_view_set(), 2, key='drive/000003').missing == (
        'front_right',
        'back_right',
    )


def test_a_camera_is_corrupted_alike_whatever_cameras_there_are_beside_it():
    whole = make_view_set()
    for name in CORRUPTIONS[1:]:
        other = replace(whole, views=whole.views[:0:-1])
        alone = fingerprint(corrupt(other, name, 2, key='k'))
        every = fingerprint(corrupt(whole, name, 2, key='k'))
        assert alone == {camera: every[camera] for camera in alone}


@pytest.mark.parametrize('name', ['motion_blur', 'low_light', 'fog', 'snow'])
def test_cameras_samples_and_seeds_have_chances_of_their_own(name):
    one = make_view_set().views[1]
    view_set = make_view_set()
    same = replace(
        view_set, views=tuple(replace(view, image=one.image) for view in view_set.views)
    )
    seen = {
        number
        for key, seed in (('a', 0), ('b', 0), ('a', 1))
        for number in fingerprint(corrupt(same, name, 3, key=key, seed=seed)).values()
    }
    assert len(seen) == 3 * len(same.views)


def test_the_same_cameras_crash_in_every_sample_even_where_one_is_missing():
    for severity, count in ((1, 2), (2, 4), (3, 5)):
        crashed = crashed_cameras(NAMES, severity, seed=3)
        assert len(set(crashed)) == count
        assert crashed_cameras(NAMES[::-1], severity, seed=3) == crashed
        for key in 'abc':
            for missing in ((), ('front',), ('back', 'back_left')):
                view_set = make_view_set(missing=missing)
                black = is_black(corrupt(view_set, 'camera_crash', severity, key=key, seed=3))
                assert black == {n: n in crashed for n in NAMES if n not in missing}
    assert len({crashed_cameras(NAMES, 1, seed=seed) for seed in range(20)}) > 5


def test_severities_draw_the_same_cameras_first():
    crashed = [set(crashed_cameras(NAMES, severity)) for severity in (1, 2, 3)]
    assert crashed[0] < crashed[1] < crashed[2]
    for key in map(str, range(20)):
        lost = [is_black(corrupt(make_view_set(), 'frame_lost', s, key=key)) for s in (1, 2, 3)]
        for camera in NAMES:
            assert lost[0][camera] <= lost[1][camera] <= lost[2][camera]


@pytest.mark.parametrize(
    ('cameras', 'counts'),
    [(2, (1, 1, 1)), (3, (1, 2, 2)), (4, (1, 3, 3)), (5, (2, 3, 4)), (8, (3, 5, 7))],
)
def test_another_rig_loses_as_many_in_proportion_and_never_all(cameras, counts):
    names = [f'camera {i}' for i in range(cameras)]
    assert tuple(len(set(crashed_cameras(names, s))) for s in (1, 2, 3)) == counts


@pytest.mark.parametrize(('severity', 'share'), [(1, 2 / 6), (2, 4 / 6), (3, 5 / 6)])
def test_frames_are_lost_with_their_probability_one_by_one(severity, share):
    view_set = make_view_set(make_rig(size_px=(4, 2)))
    lost = np.array(
        [
            [*is_black(corrupt(view_set, 'frame_lost', severity, key=f'drive/{i}')).values()]
            for i in range(400)
        ]
    )
    assert lost.mean(0) == pytest.approx(share, abs=0.1)  # four standard deviations
    between = np.corrcoef(lost.T) - np.eye(len(NAMES))
    assert np.abs(between).max() < 0.2


def test_a_rig_of_one_camera_can_lose_frames_but_not_crash():
    rig = {'front': make_rig()['front']}
    for name in CORRUPTIONS[1:]:
        assert len(corrupt(make_view_set(rig), name, 3, key='k').views) == 1
    with pytest.raises(ConfigError, match=r"two cameras or more, the rig has \['front'\]"):
        corrupt(make_view_set(rig), 'camera_crash', 1, key='k')


def test_lost_cameras_are_missing_from_the_set():
    view_set = make_view_set()
    before = None
    for count in range(6):
        out = lose_cameras(view_set, count, key='k')
        kept = [view.name for view in out.views]
        assert len(kept) == 6 - count and len(out.missing) == count
        assert {*kept, *out.missing} == set(NAMES)
        assert kept == [name for name in NAMES if name in kept]  # in the rig's order
        assert all(view is view_set.views[NAMES.index(view.name)] for view in out.views)
        assert before is None or before < set(out.missing)
        before = set(out.missing)
    first = {lose_cameras(view_set, 1, key=str(i)).missing for i in range(60)}
    assert len(first) == 6  # another one in other samples
    assert lose_cameras(view_set, 3, key='k').missing == lose_cameras(view_set, 3, key='k').missing


def test_cameras_that_were_missing_before_count_as_lost():
    view_set = make_view_set(missing=('front', 'back'))
    assert lose_cameras(view_set, 1, key='k').missing == ('front', 'back')
    out = lose_cameras(view_set, 5, key='k')
    assert len(out.views) == 1 and out.missing[:2] == ('front', 'back')


@pytest.mark.parametrize('count', [-1, 6, 7])
def test_a_rig_keeps_one_camera(count):
    with pytest.raises(ConfigError, match=rf'^{count} lost cameras of a rig of 6 .* 0 to 5$'):
        lose_cameras(make_view_set(), count, key='k')


def test_unknown_names_severities_and_seeds_get_one_line():
    view_set = make_view_set()
    for name, severity, seed, said in (
        ('rain', 1, 0, "corruption 'rain' is none of camera_crash, frame_lost, motion_blur, "
         'color_quant, brightness, low_light, fog, snow'),
        ('fog', 4, 0, 'severity 4 is none of 1 (easy), 2 (mid), 3 (hard)'),
        ('fog', 0, 0, 'severity 0 is none of 1 (easy), 2 (mid), 3 (hard)'),
        ('fog', 1, -1, 'seed is -1; it must be 0 or more'),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            corrupt(view_set, name, severity, key='k', seed=seed)
        assert str(caught.value) == said
