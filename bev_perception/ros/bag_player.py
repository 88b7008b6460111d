"""Plays a recording: the recorded bytes, with the recorded QoS, at the recorded pace."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from bev_perception.errors import BagError
from bev_perception.ros.bag_options import PlayOptions, parse_play_options
from bev_perception.ros.bag_source import (
    BagContents,
    ReadAhead,
    converter,
    inspect_bag,
    open_bag,
)
from bev_perception.ros.bag_topics import message_type, offered_profile
from bev_perception.ros.process import run_node

_NS_PER_S = 1_000_000_000
_ROS1_NAMES = {'tf/msg/tfMessage': 'tf2_msgs/msg/TFMessage'}
# Matched on our side is not yet matched on the subscriber's; also the time in which the last
# best-effort messages leave before their publishers go.
_SETTLE_S = 1.0
_ACKNOWLEDGE_S = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Track:
    """One topic of the bag and the publisher that plays it."""

    topic: str
    connection_ids: frozenset[int]
    publisher: Publisher
    to_cdr: Callable[[bytes], bytes]


_LATENESS_KEPT = 100_000  # of the newest messages, for the summary


class BagPlayer(Node):
    """Publishes a bag from its own thread; `finished` is done after the last message.

    Raises:
        BagError: The bag cannot be read, is empty, or holds nothing that can be published.
    """

    def __init__(self, options: PlayOptions) -> None:
        self._contents = inspect_bag(options.bag)
        self._options = options
        self._begin_ns, self._end_ns = _span(options, self._contents)
        super().__init__('bag_player')
        self._tracks = self._make_tracks()
        self._track_of = {i: track for track in self._tracks for i in track.connection_ids}
        self._clock_publisher = self._make_clock()
        self._played: Counter[str] = Counter()
        self._late_s: deque[float] = deque(maxlen=_LATENESS_KEPT)
        self._origin_s = 0.0
        self.finished: Future[int | None] = Future()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='player')
        self._thread.start()

    def close(self) -> None:
        """Stop playing and wait until the thread has ended."""
        self._stop.set()
        self._thread.join()

    # --- what can be played ---

    def _make_tracks(self) -> list[_Track]:
        by_topic: dict[str, list[Connection]] = {}
        for connection in self._contents.connections:
            by_topic.setdefault(connection.topic, []).append(connection)
        patterns = self._options.topics
        chosen = {t: c for t, c in by_topic.items() if _matches(t, patterns)}
        if not chosen:
            raise BagError(
                f'{self._options.bag}: no topic matches {" ".join(patterns)}; '
                f'the bag holds {", ".join(sorted(by_topic))}'
            )
        tracks, skipped = [], []
        for topic, connections in chosen.items():
            track = self._make_track(topic, connections)
            if isinstance(track, _Track):
                tracks.append(track)
            else:
                skipped.append(f'{topic} ({track})')
        if not tracks:
            raise BagError(f'{self._options.bag}: nothing can be played: {", ".join(skipped)}')
        if skipped:
            self.get_logger().warning(f'not played: {", ".join(skipped)}')
        return tracks

    def _make_track(self, topic: str, connections: list[Connection]) -> _Track | str:
        """The track of one topic, or the reason why it cannot be played."""
        names = sorted({_ROS1_NAMES.get(c.msgtype, c.msgtype) for c in connections})
        if len(names) > 1:
            return f'several types: {", ".join(names)}'
        kind = message_type(names[0])
        if kind is None:
            return f'{names[0]} is not installed'
        messages = sum(c.msgcount for c in connections)
        latched = any(getattr(c.ext, 'latching', None) for c in connections)
        recorded = [q for c in connections for q in getattr(c.ext, 'offered_qos_profiles', [])]
        profile = offered_profile(topic, recorded, messages)
        if latched:
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        publisher = self.create_publisher(kind, topic, profile)
        to_cdr = converter(
            connections, names[0], self._hash_of(publisher), self._contents.ros1_types
        )
        if to_cdr is None:
            self.destroy_publisher(publisher)
            return f'{names[0]} was recorded with another definition than the installed one'
        ids = frozenset(c.id for c in connections)
        return _Track(topic=topic, connection_ids=ids, publisher=publisher, to_cdr=to_cdr)

    def _hash_of(self, publisher: Publisher) -> str:
        own = self.get_publishers_info_by_topic(publisher.topic_name)
        name = self.get_name()
        return next((str(i.topic_type_hash) for i in own if i.node_name == name), '')

    def _make_clock(self) -> Publisher | None:
        if not self._options.clock_hz:
            return None
        if any(track.topic == '/clock' for track in self._tracks):
            self.get_logger().info('/clock is played from the bag; --clock adds nothing')
            return None
        return self.create_publisher(Clock, '/clock', 10)

    # --- playing ---

    def _run(self) -> None:
        try:
            self._play()
        except BaseException as error:  # handed over to whoever waits for the player
            self.finished.set_exception(error)
        else:
            self.finished.set_result(0)

    def _play(self) -> None:
        options = self._options
        self._wait_for_subscribers()
        self._stop.wait(options.delay_s)
        rounds = range(options.times) if options.times else itertools.count()
        self.get_logger().info(f'playing {len(self._tracks)} topics of {options.bag}')
        bag_s = (self._end_ns - self._begin_ns) / _NS_PER_S
        total_s = bag_s * options.times if options.times else None
        began_s = time.monotonic()
        with tqdm(total=total_s, unit='s', desc=options.bag.name, disable=None) as bar:
            for _ in rounds:
                if self._stop.is_set():
                    break
                self._play_once(bar)
        played_s = time.monotonic() - began_s
        if not self._stop.is_set():
            self._drain()
        print(_summary(self._played, list(self._late_s), played_s), flush=True)

    def _wait_for_subscribers(self) -> None:
        wanted, timeout_s = self._options.subscribers, self._options.subscriber_timeout_s
        deadline_s = time.monotonic() + timeout_s
        while wanted and not self._stop.is_set():
            matched = sum(t.publisher.get_subscription_count() for t in self._tracks)
            if matched >= wanted:
                self._stop.wait(_SETTLE_S)
                return
            if time.monotonic() > deadline_s:
                raise BagError(f'{matched} of {wanted} subscriptions after {timeout_s:g} s')
            self._stop.wait(0.02)

    def _play_once(self, bar: tqdm) -> None:
        begin_ns, end_ns = self._begin_ns, self._end_ns
        latched = self._latched_before(begin_ns)
        ahead = ReadAhead(self._read(begin_ns, end_ns), self._options.read_ahead_bytes)
        try:
            messages = ahead.messages(self._stop)
            first = next(
                messages, None
            )  # disk first, so that the schedule starts with data at hand
            self._origin_s = time.monotonic()
            next_tick_ns = self._tick(begin_ns, begin_ns)
            for track, data in latched:
                self._publish(track, data)
            shown_ns = begin_ns
            for identity, stamp_ns, data in itertools.chain([first] if first else [], messages):
                next_tick_ns = self._tick(next_tick_ns, stamp_ns)
                if self._sleep_until(stamp_ns):
                    return
                if self._options.rate:
                    self._late_s.append(time.monotonic() - self._due_s(stamp_ns))
                self._publish(self._track_of[identity], data)
                bar.update((stamp_ns - shown_ns) / _NS_PER_S)
                shown_ns = stamp_ns
            self._tick(next_tick_ns, end_ns)
            bar.update((end_ns - shown_ns) / _NS_PER_S)
        finally:
            ahead.close()

    def _read(self, start_ns: int, stop_ns: int) -> Iterator[tuple[int, int, bytes]]:
        """(connection id, bag time in ns, recorded bytes). Opens the bag on the calling thread."""
        with open_bag(self._options.bag) as reader:
            wanted = [c for c in reader.connections if c.id in self._track_of]
            for connection, stamp_ns, data in reader.messages(wanted, start_ns, stop_ns):
                yield connection.id, stamp_ns, bytes(data)

    def _latched_before(self, begin_ns: int) -> list[tuple[_Track, bytes]]:
        """What a subscriber joining at `begin_ns` would have got from transient-local topics."""
        kept = {
            identity: deque[tuple[int, _Track, bytes]](maxlen=track.publisher.qos_profile.depth)
            for identity, track in self._track_of.items()
            if track.publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        }
        if not kept or begin_ns <= self._contents.start_ns:
            return []
        with open_bag(self._options.bag) as reader:
            wanted = [c for c in reader.connections if c.id in kept]
            for connection, stamp_ns, data in reader.messages(wanted, None, begin_ns):
                kept[connection.id].append((stamp_ns, self._track_of[connection.id], bytes(data)))
        messages = sorted(itertools.chain(*kept.values()), key=lambda message: message[0])
        return [(track, data) for _, track, data in messages]

    def _publish(self, track: _Track, data: bytes) -> None:
        track.publisher.publish(track.to_cdr(data))
        self._played[track.topic] += 1

    def _tick(self, next_tick_ns: int, until_ns: int) -> int:
        """Publish /clock on its schedule up to a bag time; returns the time of the next tick."""
        if self._clock_publisher is None:
            return until_ns
        period_ns = int(_NS_PER_S / self._options.clock_hz * (self._options.rate or 1.0))
        while next_tick_ns <= until_ns and not self._sleep_until(next_tick_ns):
            clock = Clock()
            clock.clock.sec, clock.clock.nanosec = divmod(next_tick_ns, _NS_PER_S)
            self._clock_publisher.publish(clock)
            next_tick_ns += max(period_ns, 1)
        return next_tick_ns

    def _due_s(self, bag_ns: int) -> float:
        return self._origin_s + (bag_ns - self._begin_ns) / _NS_PER_S / self._options.rate

    def _sleep_until(self, bag_ns: int) -> bool:
        """Wait for a bag time's turn; True when the player has been stopped."""
        if not self._options.rate:
            return self._stop.is_set()
        return self._stop.wait(max(self._due_s(bag_ns) - time.monotonic(), 0.0))

    def _drain(self) -> None:
        """Let the last messages arrive before their publishers go."""
        deadline_s = time.monotonic() + _ACKNOWLEDGE_S
        for track in self._tracks:
            left_s = deadline_s - time.monotonic()
            reliable = track.publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            if reliable and left_s > 0 and track.publisher.get_subscription_count():
                track.publisher.wait_for_all_acked(Duration(seconds=left_s))
        self._stop.wait(_SETTLE_S)


def _span(options: PlayOptions, contents: BagContents) -> tuple[int, int]:
    """First bag time to play and the one to stop before, in ns."""
    begin_ns = contents.start_ns + round(options.start_offset_s * _NS_PER_S)
    if begin_ns >= contents.end_ns:
        length_s = (contents.end_ns - contents.start_ns) / _NS_PER_S
        raise BagError(
            f'{options.bag}: --start-offset {options.start_offset_s:g} is past its end, '
            f'{length_s:.1f} s'
        )
    if options.duration_s is None:
        return begin_ns, contents.end_ns
    return begin_ns, min(contents.end_ns, begin_ns + round(options.duration_s * _NS_PER_S))


def _matches(topic: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(re.fullmatch(pattern, topic) for pattern in patterns)


def _summary(played: Counter[str], late_s: Sequence[float], took_s: float) -> str:
    lines = [f'played {played.total()} messages of {len(played)} topics in {took_s:.1f} s']
    lines += [f'  {topic}  {count}' for topic, count in sorted(played.items())]
    if late_s:
        p50, p95, worst = np.percentile(np.asarray(late_s) * 1e3, (50, 95, 100))
        lines.append(f'late by: p50 {p50:.2f} ms, p95 {p95:.2f} ms, max {worst:.2f} ms')
    return '\n'.join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """Play a bag; `args` is the command line after the program's name. Returns its status."""
    command = [sys.argv[0], *(sys.argv[1:] if args is None else args)]
    options = parse_play_options(remove_ros_args(command)[1:])
    return run_node(lambda: BagPlayer(options), command)


if __name__ == '__main__':
    sys.exit(main())
