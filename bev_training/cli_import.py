"""The verb `import`: checkpoints of other projects become ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bev_training import option_types
from bev_training.inspection.findings import plural

if TYPE_CHECKING:
    from bev_training.import_simple_bev import Imported

_NAMED = 9  # weights that are left out


def import_weights(chosen: argparse.Namespace) -> None:
    """Write a checkpoint of ours and say what was taken over.

    Raises:
        BevError: the file cannot be read or holds other weights.
    """
    from bev_training.import_simple_bev import SIZE_PX, import_checkpoint

    done = import_checkpoint(chosen.checkpoint, chosen.out, size_px=chosen.size or SIZE_PX)
    print(json.dumps(_described(done)) if chosen.json else _said(done))


def _said(done: Imported) -> str:
    config = done.config
    width, height = config.image_size_px
    x_m, y_m = config.grid.x_range_m, config.grid.y_range_m
    lines = [
        f'{done.path}: {config.network} with {config.backbone}, {config.channels} channels',
        f'  {plural(done.mapped, "tensor")} taken over, as simple_bev computes with them',
    ]
    if done.left_out:
        names = ', '.join(done.left_out[:_NAMED])
        more = len(done.left_out) - _NAMED
        lines.append(
            f'  {len(done.left_out)} left out, of heads and losses that only training uses: '
            f'{names}{f" and {more} more" if more > 0 else ""}'
        )
    if done.filled:
        lines.append(f'  {plural(len(done.filled), "counter")} of batches set to zero')
    lines += [
        f'  images {width} x {height}; classes {", ".join(config.classes)}; '
        f'grid x {x_m[0]:g} to {x_m[1]:g} m, y {y_m[0]:g} to {y_m[1]:g} m, '
        f'cells of {config.grid.cell_m:g} m',
        f'Score it: bev evaluate {done.path} DATA',
        f'Drive with it: ros2 launch bev_perception bev.launch.py checkpoint:={done.path}',
    ]
    return '\n'.join(lines)


def _described(done: Imported) -> dict[str, object]:
    return {
        'source': str(done.source),
        'checkpoint': str(done.path),
        'mapped': done.mapped,
        'left_out': list(done.left_out),
        'filled': list(done.filled),
        'config': done.config.to_dict(),
    }


_HELP = """\
Turn a checkpoint of another project into one of ours, which every verb and the node then take.

  simple_bev  github.com/aharley/simple_bev: what the training of its Segnet or Bevformernet
              saved, with cameras only and any of its encoders (res50, res101, effb0, effb4)

  CKPT  the file (.pth); nothing but tensors is loaded from it
  OUT   the checkpoint to write (.safetensors), replaced whole or not at all

The network then computes what the original's code does, in the original's plane: that of the
camera that looks most forward, tilted as this is. What it says of vehicles is brought into our
grid, on the ground of the ego frame. docs/models.md tells what else differs from our own networks.
"""
_EXAMPLES = """\
examples:
  bev import simple_bev model-000025000.pth weights/simple_bev.safetensors
  bev import simple_bev small/model-000025000.pth small.safetensors --size 400x224

exit status: 0; 1 where the file cannot be read or has another layout (the first names that differ
are listed), or OUT cannot be written; 2 wrong usage
"""


def add_import(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'import',
        help="others' checkpoints, as ours",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('project', choices=('simple_bev',), metavar='simple_bev', help='whose checkpoint')
    add('checkpoint', type=Path, metavar='CKPT', help='what its training saved')
    add('out', type=Path, metavar='OUT', help='.safetensors')
    add(
        '--size',
        type=option_types.size_px,
        metavar='WxH',
        help='of the images that the weights were trained with (800x448)',
    )
    add('--json', action='store_true', help='print the result as JSON')
    verb.set_defaults(run=import_weights, wrong_usage=verb.error)
