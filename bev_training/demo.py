"""`bev demo`: a synthetic drive through the real node, over real DDS, into one picture.

A drive is written, `bag_player` plays it into a running `bev_node`, `bag_recorder` records what
the node publishes, and one instant of it is drawn. The three run as processes of their own, as on
a vehicle; this module imports no ROS.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from tqdm import tqdm

from bev_perception.errors import BevError
from bev_perception.messages import stamp_ns
from bev_perception.model import checkpoint
from bev_perception.model.config import ModelConfig
from bev_perception.resources import SHIPPED_WEIGHTS, weights_path
from bev_perception.shapes import Cells
from bev_training.data.bag_reader import read_messages
from bev_training.evaluation.drive_truth import DriveTruth
from bev_training.evaluation.evaluate import check_labels
from bev_training.evaluation.report_tables import iou_line
from bev_training.metrics import PooledScores, Scores
from bev_training.picture import draw_sheet, images_near
from bev_training.synthetic.drive import write_drive
from bev_training.synthetic.frames import frame_count
from bev_training.synthetic.settings import DriveConfig

_NODE = 'bev_node'
_READY = 'cameras, the first on'  # the node's log line once it is active
_START_S = 120.0
_STOP_S = 30.0
_BAG_SUFFIXES = {'.mcap', '.yaml'}
_SIZE_PX = (640, 360)  # as the shipped network was trained on; larger ones take longer to render


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo does.

    Attributes:
        out: folder of the results; the drive in it is used again if its settings are the same.
        seconds: length of the drive.
        seed: of the drive; the shipped weights never saw it.
        rate: bag seconds per second.
        weights: a checkpoint; None takes the shipped one.
    """

    out: Path
    seconds: float = 6.0
    seed: int = 1005
    rate: float = 1.0
    weights: Path | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Recorded:
    """What the node published.

    Attributes:
        grids: (class, y, x) cells by stamp.
        counts: the node's own counters and latencies, from its last diagnostics.
    """

    grids: dict[int, Cells]
    counts: dict[str, str]


def run_demo(config: DemoConfig) -> Path:
    """Run the demo, print what happened and return the picture's path.

    Raises:
        BevError: a step failed; the message names the log to read.
    """
    weights = config.weights or weights_path(SHIPPED_WEIGHTS)
    loaded = checkpoint.load(weights)
    model = loaded.model.config
    check_labels(loaded, DriveTruth.classes, model.grid)
    grids_bag = config.out / 'grids'
    _check_out(config.out, grids_bag)
    drive = _drive(config)
    shutil.rmtree(grids_bag, ignore_errors=True)
    _replay(config, drive / 'bag', grids_bag, weights)
    recorded = _read(grids_bag, model)
    if not recorded.grids or 'latency_ms p50' not in recorded.counts:
        raise BevError(f'the node published no grid; see {config.out / "bev_node.log"}')
    truth = DriveTruth(drive, model.grid)
    scores = _score(recorded, truth, model)
    facts = _facts(recorded, scores)
    print(*facts, sep='\n')
    picture = config.out / 'demo.png'
    stamp = sorted(recorded.grids)[len(recorded.grids) // 2]
    draw_sheet(
        picture,
        images=images_near(drive / 'bag', stamp),
        cells=recorded.grids[stamp],
        labels=truth.at(stamp, model.classes),
        classes=model.classes,
        grid=model.grid,
        notes=[*facts, f'Trained on: {loaded.trained_on}'],
    )
    figures = {'scores': scores.as_json(), 'grids': len(recorded.grids), **recorded.counts}
    (config.out / 'demo.json').write_text(json.dumps(figures, indent=1) + '\n')
    print(f'Weights: {weights}\n  trained on: {loaded.trained_on}')
    print(f'Drive and grids as bags: {drive / "bag"}, {grids_bag}')
    print(f'Picture: {picture}')
    return picture


def _check_out(out: Path, grids: Path) -> None:
    """Make the folder of the results, and see that nothing but results is replaced in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
        recorded = not grids.exists() or {p.suffix for p in grids.iterdir()} <= _BAG_SUFFIXES
    except OSError as error:
        raise BevError(f'{out} cannot be written: {error.strerror}') from error
    if not recorded:
        raise BevError(f'{grids} is no recording of a demo, and is not replaced; move it away')


def _drive(config: DemoConfig) -> Path:
    """Write the drive, or take the one that is there."""
    drive = config.out / 'drive'
    wanted = DriveConfig(
        seconds=config.seconds,
        seed=config.seed,
        size_px=_SIZE_PX,
        weather='clear',
        image_truth=False,
    )
    if drive.exists():
        if wanted.is_of(drive):
            print(f'Drive: {drive} (from an earlier run)')
            return drive
        if not (drive / 'drive.json').is_file():
            raise BevError(f'{drive} is no synthetic drive, and is not replaced; move it away')
        try:
            shutil.rmtree(drive)
        except OSError as error:
            raise BevError(f'{drive} cannot be replaced: {error.strerror or error}') from error
    print(f'Drive: writing {config.seconds:g} s of six cameras to {drive}', flush=True)
    with tqdm(total=frame_count(config.seconds), unit='frame', desc='  frames') as bar:
        write_drive(drive, wanted, progress=bar.update)
    return drive


def _replay(config: DemoConfig, bag: Path, grids: Path, weights: Path) -> None:
    """Play the bag into the node while the recorder runs; returns when all have stopped."""
    env = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', **os.environ, 'PYTHONUNBUFFERED': '1'}
    log = config.out / 'bev_node.log'
    node = ['bev_node', '--ros-args', '-p', f'checkpoint:={weights}', '-p', 'use_sim_time:=true']
    record = ['bag_recorder', str(grids), f'/{_NODE}/grid/.*', '/diagnostics']
    play = ['bag_player', str(bag), '--clock', '--rate', str(config.rate)]
    # Six images, six CameraInfos, /tf and /tf_static.
    play += ['--wait-for-subscribers', '14', '--wait-timeout', str(_START_S)]
    print('Node: loading the weights', flush=True)
    with (
        _running(node, log, env) as node_process,
        _running(record, config.out / 'bag_recorder.log', env),
    ):
        _wait_for(log, _READY, node_process)
        print(f'Replay: {bag} at rate {config.rate:g}', flush=True)
        done = subprocess.run(_command(play), env=env, check=False)
        if done.returncode != 0:
            raise BevError(f'bag_player stopped with exit code {done.returncode}')
        time.sleep(2.0)  # the last set, and one more period of diagnostics


@contextmanager
def _running(
    words: list[str], log: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run an executable until the block ends, then stop it as Ctrl-C does."""
    with log.open('wb') as file:
        process = subprocess.Popen(_command(words), stdout=file, stderr=file, env=env)
        try:
            yield process
            if process.poll() is not None:
                raise BevError(f'{words[0]} ended early; see {log}: {_last_line(log)}')
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        if code != 0:
            raise BevError(f'{words[0]} ended with exit code {code}; see {log}: {_last_line(log)}')


def _command(words: list[str]) -> list[str]:
    """The same interpreter as ours, so that no other installation is picked up from PATH."""
    return [sys.executable, '-m', f'bev_perception.ros.{words[0]}', *words[1:]]


def _wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while text not in log.read_text(errors='replace'):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BevError(f'bev_node did not start; see {log}: {_last_line(log)}')
        time.sleep(0.1)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors='replace').strip().splitlines()
    return lines[-1] if lines else '(empty)'


def _read(bag: Path, model: ModelConfig) -> Recorded:
    """Read the recorded grids and the last diagnostics."""
    topics = {f'/{_NODE}/grid/{name}': i for i, name in enumerate(model.classes)}
    layers: dict[int, dict[int, Cells]] = {}
    counts: dict[str, str] = {}
    for topic, _, message in read_messages(bag):
        if topic in topics:
            cells = np.asarray(message.data, np.int8).reshape(message.info.height, -1)
            layers.setdefault(stamp_ns(message.header), {})[topics[topic]] = cells
        elif topic == '/diagnostics':
            for status in message.status:
                if status.name.split(':')[0] == _NODE:
                    counts.update({kv.key: kv.value for kv in status.values})
    whole = {t: d for t, d in sorted(layers.items()) if len(d) == len(topics)}
    return Recorded(
        grids={t: np.stack([d[i] for i in sorted(d)]) for t, d in whole.items()}, counts=counts
    )


def _score(recorded: Recorded, truth: DriveTruth, model: ModelConfig) -> Scores:
    """Score every grid against the truth at its stamp."""
    pooled = PooledScores(model.classes, model.grid)
    for stamp, cells in recorded.grids.items():
        probability = cells.astype(np.float32) / np.float32(100)
        pooled.update(probability, truth.at(stamp, model.classes), cells[0] >= 0)
    return pooled.result()


def _facts(recorded: Recorded, scores: Scores) -> list[str]:
    """What a reader wants to know, a line each."""
    counts = recorded.counts
    images = sum(int(v) for k, v in counts.items() if k.startswith('images_'))
    return [
        f'Frames in: {images} images in {counts["sets_in"]} sets; '
        f'grids out: {len(recorded.grids)} of each class',
        f'Latency, arrival of the stamped image to publication: '
        f'p50 {counts["latency_ms p50"]} ms, p95 {counts["latency_ms p95"]} ms '
        f'(network alone {counts["infer_ms p50"]} ms)',
        f'Sets dropped: {counts.get("sets_skipped_busy", "0")} while the network was busy '
        f'(the newest is taken), {counts.get("sets_failed", "0")} unusable',
        f'IoU over this drive where a camera sees: {iou_line(scores)}',
    ]
