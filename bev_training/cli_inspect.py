"""The verb `inspect`: what is wrong with recordings and converted drives."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bev_perception.errors import BagError, BevError
from bev_training.convert_options import add_settings, config_of

if TYPE_CHECKING:
    from bev_training.inspection.findings import Subject


def inspect(chosen: argparse.Namespace) -> None:
    """Look at recordings and drives, print what was found, and exit with 1 where it is bad.

    Raises:
        BevError: something is bad, and what was printed is not on a terminal; the first of it.
        SystemExit: something is bad, and the terminal shows it already.
    """
    from bev_training.inspection.findings import count_by_severity
    from bev_training.inspection.rules import RULES

    if chosen.rules:
        if chosen.json:
            print(json.dumps({name: rule._asdict() for name, rule in RULES.items()}))
        else:
            for name, rule in RULES.items():
                print(f'{name}  {rule.severity:<7}  {rule.title}\n    {rule.advice}')
        return
    if not chosen.paths:
        chosen.wrong_usage('name a recording or a drive (or --rules)')
    config = config_of(chosen)
    from bev_training.data.paths import to_path
    from bev_training.inspection.report import inspect_paths, write_page
    from bev_training.inspection.report_text import text_report

    pages = [page for page in (chosen.html, chosen.png) if page is not None]
    with _bar(chosen) as progress:
        subjects = inspect_paths(
            [to_path(path) for path in chosen.paths],
            config,
            quick=chosen.quick,
            plots=bool(pages),
            progress=progress,
        )
    if chosen.html is not None:
        write_page(to_path(chosen.html), subjects)
    pictures = _write_pictures(chosen.png, subjects) if chosen.png is not None else []
    counts = count_by_severity(subjects)
    if chosen.json:
        described = {
            'errors': counts['error'],
            'warnings': counts['warning'],
            'subjects': [subject.as_json() for subject in subjects],
        }
        print(json.dumps(described))
    else:
        print(text_report(subjects), end='')
        for page in [*([chosen.html] if chosen.html else []), *pictures]:
            print(f'Report: {page}')
    bad = ['error', 'warning'] if chosen.strict else ['error']
    first = next((f for s in subjects for f in s.findings if f.severity in bad), None)
    if first is not None:
        sys.stdout.flush()  # before the line on stderr
        if sys.stdout.isatty() and not chosen.json:
            raise SystemExit(1)  # who looks has just read it
        where = f'{first.where}: ' if first.where else ''
        raise BevError(f'{first.subject}: {first.rule} {where}{first.text}')


def _write_pictures(folder: str, subjects: Sequence[Subject]) -> list[str]:
    """Write every plot as a file, NUMBER_NAME.png; return the folder where there is one."""
    from bev_training.data.paths import to_path, write_whole
    from bev_training.inspection.report_text import short_names

    names = [re.sub(r'[^\w.-]+', '_', name) for name in short_names([s.path for s in subjects])]
    plots = [
        (name, png)
        for name, subject in zip(names, subjects, strict=True)
        for png in subject.plots.values()
    ]
    for number, (name, png) in enumerate(plots):
        path = to_path(folder) / f'{number:03d}_{name}.png'
        try:
            write_whole(path, png)
        except OSError as error:
            raise BagError(f'{path} cannot be written: {error.strerror or error}') from error
    return [folder] if plots else []


@contextmanager
def _bar(chosen: argparse.Namespace) -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows on a terminal how far the one that is looked at is."""
    from tqdm import tqdm

    form = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}'
    disable = True if chosen.json else None  # None: where stderr is no terminal
    with tqdm(
        total=100, desc='bev inspect', disable=disable, delay=1, leave=False, bar_format=form
    ) as bar:

        def show(path: str, share: float) -> None:
            bar.set_description_str(f'bev inspect {path[-40:]}', refresh=False)
            bar.update(round(100 * share) - bar.n)

        yield show


_HELP = """\
Measure recordings and converted drives, and say what is wrong with them and what to do.

Of a recording (one pass, nothing is written): rates and gaps of every sensor, clocks, sets of
images and the synchroniser's settings that suit them, transforms and poses, calibration, images,
sweeps, and how many frames `bev convert` would write with the same options.

Of a drive (a folder that `bev convert` wrote, or OUT with several): hashes, images, poses, lidar
points inside the images.
"""
_EXAMPLES = """\
examples:
  bev inspect /bags/monday                     every recording below
  bev inspect drive.mcap --html report.html    with plots, in one file
  bev inspect /data/frames --strict            exit 1 also on warnings
  bev inspect drive.mcap --quick               its first minute
  bev inspect --rules                          what the rules mean

exit status: 0; 1 where there is an error (with --strict: or a warning); 2 wrong usage
"""


def add_inspect(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'inspect',
        help='what is wrong with a recording or a drive',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('paths', nargs='*', metavar='PATH', help='recordings, drives, or folders of them')
    add('--strict', action='store_true', help='exit with 1 on warnings too')
    add('--quick', action='store_true', help='a minute of recordings; only sizes of drives')
    add('--json', action='store_true', help='print all that was measured as JSON')
    add('--html', metavar='FILE', help='also write a page with plots')
    add('--png', metavar='DIR', help='also write the plots as files')
    add('--rules', action='store_true', help='print the rules')
    add(
        '--config',
        type=Path,
        metavar='FILE',
        help='YAML of the settings below, which are those of `bev convert`',
    )
    add_settings(verb)
    verb.set_defaults(run=inspect, wrong_usage=verb.error)
