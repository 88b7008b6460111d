"""The command line `bev`. Every verb is one function that can be called from Python too.

Exit codes: 0 success, 1 bad input or a failed step (one line on stderr says which file, field or
value), 2 wrong usage, 130 stopped with Ctrl-C, 141 where nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from bev_perception.errors import BevError, ConfigError
from bev_training.cli_convert import add_convert
from bev_training.cli_inspect import add_inspect
from bev_training.option_types import count, size_px
from bev_training.stopping import stoppable

# Modules that an installation may lack, and what to do then.
_OPTIONAL = {
    'embreex': 'rendering needs the package embreex, which is not installed: pip install '
    'embreex (x86-64 only)',
    'shapely': 'towns need the package shapely, which is not installed: pip install shapely',
    'matplotlib': 'pictures need matplotlib, which is not installed: pip install matplotlib',
    'pyarrow': 'drives need the package pyarrow, which is not installed: pip install pyarrow',
    'rerun': 'a recording needs rerun, which is not installed: pip install rerun-sdk',
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code."""
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where it can be told that the reader is gone
    except BrokenPipeError:  # `bev ... | head`
        if not _reader_is_gone():
            raise
        return 141  # as a shell has it for SIGPIPE


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads; what is left for it then goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        chosen.wrong_usage(f'unknown: {" ".join(unknown)}')
    run: Callable[[argparse.Namespace], None] = chosen.run
    try:
        with stoppable(f'bev {chosen.verb}', last=arguments is None):
            run(chosen)
    except BevError as error:
        print(f'bev {chosen.verb}: {error}', file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        print(f'bev {chosen.verb}: {_OPTIONAL[error.name]}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'bev {chosen.verb}: stopped', file=sys.stderr)
        return 130
    return 0


def synth(chosen: argparse.Namespace) -> None:
    """Write synthetic drives, or a data set in nuScenes' format."""
    from bev_training.synthetic.rig import check_size_px
    from bev_training.synthetic.rig_yaml import load_rig

    if chosen.size:
        try:
            check_size_px(chosen.size, '--size')
        except ConfigError as error:
            chosen.wrong_usage(str(error))
    rig = load_rig(chosen.rig, chosen.size) if chosen.rig else None
    given = {'seed': chosen.seed, 'speed_mps': chosen.speed, 'weather': chosen.weather, 'rig': rig}
    if chosen.size:
        given['size_px'] = chosen.size
    if chosen.seconds is not None:
        given['seconds'] = chosen.seconds
    if chosen.format == 'nuscenes':
        _synth_nuscenes(chosen, given)
    else:
        _synth_drives(chosen, given)


def _synth_drives(chosen: argparse.Namespace, given: dict[str, Any]) -> None:
    from bev_training.synthetic.drive import DriveConfig, write_drive
    from bev_training.synthetic.drives import drive_configs, write_drives
    from bev_training.synthetic.frames import frame_count

    if chosen.scenes is not None:
        chosen.wrong_usage('--scenes needs --format nuscenes; see --drives')
    many = chosen.drives is not None
    try:
        config = DriveConfig(
            **given,
            raw=chosen.raw,
            jitter_s=chosen.jitter,
            town_seed=chosen.town,
            image_truth=not chosen.no_image_truth,
        )
        drive_configs(config, chosen.drives or 1)
    except ConfigError as error:
        chosen.wrong_usage(_of_options(error))
    began = time.monotonic()
    frames = frame_count(config.seconds, config.rig_or_default().camera_hz)
    with _bar(chosen, frames * (chosen.drives or 1), 'frame') as bar:
        if many:
            done = write_drives(
                chosen.out, config, chosen.drives, workers=chosen.workers, progress=bar.update
            )
        else:
            done = [write_drive(chosen.out, config, workers=chosen.workers, progress=bar.update)]
    seconds = round(time.monotonic() - began, 2)
    if chosen.json:
        described = [{**asdict(one), 'path': str(one.path)} for one in done]
        result = {'drives': described} if many else described[0]
        print(json.dumps({**result, 'seconds': seconds}))
        return
    for one in done:
        print(
            f'{one.path}: {one.weather}, {one.frames} frames, {one.images} images, {one.sweeps} '
            f'lidar sweeps, {one.messages} messages, {one.size_bytes / 1e6:.1f} MB'
        )
    print(f'  written in {seconds:.1f} s; look at it with `bev preview {chosen.out}`')


# What options are called as settings.
_OPTIONS = {
    'seconds': '--seconds',
    'seed': '--seed',
    'speed_mps': '--speed',
    'weather': '--weather',
    'jitter_s': '--jitter',
    'town_seed': '--town',
    'drives': '--drives',
    'scenes': '--scenes',
}


def _of_options(error: ConfigError) -> str:
    """Return what is wrong with a setting, in words of the command line."""
    name, space, rest = str(error).partition(' ')
    return f'{_OPTIONS.get(name, name)}{space}{rest}'


_ONLY_BAG = {'raw': False, 'jitter': 0.0, 'no_image_truth': False, 'town': None, 'drives': None}


def _synth_nuscenes(chosen: argparse.Namespace, given: dict[str, Any]) -> None:
    from bev_training.synthetic.nuscenes_format import NuscenesConfig, write_nuscenes
    from bev_training.synthetic.nuscenes_format.schedule import plan_shots

    for name, default in _ONLY_BAG.items():
        if getattr(chosen, name) != default:
            chosen.wrong_usage(f'--{name.replace("_", "-")} needs --format bag')
    try:
        config = NuscenesConfig(**given, scenes=10 if chosen.scenes is None else chosen.scenes)
    except ConfigError as error:
        chosen.wrong_usage(_of_options(error))
    began = time.monotonic()
    samples = len(plan_shots(config.rig_or_default(), config.seconds))
    with _bar(chosen, config.scenes * samples, 'sample') as bar:
        done = write_nuscenes(chosen.out, config, workers=chosen.workers, progress=bar.update)
    seconds = round(time.monotonic() - began, 2)
    if chosen.json:
        print(json.dumps({**done.as_json(), 'seconds': seconds}))
        return
    print(
        f'{done.path}: {done.version}, {done.scenes} scenes, {done.samples} samples, '
        f'{done.images} images, {done.sweeps} lidar sweeps, {done.annotations} annotations, '
        f'{done.size_bytes / 1e6:.1f} MB in {seconds:.1f} s'
    )


def _bar(chosen: argparse.Namespace, total: int, unit: str) -> Any:
    """Return a progress bar; it waits, so that an error in the beginning is the only line."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, desc='bev synth', disable=chosen.json, delay=1)


_SYNTH_HELP = """\
Write a synthetic drive through a procedural town with traffic, pedestrians and weather: six
cameras (12 Hz, one after the other around the vehicle) or any other rig, a lidar (20 Hz) and exact
poses (50 Hz), with the truth.

  OUT/bag/        rosbag2 (mcap) for ROS 2 Jazzy and later: `ros2 bag info OUT/bag`
  OUT/truth.npz   class grids and the objects' boxes at every frame
  OUT/truth/      semantics and depth of every image, as PNG
  OUT/drive.json  the settings, with the rig

With --drives, OUT/drive-0000 and so on, each with the next seed. Each appears when it is whole; if
this is interrupted, the same command goes on with those that are missing. With --format nuscenes,
OUT is a data set that the nuScenes devkit reads, of --scenes scenes.

The same command writes the same bytes; another --seed gives another town, traffic and weather.
"""
_SYNTH_EXAMPLES = """\
examples:
  bev synth /tmp/drive                                 8 s, six cameras of 800x450
  bev synth /tmp/short --seconds 2 --size 400x225
  bev synth /tmp/rainy --seed 7 --weather rain --speed 12
  bev synth /tmp/fisheye --rig config/rigs/four_fisheyes.yaml
  bev synth /tmp/many --drives 20 --no-image-truth     OUT/drive-0000 to drive-0019
  bev synth /tmp/sets --format nuscenes --scenes 10
"""


def _add_synth(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        'synth',
        help='write synthetic drives with truth',
        description=_SYNTH_HELP,
        epilog=_SYNTH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('out', type=Path, metavar='OUT', help='new or empty folder')
    add('--format', choices=('bag', 'nuscenes'), default='bag', help='(bag)')
    add('--seconds', type=float, help='length of a drive (8) or scene (nuscenes: 20)')
    add('--seed', type=int, default=0, help='of town, traffic, motion and weather (0)')
    add('--speed', type=float, default=8.0, help='of the vehicle, m/s; 0 stands (8)')
    add('--size', type=size_px, metavar='WxH', help="of images (800x450, or the rig's own)")
    add('--weather', default='any', help='clear, overcast, haze, rain, night or any (any)')
    add('--rig', type=Path, metavar='FILE', help='YAML of the sensors, see config/rigs')
    add('--workers', type=count, help='processes (one per core, to 16)')
    add('--json', action='store_true', help='print the result as JSON')
    bag = verb.add_argument_group('only with --format bag')
    bag.add_argument('--drives', type=count, metavar='N', help='write N drives below OUT')
    bag.add_argument('--town', type=int, metavar='SEED', help="of the town (the drive's seed)")
    bag.add_argument(
        '--raw', action='store_true', help='sensor_msgs/Image instead of JPEG; 10 times as large'
    )
    bag.add_argument(
        '--jitter', type=float, default=0.0, help='random deviation of exposures, s, to 0.005 (0)'
    )
    bag.add_argument(
        '--no-image-truth', action='store_true', help='leave out semantics and depth of images'
    )
    sets = verb.add_argument_group('only with --format nuscenes')
    sets.add_argument('--scenes', type=count, metavar='N', help='number of scenes (10)')
    verb.set_defaults(run=synth, wrong_usage=verb.error)


def preview(chosen: argparse.Namespace) -> None:
    """Draw a contact sheet of written drives."""
    from bev_training.synthetic.preview import draw_preview, drives_in

    if chosen.rerun:
        if drives_in(chosen.drive) != [chosen.drive]:
            raise ConfigError(f'--rerun takes one drive; {chosen.drive} holds several')
        from bev_training.synthetic.preview_rerun import write_rerun

    picture = draw_preview(chosen.drive, out=chosen.out, frames=chosen.frames)
    print(f'Picture: {picture}')
    if chosen.rerun:
        write_rerun(chosen.drive, chosen.rerun)
        print(f'Recording: {chosen.rerun} (open it with `rerun {chosen.rerun}`)')


_PREVIEW_HELP = """\
Draw what `bev synth` wrote, read back from the bag and the truth: images, class grids and lidar
with boxes at some instants, and semantics and depth of the first. A folder of several drives gives
a row for each.
"""
_PREVIEW_EXAMPLES = """\
examples:
  bev preview /tmp/drive                          writes /tmp/drive/preview.png
  bev preview /tmp/many --out /tmp/many.png
  bev preview /tmp/drive --rerun /tmp/drive.rrd   in 3D, for the viewer rerun
"""


def _add_preview(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        'preview',
        help='a picture of synthetic drives',
        description=_PREVIEW_HELP,
        epilog=_PREVIEW_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument('drive', type=Path, metavar='DRIVE', help='what `bev synth` wrote')
    verb.add_argument(
        '--out', type=Path, metavar='FILE.png', help='the picture (DRIVE/preview.png)'
    )
    verb.add_argument(
        '--rerun', type=Path, metavar='FILE.rrd', help='also a recording; needs rerun-sdk'
    )
    verb.add_argument(
        '--frames', type=count, default=4, metavar='N', help='instants of a drive (4)'
    )
    verb.set_defaults(run=preview, wrong_usage=verb.error)


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
out, and draw them. The drive in OUT is used again where its settings are the same, and replaced
where they are not; an OUT/drive or OUT/grids that is nothing of that kind is an error.

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
    verb.add_argument('--seconds', type=float, default=6.0, help='length of the drive (6)')
    verb.add_argument('--seed', type=int, default=1005, help='of the drive (1005)')
    verb.add_argument('--rate', type=float, default=1.0, help='bag seconds per second (1)')
    verb.add_argument('--checkpoint', type=Path, help='weights (default: those shipped here)')
    verb.set_defaults(run=demo, wrong_usage=verb.error)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit."""
        self.exit(2, f'{self.prog}: error: {message}; see {self.prog} --help\n')


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog='bev',
        description='Offline tools around the node of bev_perception.',
        epilog='`bev VERB --help` explains a verb.',
    )
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    _add_synth(verbs)
    _add_preview(verbs)
    _add_demo(verbs)
    add_convert(verbs)
    add_inspect(verbs)
    return parser


if __name__ == '__main__':
    raise SystemExit(main())
