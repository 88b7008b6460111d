"""What is learned from lidar points: which voxels hold one, and points of which is known whether
they lie inside something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Index, Mask
from bev_training.data.sample import Sweep
from bev_training.fit.pretrain_settings import ImgAlsoConfig

INSIDE, FREE, NO_QUERY = 1, 0, -1
_KEY_BITS = 21  # of a cube's number along an axis; three of them fill an int64


def lidar_targets(
    sweeps: Sequence[Sweep],
    grid: BevGrid,
    *,
    img_also: ImgAlsoConfig | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the fields of `batch.LidarTargets` for a sample, without axis b.

    Args:
        sweeps: in the sample's ego frame, without what is not wanted (`accumulate.chosen_points`).
        grid: of the voxels.
        img_also: how queries are drawn; None gives none.
        rng: draws them; only they need it.
    """
    occupied, known = voxelise(sweeps, grid)
    targets = {
        'occupied': torch.from_numpy(occupied),
        'known': torch.tensor(known),
        'dropped': torch.tensor(sum(sweep.dropped for sweep in sweeps), dtype=torch.int64),
    }
    if img_also is None:
        return targets
    assert rng is not None
    queries = draw_queries(sweeps, grid, img_also, rng)
    return targets | {
        'queries_m': torch.from_numpy(queries.at_m),
        'query_occupied': torch.from_numpy(queries.occupied),
        'query_intensity': torch.from_numpy(queries.intensity),
    }


def voxelise(sweeps: Sequence[Sweep], grid: BevGrid) -> tuple[Mask, bool]:
    """Return the voxels (z, y, x) with at least one point in them, and whether there is any; all
    others count as empty, seen or not (Sirko-Galouchenko et al., "OccFeat", 2024, section 3.2).
    """
    occupied = np.zeros(grid.shape, bool)
    for sweep in sweeps:
        index, inside = grid.xyz_to_index(sweep.points_m.astype(np.float64))
        occupied[tuple(index[inside].T)] = True
    return occupied, bool(occupied.any())


@dataclass(frozen=True, eq=False, kw_only=True)
class Queries:
    """Points in the ego frame of which is known whether they lie inside something.

    Attributes:
        at_m: (q, 3) float32.
        occupied: (q,) int8: `INSIDE`, `FREE` or `NO_QUERY`.
        intensity: (q,) float32 of the lidar point that it lies at, in the sensor's unit; NaN where
            it lies at none, or the sensor gives none.
    """

    at_m: npt.NDArray[np.float32]
    occupied: npt.NDArray[np.int8]
    intensity: npt.NDArray[np.float32]


def draw_queries(
    sweeps: Sequence[Sweep], grid: BevGrid, config: ImgAlsoConfig, rng: np.random.Generator
) -> Queries:
    """Draw queries along the rays of a sample's lidars (Boulch et al., "ALSO", CVPR 2023, section
    3.1, as its authors' code does).

    With n of them, u uniform in 0..1, a lidar point p and the unit direction d from its sensor o
    to it: n - 2 * (n // 3) lie just behind the surface, p + near * u * d; n // 3 just before it,
    p - near * u * d; and n // 3 on the free way to it, o + u * (p - o). Points above or below the
    grid, but not beside it, take part; each is drawn at most once for each kind where they are
    enough. Without a point, all are `NO_QUERY`.
    """
    n = config.queries
    points, origins, intensity = _thinned(sweeps, grid, config.decimate_m)
    if not len(points):
        return Queries(
            at_m=np.zeros((n, 3), np.float32),
            occupied=np.full(n, NO_QUERY, np.int8),
            intensity=np.full(n, np.nan, np.float32),
        )
    third = n // 3
    counts = (n - 2 * third, third, third)
    chosen = np.concatenate(
        [rng.choice(len(points), count, replace=count > len(points)) for count in counts]
    )
    kind = np.repeat([0, 1, 2], counts)
    u = rng.random(n)
    p, o = points[chosen], origins[chosen]
    away = p - o
    range_m = np.linalg.norm(away, axis=1)
    # How far along the ray from the sensor each lies: no farther before a point than the sensor.
    near_m = config.near_m * u
    at_m = np.choose(kind, [range_m + near_m, np.maximum(range_m - near_m, 0), range_m * u])
    unit = away / np.maximum(range_m, 1e-9)[:, None]
    return Queries(
        at_m=(o + unit * at_m[:, None]).astype(np.float32),
        occupied=np.where(kind == 0, INSIDE, FREE).astype(np.int8),
        intensity=np.where(kind == 2, np.nan, intensity[chosen]).astype(np.float32),
    )


def _thinned(
    sweeps: Sequence[Sweep], grid: BevGrid, decimate_m: float
) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return points (n, 3) over or under the grid, where their sensors were (n, 3), and their
    intensity (n,): of the points in a cube of `decimate_m` the first.
    """
    points = np.concatenate([np.empty((0, 3)), *(sweep.points_m for sweep in sweeps)])
    origins = np.concatenate(
        [np.empty((0, 3)), *(np.tile(s.origin_m, (len(s.points_m), 1)) for s in sweeps)]
    )
    intensity = np.concatenate([np.empty(0, np.float32), *(s.intensity for s in sweeps)])
    (x0, x1), (y0, y1) = grid.x_range_m, grid.y_range_m
    x, y, _ = points.T
    kept: Index = np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    if decimate_m and len(kept):
        kept = kept[_first_per_cube(points[kept], decimate_m)]
    return points[kept], origins[kept], intensity[kept]


def _first_per_cube(points: AnyArray, edge_m: float) -> Index:
    """Return which points (n, 3) are the first in their cube, in order."""
    half = 2 ** (_KEY_BITS - 1)
    cube = np.floor(points / edge_m).clip(-half, half - 1).astype(np.int64) + half
    key = (cube[:, 0] << 2 * _KEY_BITS) | (cube[:, 1] << _KEY_BITS) | cube[:, 2]
    first: Index = np.sort(np.unique(key, return_index=True)[1])
    return first
