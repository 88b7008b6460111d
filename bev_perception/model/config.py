"""What a network is: everything that must agree with its weights, stored inside the checkpoint."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bev_perception.errors import ConfigError
from bev_perception.geometry.grid import BevGrid

# How many values the settings with several have; None: any number.
_LENGTHS = {'classes': None, 'obstacle_classes': None, 'image_size_px': 2, 'mean': 3, 'std': 3}
_CLASS_NAME = re.compile(r'[a-z][a-z0-9_]*')  # it becomes a topic name
BACKBONES = ('tf_efficientnet_lite0', 'efficientnet_b0', 'resnet18', 'resnet50', 'resnet101')


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A SimpleBEV network.

    Attributes:
        classes: class names, in the order of the output's channels.
        obstacle_classes: the classes that a planner must not drive into (`~/grid/combined`).
        grid: the BEV volume, gravity-aligned ego frame.
        image_size_px: (width, height) of the images that the network sees.
        backbone: timm model name.
        channels: width of image features and of the BEV plane.
        center_offset: whether it also tells where objects have their middles (two more heads).
        mean: RGB mean of the normalisation, for pixels in [0, 1].
        std: RGB standard deviation, likewise.
    """

    classes: tuple[str, ...] = ('drivable_area', 'lane_divider', 'vehicle')
    obstacle_classes: tuple[str, ...] = ('vehicle',)
    grid: BevGrid = field(default_factory=BevGrid)
    image_size_px: tuple[int, int] = (400, 224)
    backbone: str = 'tf_efficientnet_lite0'
    channels: int = 64
    center_offset: bool = False
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is out of its range.
        """
        for name, length in _LENGTHS.items():
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or length not in (None, len(values)):
                raise ConfigError(
                    f'{name} is {values!r}; it must be {length or "a list of"} values'
                )
            object.__setattr__(self, name, tuple(values))
        for name in self.classes:
            if not isinstance(name, str) or not _CLASS_NAME.fullmatch(name):
                raise ConfigError(f'classes: {name!r} is no class name (a-z, 0-9, _)')
            if name == 'combined':
                raise ConfigError("classes: 'combined' is the topic of all obstacle classes")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f'classes {self.classes}: at least one, each once')
        unknown = set(self.obstacle_classes) - set(self.classes)
        if unknown:
            raise ConfigError(f'obstacle_classes: {sorted(unknown)} not in classes {self.classes}')
        if self.backbone not in BACKBONES:
            raise ConfigError(f'backbone {self.backbone!r} is unknown; known are {BACKBONES}')
        if any(not _is_whole(side) or side < 32 or side % 8 for side in self.image_size_px):
            raise ConfigError(
                f'image_size_px is {self.image_size_px}; sides must be multiples of 8, at least 32'
            )
        if not isinstance(self.grid, BevGrid) or not _is_whole(self.grid.z_cells):
            raise ConfigError(f'grid is {self.grid}; it must be a BevGrid with whole z_cells')
        if not _is_whole(self.channels) or self.channels < 8 or self.channels % 8:
            raise ConfigError(f'channels is {self.channels}; it must be a multiple of 8')
        if not isinstance(self.center_offset, bool):
            raise ConfigError(f'center_offset is {self.center_offset!r}; it must be true or false')
        if not all(math.isfinite(value) for value in self.mean):
            raise ConfigError(f'mean is {self.mean}; it must be finite')
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ConfigError(f'std is {self.std}; it must be positive')

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from `to_dict`'s values, strictly.

        Raises:
            ConfigError: a key is unknown or a value out of its range.
        """
        settings = _known(cls, values, '')
        settings['grid'] = BevGrid(**_known(BevGrid, settings.get('grid', {}), 'grid.'))
        return cls(**settings)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _known(cls: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return values with lists as tuples; refuse keys that the dataclass does not have."""
    if not isinstance(values, Mapping):
        raise ConfigError(f'{prefix or "config"} is {values!r}; it must be settings by name')
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(f'unknown setting {prefix}{unknown[0]}; known are {sorted(names)}')
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
