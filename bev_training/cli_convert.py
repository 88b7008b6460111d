"""The verb `convert`: recordings become unlabelled frames, and nuScenes-format data recordings."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from bev_perception.errors import BagError, BevError
from bev_training import option_types
from bev_training.convert_options import ONLY_BAGS, add_settings, config_of
from bev_training.inspection.findings import plural

if TYPE_CHECKING:
    from bev_training.data.jobs import Outcome, Progress
    from bev_training.data.summary import DriveSummary


def convert(chosen: argparse.Namespace) -> None:
    """Convert recordings to frames, or a data set in nuScenes' format to recordings."""
    from bev_training.data.paths import to_path

    out = to_path(chosen.out)
    if chosen.source == 'nuscenes':
        _convert_nuscenes(chosen, out)
        return
    for name in ('version', 'scenes'):
        if getattr(chosen, name) is not None:
            chosen.wrong_usage(f'--{name} needs --from nuscenes')
    chosen.format, chosen.executor = chosen.format or 'drive', chosen.executor or 'processes'
    report = _report_path(chosen, out)
    config = config_of(chosen)
    from bev_training.data.bag_inputs import find_bags
    from bev_training.data.jobs import convert_bags

    began = time.monotonic()
    sources = find_bags([to_path(bag) for bag in chosen.bags])
    with _bar(chosen) as show:
        outcome = convert_bags(
            sources,
            out,
            config,
            format=chosen.format,
            workers=chosen.workers,
            executor=chosen.executor,
            progress=show,
            say=_tell,
        )
    seconds = round(time.monotonic() - began, 2)
    _say(chosen, outcome, seconds)
    failures = [f'{name}: {reason}' for name, reason in outcome.failed.items()]
    drives = [to_path(drive.path) for drive in (*outcome.done, *outcome.kept)]
    if report is not None and drives:
        while failures:  # whatever becomes of the report, and however long it takes
            _tell(failures.pop(0))
        _write_report(report, drives)
        if not chosen.json:
            print(f'Report: {chosen.report}')
        if outcome.failed:
            raise BevError(f'{len(outcome.failed)} of {len(sources)} recordings failed, see above')
    for failure in failures[:-1]:
        _tell(failure)
    if failures:
        raise BevError(failures[-1])


def _write_report(report: Path, drives: list[Path]) -> None:
    from bev_training.data.paths import remote
    from bev_training.inspection.report import write_report

    with remote(report, 'written'):
        write_report(report, drives)


def _tell(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(f'bev convert: {line}', file=sys.stderr)


def _report_path(chosen: argparse.Namespace, out: Path) -> Path | None:
    """Return where the report goes, made sure of before hours of work.

    Raises:
        BagError: it cannot be written there.
    """
    from bev_training.data.paths import is_local, to_path

    if not chosen.report:
        return None
    if chosen.format != 'drive':
        chosen.wrong_usage('--report needs --format drive')
    if not chosen.report.endswith('.html'):
        chosen.wrong_usage(f'--report is {chosen.report}; it must end in .html')
    path = to_path(chosen.report)
    if not is_local(path):
        return path
    folder = path.parent
    if is_local(out) and not out.exists() and folder.absolute() == out.absolute():
        return path  # OUT is made later
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, 'Is a directory')
        with TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise BagError(f'--report {path} cannot be written: {error.strerror}') from error


@contextmanager
def _bar(chosen: argparse.Namespace) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows how far a conversion is: in bytes of the recordings."""
    from tqdm import tqdm

    with tqdm(unit='B', unit_scale=True, desc='bev convert', disable=chosen.json, delay=1) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.bytes_total
            more = len(progress.running) - 1
            now = ''.join(f', {name}' for name in progress.running[:1])
            now += f' and {more} more' if more > 0 else ''
            bar.set_postfix_str(f'{progress.ended}/{progress.total} bags{now}', refresh=False)
            bar.update(progress.bytes_done - bar.n)

        yield show


def _say(chosen: argparse.Namespace, outcome: Outcome, seconds: float) -> None:
    """Print what was written."""
    if chosen.json:
        result = {
            'done': [drive.as_json() for drive in outcome.done],
            'kept': [drive.as_json() for drive in outcome.kept],
            'failed': dict(outcome.failed),
            'seconds': seconds,
        }
        print(json.dumps(result))
        return
    for drive in outcome.done:
        print(f'{_place(drive)}: {_numbers(drive)}')
        if left_out := _left_out(drive):
            print(f'  {left_out}')
    for drive in outcome.kept:
        print(f'{_place(drive)}: there already, {_numbers(drive)}')
    if outcome.done:
        print(f'  written in {seconds:.1f} s; {_next_step(chosen)}')
    elif outcome.kept and not outcome.failed:
        print('  nothing to do')


def _next_step(chosen: argparse.Namespace) -> str:
    if chosen.format == 'nuscenes':
        return f"open it with NuScenes(version='v1.0-trainval', dataroot='{chosen.out}')"
    return f'check it with `bev inspect {chosen.out}`'


def _place(drive: DriveSummary) -> str:
    """Return where a drive lies; those in nuScenes' format lie in one folder."""
    own = drive.path.rstrip('/').endswith(f'/{drive.name}')
    return drive.path if own else f'{drive.path}: {drive.name}'


def _numbers(drive: DriveSummary) -> str:
    long = drive.seconds >= 60
    time_said = f'{drive.seconds / 60:.1f} min' if long else f'{drive.seconds:.1f} s'
    return (
        f'{plural(drive.frames, "frame")}, {plural(drive.images, "image")}, '
        f'{plural(drive.sweeps, "lidar sweep")}, '
        f'{time_said}, {drive.metres:.0f} m, {drive.size_bytes / 1e6:.1f} MB'
    )


# What the counts of a drive say; the rest are said by their names.
_COUNTS = {
    'sets': '',  # how many there were, which is no loss
    'sets_complete': '',
    'images': '',
    'sets_between': 'sets too near the frame before',
    'sets_partial': 'sets with a camera missing',
    'sets_without_pose': 'sets without a pose',
    'sets_too_few_images': 'sets with too few images',
    'images_damaged': 'damaged images',
    'images_of_other_size': 'images of another size than CameraInfo says',
    'images_too_few': 'images in sets with too few',
    'images_too_wide': 'images too far from their set',
    'images_stale': 'images from before a jump of the clock',
    'images_without_pose': 'images without a pose',
    'images_late': 'images that came too late',
    'images_twice': 'images that came twice',
    'sweeps_without_pose': 'lidar sweeps without a pose',
    'sweeps_damaged': 'damaged lidar sweeps',
    'sweeps_twice': 'lidar sweeps that came twice',
    'sweeps_late': 'lidar sweeps that came too late',
    'sweeps_of_other_fields': 'lidar sweeps with other fields',
    'frames_without_sweep': 'frames without a lidar sweep',
    'stamps_from_bag': 'stamps taken from the bag',
    'camera_infos_unusable': 'unusable CameraInfos',
    'transforms_unusable': 'unusable transforms',
    'odometry_unusable': 'unusable poses',
    'messages_unreadable': 'unreadable messages',
    'clock_jumps': 'jumps of the clock',
    'tf_clock_jumps': "jumps of TF's clock",
    'lidar_clock_jumps': "jumps of a lidar's clock",
    'odometry_jumps': 'jumps of the odometry',
}


def _left_out(drive: DriveSummary) -> str:
    """Say what was left out or repaired, with numbers."""
    words = {name: _COUNTS.get(name, name.replace('_', ' ')) for name in drive.counts}
    said = [f'{n} {words[name]}' for name, n in drive.counts.items() if n and words[name]]
    return f'left out or repaired: {", ".join(said)}' if said else ''


def _convert_nuscenes(chosen: argparse.Namespace, out: Path) -> None:
    from bev_training.data.paths import to_path

    for name in ONLY_BAGS:
        if getattr(chosen, name) is not None and getattr(chosen, name) is not False:
            chosen.wrong_usage(f'--{name.replace("_", "-")} needs --from bags')
    if len(chosen.bags) != 1:
        chosen.wrong_usage(f'--from nuscenes takes one folder, not {len(chosen.bags)}')
    from bev_training.data.nuscenes_import import write_bags

    from tqdm import tqdm  # isort: skip

    with tqdm(unit='file', desc='bev convert', disable=chosen.json, delay=1) as bar:

        def total(files: int) -> None:
            bar.total = files

        done = write_bags(
            to_path(chosen.bags[0]),
            out,
            version=chosen.version,
            scenes=chosen.scenes,
            progress=bar.update,
            total=total,
            say=lambda text: tqdm.write(f'bev convert: {text}', file=sys.stderr),
        )
    if chosen.json:
        print(json.dumps({'bags': [str(path) for path in done]}))
        return
    for path in done:
        print(path)
    if done:
        print(f'  play one with `ros2 run bev_perception bag_player {done[0]}`')


_HELP = """\
Turn recorded drives into unlabelled frames for pretraining. A frame is the images of one instant
with their calibration, the pose of the vehicle and the lidar sweeps since the frame before.

  BAG   rosbag2 folder (mcap, db3; split, zstd), .mcap, .db3 or .bag file, or a folder that holds
        some, however deep; no ROS is needed
  OUT   OUT/NAME/ for each: manifest.json, calibration.json, frames.parquet, shards/*.tar

Both may be s3://, gs:// and the like, where fsspec's package for it is installed.

Topics are found by their types; where a recording has more than the rig's, name them. Compressed
images keep their bytes; raw ones become PNG. Headers' stamps count, as in the node.

A drive appears whole or not at all: interrupted or killed, the same command goes on where it
stopped; run again, it changes nothing. Other settings need another OUT. A recording that cannot
be used gets one line and exit code 1, after all others are done.
"""
_EXAMPLES = """\
examples:
  bev convert recordings/ frames/                       every recording below recordings/
  bev convert drive.mcap frames/ --every 0.5s --no-lidar
  bev convert bags/ frames/ --cameras front,left,right --image-topic '/cam/{camera}/image_raw'
  bev convert bags/ frames/ --camera front=/cam0/jpeg --camera-info front=/cam0/info
  bev convert bags/ frames/ --config config/convert/example.yaml --report frames.html
  bev convert s3://fleet/day1 s3://frames/day1 --executor ray
  bev convert bags/ nusc/ --format nuscenes             for tools that speak nuScenes
  bev convert nusc/ bags/ --from nuscenes               and back: bags to play into the node
"""


def add_convert(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'convert',
        help='recorded drives into frames for pretraining',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('bags', nargs='+', metavar='BAG', help='recordings, or folders of recordings')
    add('out', metavar='OUT', help='new or empty folder, or one of an earlier call')
    add(
        '--config',
        type=Path,
        metavar='FILE',
        help='YAML of the settings below, see config/convert; options override it',
    )
    add('--json', action='store_true', help='print the result as JSON')
    add('--report', metavar='FILE.html', help='also what `bev inspect` says, as HTML')
    add_settings(verb)
    _add_running(verb.add_argument_group('how it runs'))
    verb.set_defaults(run=convert, wrong_usage=verb.error)


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add('--format', choices=('drive', 'nuscenes'), help='of OUT (drive)')
    add('--workers', type=option_types.count, metavar='N', help='bags at once (cores, to 8)')
    add(
        '--executor',
        choices=('processes', 'ray'),
        help='processes here, or a Ray cluster that sees BAG and OUT (processes)',
    )
    add(
        '--from',
        dest='source',
        choices=('bags', 'nuscenes'),
        default='bags',
        help='nuscenes: BAG is a nuScenes-format data set, OUT gets a rosbag2 per scene (bags)',
    )
    add('--version', metavar='NAME', help='with --from nuscenes: its tables (the only ones)')
    add('--scenes', type=option_types.names, metavar='A,B', help='with --from nuscenes (all)')
