"""The verb `finetune`: labelled samples, many or few, become a network for the node."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bev_training.fit.loop import FitResult


def finetune(chosen: argparse.Namespace) -> None:
    """Train a network on labelled samples."""
    from bev_training.fit.recipes import find_recipe, read_recipe

    given = {'data.train': chosen.train, 'data.val': chosen.val}
    overrides = [(name, value) for name, value in given.items() if value is not None]
    config = read_recipe(find_recipe(chosen.config), [*overrides, *chosen.set])
    from bev_training.fit.loop import fit

    with _opening(chosen) as progress:
        result = fit(
            config,
            Path(chosen.out),
            init=chosen.init,
            resume=chosen.resume,
            command=shlex.join(['bev', *sys.argv[1:]]),
            say=lambda line: None if chosen.json else _say(line),
            progress=progress,
            bar=not chosen.json,
        )
    if result.rank == 0:
        _tell(chosen, result)


def _setting(text: str) -> tuple[str, str]:
    """Read NAME=VALUE; the value may be empty, which is text without letters."""
    name, equals, value = text.partition('=')
    if not (name and equals):
        raise argparse.ArgumentTypeError(f'{text!r} is not like optimizer.lr=1e-4')
    return name, value


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)


@contextmanager
def _opening(chosen: argparse.Namespace) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows how far the opening of data is, where that takes long."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def show(what: str, done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(desc='bev finetune', disable=chosen.json, delay=1, leave=False))
        bars[0].set_postfix_str(what, refresh=False)
        bars[0].total = total
        bars[0].update(done - bars[0].n)
        if done >= total:
            bars.pop().close()

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _tell(chosen: argparse.Namespace, result: FitResult) -> None:
    """Print what came out, and where it lies."""
    from bev_training.fit import out_folder

    final, best = result.out / out_folder.FINAL, result.out / out_folder.BEST
    if chosen.json:
        found = {
            'out': str(result.out),
            'final': str(final),
            'best': str(best) if result.best else None,
            'best_mean_iou': result.best[0] if result.best else None,
            'best_step': result.best[1] if result.best else None,
            'steps': result.steps,
            'scores': result.scores,
            'seconds': round(result.seconds, 2),
        }
        print(json.dumps(found))
        return
    print(f'{final}: after {result.steps} steps, {result.seconds:.1f} s')
    if result.best:
        print(f'{best}: after step {result.best[1]}, mean IoU {result.best[0]:.3f}')
    print(f'  curves in {result.out / out_folder.CURVE} and {result.out / out_folder.TABLE}')
    print(f'  score it with `bev evaluate {best if result.best else final} DATA`')


_HELP = """\
Train a network on labelled samples, all of them or few.

  OUT/final.safetensors    the network after the last step, ready for the node
  OUT/best.safetensors     the one with the best mean IoU of all validations
  OUT/learning_curve.png   loss and validation IoU against steps
  OUT/metrics.csv          a row per step; OUT/tensorboard/ holds the same
  OUT/config.yaml          all settings, also those that the recipe left out
  OUT/labels.txt           the samples whose labels were used
  OUT/last.ckpt            what --resume goes on with

A recipe is a YAML file with the whole run in it; those in config/train are known by name. Ctrl-C
finishes the step and saves it; the same command with --resume goes on as if nothing had been, on
the same samples (on a CPU to the same bits). With --resume from the start, a command may simply be
repeated until it is done.

Where the loss is no number any more, the run stops and names the samples; last.ckpt stays.
"""
_EXAMPLES = """\
examples:
  bev finetune --config debug --train DRIVES --out /tmp/debug     three tiny steps: does it run?
  bev finetune --config town --train town/train --val town/val --out runs/town
  bev finetune --config town ... --out runs/few --set data.labels_percent=1
  bev finetune --config town ... --out runs/few --set data.labels_percent=1 --resume
  bev finetune --config town ... --out runs/pre --init pretrained.safetensors
  bev finetune --config nuscenes_vehicle_1pct --train /data/nuscenes --out runs/veh1
  bev finetune --config my.yaml --out runs/b --set optimizer.lr=1e-4 --set steps=2000
  bev finetune --config my.yaml --out runs/c --set devices=2      two processes, one per GPU
  torchrun --nnodes 2 --nproc-per-node 4 -m bev_training.cli finetune --config my.yaml \\
      --out /shared/runs/d --set devices=4 --set nodes=2          and several machines
"""


def add_finetune(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'finetune',
        help='train a network on labelled samples',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add(
        '--config',
        required=True,
        metavar='RECIPE',
        help='YAML file, or the name of one in config/train',
    )
    add('--out', required=True, metavar='OUT', help='new or empty folder')
    add('--train', metavar='DIR', help="labelled drives, or a data set in nuScenes' format")
    add(
        '--val',
        metavar='DIR',
        help="likewise; nuScenes' format has its own split for that (else: no validation)",
    )
    add(
        '--init',
        type=Path,
        metavar='CKPT',
        help='start from this network; what of it was loaded is said',
    )
    add('--resume', action='store_true', help='go on with the run in OUT, if there is one')
    add(
        '--set',
        action='append',
        default=[],
        type=_setting,
        metavar='NAME=VALUE',
        help='change a setting of the recipe, such as optimizer.lr=1e-4; may be repeated',
    )
    add('--json', action='store_true', help='print the result as JSON, and nothing else')
    verb.set_defaults(run=finetune, wrong_usage=verb.error)
