"""How every executable of this package starts, spins and stops."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from bev_perception.errors import BevError
from bev_perception.ros.transport import use_shared_memory_profile

# What ends a run: the number of a signal, or a future that is done.
_Event: TypeAlias = 'Future[int | None] | int | None'
_LOOK_UP_S = 0.2


def run_node(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run one node until SIGINT, SIGTERM or until it has finished; the main thread's last call.

    Callbacks run on one thread (SingleThreadedExecutor). The node may offer

    - ``close()``: called once, after the last callback, to stop its own threads;
    - ``finished``: a `concurrent.futures.Future`. The process ends when it is done; its result
      is the exit code, its exception is treated as one that was raised here.

    Further signals during the shutdown do not disturb it, and from there to the end of the
    process SIGINT and SIGTERM are ignored. A process that was started with SIGINT ignored
    (``cmd &`` in a script) stops at SIGINT all the same.

    Args:
        make_node: Makes the node; ROS is up when it is called.
        args: Command line with its ``--ros-args`` part; None takes `sys.argv`.

    Returns:
        Exit code: 0 after a clean stop, 1 after a `BevError`, which is printed as one line on
        stderr. Other exceptions pass through after the same clean-up.
    """
    # A SimpleQueue, because it alone may be filled from a signal handler.
    events: SimpleQueue[_Event] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: events.put(received))
    try:
        use_shared_memory_profile()
        with ExitStack() as cleanup:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            cleanup.callback(rclpy.try_shutdown)
            node = make_node()
            cleanup.callback(node.destroy_node)
            cleanup.callback(getattr(node, 'close', lambda: None))
            spinning = _spin_in_thread(node, cleanup)
            for future in (spinning, getattr(node, 'finished', None)):
                if future is not None:
                    future.add_done_callback(events.put)
            event = _next(events)
            code = event.result() if isinstance(event, Future) else 0
        return code or 0
    except BevError as error:
        print(f'{Path(sys.argv[0]).stem}: {error}', file=sys.stderr)
        return 1
    finally:
        # The default action would come back while the interpreter finalises and turn a late
        # second signal into a death by signal.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _next(events: SimpleQueue[_Event]) -> _Event:
    """Wait for an event, looking up now and then.

    A handler runs on this thread between two bytecodes. A signal that arrives just before `get`
    blocks, or that the system hands to another thread, would otherwise wait there for ever.
    """
    while True:
        try:
            return events.get(timeout=_LOOK_UP_S)
        except Empty:
            continue


def _spin_in_thread(node: Node, cleanup: ExitStack) -> Future[int | None]:
    """Serve the node's callbacks on a thread; `cleanup` stops and joins it.

    The thread must be gone before the interpreter ends, or the process aborts. It leaves by a
    task of its own executor: shutting an executor down from outside races with its wait set.

    Returns:
        Done when spinning ended by itself: with a callback's exception, or with 0 when ROS was
        shut down from elsewhere.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopping = threading.Event()
    ended: Future[int | None] = Future()

    def spin() -> None:
        try:
            while rclpy.ok() and not stopping.is_set():
                executor.spin_once()
        except ExternalShutdownException:
            pass
        except BaseException as error:  # handed to the main thread, which raises it
            ended.set_exception(error)
            return
        ended.set_result(0)

    thread = threading.Thread(target=spin, name='executor')

    def stop() -> None:
        executor.create_task(stopping.set)
        thread.join()
        executor.shutdown()

    cleanup.callback(stop)
    thread.start()
    return ended
