"""How alike the features of voxels are to those of a chosen one, and which one that is.

Sirko-Galouchenko et al., "OccFeat", 2024, figure 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.errors import BevError
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Array, Index, Points3
from bev_training.qualitative.color_mapping import unit

_NEAR_M = 2.0  # no voxel that was asked for lies farther from one that there is
_ROAD_AT_M = np.array((8.0, 0.0, 0.0))  # ahead, on the ground
# Of what may be a car, seen from above: how high it reaches, and how long it is.
_TOP_M, _LENGTH_M = (0.6, 2.2), (1.5, 7.0)
_OWN_M = 3.0  # nearer things may be the vehicle itself


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """The voxel that others are compared with.

    Attributes:
        name: what it is, for people.
        row: its number among the voxels of its sample.
        center_m: (3,) ego frame of that sample.
        feature: (c,).
    """

    name: str
    row: int
    center_m: Array
    feature: AnyArray


def similarity(features: AnyArray, chosen: AnyArray) -> Array:
    """Return the cosine (n,) between features (n, c) and one of them (c,)."""
    return np.asarray(unit(features) @ unit(chosen))


def similarity_colors(cosine: AnyArray, low: float) -> npt.NDArray[np.uint8]:
    """Return RGB (n, 3) of cosines (n,), from dark at `low` to bright at 1."""
    share = np.clip((np.asarray(cosine) - low) / max(1 - low, 1e-6), 0, 1)
    shade = np.rint(share * 255).astype(np.uint8)[:, None]
    if not len(shade):
        return np.empty((0, 3), np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(shade, cv2.COLORMAP_INFERNO)[:, 0, ::-1])


def nearest_voxel(centers_m: Points3, at_m: Sequence[float]) -> int:
    """Return the number of the voxel whose centre is nearest to a place.

    Args:
        centers_m: (n, 3) of the voxels, ego frame.
        at_m: x, y and z, likewise.

    Raises:
        BevError: all of them are more than 2 m away.
    """
    asked = ','.join(f'{value:g}' for value in at_m)
    if not len(centers_m):
        raise BevError(f'voxel {asked}: the sample has no occupied voxel at all')
    distance = np.linalg.norm(centers_m - at_m, axis=1)
    row = int(distance.argmin())
    if distance[row] > _NEAR_M:
        found = ','.join(f'{value:g}' for value in centers_m[row])
        raise BevError(
            f'voxel {asked}: no occupied one that a camera sees within {_NEAR_M:g} m; the nearest '
            f'lies at {found}, {distance[row]:.1f} m away'
        )
    return row


def road_voxel(centers_m: Points3) -> int:
    """Return the number of the voxel nearest to the ground 8 m ahead; there must be one."""
    return int(np.linalg.norm(centers_m - _ROAD_AT_M, axis=1).argmin())


def car_voxel(index_zyx: Index, grid: BevGrid) -> int | None:
    """Return the number of a voxel on what may well be a car; None where nothing is like one.

    Columns of the grid whose highest voxel has its centre between 0.6 and 2.2 m are what stands
    on the ground and ends below trees and buildings. Those that touch, also at corners, are one
    thing. Of the things that are 1.5 to 7 m long (the longer side seen from above) the one nearest
    to the vehicle is taken, beyond 3 m; of it the highest voxel of the column nearest to its
    middle.

    Args:
        index_zyx: (n, 3) of the voxels in the grid.
        grid: where they are.
    """
    if not len(index_zyx):
        return None
    _, rows, columns = grid.shape
    z, y, x = index_zyx.T
    top = np.full((rows, columns), -1)
    np.maximum.at(top, (y, x), z)
    height_m = grid.z_range_m[0] + (top + 0.5) * grid.z_cell_m
    stands = (top >= 0) & (height_m >= _TOP_M[0]) & (height_m <= _TOP_M[1])
    count, labels = cv2.connectedComponents(stands.astype(np.uint8), connectivity=8)
    centers = grid.cell_centers()
    best: tuple[float, int] | None = None
    for label in range(1, count):
        inside = centers[labels == label]
        length_m = float(np.ptp(inside, axis=0).max()) + grid.cell_m
        middle = inside.mean(0)
        distance_m = float(np.linalg.norm(middle))
        fits = _LENGTH_M[0] <= length_m <= _LENGTH_M[1] and distance_m > _OWN_M
        if fits and (best is None or distance_m < best[0]):
            best = distance_m, label
    if best is None:
        return None
    cells = np.argwhere(labels == best[1])
    inside = centers[labels == best[1]]
    at_y, at_x = cells[np.linalg.norm(inside - inside.mean(0), axis=1).argmin()]
    chosen = (y == at_y) & (x == at_x) & (z == top[at_y, at_x])
    return int(np.flatnonzero(chosen)[0])
