"""The node's thread that turns sets of camera frames into grids."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bev_perception.errors import BevError, SyncError
from bev_perception.memory import REASONS, Recollection, Whereabouts
from bev_perception.messages import frame_id
from bev_perception.model.tensors import BevInputs
from bev_perception.predictor import Predictor, Probabilities
from bev_perception.preprocess import decode_size_px, prepare
from bev_perception.rig import decode
from bev_perception.ros.camera_input import Arrival, RigSynchronizer
from bev_perception.ros.diagnostics import Health
from bev_perception.ros.grid_output import GridOutput
from bev_perception.ros.params import BevNodeParams
from bev_perception.ros.tf_input import TfInput
from bev_perception.sync import SyncedSet

if TYPE_CHECKING:
    from bev_perception.ros.bev_node import BevNode

_LOG_PERIOD_S = 5.0
_DECODE_THREADS = 2


class Worker:
    """The thread that turns the newest set into grids."""

    def __init__(
        self,
        node: BevNode,
        p: BevNodeParams,
        tf: TfInput,
        rig: RigSynchronizer,
        predictor: Predictor,
        output: GridOutput,
    ) -> None:
        """Start the thread."""
        self._node, self._health, self._params = node, node.health, p
        self._tf, self._rig, self._predictor, self._output = tf, rig, predictor, output
        self._recollection = Recollection()
        self._pool = ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix='decode')
        self._wake = threading.Condition()
        self._newest: SyncedSet[Arrival] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name='bev worker')
        self._thread.start()

    def store(self, synced: SyncedSet[Arrival]) -> None:
        """Offer a set; an older one that still waits is skipped."""
        self._health.count('sets_in')
        with self._wake:
            if self._newest is not None:
                self._health.count('sets_skipped_busy')
            self._newest = synced
            self._wake.notify()

    def stop(self) -> None:
        """End the thread; returns when the set at hand is done."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._newest is not None)
                if self._stopping:
                    return
                synced, self._newest = self._newest, None
            assert synced is not None
            try:
                self.process(synced)
            except BevError as error:
                self._health.count('sets_failed')
                self._node.problem('set', error)
            except Exception as error:
                # A fault of ours must not end the node: it is logged whole and shown.
                self._health.count('sets_failed')
                self._health.error('internal', repr(error))
                self._node.get_logger().error(
                    f'internal error: {traceback.format_exc()}',
                    throttle_duration_sec=_LOG_PERIOD_S,
                )

    def process(self, synced: SyncedSet[Arrival]) -> None:
        """A set of camera frames becomes grids: every step of it, in order."""
        p, clock = self._params, Stopwatch(self._health)
        exposures = {n: (frame_id(a.message.header), t) for n, (t, a) in synced.items.items()}
        poses, problems = self._tf.locate(synced.stamp_ns, exposures, p.frames(), p.tf_timeout_s)
        epoch = self._epoch(synced)
        clock.lap('tf')
        view_set, broken = decode(
            {name: (t, a.message) for name, (t, a) in synced.items.items()},
            poses,
            self._rig.cameras,
            at_least_px=decode_size_px(self._predictor.config),
            executor=self._pool,
        )
        for name, error in (*problems.items(), *broken.items()):
            self._node.problem(p.topics(name)[0], error)
        self._health.missing(view_set.missing)
        needed = self._rig.sync.config.min_cameras
        if len(view_set.views) < needed:
            why = next((f': {e}' for e in (*problems.values(), *broken.values())), '')
            raise SyncError(
                f'{len(view_set.views)} usable images, sync.min_cameras is {needed}{why}'
            )
        clock.lap('decode')
        inputs = prepare(view_set, self._predictor.config)
        clock.lap('prepare')
        probabilities = self._predict(inputs, Whereabouts.of(view_set, epoch))
        clock.lap('infer')
        self._output.publish_grids(view_set, probabilities)
        clock.lap('publish')
        self._health.count('grids_published')
        arrived_ns = next(a.arrived_ns for t, a in synced.items.values() if t == synced.stamp_ns)
        self._health.took('latency', (time.monotonic_ns() - arrived_ns) / 1e9)
        self._output.publish_pictures(view_set, probabilities)

    def _epoch(self, synced: SyncedSet[Arrival]) -> Hashable:
        """Return what two sets have in common where only the vehicle moved between them.

        Calibrations are those in force at the exposures: CameraInfo may be ahead of the images,
        and a bag that plays again comes to a change that is known already.
        """
        cameras = []
        for name, history in self._rig.cameras.items():
            stamp_ns = synced.items[name][0] if name in synced.items else synced.stamp_ns
            cameras.append(history.at(stamp_ns) if history.epoch else None)
        return (self._tf.tree.static_epoch, self._tf.tree.jumps, *cameras)

    def _predict(self, inputs: BevInputs, now: Whereabouts) -> Probabilities:
        """Run the network, one that is temporal with what it remembers where that still holds."""
        if self._predictor.config.attention.temporal:
            return self._recollection.predict(self._predictor, inputs, now)
        return self._predictor.predict(inputs)

    @property
    def memory_facts(self) -> dict[str, str]:
        """What became of a temporal network's memories, for diagnostics."""
        if not self._predictor.config.attention.temporal:
            return {}
        resets = {f'memory_reset: {r}': str(self._recollection.resets.get(r, 0)) for r in REASONS}
        return {'memory_used': str(self._recollection.used), **resets}


class Stopwatch:
    """Hands the time between laps to the node's health."""

    def __init__(self, health: Health) -> None:
        """Start now."""
        self._health, self._last = health, time.monotonic()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.monotonic()
        self._health.took(stage, now - self._last)
        self._last = now
