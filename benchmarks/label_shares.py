"""How many labels does it take? Trains a recipe on several shares of the labels, several times.

    python benchmarks/label_shares.py WORK --train frames/train --val frames/val

Each training is a `bev finetune` into WORK/<percent>-<seed>; the seed decides which labels, the
order of samples and the random weights. What is there is not trained again, and what was
interrupted goes on. Prints tables (mean and standard deviation over the seeds of the IoU at 0.5
and at the best threshold, visible objects) and draws WORK/label_shares.png;
WORK/label_shares.json holds every figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_INK, _PAPER = '#e8eaed', '#17181c'
_KINDS = {'iou': 'at 0.5', 'best_iou': 'at the best threshold'}
_COLORS = ('#8ab4f8', '#81c995', '#fdd663', '#f28b82', '#c58af9', '#78d9ec', '#fcad70')


Run = dict[str, dict[str, float]]  # IoU by kind and class


def train(options: argparse.Namespace, percent: float, seed: int) -> Run:
    """Return the IoU after one training, from its result if it is there already."""
    out = options.work / f'{percent:g}-{seed}'
    stored = out / 'result.json'
    if not stored.is_file():
        settings = {'data.labels_percent': percent, 'data.labels_seed': seed, 'seed': seed}
        command = [sys.executable, '-m', 'bev_training.cli', 'finetune', '--json', '--resume']
        command += ['--config', options.config, '--train', str(options.train)]
        command += ['--val', str(options.val), '--out', str(out)]
        for name, value in {**settings, **dict(options.set)}.items():
            command += ['--set', f'{name}={value}']
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(done.returncode)
        stored.write_text(done.stdout)
    classes = json.loads(stored.read_text())['scores']['classes']
    return {kind: {name: each[kind] for name, each in classes.items()} for kind in _KINDS}


def table(found: dict[float, list[Run]], kind: str) -> str:
    """Return a Markdown table: a row per share, a column per class."""
    names = list(next(iter(found.values()))[0][kind])
    lines = ['| labels | ' + ' | '.join([*names, 'mean']) + ' |', '|---' * (len(names) + 2) + '|']
    for percent, runs in found.items():
        cells = []
        of_kind = [run[kind] for run in runs]
        for values in [*([run[n] for run in of_kind] for n in names), means(of_kind)]:
            spread = f' ± {np.std(values, ddof=1):.3f}' if len(values) > 1 else ''
            cells.append(f'{np.mean(values):.3f}{spread}')
        lines.append(f'| {percent:g} % | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def means(runs: list[dict[str, float]]) -> list[float]:
    """Return the mean over classes of each run."""
    return [float(np.mean(list(run.values()))) for run in runs]


def draw(path: Path, found: dict[float, list[Run]]) -> None:
    """Draw IoU against the share of labels: a line per class at its best threshold with a dot per
    run, and a dashed one at 0.5.
    """
    figure = Figure(figsize=(8, 5), dpi=110, facecolor=_PAPER, layout='constrained')
    ax = figure.add_subplot(facecolor=_PAPER)
    shares = list(found)
    for i, name in enumerate(next(iter(found.values()))[0]['iou']):
        color = _COLORS[i % len(_COLORS)]
        for kind, style in (('best_iou', '-'), ('iou', '--')):
            runs = {share: [run[kind][name] for run in found[share]] for share in shares}
            label = name if kind == 'best_iou' else None
            ax.plot(shares, [np.mean(runs[s]) for s in shares], style, color=color, label=label)
            for share in shares if label else ():
                ax.plot([share] * len(runs[share]), runs[share], '.', color=color, alpha=0.6)
    ax.set_xscale('log')
    ax.set_xticks(shares, [f'{s:g} %' for s in shares], minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlabel('labelled samples', color=_INK)
    ax.set_ylabel('IoU in unseen towns (dashed: at 0.5)', color=_INK)
    ax.set_ylim(0, 1)
    ax.tick_params(colors=_INK)
    ax.grid(alpha=0.15)
    figure.legend(loc='outside right center', facecolor=_PAPER, labelcolor=_INK, edgecolor='none')
    figure.savefig(path)


def setting(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, _, value = text.partition('=')
    return name, value


def main() -> None:
    """Train, then print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work', type=Path)
    parser.add_argument('--train', type=Path, required=True)
    parser.add_argument('--val', type=Path, required=True)
    parser.add_argument('--config', default='town_small')
    parser.add_argument('--shares', type=float, nargs='+', default=[1, 10, 50, 100])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--set', type=setting, action='append', default=[], metavar='NAME=VALUE')
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[float, list[Run]] = {share: [] for share in sorted(options.shares)}
    for seed in options.seeds:  # whole rows of shares first: something to look at early
        for share, runs in found.items():
            runs.append(train(options, share, seed))
            scores = ', '.join(f'{n} {v:.3f}' for n, v in runs[-1]['iou'].items())
            print(f'{share:g} %, seed {seed}: {scores}', flush=True)
    for kind, said in _KINDS.items():
        print(f'\nIoU {said}\n\n{table(found, kind)}')
    (options.work / 'label_shares.json').write_text(json.dumps(found, indent=1))
    draw(options.work / 'label_shares.png', found)
    print(f'Picture: {options.work / "label_shares.png"}')


if __name__ == '__main__':
    main()
