"""What a synthetic drive is made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.synthetic.limits import check_drive, check_seed
from bev_training.synthetic.rig import Rig, nuscenes_rig
from bev_training.synthetic.rig_yaml import rig_as_dict, rig_from_dict
from bev_training.synthetic.world import World

FORMAT = 2  # of the files; raised also when the same settings give another drive
MAX_JITTER_S = 0.005
DEPTH_PER_M = 256  # of the 16-bit depth images, which reach to 256 m
IMAGE_TRUTH = ('semantics', 'depth')  # folders
DEFAULT_SIZE_PX = (800, 450)


@dataclass(frozen=True, eq=False, kw_only=True)
class DriveConfig:
    """What a drive is made from.

    Attributes:
        seconds: its length.
        seed: of traffic, motion and weather, and of the town unless `town_seed` is given.
        speed_mps: of the vehicle, where curves allow it; 0 stands.
        size_px: (width, height) of the default rig's images; a given rig has its own.
        raw: sensor_msgs/Image instead of JPEG.
        jitter_s: largest random deviation of an exposure.
        grid: of the truth.
        weather: one of `conditions.WEATHERS`, or 'any'.
        town_seed: of the town; None takes the drive's seed.
        rig: the sensors; None takes `nuscenes_rig(size_px)`.
        image_truth: whether semantics and depth of every image are written.
    """

    seconds: float = 8.0
    seed: int = 0
    speed_mps: float = 8.0
    size_px: tuple[int, int] = DEFAULT_SIZE_PX
    raw: bool = False
    jitter_s: float = 0.0
    grid: BevGrid = field(default_factory=BevGrid)
    weather: str = 'any'
    town_seed: int | None = None
    rig: Rig | None = None
    image_truth: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_drive(seconds=self.seconds, speed_mps=self.speed_mps, weather=self.weather)
        check_seed('seed', self.seed)
        if self.town_seed is not None:
            check_seed('town_seed', self.town_seed)
        if not 0 <= self.jitter_s <= MAX_JITTER_S:
            raise ConfigError(f'jitter_s is {self.jitter_s:g}; it must lie in [0, {MAX_JITTER_S}]')
        self.rig_or_default()

    @property
    def epoch_ns(self) -> int:
        """Stamp at which the drive starts: fixed, and another one for every seed."""
        return (1_700_000_000 + 3600 * (self.seed % 100_000)) * 1_000_000_000

    def stamp_ns(self, time_s: float) -> int:
        """Return the stamp of a time since the start of the drive."""
        return self.epoch_ns + round(time_s * 1e9)

    def world(self) -> World:
        """Return the town of this drive with everything in it; takes seconds."""
        from bev_training.synthetic.make_world import make_world

        return make_world(
            seed=self.seed,
            seconds=self.seconds,
            speed_mps=self.speed_mps,
            weather=self.weather,
            town_seed=self.town_seed,
            vehicle=self.rig_or_default().vehicle,
        )

    def rig_or_default(self) -> Rig:
        """Return the sensors of this drive."""
        return self.rig or nuscenes_rig(self.size_px)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as drive.json holds them: with the rig in full."""
        settings = {
            'seconds': self.seconds,
            'seed': self.seed,
            'speed_mps': self.speed_mps,
            'size_px': self.size_px,
            'raw': self.raw,
            'jitter_s': self.jitter_s,
            'grid': asdict(self.grid),
            'weather': self.weather,
            'town_seed': self.town_seed,
            'image_truth': self.image_truth,
        }
        described = {
            'format': FORMAT,
            'settings': settings,
            'rig': rig_as_dict(self.rig_or_default()),
        }
        parsed: dict[str, Any] = json.loads(json.dumps(described))
        return parsed

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> DriveConfig:
        """Return the settings that drive.json holds; undoes `as_json`, the rig always given.

        Raises:
            ConfigError: a field is missing, unknown or out of its range.
        """
        try:
            settings = dict(described['settings'])
            grid: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in settings['grid'].items()
            }
            settings['size_px'] = tuple(settings['size_px'])
            settings['grid'] = BevGrid(**grid)
            return cls(**settings, rig=rig_from_dict(described['rig'], 'drive.json'))
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f'drive.json: {type(error).__name__} {error}') from error

    def is_of(self, drive: Path) -> bool:
        """Whether a folder holds a whole drive that was made from these settings."""
        try:
            found = json.loads((drive / 'drive.json').read_text())
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and all(
            found.get(k) == v for k, v in self.as_json().items()
        )
