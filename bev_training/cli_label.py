"""The verb `label`: the truth of synthetic drives becomes labels of their converted frames."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bev_perception.errors import BevError
from bev_training import option_types
from bev_training.inspection.findings import plural

if TYPE_CHECKING:
    from bev_training.data.truth_labels import LabelledDrive, LabelOutcome

_MAX_WORKERS = 8
_NAMED = 5  # drives without truth


def label(chosen: argparse.Namespace) -> None:
    """Write labels beside the frames, and say where they lie.

    Raises:
        BevError: nothing matched, or a drive could not be labelled.
    """
    from tqdm import tqdm

    from bev_training.data.truth_labels import label_drives

    began = time.monotonic()
    with tqdm(unit='frame', desc='bev label', disable=chosen.json, delay=1) as bar:

        def total(frames: int) -> None:
            bar.total = frames

        outcome = label_drives(
            chosen.frames,
            chosen.drives,
            overwrite=chosen.overwrite,
            workers=chosen.workers or min(_MAX_WORKERS, os.cpu_count() or 1),
            progress=bar.update,
            total=total,
        )
    seconds = round(time.monotonic() - began, 2)
    if chosen.json:
        print(json.dumps(_described(outcome, seconds)))
    else:
        _say(outcome, chosen.frames, seconds)
    failures = [f'{name}: {reason}' for name, reason in outcome.failed.items()]
    for failure in failures[:-1]:
        print(f'bev label: {failure}', file=sys.stderr)
    if failures:
        raise BevError(failures[-1])


def _say(outcome: LabelOutcome, frames: str, seconds: float) -> None:
    for one in outcome.done:
        print(f'{one.labels}: {plural(one.frames, "frame")}, from {one.truth}')
    for one in outcome.kept:
        print(f'{one.labels}: there already')
    if outcome.unmatched:
        names = ', '.join(outcome.unmatched[:_NAMED])
        more = len(outcome.unmatched) - _NAMED
        print(
            f'  {plural(len(outcome.unmatched), "drive")} of {frames} without truth: {names}'
            f'{f" and {more} more" if more > 0 else ""}'
        )
    if outcome.done:
        count = sum(one.frames for one in outcome.done)
        print(f'  {plural(count, "frame")} labelled in {seconds:.1f} s')
    elif outcome.kept and not outcome.failed:
        print('  nothing to do (--overwrite writes them again)')


def _described(outcome: LabelOutcome, seconds: float) -> dict[str, object]:
    def each(one: LabelledDrive) -> dict[str, object]:
        named = {'labels': str(one.labels), 'truth': str(one.truth)}
        return {'name': one.name, 'frames': one.frames, **named}

    return {
        'done': [each(one) for one in outcome.done],
        'kept': [each(one) for one in outcome.kept],
        'unmatched': list(outcome.unmatched),
        'failed': dict(outcome.failed),
        'seconds': seconds,
    }


_HELP = """\
Write the truth of synthetic drives beside the frames that `bev convert` made of their bags: class
grids and the objects' boxes at the instant of every frame.

  FRAMES  a converted drive, or OUT of `bev convert` with several
  DRIVES  what `bev synth` wrote: drives, or folders of them

FRAMES/NAME/labels holds them, see docs/training.md, which also tells how to write labels of your
own there. A drive is known by its recording, whatever it is called. Labels that are there already
stay.
"""
_EXAMPLES = """\
examples:
  bev synth town/ --drives 20 --no-image-truth
  bev convert town/ frames/
  bev label frames/ town/
"""


def add_label(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'label',
        help='the truth of synthetic drives, as labels of their frames',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('frames', metavar='FRAMES', help='what `bev convert` wrote')
    add('drives', nargs='+', type=Path, metavar='DRIVES', help='what `bev synth` wrote')
    add('--overwrite', action='store_true', help='replace labels that are there')
    add('--workers', type=option_types.count, metavar='N', help='processes (cores, to 8)')
    add('--json', action='store_true', help='print the result as JSON')
    verb.set_defaults(run=label, wrong_usage=verb.error)
