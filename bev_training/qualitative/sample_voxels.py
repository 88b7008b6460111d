"""What there is to draw of one sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bev_perception.geometry.grid import BevGrid
from bev_perception.preprocess import to_pinhole
from bev_perception.shapes import AnyArray, Array, Index, Points3
from bev_perception.views import CameraView, ViewSet


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleVoxels:
    """The occupied voxels of a sample that a camera sees, and their features.

    Attributes:
        key: names the sample.
        view_set: its images.
        grid: of the voxels.
        index_zyx: (n, 3) of the voxels in the grid.
        features: (n, c) that the network predicts there.
        probability: (n,) that it predicts for their occupancy.
        points_m: (p, 3) the lidar's points, ego frame.
        occupancy_iou: of all predicted voxels with the lidar's; None without a lidar.
        taught: (n, c) what the teacher says there; None where nobody asked it.
    """

    key: str
    view_set: ViewSet
    grid: BevGrid
    index_zyx: Index
    features: AnyArray
    probability: AnyArray
    points_m: npt.NDArray[np.float32]
    occupancy_iou: float | None = None
    taught: AnyArray | None = None

    @property
    def centers_m(self) -> Points3:
        """Centres of the voxels, (n, 3), ego frame."""
        return self.grid.index_to_xyz(self.index_zyx)

    @property
    def size_m(self) -> Array:
        """Edges of a voxel along x, y and z."""
        return np.array((self.grid.cell_m, self.grid.cell_m, self.grid.z_cell_m))


def flat_views(view_set: ViewSet, width_px: int) -> tuple[CameraView, ...]:
    """Return the views as pinhole images of a width, each of its own proportions."""
    found = []
    for view in view_set.views:
        width, height = view.camera.size_px
        image, camera, ego_T_cam = to_pinhole(view, (width_px, round(height * width_px / width)))
        found.append(
            CameraView(
                name=view.name,
                image=image,
                camera=camera,
                ego_T_cam=ego_T_cam,
                stamp_ns=view.stamp_ns,
            )
        )
    return tuple(found)
