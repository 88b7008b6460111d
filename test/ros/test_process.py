"""run_node: how processes start and stop. Every case is a process of its own."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from test.ros.playback import Program

NODE = """
import sys, threading, time
from concurrent.futures import Future
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from bev_perception.errors import ConfigError
from bev_perception.ros.process import run_node

class Plain(Node):
    def __init__(self):
        super().__init__('plain')
        self.stop, self.closed = threading.Event(), 0
        self.worker = threading.Thread(target=self.stop.wait)
        self.worker.start()
        self.ticks = self.create_timer(0.01, self.tick)

    def tick(self):
        assert not self.closed, 'a callback ran after close()'
        print('spinning')

    def close(self):
        self.closed += 1
        print('closing')
        time.sleep(CLOSE_S)
        self.stop.set()
        self.worker.join()
        print('closed', self.closed)

class Managed(LifecycleNode):
    def __init__(self):
        super().__init__('managed')
        print('spinning')

class Unhappy(Node):
    def __init__(self):
        super().__init__('unhappy')
        raise ConfigError('grid.cell_m is -1')

class Mistaken(Node):
    def __init__(self):
        super().__init__('mistaken')
        raise ZeroDivisionError('a programming error')

class Failing(Plain):
    def tick(self):
        raise ZeroDivisionError('in a callback')

class Refusing(Plain):
    def tick(self):
        raise ConfigError('refused in a callback')

class Done(Plain):
    def __init__(self):
        super().__init__()
        self.finished = Future()
    def tick(self):
        if not self.finished.done():
            self.finished.set_result(7)

class Gone(Plain):
    def tick(self):
        import rclpy
        rclpy.shutdown()

if __name__ == '__main__':
    sys.exit(run_node(KIND))
"""


def start(tmp_path: Path, kind: str, label: str = '', close_s: float = 0.0, **popen) -> Program:
    script = tmp_path / f'{kind}{label}.py'
    script.write_text(NODE.replace('KIND', kind).replace('CLOSE_S', str(close_s)))
    return Program(script, script, **popen)


def ignore_sigint() -> None:
    """What a shell does to `command &` in a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize('numbers', [(signal.SIGINT,), (signal.SIGTERM,)])
def test_a_signal_ends_a_node_with_status_0(tmp_path: Path, numbers: tuple) -> None:
    with ExitStack() as stack:
        programs = [
            stack.enter_context(start(tmp_path, kind, str(i), preexec_fn=prepare))
            for i in range(2)
            for kind, prepare in (('Plain', None), ('Managed', None), ('Plain', ignore_sigint))
        ]
        for program in programs:
            program.wait_for('spinning')
        for program in programs:
            assert program.end(*numbers) == 0, program.err
            assert program.err == ''
    assert 'closed 1' in programs[0].out


@pytest.mark.parametrize('second', [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_disturb_the_shutdown(tmp_path: Path, second: int) -> None:
    with ExitStack() as stack:
        programs = [
            stack.enter_context(start(tmp_path, 'Plain', str(i), close_s=0.5)) for i in range(3)
        ]
        for program in programs:
            program.wait_for('spinning')
            program.process.send_signal(signal.SIGINT)
        for program in programs:
            program.wait_for('closing')
            program.process.send_signal(second)
            program.wait_for('closed 1')
            if program.process.poll() is None:
                program.process.send_signal(second)  # while the interpreter goes down
            assert program.end() == 0, program.err
            assert program.err == ''


def test_a_signal_during_start_is_not_lost(tmp_path: Path) -> None:
    slow = 'import os, signal; os.kill(os.getpid(), signal.SIGTERM); super().__init__'
    script = tmp_path / 'early.py'
    text = NODE.replace('KIND', 'Plain').replace('CLOSE_S', '0')
    script.write_text(text.replace('super().__init__', slow, 1))
    with Program(script, script) as program:
        assert program.end() == 0, program.err


@pytest.mark.parametrize(
    ('kind', 'status', 'line'),
    [
        ('Unhappy', 1, 'Unhappy: grid.cell_m is -1'),
        ('Refusing', 1, 'Refusing: refused in a callback'),
        ('Mistaken', 1, 'ZeroDivisionError: a programming error'),
        ('Failing', 1, 'ZeroDivisionError: in a callback'),
        ('Done', 7, ''),
        ('Gone', 0, ''),
    ],
)
def test_status_and_words_at_the_end(tmp_path: Path, kind: str, status: int, line: str) -> None:
    with start(tmp_path, kind) as program:
        assert program.end() == status, program.err
        last = program.err.splitlines()[-1:] or ['']
        assert last == [line], program.err
        one_line = 'Error' not in line
        assert len(program.err.splitlines()) <= 1 if one_line else 'Traceback' in program.err
        if kind in ('Refusing', 'Failing', 'Done', 'Gone'):
            assert 'closed 1' in program.out


def test_no_segment_stays_behind(tmp_path: Path) -> None:
    others = set(map(str, Path('/dev/shm').glob('fast*')))  # it maps those that it meets as well
    with start(tmp_path, 'Plain') as program:
        program.wait_for('spinning')
        maps = Path(f'/proc/{program.process.pid}/maps').read_text()
        mapped = {w for line in maps.splitlines() for w in line.split()[-1:] if '/fast' in w}
        own = {m for m in mapped - others if m.startswith('/dev/shm/fast') and '_port' not in m}
        assert own
        assert program.end(signal.SIGTERM) == 0
        assert not [m for m in own if os.path.exists(m)]
