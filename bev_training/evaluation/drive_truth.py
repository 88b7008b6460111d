"""The truth of a synthetic drive at any stamp, as labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.label_classes import CLASSES
from bev_training.data.sample import LabelGrids
from bev_training.data.truth_labels import check_town, crossings_of, labels_at
from bev_training.synthetic.stored_truth import load_truth

BASE_FRAME = 'base_link'  # of synthetic drives


class DriveTruth:
    """Labels of a synthetic drive: its town is made anew and asked at any time.

    Attributes:
        classes: that it knows.
        grid: of the labels.
    """

    classes = CLASSES

    def __init__(self, drive: Path, grid: BevGrid) -> None:
        """Read what lies beside a drive's bag.

        Args:
            drive: folder of the drive.
            grid: of the labels, whatever that of the stored truth.

        Raises:
            BagError: it is missing, damaged or of another version, or of another town than its
                settings make here.
        """
        stored = load_truth(drive)
        self._world = stored.config.world()
        check_town(stored, self._world, drive)
        self._crossings = crossings_of(self._world)
        self.grid = grid
        self._drive, self._config = drive, stored.config
        self._truth = replace(stored, config=replace(stored.config, grid=grid))

    def at(self, stamp_ns: int, classes: Sequence[str]) -> LabelGrids:
        """Return the labels of a stamp; what hides what is taken from the nearest frame.

        Args:
            stamp_ns: the instant.
            classes: some of `classes`.

        Raises:
            BagError: the stamp lies outside of the drive.
        """
        time_s = (stamp_ns - self._config.epoch_ns) / 1e9
        if not -1 <= time_s <= self._config.seconds + 1:
            raise BagError(f'{self._drive}: stamp {stamp_ns} ns is {time_s:.3f} s after its start')
        grids, _ = labels_at(self._truth, self._world, time_s, self._crossings)
        return grids.of(classes)
