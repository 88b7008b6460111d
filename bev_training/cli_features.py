"""The verb `features`: what a pretrained network knows of single voxels, as pictures."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from bev_perception.errors import BagError
from bev_training import option_types
from bev_training.cli_evaluate import default_split

_KIND = 'features'
_JSON = f'{_KIND}.json'
_THRESHOLD = 0.5


def features(chosen: argparse.Namespace) -> None:
    """Draw what a pretrained network says of samples.

    Raises:
        BevError: something cannot be used; one line.
    """
    from tqdm import tqdm

    from bev_perception.predictor import choose_device
    from bev_training.data.paths import write_whole
    from bev_training.data.sources import open_source
    from bev_training.evaluation.result_folder import check_results, result_folder
    from bev_training.qualitative import drawing
    from bev_training.qualitative.pretrained import load_pretrained

    names = (_JSON, drawing.OVERVIEW, drawing.RECORDING, drawing.FOLDER)
    check_results(chosen.out, kind=_KIND, names=names)  # before anything that takes long
    if chosen.rerun:
        import rerun  # noqa: F401  (likewise)
    pretrained = load_pretrained(chosen.run_folder, choose_device(chosen.device))
    config = pretrained.config
    teacher = None
    if chosen.teacher:
        from bev_training.teachers.load import load_teacher

        teacher = load_teacher(config.teacher).to(pretrained.device)
    source = open_source(
        chosen.data,
        classes=(),
        grid=config.model.grid,
        split=chosen.split or default_split(chosen.data),
        version=chosen.version,
        cache=Path(config.data.cache) if config.data.cache else None,
    )
    indices = drawing.choose_samples(source, chosen.sample, chosen.samples)
    by_lidar = source.lidars and chosen.threshold is None
    wishes = drawing.Wishes(
        voxels_m=tuple(chosen.voxel),
        occupied=chosen.occupied or ('lidar' if by_lidar else 'predicted'),
        threshold=_THRESHOLD if chosen.threshold is None else chosen.threshold,
        radius_m=chosen.radius,
        rerun=chosen.rerun,
    )
    with (
        result_folder(chosen.out, kind=_KIND, names=names) as work,
        tqdm(desc='bev features', disable=chosen.json, delay=1, leave=False) as bar,
    ):

        def show(what: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        found = drawing.draw(
            pretrained, source, indices, work, wishes, teacher=teacher, progress=show
        )
        described = {
            'kind': _KIND,
            'run': str(chosen.run_folder),
            'data': str(chosen.data),
            'command': shlex.join(['bev', *sys.argv[1:]]),
            **found,
        }
        try:
            write_whole(work / _JSON, (json.dumps(described, indent=1) + '\n').encode())
        except OSError as error:
            raise BagError(f'{chosen.out} cannot be written: {error.strerror}') from error
    if chosen.json:
        print(json.dumps({**described, 'out': str(chosen.out)}))
        return
    for sample in found['samples']:
        iou = sample['occupancy_iou']
        said = '' if iou is None else f', occupancy IoU {iou:.3f}'
        print(f'{sample["key"]}: {sample["voxels"]} voxels{said}')
    print(f'All in the same colours: {chosen.out / drawing.OVERVIEW}')
    print(f'Each with its likeness to chosen voxels: {chosen.out / drawing.FOLDER}')
    if chosen.rerun:
        path = chosen.out / drawing.RECORDING
        print(f'Recording: {path} (open it with `rerun {path}`)')


def place(text: str) -> tuple[float, float, float]:
    """Read X,Y,Z in metres."""
    try:
        x, y, z = (float(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not like 12.5,-3,0.8') from None
    return x, y, z


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e4:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above zero')
    return value


_HELP = """\
Draw what a network learned with `bev pretrain` (occfeat) predicts: the features of the voxels that
hold a lidar point, or that it takes for occupied, and that a camera sees.

  OUT/features.png                     all samples, in the same colours
  OUT/samples/NN_KEY_features.png      one sample: voxels over the images, from outside, from above
  OUT/samples/NN_KEY_similarity.png    how alike its voxels are to chosen ones of the first sample
  OUT/features.json                    the figures
  OUT/features.rrd                     with --rerun: the same in 3D, for the viewer rerun

Colours are the three principal components of the first sample's features, brought to unit length
(with --teacher, of its features and the teacher's); the same mapping serves all samples, so the
same colour is the same feature. Likeness is the cosine of two features.

Unless --voxel says otherwise, two voxels are chosen: the one nearest to the ground 8 m ahead, and
one on what may be a car: of the things that end 0.6 to 2.2 m above the ground and are 1.5 to 7 m
long, the nearest one beyond 3 m. For another, click a voxel in rerun and give its centre to
--voxel.
"""
_EXAMPLES = """\
examples:
  bev features runs/occfeat frames/val --out pictures
  bev features runs/occfeat frames/val --out pictures --sample drive-0003/000012 --voxel 12,-3,0.8
  bev features runs/occfeat frames/val --out pictures --teacher --rerun
  bev features runs/occfeat /data/nuscenes --out pictures --samples 4 --occupied predicted
"""


def add_features(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'features',
        help='pictures of what a pretrained network knows',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('run_folder', type=Path, metavar='RUN', help='OUT of `bev pretrain`')
    add('data', metavar='DATA', help='drives, or a nuScenes-format folder')
    add('--out', type=Path, required=True, metavar='OUT', help='folder of the pictures')
    add(
        '--sample',
        action='append',
        default=[],
        metavar='KEY',
        help='such as drive-0003/000012; repeatable',
    )
    add(
        '--samples',
        type=option_types.count,
        default=2,
        metavar='N',
        help='without --sample: so many, evenly spaced (2)',
    )
    add(
        '--voxel',
        action='append',
        default=[],
        type=place,
        metavar='X,Y,Z',
        help='metres in the ego frame of the first sample (x forward, y left), behind it '
        '--voxel=-3,9,0; repeatable',
    )
    add(
        '--occupied',
        choices=('predicted', 'lidar'),
        help='which voxels: those with a lidar point (where there is a lidar), or those predicted '
        'to be occupied',
    )
    add(
        '--threshold',
        type=_above_zero,
        metavar='P',
        help='predicted to be occupied: with at least this probability '
        f'({_THRESHOLD:g}; implies --occupied predicted)',
    )
    add(
        '--radius',
        type=_above_zero,
        default=0.0,
        metavar='M',
        help="of views from outside (the grid's, up to 30)",
    )
    add(
        '--teacher',
        action='store_true',
        help="also draw the teacher's features; needs its weights",
    )
    add('--rerun', action='store_true', help='also a recording; needs rerun-sdk')
    add('--split', default='', help='of nuScenes-format data, or a file of scenes (val)')
    add('--version', default='', metavar='NAME', help='of its tables (the only ones)')
    add('--device', default='auto', help='auto, cpu or cuda (auto)')
    add('--json', action='store_true', help='print features.json, and nothing else')
    verb.set_defaults(run=features, wrong_usage=verb.error)
