"""The node: six camera topics and TF in, one occupancy grid per class out.

Callbacks run on the executor's thread and only store. One worker thread takes the newest set,
decodes, infers and publishes, so a slow network makes the node skip sets, never lag behind.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer

from bev_perception.errors import BevError, ConfigError
from bev_perception.model import checkpoint
from bev_perception.predictor import Predictor
from bev_perception.resources import SHIPPED_WEIGHTS, weights_path
from bev_perception.rig import CameraHistory
from bev_perception.ros import params
from bev_perception.ros.camera_input import RigSynchronizer, subscribe
from bev_perception.ros.diagnostics import Health, Setup
from bev_perception.ros.grid_output import GridOutput
from bev_perception.ros.process import run_node
from bev_perception.ros.tf_input import TfInput
from bev_perception.ros.worker import Worker

_LOG_PERIOD_S = 5.0


class BevNode(LifecycleNode):  # type: ignore[misc]
    """Configure loads and warms up the network, activate subscribes and works."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare parameters; with `autostart`, configure and activate once spinning.

        Raises:
            ConfigError: a parameter's value is refused.
        """
        super().__init__('bev_node', **kwargs)
        self.health = Health()
        self._predictor: Predictor | None = None
        self._output: GridOutput | None = None
        self._setup: Setup | None = None
        self._tf: TfInput | None = None
        self._rig: RigSynchronizer | None = None
        self._subscribers: list[Any] = []
        self._worker: Worker | None = None
        self._logged: dict[str, float] = {}
        try:
            params.declare(self)
            self._params = params.read(self)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(str(error)) from error
        self.add_on_set_parameters_callback(
            lambda changes: params.check_changes(self, changes, configured=bool(self._predictor))
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Steady time: a stopped /clock must not silence the node's own account.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._reporter = self._make_reporter()
        if self._params.autostart:
            self._starter = self.create_timer(0.0, self._start, clock=self._steady)

    def _make_reporter(self) -> Timer:
        return self.create_timer(
            self._params.diagnostics_period_s, self._diagnose, clock=self._steady
        )

    # Lifecycle ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self._starter.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network and run it once."""
        try:
            self._params = params.read(self)
            self.destroy_timer(self._reporter)
            self._reporter = self._make_reporter()
            self._configure()
        except Exception as error:  # rclpy would swallow it without a word
            self._release()
            return self._failed('configure', error)
        self.health.set_state('inactive')
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        p = self._params
        loaded = checkpoint.load(_weights(p.checkpoint))
        unknown = set(p.combined_classes) - set(loaded.model.config.classes)
        if unknown:
            raise ConfigError(
                f'combined_classes: {sorted(unknown)} unknown; '
                f'{loaded.path} knows {loaded.model.config.classes}'
            )
        if loaded.model.config.attention.temporal and not p.odom_frame:
            raise ConfigError(
                f'odom_frame is empty, but {loaded.path} remembers the instant before and has to '
                "know the vehicle's motion since; name the frame of the odometry"
            )
        predictor = Predictor(loaded.model, device=p.device, precision=p.precision)
        began = time.monotonic()
        predictor.warm_up(len(p.cameras))
        self.get_logger().info(
            f'{loaded.path} on {predictor.device} ({p.precision}), first run '
            f'{time.monotonic() - began:.2f} s; trained on: {loaded.trained_on}'
        )
        self._predictor = predictor
        self._output = GridOutput(self, p, predictor.config)
        self._setup = Setup(
            topics={name: p.topics(name)[0] for name in p.cameras},
            facts={
                'checkpoint': str(loaded.path),
                'trained_on': loaded.trained_on,
                'device': str(predictor.device),
            },
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        try:
            self._activate()
        except Exception as error:  # rclpy would swallow it without a word
            self._stop()
            return self._failed('activate', error)
        self.health.set_state('active')
        return super().on_activate(state)

    def _failed(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        """Log and show why a transition failed; a fault of ours with its traceback."""
        state = {'configure': 'unconfigured', 'activate': 'inactive'}[transition]
        self.health.set_state(state, str(error) or repr(error))
        details = '' if isinstance(error, BevError) else f'\n{traceback.format_exc()}'
        self.get_logger().error(f'cannot {transition}: {error}{details}')
        return TransitionCallbackReturn.FAILURE

    def _activate(self) -> None:
        p = self._params
        assert self._predictor is not None and self._output is not None
        self._tf = TfInput(
            self, on_message=lambda t: self.health.count(f'messages {t}'), on_error=self.problem
        )
        self._subscribers = list(self._tf.subscriptions)
        filters = subscribe(self, p)
        self._subscribers += [f.sub for pair in filters.values() for f in pair]
        self._rig = RigSynchronizer(
            filters,
            p.sync_config(),
            rectified=p.rectified,
            topics={name: p.topics(name) for name in p.cameras},
            on_image=lambda name: self.health.count(f'images_{name}'),
            on_error=self.problem,
            on_calibration=self._calibrated,
        )
        self._worker = Worker(self, p, self._tf, self._rig, self._predictor, self._output)
        self._rig.registerCallback(self._worker.store)
        image, info = p.topics(p.cameras[0])
        self.get_logger().info(
            f'{len(p.cameras)} cameras, the first on {image} '
            f'({"rectified" if p.rectified else "raw"} images) with {info}'
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker and unsubscribe."""
        self._stop()
        self.health.set_state('inactive')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop the network and the publishers."""
        self._release()
        self.health.set_state('unconfigured')
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs."""
        self._stop()
        self._release()
        self.health.set_state('finalized')
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back after a transition that raised; the node can start again."""
        self._stop()
        self._release()
        self.health.set_state('unconfigured', 'a transition failed, see the log')
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker thread (after the executor has stopped)."""
        self._stop()

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        for subscription in self._subscribers:
            self.destroy_subscription(subscription)
        self._subscribers, self._worker, self._tf, self._rig = [], None, None, None

    def _release(self) -> None:
        for publisher in self._output.publishers() if self._output else ():
            self.destroy_lifecycle_publisher(publisher)
        self._output = self._predictor = self._setup = None

    # Reports -----------------------------------------------------------------------------------

    def problem(self, where: str, error: BevError) -> None:
        """Count something that could not be used, and log it, not too often."""
        self.health.error(where, str(error))
        if self._may_log(where):
            self.get_logger().warning(f'{where}: {error}')

    def _may_log(self, what: str) -> bool:
        """Say yes once a while; rclpy's throttle would let one topic silence the others."""
        now = time.monotonic()
        if now - self._logged.get(what, -math.inf) < _LOG_PERIOD_S:
            return False
        self._logged[what] = now
        return True

    def _calibrated(self, name: str, history: CameraHistory) -> None:
        self.health.count('calibration_epochs')
        if history.epoch > 1 and self._may_log(f'calibration {name}'):
            self.get_logger().info(f'{name}: new calibration (number {history.epoch})')

    def _diagnose(self) -> None:
        tree, worker = self._tf.tree if self._tf else None, self._worker
        facts = worker.memory_facts if worker else {}
        if tree:
            facts |= {
                'tf_static_epoch': str(tree.static_epoch),
                'tf_clock_jumps': str(tree.jumps),
            }
        report = self.health.report(
            self.get_fully_qualified_name().lstrip('/'),
            self.get_clock().now().to_msg(),
            self._setup,
            self._rig.sync.stats() if self._rig else None,
            facts,
        )
        self._diagnostics.publish(report)


def _weights(name: str) -> Path:
    """Return the file of the `checkpoint` parameter: a path, or the name of shipped weights."""
    if not name:
        raise ConfigError(
            f'checkpoint is empty; give the path of a .safetensors file, or {SHIPPED_WEIGHTS} '
            '(shipped with this package, trained on synthetic towns only)'
        )
    path = Path(name).expanduser()
    if path.exists() or path.parent != Path():
        return path
    return weights_path(name)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_node(BevNode, args)


if __name__ == '__main__':
    sys.exit(main())
