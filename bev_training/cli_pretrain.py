"""The verb `pretrain`: drives without labels become a network that few labels suffice for."""

from __future__ import annotations

import argparse
import json

from bev_training.cli_train import add_options, train


def pretrain(chosen: argparse.Namespace) -> None:
    """Train a network without labels."""
    result = train(chosen)
    if result.rank > 0:
        return
    from bev_training.fit import out_folder

    final, heads = result.out / out_folder.FINAL, result.out / out_folder.OBJECTIVE
    if chosen.json:
        found = {
            'out': str(result.out),
            'final': str(final),
            'heads': str(heads),
            'steps': result.steps,
            'scores': result.scores,
            'seconds': round(result.seconds, 2),
        }
        print(json.dumps(found))
        return
    print(f'{final}: after {result.steps} steps, {result.seconds:.1f} s')
    print(f'  curves in {result.out / out_folder.CURVE} and {result.out / out_folder.TABLE}')
    print(f'  look at what it knows with `bev features {result.out} DATA --out PICTURES`')
    print(f'  teach it classes with `bev finetune --config RECIPE --init {final} ...`')


_HELP = """\
Train a network on drives that nobody labelled: it learns to tell from six images where the lidar
saw something (occupancy), and what a network that was trained on very many images (a teacher) says
of that place (features). Fine-tuned, such a network needs fewer labels.

  OUT/final.safetensors        the network, for `bev finetune --init`
  OUT/pretraining.safetensors  the heads that it learned with, for `bev features`
  OUT/learning_curve.png       loss and validation scores against steps
  OUT/metrics.csv              a row per step; OUT/tensorboard/ holds the same
  OUT/config.yaml              all settings, also those that the recipe left out
  OUT/last.ckpt                what --resume goes on with

Drives need a lidar. With occfeat, the teacher looks at every training image once, before the first
step; its features stay in ~/.cache/bev_perception/teacher (data.cache) for the next run.
Ctrl-C and --resume do what they do for `bev finetune`. docs/pretraining.md tells more.
"""
_EXAMPLES = """\
examples:
  bev pretrain --config town_occfeat --train frames/train --val frames/val --out runs/occfeat
  bev finetune --config town_small --train frames/train --val frames/val --out runs/few \\
      --set data.labels_percent=1 --init runs/occfeat/final.safetensors
  bev pretrain --config town_occfeat ... --set occfeat.lambda_feat=0        occupancy alone
  bev pretrain --config town_occfeat ... --set lidar.sweeps=5               denser targets
  bev pretrain --config town_img_also ...                                   the baseline
  bev pretrain --config occfeat_nuscenes --train /data/nuscenes --out runs/paper
"""


def add_pretrain(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'pretrain',
        help='train a network without labels',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(verb)
    verb.set_defaults(run=pretrain, wrong_usage=verb.error)
