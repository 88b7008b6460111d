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
_COMPAT_HEIGHTS = 8  # of simple_bev's own volume, whatever `grid` its output is brought into
NETWORKS = ('simple_bev', 'bevformer')
BACKBONES = (
    'tf_efficientnet_lite0',
    'efficientnet_b0',
    'tf_efficientnet_b0',
    'tf_efficientnet_b4',
    'resnet18',
    'resnet50',
    'resnet101',
)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How BEVFormer looks at images, and at what it knew before. The defaults are simple_bev's.

    Attributes:
        layers: of self-attention, cross-attention and feed-forward network.
        heads: of each attention.
        points: that a head samples for a cell: in the BEV plane, and in every image that sees the
            cell, where they are spread evenly over the heights of `grid.z_cells`.
        hidden: width of the feed-forward networks.
        dropout: in training.
        temporal: whether self-attention also looks at the plane of the instant before.
        frames: with `temporal`, the instants of a training sample; the last one is learned from.
    """

    layers: int = 6
    heads: int = 4
    points: int = 8
    hidden: int = 1028
    dropout: float = 0.1
    temporal: bool = False
    frames: int = 3

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is out of its range.
        """
        for name in ('layers', 'heads', 'points', 'hidden', 'frames'):
            value = getattr(self, name)
            if not _is_whole(value) or value < 1:
                raise ConfigError(f'attention.{name} is {value!r}; it must be at least 1')
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ConfigError(
                f'attention.dropout is {self.dropout!r}; it must be from 0 to below 1'
            )
        if not isinstance(self.temporal, bool):
            raise ConfigError(f'attention.temporal is {self.temporal!r}; it is true or false')


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network.

    Attributes:
        network: 'simple_bev' lifts image features into the volume (Harley et al., 2023);
            'bevformer' lets every cell of the plane look at the images (Li et al., 2022).
        classes: class names, in the order of the output's channels; none of a network that was
            pretrained only, which has no head.
        obstacle_classes: the classes that a planner must not drive into (`~/grid/combined`).
        grid: the BEV volume, gravity-aligned ego frame.
        image_size_px: (width, height) of the images that the network sees.
        backbone: timm model name.
        channels: width of image features and of the BEV plane.
        center_offset: whether it also tells where objects have their middles (two more heads).
        attention: of bevformer.
        compat: 'simple_bev' for weights of that project: the network then works as its code does
            (see `simple_bev_compat`) and its output is brought into `grid`; '' for our own.
        mean: RGB mean of the normalisation, for pixels in [0, 1].
        std: RGB standard deviation, likewise.
    """

    network: str = 'simple_bev'
    classes: tuple[str, ...] = ('drivable_area', 'lane_divider', 'vehicle')
    obstacle_classes: tuple[str, ...] = ('vehicle',)
    grid: BevGrid = field(default_factory=BevGrid)
    image_size_px: tuple[int, int] = (400, 224)
    backbone: str = 'tf_efficientnet_lite0'
    channels: int = 64
    center_offset: bool = False
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    compat: str = ''
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
        if len(set(self.classes)) != len(self.classes):
            raise ConfigError(f'classes {self.classes}: each once')
        unknown = set(self.obstacle_classes) - set(self.classes)
        if unknown:
            raise ConfigError(f'obstacle_classes: {sorted(unknown)} not in classes {self.classes}')
        if self.network not in NETWORKS:
            raise ConfigError(f'network {self.network!r} is unknown; known are {NETWORKS}')
        if self.compat not in ('', 'simple_bev'):
            raise ConfigError(f"compat {self.compat!r} is unknown; it is '' or 'simple_bev'")
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
        self._check_attention()
        if not all(math.isfinite(value) for value in self.mean):
            raise ConfigError(f'mean is {self.mean}; it must be finite')
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ConfigError(f'std is {self.std}; it must be positive')

    def _check_attention(self) -> None:
        attention = self.attention
        if not isinstance(attention, AttentionConfig):
            raise ConfigError(f'attention is {attention}; it must be an AttentionConfig')
        if self.network != 'bevformer':
            if attention.temporal:
                raise ConfigError("attention.temporal needs network: 'bevformer'")
            return
        if self.channels % attention.heads:
            raise ConfigError(
                f'channels is {self.channels}; it must be a multiple of attention.heads, '
                f'{attention.heads}'
            )
        if self.compat and attention.temporal:
            raise ConfigError('attention.temporal: weights of simple_bev know one instant only')
        heights, whose = self.grid.z_cells, 'grid.z_cells'
        if self.compat:
            heights, whose = _COMPAT_HEIGHTS, "simple_bev's heights"
        if attention.points % heights:
            raise ConfigError(
                f'attention.points is {attention.points}; it must be a multiple of {whose}, '
                f'{heights}'
            )

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
        for name, kind in (('grid', BevGrid), ('attention', AttentionConfig)):
            settings[name] = kind(**_known(kind, settings.get(name, {}), f'{name}.'))
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
