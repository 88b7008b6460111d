"""ViewSet → class probabilities: the object that the node, the replayer and the tests call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bev_perception.errors import ConfigError
from bev_perception.geometry.camera import Camera
from bev_perception.model.bev_model import BevModel
from bev_perception.model.fold import folded
from bev_perception.model.projection import Projection
from bev_perception.model.tensors import BevInputs, BevMemory
from bev_perception.preprocess import prepare
from bev_perception.shapes import Mask
from bev_perception.views import CameraView, ViewSet

DEVICES = ('auto', 'cpu', 'cuda')
PRECISIONS = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True, eq=False, kw_only=True)
class Probabilities:
    """What the network says of one view set.

    Attributes:
        classes: (class, y, x) float32 in 0..1, in the order of the config's classes.
        valid: (y, x) bool, whether a live camera sees the cell.
        memory: of a temporal network, for the next set; None without, or where the vehicle's pose
            is unknown.
    """

    classes: npt.NDArray[np.float32]
    valid: Mask
    memory: BevMemory | None = None


class Predictor:
    """A network ready to run on one device."""

    def __init__(
        self, model: BevModel, *, device: str = 'auto', precision: str = 'float32'
    ) -> None:
        """Put a copy of the model on its device, made for inference.

        Args:
            model: from `checkpoint.load`.
            device: `auto` takes a GPU where there is one; `cuda:1` and the like work too.
            precision: `float32`, or the faster `bfloat16` / `float16` (autocast).

        Raises:
            ConfigError: the device or the precision is not to be had, or the model has no head.
        """
        if not model.config.classes:
            raise ConfigError(
                'the network was pretrained only and knows no class yet; `bev finetune --init` '
                'makes one of it that does'
            )
        self.device = choose_device(device)
        if precision not in PRECISIONS:
            raise ConfigError(f'precision {precision!r} is unknown; known are {[*PRECISIONS]}')
        if precision == 'float16' and self.device.type == 'cpu':
            raise ConfigError("precision 'float16' needs a GPU; on a CPU take 'bfloat16'")
        self.precision = precision
        self.config = model.config
        self.model = folded(model).to(self.device, memory_format=torch.channels_last)
        self._projection: tuple[bytes, Projection] | None = None
        self.projections_built = 0

    def __call__(self, view_set: ViewSet, memory: BevMemory | None = None) -> Probabilities:
        """Run the network on one view set."""
        return self.predict(prepare(view_set, self.config), memory)

    @torch.inference_mode()
    def predict(self, inputs: BevInputs, memory: BevMemory | None = None) -> Probabilities:
        """Run the network on prepared inputs of one view set.

        Args:
            inputs: from `prepare`.
            memory: of a temporal network: what it returned for the set before, on the same path;
                None where nothing is known. Whether it still holds is the caller's to say.
        """
        projection = self.projection(inputs)
        odom_T_ego = None
        if inputs.odom_T_ego is not None and bool(inputs.odom_T_ego.isfinite().all()):
            odom_T_ego = inputs.odom_T_ego.to(self.device)
        images = inputs.images[0].to(self.device, memory_format=torch.channels_last)
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            prediction = self.model.infer(images, projection, odom_T_ego, memory)
        return Probabilities(
            classes=prediction.logits[0].float().sigmoid().cpu().numpy(),
            valid=prediction.valid[0].cpu().numpy(),
            memory=prediction.memory,
        )

    def projection(self, inputs: BevInputs) -> Projection:
        """Return what depends on these cameras alone; the last one is kept while they stay."""
        parts = (inputs.K[0], inputs.ego_T_cam[0], inputs.live[0])
        key = b''.join(part.cpu().numpy().tobytes() for part in parts)
        if self._projection is None or self._projection[0] != key:
            there = BevInputs(
                images=inputs.images,
                **{n: getattr(inputs, n).to(self.device) for n in ('K', 'ego_T_cam', 'live')},
            )
            self._projection = (key, self.model.project(there))
            self.projections_built += 1
        return self._projection[1]

    def warm_up(self, cameras: int = 6) -> None:
        """Run on black images, so that the first real set is not the slow one.

        A temporal network runs twice: it looks back only where it remembers something.
        """
        width, height = self.config.image_size_px
        camera = Camera(
            K=np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]),
            size_px=(width, height),
        )
        forward = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1.0]])
        views = tuple(
            CameraView(
                name=str(i),
                image=np.zeros((height, width, 3), np.uint8),
                camera=camera,
                ego_T_cam=forward,
                stamp_ns=1,
            )
            for i in range(cameras)
        )
        black = ViewSet(stamp_ns=1, views=views, odom_T_ego=np.eye(4))
        memory = self(black).memory
        if memory is not None:
            self(black, memory)
        self._projection = None


def choose_device(device: str) -> torch.device:
    """Return the device of a name.

    Raises:
        ConfigError: unknown, or no such GPU on this machine.
    """
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'device {device!r} is unknown; take one of {DEVICES}') from error
    if chosen.type not in DEVICES:
        raise ConfigError(f'device {device!r} is not supported; take one of {DEVICES}')
    if chosen.type == 'cuda' and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f'device {device!r}: this machine has {torch.cuda.device_count()} GPUs')
    return chosen
