"""Write the golden files anew: python -m test.golden.regenerate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from bev_perception.model.bev_model import BevModel
from bev_perception.occupancy import to_cells
from bev_perception.predictor import Predictor, Probabilities
from bev_perception.views import ViewSet

from ..factories import STAMP_NS, make_model, make_rig, make_view, make_view_set

FOLDER = Path(__file__).resolve().parent
GRID_FILE = FOLDER / 'grid_3x4.bin'
PREDICTION_FILE = FOLDER / 'tiny_prediction.npz'
NAMES = ('front_left', 'front')


def grid_bytes() -> bytes:
    """Cells of 3 rows and 4 columns as the bytes of a message's `data`."""
    probability = np.array(
        [[0, 0.25, 0.5, 1], [0.994, 0.985, np.nan, 0.1], [0.7, 0.3, 0.004, 0.996]], np.float32
    )
    valid = np.ones((3, 4), bool)
    valid[2, :2] = False
    return to_cells(probability, valid).flatten().tobytes()


def inputs() -> dict[str, np.ndarray]:
    """Images and poses of a small view set: two cameras of the tiny rig."""
    views = make_view_set(make_rig(NAMES)).views
    return {
        'images': np.stack([view.image for view in views]),
        'ego_T_cam': np.stack([view.ego_T_cam for view in views]),
    }


def model() -> BevModel:
    """A network whose weights depend on numpy's generator and their names only."""
    made = make_model()
    rng = np.random.default_rng(0)
    weights = {}
    for name, tensor in sorted(made.state_dict().items()):
        if name.endswith('num_batches_tracked'):
            weights[name] = tensor
        elif name.endswith('running_var'):
            weights[name] = torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape))
        else:
            scale = 1 / np.sqrt(max(tensor[0].numel(), 1)) if tensor.ndim > 1 else 0.5
            weights[name] = torch.from_numpy(rng.normal(0, scale, tensor.shape))
    made.load_state_dict(weights)
    return made


def prediction(stored: Mapping[str, np.ndarray]) -> Probabilities:
    """What the network says of the stored view set."""
    views = tuple(
        make_view(image=image, name=name, ego_T_cam=ego_T_cam)
        for name, image, ego_T_cam in zip(
            NAMES, stored['images'], stored['ego_T_cam'], strict=True
        )
    )
    view_set = ViewSet(stamp_ns=STAMP_NS, views=views)
    return Predictor(model(), device='cpu')(view_set)


def main() -> None:
    GRID_FILE.write_bytes(grid_bytes())
    stored = inputs()
    result = prediction(stored)
    np.savez_compressed(PREDICTION_FILE, **stored, classes=result.classes, valid=result.valid)


if __name__ == '__main__':
    main()
