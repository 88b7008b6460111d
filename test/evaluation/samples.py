"""A source of samples in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_perception.memory import Whereabouts
from bev_perception.model import checkpoint
from bev_perception.predictor import Predictor
from bev_perception.views import ViewSet
from bev_training.data.sample import GroundBoxes, LabelGrids, Sweep
from test.factories import make_config, make_rig, make_view, make_view_set

CONFIG = make_config()


@dataclass(frozen=True, eq=False, kw_only=True)
class FakeSource:
    """View sets of the tiny rig with given labels; can be pickled."""

    labels_of: tuple[LabelGrids, ...]
    classes: tuple[str, ...] = CONFIG.classes
    grid: BevGrid = CONFIG.grid
    cameras: tuple[str, ...] = tuple(make_rig())
    weather: tuple[str, ...] = ('clear', 'rain')
    broken: int = -1  # number of a sample that cannot be read
    damage: Exception | None = None

    def __len__(self) -> int:
        return len(self.labels_of)

    @property
    def keys(self) -> list[str]:
        return [f'drive/{i:06d}' for i in range(len(self))]

    @property
    def scenes(self) -> list[str]:
        return ['drive'] * len(self)

    def view_set(self, i: int, *, at_least_px: tuple[int, int] | None = None) -> ViewSet:
        if i == self.broken:
            raise self.damage or BagError('drive/shard.tar is damaged')
        return views_of(i)

    def whereabouts(self, i: int) -> Whereabouts:
        return Whereabouts.of(self.view_set(i), 0)

    def labels(self, i: int) -> LabelGrids:
        return self.labels_of[i]

    def boxes(self, i: int) -> GroundBoxes:
        raise AssertionError('scores need no boxes')

    def points(self, i: int) -> np.ndarray:
        return np.empty((0, 3), np.float32)

    def sweeps(self, i: int, count: int = 1) -> tuple[Sweep, ...]:
        return ()

    def fingerprint(self, i: int) -> str:
        raise AssertionError('scores need no fingerprints')

    @property
    def has_points(self) -> np.ndarray:
        return np.zeros(len(self), bool)

    lidars: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def facts(self, i: int) -> dict[str, str]:
        weather = self.weather[i % len(self.weather)]
        return {'name': f'number {i}', **({'weather': weather} if weather else {})}


def views_of(i: int) -> ViewSet:
    """Images that are others for every number; one camera is missing in every third set."""
    missing = ('back',) if i % 3 == 2 else ()
    whole = make_view_set(missing=missing)
    views = tuple(
        make_view(view.camera, np.roll(view.image, 7 * i, 1), name=view.name,
                  ego_T_cam=np.array(view.ego_T_cam))
        for view in whole.views
    )  # fmt: skip
    return ViewSet(stamp_ns=whole.stamp_ns + i, views=views, missing=missing)


def random_labels(count: int, grid: BevGrid = CONFIG.grid) -> tuple[LabelGrids, ...]:
    """Labels of a source, with hidden objects and unknown cells."""
    rng = np.random.default_rng(0)
    shape = (len(CONFIG.classes), *grid.shape[1:])
    out = []
    for _ in range(count):
        positive = rng.random(shape) < 0.3
        out.append(
            LabelGrids(
                classes=CONFIG.classes,
                positive=positive,
                hidden=positive & (rng.random(shape) < 0.2),
                known=rng.random(shape[1:]) < 0.9,
            )
        )
    return tuple(out)


def predicted_labels(weights, count: int, *, inverted: bool = False) -> tuple[LabelGrids, ...]:
    """What a checkpoint itself says at 0.5 (or its contrary), as labels."""
    predictor = Predictor(checkpoint.load(weights).model, device='cpu')
    out = []
    for i in range(count):
        positive = (predictor(views_of(i)).classes >= 0.5) ^ inverted
        out.append(
            LabelGrids(
                classes=predictor.config.classes,
                positive=positive,
                hidden=np.zeros_like(positive),
                known=np.ones(positive.shape[1:], bool),
            )
        )
    return tuple(out)
