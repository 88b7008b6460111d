"""Names of array kinds, and the legend of their axes.

    b batch   n camera   c channel   h w image row and column   z y x grid   p point

Arrays of the calibration side (transforms, cameras, grids) are numpy float64; images are uint8
RGB; arrays inside the model are torch float32. `(..., 3)` means any leading axes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]  # any shape
Rigid: TypeAlias = npt.NDArray[np.float64]  # (..., 4, 4), dst_T_src
Points3: TypeAlias = npt.NDArray[np.float64]  # (..., 3) metres, the frame is in the name
Pixels: TypeAlias = npt.NDArray[np.float64]  # (..., 2) u right, v down; integers are pixel centres
Mask: TypeAlias = npt.NDArray[np.bool_]
Index: TypeAlias = npt.NDArray[np.int64]
ImageRgb: TypeAlias = npt.NDArray[np.uint8]  # (h, w, 3)
Cells: TypeAlias = npt.NDArray[np.int8]  # (..., y, x): -1 unknown, 0..100 percent, never 99
AnyArray: TypeAlias = npt.NDArray[Any]
