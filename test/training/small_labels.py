"""Labels of random cells and objects for tests; a function of the arguments only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bev_perception.geometry.grid import BevGrid
from bev_training.data.label_store import Labels, write_labels
from bev_training.data.sample import GroundBoxes, LabelGrids

CLASSES = ('vehicle', 'drivable_area', 'lane_divider')
GRID = BevGrid(x_range_m=(-6.0, 5.0), y_range_m=(-3.0, 4.0), cell_m=0.5)  # 22 x 14 cells
FACTS = {'weather': 'rain'}


def make_grids(seed: int, *, grid: BevGrid = GRID, known: float = 1.0) -> LabelGrids:
    rng = np.random.default_rng(seed)
    size = grid.shape[1:]
    positive = rng.random((len(CLASSES), *size)) < 0.4
    return LabelGrids(
        classes=CLASSES,
        positive=positive,
        hidden=positive & (rng.random(positive.shape) < 0.3),
        known=rng.random(size) < known,
    )


def make_boxes(seed: int, count: int | None = None) -> GroundBoxes:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(4)) if count is None else count
    return GroundBoxes(
        names=tuple(rng.choice(['vehicle', 'pedestrian'], count).tolist()),
        center_m=rng.normal(size=(count, 3)) * 10,
        size_m=rng.uniform(0.5, 5, (count, 3)),
        yaw_rad=rng.uniform(-3, 3, count),
        visibility=rng.uniform(size=count),
        lidar_points=rng.integers(-1, 50, count),
    )


def labels(count: int, *, every: int = 1, known: float = 1.0) -> Iterator[Labels]:
    """Labels of so many frames; those that `every` does not divide have none."""
    for number in range(count):
        has = number % every == 0
        yield (
            make_grids(number, known=known) if has else None,
            make_boxes(number) if has else None,
        )


def write(folder: Path, count: int, **values: object) -> int:
    frames = labels(count, **values)  # type: ignore[arg-type]
    return write_labels(folder, CLASSES, GRID, frames, source='nobody', facts=FACTS)


def assert_same_boxes(found: GroundBoxes, expected: GroundBoxes) -> None:
    assert found.names == expected.names
    for name in ('center_m', 'size_m', 'yaw_rad', 'visibility', 'lidar_points'):
        there, wanted = getattr(found, name), getattr(expected, name)
        assert there.dtype == wanted.dtype and np.array_equal(there, wanted), name
