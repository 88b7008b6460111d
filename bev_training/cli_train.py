"""What `bev finetune` and `bev pretrain` have in common: their options, and a run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bev_perception.errors import ConfigError

if TYPE_CHECKING:
    from bev_training.fit.loop import FitResult
    from bev_training.fit.settings import TrainConfig


def train(chosen: argparse.Namespace) -> FitResult:
    """Run a recipe.

    Raises:
        BevError: something cannot be used; one line.
    """
    from bev_training.fit.recipes import find_recipe, read_recipe

    given = {'data.train': chosen.train, 'data.val': chosen.val}
    overrides = [(name, value) for name, value in given.items() if value is not None]
    config = read_recipe(find_recipe(chosen.config), [*overrides, *chosen.set])
    if config.verb != f'bev {chosen.verb}':
        raise ConfigError(f'{chosen.config} is a recipe for `{config.verb}`')
    from bev_training.fit.loop import fit

    with _opening(config, chosen.json) as progress:
        return fit(
            config,
            Path(chosen.out),
            init=chosen.init,
            resume=chosen.resume,
            command=shlex.join(['bev', *sys.argv[1:]]),
            say=lambda line: None if chosen.json else _say(line),
            progress=progress,
            bar=not chosen.json,
        )


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
def _opening(config: TrainConfig, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows how far the opening of data is, where that takes long."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def show(what: str, done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(desc=config.verb, disable=quiet, delay=1, leave=False))
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


def add_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of a training run."""
    add = verb.add_argument
    add(
        '--config',
        required=True,
        metavar='RECIPE',
        help='YAML file, or the name of one in config/train',
    )
    add('--out', required=True, metavar='OUT', help='new or empty folder')
    add('--train', metavar='DIR', help="drives, or a data set in nuScenes' format")
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
