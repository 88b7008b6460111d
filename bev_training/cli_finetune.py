"""The verb `finetune`: labelled samples, many or few, become a network for the node."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from bev_training.cli_train import add_options, train

if TYPE_CHECKING:
    from bev_training.fit.loop import FitResult


def finetune(chosen: argparse.Namespace) -> None:
    """Train a network on labelled samples."""
    result = train(chosen)
    if result.rank == 0:
        _tell(chosen, result)


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
    add_options(verb)
    verb.set_defaults(run=finetune, wrong_usage=verb.error)
