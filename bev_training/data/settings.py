"""How a recording is converted: one frozen dataclass, from Python, YAML or the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from bev_perception.errors import ConfigError
from bev_perception.sync import SyncConfig

FORMAT = 1  # version of the drive data set
_EVERY = re.compile(r'([0-9]+(?:\.[0-9]+)?)\s*(m|s)')


@dataclass(frozen=True, kw_only=True)
class KeyFrames:
    """Which sets of images become frames: the first, then one every so far or so long.

    Attributes:
        metres: distance from the last frame; None for no such rule.
        seconds: time since the last frame; None for no such rule. Neither: all sets.
    """

    metres: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ('metres', 'seconds'):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f'every: {value} {name} must be above 0')
        if self.metres is not None and self.seconds is not None:
            raise ConfigError('every: give metres or seconds, not both')

    @classmethod
    def parse(cls, text: str) -> KeyFrames:
        """Read '2m', '0.5s' or 'all'.

        Raises:
            ConfigError: it is none of these.
        """
        if text == 'all':
            return cls()
        match = _EVERY.fullmatch(text)
        if match is None:
            raise ConfigError(f"every is {text!r}; it must be like '2m', '0.5s' or 'all'")
        value = float(match[1])
        return cls(metres=value) if match[2] == 'm' else cls(seconds=value)

    def __str__(self) -> str:
        """Give what `parse` reads."""
        if self.metres is not None:
            return f'{self.metres:g}m'
        return 'all' if self.seconds is None else f'{self.seconds:g}s'


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Settings of a conversion; ConfigError at construction where one is out of range.

    Attributes:
        cameras: names, in the rig's order; () = all that are found.
        image_topic: template with {camera}, or '' to find the topics.
        camera_info_topic: template with {camera}; '' = `camera_info` beside the image topic.
        image_topics: image topic by camera name, where no template fits them; `cameras` chooses
            among them.
        camera_info_topics: the same of CameraInfo.
        image_geometry: 'raw' (K and D describe the images), 'rectified' (P and R do) or 'auto'
            (a topic like image_rect is rectified), as the node's parameter.
        lidars: lidar topic by name; None = found (the only PointCloud2 topic), {} = none.
        odometry_topic: Odometry or PoseStamped that gives the ego pose instead of TF; '' = TF, or
            the only Odometry topic where TF does not connect the two frames.
        base_frame: the vehicle's body frame.
        odom_frame: a frame that stands still, z up; '' = none: body taken as level.
        tf_timeout_s: how long, on the recording's clock, a set waits for transforms and sweeps
            that come after it; sets are held in memory meanwhile.
        every: which sets become frames.
        max_spread_s: as `SyncConfig`, and so on to `offsets_s`.
        timeout_s: see there.
        min_cameras: see there (at most the number of cameras).
        anchor: see there.
        offsets_s: see there.
        max_sweeps: sweeps of each lidar per frame at most; 0 = none.
        jpeg_quality: of images that are encoded here (raw and video topics, or after a privacy
            function); None = lossless PNG, and 95 where a privacy function changed a JPEG.
        privacy: 'module:function', called with every image before it is written; '' = none.
        shard_mb: size at which a shard ends, megabytes.
    """

    cameras: tuple[str, ...] = ()
    image_topic: str = ''
    camera_info_topic: str = ''
    image_topics: Mapping[str, str] = field(default_factory=dict)
    camera_info_topics: Mapping[str, str] = field(default_factory=dict)
    image_geometry: str = 'auto'
    lidars: Mapping[str, str] | None = None
    odometry_topic: str = ''
    base_frame: str = 'base_link'
    odom_frame: str = 'odom'
    tf_timeout_s: float = 1.0
    every: KeyFrames = field(default_factory=lambda: KeyFrames(metres=2.0))
    max_spread_s: float = 0.065
    timeout_s: float = 0.15
    min_cameras: int = 4
    anchor: str = ''
    offsets_s: Mapping[str, float] = field(default_factory=dict)
    max_sweeps: int = 10
    jpeg_quality: int | None = None
    privacy: str = ''
    shard_mb: float = 256.0

    def __post_init__(self) -> None:
        if '' in self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f'cameras is {list(self.cameras)}; each name once, none empty')
        for name in ('image_topic', 'camera_info_topic'):
            value = getattr(self, name)
            if value and len(self.cameras) != 1 and '{camera}' not in value:
                raise ConfigError(f'{name} is {value!r}; it must hold {{camera}}')
        if self.image_topic and self.image_topics:
            raise ConfigError('image_topics: give these or the template image_topic, not both')
        if self.image_geometry not in ('auto', 'raw', 'rectified'):
            raise ConfigError(
                f"image_geometry is {self.image_geometry!r}; it must be 'auto', 'raw' or "
                "'rectified'"
            )
        if not self.base_frame:
            raise ConfigError('base_frame is empty')
        if not self.odom_frame and self.every.metres is not None:
            raise ConfigError(
                f'every is {self.every}; distances need odom_frame (or give every in seconds)'
            )
        if self.odometry_topic and not self.odom_frame:
            raise ConfigError(f'odometry_topic is {self.odometry_topic!r}; it needs odom_frame')
        if not 0 <= self.tf_timeout_s <= 60:
            raise ConfigError(f'tf_timeout_s is {self.tf_timeout_s}; it must lie in [0, 60]')
        for name, most in (('max_spread_s', 1), ('timeout_s', 5)):  # as the node's parameters
            if getattr(self, name) > most:
                raise ConfigError(f'{name} is {getattr(self, name)}; it must be at most {most} s')
        if self.max_sweeps < 0:
            raise ConfigError(f'max_sweeps is {self.max_sweeps}; it must be at least 0')
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f'jpeg_quality is {self.jpeg_quality}; it must lie in [1, 100]')
        if not (math.isfinite(self.shard_mb) and self.shard_mb > 0):
            raise ConfigError(f'shard_mb is {self.shard_mb}; it must be above 0')
        if self.min_cameras < 1:
            raise ConfigError(f'min_cameras is {self.min_cameras}; it must be at least 1')
        named = tuple(dict.fromkeys((*self.cameras, *self.offsets_s))) or ('any',)
        self.sync_config(named, check_anchor=False)

    def sync_config(self, cameras: tuple[str, ...], *, check_anchor: bool = True) -> SyncConfig:
        """Return the synchroniser's settings for these cameras.

        Raises:
            ConfigError: a value is out of its range or names another camera.
        """
        return SyncConfig(
            cameras=cameras,
            max_spread_s=self.max_spread_s,
            timeout_s=self.timeout_s,
            min_cameras=min(self.min_cameras, len(cameras)),
            anchor=self.anchor if check_anchor else '',
            offsets_s={name: s for name, s in self.offsets_s.items() if name in cameras},
        )

    def as_json(self) -> dict[str, Any]:
        """Return the settings as the manifest holds them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, Mapping):
                values[name] = dict(value)
            elif isinstance(value, tuple):
                values[name] = list(value)
        return {**values, 'every': str(self.every)}
