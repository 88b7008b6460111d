"""The verb `ablate`: a grid of trainings into one table and one plot."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bev_perception.errors import BevError
from bev_training.option_types import count, pair

if TYPE_CHECKING:
    from bev_training.ablation.plan import Plan, Run
    from bev_training.ablation.results import Results
    from bev_training.ablation.running import Outcome

JSON, TABLES, PLOT = 'results.json', 'tables.md', 'results.png'


def ablate(chosen: argparse.Namespace) -> None:
    """Train a whole grid, and write what came out.

    Raises:
        BevError: something cannot be used, or a training failed.
    """
    from bev_training.ablation import running
    from bev_training.ablation.plan import make_plan
    from bev_training.ablation.reading import find_ablation, read_ablation

    grid = read_ablation(find_ablation(chosen.config), train=chosen.train, val=chosen.val)
    plan = make_plan(grid, chosen.set)
    out = Path(chosen.out)
    if chosen.plan:
        _show(plan, out)
        return
    from tqdm import tqdm

    from bev_training.ablation.results import Results

    with running.held(out) as lock:
        outcomes = running.finished(plan, out)
        results = Results(grid=grid, plan=plan, outcomes=outcomes)
        write_results(out, results)
        quiet = chosen.json
        if not quiet:
            tqdm.write(f'{_counted(plan)}; {len(outcomes)} are done')
        with tqdm(
            total=len(plan.runs), initial=len(outcomes), unit='run', desc='bev ablate',
            disable=quiet, smoothing=0.1,
        ) as bar:  # fmt: skip

            def tell(run: Run, outcome: Outcome) -> None:
                outcomes[run.digest] = outcome
                write_results(out, results)
                if not quiet:
                    tqdm.write(_line(run, outcome))
                bar.update()

            running.run_all(
                plan, out, outcomes, jobs=chosen.jobs, lock=lock, tell=tell, bev=running.BEV
            )
    if quiet:
        print(json.dumps(results.to_json()))
    else:
        print((out / TABLES).read_text())
        print(f'{out / TABLES}, {out / PLOT}; every figure: {out / JSON}')
    if failed := results.failed:
        said, why = next(iter(failed.items()))
        raise BevError(
            f'{len(failed)} of {len(plan.runs)} runs failed; the first: {said}: {why}; '
            'the same command tries them again'
        )


def write_results(out: Path, results: Results) -> None:
    """Write figures, tables and the plot, each of them whole.

    Raises:
        BevError: one cannot be written.
    """
    from bev_training.ablation.plot import draw_results
    from bev_training.ablation.tables import text_tables
    from bev_training.data.paths import write_whole

    try:
        write_whole(out / JSON, json.dumps(results.to_json(), indent=1).encode())
        write_whole(out / TABLES, text_tables(results).encode())
        write_whole(out / PLOT, draw_results(results))
    except OSError as error:
        raise BevError(f'{out} cannot be written: {error.strerror or error}') from error


def _show(plan: Plan, out: Path) -> None:
    from bev_training.ablation import running

    done = running.finished(plan, out)
    for digest, run in plan.runs.items():
        state = 'done' if digest in done else 'to do'
        print(f'{state:5}  {run.verb:8}  {run.said}')
    print(_counted(plan))


def _counted(plan: Plan) -> str:
    verbs = [run.verb for run in plan.runs.values()]
    return (
        f'{len(verbs)} runs: {verbs.count("pretrain")} pretrainings and '
        f'{verbs.count("finetune")} fine-tunings'
    )


def _line(run: Run, outcome: Outcome) -> str:
    """Return what a run came to."""
    if outcome.failed:
        return f'failed: {run.said}: {outcome.failed}'
    if run.verb == 'pretrain' or not outcome.scores:
        return f'pretrained: {run.said}'
    each = outcome.scores['classes'].items()
    return f'{run.said}: ' + ', '.join(
        f'{name} {100 * found["iou"]:.1f}' for name, found in each if found['iou'] is not None
    )


_HELP = """\
Run a grid of trainings: networks, ways of pretraining them, shares of labels, seeds. Each is a run
of `bev pretrain` or `bev finetune` in a folder of its own; what several cells need is run once.

  OUT/tables.md     tables like those of papers: IoU in %, mean and deviation over the seeds, and
                    what is gained over no pretraining
  OUT/results.png   the same as a picture
  OUT/results.json  every figure of every class and run, also at the best threshold
  OUT/pretrain/     a folder of each run; beside it its recipe (.yaml) and what it said (.log)
  OUT/finetune/     likewise

The three are drawn anew whenever a run ends. Ctrl-C lets the runs finish their step; the same
command goes on there. A run that fails is named, and the others go on. A changed grid in the same
OUT runs what is new: a run is known by its settings, not by its name.
"""
_EXAMPLES = """\
examples:
  bev ablate --config occfeat_town --train frames/train --val frames/val --out runs/grid
  bev ablate --config occfeat_town ... --out runs/grid --jobs 2        two runs at a time
  bev ablate --config occfeat_town ... --out runs/grid --plan          what would be run?
  bev ablate --config occfeat_town ... --out /tmp/try --set steps=2    does all of it run?
  bev ablate --config town_label_shares ... --out runs/shares
  bev ablate --config occfeat_paper --train /data/nuscenes --out runs/paper --jobs 4
"""


def add_ablate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'ablate',
        help='run a grid of trainings into one table and one plot',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add(
        '--config',
        required=True,
        metavar='GRID',
        help='YAML file, or the name of one in config/ablate',
    )
    add('--out', required=True, metavar='OUT', help='new folder, or that of a grid to go on with')
    add('--train', metavar='DIR', help='data to learn from, instead of those of the grid')
    add('--val', metavar='DIR', help='data to be scored on, likewise')
    add(
        '--jobs',
        type=count,
        default=1,
        metavar='N',
        help='runs at a time (1); with several, each has one thread and its share of the GPUs',
    )
    add(
        '--set',
        action='append',
        default=[],
        type=pair,
        metavar='NAME=VALUE',
        help='change a setting of all runs, such as data.workers=4; may be repeated',
    )
    add('--plan', action='store_true', help='check everything and list the runs, run none')
    add('--json', action='store_true', help='print what is in results.json, and nothing else')
    verb.set_defaults(run=ablate, wrong_usage=verb.error)
