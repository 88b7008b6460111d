"""Which cells of a BEV grid lie in polygons or near lines, for many classes in one pass."""

from __future__ import annotations

import numpy as np

from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import Array, Index, Mask


def filled(edges: Array, layer: Index, layers: int, grid: BevGrid) -> Mask:
    """Return (layers, Y, X): whether a cell's centre lies inside any polygon of a layer.

    Rows of cells are cut with all edges; a centre's winding number is the number of edges left of
    it that run down, minus those that run up. Polygons may overlap.

    Args:
        edges: (E, 2, 2) start and end, ego frame, metres; outlines counter-clockwise, holes
            clockwise, every ring closed.
        layer: (E,) to which layer an edge's polygon belongs.
        layers: their number.
        grid: the cells.
    """
    _, rows, columns = grid.shape
    low = np.array([grid.x_range_m[0], grid.y_range_m[0]])
    cells = (edges - low) / grid.cell_m - 0.5  # centres are integers
    y0, y1 = cells[:, 0, 1], cells[:, 1, 1]
    reaches = (np.maximum(y0, y1) > 0) & (np.minimum(y0, y1) < rows)
    cells, layer = cells[reaches], layer[reaches]
    (x0, y0), (x1, y1) = np.moveaxis(cells, 0, -1)
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, rows).astype(int)
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, rows).astype(int)  # upper end not included
    edge = np.repeat(np.arange(len(cells)), last - first)
    start = np.cumsum(last - first) - (last - first)
    row = np.arange(len(edge)) - start[edge] + first[edge]
    cut = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.clip(np.ceil(cut), 0, columns).astype(int)
    at = (layer[edge] * rows + row) * (columns + 1) + column
    turns = np.where(y1 < y0, 1.0, -1.0)[edge]
    winding = np.bincount(at, turns, layers * rows * (columns + 1)).astype(np.int16)
    winding = winding.reshape(layers, rows, columns + 1).cumsum(-1, dtype=np.int16)
    return np.asarray(winding[..., :columns] > 0)


def near_lines(
    pieces: Array, ends: Mask, layer: Index, layers: int, half_width_m: float, grid: BevGrid
) -> Mask:
    """Return (layers, Y, X): whether a cell's centre lies on a line drawn with some width.

    Args:
        pieces: (P, 2, 2) start and end of short pieces of lines, ego frame, metres.
        ends: (P, 2) whether the line ends there: it is cut off square; elsewhere joints are round.
        layer: (P,) to which layer a piece belongs.
        layers: their number.
        half_width_m: how far from its line a centre may lie.
        grid: the cells.
    """
    _, rows, columns = grid.shape
    low = np.array([grid.x_range_m[0], grid.y_range_m[0]])
    corner = np.array([columns, rows]) * grid.cell_m
    start, stop = pieces[:, 0] - low, pieces[:, 1] - low
    least, most = np.minimum(start, stop) - half_width_m, np.maximum(start, stop) + half_width_m
    kept = (
        (most[:, 0] > 0) & (most[:, 1] > 0) & (least[:, 0] < corner[0]) & (least[:, 1] < corner[1])
    )
    marked = np.zeros((layers, rows, columns), bool)
    if not kept.any():
        return marked
    start, stop, ends, layer = start[kept], stop[kept], ends[kept], layer[kept]
    first = np.floor(least[kept] / grid.cell_m).astype(int)
    span_x, span_y = (np.ceil((most[kept] - least[kept]).max(0) / grid.cell_m) + 1).astype(int)
    along = stop - start
    length2 = np.maximum((along * along).sum(1), 1e-12)
    for dy in range(span_y):  # cells beside each other of all pieces at once
        y = first[:, 1] + dy
        for dx in range(span_x):
            x = first[:, 0] + dx
            px = (x + 0.5) * grid.cell_m - start[:, 0]
            py = (y + 0.5) * grid.cell_m - start[:, 1]
            t = (px * along[:, 0] + py * along[:, 1]) / length2
            inside = ~((ends[:, 0] & (t < 0)) | (ends[:, 1] & (t > 1)))
            t = np.clip(t, 0, 1)
            gap2 = (px - t * along[:, 0]) ** 2 + (py - t * along[:, 1]) ** 2
            inside &= (gap2 <= half_width_m**2) & (x >= 0) & (y >= 0) & (x < columns) & (y < rows)
            marked[layer[inside], y[inside], x[inside]] = True
    return marked
