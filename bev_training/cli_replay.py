"""The verb `replay`: a recording through a checkpoint, in process."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bev_perception.errors import ConfigError
from bev_training.cli_evaluate import add_running

if TYPE_CHECKING:
    from bev_perception.model.checkpoint import Checkpoint
    from bev_training.data.settings import ConvertConfig
    from bev_training.replay import Replay, ReplayInput

KIND = 'replay'
_GRIDS, _PICTURE = 'grids', 'replay.png'
_NAMES = (f'{KIND}.json', f'{KIND}.txt', _GRIDS, _PICTURE)


def replay(chosen: argparse.Namespace) -> None:
    """Send a recording through a checkpoint; write grids, scores and a picture."""
    from tqdm import tqdm

    from bev_perception.model.checkpoint import load
    from bev_training.evaluation.report import checkpoint_json, write_report
    from bev_training.evaluation.result_folder import check_results, result_folder
    from bev_training.replay import find_input
    from bev_training.replay import replay as run_replay

    settings = _settings(chosen)
    loaded = load(chosen.checkpoint)
    weights = checkpoint_json(loaded)
    given = find_input(chosen.bag)
    out = chosen.out or Path('out') / 'replay' / given.name
    check_results(out, kind=KIND, names=_NAMES)
    form = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}'
    with (
        tqdm(total=100, desc='bev replay', disable=chosen.json, delay=1, bar_format=form) as bar,
        result_folder(out, kind=KIND, names=_NAMES) as work,
    ):
        done = run_replay(
            given,
            loaded,
            work / _GRIDS,
            settings=settings,
            device=chosen.device,
            precision=chosen.precision,
            progress=lambda share: bar.update(round(100 * share) - bar.n) and None,
        )
        described = replay_json(given, weights, done, settings)
        text = replay_text(given, loaded, done)
        _draw(work / _PICTURE, given, loaded, done, settings)
        write_report(work, KIND, described, text)
    if chosen.json:
        print(json.dumps({**described, 'out': str(out)}))
        return
    print(text, end='')
    print(f'Results: {out}')
    print(f'Picture: {out / _PICTURE}')


def _settings(chosen: argparse.Namespace) -> ConvertConfig:
    """Return the settings of the conversion, without lidars and with every set.

    Raises:
        ConfigError: the file cannot be used. What is wrong with options ends the program.
    """
    from bev_training.data.config_file import load_settings
    from bev_training.data.settings import ConvertConfig, KeyFrames

    stored = load_settings(chosen.config) if chosen.config else {}
    try:
        every = KeyFrames.parse(chosen.every)
    except ConfigError as error:
        chosen.wrong_usage(f'--{error}')
        raise
    stored |= {'every': every, 'lidars': {}, 'max_sweeps': 0}
    try:
        return ConvertConfig(**stored)
    except ConfigError as error:
        raise ConfigError(f'{chosen.config}: {error}' if chosen.config else str(error)) from error


def replay_json(
    given: ReplayInput, checkpoint: Mapping[str, Any], done: Replay, settings: ConvertConfig
) -> dict[str, Any]:
    """Return all that is known of a replay as plain values.

    'scores' is as `Scores.as_json` has it, or None where 'no_scores' says why; 'checkpoint' and
    'run' are as in `evaluation.report`.
    """
    from bev_training.data.bag_inputs import fingerprint
    from bev_training.evaluation.report import run_json

    return {
        'kind': KIND,
        'recording': {'path': str(given.source.path), **fingerprint(given.source)},
        'sets': done.sets,
        'coverage': round(done.coverage, 6),
        'scores': done.scores.as_json() if done.scores else None,
        'no_scores': done.no_scores,
        'counts': dict(done.counts),
        'notes': list(done.notes),
        'settings': settings.as_json(),
        'checkpoint': dict(checkpoint),
        'run': {
            **run_json(
                ['bev', *sys.argv[1:]],
                device=done.device,
                precision=done.precision,
                seconds=done.seconds,
            ),
            'network_s_median': round(done.network_s, 4),
        },
    }


def replay_text(given: ReplayInput, loaded: Checkpoint, done: Replay) -> str:
    """Return what a reader wants to know."""
    from bev_training.evaluation.report import score_table

    lines = [
        f'{given.source.path} through {loaded.path}: {done.sets} sets in {done.seconds:.1f} s, '
        f'{done.network_s:.2f} s of it per set for the network on {done.device} '
        f'({done.precision})',
        f'Trained on: {loaded.trained_on}',
        f'Sets and images: {", ".join(f"{name} {n}" for name, n in done.counts.items())}',
        *done.notes,
        '',
    ]
    if done.scores is None:
        lines += [f'No scores: {done.no_scores}; coverage {done.coverage:.1%}']
    else:
        unknown = set(loaded.model.config.classes) - set(done.scores.classes)
        lines += [score_table(done.scores)]
        lines += [f'The truth does not have {", ".join(sorted(unknown))}'] if unknown else []
    return '\n'.join([*lines, ''])


def _draw(
    path: Path, given: ReplayInput, loaded: Checkpoint, done: Replay, settings: ConvertConfig
) -> None:
    """Draw the instant in the middle of the recording."""
    from bev_training.evaluation.report_tables import iou_line
    from bev_training.picture import draw_sheet

    config, middle = loaded.model.config, done.middle
    facts = [
        f'{given.name}: {done.sets} sets, this one is at {middle.view_set.stamp_ns} ns',
        f'IoU over the recording where a camera sees: {iou_line(done.scores)}'
        if done.scores
        else f'No scores: {done.no_scores}',
        f'Trained on: {loaded.trained_on}',
    ]
    rows = [
        config.classes.index(name)
        for name in (middle.labels.classes if middle.labels else config.classes)
    ]
    # Pictures leave the machine where grids do not: what has to be made unknown is left out.
    views = () if settings.privacy else middle.view_set.views
    draw_sheet(
        path,
        images={view.name: view.image for view in views},
        cells=middle.cells[rows],
        labels=middle.labels,
        classes=[config.classes[i] for i in rows],
        grid=config.grid,
        notes=facts,
    )


_HELP = """\
Send a recording through a checkpoint as the node would, in this process and without a clock: same
synchronisation, transforms, decoding and network. Every set of images becomes grids, where a busy
node skips some; the same recording gives the same bytes.

  BAG   rosbag2 folder, .mcap, .db3 or .bag file, or the folder of a drive of `bev synth`; with
        the truth of such a drive, the grids are scored
  CKPT  a .safetensors file

  OUT/grids/       rosbag2 (mcap): /bev_node/grid/CLASS and /bev_node/grid/combined, as the node
                   publishes them
  OUT/replay.json  scores, counts, checkpoint, settings
  OUT/replay.txt   the table that is printed
  OUT/replay.png   the instant in the middle of the recording
"""
_EXAMPLES = """\
examples:
  bev replay /tmp/drive weights/synthetic.safetensors
  bev replay monday.mcap model.safetensors --config config/convert/example.yaml
  bev replay monday.mcap model.safetensors --every 0.5s --out out/monday
"""


def add_replay(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser(
        'replay',
        help='a recording through a checkpoint, without ROS',
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verb.add_argument
    add('bag', type=Path, metavar='BAG', help='recording, or drive of `bev synth`')
    add('checkpoint', type=Path, metavar='CKPT', help='.safetensors')
    add('--out', type=Path, help='folder of the results (out/replay/NAME)')
    add('--every', default='all', metavar='2m|0.5s|all', help='which sets are taken (all)')
    add(
        '--config',
        type=Path,
        metavar='FILE',
        help='YAML as for `bev convert`: topics, frames, synchronisation',
    )
    add('--json', action='store_true', help='print replay.json instead of the table')
    add_running(verb)
    verb.set_defaults(run=replay, wrong_usage=verb.error)
