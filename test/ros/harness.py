"""A rig that publishes over DDS, and the node as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import simplejpeg
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import OccupancyGrid
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.geometry.grid import BevGrid
from bev_perception.model import checkpoint
from bev_perception.model.bev_model import BevModel
from bev_perception.model.config import ModelConfig

TIMEOUT_S = 30.0
SIZE_PX = (320, 180)
YAWS_DEG = {'front': 0, 'left': 90, 'back': 180, 'right': -90}
CLASSES = ('drivable_area', 'vehicle')


def tiny_config() -> ModelConfig:
    """A network that runs in milliseconds; x and y differ in extent, so that a swap shows."""
    return ModelConfig(
        classes=CLASSES,
        grid=BevGrid(x_range_m=(-8, 12), y_range_m=(-10, 6), cell_m=0.5, z_cells=2),
        image_size_px=(160, 88),
        backbone='resnet18',
        channels=8,
    )


def tiny_checkpoint(path: Path) -> Path:
    """Write random weights."""
    import torch

    torch.manual_seed(3)
    checkpoint.save(path, BevModel(tiny_config()), {'trained_on': 'nothing (a test)'})
    return path


def camera() -> Camera:
    """Every camera of the test rig."""
    return Camera(K=np.array([[160.0, 0, 159.5], [0, 160, 89.5], [0, 0, 1]]), size_px=SIZE_PX)


def base_T_cam(name: str) -> np.ndarray:
    """Where a camera of the test rig sits."""
    yaw = np.radians(YAWS_DEG[name])
    optical = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    turn = rigid.from_quat_xyzw([0, 0, np.sin(yaw / 2), np.cos(yaw / 2)], [0, 0, 1.6])
    return turn @ optical


def transform(parent: str, child: str, stamp_ns: int, parent_T_child: np.ndarray) -> Any:
    """Make a TransformStamped."""
    message = TransformStamped(header=header(parent, stamp_ns), child_frame_id=child)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, parent_T_child[:3, 3])
    q.x, q.y, q.z, q.w = map(float, rigid.to_quat_xyzw(parent_T_child))
    return message


def header(frame: str, stamp_ns: int) -> Header:
    """Make a Header."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame)


def image_bytes(name: str, step: int) -> bytes:
    """A textured JPEG that differs per camera and step."""
    rng = np.random.default_rng([len(name), sum(name.encode()), step])
    small = rng.integers(0, 255, (9, 16, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(np.kron(small, np.ones((20, 20, 1), np.uint8)))
    )


def drive(rig: RigPublisher, start_ns: int, seconds: float = 3.0) -> None:
    """Send odometry: 10 m/s along x, pitched nose-down by 3 degrees; return when the node has it.

    Images come on other topics and may overtake it, and a set before the oldest pose is lost.
    """
    pitch = np.radians(3)
    for i in range(int(seconds * 20) + 1):
        pose = rigid.from_quat_xyzw([0, np.sin(pitch / 2), 0, np.cos(pitch / 2)], [0.5 * i, 0, 0])
        rig.send_odom(start_ns + i * 10**9 // 20, pose)
        if i % 50 == 49:  # the queue holds a hundred
            rig.wait_odom()
    rig.wait_odom()


class RigPublisher:
    """Publishes the test rig and collects what the node sends."""

    def __init__(self, cameras: tuple[str, ...] = tuple(YAWS_DEG)) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('rig', context=self.context)
        self.cameras = cameras
        self.grids: dict[str, list[OccupancyGrid]] = {}
        self.diagnostics: list[DiagnosticArray] = []
        self.images: dict[str, list[Any]] = {}
        self.changed = threading.Condition()
        self._tf_due = 0
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = self.node.create_publisher(TFMessage, '/tf_static', latched)
        self._tf = self.node.create_publisher(TFMessage, '/tf', 100)
        self._images = {
            n: self.node.create_publisher(
                CompressedImage, f'/camera/{n}/image_raw/compressed', qos_profile_sensor_data
            )
            for n in cameras
        }
        self._infos = {
            n: self.node.create_publisher(
                CameraInfo, f'/camera/{n}/camera_info', qos_profile_sensor_data
            )
            for n in cameras
        }
        for name in (*CLASSES, 'combined'):
            self.node.create_subscription(
                OccupancyGrid, f'/bev_node/grid/{name}', self._collect(self.grids, name), 10
            )
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 10)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _collect(self, into: dict[str, list[Any]], name: str) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            with self.changed:
                into.setdefault(name, []).append(message)
                self.changed.notify_all()

        return take

    def subscribe_image(self, name: str) -> None:
        """Also collect a picture."""
        from sensor_msgs.msg import Image

        self.node.create_subscription(
            Image, f'/bev_node/{name}', self._collect(self.images, name), 10
        )

    def _diagnosed(self, message: DiagnosticArray) -> None:
        with self.changed:
            self.diagnostics.append(message)
            self.changed.notify_all()

    def wait(self, what: Callable[[], Any], text: str, timeout_s: float = TIMEOUT_S) -> Any:
        """Return `what()` once it is true; it is asked whenever something arrived."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not (result := what()):
                left = deadline - time.monotonic()
                assert left > 0, (
                    f'{text} did not happen within {timeout_s} s; the node says: '
                    f'{[(s.message, dict(self.values(s.name[8:]))) for s in self.newest()]}'
                )
                self.changed.wait(min(left, 0.05))
            return result

    def wait_connected(self) -> None:
        """Wait until the node listens to every topic of ours."""
        publishers = [self._static, self._tf, *self._images.values(), *self._infos.values()]
        self.wait(
            lambda: all(p.get_subscription_count() > 0 for p in publishers), 'node subscribed'
        )
        # That is our half of the match; what is sent before the node's half is lost. Images
        # without a stamp are counted and refused, so they serve to find out.
        counted = [f'images_{n}' for n in self.cameras] + ['messages /tf']
        before = self.values()

        def probed() -> bool:
            for name in self.cameras:
                self.send_info(name, 0)
                self.send_image(name, 0, b'')
            self._tf.publish(TFMessage(transforms=[transform('probe', 'probed', 1, np.eye(4))]))
            time.sleep(0.02)
            now = self.values()
            return all(now.get(key, '0') != before.get(key, '0') for key in counted)

        self.wait(probed, 'node receives')
        self._tf_due = int(self.values()['messages /tf'])

    def wait_disconnected(self) -> None:
        """Wait until nobody listens to the images."""
        self.wait(
            lambda: not any(p.get_subscription_count() for p in self._images.values()),
            'node unsubscribed',
        )

    def send_static(self, names: tuple[str, ...] | None = None) -> None:
        """Publish where the cameras sit."""
        names = self.cameras if names is None else names
        self._static.publish(
            TFMessage(
                transforms=[
                    transform('base_link', f'camera_{n}_optical_frame', 0, base_T_cam(n))
                    for n in names
                ]
            )
        )

    def send_odom(self, stamp_ns: int, odom_T_base: np.ndarray) -> None:
        """Publish one pose of the vehicle."""
        self._tf.publish(
            TFMessage(transforms=[transform('odom', 'base_link', stamp_ns, odom_T_base)])
        )
        self._tf_due += 1

    def wait_odom(self) -> None:
        """Wait until the node has counted the poses (a probe that it counted late stands for the
        last one or two of them).
        """
        self.wait(
            lambda: int(self.values().get('messages /tf', '0')) >= self._tf_due, 'poses received'
        )

    def send_info(self, name: str, stamp_ns: int, **changes: Any) -> None:
        """Publish one CameraInfo."""
        info = CameraInfo(
            header=header(f'camera_{name}_optical_frame', stamp_ns),
            width=SIZE_PX[0],
            height=SIZE_PX[1],
            distortion_model='plumb_bob',
            d=[0.0] * 5,
            k=camera().K.flatten(),
            r=np.eye(3).flatten(),
        )
        for field, value in changes.items():
            setattr(info, field, value)
        self._infos[name].publish(info)

    def send_image(
        self, name: str, stamp_ns: int, data: bytes, frame: str = ''
    ) -> CompressedImage:
        """Publish one image."""
        message = CompressedImage(
            header=header(frame or f'camera_{name}_optical_frame', stamp_ns),
            format='jpeg',
            data=data,
        )
        self._images[name].publish(message)
        return message

    def send_set(
        self, step: int, stamp_ns: int, *, without: tuple[str, ...] = ()
    ) -> dict[str, CompressedImage]:
        """Publish all images and CameraInfos of one instant."""
        sent = {}
        for name in self.cameras:
            if name not in without:
                self.send_info(name, stamp_ns)
                sent[name] = self.send_image(name, stamp_ns, image_bytes(name, step))
        return sent

    def grid_at(self, name: str, stamp_ns: int) -> OccupancyGrid | None:
        """The grid of a class at a stamp, if it came."""
        for grid in self.grids.get(name, []):
            if grid.header.stamp.sec * 10**9 + grid.header.stamp.nanosec == stamp_ns:
                return grid
        return None

    def status(self, suffix: str = '') -> Any:
        """The newest status of the node by the end of its name."""
        if not self.diagnostics:
            return None
        return next(
            (s for s in self.diagnostics[-1].status if s.name == f'bev_node{suffix}'), None
        )

    def newest(self) -> list[Any]:
        """All of the node's newest statuses."""
        return list(self.diagnostics[-1].status) if self.diagnostics else []

    def values(self, suffix: str = '') -> dict[str, str]:
        """The newest values of a status."""
        status = self.status(suffix)
        return {kv.key: kv.value for kv in status.values} if status else {}

    def close(self) -> None:
        """Stop the executor before the context, and join: rclpy aborts otherwise."""
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def __enter__(self) -> RigPublisher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class NodeProcess:
    """bev_node as users start it."""

    def __init__(self, log: Path, *, ros_args: tuple[str, ...] = (), **parameters: str) -> None:
        words = [sys.executable, '-m', 'bev_perception.ros.bev_node', '--ros-args']
        defaults = {
            'cameras': f'[{",".join(YAWS_DEG)}]',
            'diagnostics_period_s': '0.3',
            'sync.min_cameras': '3',
            'device': 'cpu',
        }
        for key, value in (
            defaults | {k.replace('__', '.'): v for k, v in parameters.items()}
        ).items():
            words += ['-p', f'{key}:={value}']
        self.log = log
        with log.open('wb') as file:
            self.process = subprocess.Popen(
                [*words, *ros_args],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'},
            )

    def text(self) -> str:
        """Everything that it printed so far."""
        return self.log.read_text(errors='replace')

    def stop(self, number: int = signal.SIGINT) -> int:
        """Signal it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            code = self.stop()
            assert code == 0 or error[0], f'exit code {code}\n{self.text()}'
