"""The command line `bev`. Every verb is one function that can be called from Python too.

Exit codes: 0 success, 1 bad input or a failed step (one line on stderr says which file, field or
value), 2 wrong usage, 130 stopped with Ctrl-C, 141 where nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bev_perception.errors import BevError
from bev_training.cli_ablate import add_ablate
from bev_training.cli_convert import add_convert
from bev_training.cli_evaluate import add_evaluate
from bev_training.cli_features import add_features
from bev_training.cli_finetune import add_finetune
from bev_training.cli_import import add_import
from bev_training.cli_inspect import add_inspect
from bev_training.cli_label import add_label
from bev_training.cli_pretrain import add_pretrain
from bev_training.cli_replay import add_replay
from bev_training.cli_synth import add_preview, add_synth
from bev_training.stopping import stoppable

# Modules that an installation may lack, and what to do then.
_OPTIONAL = {
    'embreex': 'rendering needs the package embreex, which is not installed: pip install '
    'embreex (x86-64 only)',
    'shapely': 'towns need the package shapely, which is not installed: pip install shapely',
    'matplotlib': 'pictures need matplotlib, which is not installed: pip install matplotlib',
    'pyarrow': 'drives need the package pyarrow, which is not installed: pip install pyarrow',
    'nuscenes': "nuScenes' format needs its devkit, which is not installed: make env-train",
    'lightning_fabric': 'training needs lightning-fabric, which is not installed: make env-train',
    'jsonargparse': 'recipes need jsonargparse, which is not installed: make env-train',
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
    add_synth(verbs)
    add_preview(verbs)
    _add_demo(verbs)
    add_convert(verbs)
    add_inspect(verbs)
    add_label(verbs)
    add_pretrain(verbs)
    add_finetune(verbs)
    add_evaluate(verbs)
    add_features(verbs)
    add_ablate(verbs)
    add_replay(verbs)
    add_import(verbs)
    return parser


if __name__ == '__main__':
    raise SystemExit(main())
