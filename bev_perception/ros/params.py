"""The node's parameters: one dataclass is names, defaults, descriptions, ranges and checks."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from bev_perception.errors import ConfigError
from bev_perception.predictor import PRECISIONS
from bev_perception.rig import Frames
from bev_perception.sync import SyncConfig
from bev_perception.topics import is_rectified

_TOPIC_TOKENS = re.compile(r'[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')
NUSCENES_ORDER = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')


def _param(
    default: Any,
    description: str,
    *,
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {'description': description, 'bounds': bounds, 'choices': choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class BevNodeParams:
    """Deployment facts; what belongs to the weights is in the checkpoint."""

    cameras: tuple[str, ...] = _param(NUSCENES_ORDER, 'Camera names of the rig.')
    image_topic: str = _param(
        '/camera/{camera}/image_raw', 'Image topic; {camera} is replaced by each name.'
    )
    image_geometry: str = _param(
        'auto',
        'raw: K and D of CameraInfo describe the images. rectified: P and R do. auto: a topic '
        'like image_rect or image_rect_color is rectified, any other raw.',
        choices=('auto', 'raw', 'rectified'),
    )
    camera_info_topic: str = _param(
        '/camera/{camera}/camera_info', 'CameraInfo topic; {camera} is replaced by each name.'
    )
    image_transport: str = _param(
        'compressed',
        'compressed: sensor_msgs/CompressedImage on <image_topic>/compressed (or on image_topic '
        'itself if its name ends in "compressed"). raw: sensor_msgs/Image on image_topic.',
        choices=('compressed', 'raw'),
    )
    checkpoint: str = _param(
        '', 'Weights: path of a .safetensors file, or the name of one shipped with the package.'
    )
    device: str = _param('auto', 'auto (a GPU where there is one), cpu, cuda or cuda:N.')
    precision: str = _param(
        'float32', 'Arithmetic of the network; bfloat16 is faster.', choices=tuple(PRECISIONS)
    )
    base_frame: str = _param('base_link', "The vehicle's body frame; grids are published in it.")
    odom_frame: str = _param(
        'odom',
        'A frame that stands still with z up: gives gravity and the motion between exposures. '
        'Empty: base_frame is taken as level and exposures as simultaneous.',
    )
    tf_timeout_s: float = _param(
        0.1, 'How long a set waits for its transforms, seconds.', bounds=(0.0, 5.0)
    )
    sync_max_spread_s: float = _param(
        0.065,
        'Largest difference between exposures of one set, after offsets, seconds.',
        bounds=(0.0, 1.0),
    )
    sync_timeout_s: float = _param(
        0.15, 'How long an incomplete set waits for missing cameras, seconds.', bounds=(0.0, 5.0)
    )
    sync_min_cameras: int = _param(4, 'A set with fewer cameras is dropped.', bounds=(1, 32))
    sync_anchor: str = _param(
        '', "Camera whose stamp is the set's; empty: the exposure nearest the median."
    )
    sync_offsets_s: tuple[float, ...] = _param(
        (), 'Nominal exposure offset per camera, in the order of cameras, seconds; empty: zeros.'
    )
    combined_classes: tuple[str, ...] = _param(
        (), "Classes in ~/grid/combined; empty: the checkpoint's obstacle classes."
    )
    publish_bev_image: bool = _param(True, 'Publish ~/bev_image, all classes as one picture.')
    publish_ground_mosaic: bool = _param(
        False, 'Publish ~/ground_mosaic, the images on the ground plane (calibration check).'
    )
    diagnostics_period_s: float = _param(1.0, 'Period of /diagnostics, seconds.', bounds=(0.1, 60))
    autostart: bool = _param(
        True, 'Configure and activate at start (only then); false: wait for lifecycle commands.'
    )

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: names the parameter, its value and what it may be.
        """
        for f in dataclasses.fields(self):
            value, bounds, choices = getattr(self, f.name), *_limits(f)
            if bounds and not (math.isfinite(value) and bounds[0] <= value <= bounds[1]):
                raise ConfigError(
                    f'{ros_name(f.name)} is {value}; it must lie in [{bounds[0]}, {bounds[1]}]'
                )
            if choices and value not in choices:
                raise ConfigError(f'{ros_name(f.name)} is {value!r}; it must be one of {choices}')
        if '' in self.cameras or len(set(self.cameras)) != len(self.cameras) or not self.cameras:
            raise ConfigError(f'cameras is {self.cameras}; at least one name, each once')
        for camera in self.cameras:
            if not _TOPIC_TOKENS.fullmatch(camera):
                raise ConfigError(f'cameras holds {camera!r}; topic names take a-z, A-Z, 0-9, _')
        for name in ('image_topic', 'camera_info_topic'):
            if len(self.cameras) > 1 and '{camera}' not in getattr(self, name):
                raise ConfigError(f'{name} is {getattr(self, name)!r}; it must hold {{camera}}')
        if not self.base_frame:
            raise ConfigError('base_frame is empty')
        for name, kind in (('sync_offsets_s', (int, float)), ('combined_classes', str)):
            wrong = [v for v in getattr(self, name) if not isinstance(v, kind)]
            if wrong:
                raise ConfigError(f'{ros_name(name)} holds {wrong[0]!r}')
        if self.sync_offsets_s and len(self.sync_offsets_s) != len(self.cameras):
            raise ConfigError(
                f'sync.offsets_s has {len(self.sync_offsets_s)} values '
                f'for {len(self.cameras)} cameras'
            )
        self.sync_config()

    def sync_config(self) -> SyncConfig:
        """Return the synchroniser's settings."""
        return SyncConfig(
            cameras=self.cameras,
            max_spread_s=self.sync_max_spread_s,
            timeout_s=self.sync_timeout_s,
            min_cameras=min(self.sync_min_cameras, len(self.cameras)),
            anchor=self.sync_anchor,
            offsets_s=dict(zip(self.cameras, self.sync_offsets_s, strict=False)),
        )

    def frames(self) -> Frames:
        """Return the vehicle's frames."""
        return Frames(base=self.base_frame, odom=self.odom_frame)

    def topics(self, camera: str) -> tuple[str, str]:
        """Return the image and the CameraInfo topic of a camera."""
        image = self.image_topic.replace('{camera}', camera)
        if self.image_transport == 'compressed' and not image.endswith('compressed'):
            image += '/compressed'
        return image, self.camera_info_topic.replace('{camera}', camera)

    @property
    def rectified(self) -> bool:
        """Whether images are rectified: as set, or as the topic's name says (REP-104's habit)."""
        if self.image_geometry != 'auto':
            return self.image_geometry == 'rectified'
        return is_rectified(self.image_topic)


def ros_name(field_name: str) -> str:
    """Return the parameter's name: `sync_max_spread_s` is `sync.max_spread_s`."""
    return (
        field_name.replace('sync_', 'sync.', 1) if field_name.startswith('sync_') else field_name
    )


def _limits(f: dataclasses.Field[Any]) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    return f.metadata['bounds'], f.metadata['choices']


def declare(node: Node) -> None:
    """Declare one ROS parameter per field, with description and range."""
    for f in dataclasses.fields(BevNodeParams):
        bounds, choices = _limits(f)
        descriptor = ParameterDescriptor(description=f.metadata['description'])
        if choices:
            descriptor.additional_constraints = f'one of {", ".join(choices)}'
        if bounds and isinstance(f.default, int):
            descriptor.integer_range = [
                IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]), step=1)
            ]
        elif bounds:
            low, high = float(bounds[0]), float(bounds[1])
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        # An empty list has no type of its own; `BevNodeParams` checks what comes instead of it.
        descriptor.dynamic_typing = f.default == ()
        default = list(f.default) if isinstance(f.default, tuple) else f.default
        node.declare_parameter(ros_name(f.name), default, descriptor)


def read(node: Node, changes: list[Parameter] | None = None) -> BevNodeParams:
    """Read the parameters, with changes that are not set yet.

    Raises:
        ConfigError: a value is refused.
    """
    changed = {p.name: p.value for p in changes or []}
    values: dict[str, Any] = {}
    for f in dataclasses.fields(BevNodeParams):
        name = ros_name(f.name)
        value = changed[name] if name in changed else node.get_parameter(name).value
        values[f.name] = _tuple(name, value) if isinstance(f.default, tuple) else value
    return BevNodeParams(**values)


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    if value is None:  # what ROS makes of an empty list in a parameter file
        return ()
    if isinstance(value, str) or not hasattr(value, '__iter__'):
        raise ConfigError(f'{name} is {value!r}; it must be a list')
    return tuple(value)


def check_changes(
    node: Node, changes: list[Parameter], *, configured: bool
) -> SetParametersResult:
    """Answer a request to set parameters, with the reason where it is refused."""
    ours = {ros_name(f.name) for f in dataclasses.fields(BevNodeParams)}
    touched = [p.name for p in changes if p.name in ours]
    if configured and touched:
        reason = f'{touched[0]} can only change while the node is unconfigured (lifecycle cleanup)'
        return SetParametersResult(successful=False, reason=reason)
    try:
        read(node, changes)
    except (ConfigError, TypeError) as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
