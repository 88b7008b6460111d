"""Are the labels of a frame what they should be, before they are written?"""

from __future__ import annotations

import numpy as np

from bev_training.data.sample import GroundBoxes, LabelGrids


def grid_problem(grids: LabelGrids, classes: tuple[str, ...], size: tuple[int, int]) -> str | None:
    """Return what is wrong with the grids of a frame."""
    if grids.classes != classes:
        return f'classes are {list(grids.classes)}, not {list(classes)}'
    shapes = {'positive': (len(classes), *size), 'hidden': (len(classes), *size), 'known': size}
    for name, shape in shapes.items():
        mask = getattr(grids, name)
        if mask.shape != shape or mask.dtype != bool:
            return f'{name} is {mask.dtype} {mask.shape}; it must be bool {shape}'
    if (grids.hidden & ~grids.positive).any():
        return 'hidden has cells that are not positive'
    return None


def box_problem(boxes: GroundBoxes) -> str | None:
    """Return what is wrong with the boxes of a frame."""
    count = len(boxes.names)
    shapes: dict[str, tuple[int, ...]] = {
        'center_m': (count, 3),
        'size_m': (count, 3),
        'yaw_rad': (count,),
        'visibility': (count,),
        'lidar_points': (count,),
    }
    for name, shape in shapes.items():
        values = getattr(boxes, name)
        if values.shape != shape:
            return f'{name} of boxes is {values.shape}; it must be {shape}'
        if not np.isfinite(values).all():
            return f'{name} of boxes is not finite'
    if (boxes.size_m <= 0).any():
        return 'size_m of boxes has a side that is not above zero'
    return None
