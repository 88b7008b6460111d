"""What a synthetic drive is made from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.synthetic.rig import FULL_SIZE_PX, Rig, nuscenes_rig
from bev_training.synthetic.world import World, make_world

FORMAT = 1  # of the files; raised also when the same settings give another drive
MAX_JITTER_S = 0.005


@dataclass(frozen=True, kw_only=True)
class DriveConfig:
    """What a drive is made from.

    Attributes:
        seconds: its length.
        seed: of the street, the traffic and the motion.
        speed_mps: of the vehicle.
        size_px: (width, height) of the images.
        raw: sensor_msgs/Image instead of JPEG.
        jitter_s: largest random deviation of an exposure.
        grid: of the truth.
    """

    seconds: float = 8.0
    seed: int = 0
    speed_mps: float = 8.0
    size_px: tuple[int, int] = FULL_SIZE_PX
    raw: bool = False
    jitter_s: float = 0.0
    grid: BevGrid = field(default_factory=BevGrid)

    def __post_init__(self) -> None:
        """Check what `make_world` and `nuscenes_rig` do not."""
        for name in ('seconds', 'speed_mps', 'jitter_s'):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f'{name} is {getattr(self, name)}; it must be a finite number')
        if not 0 <= self.jitter_s <= MAX_JITTER_S:
            raise ConfigError(f'jitter_s is {self.jitter_s:g}; it must lie in [0, {MAX_JITTER_S}]')

    @property
    def epoch_ns(self) -> int:
        """Stamp at which the drive starts: fixed, and another one for every seed."""
        return (1_700_000_000 + 3600 * (self.seed % 100_000)) * 1_000_000_000

    def stamp_ns(self, time_s: float) -> int:
        """Return the stamp of a time since the start of the drive."""
        return self.epoch_ns + round(time_s * 1e9)

    def world(self) -> World:
        """Return the street of this drive."""
        return make_world(seed=self.seed, seconds=self.seconds, speed_mps=self.speed_mps)

    def rig(self) -> Rig:
        """Return the sensors of this drive."""
        return nuscenes_rig(self.size_px)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as drive.json holds them."""
        return {
            'format': FORMAT,
            'rig': 'nuscenes',
            'settings': json.loads(json.dumps(asdict(self))),
        }

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> DriveConfig:
        """Return the settings that drive.json holds; undoes `as_json`."""
        settings = dict(described['settings'])
        grid: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings['grid'].items()
        }
        settings['size_px'] = tuple(settings['size_px'])
        settings['grid'] = BevGrid(**grid)
        return cls(**settings)

    def is_of(self, drive: Path) -> bool:
        """Whether a folder holds a whole drive that was made from these settings."""
        try:
            found = json.loads((drive / 'drive.json').read_text())
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and all(
            found.get(k) == v for k, v in self.as_json().items()
        )
