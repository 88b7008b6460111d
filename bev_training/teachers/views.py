"""What a teacher sees of an instant: its clean images as pinhole images of the teacher's size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bev_perception.errors import SyncError
from bev_perception.preprocess import to_pinhole
from bev_perception.shapes import Array
from bev_perception.views import ViewSet


def teacher_decode_px(size_px: tuple[int, int]) -> tuple[int, int]:
    """Return the size (width, height) below which an image must not be decoded for a teacher that
    sees `size_px`: twice that, as for networks (`preprocess.decode_size_px`).
    """
    return 2 * size_px[0], 2 * size_px[1]


def teacher_images(
    view_set: ViewSet, size_px: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], Array, Array]:
    """Return an instant's images as a teacher sees them, in the order of `view_set.views`.

    Args:
        view_set: as it was read: not augmented.
        size_px: (width, height) that the teacher sees.

    Returns:
        (n, height, width, 3) uint8 RGB; K (n, 3, 3) of these images, pixel centres at integers;
        ego_T_cam (n, 4, 4) in the view set's ego frame.

    Raises:
        SyncError: the set holds no image.
    """
    if not view_set.views:
        raise SyncError(f'the set at {view_set.stamp_ns} ns holds no image')
    seen = [to_pinhole(view, size_px) for view in view_set.views]
    images = np.stack([image for image, _, _ in seen])
    K = np.stack([camera.K for _, camera, _ in seen])
    return images, K, np.stack([ego_T_cam for _, _, ego_T_cam in seen])
