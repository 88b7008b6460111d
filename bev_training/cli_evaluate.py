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

from bev_perception.errors import BevError, ConfigError
from bev_training import option_types
from bev_training.inspection.findings import plural

if TYPE_CHECKING:
    from bev_training.metrics import Scores


def evaluate(chosen: argparse.Namespace) -> None:
    """Score a checkpoint, print a table and write the results.

    Raises:
        BevError: something cannot be used, or a class scores less than asked.
    """
    out = chosen.out or Path('out') / 'evaluate' / chosen.checkpoint.stem
    from bev_perception.model.checkpoint import load
    from bev_training.evaluation import report
    from bev_training.evaluation.evaluate import evaluate as run_evaluation
    from bev_training.evaluation.evaluate import evenly_spaced
    from bev_training.evaluation.pictures import FOLDER, PAGE, SamplePictures
    from bev_training.evaluation.result_folder import check_results, result_folder

    names = (report.JSON_FILE, report.TEXT_FILE, FOLDER, PAGE)
    check_results(out, kind=report.KIND, names=names)  # before anything that takes long
    loaded = load(chosen.checkpoint)
    weights, config = report.checkpoint_json(loaded), loaded.model.config
    wanted = dict(chosen.min_iou or ())
    for name in wanted:
        if name not in config.classes:
            known = ', '.join(config.classes)
            raise ConfigError(f'--min-iou {name}: {loaded.path} has no such class, but {known}')
    from bev_training.data.sources import open_source

    split = chosen.split or _default_split(chosen.data)
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
        drawn = [
            evenly_spaced(len(source), count)[i] for i in evenly_spaced(count, chosen.pictures)
        ]
        data = {'path': str(chosen.data), 'split': split, 'version': chosen.version}
        data |= {'of': str(len(source))} if count < len(source) else {}
        with result_folder(out, kind=report.KIND, names=names) as work:
            pictures = SamplePictures(work, drawn, config.grid)
            evaluation = run_evaluation(
                loaded,
                source,
                limit=chosen.limit,
                device=chosen.device,
                precision=chosen.precision,
                progress=lambda done, total: show('evaluate', done, total),
                show=pictures.show,
            )
            page = pictures.finish()
            text = report.evaluation_text(evaluation, data=data)
            described = report.evaluation_json(
                evaluation, checkpoint=weights, data=data, command=['bev', *sys.argv[1:]]
            )
            report.write_report(work, report.KIND, described, text)
    if chosen.json:
        print(json.dumps({**described, 'out': str(out)}))
    else:
        print(text, end='')
        print(f'Results: {out}')
        if page is not None:
            print(f'Pictures of {plural(len(drawn), "sample")}, evenly spaced: {out / page.name}')
    _check(evaluation.scores, wanted)


def _default_split(data: str) -> str:
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
preparation, one sample at a time, none left out.

  CKPT  a .safetensors file
  DATA  converted drives with labels (`bev convert`, then `bev label`), or a data set in nuScenes'
        format

IoU is pooled over all samples. It is given at 0.5 and at the best threshold, for two conventions:
'visible' leaves out objects that are seen to 40 % or less, 'all' counts them. It counts all cells
whose truth is known, as papers do; 'seen' are those of them where a camera sees, which is where
the node publishes a value.

  OUT/evaluation.json  everything: by class, convention, threshold, distance, weather
  OUT/evaluation.txt   the table that is printed
  OUT/pictures.png     some samples, evenly spaced; each one in OUT/pictures/
"""
_EXAMPLES = """\
examples:
  bev evaluate runs/town/best.safetensors frames/val
  bev evaluate model.safetensors /data/nuscenes --split val --out out/nuscenes
  bev evaluate model.safetensors frames/val --limit 50 --min-iou vehicle=0.3 --min-iou \\
      drivable_area=0.7

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
    add('--json', action='store_true', help='print evaluation.json instead of the table')
    add_running(verb)
    verb.set_defaults(run=evaluate, wrong_usage=verb.error)
