"""The command line `bev`. Every verb is one function that can be called from Python too.

Exit codes: 0 success, 1 bad input or a failed step (one line on stderr says which file, field or
value), 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from bev_perception.errors import BevError, ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = chosen.run
    before = signal.signal(signal.SIGTERM, _terminated)  # so that half-written files are removed
    try:
        run(chosen)
    except BevError as error:
        print(f'bev {chosen.verb}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'bev {chosen.verb}: stopped', file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def synth(chosen: argparse.Namespace) -> None:
    """Write a synthetic drive."""
    from tqdm import tqdm

    from bev_training.synthetic.drive import DriveConfig, write_drive
    from bev_training.synthetic.frames import frame_count

    try:
        config = DriveConfig(
            seconds=chosen.seconds,
            seed=chosen.seed,
            speed_mps=chosen.speed,
            size_px=chosen.size,
            raw=chosen.raw,
            jitter_s=chosen.jitter,
        )
        config.world(), config.rig()
    except ConfigError as error:
        chosen.wrong_usage(str(error))
    began = time.monotonic()
    total = frame_count(config.seconds)
    # The bar waits, so that an error in the beginning is the only line.
    with tqdm(total=total, unit='frame', desc='bev synth', disable=chosen.json, delay=1) as bar:
        done = write_drive(chosen.out, config, workers=chosen.workers, progress=bar.update)
    seconds = time.monotonic() - began
    if chosen.json:
        print(json.dumps({**asdict(done), 'path': str(done.path), 'seconds': round(seconds, 2)}))
        return
    print(
        f'{done.path}: {done.frames} frames, {done.images} images, {done.sweeps} lidar sweeps, '
        f'{done.messages} messages, {done.size_bytes / 1e6:.1f} MB in {seconds:.1f} s'
    )
    print(f'  bag    {done.path / "bag"}\n  truth  {done.path / "truth.npz"}')


_SYNTH_HELP = """\
Write a synthetic drive: a street with traffic, recorded by six cameras (12 Hz, one after the other
around the vehicle), a 32-beam lidar (10 Hz) and exact poses (50 Hz).

  OUT/bag/        rosbag2 (mcap) that any ROS 2 reads: try `ros2 bag info OUT/bag`
  OUT/truth.npz   grids of drivable_area, lane_divider and vehicle, and the vehicles' boxes
  OUT/drive.json  the settings

The same command writes the same bytes; another --seed gives another street.
"""
_SYNTH_EXAMPLES = """\
examples:
  bev synth /tmp/drive                            8 s at 1600x900
  bev synth /tmp/short --seconds 2 --size 800x450
  bev synth /tmp/other --seed 7 --speed 12
"""


def _add_synth(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        'synth',
        help='write a synthetic drive with truth',
        description=_SYNTH_HELP,
        epilog=_SYNTH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument('out', type=Path, metavar='OUT', help='folder; must not exist or be empty')
    verb.add_argument('--seconds', type=float, default=8.0, help='length (default %(default)s)')
    verb.add_argument('--seed', type=int, default=0, help='of street, traffic and motion (0)')
    verb.add_argument('--speed', type=float, default=8.0, help='of the vehicle, m/s (8)')
    verb.add_argument(
        '--size', type=_size, default=(1600, 900), metavar='WxH', help='of images, 16:9 (1600x900)'
    )
    verb.add_argument(
        '--raw', action='store_true', help='sensor_msgs/Image instead of JPEG; 15 times as large'
    )
    verb.add_argument(
        '--jitter', type=float, default=0.0, help='random deviation of exposures, s, to 0.005 (0)'
    )
    verb.add_argument('--workers', type=_count, help='processes (one per core, to 16)')
    verb.add_argument('--json', action='store_true', help='print the result as JSON')
    verb.set_defaults(run=synth, wrong_usage=verb.error)


def demo(chosen: argparse.Namespace) -> None:
    """Send a synthetic drive through the node and draw what comes out."""
    from bev_training.demo import DemoConfig, run_demo

    run_demo(
        DemoConfig(
            out=chosen.out,
            seconds=chosen.seconds,
            seed=chosen.seed,
            rate=chosen.rate,
            weights=chosen.checkpoint,
        )
    )


_DEMO_HELP = """\
Write a synthetic drive, play it over ROS 2 into a running bev_node, record the grids that come
out, and draw them. The drive in OUT is used again where its settings are the same.

  OUT/demo.png    six images, each class's grid beside the truth (path printed last)
  OUT/demo.json   the figures that are printed
  OUT/grids/      what the node published, a rosbag2
  OUT/drive/      the drive, see `bev synth --help`
"""


def _add_demo(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        'demo',
        help='a synthetic drive through the node, into one picture',
        description=_DEMO_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        'out', type=Path, nargs='?', metavar='OUT', default=Path('out/demo'), help='(out/demo)'
    )
    verb.add_argument('--seconds', type=float, default=8.0, help='length of the drive (8)')
    verb.add_argument('--seed', type=int, default=1000, help='of the drive (1000)')
    verb.add_argument('--rate', type=float, default=1.0, help='bag seconds per second (1)')
    verb.add_argument('--checkpoint', type=Path, help='weights (default: those shipped here)')
    verb.set_defaults(run=demo)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='bev',
        description='Offline tools around the node of bev_perception.',
        epilog='`bev VERB --help` explains a verb.',
    )
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    _add_synth(verbs)
    _add_demo(verbs)
    return parser


def _count(text: str) -> int:
    """Read a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above zero')
    return int(text)


def _size(text: str) -> tuple[int, int]:
    """Read WxH."""
    width, cross, height = text.lower().partition('x')
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is no size such as 1600x900')
    return int(width), int(height)


def _terminated(signal_number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == '__main__':
    raise SystemExit(main())
