"""The command line of bag_player."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """What to play and how; the command line's `--help` describes each field."""

    bag: Path
    rate: float = 1.0
    times: int = 1  # 0: until stopped
    start_offset_s: float = 0.0
    duration_s: float | None = None
    clock_hz: float = 0.0  # 0: no /clock
    topics: tuple[str, ...] = ()
    subscribers: int = 0
    subscriber_timeout_s: float = 10.0
    delay_s: float = 0.0
    read_ahead_bytes: int = 128 << 20


def parse_play_options(arguments: Sequence[str]) -> PlayOptions:
    """Read the command line of bag_player; exits with status 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog='bag_player',
        description='Publish a recording (rosbag2 mcap or sqlite3, or a ROS 1 .bag) with its own '
        'QoS and pace. Remap and set parameters with --ros-args, as for any node.',
    )
    parser.add_argument('bag', type=Path, metavar='BAG', help='bag folder, .mcap, .db3 or .bag')
    parser.add_argument(
        '--rate',
        type=at_least(0.0),
        default=1.0,
        metavar='X',
        help='bag seconds per second (default 1); 0: as fast as possible',
    )
    often = parser.add_mutually_exclusive_group()
    often.add_argument(
        '--loop', action='store_const', const=0, dest='times', default=1, help='until stopped'
    )
    often.add_argument('--times', type=whole_number, default=1, metavar='N', help='play N times')
    parser.add_argument(
        '--start-offset',
        type=at_least(0.0),
        default=0.0,
        metavar='S',
        dest='start_offset_s',
        help='skip the first S seconds; transient-local messages among them are still published',
    )
    parser.add_argument(
        '--duration',
        type=at_least(0.0),
        metavar='S',
        dest='duration_s',
        help='play S bag seconds',
    )
    parser.add_argument(
        '--clock',
        type=at_least(0.0),
        nargs='?',
        const=100.0,
        default=0.0,
        metavar='HZ',
        dest='clock_hz',
        help='publish bag time on /clock, HZ times a second (100 if not given)',
    )
    parser.add_argument(
        '--topics',
        type=topic_pattern,
        nargs='+',
        default=(),
        metavar='TOPIC',
        help='names or regular expressions of the topics to play (default: all)',
    )
    parser.add_argument(
        '--wait-for-subscribers',
        type=whole_number,
        default=0,
        metavar='N',
        dest='subscribers',
        help='start when N subscriptions to the played topics have been found',
    )
    parser.add_argument(
        '--wait-timeout',
        type=at_least(0.0),
        default=10.0,
        metavar='S',
        dest='subscriber_timeout_s',
        help='give up waiting for them after S seconds (default 10)',
    )
    parser.add_argument(
        '--delay',
        type=at_least(0.0),
        default=0.0,
        metavar='S',
        dest='delay_s',
        help='wait S seconds before the first message',
    )
    options = vars(parser.parse_args(arguments))
    return PlayOptions(**{**options, 'topics': tuple(options['topics'])})


def at_least(least: float) -> Callable[[str], float]:
    """For argparse: finite numbers from `least` up."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value < float('inf'):
            raise argparse.ArgumentTypeError(f'{text} is not a number from {least:g} up')
        return value

    return number


def whole_number(text: str) -> int:
    """For argparse: 1, 2, 3, ..."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a whole number from 1 up')
    return int(text)


def topic_pattern(text: str) -> str:
    """For argparse: a regular expression that matches whole topic names."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'{text}: {error}') from None
    return text
