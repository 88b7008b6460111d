"""Reads the truth that lies beside a synthetic drive's bag."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from bev_perception.errors import BagError
from bev_perception.shapes import AnyArray, Array, Mask
from bev_training.synthetic.settings import FORMAT, DriveConfig
from bev_training.synthetic.truth import class_grids
from bev_training.synthetic.world import World


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """What is where, during a drive.

    Attributes:
        stamps_ns: (T,) of the front camera's images.
        classes: names along axis C.
        grids: (T, C, Y, X) bool, gravity-aligned ego frame at the stamp.
        odom_T_base: (T, 4, 4).
        vehicles: (T, V, 7) boxes x, y, z, length, width, height, yaw in odom.
        config: of the drive.
    """

    stamps_ns: AnyArray
    classes: tuple[str, ...]
    grids: Mask
    odom_T_base: Array
    vehicles: Array
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
            world = _world_of(self.config)
            grids = class_grids(world, self.config.grid, world.odom_T_base(time_s), time_s) > 0
        return np.asarray(grids[[self.classes.index(name) for name in names]])


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
        with np.load(drive / 'truth.npz') as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise BagError(f'{drive} is no synthetic drive: {error}') from error
    found = described.get('format') if isinstance(described, dict) else None
    if found != FORMAT:
        raise BagError(f'{drive}/drive.json: format is {found}, not {FORMAT}')
    return Truth(
        stamps_ns=arrays['stamps_ns'],
        classes=tuple(str(name) for name in arrays['classes']),
        grids=arrays['grids'] > 0,
        odom_T_base=arrays['odom_T_base'],
        vehicles=arrays['vehicles'],
        config=DriveConfig.from_json(described),
    )
