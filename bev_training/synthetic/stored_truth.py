"""Reads the truth that lies beside a synthetic drive's bag.

OUT/drive.json                            the settings that made it
OUT/truth.npz                             class grids and boxes at every frame
OUT/truth/semantics/CAMERA/STAMP_NS.png   8 bit, positions in `categories.SEMANTICS`
OUT/truth/depth/CAMERA/STAMP_NS.png       16 bit, metres along the optical axis x 256
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from bev_perception.errors import BagError, ConfigError
from bev_perception.shapes import AnyArray, Array, Index, Mask, Rigid
from bev_training.synthetic.settings import DEPTH_PER_M, FORMAT, DriveConfig
from bev_training.synthetic.truth import class_grids
from bev_training.synthetic.world import Boxes, World


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """What is where, during a drive of T frames.

    Attributes:
        stamps_ns: (T,) of the reference camera's images: front, or the rig's first.
        classes: names along axis C.
        grids: (T, C, Y, X) bool, gravity-aligned ego frame at the stamp.
        odom_T_base: (T, 4, 4).
        box_frame: (N,) to which frame a box belongs, rising.
        box_actor: (N,) identifies an object through a drive.
        box_category: (N,) positions in `categories.OBJECTS`.
        box_pose: (N, 4, 4) map_T_box of the box's middle.
        box_size_m: (N, 3) length, width, height.
        box_velocity_mps: (N, 3) in the map.
        box_visibility: (N,) 0..1, see `visibility`.
        box_parked: (N,) bool.
        weather: of the drive, one of `conditions.WEATHERS`.
        config: of the drive.
    """

    stamps_ns: AnyArray
    classes: tuple[str, ...]
    grids: Mask
    odom_T_base: Rigid
    box_frame: Index
    box_actor: Index
    box_category: Index
    box_pose: Rigid
    box_size_m: Array
    box_velocity_mps: Array
    box_visibility: Array
    box_parked: Mask
    weather: str
    config: DriveConfig

    def at(self, stamp_ns: int, classes: Sequence[str] | None = None) -> Mask:
        """Return (C, Y, X) at any stamp of the drive: stored, or made anew from the settings.

        Raises:
            BagError: the stamp lies outside of the drive, or a class is unknown.
        """
        names = self.classes if classes is None else tuple(classes)
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise BagError(f'truth has no class {unknown[0]!r}; it has {list(self.classes)}')
        at = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if at < len(self.stamps_ns) and self.stamps_ns[at] == stamp_ns:
            grids = self.grids[at]
        else:
            time_s = (stamp_ns - self.config.epoch_ns) / 1e9
            if not -1 <= time_s <= self.config.seconds + 1:
                raise BagError(
                    f'stamp {stamp_ns} ns is {time_s:.3f} s after the start of the drive'
                )
            grids = class_grids(_world_of(self.config), self.config.grid, time_s) > 0
        return np.asarray(grids[[self.classes.index(name) for name in names]])

    def boxes(self, frame: int) -> Boxes:
        """Return the boxes of a frame, a position in `stamps_ns`, negative from the end."""
        own = self._rows(frame)
        return Boxes(
            actor=self.box_actor[own],
            category=self.box_category[own],
            map_T_box=self.box_pose[own],
            size_m=self.box_size_m[own],
            velocity_mps=self.box_velocity_mps[own],
            parked=self.box_parked[own],
        )

    def visibility(self, frame: int) -> Array:
        """Return (B,) 0..1 of the boxes of a frame."""
        return self.box_visibility[self._rows(frame)]

    def _rows(self, frame: int) -> slice:
        number = range(len(self.stamps_ns))[frame]
        first, last = np.searchsorted(self.box_frame, [number, number + 1])
        return slice(int(first), int(last))


@lru_cache(maxsize=2)
def _world_of(config: DriveConfig) -> World:
    return config.world()


def load_truth(drive: Path) -> Truth:
    """Read the truth of a drive.

    Raises:
        BagError: it is missing, or of another version of this generator.
    """
    try:
        described = json.loads((drive / 'drive.json').read_text())
        found = described.get('format') if isinstance(described, dict) else None
        if found != FORMAT:
            raise BagError(f'{drive}/drive.json: format is {found}, not {FORMAT}')
        with np.load(drive / 'truth.npz') as data:
            arrays = {name: data[name] for name in data.files}
        return Truth(
            stamps_ns=arrays['stamps_ns'],
            classes=tuple(str(name) for name in arrays['classes']),
            grids=arrays['grids'] > 0,
            odom_T_base=arrays['odom_T_base'],
            box_frame=arrays['box_frame'].astype(np.int64),
            box_actor=arrays['box_actor'].astype(np.int64),
            box_category=arrays['box_category'].astype(np.int64),
            box_pose=arrays['box_pose'],
            box_size_m=arrays['box_size_m'],
            box_velocity_mps=arrays['box_velocity_mps'],
            box_visibility=arrays['box_visibility'].astype(float),
            box_parked=arrays['box_parked'],
            weather=str(described['weather']),
            config=DriveConfig.from_json(described),
        )
    except ConfigError as error:
        raise BagError(f'{drive}: {error}') from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise BagError(f'{drive} is no synthetic drive: {error}') from error
    except KeyError as error:
        raise BagError(f'{drive} is no whole synthetic drive: {error} is missing') from error


def image_truth(drive: Path, camera: str, stamp_ns: int) -> tuple[AnyArray, AnyArray]:
    """Return the truth of an image.

    Args:
        drive: folder of the drive.
        camera: name.
        stamp_ns: of the image.

    Returns:
        (H, W) uint8, positions in `categories.SEMANTICS` or UNSEEN, and (H, W) float32 metres
        along the optical axis, 0 where there is none (see `View`) and beyond 256 m.

    Raises:
        BagError: a file is missing or damaged.
    """
    semantics, depth = (
        _png(drive / 'truth' / kind / camera / f'{stamp_ns}.png', dtype)
        for kind, dtype in (('semantics', np.uint8), ('depth', np.uint16))
    )
    return semantics, depth.astype(np.float32) / np.float32(DEPTH_PER_M)


def encode_depth(depth_m: AnyArray) -> AnyArray:
    """Return depth as uint16, DEPTH_PER_M per metre; beyond its range it is 0, as the sky."""
    steps = np.rint(np.nan_to_num(np.asarray(depth_m, np.float64), posinf=0.0) * DEPTH_PER_M)
    return np.where((steps > 0) & (steps <= 65535), steps, 0).astype(np.uint16)


def _png(path: Path, dtype: type) -> AnyArray:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror}') from error
    if image is None or image.dtype != dtype or image.ndim != 2:
        raise BagError(f'{path} is no picture of one {np.dtype(dtype).name} channel')
    return np.asarray(image)
