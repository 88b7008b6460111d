"""The options of `bev convert` that are settings of a conversion."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bev_perception.errors import ConfigError
from bev_training import option_types

if TYPE_CHECKING:
    from bev_training.data.settings import ConvertConfig

# Options that are settings: what they are called there, and what is made of their value.
_SETTINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    'cameras': ('cameras', tuple),
    'image_topic': ('image_topic', str),
    'camera_info_topic': ('camera_info_topic', str),
    'camera': ('image_topics', dict),
    'camera_info': ('camera_info_topics', dict),
    'image_geometry': ('image_geometry', str),
    'odometry': ('odometry_topic', str),
    'base_frame': ('base_frame', str),
    'odom_frame': ('odom_frame', str),
    'tf_timeout': ('tf_timeout_s', float),
    'max_spread': ('max_spread_s', float),
    'sync_timeout': ('timeout_s', float),
    'min_cameras': ('min_cameras', int),
    'anchor': ('anchor', str),
    'offsets': ('offsets_s', dict),
    'sweeps': ('max_sweeps', int),
    'jpeg_quality': ('jpeg_quality', int),
    'privacy': ('privacy', str),
    'shard_mb': ('shard_mb', float),
}
_OF_SETTING = {name: option for option, (name, _) in _SETTINGS.items()}
_OF_SETTING |= {'every': 'every', 'lidars': 'lidar', 'workers': 'workers', 'executor': 'executor'}
ONLY_BAGS = (
    *_SETTINGS, 'every', 'lidar', 'no_lidar', 'config', 'workers', 'report', 'format', 'executor',
)  # fmt: skip


def config_of(chosen: argparse.Namespace) -> ConvertConfig:
    """Return the settings: the options, then the file, then the defaults.

    Raises:
        ConfigError: the file cannot be used. What is wrong with options ends the program.
    """
    from bev_training.data.config_file import load_settings
    from bev_training.data.settings import ConvertConfig, KeyFrames

    stored = load_settings(chosen.config) if chosen.config else {}
    try:
        given: dict[str, Any] = {
            name: make(getattr(chosen, option))
            for option, (name, make) in _SETTINGS.items()
            if getattr(chosen, option) is not None
        }
        if chosen.every is not None:
            given['every'] = KeyFrames.parse(chosen.every)
        if chosen.no_lidar and chosen.lidar:
            chosen.wrong_usage('--no-lidar contradicts --lidar')
        if chosen.no_lidar:
            given['lidars'] = {}
        elif chosen.lidar:
            given['lidars'] = {name or 'lidar': topic for name, topic in chosen.lidar}
            if len(given['lidars']) < len(chosen.lidar):
                raise ConfigError('lidars: give each a name of its own, NAME=TOPIC')
        if chosen.camera and 'cameras' not in {**stored, **given}:
            given['cameras'] = tuple(dict(chosen.camera))
        if {'image_topic', 'image_topics'} & set(given):  # not both: the option counts
            stored = {n: v for n, v in stored.items() if n not in ('image_topic', 'image_topics')}
        return ConvertConfig(**{**stored, **given})
    except ConfigError as error:
        name = re.split(r'[^a-z_]', str(error), maxsplit=1)[0]
        if chosen.config and name not in given:
            raise ConfigError(f'{chosen.config}: {error}') from error
        chosen.wrong_usage(_of_options(str(error)))
        raise


def _of_options(message: str) -> str:
    """Return what is wrong with a setting, in words of the command line."""
    name = re.split(r'[^a-z_]', message, maxsplit=1)[0]
    option = _OF_SETTING.get(name)
    return message if option is None else f'--{option.replace("_", "-")}{message[len(name) :]}'


def add_settings(verb: argparse.ArgumentParser) -> None:
    """Add the options, in groups."""
    _add_topics(verb.add_argument_group('topics and frames'))
    _add_choice(verb.add_argument_group('which images become frames'))
    _add_output(verb.add_argument_group('what is written'))


def _add_topics(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add('--cameras', type=option_types.names, metavar='A,B,C', help='in this order (all found)')
    add('--image-topic', metavar='TEMPLATE', help='with {camera}, raw or compressed (found)')
    add('--camera-info-topic', metavar='TEMPLATE', help='(camera_info beside the image topic)')
    named: dict[str, Any] = {'action': 'append', 'type': option_types.pair}
    add('--camera', **named, metavar='NAME=TOPIC', help='image topic of one camera; repeatable')
    add('--camera-info', **named, metavar='NAME=TOPIC', help='the same of its CameraInfo')
    add(
        '--image-geometry',
        choices=('auto', 'raw', 'rectified'),
        help='raw: K and D describe the images; rectified: P and R (auto: by the topic)',
    )
    add(
        '--lidar',
        action='append',
        type=option_types.named_or_not,
        metavar='[NAME=]TOPIC',
        help='repeatable (the only PointCloud2)',
    )
    add('--no-lidar', action='store_true', help='leave lidars out')
    add('--odometry', metavar='TOPIC', help='Odometry or PoseStamped for the pose (TF)')
    add('--base-frame', metavar='FRAME', help="the vehicle's body (base_link)")
    add('--odom-frame', metavar='FRAME', help="stands still, z up; '' = none (odom)")
    add('--tf-timeout', type=float, metavar='S', help='to wait for late transforms (1)')


def _add_choice(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add('--every', metavar='2m|0.5s|all', help='a frame per metres or seconds, or each set (2m)')
    add('--min-cameras', type=option_types.count, metavar='N', help='images of a frame (4)')
    add('--max-spread', type=float, metavar='S', help='between its exposures (0.065)')
    add('--sync-timeout', type=float, metavar='S', help='to wait for missing images (0.15)')
    add('--anchor', metavar='CAMERA', help="whose stamp is the frame's (nearest the median)")
    add(
        '--offsets',
        type=option_types.seconds_by_name,
        metavar='NAME=S,...',
        help='exposures after the trigger (0)',
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add('--sweeps', type=option_types.whole, metavar='N', help='lidar sweeps of a frame (10)')
    add(
        '--jpeg-quality',
        type=option_types.count,
        metavar='Q',
        help='1..100: raw and video images as JPEG (PNG, without loss)',
    )
    add(
        '--privacy',
        metavar='MODULE:FUNCTION',
        help='applied to every image before it is written; also FILE.py:FUNCTION',
    )
    add('--shard-mb', type=float, metavar='MB', help='size of a tar file (256)')
