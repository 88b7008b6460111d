"""How fast a recording becomes frames, against a bare loop that only reads and deserialises it.

    python benchmarks/convert.py [--seconds 60] [--rounds 3] [--folder /dev/shm]

Writes a recording of six 1600x900 JPEG cameras (440 kB an image, 12 Hz), a lidar (30,000 points,
20 Hz) and TF at 50 Hz of a vehicle at 10 m/s; then reads and converts it in turn, first from the
page cache, then from the disk, and prints the ratios, how much faster than real time it was, and
the peak memory of a conversion of its own. In a folder in memory, no disk is waited for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.geometry.camera import Camera
from bev_training import messages
from bev_training.data.bag_inputs import BagSource
from bev_training.data.convert import convert_bag
from bev_training.data.settings import ConvertConfig, KeyFrames

YAWS_DEG = {
    'front_left': 55, 'front': 0, 'front_right': -55, 'back_left': 110, 'back': 180,
    'back_right': -110,
}  # fmt: skip
START_NS = 1_700_000_000_000_000_000
SIZE_PX = (1600, 900)
IMAGE_BYTES = 440_000


def jpegs(count: int) -> list[bytes]:
    """Pictures of about `IMAGE_BYTES`."""
    rng, out = np.random.default_rng(0), []
    for _ in range(count):
        small = rng.integers(0, 256, (113, 200, 3), np.uint8)
        picture = cv2.resize(small, SIZE_PX, interpolation=cv2.INTER_CUBIC)
        picture = cv2.add(picture, rng.integers(0, 12, picture.shape, np.uint8))
        made = [simplejpeg.encode_jpeg(picture, q, 'RGB', '420') for q in range(96, 50, -2)]
        out.append(min(made, key=lambda data: abs(len(data) - IMAGE_BYTES)))
    return out


def write_recording(path: Path, seconds: float) -> None:
    """Write the recording."""
    pictures = jpegs(6)
    camera = Camera(K=np.array([[1266.0, 0, 800], [0, 1266, 450], [0, 0, 1]]), size_px=SIZE_PX)
    points = np.zeros(
        30_000, [(n, '<f4') for n in ('x', 'y', 'z', 'intensity')] + [('ring', '<u2')]
    )
    points['x'] = np.random.default_rng(0).uniform(-50, 50, len(points))
    poses = {('base_link', 'lidar_top'): np.eye(4)}
    for name, yaw_deg in YAWS_DEG.items():
        c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
        pose = np.eye(4)
        pose[:3, :3] = [[s, 0, c], [-c, 0, s], [0, -1, 0]]
        pose[:3, 3] = c, s, 1.5
        poses['base_link', f'{name}_optical'] = pose
    steps = [
        (START_NS + round(i / 50 * 1e9), 1_000_000, 'tf', '')
        for i in range(-10, int(50 * seconds) + 20)
    ]
    steps += [
        (START_NS + round(i / 20 * 1e9), 40_000_000, 'lidar', '') for i in range(int(20 * seconds))
    ]
    for k, name in enumerate(YAWS_DEG):
        steps += [
            (START_NS + round((i / 12 + 0.007 * k) * 1e9), 30_000_000, 'camera', name)
            for i in range(int(12 * seconds))
        ]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:

        def add(topic: str, kind: str):
            profile = messages.qos(reliable=True)
            return writer.add_connection(
                topic, kind, typestore=messages.TYPESTORE, offered_qos_profiles=[profile]
            )

        static = add('/tf_static', messages.TF)
        tf, lidar = add('/tf', messages.TF), add('/lidar/points', messages.POINT_CLOUD)
        infos = {n: add(f'/camera/{n}/camera_info', messages.CAMERA_INFO) for n in YAWS_DEG}
        images = {
            n: add(messages.image_topic(n, raw=False), messages.COMPRESSED) for n in YAWS_DEG
        }
        first = START_NS - 300_000_000
        writer.write(static, first, messages.transforms(first, poses))
        for stamp, delay, kind, name in sorted(steps, key=lambda step: step[0] + step[1]):
            at = stamp + delay
            if kind == 'tf':
                pose = np.eye(4)
                pose[0, 3] = 10 * (stamp - START_NS) / 1e9
                writer.write(tf, at, messages.transforms(stamp, {('odom', 'base_link'): pose}))
            elif kind == 'lidar':
                writer.write(lidar, at, messages.point_cloud('lidar_top', stamp, points))
            else:
                frame, picture = f'{name}_optical', pictures[list(YAWS_DEG).index(name)]
                writer.write(infos[name], at, messages.camera_info(frame, stamp, camera))
                writer.write(images[name], at, messages.compressed_image(frame, stamp, picture))


def bare_loop(path: Path) -> float:
    """Read and deserialise every message; seconds."""
    began = time.perf_counter()
    with AnyReader([path]) as reader:
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)
    return time.perf_counter() - began


def convert(path: Path, out: Path, every: str) -> tuple[float, int, float]:
    """Convert; seconds, frames, peak resident memory of this process in MB."""
    shutil.rmtree(out, ignore_errors=True)
    config = ConvertConfig(every=KeyFrames.parse(every))
    began = time.perf_counter()
    done = convert_bag(BagSource(name='bag', path=path), out, config)
    seconds = time.perf_counter() - began
    return seconds, done.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def forget(path: Path) -> None:
    """Drop a recording's files from this machine's page cache."""
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=float, default=60.0, help='of the recording (60)')
    parser.add_argument('--rounds', type=int, default=3, help='of reading and converting (3)')
    parser.add_argument('--folder', help='to work in (that for temporary files)')
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        bag, out = Path(folder, 'bag'), Path(folder, 'out')
        write_recording(bag, chosen.seconds)
        size = sum(file.stat().st_size for file in bag.iterdir())
        print(f'{chosen.seconds:g} s of recording, {size / 1e9:.2f} GB')
        bare_loop(bag)  # into the page cache
        times: dict[str, list[float]] = {'bare': [], '2m': [], 'all': []}
        frames = {}
        for _ in range(chosen.rounds):
            times['bare'].append(bare_loop(bag))
            for every in ('2m', 'all'):
                seconds, frames[every], _ = convert(bag, out, every)
                times[every].append(seconds)
        bare = statistics.median(times['bare'])
        print(f'bare loop           {bare:6.2f} s')
        for every in ('2m', 'all'):
            took = statistics.median(times[every])
            ratios = sorted(b / a for a, b in zip(times['bare'], times[every], strict=True))
            print(
                f'convert --every {every:4}{took:6.2f} s  {frames[every]} frames  '
                f'{statistics.median(ratios):.2f} x the bare loop '
                f'({ratios[0]:.2f} to {ratios[-1]:.2f})  '
                f'{chosen.seconds / took:.0f} x real time'
            )
        cold = []
        for _ in range(chosen.rounds):
            forget(bag)
            bare = bare_loop(bag)
            forget(bag)
            cold.append((bare, convert(bag, out, '2m')[0]))
        ratios = sorted(b / a for a, b in cold)
        bare, took = (statistics.median(column) for column in zip(*cold, strict=True))
        print(
            f'not in the page cache: bare loop {bare:.2f} s, convert --every 2m {took:.2f} s, '
            f'{statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})'
        )
        context = multiprocessing.get_context('spawn')
        with context.Pool(1) as pool:
            peak = pool.apply(convert, (bag, out, 'all'))[2]
        print(f'peak memory of a process that converts with --every all: {peak:.0f} MB')


if __name__ == '__main__':
    main()
