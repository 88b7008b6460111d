"""bag_player and bag_recorder as processes, over DDS."""

from __future__ import annotations

import re
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader, StoragePlugin
from rosgraph_msgs.msg import Clock

from bev_perception.ros.bag_options import parse_play_options
from test.ros.playback import (
    IMAGE,
    KINDS,
    LATCHED,
    NOTE,
    PROFILES,
    RELIABLE,
    START_NS,
    STATIC,
    Listener,
    Program,
    Sent,
    by_topic,
    drive,
    note_bytes,
    player,
    read_bag,
    recorder,
    unpadded,
    write_bag,
)

CLOCK = '/clock'


@pytest.mark.parametrize('storage', StoragePlugin)
def test_every_message_arrives_as_recorded(tmp_path: Path, storage: StoragePlugin) -> None:
    messages = drive()
    bag = write_bag(tmp_path / 'bag', messages, storage=storage)
    with (
        Listener(KINDS) as listener,
        player(tmp_path / 'p', bag, '--wait-for-subscribers', 3) as program,
    ):
        listener.wait(lambda: listener.of(IMAGE))
        offers = {t: listener.node.get_publishers_info_by_topic(t)[0].qos_profile for t in KINDS}
        assert program.end() == 0, program.err
        expected = by_topic(messages)
        listener.wait(lambda: len(listener.heard) >= len(messages))
        assert listener.heard_as(expected) == expected
    for topic, offer in offers.items():
        assert offer.reliability == PROFILES[topic].reliability, topic
        assert offer.durability == PROFILES[topic].durability, topic
    assert f'played {len(messages)} messages of 3 topics' in program.out
    assert re.search(rf'{IMAGE}  20\n', program.out)
    assert re.search(r'late by: p50 \d+\.\d+ ms, p95 \d+\.\d+ ms, max \d+\.\d+ ms', program.out)


def test_a_bag_without_qos_gets_defaults_that_everyone_accepts(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', drive(images=2), with_qos=False)
    profiles = {IMAGE: RELIABLE, NOTE: RELIABLE, STATIC: LATCHED}
    with (
        Listener(KINDS, **profiles) as listener,
        player(tmp_path / 'p', bag, '--wait-for-subscribers', 3) as program,
    ):
        listener.wait(lambda: len(listener.heard) == 6)
        assert program.end() == 0
        # one late joiner would need both static transforms: the bag's publisher kept both
        static = listener.node.get_publishers_info_by_topic(STATIC)
        assert all(s.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for s in static)


def test_static_transforms_reach_a_late_subscriber(tmp_path: Path) -> None:
    messages = drive(images=4, seconds=0.2)
    bag = write_bag(tmp_path / 'bag', messages)
    with player(tmp_path / 'p', bag, '--loop') as program:
        program.wait_for('playing')
        with Listener({NOTE: KINDS[NOTE]}) as listener:
            listener.wait(lambda: listener.of(NOTE))  # it is under way
        with Listener({STATIC: KINDS[STATIC]}, **{STATIC: PROFILES[STATIC]}) as late:
            late.wait(lambda: set(late.of(STATIC)) == set(by_topic(messages)[STATIC]))
        assert program.end(signal.SIGINT) == 0


def test_start_offset_keeps_static_transforms_and_duration_ends(tmp_path: Path) -> None:
    messages = drive(images=20, seconds=2.0)
    bag = write_bag(tmp_path / 'bag', messages)
    wanted = [m.data for m in messages if m.topic == NOTE and 1.0 <= m.after_s < 1.5]
    arguments = ('--start-offset', 1, '--duration', 0.5, '--rate', 4, '--wait-for-subscribers', 2)
    kinds = {t: KINDS[t] for t in (NOTE, STATIC)}
    with (
        Listener(kinds) as listener,
        player(tmp_path / 'p', bag, *arguments, '--topics', '/note|/tf_.*') as program,
    ):
        assert program.end() == 0, program.err
        listener.wait(lambda: len(listener.heard) >= len(wanted) + 2)
        assert unpadded(listener.of(NOTE), wanted) == wanted
        static = by_topic(messages)[STATIC]
        assert unpadded(listener.of(STATIC), static) == static


def test_rate_and_rounds_and_clock(tmp_path: Path) -> None:
    notes = [Sent(topic=NOTE, after_s=0.2 * i, data=note_bytes(str(i))) for i in range(10)]
    bag = write_bag(tmp_path / 'bag', notes, kinds={NOTE: KINDS[NOTE]})
    kinds = {NOTE: KINDS[NOTE], CLOCK: 'rosgraph_msgs/msg/Clock'}
    with (
        Listener(kinds, **{NOTE: RELIABLE}) as listener,
        player(
            tmp_path / 'p',
            bag,
            '--rate',
            4,
            '--times',
            2,
            '--clock',
            50,
            '--wait-for-subscribers',
            1,
        ) as program,
    ):
        assert program.end() == 0, program.err
        listener.wait(lambda: len(listener.of(NOTE)) == 20)
        wanted = [m.data for m in notes] * 2
        assert unpadded(listener.of(NOTE), wanted) == wanted
        stamps = [deserialize_message(d, Clock).clock for d in listener.of(CLOCK)]
    took_s = float(re.search(r'in ([\d.]+) s', program.out)[1])
    assert 2 * 1.8 / 4 - 0.1 <= took_s < 30  # never faster than asked for
    times_ns = [s.sec * 10**9 + s.nanosec for s in stamps]
    steps = np.diff(times_ns)
    assert sum(step < 0 for step in steps) == 1, 'the clock goes back once, between the rounds'
    assert np.all(steps != 0)
    assert START_NS <= min(times_ns) and max(times_ns) <= START_NS + 1.8e9 + 1
    assert len(times_ns) > 10


def test_as_fast_as_possible(tmp_path: Path) -> None:
    notes = [Sent(topic=NOTE, after_s=60.0 * i, data=note_bytes(str(i))) for i in range(5)]
    bag = write_bag(tmp_path / 'bag', notes, kinds={NOTE: KINDS[NOTE]})
    with (
        Listener({NOTE: KINDS[NOTE]}, **{NOTE: RELIABLE}) as listener,
        player(tmp_path / 'p', bag, '--rate', 0, '--wait-for-subscribers', 1) as program,
    ):
        assert program.end() == 0
        listener.wait(lambda: len(listener.of(NOTE)) == 5)


def test_what_is_played_is_what_is_recorded(tmp_path: Path) -> None:
    messages = drive(images=30, seconds=0.6)
    bag = write_bag(tmp_path / 'bag', messages)
    out = tmp_path / 'out'
    with recorder(tmp_path / 'r', out, '/note', '/tf_static', '/camera/.*') as record:
        record.wait_for('waiting for')
        with player(tmp_path / 'p', bag, '--wait-for-subscribers', 3) as play:
            assert play.end() == 0, play.err
        assert record.end(signal.SIGINT) == 0, record.err
    played, recorded = by_topic(messages), read_bag(out)
    assert {t: unpadded(recorded[t], played[t]) for t in recorded} == played
    assert f'recorded {len(messages)} messages' in record.out
    with Reader(out) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        kinds = {c.topic: (c.msgtype, c.digest) for c in reader.connections}
    with Reader(bag) as reader:
        assert kinds == {c.topic: (c.msgtype, c.digest) for c in reader.connections}
    assert [int(q.reliability.value) for q in qos[IMAGE]] == [int(ReliabilityPolicy.BEST_EFFORT)]
    assert [int(q.durability.value) for q in qos[STATIC]] == [
        int(DurabilityPolicy.TRANSIENT_LOCAL)
    ]


SIGNALS = [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)]


@pytest.mark.parametrize('round_', range(2))
def test_signals_end_both_with_status_0(tmp_path: Path, round_: int) -> None:
    bag = write_bag(tmp_path / 'bag', drive(seconds=0.3))
    with ExitStack() as stack:
        running: list[tuple[Program, tuple[signal.Signals, ...], str]] = []
        for i, numbers in enumerate(SIGNALS):
            out = tmp_path / f'out{i}'
            start = player(tmp_path / f'p{i}', bag, '--loop', '--clock')
            running.append((stack.enter_context(start), numbers, 'playing'))
            start = recorder(tmp_path / f'r{i}', out, '/note')
            running.append((stack.enter_context(start), numbers, 'recording /note'))
        for program, _, ready in running[::-1]:
            program.wait_for(ready)
        for program, numbers, _ in running:
            assert program.end(*numbers) == 0, (numbers, program.err)
            assert 'Traceback' not in program.err
        for i in range(len(SIGNALS)):
            assert set(read_bag(tmp_path / f'out{i}')) <= {NOTE}  # a whole bag, with its metadata


def test_bad_input_is_one_line_and_status_1(tmp_path: Path) -> None:
    note = Sent(topic=NOTE, after_s=0.0, data=note_bytes('one'))
    bag = write_bag(tmp_path / 'bag', [note], kinds={NOTE: KINDS[NOTE]})
    empty = write_bag(tmp_path / 'empty', [])
    (tmp_path / 'broken.mcap').write_bytes(b'\x89MCAP0\r\nnonsense')
    cases = {
        'does not exist': player(tmp_path / '1', tmp_path / 'nowhere'),
        'holds no messages': player(tmp_path / '2', empty),
        'broken.mcap: cannot be read': player(tmp_path / '3', tmp_path / 'broken.mcap'),
        'no topic matches /nothing': player(tmp_path / '4', bag, '--topics', '/nothing'),
        '--start-offset 99 is past': player(tmp_path / '5', bag, '--start-offset', 99),
        '0 of 7 subscriptions after 0.1 s': player(
            tmp_path / '6', bag, '--wait-for-subscribers', 7, '--wait-timeout', 0.1
        ),
        'exists already': recorder(tmp_path / '7', bag, '/note'),
    }
    for text, program in cases.items():
        with program:
            assert program.end() == 1, (text, program.err)
            lines = [line for line in program.err.splitlines() if '[INFO]' not in line]
            assert len(lines) == 1 and text in lines[0], (text, program.err)


@pytest.mark.parametrize('wrong', [['--rate', '-1'], ['--topics', '('], ['--times', '0']])
def test_bad_usage_is_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        parse_play_options(['bag', *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_the_command_line_in_full() -> None:
    words = 'bag --loop --clock --topics /a /b --duration 3 --start-offset 1 --delay 0.5'
    options = parse_play_options(words.split())
    assert (options.times, options.clock_hz, options.topics) == (0, 100.0, ('/a', '/b'))
    assert (options.duration_s, options.start_offset_s, options.delay_s) == (3.0, 1.0, 0.5)
    assert parse_play_options(['bag']).times == 1


def test_types_that_are_not_installed_are_named(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / 'bag_nebula_vlp16'
    if not folder.is_dir():
        pytest.skip(f'{folder} does not exist')
    with player(tmp_path / 'p', next(folder.glob('*/metadata.yaml')).parent) as program:
        assert program.end() == 1
        assert '/velodyne_packets (velodyne_msgs/msg/VelodyneScan is not inst' in program.err


def test_a_ros1_bag_is_converted(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / 'bag_raspicam_ros1'
    if not folder.is_dir():
        pytest.skip(f'{folder} does not exist')
    converted = read_bag(folder / 'ros2_mcap')
    kinds = {
        topic: f'sensor_msgs/msg/{"CameraInfo" if "info" in topic else "CompressedImage"}'
        for topic in converted
    }
    with (
        Listener(kinds) as listener,
        player(
            tmp_path / 'p', next(folder.glob('*.bag')), '--rate', 4, '--wait-for-subscribers', 2
        ) as program,
    ):
        assert program.end() == 0, program.err
        listener.wait(lambda: len(listener.heard) == 16)
        assert listener.heard_as(converted) == converted
