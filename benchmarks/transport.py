"""Share of six cameras' images that reach another process: Fast DDS defaults against our profile.

    python benchmarks/transport.py [--seconds 4] [--rounds 2]

A publisher and a subscriber process per row, best effort with depth 5 (sensor data) at 12 Hz; the
rows take turns. Prints the delivered share, that of the worst camera and the latency.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

CAMERAS = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')
RATE_HZ = 12.0
PAYLOADS = {'JPEG 300 kB': 300_000, 'raw 1600x900 bgr8': 1600 * 900 * 3}
SETTINGS = ('Fast DDS defaults', 'our profile')
CHOICES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE',
           'FASTDDS_BUILTIN_TRANSPORTS', 'RMW_IMPLEMENTATION')  # fmt: skip


def publish(payload_bytes: int, seconds: float) -> None:
    """Send all cameras in bursts, as a triggered rig does; then say how much was sent."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage

    rclpy.init()
    node = rclpy.create_node('cameras')
    publishers = [
        node.create_publisher(CompressedImage, f'/bench/{name}', qos_profile_sensor_data)
        for name in CAMERAS
    ]
    message = CompressedImage(format='jpeg', data=bytes(payload_bytes))
    while not all(p.get_subscription_count() for p in publishers):
        time.sleep(0.02)
    time.sleep(0.5)  # the subscriber's half of the match
    bursts = round(seconds * RATE_HZ)
    start_s = time.monotonic()
    for burst in range(bursts):
        time.sleep(max(start_s + burst / RATE_HZ - time.monotonic(), 0.0))
        for publisher in publishers:
            now_ns = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
            publisher.publish(message)
    time.sleep(1.0)
    print(json.dumps({'sent': bursts, 'segment_bytes': segment_bytes()}), flush=True)
    node.destroy_node()
    rclpy.shutdown()


def subscribe() -> None:
    """Count until SIGTERM; then print the counts per camera and the latencies."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import CompressedImage

    stop: queue.SimpleQueue[int] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda number, _frame: stop.put(number))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('counter')
    counts: Counter[str] = Counter()
    latencies_s: list[float] = []

    def counter(name: str):
        def count(data: bytes) -> None:
            sec, nanosec = np.frombuffer(data, np.uint32, 2, offset=4).tolist()
            latencies_s.append((time.time_ns() - sec * 10**9 - nanosec) * 1e-9)
            counts[name] += 1

        return count

    for name in CAMERAS:
        node.create_subscription(
            CompressedImage, f'/bench/{name}', counter(name), qos_profile_sensor_data, raw=True
        )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    stop.get()
    executor.shutdown()
    thread.join()
    print(json.dumps({'counts': [counts[n] for n in CAMERAS], 'latencies_s': latencies_s}))
    node.destroy_node()
    rclpy.shutdown()


def segment_bytes() -> int:
    """Size of this process's largest data segment."""
    from bev_perception.ros.transport import shared_memory_segments

    sizes = [s for path, s in shared_memory_segments().items() if '_port' not in path.name]
    return max(sizes, default=0)


def measure(payload_bytes: int, seconds: float, ours: bool, domain: int) -> dict:
    """One row once: both processes, their words, and no segment of theirs left behind."""
    from bev_perception.ros.transport import shared_memory_segments, use_shared_memory_profile

    environ = {k: v for k, v in os.environ.items() if k not in CHOICES}
    environ |= {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    if ours and use_shared_memory_profile(environ) is None:
        raise SystemExit('the shared-memory profile cannot be used here')
    command = [sys.executable, __file__]
    listening = subprocess.Popen(
        [*command, '--subscribe'], env=environ, stdout=subprocess.PIPE, text=True
    )
    sending = subprocess.Popen(
        [*command, '--publish', str(payload_bytes), '--seconds', str(seconds)],
        env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    segments: set[Path] = set()
    try:
        while sending.poll() is None:
            for process in (sending, listening):
                with contextlib.suppress(OSError):
                    mapped = shared_memory_segments(process.pid)
                    segments |= {path for path in mapped if '_port' not in path.name}
            time.sleep(0.1)
        listening.send_signal(signal.SIGTERM)
        sent = json.loads(sending.communicate(timeout=30)[0])
        return sent | json.loads(listening.communicate(timeout=30)[0])
    finally:
        for process in (sending, listening):
            process.kill()
            process.wait()
        for path in segments:  # left only by a process that was killed
            path.unlink(missing_ok=True)


def row(setting: str, payload: str, results: list[dict]) -> str:
    sent = sum(r['sent'] for r in results)
    counts = np.sum([r['counts'] for r in results], axis=0)
    latencies_ms = 1e3 * np.concatenate([r['latencies_s'] for r in results] or [[]])
    p50, p95 = np.percentile(latencies_ms, (50, 95)) if latencies_ms.size else (np.nan, np.nan)
    segment = max(r['segment_bytes'] for r in results) / 2**20
    return (
        f'| {payload} | {setting} | {counts.sum() / (sent * len(CAMERAS)):.1%} '
        f'| {counts.min() / sent:.1%} | {p50:.1f} / {p95:.1f} | {segment:.1f} |'
    )


@contextlib.contextmanager
def private_domain():
    """A ROS domain that no other process uses."""
    try:
        from domain_coordinator import domain_id
    except ImportError:
        yield 1 + os.getpid() % 100
    else:
        with domain_id() as domain:
            yield domain


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=4.0, help='of sending, per row and round')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--publish', type=int, help=argparse.SUPPRESS)
    parser.add_argument('--subscribe', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(options.publish, options.seconds)
        return 0
    if options.subscribe:
        subscribe()
        return 0
    rows = [(payload, setting) for payload in PAYLOADS for setting in SETTINGS]
    results: dict[tuple[str, str], list[dict]] = {key: [] for key in rows}
    with private_domain() as domain:
        for _ in range(options.rounds):
            for payload, setting in rows:
                ours = setting == SETTINGS[1]
                measured = measure(PAYLOADS[payload], options.seconds, ours, domain)
                results[payload, setting].append(measured)
    print('| six cameras | setting | delivered | worst camera | ms p50 / p95 | segment MiB |')
    print('| --- | --- | --- | --- | --- | --- |')
    for payload, setting in rows:
        print(row(setting, payload, results[payload, setting]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
