"""What the node costs around its network, for six 1600x900 streams at 12 Hz, JPEG and raw.

    .venv/bin/python benchmarks/node.py

The real player and the real node run as processes, with a coarse grid, so that the network leaves
time for the rest; JPEG and raw streams alternate. Times are the node's own, from `/diagnostics`.
Then, in this process: filling and publishing a 200x200 grid, by the way the node does it and by
slow ones. Ratios hold on a busy machine, milliseconds do not.
"""

from __future__ import annotations

import array
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import MapMetaData, OccupancyGrid
from std_msgs.msg import Header

from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig
from bev_perception.ros.grid_output import grid_message
from bev_training.synthetic.drive import write_drive
from bev_training.synthetic.settings import DriveConfig

ROUNDS = 3
SECONDS = 3.0
SIZE_PX = (1600, 900)  # as nuScenes
TIMES = 3  # the bag is played this often a round
STAGES = ('tf', 'decode', 'prepare', 'infer', 'publish', 'latency')


def coarse_weights(folder: Path) -> Path:
    """The default classes, grid extent and image size, but cells of 2 m."""
    torch.manual_seed(0)
    model = BevModel(ModelConfig(grid=BevGrid(cell_m=2.0, z_cells=1), channels=8))
    path = folder / 'coarse.safetensors'
    checkpoint.save(path, model, {'trained_on': 'nothing (a benchmark)'})
    return path


def measure(node: rclpy.node.Node, weights: Path, bag: Path, transport: str) -> dict[str, float]:
    """Play a bag into a fresh node; return its last figures."""
    env = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    module = [sys.executable, '-m']
    command = [
        *module,
        'bev_perception.ros.bev_node',
        '--ros-args',
        '-p',
        f'checkpoint:={weights}',
    ]
    latest: dict[str, str] = {}

    def take(message: DiagnosticArray) -> None:
        for status in message.status:
            latest.update({kv.key: kv.value for kv in status.values})

    subscription = node.create_subscription(DiagnosticArray, '/diagnostics', take, 10)
    process = subprocess.Popen(
        [*command, '-p', f'image_transport:={transport}'], env=env, stderr=subprocess.DEVNULL
    )
    play = [*module, 'bev_perception.ros.bag_player', str(bag), '--times', str(TIMES)]
    play += ['--wait-for-subscribers', '14', '--wait-timeout', '60', '--topics']
    player = subprocess.Popen(
        [*play, '/camera/.*', '/tf', '/tf_static'],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while player.poll() is None:
        rclpy.spin_once(node, timeout_sec=0.1)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        rclpy.spin_once(node, timeout_sec=0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    node.destroy_subscription(subscription)
    figures = {f'{s} {p}': float(latest[f'{s}_ms {p}']) for s in STAGES for p in ('p50', 'p95')}
    images = sum(int(v) for k, v in latest.items() if k.startswith('images_'))
    sent = 6 * 12 * SECONDS * TIMES
    figures['delivered'] = images / sent
    figures['published'] = float(latest['grids_published']) / (sent / 6)
    return figures


def streams(folder: Path) -> None:
    """Measure both transports, alternating."""
    weights = coarse_weights(folder)
    bags = {}
    for transport in ('compressed', 'raw'):
        bags[transport] = folder / transport
        raw = transport == 'raw'
        config = DriveConfig(seconds=SECONDS, size_px=SIZE_PX, raw=raw, image_truth=False)
        write_drive(bags[transport], config)
    node = rclpy.create_node('benchmark')
    rows: dict[str, list[dict[str, float]]] = {t: [] for t in bags}
    for _ in range(ROUNDS):
        for transport, drive in bags.items():
            rows[transport].append(measure(node, weights, drive / 'bag', transport))
    node.destroy_node()
    middle = {
        t: {key: median(row[key] for row in found) for key in found[0]}
        for t, found in rows.items()
    }
    print(f'\n{"":>12}' + ''.join(f'{key:>14}' for key in middle['raw']))
    for transport, figures in middle.items():
        print(f'{transport:>12}' + ''.join(f'{value:14.2f}' for value in figures.values()))
    for p in ('p50', 'p95'):
        for transport, figures in middle.items():
            ready = sum(figures[f'{s} {p}'] for s in ('tf', 'decode', 'prepare'))
            around = ready + figures[f'publish {p}']
            print(
                f'{transport} {p}: set complete -> tensor {ready:.1f} ms, logits -> published '
                f'{figures[f"publish {p}"]:.1f} ms; all but the network {around:.1f} ms '
                f'= {around / (1000 / 12):.2f} of a 12 Hz period'
            )
    ratio = middle['raw']['latency p50'] / middle['compressed']['latency p50']
    print(f'raw / compressed, latency p50: {ratio:.2f}')


def grids() -> None:
    """Compare ways to fill and publish a grid message, interleaved."""
    node = rclpy.create_node('benchmark_grids')
    publisher = node.create_publisher(OccupancyGrid, '~/grid', 1)
    cells = np.random.default_rng(0).integers(-1, 101, (200, 200)).astype(np.int8)
    header, info = Header(frame_id='base_link'), MapMetaData(width=200, height=200)

    def slow(data: object) -> None:
        message = OccupancyGrid(header=header, info=info)
        message.data = data
        publisher.publish(message)

    ways = {
        'array.array (ours)': lambda: publisher.publish(grid_message(cells, header, info)),
        'list': lambda: slow(cells.flatten().tolist()),
        'ndarray': lambda: slow(cells.flatten()),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(200):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    ours = median(times['array.array (ours)'])
    assert array.array('b', cells.tobytes()) == grid_message(cells, header, info).data
    print('\nfill and publish a 200x200 OccupancyGrid:')
    for name, values in times.items():
        print(f'  {name:20} {median(values) * 1e3:7.3f} ms   {median(values) / ours:6.1f} x ours')
    node.destroy_node()


def main() -> None:
    """Run both."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        streams(Path(folder))
    grids()
    rclpy.shutdown()


if __name__ == '__main__':
    main()
