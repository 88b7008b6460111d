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

import cv2
import numpy as np

from bev_perception.errors import BagError, ConfigError
from bev_perception.shapes import AnyArray, Array, Index, Mask, Rigid
from bev_training.synthetic.categories import OBJECTS
from bev_training.synthetic.conditions import WEATHERS
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
        BagError: it is missing, damaged or of another version of this generator.
    """
    try:
        described = json.loads((drive / 'drive.json').read_text())
    except FileNotFoundError as error:
        raise BagError(f'{drive} is no synthetic drive: drive.json is missing') from error
    except (OSError, ValueError, RecursionError) as error:
        raise BagError(f'{drive} is no synthetic drive: drive.json: {error}') from error
    found = described.get('format') if isinstance(described, dict) else None
    if found != FORMAT:
        raise BagError(f'{drive}/drive.json: format is {found}, not {FORMAT}')
    weather = described.get('weather')
    if weather not in WEATHERS:
        raise BagError(f'{drive}/drive.json: weather is {weather!r}; known are {list(WEATHERS)}')
    try:
        config = DriveConfig.from_json(described)
    except ConfigError as error:
        raise BagError(f'{drive}/{error}') from error
    try:
        arrays = _arrays(drive / 'truth.npz')
    except FileNotFoundError as error:
        raise BagError(f'{drive} is no whole synthetic drive: truth.npz is missing') from error
    except Exception as error:  # numpy, zipfile, zlib and tokenize have a dozen for such files
        said = ' '.join(str(error).split()) or type(error).__name__
        raise BagError(f'{drive} is no synthetic drive: truth.npz: {said}') from error
    problem = _problem(arrays, config)
    if problem:
        raise BagError(f'{drive} is no synthetic drive: truth.npz: {problem}')
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
        weather=weather,
        config=config,
    )


# Kinds of the arrays, and their axes: T frames, N boxes, C classes, Y and X of the grid.
_ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    'stamps_ns': ('iu', ('T',)),
    'classes': ('U', ('C',)),
    'grids': ('bu', ('T', 'C', 'Y', 'X')),
    'odom_T_base': ('f', ('T', 4, 4)),
    'box_frame': ('iu', ('N',)),
    'box_actor': ('iu', ('N',)),
    'box_category': ('iu', ('N',)),
    'box_pose': ('f', ('N', 4, 4)),
    'box_size_m': ('f', ('N', 3)),
    'box_velocity_mps': ('f', ('N', 3)),
    'box_visibility': ('f', ('N',)),
    'box_parked': ('b', ('N',)),
}


def _arrays(path: Path) -> dict[str, AnyArray]:
    data = np.load(path)
    if not isinstance(data, np.lib.npyio.NpzFile):
        raise ValueError('is no archive of arrays')
    with data:
        return {name: data[name] for name in data.files}


def _problem(arrays: dict[str, AnyArray], config: DriveConfig) -> str:
    """Return what is wrong with stored arrays, or nothing."""
    _, rows, columns = config.grid.shape
    sizes: dict[int | str, int] = {'Y': rows, 'X': columns}
    for name, (kinds, axes) in _ARRAYS.items():
        if name not in arrays:
            return f'{name} is missing'
        array = arrays[name]
        if array.ndim == len(axes):  # the first array that has an axis says how long it is
            sizes = {**dict(zip(axes, array.shape, strict=True)), **sizes}
        wanted = tuple(axis if isinstance(axis, int) else sizes.get(axis) for axis in axes)
        if array.shape != wanted:
            named = ', '.join(map(str, axes))
            return f'{name} has the shape {array.shape}, which is no ({named}) of this drive'
        if array.dtype.kind not in kinds:
            return f'{name} holds {array.dtype}'
        if not sizes['T']:
            return 'stamps_ns is empty'
    frames, category = arrays['box_frame'], arrays['box_category']
    if (np.diff(arrays['stamps_ns']) <= 0).any():
        return 'stamps_ns does not rise'
    if (frames[1:] < frames[:-1]).any() or not ((frames >= 0) & (frames < sizes['T'])).all():
        return f'box_frame does not rise from 0 to {sizes["T"] - 1}'
    if not ((category >= 0) & (category < len(OBJECTS))).all():
        return f'box_category is not within 0 to {len(OBJECTS) - 1}'
    return ''


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
