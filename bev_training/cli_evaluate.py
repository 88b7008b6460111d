"""The verb `evaluate`: how well a checkpoint does on labelled data."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bev_perception.errors import BagError, BevError, ConfigError
from bev_training import option_types
from bev_training.inspection.findings import plural

if TYPE_CHECKING:
    from bev_training.evaluation.measure import Measured
    from bev_training.metrics import Scores


def evaluate(chosen: argparse.Namespace) -> None:
    """Score a checkpoint, print a table and write the results.

    Raises:
        BevError: something cannot be used, or a class scores less than asked.
    """
    out = chosen.out or Path('out') / 'evaluate' / chosen.checkpoint.stem
    from bev_perception.model.checkpoint import load
    from bev_training.evaluation import report
    from bev_training.evaluation.comparison import common_classes
    from bev_training.evaluation.corruptions import check_corruptions
    from bev_training.evaluation.evaluate import check_labels
    from bev_training.evaluation.measure import measure
    from bev_training.evaluation.pictures import FOLDER, PAGE
    from bev_training.evaluation.result_folder import check_results, result_folder

    names = (report.JSON_FILE, report.TEXT_FILE, report.HTML_FILE, FOLDER, PAGE)
    check_results(out, kind=report.KIND, names=names)  # before anything that takes long
    corruptions = None if chosen.corruptions == ('all',) else chosen.corruptions
    check_corruptions(corruptions or (), chosen.severities)
    loaded = load(chosen.checkpoint)
    weights, config = report.checkpoint_json(loaded), loaded.model.config
    wanted = dict(chosen.min_iou or ())
    for name in wanted:
        if name not in config.classes:
            known = ', '.join(config.classes)
            raise ConfigError(f'--min-iou {name}: {loaded.path} has no such class, but {known}')
    other = None if chosen.against is None else load(chosen.against)
    if other is not None:
        common = common_classes(config.classes, other.model.config.classes, str(other.path))
        check_labels(other, config.classes, config.grid, common)
    from bev_training.data.sources import open_source

    split = chosen.split or default_split(chosen.data)
    with _bar(chosen) as show:
        source = open_source(
            chosen.data,
            classes=config.classes,
            grid=config.grid,
            split=split,
            version=chosen.version,
            progress=show,
        )
        for note in source.notes:
            print(f'bev evaluate: {note}', file=sys.stderr)
        count = min(len(source), chosen.limit or len(source))
        data = {'path': str(chosen.data), 'split': split, 'version': chosen.version}
        data |= {'of': str(len(source))} if count < len(source) else {}
        with result_folder(out, kind=report.KIND, names=names) as work:
            measured = measure(
                loaded,
                source,
                other=other,
                limit=chosen.limit,
                device=chosen.device,
                precision=chosen.precision,
                corruptions=corruptions,
                severities=chosen.severities,
                lost_cameras=chosen.lost_cameras,
                seed=chosen.seed,
                pictures=chosen.pictures,
                folder=work,
                progress=show,
            )
            text = report.evaluation_text(
                measured.evaluation,
                data=data,
                comparison=measured.comparison,
                robustness=measured.robustness,
            )
            described = report.evaluation_json(
                measured.evaluation,
                checkpoint=weights,
                data=data,
                command=['bev', *sys.argv[1:]],
                comparison=measured.comparison,
                robustness=measured.robustness,
            )
            report.write_report(work, report.KIND, described, text)
            _write_html(work / report.HTML_FILE, measured, described)
    if chosen.json:
        print(json.dumps({**described, 'out': str(out)}))
    else:
        print(text, end='')
        print(f'Results: {out}')
        if measured.pictures:
            drawn = plural(len(measured.pictures), 'sample')
            print(f'Pictures of {drawn}, evenly spaced: {out / PAGE}')
        print(f'Report: {out / report.HTML_FILE}')
    _check(measured.evaluation.scores, wanted)


def _write_html(path: Path, measured: Measured, described: dict[str, Any]) -> None:
    """Write the page.

    Raises:
        BagError: it cannot be written.
    """
    from bev_training.data.paths import write_whole
    from bev_training.evaluation.report_html import html_report

    page = html_report(
        measured.evaluation,
        described,
        comparison=measured.comparison,
        robustness=measured.robustness,
        pictures=measured.pictures,
    )
    try:
        write_whole(path, page.encode())
    except OSError as error:
        raise BagError(f'{path} cannot be written: {error.strerror}') from error


def default_split(data: str) -> str:
    """Return 'val' for a data set in nuScenes' format, whose default is what to train on."""
    from bev_training.data.sources import has_tables

    return 'val' if '://' not in data and has_tables(Path(data)) else ''


def _check(scores: Scores, wanted: dict[str, float]) -> None:
    """Raise BevError if a class scores less than is wanted, or the truth does not have it."""
    low = []
    for name, least in wanted.items():
        iou = scores.iou(name)
        if math.isnan(iou):
            low.append(f'the truth does not have {name}')
        elif iou < least:
            low.append(f'{name} {iou:.3f}, --min-iou is {least:g}')
    if low:
        sys.stdout.flush()  # before the line on stderr
        raise BevError(f'IoU (visible, at 0.5) is too low: {"; ".join(low)}')


@contextmanager
def _bar(chosen: argparse.Namespace) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows how far what is."""
    from tqdm import tqdm

    with tqdm(desc='bev evaluate', disable=chosen.json, delay=1) as bar:

        def show(what: str, done: int, total: int) -> None:
            if bar.total != total or not bar.desc.endswith(f'{what}: '):
                bar.reset(total)
                bar.set_description(f'bev evaluate: {what}', refresh=False)
            bar.update(done - bar.n)

        yield show


def least_iou(text: str) -> tuple[str, float]:
    """Read CLASS=IOU."""
    name, value = option_types.pair(text)
    try:
        least = float(value)
    except ValueError:
        least = -1.0
    if not 0 <= least <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not like vehicle=0.3')
    return name, least


def add_running(verb: argparse.ArgumentParser) -> None:
    """Add the options that say where the network runs."""
    add: Any = verb.add_argument
    add('--device', default='auto', help='auto, cpu or cuda (auto)')
    add(
        '--precision',
        choices=('float32', 'bfloat16', 'float16'),
        default='float32',
        help='of the network; the node has the same choice (float32)',
    )


_HELP = """\
Score a checkpoint on labelled data, on the path that the node takes: same decoding, same
preparation, one sample at a time, none left out; a temporal network remembers as it would there.

  CKPT  a .safetensors file
  DATA  converted drives with labels (`bev convert`, then `bev label`), or a data set in nuScenes'
        format

IoU is pooled over all samples. It is given at 0.5 and at the best threshold, for two conventions:
'visible' leaves out objects that are seen to 40 % or less, 'all' counts them. It counts all cells
whose truth is known, as papers do; 'seen' are those of them where a camera sees, which is where
the node publishes a value.

Beside it stand baselines that need no network: 'empty' (nothing is predicted), 'frequency' (how
often a class is in each cell) and 'ground' (the images projected on the ground: how often a class
is where it has that colour, at that distance). They learn from the evaluated scenes, of which the
scored ones are left out. A network that does not beat them has learned nothing from the images.

--against OTHER scores a second checkpoint on the same samples and gives the differences with 95 %
intervals. --corruptions disturbs the images as nuScenes-C does (camera_crash, frame_lost,
motion_blur, color_quant, brightness, low_light, fog, snow), --lost-cameras takes cameras away and
tells the network so; both are the same again with the same --seed, and each way takes as long as
a whole evaluation, so try --limit first. Corruption errors (mCE) are relative to OTHER where it
has the same classes, else to the baseline 'frequency'.

  OUT/evaluation.json  everything: by class, convention, threshold, distance, weather, place, lost
                       cameras; calibration, baselines, robustness, comparison
  OUT/evaluation.txt   the tables that are printed
  OUT/report.html      all of it with plots and pictures, in one file that any browser opens
  OUT/pictures.png     some samples, evenly spaced; each one in OUT/pictures/
"""
_EXAMPLES = """\
examples:
  bev evaluate runs/town/best.safetensors frames/val
  bev evaluate model.safetensors /data/nuscenes --split val --out out/nuscenes
  bev evaluate model.safetensors frames/val --limit 50 --min-iou vehicle=0.3 --min-iou \\
      drivable_area=0.7
  bev evaluate new.safetensors frames/val --against old.safetensors
  bev evaluate model.safetensors frames/val --limit 100 --corruptions all --lost-cameras
  bev evaluate model.safetensors frames/val --corruptions fog,snow --severities 3

exit status: 0; 1 where something cannot be used, or scores less than --min-iou (the results are
written all the same); 2 wrong usage
"""


def add_evaluate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'evaluate',
        help='IoU of a checkpoint on labelled data',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('checkpoint', type=Path, metavar='CKPT', help='.safetensors')
    add('data', metavar='DATA', help='drives with labels, or a nuScenes-format folder')
    add('--out', type=Path, help='folder of the results (out/evaluate/CKPT)')
    add('--split', default='', help='of nuScenes-format data, or a file of scenes (val)')
    add('--version', default='', metavar='NAME', help='of its tables (the only ones)')
    add('--limit', type=option_types.count, default=0, metavar='N', help='samples (all)')
    add('--pictures', type=option_types.whole, default=4, metavar='N', help='drawn samples (4)')
    add(
        '--min-iou',
        action='append',
        type=least_iou,
        metavar='CLASS=IOU',
        help="exit 1 where a class scores less ('visible' at 0.5) or has no truth; repeatable",
    )
    add('--against', type=Path, metavar='OTHER', help='a second checkpoint on the same samples')
    add(
        '--corruptions',
        type=option_types.names,
        default=(),
        metavar='NAMES',
        help='robustness against these: all, or fog,snow and the like (none)',
    )
    add(
        '--severities',
        type=option_types.numbers,
        default=(1, 2, 3),
        metavar='N,N',
        help='of corruptions: 1 easy, 2 mid, 3 hard (1,2,3)',
    )
    add('--lost-cameras', action='store_true', help='also with 1, 2, ... cameras less')
    add('--seed', type=option_types.whole, default=0, metavar='N', help='of these two (0)')
    add('--json', action='store_true', help='print evaluation.json instead of the table')
    add_running(verb)
    verb.set_defaults(run=evaluate, wrong_usage=verb.error)
