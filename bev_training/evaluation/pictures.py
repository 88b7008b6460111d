"""Pictures of scored samples: a PNG of each, and all of them on one page."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from bev_perception.errors import BagError
from bev_perception.geometry.grid import BevGrid
from bev_perception.occupancy import to_cells
from bev_perception.shapes import ImageRgb
from bev_training.data.paths import write_whole
from bev_training.evaluation.evaluate import Scored
from bev_training.evaluation.report_tables import iou_line
from bev_training.metrics import PooledScores
from bev_training.picture import draw_sheet

FOLDER, PAGE = 'pictures', 'pictures.png'
_BESIDE = 2  # on the page
_PAGE_WIDTH_PX = 2400


class SamplePictures:
    """Draws the chosen ones of the samples that it is shown."""

    def __init__(self, folder: Path, indices: Collection[int], grid: BevGrid) -> None:
        """Start.

        Args:
            folder: gets `pictures/NUMBER_KEY.png`, and `pictures.png` with all of them.
            indices: which samples are drawn, numbers in the source.
            grid: of the network.
        """
        self._folder, self._indices, self._grid = folder, frozenset(indices), grid
        self.paths: list[Path] = []

    def show(self, scored: Scored) -> None:
        """Draw a sample if it is one of the chosen ones.

        Raises:
            BagError: the picture cannot be written.
        """
        if scored.index not in self._indices:
            return
        name = re.sub(r'[^\w.-]+', '_', scored.key)
        path = self._folder / FOLDER / f'{len(self.paths):02d}_{name}.png'
        draw_sheet(
            path,
            images={view.name: view.image for view in scored.view_set.views},
            cells=to_cells(scored.probabilities.classes, scored.probabilities.valid),
            labels=scored.labels,
            classes=scored.labels.classes,
            grid=self._grid,
            notes=_notes(scored, self._grid),
        )
        self.paths.append(path)

    def finish(self) -> Path | None:
        """Draw the page; return where it is, None without pictures.

        Raises:
            BagError: it cannot be written.
        """
        if not self.paths:
            return None
        page = self._folder / PAGE
        ok, data = cv2.imencode('.png', _tiled(self.paths))
        if not ok:
            raise BagError(f'{page} cannot be encoded')
        try:
            write_whole(page, data.tobytes())
        except OSError as error:
            raise BagError(f'{page} cannot be written: {error.strerror or error}') from error
        return page


def _notes(scored: Scored, grid: BevGrid) -> list[str]:
    pooled = PooledScores(scored.labels.classes, grid)
    pooled.update(scored.probabilities.classes, scored.labels, scored.probabilities.valid)
    missing = scored.view_set.missing
    return [
        f'Sample: {scored.key}',
        f'IoU of this sample where a camera sees: {iou_line(pooled.result())}',
        *([f'Without an image: {", ".join(missing)}'] if missing else []),
    ]


def _tiled(paths: Sequence[Path]) -> ImageRgb:
    """Put pictures beside and below each other, shrunk to the page's width."""
    beside = min(_BESIDE, len(paths))
    small: list[ImageRgb] = []
    for path in paths:  # one large one at a time: there may be many
        picture = np.asarray(cv2.imread(str(path)), np.uint8)
        width = min(_PAGE_WIDTH_PX // beside, picture.shape[1])
        height = round(picture.shape[0] * width / picture.shape[1])
        shrunk = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        small.append(np.asarray(shrunk, np.uint8))
    rows = [small[i : i + beside] for i in range(0, len(small), beside)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    page = np.zeros((sum(heights), beside * width, 3), np.uint8)
    page[:] = small[0][0, 0]  # the paper
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for i, picture in enumerate(row):
            page[top : top + picture.shape[0], i * width : (i + 1) * width] = picture
        top += height
    return page
