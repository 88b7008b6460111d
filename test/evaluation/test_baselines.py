"""Baselines against a slow reference, and the ground projection on painted ground."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.preprocess import prepare
from bev_perception.views import ViewSet
from bev_training.data.sample import LabelGrids
from bev_training.evaluation.baselines import FINE_THRESHOLDS, Baselines, deal
from bev_training.evaluation.ground import COLORS, GroundColors, ground_pixels, quantised
from bev_training.metrics import THRESHOLDS, PooledScores, bands_of
from test.factories import make_config, make_rig, make_view, make_view_set

CLASSES = ('drivable_area', 'vehicle')
GRID = BevGrid(x_range_m=(-15, 15), y_range_m=(-6, 6), cell_m=3)
SCENES = ('a', 'a', 'b', 'c', 'c', 'c', 'd')


def random_sample(seed: int):
    """Labels, what is seen, and colours of the ground: only three of them."""
    rng = np.random.default_rng(seed)
    shape = (len(CLASSES), *GRID.shape[1:])
    positive = rng.random(shape) < rng.uniform(0.1, 0.7)
    labels = LabelGrids(
        classes=CLASSES,
        positive=positive,
        hidden=positive & (rng.random(shape) < 0.3),
        known=rng.random(shape[1:]) < 0.8,
    )
    seen = rng.random(shape[1:]) < 0.8
    colors = rng.choice([-1, 0, 7, COLORS - 1], labels.known.size).astype(np.int16)
    return labels, seen, colors


SAMPLES = [random_sample(seed) for seed in range(len(SCENES))]


def baselines_of(samples, scenes) -> Baselines:
    counted = Baselines(CLASSES, GRID, scenes)
    for sample in samples:
        counted.add(*sample)
    return counted


def plain(samples, scenes) -> dict[str, PooledScores]:
    """All of it as its definition reads, cell by cell."""
    fold_of, _ = deal(scenes)
    pooled = {n: PooledScores(CLASSES, GRID, FINE_THRESHOLDS)
              for n in ('empty', 'frequency', 'ground')}  # fmt: skip
    bands = bands_of(GRID)[1].reshape(-1)

    def share(others, c, chosen) -> float:
        """How often class c is there in the chosen cells of other samples; NaN without any."""
        there = known = 0
        for labels, seen, colors in others:
            positive, hidden, is_known = (
                g.reshape(-1) for g in (labels.positive[c], labels.hidden[c], labels.known)
            )
            at = chosen(colors, seen.reshape(-1)) & is_known & ~hidden
            there, known = there + positive[at].sum(), known + at.sum()
        return there / known if known else math.nan

    for own, (labels, seen, colors) in enumerate(samples):
        others = [s for i, s in enumerate(samples) if fold_of[i] != fold_of[own]]
        frequent, ground = np.zeros((2, len(CLASSES), labels.known.size))
        for c in range(len(CLASSES)):
            overall = share(others, c, lambda tint, saw: np.ones(len(tint), bool))
            colored = share(others, c, lambda tint, saw: (tint >= 0) & saw)
            for cell in range(labels.known.size):
                here = np.arange(labels.known.size) == cell
                value = share(others, c, lambda tint, saw, here=here: here)
                frequent[c, cell] = ground[c, cell] = overall if math.isnan(value) else value
                if colors[cell] >= 0 and seen.reshape(-1)[cell]:
                    value = share(
                        others,
                        c,
                        lambda tint, saw, cell=cell, colors=colors: (
                            (tint == colors[cell]) & saw & (bands == bands[cell])
                        ),
                    )
                    ground[c, cell] = colored if math.isnan(value) else value
        shape = labels.positive.shape
        for name, said in (('empty', 0 * ground), ('frequency', frequent), ('ground', ground)):
            pooled[name].update(said.reshape(shape).astype(np.float32), labels, seen)
    return pooled


def test_scores_are_those_of_a_slow_reference() -> None:
    found, expected = baselines_of(SAMPLES, SCENES).result(), plain(SAMPLES, SCENES)
    assert list(found) == ['empty', 'frequency', 'ground']
    for name, scores in found.items():
        np.testing.assert_array_equal(scores.histogram, expected[name].result().histogram)
        np.testing.assert_array_equal(scores.mass, expected[name].result().mass)
        assert scores.samples == len(SAMPLES)
    assert found['empty'].iou('vehicle') == found['empty'].best('vehicle')[1] == 0
    assert 0 < found['frequency'].best('vehicle')[1] < 1
    assert (found['ground'].histogram != found['frequency'].histogram).any()


def test_nothing_is_learned_from_what_is_scored() -> None:
    """A class that is in one scene only, in cells of its own, is foretold nowhere."""
    samples = []
    for i in range(4):
        positive = np.zeros((len(CLASSES), *GRID.shape[1:]), bool)
        positive[1, i, 2 * i] = True
        known = np.ones(GRID.shape[1:], bool)
        labels = LabelGrids(
            classes=CLASSES, positive=positive, hidden=np.zeros_like(positive), known=known
        )
        samples.append((labels, known, np.full(known.size, i, np.int16)))
    for scores in baselines_of(samples, 'abcd').result().values():
        hit = scores.cells('vehicle', threshold=min(THRESHOLDS))[0]
        assert hit == 0
    # The same scene twice: each foretells the other.
    twice = baselines_of([samples[0]] * 2, 'ab').result()
    assert twice['frequency'].iou('vehicle') == 1


def test_scenes_are_dealt_whole_and_by_their_names_alone() -> None:
    scenes = [f'scene-{i // 3}' for i in range(75)]
    folds, how = deal(scenes)
    assert max(folds) == 9 and 'every tenth scene of 25' in how
    by_name = dict(zip(scenes, folds, strict=True))
    assert all(by_name[name] == fold for name, fold in zip(scenes, folds, strict=True))
    backwards, _ = deal(scenes[::-1])
    assert backwards == folds[::-1]
    sizes = np.bincount([*by_name.values()])
    assert sizes.max() - sizes.min() <= 1
    assert sorted(set(deal(['x', 'y', 'x'])[0])) == [0, 1]


def test_a_single_scene_is_parted_in_the_middle_and_says_so() -> None:
    folds, how = deal(['only'] * 5)
    assert folds == [0, 0, 1, 1, 1] and 'all 5 samples are of one scene' in how
    assert 'flatters' in how
    assert list(baselines_of(SAMPLES[:2], 'aa').result()) == ['empty', 'frequency', 'ground']
    alone = baselines_of(SAMPLES[:1], 'a')
    assert list(alone.result()) == ['empty'] and 'nothing to learn from' in alone.how


# --- the ground ----------------------------------------------------------------------------------

CONFIG = make_config(image_size_px=(256, 128))


def painted(patch_x_m: float) -> tuple[ViewSet, np.ndarray]:
    """A rig on grey ground with a green patch 4 m wide across it, and (y, x) where that is."""
    views = []
    for name, (camera, ego_T_cam) in make_rig(size_px=(256, 128)).items():
        uv = np.stack(np.meshgrid(np.arange(256), np.arange(128)), -1).astype(float)
        rays = camera.unproject(uv) @ ego_T_cam[:3, :3].T
        below = rays[..., 2] < -1e-3
        at = ego_T_cam[:3, 3] + rays * (-ego_T_cam[2, 3] / np.where(below, rays[..., 2], -1))[
            ..., None
        ]  # fmt: skip
        image = np.full((128, 256, 3), 130, np.uint8)
        image[~below] = (120, 180, 240)
        image[below & (np.abs(at[..., 0] - patch_x_m) < 2)] = (30, 160, 40)
        views.append(make_view(camera, image, name=name, ego_T_cam=ego_T_cam))
    inside = np.abs(CONFIG.grid.cell_centers()[..., 0] - patch_x_m) < 2
    return ViewSet(stamp_ns=1, views=tuple(views)), inside


def test_a_cell_has_the_colour_of_its_ground() -> None:
    view_set, green = painted(5.0)
    colors = GroundColors(CONFIG)(prepare(view_set, CONFIG)).reshape(green.shape)
    expected = quantised(np.array([[130, 130, 130], [30, 160, 40]], np.float32) / 255)
    assert len(set(expected.tolist())) == 2
    found = colors >= 0
    assert 0.8 < found.mean() < 1  # not below the vehicle
    hit = colors[found] == expected[green[found].astype(int)]
    assert hit.mean() > 0.93  # a pixel covers more than a cell in places
    assert not found[green.shape[0] // 2, 9]  # (1.5, 0.5), between the cameras


def test_pixels_are_those_that_a_loop_finds() -> None:
    view_set = make_view_set(missing=('back',))
    inputs = prepare(view_set, CONFIG)
    K, ego_T_cam = inputs.K[0].numpy().astype(float), inputs.ego_T_cam[0].numpy().astype(float)
    points = CONFIG.grid.cell_centers().reshape(-1, 2)
    ground = np.stack([*points.T, np.ones(len(points))])
    found = ground_pixels(K, ego_T_cam, ground, CONFIG.image_size_px)
    width, height = CONFIG.image_size_px
    differ = 0
    for cell, (x, y) in enumerate(points):
        best, pixel = np.inf, -1
        for i in range(len(K)):
            at = rigid.inverse(ego_T_cam[i]) @ [x, y, 0, 1]
            if at[2] <= 0.1:
                continue
            u, v = np.rint((K[i] @ at[:3])[:2] / at[2]).astype(int)
            aside = abs(u - (width - 1) / 2)
            if 0 <= u < width and 0 <= v < height and aside < best:
                best, pixel = aside, (i * height + v) * width + u
        differ += found[cell] != pixel
    assert differ <= len(points) // 100  # where a pixel's border rounds either way
    assert (found >= 0).any() and (found < 0).any()


def test_colours_are_in_range_and_near_ones_fall_together() -> None:
    every = np.stack(np.meshgrid(*[np.linspace(0, 1, 18)] * 3), -1).reshape(-1, 3)
    steps = quantised(every.astype(np.float32))
    assert steps.min() >= 0 and steps.max() < COLORS and len(np.unique(steps)) > 100
    grey = quantised(np.array([[0.5, 0.5, 0.5], [0.505, 0.5, 0.5]], np.float32))
    assert grey[0] == grey[1]
    assert quantised(np.empty((0, 3), np.float32)).shape == (0,)


def test_the_table_is_kept_while_cameras_stay_and_made_anew_where_they_move() -> None:
    look, fresh = GroundColors(CONFIG), [painted(5.0)[0], painted(-3.0)[0], make_view_set()]
    for view_set in (*fresh, fresh[0]):
        inputs = prepare(view_set, CONFIG)
        np.testing.assert_array_equal(look(inputs), GroundColors(CONFIG)(inputs))


def test_the_ground_tells_what_frequency_cannot() -> None:
    """The patch lies somewhere else in every scene."""
    places = (-6, -2, 2, 6, 10)
    counted = Baselines(('green',), CONFIG.grid, [f'{p}' for p in places])
    look = GroundColors(CONFIG)
    for place in places:
        view_set, green = painted(place)
        known = np.ones_like(green)
        labels = LabelGrids(
            classes=('green',), positive=green[None], hidden=0 * green[None] > 0, known=known
        )
        counted.add(labels, known, look(prepare(view_set, CONFIG)))
    found = counted.result()
    assert found['ground'].best('green')[1] > 0.75
    assert found['frequency'].best('green')[1] < 0.3
    assert found['ground'].best('green')[1] == pytest.approx(found['ground'].iou('green'), abs=0.1)
