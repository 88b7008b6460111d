"""What a synthetic drive is made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_training.synthetic.limits import MAX_SEED, check_drive, check_seed
from bev_training.synthetic.rig import Rig, nuscenes_rig
from bev_training.synthetic.rig_yaml import rig_as_dict, rig_from_dict
from bev_training.synthetic.world import World
from bev_training.yaml_fields import Value

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
        """Stamp at which the drive starts: fixed by the seed.

        Seeds that differ by a multiple of 100 000 share it; all others are hours apart.
        """
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
        """Return the settings as drive.json holds them: with the rig in full.

        Its size_px is null where a rig was given, which has its own.
        """
        settings = {
            'seconds': self.seconds,
            'seed': self.seed,
            'speed_mps': self.speed_mps,
            'size_px': None if self.rig else self.size_px,
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
    def from_json(cls, described: Any) -> DriveConfig:
        """Return the settings that drive.json holds; undoes `as_json`.

        Raises:
            ConfigError: a field is missing, unknown or out of its range.
        """
        top = Value(value=described, source='drive.json').items('a mapping of fields')
        for name in ('settings', 'rig'):
            if name not in top:
                raise ConfigError(f'drive.json: {name}: is missing; it is required')
        given = top['settings'].fields(_SETTINGS, _SETTINGS)
        rig: Rig | None = rig_from_dict(top['rig'].value, 'drive.json: rig')
        size_px, town_seed = DEFAULT_SIZE_PX, None
        if given['town_seed'].value is not None:
            town_seed = given['town_seed'].whole(0, MAX_SEED)
        try:
            if given['size_px'].value is not None:
                width, height = given['size_px'].numbers(2)
                size_px = round(width), round(height)
                default = json.loads(json.dumps(rig_as_dict(nuscenes_rig(size_px))))
                if top['rig'].value == default:
                    rig = None
            return cls(
                seconds=given['seconds'].number(),
                seed=given['seed'].whole(0, MAX_SEED),
                speed_mps=given['speed_mps'].number(),
                size_px=size_px,
                raw=_truth_value(given['raw']),
                jitter_s=given['jitter_s'].number(),
                grid=_grid(given['grid']),
                weather=str(given['weather'].value),
                town_seed=town_seed,
                rig=rig,
                image_truth=_truth_value(given['image_truth']),
            )
        except ConfigError as error:
            if str(error).startswith('drive.json'):
                raise
            raise ConfigError(f'drive.json: settings: {error}') from error

    def is_of(self, drive: Path) -> bool:
        """Whether a folder holds a whole drive that was made from these settings."""
        try:
            found = json.loads((drive / 'drive.json').read_text())
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and all(
            found.get(k) == v for k, v in self.as_json().items()
        )


_SETTINGS = tuple(each.name for each in fields(DriveConfig) if each.name != 'rig')


def _truth_value(value: Value) -> bool:
    if not isinstance(value.value, bool):
        raise value.error('true or false')
    return value.value


def _grid(value: Value) -> BevGrid:
    names = tuple(each.name for each in fields(BevGrid))
    given = value.fields(names, names)
    x, y, z = (given[f'{axis}_range_m'].numbers(2) for axis in 'xyz')
    return BevGrid(
        x_range_m=(x[0], x[1]),
        y_range_m=(y[0], y[1]),
        z_range_m=(z[0], z[1]),
        cell_m=given['cell_m'].number(),
        z_cells=given['z_cells'].whole(1, 1000),
    )
