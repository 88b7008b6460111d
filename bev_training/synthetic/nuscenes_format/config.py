"""What a data set in nuScenes' format consists of: settings, and the plan of its scenes.

Nothing of nuScenes is contained in it; only names that its devkit insists on are taken over: the
four locations of maps, and the ten names of scenes of `v1.0-mini`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.errors import ConfigError
from bev_training.synthetic.limits import check_drive, check_seed
from bev_training.synthetic.rig import Lidar, Rig, check_size_px, nuscenes_rig

LOCATIONS = (
    'singapore-onenorth', 'singapore-hollandvillage', 'singapore-queenstown', 'boston-seaport',
)  # fmt: skip
MINI_TRAIN = (
    'scene-0061', 'scene-0553', 'scene-0655', 'scene-0757', 'scene-0796', 'scene-1077',
    'scene-1094', 'scene-1100',
)  # fmt: skip
MINI_VAL = ('scene-0103', 'scene-0916')
MAX_SCENES = 999
KEY_HZ = 2
# The devkit reads its own lists for its own names of splits, so ours need other names.
TRAIN, VAL = 'synthetic_train', 'synthetic_val'
EPOCH_US = 1_767_225_600_000_000  # 2026-01-01; each scene begins an hour after the one before
SCENE_GAP_US = 3_600_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class NuscenesConfig:
    """Settings of a data set.

    Attributes:
        scenes: how many; up to 10 make a `v1.0-mini`, more make a `v1.0-trainval`.
        seconds: length of a scene.
        seed: of every random choice.
        speed_mps: wanted speed of the vehicle.
        size_px: (width, height) of images of the standard rig; ignored with a `rig`.
        weather: one of `conditions.WEATHERS`, or 'any'.
        rig: the sensors; None takes nuScenes-like ones.
        towns: 1 to 4; with two or more, the validation scenes are in a town of their own.
        sweeps: also write what lies between key frames.
    """

    scenes: int = 10
    seconds: float = 20.0
    seed: int = 0
    speed_mps: float = 8.0
    size_px: tuple[int, int] = (800, 450)
    weather: str = 'any'
    rig: Rig | None = None
    towns: int = 4
    sweeps: bool = True

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a setting is out of its range, or the rig cannot be described in the
                format.
        """
        if not 1 <= self.scenes <= MAX_SCENES:
            raise ConfigError(f'scenes is {self.scenes}; it must be 1 to {MAX_SCENES}')
        if not 1 <= self.towns <= len(LOCATIONS):
            raise ConfigError(f'towns is {self.towns}; it must be 1 to {len(LOCATIONS)}')
        check_seed('seed', self.seed)
        check_drive(seconds=self.seconds, speed_mps=self.speed_mps, weather=self.weather)
        if self.rig is None:
            check_size_px(self.size_px)
        else:
            _check_rig(self.rig)

    def rig_or_default(self) -> Rig:
        """Return the sensors."""
        return nuscenes_rig(self.size_px) if self.rig is None else self.rig

    @property
    def version(self) -> str:
        """Name of the folder of tables."""
        return 'v1.0-mini' if self.scenes <= len(MINI_TRAIN + MINI_VAL) else 'v1.0-trainval'


@dataclass(frozen=True, kw_only=True)
class NuscenesSummary:
    """What was written, in numbers."""

    path: Path
    version: str
    scenes: int
    samples: int
    images: int
    sweeps: int
    annotations: int
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the values for a JSON file."""
        return {**asdict(self), 'path': str(self.path)}


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """A scene before it is made.

    Attributes:
        number: from 0.
        name: in the format.
        split: TRAIN or VAL.
        town: number of the town, from 0.
        seed: of the drive.
        town_seed: of the town.
        draws_map: this scene writes the map of its town.
        start_us: the time 0 of the drive.
    """

    number: int
    name: str
    split: str
    town: int
    seed: int
    town_seed: int
    draws_map: bool
    start_us: int

    @property
    def location(self) -> str:
        """Name of the map."""
        return LOCATIONS[self.town]


def plan_scenes(config: NuscenesConfig) -> tuple[ScenePlan, ...]:
    """Return the scenes, training first; a fifth of them (at least one of two) validates.

    Validation takes the last town alone, so that it happens where no training scene was.
    """
    validating = 0 if config.scenes < 2 else max(1, config.scenes // 5)
    training = config.scenes - validating
    if config.version == 'v1.0-mini':
        names = (*MINI_TRAIN[:training], *MINI_VAL[:validating])
    else:
        names = tuple(f'scene-{9001 + number}' for number in range(config.scenes))
    towns = [
        config.towns - 1 if number >= training else number % max(config.towns - 1, 1)
        for number in range(config.scenes)
    ]
    return tuple(
        ScenePlan(
            number=number,
            name=name,
            split=VAL if number >= training else TRAIN,
            town=town,
            seed=_derived(config.seed, 0, number),
            town_seed=_derived(config.seed, 1, town),
            draws_map=town not in towns[:number],
            start_us=EPOCH_US + number * SCENE_GAP_US,
        )
        for number, (name, town) in enumerate(zip(names, towns, strict=True))
    )


def lidar_of(rig: Rig) -> Lidar:
    """Return the lidar of a rig that was checked."""
    if rig.lidar is None:
        raise ConfigError(f'rig {rig.name!r} has no lidar; nuScenes needs one')
    return rig.lidar


def _check_rig(rig: Rig) -> None:
    lidar = lidar_of(rig)
    if lidar.hz < KEY_HZ or rig.camera_hz < KEY_HZ:
        raise ConfigError(
            f'rig {rig.name!r} has camera_hz {rig.camera_hz} and lidar hz {lidar.hz}; '
            f'key frames need at least {KEY_HZ}'
        )
    for each in rig.cameras:
        if not each.camera.is_pinhole:
            raise ConfigError(
                f'camera {each.name!r} of rig {rig.name!r} is {each.camera.model} with '
                'distortion; nuScenes stores undistorted images'
            )


def _derived(seed: int, *which: int) -> int:
    return int(np.random.SeedSequence((seed, *which)).generate_state(1)[0])
