"""A conversion that takes milliseconds: real drives of tiny frames, and recordings that misbehave.

What happens is told by the recording's name: `bad...` cannot be used, `odd...` meets a mistake,
`dies...` kills its process, `slow...` goes on until it is stopped.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bev_perception.errors import BagError
from bev_perception.geometry.camera import Camera
from bev_training.data.bag_inputs import BagSource, fingerprint
from bev_training.data.drive_writer import DriveWriter
from bev_training.data.frame import Calibration, CameraCalibration, EncodedImage, Frame, FrameView
from bev_training.data.privacy import source_sha256
from bev_training.data.settings import ConvertConfig
from bev_training.data.summary import DriveSummary
from bev_training.processes import Stopped

# Not from test.factories, which brings torch: every process imports this.
STAMP_NS = 1_700_000_000_123_456_789
FRAMES = 5
CAMERA = Camera(
    K=np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]),
    size_px=(64, 48),
    model='plumb_bob',
    D=(0.0,) * 5,
    rect_T_cam=np.eye(4),
)


def recordings(folder: Path, *names: str) -> list[BagSource]:
    """Files that stand for recordings; each has other bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for name in names:
        path = folder / f'{name}.mcap'
        path.write_bytes(hashlib.sha256(name.encode()).digest() * 100)
        sources.append(BagSource(name=name, path=path))
    return sources


def convert(
    source: BagSource,
    folder: Path,
    config: ConvertConfig,
    *,
    format: str = 'drive',
    progress: Callable[[float], None] = lambda share: None,
    stopped: Callable[[], bool] = bool,
) -> DriveSummary:
    """As `convert_bag`."""
    calibration = Calibration(
        epoch=0,
        from_stamp_ns=STAMP_NS,
        cameras={
            'front': CameraCalibration(
                frame_id='front_optical', camera=CAMERA, base_T_cam=np.eye(4)
            )
        },
    )
    with DriveWriter(folder, cameras=('front',), shard_bytes=2000) as writer:
        if source.name.startswith('bad'):
            raise BagError(f'{source.path} is\nof no use')
        if source.name.startswith('odd'):
            raise KeyError('mistake')
        writer.add_calibration(calibration)
        for number in range(FRAMES):
            writer.add(_frame(source, number))
            progress((number + 1) / FRAMES)
            if source.name.startswith('dies') and number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            while source.name.startswith('slow') and number == 2:
                if stopped():
                    raise Stopped('stopped')
                time.sleep(0.01)
        hashed = source_sha256(config.privacy) if config.privacy else ''
        facts = {
            'source': {'name': source.name, **fingerprint(source)},
            'settings': config.as_json(),
            'images': {'privacy_sha256': hashed},
        }
        return writer.finish(facts, {'sets': FRAMES})


def _frame(source: BagSource, number: int) -> Frame:
    stamp = STAMP_NS + number * 10**8
    data = hashlib.sha256(f'{source.name} {number}'.encode()).digest() * 20
    image = EncodedImage(data=data, suffix='jpg', size_px=(64, 48), format='jpeg')
    view = FrameView(
        camera='front', stamp_ns=stamp, image=image, ego_T_cam=np.eye(4), odom_T_base=np.eye(4)
    )
    return Frame(
        stamp_ns=stamp,
        epoch=0,
        sequence=0,
        odom_T_ego=np.eye(4),
        base_T_ego=np.eye(4),
        views=(view,),
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def times(folder: Path) -> dict[str, int]:
    """When each file and folder below a folder was changed."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob('*'))}
