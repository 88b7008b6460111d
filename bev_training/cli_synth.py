"""The verbs `synth` and `preview`: synthetic drives, and a picture of them."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bev_perception.errors import ConfigError
from bev_training.option_types import count, size_px


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


def add_synth(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
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


def add_preview(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
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
