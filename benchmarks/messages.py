"""Time the message readers: python benchmarks/messages.py [--rounds 60] [--jpeg FILE].

Prints medians for one 1600x900 camera image in every kind it may arrive, one CameraInfo, one
transform message and one lidar sweep. All measurements take turns, round by round, so that their
ratios hold on a machine whose speed drifts. The JPEG decoders run once with simplejpeg and once
with OpenCV alone, as on a ROS installation without simplejpeg.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception import images, messages

WIDTH, HEIGHT = 1600, 900
HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=2), frame_id='cam')


def make_scene() -> np.ndarray:
    """Return an RGB image with detail at several scales, roughly as compressible as a street."""
    rng = np.random.default_rng(0)
    scene = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for cells, weight in ((8, 0.6), (40, 0.25), (200, 0.1), (800, 0.05)):
        noise = rng.uniform(0, 255, (cells * HEIGHT // WIDTH + 1, cells, 3)).astype(np.float32)
        scene += weight * cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return scene.clip(0, 255).astype(np.uint8)


def raw(encoding: str, pixel_bytes: int, padding: int = 0) -> Any:
    rng = np.random.default_rng(1)
    step = WIDTH * pixel_bytes + padding
    return SimpleNamespace(
        header=HEADER,
        encoding=encoding,
        width=WIDTH,
        height=HEIGHT,
        step=step,
        is_bigendian=0,
        data=rng.integers(0, 256, step * HEIGHT, np.uint8),
    )


def compressed(data: bytes, kind: str) -> Any:
    return SimpleNamespace(header=HEADER, format=kind, data=np.frombuffer(data, np.uint8))


def make_cloud(points: int) -> Any:
    """Return a cloud of x, y, z, intensity, ring as a 32-beam lidar writes it."""
    fields = [
        SimpleNamespace(name=name, offset=4 * i, datatype=7, count=1)
        for i, name in enumerate(('x', 'y', 'z', 'intensity'))
    ]
    fields.append(SimpleNamespace(name='ring', offset=16, datatype=4, count=1))
    return SimpleNamespace(
        header=HEADER,
        width=points,
        height=1,
        fields=fields,
        is_bigendian=False,
        point_step=18,
        row_step=18 * points,
        data=np.zeros(18 * points, np.uint8),
    )


def make_info() -> Any:
    return SimpleNamespace(
        header=HEADER,
        width=WIDTH,
        height=HEIGHT,
        distortion_model='plumb_bob',
        d=np.array([0.1, -0.2, 0.001, 0.002, 0.03]),
        k=np.array([1200.0, 0, 800, 0, 1200, 450, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.array([1200.0, 0, 800, 0, 0, 1200, 450, 0, 0, 0, 1, 0]),
        binning_x=2,
        binning_y=2,
        roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
    )


def make_transforms() -> Any:
    one = SimpleNamespace(
        header=HEADER,
        child_frame_id='base_link',
        transform=SimpleNamespace(
            translation=SimpleNamespace(x=1.0, y=2.0, z=3.0),
            rotation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0),
        ),
    )
    return SimpleNamespace(transforms=[one])


def with_opencv(call: Callable[[], object]) -> Callable[[], object]:
    """Run `call` as if simplejpeg were not installed."""

    def run() -> object:
        kept, images._simplejpeg = images._simplejpeg, None
        try:
            return call()
        finally:
            images._simplejpeg = kept

    return run


def make_cases(jpeg: bytes, scene: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return what to time, by name."""
    cases: dict[str, Callable[[], object]] = {}
    for encoding, pixel_bytes in (
        ('rgb8', 3),
        ('bgr8', 3),
        ('bgra8', 4),
        ('mono8', 1),
        ('mono16', 2),
        ('bayer_rggb8', 1),
        ('yuv422_yuy2', 2),
    ):
        msg = raw(encoding, pixel_bytes)
        cases[encoding] = lambda m=msg: messages.read_image(m)
    padded = raw('bgr8', 3, 64)
    cases['bgr8, padded rows'] = lambda: messages.read_image(padded)
    shot = compressed(jpeg, 'jpeg')
    for factor in (1, 2, 4):
        wanted = (WIDTH // factor, HEIGHT // factor)
        name = 'jpeg' if factor == 1 else f'jpeg at 1/{factor}'

        def decode(wanted: tuple[int, int] = wanted) -> object:
            return messages.read_image(shot, wanted)

        if images._simplejpeg is not None:
            cases[f'{name}, simplejpeg'] = decode
        cases[f'{name}, OpenCV'] = with_opencv(decode)
    png = compressed(cv2.imencode('.png', scene[..., ::-1])[1].tobytes(), 'png')
    cases['png'] = lambda: messages.read_image(png)
    info, transforms, cloud = make_info(), make_transforms(), make_cloud(30_000)
    cases['CameraInfo, binned'] = lambda: messages.read_camera(info, name='c', rectified=False)
    cases['TFMessage, 1 transform'] = lambda: messages.read_transforms(transforms)
    cases['PointCloud2, 30,000 points, 5 fields'] = lambda: messages.points_xyz(
        messages.read_points(cloud)
    )
    return cases


def main() -> None:
    """Print medians and ratios to the first row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--jpeg', type=Path, help='a 1600x900 JPEG to decode instead of noise')
    args = parser.parse_args()
    cv2.setNumThreads(1)  # a node decodes one camera per thread
    scene = make_scene()
    jpeg = cv2.imencode('.jpg', scene[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    jpeg = args.jpeg.read_bytes() if args.jpeg else jpeg
    cases = make_cases(jpeg, scene)
    times_ms: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, call in cases.items():
            began = time.perf_counter()
            call()
            times_ms[name].append((time.perf_counter() - began) * 1e3)
    print(f'{WIDTH}x{HEIGHT}, JPEG of {len(jpeg) / 1000:.0f} kB, {args.rounds} rounds, medians')
    base = np.array(next(iter(times_ms.values())))
    for name, times in times_ms.items():
        ratio = np.median(np.array(times) / base)
        print(f'{name:40s} {np.median(times):8.3f} ms {ratio:8.2f} x rgb8')


if __name__ == '__main__':
    main()
